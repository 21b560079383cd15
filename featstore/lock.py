"""One writer of an output at a time: an advisory lock on a file beside it, which says who holds it.

The lock is the operating system's (flock), so it ends with its owner however that ends. A file system without such
locks is worked on without, with a warning. Untested here: NFS (Linux turns flock into byte-range locks, which need the
server's lock manager) and Lustre (which needs the mount option ``flock``, not ``localflock``, to see other nodes).
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from featstore.atomic import make_folder
from featstore.errors import StoreError

LOG = logging.getLogger(__name__)
_NOT_SUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
_OWNER_BYTES = 4096
_WAIT_S = 0.2
_N_LOOKS, _LOOK_S = 20, 0.02


@contextlib.contextmanager
def hold_lock(output: Path, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold the lock of an output, ``<output>.lock``, which is removed at the end.

    Parameters
    ----------
    output : Path
        What is going to be written; its folder is made if it is not there.
    shared : bool
        Let others hold it shared too (builders of different slices); whoever wants it alone is kept out.
    wait : bool
        Wait for it instead of refusing.

    Raises
    ------
    StoreError
        When another process holds it; the message says which.
    """
    path = output.with_name(f"{output.name}.lock")
    make_folder(path.parent)
    descriptor = _acquire(path, output, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait)
    try:
        yield
    finally:
        _release(descriptor, path)


def _acquire(path: Path, output: Path, kind: int, wait: bool) -> int:
    """Return an open descriptor of the lock file, locked."""
    has_told = False
    while True:
        descriptor = _open(path)
        try:
            if not _lock(descriptor, kind):
                owner = _owner(descriptor, kind)
                if not wait:
                    raise StoreError(
                        f"{output}: is being written by {owner}; wait for it, stop it, or choose another --output"
                    )
                if not has_told:
                    LOG.info("waiting for %s, which is being written by %s ...", output, owner)
                    has_told = True
            elif _is_still(descriptor, path):  # the last owner may have removed it since it was opened
                _write_owner(descriptor, kind)
                return descriptor
            else:
                os.close(descriptor)
                continue
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(_WAIT_S)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(f"{path}: expected a lock file, found a symbolic link; remove it") from error
        raise


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
        LOG.warning(
            "warning: this file system has no locks (%s): make sure that one builder alone writes here", error.strerror
        )
    return True


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _write_owner(descriptor: int, kind: int) -> None:
    owner = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "shared": kind == fcntl.LOCK_SH,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(Path(word).name if place == 0 else word for place, word in enumerate(sys.argv[:2])),
    }
    with contextlib.suppress(OSError):  # a full disk must not keep anyone from removing things under the lock
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode("utf-8"), 0)


def _owner(descriptor: int, kind: int) -> str:
    """Return who holds a lock, in words; who has just taken it may not have written its name yet.

    Of several that share it, the file tells who took it last, and that one may have ended.
    """
    for _ in range(_N_LOOKS - 1):
        if os.fstat(descriptor).st_size:
            break
        time.sleep(_LOOK_S)
    try:
        owner = json.loads(os.pread(descriptor, _OWNER_BYTES, 0))
        several = (
            "builders of its shards, the last to begin being " if kind == fcntl.LOCK_EX and owner["shared"] else ""
        )
        return (
            f"{several}process {int(owner['process'])} on {owner['host']!s:.100} ({owner['command']!s:.100}, since "
            f"{owner['since']!s:.40})"
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"


def _release(descriptor: int, path: Path) -> None:
    try:
        # Alone (at once, or as the last of those who shared it): nobody else can hold it now, so the file can go.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(descriptor, path):
                path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
