"""Settings of glibc's allocator for freed memory on a CPU; no effect with other C libraries."""

import ctypes
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -3, -4, -8
"""Options of ``mallopt`` (https://man7.org/linux/man-pages/man3/mallopt.3.html)."""

_NEVER, _BLOCKS = -1, 1 << 16
"""Disables the trim threshold; glibc's default limit of mmapped blocks."""


def give_back(above: int, arenas: int | None = None) -> None:
    """Return freed blocks larger than `above` bytes to the system at once, from now on.

    By default, glibc keeps every block below 32 MB, and an arena for each of many threads; `arenas` limits these.
    """
    options = {_M_MMAP_MAX: _BLOCKS, _M_MMAP_THRESHOLD: above, _M_TRIM_THRESHOLD: 2 * above}
    _tell(options if arenas is None else options | {_M_ARENA_MAX: arenas})


def hold_on() -> None:
    """Keep freed memory in the process for reuse, from now on.

    By default, glibc maps each block above 32 MB anew and the system zeroes it: up to a quarter of a training step.
    """
    _tell({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _NEVER, _M_TOP_PAD: 1 << 26})


def _tell(options: dict[int, int]) -> None:
    if sys.platform != "linux":
        return
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in options.items():
            mallopt(option, value)
