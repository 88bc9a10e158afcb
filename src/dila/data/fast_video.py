"""torchcodec (extra ``fast-video``) in the place of PyAV, where it gives the same frames.

It needs FFmpeg of the system, and spares about a tenth of the time of a clip (docs/log.md). See
https://github.com/meta-pytorch/torchcodec.

Only what has been found equal to the pixel goes this way: 8-bit pictures, upright, evenly spaced in time. Everything
else, and everything that fails, is left to PyAV, whose errors are the ones that are told.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dila.shapes import Tensor, UInt8

if TYPE_CHECKING:
    from dila.data.video import VideoInfo

EQUAL = frozenset({"yuv420p", "yuvj420p", "yuv444p"})
"""Pixel formats whose conversion to RGB is the same in both; of 10 bits it is not."""


def read_fast(path: Path, frames: Sequence[int], info: "VideoInfo") -> UInt8[Tensor, "N 3 Y X"] | None:
    """What `dila.data.read_video` gives, or None where PyAV has to be asked."""
    decoder = _torchcodec()
    if decoder is None or not frames or not _is_even(info):
        return None
    try:
        # Otherwise it walks all packets first. Without that it goes by the frame rate, which even times bear out.
        video = decoder(path, seek_mode="approximate", num_ffmpeg_threads=1)
        about = video.metadata
        if about.pixel_format not in EQUAL or about.rotation or (about.height, about.width) != info.size:
            return None
        read = video.get_frames_at(list(frames))
    except (RuntimeError, ValueError, IndexError, OSError):
        return None
    assert info.pts is not None
    wanted = (info.pts[list(frames)] - info.pts[0]) * info.tick
    since = read.pts_seconds.numpy() - (about.begin_stream_seconds or 0.0)
    step = float(info.pts[1] - info.pts[0]) * info.tick
    same = read.data.shape[-2:] == info.size and bool((np.abs(since - wanted) < step / 4).all())
    return read.data if same else None


@lru_cache(maxsize=1)
def _torchcodec() -> Any:
    """Its decoder, or None where it is not installed or finds no FFmpeg that it can use."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError):
        return None
    return VideoDecoder


def _is_even(info: "VideoInfo") -> bool:
    return info.pts is not None and len(info) > 1 and info.tick > 0 and bool(np.ptp(np.diff(info.pts)) == 0)
