"""A file for HDF5 to write to that remembers what went wrong instead of telling HDF5.

HDF5 cannot close a file whose last metadata do not reach the disk: the handle stays open, and the process may end in a
crash. So it writes through this Python file object. After the first error (a full disk, a quota, a signal's exception)
nothing more reaches the disk, HDF5 closes in peace, and `check` raises the error where Python can handle it. The file
is then worthless; it has a temporary name and is removed.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import h5py


class GuardedFile(io.RawIOBase):
    """A read-write file object, for ``h5py.File(GuardedFile(path), ...)``.

    Parameters
    ----------
    path : Path
        Must not be there yet.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.error: BaseException | None = None
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._position = 0

    def check(self) -> None:
        """Raise the first error of any write so far; an OSError names the file."""
        if self.error is not None:
            _raise(self.error, self.path)

    def readable(self) -> bool:
        """Return True: HDF5 reads back what it wrote."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position; returns it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size()}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the position; what was never written (after an error) reads as zero."""
        view = memoryview(buffer).cast("B")
        n_read = os.preadv(self._descriptor, [view], self._position)
        view[n_read:] = bytes(len(view) - n_read)
        self._position += len(view)
        return len(view)

    def write(self, data: Any) -> int:
        """Write all of `data` at the position, or note why not."""
        view = memoryview(data).cast("B")
        self._unless_broken(lambda: self._write_all(view, self._position))
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the file's size in bytes."""
        size = self._position if size is None else size
        self._unless_broken(lambda: os.ftruncate(self._descriptor, size))
        return size

    def close(self) -> None:
        """Close the descriptor; HDF5 is done with the file."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def _write_all(self, view: memoryview, position: int) -> None:
        while len(view):
            n_written = os.pwrite(self._descriptor, view, position)
            view, position = view[n_written:], position + n_written

    def _unless_broken(self, act: Callable[[], None]) -> None:
        if self.error is not None:
            return
        try:
            act()
        except BaseException as error:  # noqa: BLE001  # a signal's exception too: raised inside HDF5's callback it would be lost
            self.error = error

    def _size(self) -> int:
        return os.fstat(self._descriptor).st_size


def _raise(error: BaseException, path: Path) -> NoReturn:
    if isinstance(error, OSError) and error.filename is None:
        error.filename = str(path)
    raise error


def open_guarded(guarded: GuardedFile, mode: str, **options: Any) -> Any:
    """Open an HDF5 file over a guarded file; returns an ``h5py.File``.

    Raises
    ------
    OSError
        What writing the first bytes raised.
    """
    file = h5py.File(guarded, mode, **options)
    try:
        guarded.check()
    except BaseException:
        file.close()
        raise
    return file
