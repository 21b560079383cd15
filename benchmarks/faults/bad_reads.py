"""A file layer under which some audio and TextGrid files cannot be read: errno EIO, as from a failing disk or mount.

Which files, and how, follows from a seed and the file's name alone: for good, or once (at the first, second or third
time that the file is opened); when it is opened, or when it is read. It replaces Python's own ``open`` and ``os.open``;
what a C library opens by itself is left alone.
"""

import builtins
import errno
import hashlib
import io
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.steps import StepLog

SUFFIXES = (".flac", ".TextGrid")


class BadReads:
    """Decides which opening of which file fails, and tells of each that did as a step ``bad-read-once`` or ``-always``.

    Parameters
    ----------
    seed : int
    share : float
        Of the files, those that fail.
    log : StepLog
    """

    def __init__(self, seed: int, share: float, log: StepLog) -> None:
        self._seed, self._share, self._log = seed, share, log
        self._n_opened = Counter[str]()

    def install(self) -> None:
        """Replace Python's ``open`` and ``os.open`` in this process."""
        self._open, self._os_open = builtins.open, os.open
        builtins.open = io.open = self._open_or_fail  # type: ignore[assignment]
        os.open = self._os_open_or_fail

    def _open_or_fail(self, file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
        fails_at = self._fails_at(file)
        if fails_at is None:
            return self._open(file, mode, buffering, *rest, **named)
        if fails_at == "open":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        raw = _Unreadable(file)
        if buffering == 0:
            return raw
        return io.BufferedReader(raw) if "b" in mode else io.TextIOWrapper(io.BufferedReader(raw))

    def _os_open_or_fail(self, path: Any, *rest: Any, **named: Any) -> int:
        if self._fails_at(path) is not None:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return self._os_open(path, *rest, **named)

    def _fails_at(self, path: Any) -> str | None:
        """Return where this opening of a file fails (``open`` or ``read``), None where it does not."""
        if not isinstance(path, str | os.PathLike) or Path(path).suffix not in SUFFIXES:
            return None
        name = Path(path).name
        self._n_opened[name] += 1
        digest = hashlib.sha256(f"{self._seed}\0{name}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8]))
        fails, for_good, fails_at = rng.random() < self._share, rng.random() < 0.5, rng.choice(["open", "read"])
        if not fails or not (for_good or self._n_opened[name] == rng.integers(1, 4)):
            return None
        self._log.tell("bad-read-always" if for_good else "bad-read-once", name)
        return str(fails_at)


class _Unreadable(io.FileIO):
    """An open file of which every read fails."""

    def _fail(self, *_: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    read = readall = readinto = _fail
