"""What a process does to its files, told step by step to whoever means to interrupt it.

A line is ``step <n> <monotonic seconds> <name> <path>``, written just before the step is taken.
"""

import functools
import itertools
import os
import shutil
import time
from collections.abc import Callable
from typing import Any, NamedTuple

MAX_WRITES = 300  # of which each is told; a large merge has many, and they are all alike


class Step(NamedTuple):
    """One step: its place from 0, its time on the machine's monotonic clock, what it was and on which file."""

    index: int
    time_s: float
    name: str
    path: str


def parse_step(line: str) -> Step:
    """Return the step that a line tells."""
    _, index, time_s, name, path = line.rstrip("\n").split(" ", 4)
    return Step(int(index), float(time_s), name, path)


class StepLog:
    """Tells steps to a file descriptor, each in one write.

    `on_first` is called once, after the first step was told.
    """

    def __init__(self, descriptor: int, on_first: Callable[[], None] | None = None) -> None:
        self._descriptor = descriptor
        self._indices = itertools.count()
        self._on_first = on_first

    def tell(self, name: str, path: object) -> None:
        """Tell one step."""
        line = f"step {next(self._indices)} {time.monotonic():.6f} {name} {path}\n"
        os.write(self._descriptor, line.encode(errors="replace"))
        if self._on_first is not None:
            on_first, self._on_first = self._on_first, None
            on_first()


def log_steps(log: StepLog) -> None:
    """Tell every sync, rename and removal of this process, what h5py closes, and the first of what it writes."""
    import h5py

    _before(os, "fsync", lambda descriptor, *_: log.tell("fsync", _path_of(descriptor)))
    _before(os, "replace", lambda _, target, *__: log.tell("replace", target))
    _before(os, "unlink", lambda path, *_: log.tell("unlink", path))
    _before(shutil, "rmtree", lambda path, *_: log.tell("rmtree", path))
    _before(h5py.File, "close", lambda file, *_: log.tell("close", file.filename) if file else None)
    writes = itertools.count()
    _before(
        h5py.Dataset,
        "__setitem__",
        lambda dataset, *_: log.tell("write", dataset.name) if next(writes) < MAX_WRITES else None,
    )


def _before(owner: Any, name: str, tell: Callable[..., None]) -> None:
    """Have `tell` called before ``owner.name``, with its positional arguments."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def told(*arguments: Any, **named: Any) -> Any:
        tell(*arguments)
        return original(*arguments, **named)

    setattr(owner, name, told)


def _path_of(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return str(descriptor)
