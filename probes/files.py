"""A results folder's files: appended to and synced under one lock, so that they survive a kill at any moment."""

import contextlib
import fcntl
import logging
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import RvqprobeError

LOCK_NAME = ".lock"

log = logging.getLogger(__name__)


class OutputError(RvqprobeError, OSError):
    """A results folder cannot be used: held by another process, absent, full, or not ours to write."""


class FolderLock:
    """The exclusive right to write in a folder, held until `release` or the end of this process, however it ends.

    Parameters
    ----------
    folder : Path
        Created where absent; the lock is on the file ``.lock`` in it, which stays.

    Raises
    ------
    OutputError
        When another process holds the lock, or the folder is a file or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder}: expected a results folder, found a file; choose another --output")
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
        _open_locks.add(self)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise OutputError(
                f"{folder}: another process is writing results there; wait for it to end, or choose another --output"
            ) from error
        except OSError as error:  # some cluster file systems are mounted without locks
            log.warning("%s: file system without locks (%s); run one command on it at a time", folder, error.strerror)

    @property
    def held(self) -> bool:
        """Whether this process may still write."""
        return self._descriptor >= 0

    def release(self) -> None:
        """Let others write; releasing twice does nothing."""
        if self.held:
            os.close(self._descriptor)
        self._descriptor = -1


_open_locks: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _release_in_child() -> None:
    """Close a forked child's copy: it would keep the folder locked beyond the life of the process that owns it."""
    for lock in list(_open_locks):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's errors on `path` into `OutputError`, in one line with a next step."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be read or written ({error.strerror or error}); make room or choose another --output"
        ) from error


def append_synced(path: Path, content: bytes) -> None:
    """Append and sync; where that fails, cut the file back to what it was, so that no torn line stays behind."""
    with output_errors(path), path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def truncate_synced(path: Path, size: int) -> None:
    """Cut a file to its first `size` bytes."""
    with output_errors(path), path.open("r+b") as file:
        file.truncate(size)
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries, which makes new and renamed files survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
