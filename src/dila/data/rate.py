"""The frame rate of times, which containers round to milliseconds (Matroska) or which NTSC divides by 1.001."""

from typing import Any

import numpy as np

NTSC = 1.001
SLACK = 5e-4
"""By which a measured rate may differ from a whole number (or one over 1.001), relative."""


def even_rate(times: np.ndarray) -> int | float | None:
    """Frames a second of even times in seconds; None where they are not even, or fewer than two."""
    if len(times) < 2 or not times[-1] > times[0]:
        return None
    found = (len(times) - 1) / float(times[-1] - times[0])
    near = [rate for rate in (round(found), round(found * NTSC) / NTSC) if rate and abs(found / rate - 1) < SLACK]
    rate = min(near, key=lambda each: abs(found / each - 1)) if near else round(found, 3)
    even = rate > 0 and np.abs(times - times[0] - np.arange(len(times)) / rate).max() < 0.5 / rate
    return rate if even else None


def stored_times(episode: Any) -> np.ndarray | None:
    """Seconds of each frame as the file of a video or the table of a LeRobot data set has them, under any ``fps``."""
    if info := getattr(episode, "info", None):
        return info.stored
    return episode.stamps() if getattr(episode, "stamps", None) else None
