"""The frame rate of times, which containers round to milliseconds (Matroska) or which NTSC divides by 1.001."""

from typing import Any

import numpy as np

NTSC = 1.001
SLACK = 5e-4
"""By which a measured rate may differ from a whole number (or one over 1.001), relative."""
ROUNDED = 1e-3
"""Seconds that the length of a clip may be off by, its ends being rounded to milliseconds."""


def even_rate(times: np.ndarray) -> int | float | None:
    """Frames a second of even times in seconds; None where they are not even, or fewer than two."""
    if len(times) < 2 or not times[-1] > times[0]:
        return None
    seconds = float(times[-1] - times[0])
    found, slack = (len(times) - 1) / seconds, max(SLACK, ROUNDED / seconds)
    near = [rate for rate in (round(found), round(found * NTSC) / NTSC) if rate and abs(found / rate - 1) < slack]
    rate = min(near, key=lambda each: abs(found / each - 1)) if near else round(found, 3)
    even = rate > 0 and np.abs(times - times[0] - np.arange(len(times)) / rate).max() < 0.5 / rate
    return rate if even else None


def stored_times(episode: Any) -> np.ndarray | None:
    """Seconds of each frame as the file of a video or the table of a LeRobot data set has them, under any ``fps``."""
    if info := getattr(episode, "info", None):
        return info.stored
    return episode.stamps() if getattr(episode, "stamps", None) else None
