"""Read long videos in bounded memory: sample frames at a stride, encode them in chunks, cut overlapping windows.

A model is trained on clips of T frames and attends to all frames it is given, so a long video is read in windows of T
frames that overlap by half. The first window contributes all its T - 1 transitions, each later one only its last
T // 2. Every action is thus inferred from at least T / 2 - 1 earlier frames, as in the middle of a training clip,
except near the start of the video. The last window is shifted back to end with the video, so every window has T frames
unless the whole video is shorter.
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
"""Number of decoded frames of a video held in memory at once."""

BATCH = 8
"""Number of windows of a clip that go through the model at once."""

Chunk = Float[Tensor, "B _ H W D"]
"""Features of some frames of a clip; chunks of one clip can have different lengths."""

_Key = TypeVar("_Key", bound=Hashable)


class Window(NamedTuple):
    """A window of features; its last ``keep`` transitions are in no earlier window."""

    e: Features
    keep: int


def sample(episode: Episode, stride: int | float, every_frame: bool = False) -> list[np.ndarray]:
    """Return raw frame numbers at every ``stride`` seconds, as unbroken runs; a constant frame rate gives one run.

    Sample k is the frame nearest to k * stride, counted from the first frame, or from the first frame after a gap that
    no transition spans. A run ends where no frame is within half a stride (or the median frame spacing, if that is
    less) of the sample's time, where the nearest frame was already taken, where the distance between two samples
    differs from the stride by more than that, or where a missing frame leaves a much shorter distance
    (`dila.data.clips.squeezed`). Gaps are never bridged and frames never repeated. `dila.data.Clips` samples in the
    same way, so inference matches training.

    With ``every_frame``, further runs start at each frame that has no transition yet, until all frames are covered. If
    the frame rate divides the stride, each frame is in one run; otherwise some are in two, with different successors.

    Raises:
        DilaError: the episode is empty, or its frame rate is too low for the stride.
    """
    times, spacing = _clock(episode, stride)
    cut = _every if every_frame else _runs
    return [start + run for start, piece in _pieces(times, spacing, stride) for run in cut(piece, spacing, stride)]


def _every(times: np.ndarray, spacing: float, stride: int | float) -> Iterator[np.ndarray]:
    """Try at most twice as many runs as a stride has frames, which omits some frames of irregular timestamps."""
    free = np.ones(len(times), dtype=bool)
    for _ in range(min(len(times), 2 * math.ceil(stride / spacing - TIE))):
        first = int(free.argmax())
        for run in _runs(times[first:], spacing, stride):
            if free[first + run[:-1]].any():
                yield first + run
                free[first + run[:-1]] = False
        free[first] = False


def _clock(episode: Episode, stride: int | float) -> tuple[np.ndarray, float]:
    """Return an episode's timestamps and their median spacing."""
    times = np.asarray(episode.times, dtype=np.float64)
    if not len(times):
        raise DilaError(f"{episode.id} has no frames; replace or remove the file")
    spacing = float(np.median(np.diff(times))) if len(times) > 1 else stride
    if stride < 0.99 * spacing:
        raise DilaError(
            f"{episode.id} has a frame every {spacing:.3g} s, which is more than the model's stride of {stride:g} s; "
            "use a video with a higher frame rate"
        )
    return times, spacing


def _pieces(times: np.ndarray, spacing: float, stride: int | float) -> Iterator[tuple[int, np.ndarray]]:
    """Split the timestamps at gaps that no transition spans; yield each piece with the number of its first frame."""
    starts = np.flatnonzero(np.diff(times, prepend=-np.inf) > _most(spacing, stride))
    yield from zip(starts.tolist(), np.split(times, starts[1:]), strict=True)


def _most(spacing: float, stride: int | float) -> float:
    """Return the longest time between two frames of a transition, in seconds."""
    # If a constant frame rate does not divide the stride, some transitions are one frame longer; that is not a gap.
    return max(stride + min(stride / 2, spacing) + TIE, (math.ceil(stride / spacing - TIE) + EVEN) * spacing)


def _runs(times: np.ndarray, spacing: float, stride: int | float) -> list[np.ndarray]:
    # The last frame lasts as long as the one before it; otherwise it would be nearest to all times past the end.
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
    """Encode these frames; yield ``1 n H W D`` with n up to `CHUNK`. Raises DilaError if they cannot be read."""
    for start in range(0, len(index), CHUNK):
        yield encoder.encode(episode.read(index[start : start + CHUNK].tolist())[None])


class Windows:
    """Cuts features that arrive in chunks of any length into overlapping windows.

    Args:
        frames: frames per window.
    """

    def __init__(self, frames: int):
        self.frames, self.hop = frames, max(1, frames // 2)
        self._held: Tensor | None = None
        self._left: Tensor | None = None
        self._given = 0

    def take(self, chunk: Chunk) -> Iterator[Window]:
        """Yield the windows that are complete with this chunk and are not the last."""
        held = chunk if self._held is None else torch.cat([self._held, chunk], dim=1)
        while held.shape[1] > self.frames:
            yield Window(held[:, : self.frames], self.frames - 1 - self._given)
            self._left, held, self._given = held[:, : self.hop], held[:, self.hop :], self.frames - 1 - self.hop
        self._held = held

    def end(self) -> Iterator[Window]:
        """Yield the last window, if there were at least two frames."""
        held, given = self._held, self._given
        if held is not None and self._left is not None:
            lacking = self.frames - held.shape[1]
            held, given = torch.cat([self._left[:, self.hop - lacking :], held], dim=1), given + lacking
        if held is not None and held.shape[1] > 1:
            yield Window(held, held.shape[1] - 1 - given)


def windows(chunks: Iterable[Chunk], frames: int) -> Iterator[Window]:
    """Yield the windows of one clip; none if it has fewer than two frames."""
    cut = Windows(frames)
    for chunk in chunks:
        yield from cut.take(chunk)
    yield from cut.end()


def infer_windows(
    model: LatentActionModel, keyed: Iterable[tuple[_Key, Window]], batch: int
) -> Iterator[tuple[_Key, LatentActions]]:
    """Yield the latent actions that each window keeps, ``B keep Dz``; windows of equal length are batched.

    The windows of one key keep their order, provided that only the first of them can be shorter.

    Raises:
        DilaError: the model gives NaN or infinite numbers.
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
    if not z.isfinite().all():
        raise DilaError("the model's latent actions contain NaN or infinite numbers; its weights are damaged")
    sizes = [len(window.e) for _, window in group]
    for (key, window), part in zip(group, z.split(sizes), strict=True):
        yield key, part[:, part.shape[1] - window.keep :]


def infer_long(model: LatentActionModel, chunks: Iterable[Chunk] | Features, frames: int) -> LatentActions:
    """Return the latent actions of a clip of any length, given whole or in chunks, in windows of ``frames`` frames.

    Raises:
        DilaError: fewer than two frames, or latent actions that are not finite.
    """
    parts = [chunks] if isinstance(chunks, Tensor) else chunks
    z = [part for _, part in infer_windows(model, ((0, window) for window in windows(parts, frames)), BATCH)]
    if not z:
        raise DilaError("the clip has fewer than two frames, so it has no latent action; give a longer one")
    return torch.cat(z, dim=1)
