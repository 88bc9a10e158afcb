"""AdaWorld's latent action model (Gao et al. 2025, arXiv 2503.18938).

The encoder prepends a learned token to each of two frames; that of the second frame gives a 32-dimensional Gaussian
with a weak prior. The decoder adds z to every patch of the first frame and predicts the second.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from dila.baselines.frame_model import FrameModel, Head, Predicts, pairs, tokens
from dila.nn.bottleneck import Bottlenecked, Gaussian
from dila.nn.position import sinusoids
from dila.nn.vit import space_time_layer, vit_layer
from dila.shapes import Features, Float, LatentActions, Tensor


@dataclass(frozen=True)
class AdaWorldConfig:
    """Sizes; the defaults are the published model on patches of 16 pixels of frames of 256.

    Args:
        grid: rows and columns of the feature grid.
        feature_dim: D.
        width: channels of all layers.
        heads: attention heads.
        encoder_depth: layers within frames and over the two frames.
        decoder_depth: layers within a frame.
        action_dim: Dz, dimension of the Gaussian.
        predicts: see `dila.baselines.frame_model.Predicts`; published with a sigmoid, on pixels in 0..1.
        real_action_dim: Da of the action encoder, or None.
    """

    grid: tuple[int, int] = (16, 16)
    feature_dim: int = 768
    width: int = 1024
    heads: int = 16
    encoder_depth: int = 16
    decoder_depth: int = 16
    action_dim: int = 32
    predicts: Predicts = "unit"
    real_action_dim: int | None = None

    def for_features(self, grid: tuple[int, int], feature_dim: int) -> "AdaWorldConfig":
        """Return the same config for an encoder with this grid and this many channels."""
        return replace(self, grid=tuple(grid), feature_dim=feature_dim)


class AdaWorld(FrameModel):
    """Two frames to a Gaussian z: sampled in training, its mean in evaluation."""

    penalty = "kl"
    config: AdaWorldConfig

    def __init__(self, config: AdaWorldConfig):
        super().__init__(config)
        dim = config.width
        self.asking = nn.Parameter(torch.empty(config.feature_dim).uniform_(-1, 1))
        self.to_tokens = _embedding(config.feature_dim, dim)
        self.reading = nn.ModuleList(space_time_layer(dim, config.heads) for _ in range(config.encoder_depth))
        self.read_out = nn.Linear(dim, dim)
        self.gaussian = Gaussian(config.action_dim, dim)
        self.to_patches = nn.Linear(config.feature_dim, dim)
        self.from_action = nn.Linear(config.action_dim, dim)
        self.fuse = _embedding(dim, dim)
        self.drawing = nn.ModuleList(vit_layer(dim, config.heads) for _ in range(config.decoder_depth))
        self.head = Head(dim, config.feature_dim, config.predicts)

    def squeeze(self, e: Features) -> Bottlenecked:
        """Return the Gaussian of the second frame's token for each pair of frames."""
        x = tokens(pairs(e))
        asking = self.asking.to(x.dtype).expand(*x.shape[:2], 1, -1)
        x = self.to_tokens(torch.cat([asking, x], dim=2)) + self._positions(x.shape[2] + 1, e)
        for layer in self.reading:
            x = layer(x)
        out = self.gaussian(self.read_out(x[:, 1, 0]))
        return out._replace(z=out.z.unflatten(0, (len(e), -1)))

    def draw(self, e: Features, z: LatentActions) -> Features:
        """Predict the frame after each frame; the action is added to all of its patches."""
        x = self.to_patches(tokens(e)) + self.from_action(z).unsqueeze(2)
        x = self.fuse(x) + self._positions(x.shape[2], e)
        for layer in self.drawing:
            x = layer(x)
        return self.head(x.view(*e.shape[:-1], -1), e)

    def _positions(self, count: int, e: Tensor) -> Float[Tensor, "N C"]:
        return sinusoids(count, self.config.width, e.device)


def _embedding(dim_in: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim_in), nn.Linear(dim_in, dim), nn.LayerNorm(dim))
