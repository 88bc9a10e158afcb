"""Output memory for decoded frames: directly in the batch that they belong to, if one is waiting.

Decoding them elsewhere would cost a copy of all frames when the batch is stacked.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

_PACKAGE = "dila."
_KEPT: ContextVar[list[np.ndarray] | None] = ContextVar("kept", default=None)


@contextmanager
def keep(place: np.ndarray) -> Iterator[None]:
    """Context in which the first call of `make` with the shape of `place` returns `place`; other arrays are new."""
    token = _KEPT.set([place])
    try:
        yield
    finally:
        _KEPT.reset(token)


@contextmanager
def lent_to(*readers: object) -> Iterator[None]:
    """Context in which the array given to `keep` is available only if all `readers` are classes of dila.

    Our readers do not keep references to frames. A reader of a plugin that calls one of ours may keep them, and the
    next batch would overwrite them.
    """
    ours = all(type(reader).__module__.startswith(_PACKAGE) for reader in readers)
    token = _KEPT.set(_KEPT.get() if ours else None)
    try:
        yield
    finally:
        _KEPT.reset(token)


def make(shape: tuple[int, ...]) -> np.ndarray:
    """Return an uninitialised uint8 array.

    Callers need not know where it is: frames that were not decoded into their batch are copied there later.
    """
    kept = _KEPT.get()
    if kept and kept[0].shape == shape:
        return kept.pop()
    return np.empty(shape, dtype=np.uint8)
