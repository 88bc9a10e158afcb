"""Shared memory in which a loader's workers hand over batches, used again and again.

torch's loader puts each batch into new shared memory. Its pages are filled with zeros as they are first touched, which
for frames of 256 pixels takes a third of the time of decoding them (docs/log.md), and the receiver maps each tensor
anew, over a connection of its own. Here a worker keeps a few pieces, `Slots`, into which it decodes. The receiver maps
each of them once; from then on a message names the piece and holds only the small tensors.

A piece is in use until nothing in the receiver refers to it any more, neither a tensor nor a view of one. Its first
byte says so; the receiver clears it when the last reference goes. While all are in use, more are made: what is held for
long costs the memory that it would have cost in any case.
"""

import os
import weakref
from collections.abc import Sequence
from math import prod
from typing import Any
from uuid import uuid4

import numpy as np
import torch

from dila.data.clips import Clip
from dila.shapes import Tensor

HEADER = 64
"""Bytes before the frames, which stay aligned so: the first says whether the piece is in use."""
KEPT = 8
"""Pieces that a worker uses again; those beyond go when they were used once."""

_loaders: "weakref.WeakValueDictionary[str, Slots]" = weakref.WeakValueDictionary()


class Slot:
    """One piece of shared memory, in the worker that made it.

    Args:
        number: by which the receiver knows it again; None if it is used once.
        size: bytes of frames.
    """

    def __init__(self, number: int | None, size: int):
        self.number, self.size = number, size
        self.shared = torch.empty(HEADER + size, dtype=torch.uint8).share_memory_()
        self.sent = False
        self.in_use = True

    @property
    def in_use(self) -> bool:
        """Whether the receiver, or the worker for it, holds the piece."""
        return bool(self.shared[0])

    @in_use.setter
    def in_use(self, held: bool) -> None:
        self.shared[0] = held

    def frames(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The piece, or the beginning of it, as a tensor."""
        return _frames(self.shared[HEADER:], shape, dtype)


class Slots:
    """The pieces of one loader: made and filled in its workers, read in the process that has the loader.

    Args:
        key: in a worker that was started anew, that of the original.
    """

    def __init__(self, key: str | None = None):
        self.key = key or uuid4().hex
        self.made: list[Slot] = []
        """Of this process, as a worker."""
        self.mapped: dict[tuple[int, int | None], np.ndarray] = {}
        """Of the workers, by process and number."""
        _loaders.setdefault(self.key, self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Slots, (self.key,)

    def take(self, size: int) -> Slot:
        """A piece of at least so many bytes that nobody uses."""
        for place, slot in enumerate(self.made):
            if not slot.in_use:
                if slot.size < size:
                    self.made[place] = slot = Slot(slot.number, size)
                slot.in_use = True
                return slot
        if len(self.made) >= KEPT:
            return Slot(None, size)
        self.made.append(Slot(len(self.made), size))
        return self.made[-1]


class Parcel:
    """A batch whose frames lie in a slot: what a worker puts into the loader's queue, and a `Clip` that comes out.

    Args:
        slots: of the loader.
        slot: where the frames lie.
        batch: the batch; of its frames only the shape and how they lie is sent.
    """

    def __init__(self, slots: Slots, slot: Slot, batch: Clip):
        self.key, self.slot = slots.key, slot
        self.lie = (tuple(batch.frames.shape), batch.frames.stride(), batch.frames.dtype)
        columns = {name: column.numpy() for name, column in batch.columns.items()}
        self.small = (torch.as_tensor(batch.episode).numpy(), batch.index.numpy(), columns, batch.skipped)

    def __reduce__(self) -> tuple[Any, ...]:
        # By a thread, after it was put into the queue; nobody takes the slot again before it has arrived.
        shared = None if self.slot.sent else self.slot.shared
        self.slot.sent = True
        return _opened, (self.key, (os.getpid(), self.slot.number), shared, self.lie, self.small)


def _opened(key: str, place: tuple[int, int | None], shared: Tensor | None, lie: Any, small: Any) -> Clip | None:
    slots = _loaders.get(key)
    if slots is None:  # the loader is gone: nobody waits for its batch
        return None
    memory = slots.mapped[place] if shared is None else shared.numpy()
    if place[1] is not None:
        slots.mapped[place] = memory
    # numpy keeps the owner of memory alive, and no view in between: tensors have to be made of the very view watched.
    held = memory[HEADER:]
    weakref.finalize(held, _give_back, memory, os.getpid()).atexit = False
    shape, strides, dtype = lie
    frames = _frames(torch.from_numpy(held), shape, dtype).as_strided(shape, strides)
    episode, index, columns, skipped = small
    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
    return Clip(frames, torch.from_numpy(episode), torch.from_numpy(index), tensors, skipped)


def _give_back(memory: np.ndarray, receiver: int) -> None:
    if os.getpid() == receiver:  # and not in a process forked from it, whose copy of the tensors goes by itself
        memory[0] = 0


def _frames(memory: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return memory[: prod(shape) * dtype.itemsize].view(dtype).view(*shape)
