"""Write-once files: made under a temporary name in the same folder, synced, then renamed.

A reader therefore sees the whole file or none; what a killed process leaves behind is a temporary file that the next
writer of the same name discards.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def write_once(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success sync it, rename it to `path` and sync the folder; on failure remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    discard_leftovers(path)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_once(path: Path, text: str) -> None:
    """Write a small text file (UTF-8) so that it is whole or absent."""
    with write_once(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def discard_leftovers(path: Path) -> list[Path]:
    """Remove temporary files of `path` whose process on this machine is gone; return them."""
    host = socket.gethostname()
    gone = []
    for leftover in path.parent.glob(f".{path.name}.{host}-*.partial"):
        pid = leftover.name.removesuffix(".partial").rsplit("-", 1)[-1]
        if pid.isdigit() and not _is_alive(int(pid)):
            leftover.unlink(missing_ok=True)
            gone.append(leftover)
    return gone


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
