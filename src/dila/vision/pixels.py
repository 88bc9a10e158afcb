"""Pixels as features: patches of the frame, flat, and the exact way back; for models that draw pixels.

With this encoder a model of features is a model of pixels: 256 pixels in patches of 32 are 8 x 8 x 3072.
"""

from dataclasses import dataclass
from math import isqrt
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import nn

from dila.configs import to_json
from dila.errors import DilaError
from dila.shapes import Features, Float, Pixels, Tensor
from dila.vision.encoder import FrozenEncoder, Resize, rows_and_columns
from dila.vision.statistics import EPSILON, FeatureStatistics


@dataclass(frozen=True)
class PatchesConfig:
    """Frames are squeezed to `size` pixels (one number, or rows and columns) and cut into squares of `patch`.

    Raises:
        DilaError: a size that is no multiple of the patch.
    """

    size: int | tuple[int, int] = 256
    patch: int = 16

    def __post_init__(self):
        if self.patch < 1 or any(side < 1 or side % self.patch for side in rows_and_columns(self.size)):
            raise DilaError(f"the encoder's size should be a multiple of its patch of {self.patch}, not {self.size}")


class PatchPixels(FrozenEncoder):
    """Frames to their patches, values in 0..1, row by row, the three colours of a pixel side by side.

    Nothing is fitted: its statistics leave values as they are.
    """

    name: ClassVar[str] = "pixels"

    def __init__(self, config: PatchesConfig = PatchesConfig(), statistics: FeatureStatistics | None = None):
        self.settings = config
        size = rows_and_columns(config.size)
        self.grid = (size[0] // config.patch, size[1] // config.patch)
        self.feature_dim = 3 * config.patch**2
        self.statistics = statistics or unchanged(self.feature_dim)
        self.resize = Resize(size, "bilinear", antialias=True)
        self.network = nn.Identity()

    def prepare(self, o: Tensor) -> Float[Tensor, "N 3 Y X"]:
        """Pixels stay in 0..1."""
        return self.resized(o)

    def weights(self) -> str:
        """Empty: there are none."""
        return ""

    def features(self, frames: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N H W D"]:
        """Cut into patches."""
        p = self.settings.patch
        return rearrange(frames, "n c (h p) (w q) -> n h w (p q c)", p=p, q=p)

    def inverse(self) -> "PatchDecoder":
        """The decoder that puts the patches together again."""
        return PatchDecoder(self.settings, self.statistics)


class PatchDecoder:
    """Patches back to the frame; a `FrameDecoder` without weights."""

    name: ClassVar[str] = "pixels"

    def __init__(self, config: PatchesConfig = PatchesConfig(), statistics: FeatureStatistics | None = None):
        self.settings = config
        self.statistics = statistics or unchanged(3 * config.patch**2)

    @torch.no_grad()
    def decode(self, e: Features) -> Pixels:
        """Frames in [0, 1]."""
        return assemble(self.statistics.denormalise(e)).clamp(0, 1)

    def config(self) -> dict[str, Any]:
        """Its name, size and patch."""
        return {"name": self.name} | to_json(self.settings)


def patch_of(channels: int) -> int:
    """The side of the patches whose pixels these channels are.

    Raises:
        DilaError: they are no pixels of a square patch.
    """
    side = isqrt(channels // 3)
    if channels != 3 * side**2:
        raise DilaError(f"features of {channels} channels are no patches of pixels; use the encoder pixels")
    return side


def assemble(e: Features) -> Pixels:
    """Patches put together to frames, neither cut to 0..1 nor without gradient."""
    p = patch_of(e.shape[-1])
    return rearrange(e, "b t h w (p q c) -> b t c (h p) (w q)", p=p, q=p)


def unchanged(channels: int) -> FeatureStatistics:
    """Statistics that change nothing."""
    return FeatureStatistics(torch.zeros(channels), torch.full((channels,), 1 - EPSILON))
