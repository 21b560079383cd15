"""How a process keeps the memory of the arrays it frees; how much there is tells `featstore.memory`."""

import ctypes
import sys

from featstore.memory import available_bytes

__all__ = ["available_bytes", "keep_freed_memory"]

# Parameters of mallopt(3), and what they are set to: blocks up to this size come from the heap, and so much of its free
# end is kept. Larger arrays are few, and a heap that held them too would take a fifth more memory at 921 classes.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_LARGEST_KEPT_BYTES, _MOST_FREE_BYTES = 1 << 22, 1 << 30


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
