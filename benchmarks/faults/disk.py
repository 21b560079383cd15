"""A small disk of its own that can be filled up: a tmpfs, where mounting one is permitted."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BALLAST_NAME = "ballast"


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a tmpfs of `size_bytes` on `folder`, unmounted at the end.

    Raises
    ------
    PermissionError
        Where that is not permitted, or there is no such thing.
    """
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise PermissionError(f"{folder}: there is no mount ({error})") from error
    if mounted.returncode:
        raise PermissionError(f"{folder}: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def fill_up(disk: Path, leave_bytes: int) -> None:
    """Write a file that takes all the space but `leave_bytes`, on a disk that another process writes to meanwhile."""
    with open(disk / BALLAST_NAME, "ab") as ballast, suppress(OSError):  # full already: there is less than that to take
        size_bytes = shutil.disk_usage(disk).free - leave_bytes
        if size_bytes > 0:
            os.posix_fallocate(ballast.fileno(), 0, size_bytes)


def free_again(disk: Path) -> None:
    """Remove the file that takes the space."""
    (disk / BALLAST_NAME).unlink()
