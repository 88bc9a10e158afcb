"""What becomes of freed memory on a CPU."""

import ctypes
import sys
from contextlib import suppress

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
"""Of ``mallopt`` (https://man7.org/linux/man-pages/man3/mallopt.3.html)."""


def give_back(above: int, arenas: int | None = None) -> None:
    """From now on, on Linux, freed blocks of so many bytes go back to the system at once.

    glibc would keep every block below 32 MB for itself, and an arena for each of many threads, of which `arenas` is the
    most. Another C library is left as it is.
    """
    if sys.platform != "linux":
        return
    with suppress(AttributeError):
        library = ctypes.CDLL(None)
        if arenas is not None:
            library.mallopt(_M_ARENA_MAX, arenas)
        library.mallopt(_M_MMAP_THRESHOLD, above)
