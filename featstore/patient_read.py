"""Read a whole input file: only a regular one, only up to a size, and with patience for a network file system.

A named pipe would hang for ever and a device may have no end, so what a name stands for is asked before it is opened.
Cluster file systems fail for a moment now and then; one such moment in a build of hours should not cost an utterance.
"""

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

# What passes by itself: a server that was restarted, a file handle gone stale, a link that lost a packet. What stays as
# it is (absent, forbidden, a folder) is told at once.
_PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.ENETUNREACH, errno.EHOSTDOWN}
_PAUSES_S = (0.2, 1.0)
_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


class UnreadableFileError(Exception):
    """Why a file's content cannot be had, in words without its name: whoever catches this knows what it was to be."""


def read_patiently(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file of at most `max_bytes` bytes.

    Raises
    ------
    UnreadableFileError
        When there is no such file, it is no regular file or too large, or reading fails (see `with_patience`); in words
        without the name.
    """
    return with_patience(lambda: _read(path, max_bytes))


def with_patience(read: Callable[[], Result]) -> Result:
    """Return what `read` returns; after an error that may pass it is called twice more, 0.2 s and 1 s later.

    Raises
    ------
    UnreadableFileError
        When the operating system refused, in its words; other exceptions of `read` come through.
    """
    for pause_s in (*_PAUSES_S, None):
        try:
            return read()
        except OSError as error:
            if pause_s is None or error.errno not in _PASSING:
                raise UnreadableFileError(_reason(error)) from error
        time.sleep(pause_s)
    raise AssertionError("the last try returns or raises")


def kind_of_special(path: Path) -> str | None:
    """Return what a name stands for that is neither a regular file nor a folder; None where it is one, or absent."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), None)


def _read(path: Path, max_bytes: int) -> bytes:
    special = kind_of_special(path)
    if special is not None:
        raise UnreadableFileError(f"{special}, not a regular file")
    if "\0" in str(path):
        raise UnreadableFileError("its name holds a NUL character")
    with path.open("rb") as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes > max_bytes:
            raise UnreadableFileError(f"larger than {_in_units(max_bytes)}")
        content = file.read(n_bytes + 1)
    if len(content) > n_bytes:
        raise UnreadableFileError("it grew while it was read: still being written")
    return content


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return f"{text}, {1 + len(_PAUSES_S)} times in a row" if error.errno in _PASSING else text


def _in_units(n_bytes: int) -> str:
    return f"{n_bytes // 2**20} MiB" if n_bytes >= 2**20 else f"{n_bytes} bytes"
