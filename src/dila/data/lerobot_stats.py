"""Statistics of the features of a LeRobot data set, per episode and over all episodes.

Each is a dict of ``min``, ``max``, ``mean``, ``std`` and ``count``, as lists for JSON and Parquet. Pixels are in 0..1
and have the shape ``3 1 1``.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from dila.shapes import Tensor

DETAIL = 150
"""Larger pictures are subsampled to about this many pixels on their shorter side."""


def statistics(values: np.ndarray) -> dict[str, list[Any]]:
    """Compute statistics of the rows ``[N]`` or ``[N, A]`` of a column, ignoring unknown values (NaN)."""
    x = values.reshape(len(values), -1).astype(np.float64)
    known = np.where(np.isnan(x).all(axis=0), 0, x)  # zeros for a component that is never known
    return {
        "min": np.nanmin(known, axis=0).tolist(),
        "max": np.nanmax(known, axis=0).tolist(),
        "mean": np.nanmean(known, axis=0).tolist(),
        "std": np.nanstd(known, axis=0).tolist(),
        "count": [len(x)],
    }


def merged(parts: Sequence[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """Combine the statistics of episodes into those of all."""
    low, high, mean, std = (np.array([part[kind] for part in parts]) for kind in ("min", "max", "mean", "std"))
    count = np.array([part["count"][0] for part in parts], dtype=np.float64)
    share = (count / count.sum()).reshape(-1, *[1] * (mean.ndim - 1))
    middle = (share * mean).sum(0)
    return {
        "min": low.min(0).tolist(),
        "max": high.max(0).tolist(),
        "mean": middle.tolist(),
        "std": np.sqrt((share * (std**2 + (mean - middle) ** 2)).sum(0)).tolist(),
        "count": [int(count.sum())],
    }


class PixelStatistics:
    """Accumulates pixel statistics of frames on their way to the video encoder."""

    def __init__(self) -> None:
        self.frames = 0
        self.size = [0, 0]
        self._pixels = 0
        self._low, self._high = np.full(3, 255), np.zeros(3, dtype=np.int64)
        self._sum, self._squares = np.zeros(3), np.zeros(3)

    def watching(self, chunks: Iterable[Tensor]) -> Iterator[np.ndarray]:
        """Yield the pictures ``Y X 3`` of uint8 chunks ``N 3 Y X`` and add them to the statistics."""
        for chunk in chunks:
            for picture in chunk.permute(0, 2, 3, 1).contiguous().numpy():
                self._see(picture)
                yield picture

    def result(self) -> dict[str, Any]:
        """Return the statistics of all frames so far, ``3 1 1`` each."""
        mean = self._sum / self._pixels
        std = np.sqrt(np.maximum(self._squares / self._pixels - mean**2, 0))
        found = {"min": self._low, "max": self._high, "mean": mean, "std": std}
        return {kind: (value / 255).reshape(3, 1, 1).tolist() for kind, value in found.items()} | {
            "count": [self.frames]
        }

    def _see(self, picture: np.ndarray) -> None:
        rows, columns = picture.shape[:2]
        self.size = [rows + rows % 2, columns + columns % 2]
        self.frames += 1
        step = max(1, min(rows, columns) // DETAIL)
        pixels = picture[::step, ::step].reshape(-1, 3)
        self._low, self._high = np.minimum(self._low, pixels.min(0)), np.maximum(self._high, pixels.max(0))
        self._pixels += len(pixels)
        self._sum += pixels.sum(0, dtype=np.float64)
        self._squares += np.square(pixels, dtype=np.float64).sum(0)
