"""A film whose every frame and pixel tells which it is, in any codec."""

from fractions import Fraction

import av
import numpy as np


def picture(f):
    """Detail that moves, so that a wrong frame or another conversion shows."""
    y, x = np.mgrid[:66, :98]
    return np.stack([(x * 3 + f * 5) % 256, (y * 4 - f * 3) % 256, (x * y // 8 + f * 11) % 256], axis=-1).astype(
        "uint8"
    )


def write_film(
    path, codec="libx264", pix_fmt="yuv420p", options=None, rotation=None, pts=None, full=False, count=40, gap=12
):
    """Write so many frames at 25 a second, a keyframe each `gap`; `full` range of colours, times by `pts`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": str(gap)} | (options or {}))
        stream.height, stream.width, stream.pix_fmt = 66, 98, pix_fmt
        stream.codec_context.time_base = Fraction(1, 25)
        if full:
            stream.codec_context.color_range, stream.codec_context.colorspace = 2, 1
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for f in range(count):
            frame = av.VideoFrame.from_ndarray(picture(f), format="rgb24")
            frame.pts, frame.time_base = (f if pts is None else pts[f]), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
