"""Where frames are put as they are decoded: into the batch that they are for, where one waits for them.

A batch that is put together from frames that were decoded elsewhere costs a copy of all of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

_PACKAGE = "dila."
_KEPT: ContextVar[list[np.ndarray] | None] = ContextVar("kept", default=None)


@contextmanager
def keep(place: np.ndarray) -> Iterator[None]:
    """Inside, the first array of this shape and kind that `make` is asked for is `place`; all others are new."""
    token = _KEPT.set([place])
    try:
        yield
    finally:
        _KEPT.reset(token)


@contextmanager
def lent_to(*readers: object) -> Iterator[None]:
    """Inside, what is kept is for these alone, if they are dila's own, which hold on to nothing that they read.

    A reader of the user's that has ours read for it may remember the frames, which the next batch would write over.
    """
    ours = all(type(reader).__module__.startswith(_PACKAGE) for reader in readers)
    token = _KEPT.set(_KEPT.get() if ours else None)
    try:
        yield
    finally:
        _KEPT.reset(token)


def make(shape: tuple[int, ...]) -> np.ndarray:
    """An array of bytes to be filled, of whatever it holds by chance.

    Whoever fills it need not care where it lies: a batch copies what has not come to lie in its place.
    """
    kept = _KEPT.get()
    if kept and kept[0].shape == shape:
        return kept.pop()
    return np.empty(shape, dtype=np.uint8)
