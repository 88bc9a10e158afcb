"""Decode an episode in a video of many episodes from its packets, opening the file once per episode, not per clip.

A data set with a hundred episodes in one video states the start, frame rate and length of each. The positions that
`dila.data.packets` needs are found when a frame of an episode is first read, from the packets of that episode alone,
and cached by the process for the `KEPT` episodes read last.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dila.data.clips import TIE
from dila.data.packets import list_packets
from dila.data.seek import late, read_at
from dila.data.video import VideoInfo, opened, read_packets
from dila.errors import DilaError
from dila.shapes import Tensor, UInt8

KEPT = 2048
"""Maximum number of episodes whose packets a process caches: about 10 KB each, for 200 frames."""


class Span(NamedTuple):
    """The part of a video that holds an episode with an even frame rate."""

    path: Path
    start: float
    """Presentation time of the first frame in the file, in seconds."""
    fps: float
    count: int
    """Number of frames."""

    @property
    def times(self) -> np.ndarray:
        """Presentation time of each frame in the file, in seconds."""
        return self.start + np.arange(self.count) / self.fps


def read_span(span: Span, frames: Sequence[int]) -> UInt8[Tensor, "N 3 Y X"]:
    """Read the frames with these indices, in the given order, RGB, with rotation applied.

    Raises:
        DilaError: the file is gone or unreadable, or has no frame at one of these times.
    """
    if (known := _known(span)) is not None:
        info, places = known
        wanted = places[list(frames)].tolist()
        if min(wanted, default=-1) >= 0 and (read := read_packets(span.path, wanted, info)) is not None:
            return read
    return read_at(span.path, span.times[list(frames)].tolist(), 1 / span.fps)


def _known(span: Span) -> tuple[VideoInfo, np.ndarray] | None:
    try:
        told = span.path.stat()
    except OSError:  # reported when the container is opened
        return None
    return _walked(span, told.st_mtime_ns, told.st_size)


@lru_cache(maxsize=KEPT)
def _walked(span: Span, changed: int, size: int) -> tuple[VideoInfo, np.ndarray] | None:
    """Return the packets of a span of this version of the file, and the index among them of each frame (-1: missing).

    None if they cannot be used, for any reason; errors are reported when the container is opened for frames.
    """
    half = 0.5 / span.fps
    try:
        with opened(span.path) as (container, stream):
            tick = float(stream.time_base)
            if (sought := _keyframe(container, stream, span)) is None:
                return None
            ticks, key, packets = list_packets(span.path, container, stream, (span.times[-1] + half) / tick)
            container.seek(sought, stream=stream, backward=True)
            first = next(container.decode(stream), None)
    except DilaError:
        return None
    if packets is None or first is None or first.rotation or packets.stamp != (changed, size):
        return None
    at, keyframes = ticks * tick, np.flatnonzero(key)
    info = VideoInfo(at - at[0], ticks, keyframes, ticks[keyframes], (first.height, first.width), tick, packets)
    after = np.minimum(np.searchsorted(at, span.times), len(at) - 1)
    before = np.maximum(after - 1, 0)
    places = np.where(span.times - at[before] <= at[after] - span.times + TIE, before, after)
    return info, np.where(np.abs(at[places] - span.times) <= half, places, -1)


def _keyframe(container: Any, stream: Any, span: Span) -> int | None:
    """Seek to the last keyframe shown at or before the start of the span; return the seek target in ticks, or None.

    Containers seek by decoding time, which is earlier, so the keyframe that they find may be shown too late.
    """
    tick, frame = float(stream.time_base), 1 / span.fps
    goal, back = span.start + late(stream, frame), 0.0
    while True:
        sought = int(max(0.0, goal - back) / tick)
        container.seek(sought, stream=stream, backward=True)
        packet = next((packet for packet in container.demux(stream) if packet.size), None)
        if packet is None or packet.pts is None:
            return None
        if packet.pts * tick <= goal:
            container.seek(sought, stream=stream, backward=True)
            return sought
        if back > goal:
            return None
        back = max(2 * back, 4 * frame)
