"""Pixels as features: flattened patches of the frame, and the exact inverse, for models that predict pixels.

With this encoder a feature model is a pixel model: frames of 256 pixels in patches of 32 are 8 x 8 x 3072 features.
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
    """Frames are resized to `size` pixels (one number, or rows and columns) and cut into square patches of `patch`.

    Raises:
        DilaError: a size that is not a multiple of the patch.
    """

    size: int | tuple[int, int] = 256
    patch: int = 16

    def __post_init__(self):
        if self.patch < 1 or any(side < 1 or side % self.patch for side in rows_and_columns(self.size)):
            raise DilaError(f"the encoder's size should be a multiple of its patch of {self.patch}, not {self.size}")


class PatchPixels(FrozenEncoder):
    """Frames to patches with values in 0..1, row by row, with the three colours of a pixel adjacent.

    Nothing is fitted: the default statistics leave values unchanged.
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
        """Resize frames; pixels stay in 0..1."""
        return self.resized(o)

    def weights(self) -> str:
        """Return the empty string: there are no weights."""
        return ""

    def features(self, frames: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N H W D"]:
        """Cut frames into patches."""
        p = self.settings.patch
        return rearrange(frames, "n c (h p) (w q) -> n h w (p q c)", p=p, q=p)

    def inverse(self) -> "PatchDecoder":
        """Return the decoder that reassembles the patches."""
        return PatchDecoder(self.settings, self.statistics)


class PatchDecoder:
    """Patches back to frames; a `FrameDecoder` without weights."""

    name: ClassVar[str] = "pixels"

    def __init__(self, config: PatchesConfig = PatchesConfig(), statistics: FeatureStatistics | None = None):
        self.settings = config
        self.statistics = statistics or unchanged(3 * config.patch**2)

    def decode(self, e: Features) -> Pixels:
        """Return frames in [0, 1], with gradients if the features require them."""
        return assemble(self.statistics.denormalise(e)).clamp(0, 1)

    def config(self) -> dict[str, Any]:
        """Return its name, size and patch."""
        return {"name": self.name} | to_json(self.settings)


def patch_of(channels: int) -> int:
    """Return the side of the patches whose pixels are these channels.

    Raises:
        DilaError: the channels are not the pixels of a square patch.
    """
    side = isqrt(channels // 3)
    if channels != 3 * side**2:
        raise DilaError(f"features of {channels} channels are not square patches of pixels; use the encoder 'pixels'")
    return side


def assemble(e: Features) -> Pixels:
    """Reassemble patches to frames, not clamped, with gradients."""
    p = patch_of(e.shape[-1])
    return rearrange(e, "b t h w (p q c) -> b t c (h p) (w q)", p=p, q=p)


def unchanged(channels: int) -> FeatureStatistics:
    """Return statistics that leave features unchanged."""
    return FeatureStatistics(torch.zeros(channels), torch.full((channels,), 1 - EPSILON))
