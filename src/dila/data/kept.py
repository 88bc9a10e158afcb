"""What readers keep of what they have read: what was asked for last, up to so many bytes a process."""

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, TypeVar

MAX_KEPT = 256 * 2**20
"""Bytes that a process keeps, of all its readers; one thing is kept however large it is."""
BESIDE = 128
"""Bytes of an array, a tuple or a mapping beside what is in it."""

Made = TypeVar("Made")


class Kept:
    """Remembers what functions gave, as `functools.lru_cache` does, by bytes instead of by number.

    A fork begins with nothing: a thread that it does not have may have held the lock.
    """

    def __init__(self) -> None:
        self.forget()
        if hasattr(os, "register_at_fork"):  # Windows has no forks
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Begin anew."""
        self._lock, self._bytes = Lock(), 0
        self._found: OrderedDict[Any, tuple[Any, int]] = OrderedDict()

    def __call__(self, read: Callable[..., Made], *arguments: Any) -> Made:
        """What `read` gives of these (hashable) arguments, mappings or arrays that nobody changes."""
        key = (read, *arguments)
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key][0]
        made = read(*arguments)  # by two threads at a time, if need be
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
