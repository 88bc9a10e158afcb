"""Frame rates from frame times, which may be rounded to milliseconds (Matroska) or be NTSC rates (over 1.001)."""

from typing import Any

import numpy as np

NTSC = 1.001
SLACK = 5e-4
"""Relative difference up to which a measured rate is taken for a whole number (or one over 1.001)."""
ROUNDED = 1e-3
"""Maximum error in seconds of the duration of a clip whose first and last times are rounded to milliseconds."""


def even_rate(times: np.ndarray) -> int | float | None:
    """Return the frame rate of even times in seconds; None if they are uneven or fewer than two."""
    if len(times) < 2 or not times[-1] > times[0]:
        return None
    seconds = float(times[-1] - times[0])
    found, slack = (len(times) - 1) / seconds, max(SLACK, ROUNDED / seconds)
    near = [rate for rate in (round(found), round(found * NTSC) / NTSC) if rate and abs(found / rate - 1) < slack]
    rate = min(near, key=lambda each: abs(found / each - 1)) if near else round(found, 3)
    even = rate > 0 and np.abs(times - times[0] - np.arange(len(times)) / rate).max() < 0.5 / rate
    return rate if even else None


def stored_times(episode: Any) -> np.ndarray | None:
    """Return the frame times stored in the video file or the LeRobot table, whatever ``fps`` was given, or None."""
    if info := getattr(episode, "info", None):
        return info.stored
    return episode.stamps() if getattr(episode, "stamps", None) else None
