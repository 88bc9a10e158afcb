"""What becomes of freed memory on a CPU, where glibc keeps it: on Linux, mostly. Another C library is left as it is."""

import ctypes
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -3, -4, -8
"""Of ``mallopt`` (https://man7.org/linux/man-pages/man3/mallopt.3.html)."""

_NEVER, _BLOCKS = -1, 1 << 16
"""A threshold that is never reached, and how many blocks of their own glibc allows where it is told nothing."""


def give_back(above: int, arenas: int | None = None) -> None:
    """From now on freed blocks of so many bytes go back to the system at once.

    glibc would keep every block below 32 MB for itself, and an arena for each of many threads, of which `arenas` is the
    most.
    """
    options = {_M_MMAP_MAX: _BLOCKS, _M_MMAP_THRESHOLD: above, _M_TRIM_THRESHOLD: 2 * above}
    _tell(options if arenas is None else options | {_M_ARENA_MAX: arenas})


def hold_on() -> None:
    """From now on freed memory stays with the process, for the next block.

    glibc would map each block above 32 MB anew and the system fill it with zeros: up to a quarter of a training step.
    """
    _tell({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _NEVER, _M_TOP_PAD: 1 << 26})


def _tell(options: dict[int, int]) -> None:
    if sys.platform != "linux":
        return
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in options.items():
            mallopt(option, value)
