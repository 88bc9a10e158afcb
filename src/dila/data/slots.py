"""Reusable shared memory through which the workers of a loader pass batches.

torch's loader puts each batch into new shared memory. The kernel zeroes its pages on first access, which for frames of
256 pixels takes a third of the time of decoding them (docs/log.md), and the receiver maps every tensor anew, over a
connection of its own. Here a worker decodes into a few buffers that it reuses (`Slots`). The receiver maps each buffer
once; after that, a message holds only the buffer's number and the small tensors.

A buffer is in use until nothing in the receiver refers to it, neither a tensor nor a view of one. Its first byte is the
flag; the receiver clears it when the last reference is gone. If all buffers are in use, another is made, so batches
that are kept for long take no more memory than they would have otherwise.
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
"""Bytes before the frames, a multiple of their alignment; the first byte is the in-use flag."""
KEPT = 8
"""Maximum number of buffers that a worker reuses; further ones are used once."""

_loaders: "weakref.WeakValueDictionary[str, Slots]" = weakref.WeakValueDictionary()


class Slot:
    """One buffer of shared memory, in the worker that made it.

    Args:
        number: identifies the buffer to the receiver; None if it is used only once.
        size: bytes of frames.
    """

    def __init__(self, number: int | None, size: int):
        self.number, self.size = number, size
        self.shared = torch.empty(HEADER + size, dtype=torch.uint8).share_memory_()
        self.sent = False
        self.in_use = True

    @property
    def in_use(self) -> bool:
        """Whether the receiver uses the buffer, or the worker is filling it."""
        return bool(self.shared[0])

    @in_use.setter
    def in_use(self, held: bool) -> None:
        self.shared[0] = held

    def frames(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the beginning of the buffer as a tensor."""
        return _frames(self.shared[HEADER:], shape, dtype)


class Slots:
    """The buffers of one loader: made and filled in its workers, read in the process of the loader.

    Args:
        key: key of the loader, passed when this object is unpickled in a worker.
    """

    def __init__(self, key: str | None = None):
        self.key = key or uuid4().hex
        self.made: list[Slot] = []
        """Buffers made by this process, in a worker."""
        self.mapped: dict[tuple[int, int | None], np.ndarray] = {}
        """Buffers of the workers mapped by this process, by process id and number."""
        _loaders.setdefault(self.key, self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Slots, (self.key,)

    def take(self, size: int) -> Slot:
        """Return an unused buffer of at least `size` bytes, marked as in use."""
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
    """A batch whose frames are in a buffer. A worker puts it into the loader's queue; it unpickles as a `Clip`.

    Args:
        slots: the buffers of the loader.
        slot: the buffer with the frames.
        batch: the batch; of its frames, only shape, strides and dtype are sent.
    """

    def __init__(self, slots: Slots, slot: Slot, batch: Clip):
        self.key, self.slot = slots.key, slot
        self.lie = (tuple(batch.frames.shape), batch.frames.stride(), batch.frames.dtype)
        columns = {name: column.numpy() for name, column in batch.columns.items()}
        self.small = (torch.as_tensor(batch.episode).numpy(), batch.index.numpy(), columns, batch.skipped)

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled by the queue's feeder thread; the slot is in use, so it is not reused before the batch has arrived.
        shared = None if self.slot.sent else self.slot.shared
        self.slot.sent = True
        return _opened, (self.key, (os.getpid(), self.slot.number), shared, self.lie, self.small)


def _opened(key: str, place: tuple[int, int | None], shared: Tensor | None, lie: Any, small: Any) -> Clip | None:
    slots = _loaders.get(key)
    if slots is None:  # the loader has been deleted, so its batch is not needed
        return None
    memory = slots.mapped[place] if shared is None else shared.numpy()
    if place[1] is not None:
        slots.mapped[place] = memory
    # Views made by numpy refer to the owner of the memory, not to `held`: the tensor has to be made from `held` itself.
    held = memory[HEADER:]
    weakref.finalize(held, _give_back, memory, os.getpid()).atexit = False
    shape, strides, dtype = lie
    frames = _frames(torch.from_numpy(held), shape, dtype).as_strided(shape, strides)
    episode, index, columns, skipped = small
    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
    return Clip(frames, torch.from_numpy(episode), torch.from_numpy(index), tensors, skipped)


def _give_back(memory: np.ndarray, receiver: int) -> None:
    if os.getpid() == receiver:  # not in a forked process, which deletes only its own copy of the tensors
        memory[0] = 0


def _frames(memory: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return memory[: prod(shape) * dtype.itemsize].view(dtype).view(*shape)
