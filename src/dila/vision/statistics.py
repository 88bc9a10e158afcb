"""Normalisation of frozen features: ``(x - mean) / sqrt(var + 1e-5)``, fitted once and stored with the model."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from dila.errors import DilaError
from dila.files import at_home, replacing
from dila.shapes import Float, Frames, Pixels, Tensor
from dila.vision.stored import not_finite, read_tensors

if TYPE_CHECKING:
    from dila.vision.encoder import FrozenEncoder

EPSILON = 1e-5


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and variance of features, with shape ``D`` (per channel) or ``H W D``."""

    mean: Float[Tensor, "..."]
    var: Float[Tensor, "..."]

    def normalise(self, e: Float[Tensor, "*batch H W D"]) -> Float[Tensor, "*batch H W D"]:
        """Convert raw features to about zero mean and unit variance, float32."""
        mean, var = self.mean.to(e.device), self.var.to(e.device)
        return (e.float() - mean) * torch.rsqrt(var + EPSILON)

    def denormalise(self, e: Float[Tensor, "*batch H W D"]) -> Float[Tensor, "*batch H W D"]:
        """Inverse of `normalise`, differentiable."""
        mean, var = self.mean.to(e.device), self.var.to(e.device)
        return e.float() * torch.sqrt(var + EPSILON) + mean

    def check_fit(self, grid: tuple[int, int], channels: int, source: str | Path) -> None:
        """Check that the statistics match the encoder's features.

        Raises:
            DilaError: the statistics, read from `source`, have another grid or other channels.
        """
        shape = tuple(self.mean.shape)
        if shape not in ((channels,), (*grid, channels)):
            raise DilaError(
                f"{source} has statistics of {' x '.join(map(str, shape))} features, but the encoder gives "
                f"{grid[0]} x {grid[1]} x {channels}; give the statistics of this encoder"
            )

    @property
    def hash(self) -> str:
        """Hash of the numbers, independent of the file that they came from."""
        digest = hashlib.blake2b(digest_size=8)
        for tensor in (self.mean, self.var):
            digest.update(f"{list(tensor.shape)}".encode() + tensor.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write ``mean`` and ``var`` to a safetensors file, atomically."""
        with replacing(at_home(path)) as partial:
            save_file({"mean": self.mean.contiguous().cpu(), "var": self.var.contiguous().cpu()}, partial)

    @classmethod
    def load(cls, path: str | Path) -> "FeatureStatistics":
        """Load a file from `save`, or a released RAE ``stat.pt`` (keys mean and var, ``[1] D H W``, channels first).

        Raises:
            DilaError: the file does not exist, or does not contain finite statistics.
        """
        path = at_home(path)
        stored = read_tensors(path, "feature statistics")
        if missing := {"mean", "var"} - stored.keys():
            raise DilaError(f"{path} is not a file of feature statistics: it lacks {', '.join(sorted(missing))}")
        if damaged := not_finite(stored):
            raise DilaError(f"{path} has NaN or infinite numbers in {', '.join(damaged)}; copy the file again")
        mean, var = stored["mean"].float(), stored["var"].float()
        if path.suffix != ".safetensors":
            mean, var = _channels_last(mean, path), _channels_last(var, path)
        if mean.shape != var.shape or bool((var < 0).any()):
            raise DilaError(
                f"{path} is not a file of feature statistics: mean and var differ in shape, or var is negative"
            )
        return cls(mean, var)


def fit_statistics(encoder: "FrozenEncoder", batches: Iterable[Frames | Pixels]) -> FeatureStatistics:
    """Fit per-channel statistics of an encoder's raw features in one pass over batches of frames ``B T 3 Y X``.

    Raises:
        DilaError: there are no frames.
    """
    raw = encoder.with_statistics(None)
    return accumulate(raw.encode(o) for o in batches)


def accumulate(features: Iterable[Float[Tensor, "..."]]) -> FeatureStatistics:
    """Return per-channel mean and variance of raw features ``... D``; sums in float64 make the order irrelevant.

    Raises:
        DilaError: there are no features.
    """
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for e in features:
        tokens = e.flatten(0, -2).double().cpu()
        count += len(tokens)
        total = total + tokens.sum(0)
        squares = squares + tokens.square().sum(0)
    if count == 0:
        raise DilaError("feature statistics need at least one frame, but the data has none; check the data folder")
    mean = total / count
    return FeatureStatistics(mean.float(), (squares / count - mean.square()).clamp_min(0).float())


def _channels_last(x: Tensor, path: Path) -> Tensor:
    if x.ndim == 4 and len(x) == 1:
        x = x[0]
    if x.ndim not in (1, 3):
        raise DilaError(f"{path} should contain tensors of shape [D, H, W], [1, D, H, W] or [D], not {list(x.shape)}")
    return x.permute(1, 2, 0).contiguous() if x.ndim == 3 else x
