"""Long videos with bounded memory: frames at a stride in seconds, features chunk by chunk, windows of a trained length.

A model is trained on clips of T frames and attends over all that it is given, so a long video is read in windows of T
frames that overlap by half. The first window gives all its T - 1 transitions, each later one only its last T // 2: a
transition's action is so inferred with T / 2 - 1 or more frames before it, the middle of what training showed, wherever
it lies (only those of the video's own first frames have fewer, as in training). The last window is moved back to end
with the video, so that every window has T frames unless the whole video is shorter.
"""

import math
from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from dila.data.clips import EVEN, TIE, squeezed
from dila.errors import DilaError
from dila.protocols import Episode, FrameEncoder, LatentActionModel
from dila.shapes import Features, Float, LatentActions, Tensor

CHUNK = 32
"""Frames of a video held decoded in memory at once."""

BATCH = 8
"""Windows of a clip that go through the model at once."""

Chunk = Float[Tensor, "B _ H W D"]
"""Features of some frames of a clip; chunks of one clip can differ in length."""

_Key = TypeVar("_Key", bound=Hashable)


class Window(NamedTuple):
    """A window of features, of which the last ``keep`` transitions were in no window before it."""

    e: Features
    keep: int


def sample(episode: Episode, stride: int | float, every_frame: bool = False) -> list[np.ndarray]:
    """Raw frame numbers at every ``stride`` seconds, as unbroken runs; a constant frame rate gives one run.

    Sample k is the frame nearest to k * stride, counted from the first frame and anew from that after a gap that no
    transition spans. A run ends where none is within half a stride or the usual (median) time between frames, where
    the nearest is the one taken before, where two samples lie further from a stride apart than that, or where a missing
    frame leaves much less than one between them (`dila.data.clips.squeezed`): nothing is bridged or repeated. As in
    `dila.data.Clips`, so that a video is sampled as in training.

    With ``every_frame`` there are runs from the first frame of no transition yet as well, and so on: together every
    frame. Where the frame rate divides the stride, each frame is in one run; where it does not, some are in two, with
    other frames behind them.

    Raises:
        DilaError: the episode is empty or has fewer frames a second than asked for.
    """
    times, spacing = _clock(episode, stride)
    cut = _every if every_frame else _runs
    return [start + run for start, piece in _pieces(times, spacing, stride) for run in cut(piece, spacing, stride)]


def _every(times: np.ndarray, spacing: float, stride: int | float) -> Iterator[np.ndarray]:
    """Twice as many runs are tried as a stride has frames, which leaves out frames of uneven times."""
    free = np.ones(len(times), dtype=bool)
    for _ in range(min(len(times), 2 * math.ceil(stride / spacing - TIE))):
        first = int(free.argmax())
        for run in _runs(times[first:], spacing, stride):
            if free[first + run[:-1]].any():
                yield first + run
                free[first + run[:-1]] = False
        free[first] = False


def _clock(episode: Episode, stride: int | float) -> tuple[np.ndarray, float]:
    """An episode's times, and the usual one between frames."""
    times = np.asarray(episode.times, dtype=np.float64)
    if not len(times):
        raise DilaError(f"{episode.id} has no frames; replace or remove it")
    spacing = float(np.median(np.diff(times))) if len(times) > 1 else stride
    if stride < 0.99 * spacing:
        raise DilaError(
            f"{episode.id} has a frame every {spacing:.3g} s, which is more than the model's stride of {stride:g} s; "
            "give video of a higher frame rate"
        )
    return times, spacing


def _pieces(times: np.ndarray, spacing: float, stride: int | float) -> Iterator[tuple[int, np.ndarray]]:
    """What lies between the gaps that no transition spans, each with the number of its first frame."""
    starts = np.flatnonzero(np.diff(times, prepend=-np.inf) > _most(spacing, stride))
    yield from zip(starts.tolist(), np.split(times, starts[1:]), strict=True)


def _most(spacing: float, stride: int | float) -> float:
    """Seconds of the longest transition."""
    # A stride that an even frame rate does not divide is now and then a frame longer, and that is no gap.
    return max(stride + min(stride / 2, spacing) + TIE, (math.ceil(stride / spacing - TIE) + EVEN) * spacing)


def _runs(times: np.ndarray, spacing: float, stride: int | float) -> list[np.ndarray]:
    # The last frame stands for as long as the one before it, or else it would be "nearest" to times past the end.
    ends = np.append(times[1:] + times[:-1], 2 * times[-1] + (times[-1] - times[-2] if len(times) > 1 else 0)) / 2
    goals = np.arange(times[0], ends[-1] + TIE, stride)
    goals = goals[goals - TIE <= ends[-1]]
    index = np.searchsorted(ends, goals - TIE)
    slack = min(stride / 2, spacing) + TIE
    near = np.abs(times[index] - goals) <= slack
    index, place = index[near], np.flatnonzero(near)
    fresh = np.diff(index, prepend=-1) > 0
    index, place = index[fresh], place[fresh]
    apart = np.diff(times[index])
    ends_here = (np.diff(place) > 1) | (apart < stride - slack) | (apart > _most(spacing, stride))
    ends_here |= squeezed(times[index], goals[place], stride, spacing)
    return np.split(index, np.flatnonzero(ends_here) + 1)


def encode(encoder: FrameEncoder, episode: Episode, index: np.ndarray) -> Iterator[Chunk]:
    """Features of these frames, ``1 n H W D`` with n up to `CHUNK`. Raises DilaError when they cannot be read."""
    for start in range(0, len(index), CHUNK):
        yield encoder.encode(episode.read(index[start : start + CHUNK].tolist())[None])


class Windows:
    """Cuts features that come in chunks of any length into overlapping windows.

    Args:
        frames: of a window.
    """

    def __init__(self, frames: int):
        self.frames, self.hop = frames, max(1, frames // 2)
        self._held: Tensor | None = None
        self._left: Tensor | None = None
        self._given = 0

    def take(self, chunk: Chunk) -> Iterator[Window]:
        """The windows that are whole with these features, and with more behind them."""
        held = chunk if self._held is None else torch.cat([self._held, chunk], dim=1)
        while held.shape[1] > self.frames:
            yield Window(held[:, : self.frames], self.frames - 1 - self._given)
            self._left, held, self._given = held[:, : self.hop], held[:, self.hop :], self.frames - 1 - self.hop
        self._held = held

    def end(self) -> Iterator[Window]:
        """The last window; none where there were fewer than two frames."""
        held, given = self._held, self._given
        if held is not None and self._left is not None:
            lacking = self.frames - held.shape[1]
            held, given = torch.cat([self._left[:, self.hop - lacking :], held], dim=1), given + lacking
        if held is not None and held.shape[1] > 1:
            yield Window(held, held.shape[1] - 1 - given)


def windows(chunks: Iterable[Chunk], frames: int) -> Iterator[Window]:
    """The windows of one clip. None for fewer than two frames."""
    cut = Windows(frames)
    for chunk in chunks:
        yield from cut.take(chunk)
    yield from cut.end()


def infer_windows(
    model: LatentActionModel, keyed: Iterable[tuple[_Key, Window]], batch: int
) -> Iterator[tuple[_Key, LatentActions]]:
    """Latent actions that each window keeps, ``B keep Dz``; windows of one length go through the model together.

    Those of one key come out in the order in which they went in, as long as only its first can be short.
    """
    waiting: dict[int, list[tuple[_Key, Window]]] = {}
    for key, window in keyed:
        group = waiting.setdefault(window.e.shape[1], [])
        group.append((key, window))
        if len(group) == batch:
            yield from _infer(model, waiting.pop(window.e.shape[1]))
    for group in waiting.values():
        yield from _infer(model, group)


def _infer(model: LatentActionModel, group: list[tuple[_Key, Window]]) -> Iterator[tuple[_Key, LatentActions]]:
    z = model.infer(torch.cat([window.e for _, window in group])).float()
    sizes = [len(window.e) for _, window in group]
    for (key, window), part in zip(group, z.split(sizes), strict=True):
        yield key, part[:, part.shape[1] - window.keep :]


def infer_long(model: LatentActionModel, chunks: Iterable[Chunk] | Features, frames: int) -> LatentActions:
    """Latent actions of a clip of any length, given whole or in chunks, read in windows of ``frames`` frames.

    Raises:
        DilaError: fewer than two frames.
    """
    parts = [chunks] if isinstance(chunks, Tensor) else chunks
    z = [part for _, part in infer_windows(model, ((0, window) for window in windows(parts, frames)), BATCH)]
    if not z:
        raise DilaError("a latent action lies between two frames, but the clip has fewer; give a longer one")
    return torch.cat(z, dim=1)
