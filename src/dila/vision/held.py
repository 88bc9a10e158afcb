"""Cached features of episodes in device memory, so that a fast device does not wait for clips to be read from disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dila.shapes import Float, Tensor
from dila.vision.cache import BYTES_PER_NUMBER, CachedEpisode
from dila.vision.statistics import FeatureStatistics


@dataclass(frozen=True)
class HeldEpisode:
    """A `CachedEpisode` whose features are on a device in the cache's dtype; `read` returns them there."""

    id: str
    times: np.ndarray
    columns: Mapping[str, np.ndarray]
    e: Float[Tensor, "N H W D"]
    key: str
    statistics: FeatureStatistics | None

    def read(self, frames: Sequence[int]) -> Float[Tensor, "N H W D"]:
        """Return the features of the frames with these indices, in this order, float32, on the device."""
        e = self.e[torch.as_tensor(list(frames), device=self.e.device)].float()
        return e if self.statistics is None else self.statistics.normalise(e)

    def fingerprint(self) -> str:
        """Return the fingerprint of the cached episode."""
        return self.key


def hold(episode: CachedEpisode, device: torch.device) -> HeldEpisode:
    """Copy all features of an episode to a device.

    Raises:
        DilaError: they cannot be read.
    """
    raw = episode.with_statistics(None).read(range(len(episode.times)))
    statistics = episode.statistics
    if statistics is not None:
        statistics = replace(statistics, mean=statistics.mean.to(device), var=statistics.var.to(device))
    e = raw.to(torch.bfloat16).to(device)
    return HeldEpisode(episode.id, episode.times, episode.columns, e, episode.key, statistics)


def size(frames: int, grid: tuple[int, int], feature_dim: int) -> float:
    """Return the size of this many frames in gigabytes."""
    return frames * grid[0] * grid[1] * feature_dim * BYTES_PER_NUMBER / 1e9
