"""Read frames of a video by time without probing it first, for data sets whose tables give the time of each frame.

`dila.data.video` probes a file before reading it, which gives exact times but costs a pass over the file. That takes
too long for a file with a hundred episodes, whose data set states the start, length and rate of each.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dila.data.clips import TIE
from dila.data.video import _picture, opened
from dila.errors import DilaError
from dila.shapes import Tensor, UInt8

LEAP = 12
"""Seek, instead of decoding on, if the next frame is further ahead than this many frames."""
BOX_LIMIT = 10_000
"""Maximum number of top-level boxes of an mp4."""


def late(stream: Any, frame_time: float) -> float:
    """Return how many seconds after a time a frame may be shown and still be certain to be the nearest to it.

    Args:
        stream: the video stream, which may have a higher frame rate than its data set.
        frame_time: seconds per frame of the data set.
    """
    return min(frame_time, 1 / float(stream.average_rate or 1 / frame_time)) / 4


def read_at(path: Path, seconds: Sequence[float], frame_time: float) -> UInt8[Tensor, "N 3 Y X"]:
    """Read the frames nearest to these presentation times, in the given order, RGB, with rotation applied.

    Args:
        path: the file.
        seconds: presentation times in the file; repeats are fine.
        frame_time: seconds per frame of the data set; a frame must be within half of it.

    Raises:
        DilaError: the file is unreadable, or has no frame at one of these times.
    """
    times = np.asarray(seconds, dtype=np.float64)
    if not path.is_file():
        raise DilaError(f"{path} no longer exists; restore it, or open the data set again")
    pictures: dict[float, np.ndarray] = {}
    with opened(path) as (container, stream):
        walk = _Walk(container, stream, frame_time)
        for time in np.unique(times).tolist():
            frame = walk.to(time)
            if frame is None:
                raise DilaError(f"{path} has no frame at {time:.3f} s, but its data set lists one; fetch it again")
            size = next(iter(pictures.values())).shape[:2] if pictures else None
            pictures[time] = _picture(frame, size)
    return torch.from_numpy(np.stack([pictures[t] for t in times.tolist()])).permute(0, 3, 1, 2).contiguous()


class _Shown(NamedTuple):
    """A frame and its presentation time."""

    seconds: float
    frame: Any


class _Walk:
    """Decodes frames at increasing times, seeking where that may be faster."""

    def __init__(self, container: Any, stream: Any, frame_time: float):
        self.container, self.stream, self.frame_time = container, stream, frame_time
        self.tick, self.late = float(stream.time_base), late(stream, frame_time)
        self.frames: Any = None
        self.last: _Shown | None = None
        self.ahead: _Shown | None = None
        """The frame after `last`, if already decoded."""

    def to(self, time: float) -> Any:
        """Return the frame nearest to this time (the earlier one of a tie), or None."""
        if self.last is None or time - self.last.seconds > LEAP * self.frame_time:
            self._seek(time)
        while self.last is not None and self.last.seconds < time - TIE:
            self.ahead = self.ahead or self._next()
            if self.ahead is None or self.ahead.seconds - time >= time - self.last.seconds - TIE:
                break
            self.last, self.ahead = self.ahead, None
        if self.last is None or abs(self.last.seconds - time) > self.frame_time / 2:
            return None
        return self.last.frame

    def _seek(self, time: float) -> None:
        """Seek to a keyframe shown at or before `time`; containers seek by decoding time, which is earlier."""
        back = 0.0
        while True:
            goal = max(0.0, time + self.late - back)
            self.container.seek(int(goal / self.tick), stream=self.stream, backward=True)
            self.frames = self.container.decode(self.stream)
            self.last, self.ahead = self._next(), None
            if self.last is None or goal == 0 or self.last.seconds <= time + self.late:
                return
            back = max(2 * back, 4 * self.frame_time)

    def _next(self) -> _Shown | None:
        frame = next(self.frames, None)
        return None if frame is None else _Shown(self._time(frame), frame)

    def _time(self, frame: Any) -> float:
        ticks = frame.dts if frame.pts is None else frame.pts
        return ticks * self.tick


def check_whole(path: Path) -> None:
    """Check that an mp4 is complete by the declared sizes of its top-level boxes: a few reads, no decoding.

    Raises:
        DilaError: it is missing, empty or truncated.
    """
    if not path.is_file():
        raise DilaError(f"{path} cannot be read: it is missing or not a regular file; fetch it again")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            position = 0
            for _ in range(BOX_LIMIT):
                if position >= size:
                    break
                position += _box(file, position, size)
    except OSError as error:
        raise DilaError(f"{path} cannot be read: {error.strerror or error}") from error
    if size == 0:
        raise DilaError(f"{path} is empty; replace or remove it")
    if position != size:
        raise DilaError(f"{path} is damaged or truncated; replace or remove it")


def _box(file: Any, position: int, size: int) -> int:
    """Return the size of the box at `position`; if there is no valid box, a size past the end of the file."""
    file.seek(position)
    head = file.read(16)
    claimed = int.from_bytes(head[:4])
    if claimed == 1:
        claimed = int.from_bytes(head[8:16])
    elif claimed == 0 and len(head) >= 8:
        return size - position
    return claimed if claimed >= 8 else size + 1
