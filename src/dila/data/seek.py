"""Frames of a video by time, without walking its packets first: for data sets whose tables say where each frame lies.

`dila.data.video` probes a file before it reads from it, which gives true times and costs a pass over the file. A file
that holds a hundred episodes is too large for that, and its data set says how long each is and at which rate.
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
"""Frames ahead from which seeking is tried instead of decoding on."""
BOX_LIMIT = 10_000


def late(stream: Any, frame_time: float) -> float:
    """Seconds that a frame may be shown after a time and still be the nearest to it, whatever comes before it.

    Args:
        stream: of the video, which may have more frames a second than its data set.
        frame_time: seconds a frame of the data set.
    """
    return min(frame_time, 1 / float(stream.average_rate or 1 / frame_time)) / 4


def read_at(path: Path, seconds: Sequence[float], frame_time: float) -> UInt8[Tensor, "N 3 Y X"]:
    """The frames nearest to these times on the file's own clock, in the order asked, RGB, upright.

    Args:
        path: the file.
        seconds: times on the clock of the file; repeats are fine.
        frame_time: seconds a frame of whoever asks; a frame counts if it is nearer than half of that.

    Raises:
        DilaError: the file is unreadable, or has no frame at one of these times.
    """
    times = np.asarray(seconds, dtype=np.float64)
    if not path.is_file():
        raise DilaError(f"{path} is gone; put it back, or open the data set anew")
    pictures: dict[float, np.ndarray] = {}
    with opened(path) as (container, stream):
        walk = _Walk(container, stream, frame_time)
        for time in np.unique(times).tolist():
            frame = walk.to(time)
            if frame is None:
                raise DilaError(f"{path} has no frame at {time:.3f} s, where its data set places one; fetch it again")
            size = next(iter(pictures.values())).shape[:2] if pictures else None
            pictures[time] = _picture(frame, size)
    return torch.from_numpy(np.stack([pictures[t] for t in times.tolist()])).permute(0, 3, 1, 2).contiguous()


class _Shown(NamedTuple):
    """A frame, and when it is shown."""

    seconds: float
    frame: Any


class _Walk:
    """A decoder that goes to rising times, seeking where that may be shorter."""

    def __init__(self, container: Any, stream: Any, frame_time: float):
        self.container, self.stream, self.frame_time = container, stream, frame_time
        self.tick, self.late = float(stream.time_base), late(stream, frame_time)
        self.frames: Any = None
        self.last: _Shown | None = None
        self.ahead: _Shown | None = None
        """The one after the last, where it was looked at already."""

    def to(self, time: float) -> Any:
        """The frame nearest to this time, the earlier of two, or None."""
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
        """Go to a keyframe that is shown at or before `time`: containers seek by decoding time, which is earlier."""
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
    """Tell a missing, empty or truncated mp4 by the sizes that its outermost boxes claim: a few reads, no decoding.

    Raises:
        DilaError: it is not whole.
    """
    if not path.is_file():
        raise DilaError(f"{path} cannot be read: it is missing or no plain file; fetch it again")
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
        raise DilaError(f"{path} is damaged or cut short; replace or remove it")


def _box(file: Any, position: int, size: int) -> int:
    """Bytes of the box at `position`; what is no box reaches past the end of the file."""
    file.seek(position)
    head = file.read(16)
    claimed = int.from_bytes(head[:4])
    if claimed == 1:
        claimed = int.from_bytes(head[8:16])
    elif claimed == 0 and len(head) >= 8:
        return size - position
    return claimed if claimed >= 8 else size + 1
