"""villa-X's latent action model (Chen et al. 2025, arXiv 2507.23682): the visual part of microsoft/villa-x ``lam/``.

A causal spatio-temporal encoder processes the whole clip; the mean of two frames' tokens is pooled by four queries and
quantised. The decoder prepends all codes, as one token, to the patches of the first frame and predicts the second.
"""

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import nn

from dila.baselines.frame_model import FrameModel, Head, Predicts, tokens
from dila.nn.bottleneck import VQ, Bottlenecked
from dila.nn.position import grid_sinusoids, sinusoids
from dila.nn.vit import OverTime, Residual, SelfAttention, SwiGLU, mlp
from dila.shapes import Features, Float, LatentActions, Tensor

GATE = 0.1
"""Initial value of learned gates: layers start almost inactive (Touvron et al. 2021)."""


@dataclass(frozen=True)
class VillaXConfig:
    """Sizes; the defaults are the published model on patches of 14 pixels of frames of 224.

    The released decoder has width 768, which gives the visual part 201 million parameters; ours is wider, to match the
    239 million of the paper's table 8.

    Args:
        grid: rows and columns of the feature grid.
        feature_dim: D.
        width: channels of the encoder.
        heads: attention heads of the encoder.
        pool_heads: heads of the queries' attention to a frame.
        encoder_depth: layers within frames and, causally, over time.
        decoder_width: channels of the decoder.
        decoder_heads: attention heads of the decoder.
        decoder_hidden: hidden channels of the decoder's feed-forward layers.
        decoder_depth: layers within a frame.
        queries: codes per transition; z is their concatenation.
        codes: size of the codebook.
        code_dim: dimension of a code.
        beta: weight of the commitment.
        predicts: see `dila.baselines.frame_model.Predicts`.
        real_action_dim: Da of the action encoder, or None.
    """

    grid: tuple[int, int] = (16, 16)
    feature_dim: int = 588
    width: int = 768
    heads: int = 8
    pool_heads: int = 24
    encoder_depth: int = 12
    decoder_width: int = 1024
    decoder_heads: int = 16
    decoder_hidden: int = 3328
    decoder_depth: int = 8
    queries: int = 4
    codes: int = 32
    code_dim: int = 128
    beta: float = 0.25
    predicts: Predicts = "features"
    real_action_dim: int | None = None

    @property
    def action_dim(self) -> int:
        """Dz: all codes of a transition."""
        return self.queries * self.code_dim

    def for_features(self, grid: tuple[int, int], feature_dim: int) -> "VillaXConfig":
        """Return the same config for an encoder with this grid and this many channels."""
        return replace(self, grid=tuple(grid), feature_dim=feature_dim)


class VillaX(FrameModel):
    """A clip to four codes per transition, which depend on all earlier frames; a frame and codes to the next frame."""

    penalty = "commitment"
    config: VillaXConfig

    def __init__(self, config: VillaXConfig):
        super().__init__(config)
        dim, wide = config.width, config.decoder_width
        self.to_tokens = nn.Linear(config.feature_dim, dim)
        self.reading = nn.ModuleList(_Reading(dim, config.heads) for _ in range(config.encoder_depth))
        self.reading_norm = nn.RMSNorm(dim)
        self.pool = _Pool(dim, config.pool_heads, config.queries)
        self.to_codes = nn.Linear(dim, config.code_dim)
        self.vq = VQ(config.codes, config.code_dim, commitment=config.beta)
        self.to_patches = nn.Linear(config.feature_dim, wide)
        self.from_codes = nn.Linear(config.action_dim, wide)
        self.drawing = nn.ModuleList(_drawing_layer(config) for _ in range(config.decoder_depth))
        self.drawing_norm = nn.RMSNorm(wide)
        self.apply(_as_jax)
        self.head = Head(wide, config.feature_dim, config.predicts)

    def squeeze(self, e: Features) -> Bottlenecked:
        """Return the codes of the queries for the mean of every two frames."""
        x = self.to_tokens(tokens(e)) + self._cells(self.config.width, e)
        moments = sinusoids(e.shape[1], self.config.width, e.device)[:, None]
        for layer in self.reading:
            x, moments = layer(x, moments), None
        x = self.reading_norm(x)
        out = self.vq(self.to_codes(self.pool((x[:, :-1] + x[:, 1:]) / 2)))
        return out._replace(z=rearrange(out.z, "b k n d -> b k (n d)"))

    def draw(self, e: Features, z: LatentActions) -> Features:
        """Predict the frame after each frame, from its patches and one action token."""
        x = self.to_patches(tokens(e)) + self._cells(self.config.decoder_width, e)
        x = torch.cat([self.from_codes(z).unsqueeze(2).to(x.dtype), x], dim=2)
        for layer in self.drawing:
            x = layer(x)
        return self.head(self.drawing_norm(x[:, :, 1:]).view(*e.shape[:-1], -1), e)

    def _cells(self, dim: int, e: Tensor) -> Float[Tensor, "N C"]:
        return grid_sinusoids(self.config.grid, dim, e.device)


class _Reading(nn.Module):
    """Attention within each frame, then over time, then an MLP.

    Norms have no parameters; learned shifts, scales and gates, equal for all tokens, replace them, and attention over
    time has no norm, as in Open-Sora's layer, which villa-X uses.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.space = SelfAttention(dim, heads, unit=True)
        self.time = OverTime(SelfAttention(dim, heads, causal=True, unit=True))
        self.mlp = mlp(dim)
        self.table = nn.Parameter(torch.randn(6, dim) * dim**-0.5)

    def forward(self, x: Float[Tensor, "B T N D"], moments: Float[Tensor, "T 1 D"] | None) -> Float[Tensor, "B T N D"]:
        """Mix within frames and over past frames; ``moments`` are position embeddings for attention over time only."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.table
        x = x + gate * self.space(self.norm(x) * (1 + scale) + shift)
        x = x + gate * self.time(x if moments is None else x + moments)
        return x + gate_mlp * self.mlp(self.norm(x) * (1 + scale_mlp) + shift_mlp)


class _Pool(nn.Module):
    """A few learned queries that attend to all tokens of a frame, then an MLP, with post-norms."""

    def __init__(self, dim: int, heads: int, queries: int):
        super().__init__()
        self.heads = heads
        self.queries = nn.Parameter(0.02 * torch.randn(queries, dim))
        self.before = nn.Linear(dim, dim)
        self.to_q, self.to_kv, self.to_out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.norm, self.mlp, self.mlp_norm = nn.RMSNorm(dim), SwiGLU(dim, 4 * dim), nn.RMSNorm(dim)

    def forward(self, x: Float[Tensor, "B K N D"]) -> Float[Tensor, "B K M D"]:
        """Return one vector per query."""
        q = rearrange(self.to_q(self.queries), "m (heads d) -> heads m d", heads=self.heads)
        kv = self.to_kv(self.before(x))
        k, v = rearrange(kv, "b k n (two heads d) -> two b k heads n d", two=2, heads=self.heads)
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1).to(v.dtype)
        asked = self.norm(self.queries + self.to_out(rearrange(weights @ v, "b k heads m d -> b k m (heads d)")))
        return self.mlp_norm(asked + self.mlp(asked))


def _drawing_layer(config: VillaXConfig) -> nn.Sequential:
    dim = config.decoder_width
    layers = (SelfAttention(dim, config.decoder_heads, unit=True), SwiGLU(dim, config.decoder_hidden))
    return nn.Sequential(*(Residual(dim, layer, norm=nn.RMSNorm, gate=GATE) for layer in layers))


def _as_jax(module: nn.Module) -> None:
    """Initialise weights as in Flax's vision transformers."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
