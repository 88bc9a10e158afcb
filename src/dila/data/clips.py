"""Clips: windows of T frames of an episode, at a stride in seconds."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from dila.data import room
from dila.data.reading import LazyColumns
from dila.errors import DilaError, in_words, refuse_shortage
from dila.protocols import Episode
from dila.shapes import Int, Tensor

# Tolerance in seconds: a target time halfway between two frames takes the earlier one, however the times are rounded.
TIE = 1e-6

EVEN = 0.05
"""Rounding error of the times of an even frame rate, as a share of the time between frames."""

ROUNDED = 0.0012
"""Maximum error in seconds of the difference of two times that are rounded to milliseconds."""

SHORT = 0.6
"""Minimum length of a transition next to missing frames, as a share of the stride."""

CHUNK = 65_536
"""Windows that are cut at once, to bound memory: each needs T frame numbers and T times."""

FLOATS = ("action", "state")
"""Columns that are float32 in every clip, since some episodes may store them as integers."""


class Clip(NamedTuple):
    """One window, or a batch of them with B in front of every shape (`collate_clips`)."""

    frames: Tensor
    """``T ...``: what `Episode.read` returned: uint8 ``T 3 Y X`` for frames, ``T H W D`` for features."""
    episode: int | Tensor
    """Index of the episode in the list given to `Clips`."""
    index: Int[Tensor, "*B T"]
    """Raw frame numbers in the episode."""
    columns: dict[str, Tensor]
    """``action``: ``K n A``, the n rows of raw actions between frame k and frame k+1; others: ``T A``, rows at the
    T frames."""
    skipped: tuple[str, ...] = ()
    """Clips that could not be read and that this clip replaces, each with its reason; see `dila.data.Mixture`."""


class Unreadable(DilaError):
    """The frames or the columns of one clip cannot be read."""


@dataclass(frozen=True)
class TooShort:
    """An episode without a window, and why."""

    id: str
    reason: str


class Clips(Dataset[Clip]):
    """Dataset of windows of `frames` frames, each within one episode.

    Frame k of a window is the one nearest to t0 + k * stride. A window is valid only if its frames all differ and each
    is within half a stride and within the median time between frames of its target time. Nothing is padded, repeated or
    bridged over a gap, and no missing frame makes a transition much shorter (`squeezed`).

    A column is dropped if some usable episode lacks it or has a different number of components. `action` is also
    dropped, from all clips, if transitions do not all span the same number of raw frames (a variable frame rate, or a
    stride that is not a multiple of the frame time), because its rows then do not stack; `dropped` gives the reason.
    `action` and `state` are always float32.

    Args:
        episodes: episodes to cut; see `dila.data.open_corpus`.
        frames: frames per window, T, at least 2.
        stride: seconds between frames of a window; None uses every frame.
        hop: raw frames between the starts of consecutive windows.
        size: resize frames (not features) to this many pixels a side, or to these rows and columns, ignoring the
            aspect ratio.

    Attributes:
        too_short: episodes too short for a window.
        dropped: names of dropped columns, with the reason.

    Raises:
        DilaError: an argument is out of range, or no episode is long enough for a window.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        frames: int,
        stride: int | float | None = None,
        hop: int = 1,
        size: int | tuple[int, int] | None = None,
    ):
        if frames < 2 or hop < 1 or (stride is not None and not stride > 0):
            raise DilaError(
                f"frames = {frames} must be at least 2, hop = {hop} at least 1 and stride = {stride} above 0"
            )
        self.episodes = list(episodes)
        self.frames, self.stride, self.hop = frames, stride, hop
        self.size = (size, size) if isinstance(size, int) else size
        self.too_short: list[TooShort] = []
        self.dropped: dict[str, str] = {}
        self._cut()
        self._choose_columns()

    def _cut(self) -> None:
        owners, starts, steps = [], [], set()
        for number, episode in enumerate(self.episodes):
            found = 0
            places = np.arange(0, len(episode.times), self.hop)
            for first in range(0, len(places), CHUNK):
                index = self._windows(episode.times, places[first : first + CHUNK])
                index = index[_usable(episode.times, index, self.stride)]
                starts.append(index[:, 0].astype(np.int32))
                steps.update(np.unique(np.diff(index, axis=1)).tolist())
                found += len(index)
            if found:
                owners.append(np.full(found, number, dtype=np.int32))
            else:
                self.too_short.append(TooShort(episode.id, self._why_short(episode.times)))
        if not owners:
            raise DilaError(self._nothing())
        self._owner, self._start = np.concatenate(owners), np.concatenate(starts)
        self._steps = sorted(steps)

    def _windows(self, times: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return raw frame numbers ``S T`` of windows that begin at `starts`; past the end, the number of frames."""
        if self.stride is None or len(times) < 2:
            return np.minimum(starts[:, None] + np.arange(self.frames), len(times))
        goals = times[starts][:, None] + np.arange(self.frames) * self.stride
        # The last frame lasts as long as the one before it: otherwise it would be nearest to all times after it.
        return np.searchsorted(np.append(times[1:] + times[:-1], 3 * times[-1] - times[-2]) / 2, goals - TIE)

    def _choose_columns(self) -> None:
        used = [self.episodes[i] for i in np.unique(self._owner)]
        holders: Counter[str] = Counter()
        first: dict[str, dict[tuple[int, ...], str]] = defaultdict(dict)
        for episode in used:
            for name, shape in row_shapes(episode).items():
                holders[name] += 1
                first[name].setdefault(shape, episode.id)
        for name in sorted(holders):
            if holders[name] < len(used):
                self.dropped[name] = "some episodes lack it"
            elif len(first[name]) > 1:
                self.dropped[name] = f"episodes differ in it: {_unlike(first[name])}"
            elif name == "action" and self.stride and len(self._steps) > 1:
                self.dropped[name] = (
                    f"transitions span {self._steps} raw frames: a stride of {self.stride:g} s needs an even rate "
                    f"that is a multiple of {1 / self.stride:.4g} frames a second"
                )
        self._columns = [name for name in sorted(holders) if name not in self.dropped]

    def _why_short(self, times: np.ndarray) -> str:
        seconds = float(times[-1] - times[0]) if len(times) else 0.0
        if self.stride is None:
            return f"has {len(times)} frames, but a window needs {self.frames}"
        if self._is_slow(times):
            return f"has a frame every {_spacing(times):.3g} s, which is more than the stride of {self.stride:g} s"
        span = (self.frames - 1) * self.stride
        return f"lasts {seconds:.3g} s, but a window of {self.frames} frames every {self.stride:g} s needs {span:.3g} s"

    def _nothing(self) -> str:
        if not self.too_short:
            return "there are no episodes to cut clips from; give a corpus that is not empty"
        times = {episode.id: episode.times for episode in self.episodes}
        longest = max(self.too_short, key=lambda s: len(times[s.id]))
        what = f"the longest episode, {longest.id}, " if len(self.too_short) > 1 else f"{longest.id} "
        if self.stride and self._is_slow(times[longest.id]):
            rate = f"{1 / self.stride:.4g} frames a second or a multiple"
            return f"{what}{longest.reason}; give video of {rate}, or train with a longer stride"
        mend = "lower frames" if self.stride is None else "lower frames or change the stride"
        return f"{what}{longest.reason}; {mend} or give longer video"

    def _is_slow(self, times: np.ndarray) -> bool:
        return self.stride is not None and self.stride < _spacing(times) * (1 - TIE)

    def __len__(self) -> int:
        return len(self._owner)

    def index_of(self, item: int) -> tuple[int, np.ndarray]:
        """Return the index of the episode and the raw frame numbers of a clip, without reading it."""
        number = int(self._owner[item])
        return number, self._windows(self.episodes[number].times, self._start[item : item + 1])[0]

    def __getitem__(self, item: int) -> Clip:
        """Read a clip.

        Raises:
            Unreadable: its video, or the table of its columns, is missing or damaged.
        """
        if not -len(self) <= item < len(self):
            raise IndexError(item)
        number, index = self.index_of(item % len(self))
        episode = self.episodes[number]
        try:
            with room.lent_to(self, episode):
                frames = episode.read(index.tolist())
            columns = {name: torch.from_numpy(self._rows(name, episode, index)) for name in self._columns}
        except Exception as error:  # the decoder of a damaged file may raise anything
            refuse_shortage(error)
            raise Unreadable(f"{episode.id} from frame {index[0]}: {in_words(error)}") from error
        if self.size is not None and frames.dtype == torch.uint8:
            frames = resized(frames, self.size)
        return Clip(frames, number, torch.from_numpy(index.astype(np.int64)), columns)

    @cached_property
    def column_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each column of a clip: ``K n A`` for `action`, ``T A`` for the others."""
        of = self._first.columns
        length = {"action": (self.frames - 1, self._steps[0])}
        return {name: (*length.get(name, (self.frames,)), *of[name].shape[1:]) for name in self._columns}

    @property
    def _first(self) -> Episode:
        return self.episodes[int(self._owner[0])]

    def _rows(self, name: str, episode: Episode, index: np.ndarray) -> np.ndarray:
        column = episode.columns[name]
        taken = column[index if name != "action" else index[:-1, None] + np.arange(self._steps[0])]
        if taken.shape != self.column_shapes[name]:  # the table does not match the widths that its metadata declares
            unlike = {self._first.columns[name].shape[1:]: self._first.id, column.shape[1:]: episode.id}
            raise DilaError(f"episodes differ in column {name!r}: {_unlike(unlike)}; remove one of them")
        return taken.astype(np.float32, copy=False) if name in FLOATS else taken


def row_shapes(episode: Episode) -> dict[str, tuple[int, ...]]:
    """Return the shape of one row of each column of an episode, without reading lazy columns."""
    if isinstance(columns := episode.columns, LazyColumns):
        return {name: (width,) for name, width in columns.widths.items()}
    return {name: values.shape[1:] for name, values in columns.items()}


def _spacing(times: np.ndarray) -> float:
    """Return the median time between frames in seconds; 0 for fewer than two frames."""
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0


def _unlike(names: Mapping[tuple[int, ...], str]) -> str:
    """Name two episodes that have a column in different shapes."""
    return " and ".join(
        f"{name} has {' x '.join(map(str, shape))} numbers per frame" for shape, name in islice(names.items(), 2)
    )


def _usable(times: np.ndarray, index: np.ndarray, stride: int | float | None) -> np.ndarray:
    """Return which windows ``S T`` have only frames that exist, differ, and are near their target times."""
    inside = index[:, -1] < len(times)
    if stride is None or not inside.any():
        return inside
    at = times[np.minimum(index, len(times) - 1)]
    goals = at[:, :1] + np.arange(index.shape[1]) * stride
    spacing = float(np.median(np.diff(times)))
    near = (np.abs(at - goals) <= min(stride / 2, spacing) + TIE).all(axis=1)
    whole = (np.diff(index, axis=1) > 0) & ~squeezed(at, goals, stride, spacing)
    return inside & near & whole.all(axis=1)


def squeezed(at: np.ndarray, goals: np.ndarray, stride: int | float, spacing: float) -> np.ndarray:
    """Return which transitions ``... K`` are shorter than `SHORT` strides because frames are missing.

    At an even frame rate, no frame is further from its target time than half the time between frames.

    Args:
        at: times ``... T`` of the chosen frames.
        goals: their target times.
        stride: seconds between target times.
        spacing: median seconds between frames.
    """
    forced = np.abs(at - goals) > spacing / 2 + max(EVEN * spacing, ROUNDED)
    return (np.diff(at) < SHORT * stride) & (forced[..., 1:] | forced[..., :-1])


def resized(frames: Tensor, size: Sequence[int]) -> Tensor:
    """Resize frames ``... 3 Y X``, uint8 or float, to these rows and columns (bilinear, antialiased)."""
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    flat = F.interpolate(frames.reshape(-1, *frames.shape[-3:]), tuple(size), mode="bilinear", antialias=True)
    return flat.reshape(*frames.shape[:-2], *size)


def collate_clips(clips: Sequence[Clip]) -> Clip:
    """Stack clips into a batch: every tensor gets a dimension B in front; `skipped` is joined over the clips.

    Raises:
        DilaError: the sizes of frames differ.
    """
    check_alike(clips)
    return join_clips(clips, as_shown(torch.stack([as_stored(clip.frames) for clip in clips])))


def check_alike(clips: Sequence[Clip]) -> None:
    """Check that clips can be stacked.

    Raises:
        DilaError: the sizes of frames differ.
    """
    shapes = {tuple(c.frames.shape) for c in clips}
    if len(shapes) > 1:
        raise DilaError(f"clips of different shapes {sorted(shapes)} do not stack; set size in Clips")


def join_clips(clips: Sequence[Clip], frames: Tensor) -> Clip:
    """Build the batch of clips whose frames are already stacked."""
    columns = {name: torch.stack([clip.columns[name] for clip in clips]) for name in clips[0].columns}
    skipped = tuple(chain.from_iterable(clip.skipped for clip in clips))
    episodes = torch.tensor([clip.episode for clip in clips])
    return Clip(frames, episodes, torch.stack([clip.index for clip in clips]), columns, skipped)


def as_stored(frames: Tensor) -> Tensor:
    """Return frames in their memory layout: uint8 frames channels last, since permuting costs three times a copy."""
    return frames.movedim(-3, -1) if frames.dtype == torch.uint8 else frames


def as_shown(frames: Tensor) -> Tensor:
    """Invert `as_stored`: uint8 frames channels first."""
    return frames.movedim(-1, -3) if frames.dtype == torch.uint8 else frames
