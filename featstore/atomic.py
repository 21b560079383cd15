"""Write-once files and folders: made under a temporary name in the same folder, synced, then renamed.

A reader therefore sees the whole of it or nothing; what a killed process leaves behind is a temporary file or folder
that the next writer of the same name discards.
"""

import contextlib
import errno
import glob
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

# Some file systems (SMB, some of FUSE) write names through at once and refuse to be asked for it.
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_NUMPY_WROTE_LESS = re.compile(r"\d+ requested and \d+ written")  # all that NumPy says of a disk that is full
_FOLDER_CANNOT_BE_SYNCED = {errno.EINVAL, errno.ENOTSUP}


@contextlib.contextmanager
def write_once(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success sync it, rename it to `path` and sync the folder; on failure remove it.

    Raises
    ------
    OSError
        What the file system says; its ``filename`` is `path` where it was the temporary one.
    """
    with _renamed_at_the_end(path) as temporary:
        yield temporary


@contextlib.contextmanager
def write_folder_once(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; on success sync all that is in it and rename it to `path`; on failure remove it.

    Nothing, or an empty folder, may stand at `path`: a folder cannot take another's place in one step.

    Raises
    ------
    OSError
        As `write_once` does.
    """
    with _renamed_at_the_end(path) as temporary:
        temporary.mkdir()
        yield temporary


@contextlib.contextmanager
def _renamed_at_the_end(path: Path) -> Iterator[Path]:
    make_folder(path.parent)
    discard_leftovers(path)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
    _remove(temporary)  # of a process that had the same number, or a link that somebody put there
    try:
        yield temporary
        _sync_all(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        _name_target(error, temporary, path)
        raise
    finally:
        _remove(temporary)


def _name_target(error: OSError, temporary: Path, path: Path) -> None:
    """Have an error of writing name the file that was to be made, also where it names none."""
    if error.errno is None and _NUMPY_WROTE_LESS.search(str(error)):
        error.errno, error.strerror = errno.ENOSPC, os.strerror(errno.ENOSPC)
    name = os.fspath(error.filename) if isinstance(error.filename, (str, os.PathLike)) else ""
    if name == str(temporary) or name.startswith(f"{temporary}{os.sep}") or (not name and error.errno in _OF_WRITING):
        error.filename = str(path)


def rename(source: Path, target: Path) -> None:
    """Give a synced file another name, which may be in another folder of the same file system, and sync both folders.

    What stands at `target` is replaced in the same step.
    """
    os.replace(source, target)
    sync(target.parent)
    sync(source.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each synced into the one that holds it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def write_text_once(path: Path, text: str) -> None:
    """Write a small text file (UTF-8) so that it is whole or absent."""
    with write_once(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def discard_leftovers(path: Path, *, is_alone: bool = False) -> list[Path]:
    """Remove temporary files and folders of `path` whose process on this machine is gone; return them.

    Parameters
    ----------
    path : Path
    is_alone : bool
        Remove all of them, those of other machines too: only for the one who holds the output's lock, since then
        nobody else can be writing.
    """
    host = "*" if is_alone else glob.escape(socket.gethostname())
    gone = []
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{host}-*.partial"):
        pid = leftover.name.removesuffix(".partial").rpartition("-")[2]
        if pid.isdigit() and (is_alone or not _is_alive(int(pid))):
            _remove(leftover)
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


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_all(path: Path) -> None:
    """Sync a file, or a folder with all that is in it, from the inside out."""
    if path.is_dir():
        for place, _, names in os.walk(path, topdown=False):
            for name in names:
                sync(Path(place, name))
            sync(Path(place))
    else:
        sync(path)


def sync(path: Path) -> None:
    """Have a file, or what names a folder holds, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in _FOLDER_CANNOT_BE_SYNCED):
            raise
    finally:
        os.close(descriptor)
