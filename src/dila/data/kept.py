"""Cache of what readers have read last, limited in bytes per process."""

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, TypeVar

MAX_KEPT = 256 * 2**20
"""Maximum bytes cached by a process, over all readers; a single entry is cached whatever its size."""
BESIDE = 128
"""Estimated overhead of an array, a tuple or a mapping, in bytes."""

Made = TypeVar("Made")


class Kept:
    """Least-recently-used cache of function results, limited by bytes instead of by number.

    A forked process starts with an empty cache, since a thread that it lacks may have held the lock.
    """

    def __init__(self) -> None:
        self.forget()
        if hasattr(os, "register_at_fork"):  # Windows has no forks
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Clear the cache."""
        self._lock, self._bytes = Lock(), 0
        self._found: OrderedDict[Any, tuple[Any, int]] = OrderedDict()

    def __call__(self, read: Callable[..., Made], *arguments: Any) -> Made:
        """Return `read(*arguments)`, a mapping or an array that callers must not change; arguments must be hashable."""
        key = (read, *arguments)
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key][0]
        made = read(*arguments)  # without the lock, so two threads may read the same
        size = _size(made)
        with self._lock:
            if key not in self._found:
                self._found[key] = made, size
                self._bytes += size
            while self._bytes > MAX_KEPT and len(self._found) > 1:
                self._bytes -= self._found.popitem(last=False)[1][1]
        return made


kept = Kept()


def _size(made: Any) -> int:
    inside = sum(map(_size, made.values())) if isinstance(made, Mapping) else getattr(made, "nbytes", 0)
    return BESIDE + inside
