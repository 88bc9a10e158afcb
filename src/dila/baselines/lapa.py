"""LAPA's latent action quantisation (Ye et al. 2024, arXiv 2410.11758).

An encoder of spatial, then causal temporal layers processes two frames. Convolutions reduce each frame to a few tokens,
and the difference of these is quantised (NSVQ). A spatial decoder predicts the second frame from the patches of the
first, which receive no gradient, and attends to the codes by cross-attention.
"""

from dataclasses import dataclass, replace
from math import floor, log2, prod

from einops import rearrange
from torch import nn

from dila.baselines.frame_model import FrameModel, Head, Predicts, pairs
from dila.nn.attention import Attention
from dila.nn.bottleneck import NSVQ, Bottlenecked
from dila.nn.feedforward import FeedForward
from dila.nn.position import PEG, RelativePositionBias
from dila.nn.st_transformer import SpatialLayer, TemporalLayer, flatten, unflatten
from dila.shapes import Features, Float, LatentActions, Tensor


@dataclass(frozen=True)
class LAPAConfig:
    """Sizes; the defaults are the published model on patches of 32 pixels of frames of 256.

    Args:
        grid: rows and columns of the feature grid.
        feature_dim: D.
        width: channels of all layers.
        heads: attention heads.
        head_dim: channels per head.
        spatial_depth: encoder layers within frames.
        temporal_depth: encoder layers over the two frames.
        decoder_depth: decoder layers.
        codes: size of the codebook.
        code_dim: dimension of a code.
        code_grid: rows and columns of codes; z is their concatenation.
        predicts: see `dila.baselines.frame_model.Predicts`.
        real_action_dim: Da of the action encoder, or None.
    """

    grid: tuple[int, int] = (8, 8)
    feature_dim: int = 3072
    width: int = 1024
    heads: int = 16
    head_dim: int = 64
    spatial_depth: int = 8
    temporal_depth: int = 8
    decoder_depth: int = 8
    codes: int = 8
    code_dim: int = 32
    code_grid: tuple[int, int] = (2, 2)
    predicts: Predicts = "features"
    real_action_dim: int | None = None

    @property
    def action_dim(self) -> int:
        """Dz: all codes of a transition."""
        return prod(self.code_grid) * self.code_dim

    def for_features(self, grid: tuple[int, int], feature_dim: int) -> "LAPAConfig":
        """Return the same config for an encoder with this grid and this many channels."""
        return replace(self, grid=tuple(grid), feature_dim=feature_dim)


class LAPA(FrameModel):
    """Two frames to four codes and back. NSVQ has no penalty; dead codes are replaced in the first 5,000 batches."""

    config: LAPAConfig

    def __init__(self, config: LAPAConfig):
        super().__init__(config)
        dim, sizes = config.width, (config.width, config.heads, config.head_dim)
        self.to_tokens = nn.Sequential(
            nn.LayerNorm(config.feature_dim), nn.Linear(config.feature_dim, dim), nn.LayerNorm(dim)
        )
        self.bias = RelativePositionBias(dim, config.heads)
        self.spatial = nn.ModuleList(
            SpatialLayer(*sizes, dropout=0.0, padding="zeros") for _ in range(config.spatial_depth)
        )
        self.spatial_norm = nn.LayerNorm(dim, bias=False)
        self.temporal = nn.ModuleList(
            TemporalLayer(*sizes, dropout=0.0, padding="zeros", rope_before_scale=False)
            for _ in range(config.temporal_depth)
        )
        self.temporal_norm = nn.LayerNorm(dim, bias=False)
        self.to_codes = _ToCodes(config)
        self.vq = NSVQ(config.codes, config.code_dim)
        self.from_codes = nn.Linear(config.code_dim, dim)
        self.drawing = nn.ModuleList(_DrawingLayer(*sizes) for _ in range(config.decoder_depth))
        self.drawing_norm = nn.LayerNorm(dim, bias=False)
        self.head = Head(dim, config.feature_dim, config.predicts)

    def squeeze(self, e: Features) -> Bottlenecked:
        """Return the codes of the change between every two frames."""
        x, bias = self.to_tokens(pairs(e)), self.bias(self.config.grid)
        for layer in self.spatial:
            x, _ = layer(x, bias)
        x = self.spatial_norm(x)
        for layer in self.temporal:
            x, _ = layer(x)
        first, second = self.to_codes(self.temporal_norm(x)).unbind(1)
        out = self.vq(second - first)
        z = rearrange(out.z, "(b k) n d -> b k (n d)", b=len(e))
        return Bottlenecked(z, out.penalty, rearrange(out.codes, "(b k) n -> b k n", b=len(e)))

    def draw(self, e: Features, z: LatentActions) -> Features:
        """Predict the frame after each frame, whose patches attend to the codes."""
        x = self.to_tokens(e).detach().flatten(0, 1).unsqueeze(1)  # each frame as a clip of length 1
        codes = self.from_codes(rearrange(z, "b k (n d) -> (b k) 1 n d", d=self.config.code_dim))
        bias = self.bias(self.config.grid)
        for layer in self.drawing:
            x = layer(x, bias, codes)
        return self.head(self.drawing_norm(x).squeeze(1).unflatten(0, e.shape[:2]), e)


class _ToCodes(nn.Module):
    """Reduce a frame's tokens to a few: a narrow linear map, then 3 x 3 convolutions that halve the grid."""

    def __init__(self, config: LAPAConfig):
        super().__init__()
        dim, rows_cols = config.code_dim, zip(config.grid, config.code_grid, strict=True)
        halvings = max(0, floor(log2(min(cells / wanted for cells, wanted in rows_cols))))
        self.narrow = nn.Linear(config.width, dim)
        halved = [part for _ in range(halvings) for part in (nn.Conv2d(dim, dim, 3, stride=2, padding=1), nn.ReLU())]
        # Pooling has no effect if halving reaches the grid of codes, as with the published sizes.
        self.convolve = nn.Sequential(
            *halved, nn.AdaptiveAvgPool2d(config.code_grid), nn.Conv2d(dim, dim, 3, padding=1)
        )

    def forward(self, x: Float[Tensor, "B T H W C"]) -> Float[Tensor, "B T N D"]:
        """Process each frame independently."""
        flat = rearrange(self.narrow(x), "b t h w d -> (b t) d h w")
        return rearrange(self.convolve(flat), "(b t) d h w -> b t (h w) d", t=x.shape[1])


class _DrawingLayer(nn.Module):
    """PEG, self-attention within the frame, cross-attention to the codes, feed-forward."""

    def __init__(self, dim: int, heads: int, head_dim: int):
        super().__init__()
        self.peg = PEG(dim)
        self.attention = Attention(dim, heads, head_dim)
        self.to_codes = Attention(dim, heads, head_dim, context_dim=dim, null_tokens=2)
        self.ff = FeedForward(dim)

    def forward(
        self, x: Float[Tensor, "B T H W C"], bias: Float[Tensor, "heads N N"], codes: Float[Tensor, "B T M C"]
    ) -> Float[Tensor, "B T H W C"]:
        """Process clips of length 1, so that the PEG sees no other frame."""
        x = self.peg(x)[0]
        x = x + unflatten(self.attention.space(flatten(x), bias), x)
        x = x + unflatten(self.to_codes.across(flatten(x), self.to_codes.read(codes)), x)
        return x + self.ff(x)
