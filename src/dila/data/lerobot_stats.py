"""Statistics of the features of a LeRobot data set, per episode and over all episodes.

Each is a dict of ``min``, ``max``, ``mean``, ``std``, ``count`` and the quantiles in `QUANTILES`, as lists for JSON and
Parquet. Pixels are in 0..1 and have the shape ``3 1 1``. As in LeRobot's ``compute_stats.py``, a quantile over all
episodes is the mean of those of the episodes, weighted by their counts; those of an episode, which LeRobot estimates
from a histogram, are exact.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dila.shapes import Tensor

DETAIL = 150
"""Larger pictures are subsampled to about this many pixels on their shorter side."""
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
KINDS = ("min", "max", "mean", "std", "count", *QUANTILES)


def statistics(values: np.ndarray) -> dict[str, list[Any]]:
    """Compute statistics of the rows ``[N]`` or ``[N, A]`` of a column, ignoring unknown values (NaN).

    ``count`` is the number of rows with a known value. Statistics of a component that is never known are NaN.
    """
    x = values.reshape(len(values), -1).astype(np.float64)
    unknown = np.isnan(x)
    never = unknown.all(axis=0)
    known = np.where(never, 0, x)
    found = {
        "min": np.nanmin(known, axis=0),
        "max": np.nanmax(known, axis=0),
        "mean": np.nanmean(known, axis=0),
        "std": np.nanstd(known, axis=0),
        **dict(zip(QUANTILES, np.nanquantile(known, list(QUANTILES.values()), axis=0), strict=True)),
    }
    told = {kind: np.where(never, np.nan, value).tolist() for kind, value in found.items()}
    return {**told, "count": [int((~unknown.all(axis=1)).sum())]}


def merged(parts: Sequence[Mapping[str, list[Any]]]) -> dict[str, list[Any]]:
    """Combine the statistics of episodes into those of all; a component that no episode knows has zeros.

    Quantiles that some episode lacks are left out.
    """
    low, high, mean, std = (np.array([part[kind] for part in parts]) for kind in ("min", "max", "mean", "std"))
    count = np.array([part["count"][0] for part in parts]).reshape(-1, *[1] * (mean.ndim - 1))
    weight = np.where(np.isnan(mean), 0, count)
    total = weight.sum(0)
    share = weight / np.maximum(total, 1)

    def average(values: np.ndarray) -> np.ndarray:
        return np.where(weight, share * values, 0).sum(0)

    middle = average(mean)
    quantiles = {
        kind: average(np.array([part[kind] for part in parts])) for kind in QUANTILES if all(kind in p for p in parts)
    }
    found = {
        "min": np.where(total, np.where(weight, low, np.inf).min(0), 0),
        "max": np.where(total, np.where(weight, high, -np.inf).max(0), 0),
        "mean": middle,
        "std": np.sqrt(average(std**2 + (mean - middle) ** 2)),
        **quantiles,
    }
    return {kind: value.tolist() for kind, value in found.items()} | {"count": [int(count.sum())]}


class PixelStatistics:
    """Accumulates pixel statistics of frames on their way to the video encoder."""

    def __init__(self) -> None:
        self.frames = 0
        self.size = [0, 0]
        self._levels = np.zeros((3, 256), np.int64)
        """Number of pixels of each channel with each value."""

    def watching(self, chunks: Iterable[Tensor]) -> Iterator[np.ndarray]:
        """Yield the pictures ``Y X 3`` of uint8 chunks ``N 3 Y X`` and add them to the statistics."""
        for chunk in chunks:
            for picture in chunk.permute(0, 2, 3, 1).contiguous().numpy():
                self._see(picture)
                yield picture

    def result(self) -> dict[str, Any]:
        """Return the statistics of all frames so far, ``3 1 1`` each."""
        value, below = np.arange(256), self._levels.cumsum(axis=1)
        pixels = int(below[0, -1])
        mean = self._levels @ value / pixels
        found = {
            "min": (below > 0).argmax(axis=1),
            "max": (below == pixels).argmax(axis=1),
            "mean": mean,
            "std": np.sqrt(np.maximum(self._levels @ value**2 / pixels - mean**2, 0)),
            **{kind: (below >= share * pixels).argmax(axis=1) for kind, share in QUANTILES.items()},
        }
        told = {kind: (numbers / 255).reshape(3, 1, 1).tolist() for kind, numbers in found.items()}
        return {**told, "count": [self.frames]}

    def _see(self, picture: np.ndarray) -> None:
        rows, columns = picture.shape[:2]
        self.size = [rows + rows % 2, columns + columns % 2]
        self.frames += 1
        step = max(1, min(rows, columns) // DETAIL)
        for levels, channel in zip(self._levels, picture[::step, ::step].reshape(-1, 3).T, strict=True):
            levels += np.bincount(channel, minlength=256)
