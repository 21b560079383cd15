"""How much memory a process may still take here, and how it keeps that of the arrays it frees."""

import ctypes
import os
import sys
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
# Parameters of mallopt(3), and what they are set to: blocks up to this size come from the heap, and so much of its free
# end is kept. Larger arrays are few, and a heap that held them too would take a fifth more memory at 921 classes.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_LARGEST_KEPT_BYTES, _MOST_FREE_BYTES = 1 << 22, 1 << 30


def available_bytes() -> int | None:
    """Return the bytes a process may still take here; None where the system does not say.

    The smaller of what the machine has left (all its memory, where it tells no more) and what the control group of a
    container or a batch job has left.
    """
    known = [n for n in (_of_machine(), _of_control_group()) if n is not None]
    return min(known) if known else None


def _of_machine() -> int | None:
    try:
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _of_control_group() -> int | None:
    """Return what is left to this process's control group, or to one that it lies in; None without any limit."""
    left = [n for folder in _control_groups() if (n := _left_to(folder)) is not None]
    return min(left) if left else None


def _control_groups() -> list[Path]:
    """Return the folders of the control groups (version 2) that hold this process, the innermost first."""
    try:
        lines = _OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return [_CGROUP]
    # "0::/system.slice/slurmstepd.scope/job_1"; in a container its own group is the root
    place = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    innermost = _CGROUP / place
    return [innermost, *(folder for folder in innermost.parents if folder.is_relative_to(_CGROUP))]


def _left_to(group: Path) -> int | None:
    try:
        limit, current = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        # Pages of files that were read count as used, and give way when memory is asked for.
        pages = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, limit - current + int(pages.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None  # no such group, or "max": no limit


def keep_freed_memory() -> None:
    """Have this process reuse the memory of arrays it frees, where the C library is glibc; elsewhere do nothing.

    Left alone, glibc takes fresh pages from the system for each large array and gives them back at its end. A solver
    that makes and drops arrays of megabytes all the time spends a tenth of its time on these pages.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library
    # Setting either stops glibc from raising the first by itself: the second alone would do harm.
    if mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES):
        mallopt(_TRIM_THRESHOLD, _MOST_FREE_BYTES)
