"""torchcodec (extra ``fast-video``) instead of PyAV, where both give the same frames.

It needs the FFmpeg of the system and saves about a tenth of the time of a clip (docs/log.md). See
https://github.com/meta-pytorch/torchcodec.

It is used only for videos whose frames were found identical in every pixel: 8-bit, without rotation, evenly spaced in
time. Everything else, and every failure, falls back to PyAV, which reports the errors.
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
"""Pixel formats whose conversion to RGB is the same in both libraries; that of 10-bit formats differs."""


def read_fast(path: Path, frames: Sequence[int], info: "VideoInfo") -> UInt8[Tensor, "N 3 Y X"] | None:
    """Read frames as `dila.data.read_video` does, or return None if PyAV has to be used."""
    decoder = _torchcodec()
    if decoder is None or not frames or not _is_even(info):
        return None
    try:
        # The exact mode walks all packets first; the approximate one uses the frame rate, valid for even times.
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
    """Return torchcodec's decoder class, or None if it is not installed or finds no suitable FFmpeg."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError):
        return None
    return VideoDecoder


def _is_even(info: "VideoInfo") -> bool:
    return info.pts is not None and len(info) > 1 and info.tick > 0 and bool(np.ptp(np.diff(info.pts)) == 0)
