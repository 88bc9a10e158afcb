"""Batches of clips read by worker processes: torch's loader, decoding directly into shared memory."""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from dila.data import room
from dila.data.clips import Clip, Clips, as_shown, as_stored, check_alike, join_clips
from dila.data.mixture import Mixture
from dila.data.slots import Parcel, Slot, Slots
from dila.shapes import Tensor


def load_clips(
    clips: Clips | Mixture,
    batch: int,
    sampler: Sampler[int] | Sequence[int] | None = None,
    workers: int = 0,
    *,
    pin: bool = False,
    generator: torch.Generator | None = None,
    context: str | None = None,
) -> DataLoader[Any]:
    """Return a loader of batches of clips, as made by `collate_clips`.

    A worker decodes frames into shared memory, which it reuses once nothing refers to the batch any more
    (`dila.data.slots`): a batch may be kept for as long as it is needed.

    Args:
        clips: clips to read.
        batch: clips per batch.
        sampler: order of the clips; None reads them in sequence.
        workers: number of processes, which persist as long as the loader; 0 reads in this process.
        pin: return batches in pinned memory.
        generator: generator of the seeds of workers; None uses torch's global one.
        context: start method of workers, ``fork`` or ``spawn``; None uses the default of the system.
    """
    return DataLoader(
        _Batches(clips),
        batch_size=batch,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_as_it_is,
        pin_memory=pin,
        generator=generator,
        multiprocessing_context=context,
    )


class _Batches(Dataset[Clip]):
    """Dataset that reads all clips of a batch at once."""

    def __init__(self, clips: Clips | Mixture):
        self.clips, self.slots = clips, Slots()
        self.like: _Kind | None = None
        """Layout of the clips read last, by which memory is allocated for the next batch before reading it."""

    def __len__(self) -> int:
        return len(self.clips)

    def __getitems__(self, items: Sequence[int]) -> Clip | Parcel:
        tray = None if self.like is None else self._tray(len(items), self.like)
        try:
            clips = [self._read(item, tray, place) for place, item in enumerate(items)]
            check_alike(clips)
            stored = [as_stored(clip.frames) for clip in clips]
            self.like, before = _Kind(tuple(stored[0].shape), stored[0].dtype, stored[0].device), self.like
            if tray is None or self.like != before:
                tray = self._tray(len(items), self.like, tray)
            _put(stored, tray.frames)
        except BaseException:
            if tray is not None and tray.slot is not None:
                tray.slot.in_use = False
            raise
        batch = join_clips(clips, as_shown(tray.frames))
        return batch if tray.slot is None else Parcel(self.slots, tray.slot, batch)

    def _tray(self, count: int, kind: "_Kind", instead: "_Tray | None" = None) -> "_Tray":
        shape = (count, *kind.shape)
        if get_worker_info() is None:
            return _Tray(torch.empty(shape, dtype=kind.dtype, device=kind.device), None)
        if instead is not None and instead.slot is not None:
            instead.slot.in_use = False
        slot = self.slots.take(prod(shape) * kind.dtype.itemsize)
        return _Tray(slot.frames(shape, kind.dtype), slot)

    def _read(self, item: int, tray: "_Tray | None", place: int) -> Clip:
        if tray is None or tray.frames.dtype != torch.uint8:
            return self.clips[item]
        with room.keep(tray.frames[place].numpy()), room.lent_to(self.clips):
            return self.clips[item]


class _Kind(NamedTuple):
    """Shape in memory, dtype and device of the frames of a clip."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class _Tray(NamedTuple):
    """Memory for the frames of a batch."""

    frames: Tensor
    slot: Slot | None
    """The shared buffer, in a worker; else None."""


def _put(clips: Sequence[Tensor], places: Tensor) -> None:
    """Copy the clips that were not decoded into their places."""
    moved = [place for place, clip in zip(places, clips, strict=True) if place.data_ptr() != clip.data_ptr()]
    if len(moved) == len(clips):
        torch.stack(list(clips), out=places)
        return
    for place, clip in zip(places, clips, strict=True):
        if place.data_ptr() != clip.data_ptr():
            place.copy_(clip)


def _as_it_is(batch: Any) -> Any:
    return batch
