"""A spatial and a temporal transformer layer over ``B T H W D``, each preceded by a causal PEG."""

from typing import NamedTuple

from einops import rearrange
from torch import nn

from dila.nn.attention import Attention, KeysValues
from dila.nn.feedforward import FeedForward
from dila.nn.position import PEG, TimePadding
from dila.shapes import Float, Tensor


class TemporalCache(NamedTuple):
    """What a temporal layer carries from the past: the PEG's last two frames, and keys and values of all frames."""

    window: Float[Tensor, "B 2 H W D"]
    attention: KeysValues


class SpatialLayer(nn.Module):
    """PEG, self-attention within each frame, feed-forward. It carries only the PEG's window from the past."""

    def __init__(self, dim: int, heads: int, head_dim: int, *, dropout: float, padding: TimePadding):
        super().__init__()
        self.peg = PEG(dim, padding)
        self.attention = Attention(dim, heads, head_dim)
        self.ff = FeedForward(dim, dropout)

    def forward(self, x: Tensor, bias: Tensor, window: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map ``B T H W D`` to the same shape; also return the PEG window for the next call."""
        x, kept = self.peg(x, window)
        x = x + unflatten(self.attention.space(flatten(x), bias), x)
        return x + self.ff(x), kept


class TemporalLayer(nn.Module):
    """PEG, causal self-attention over time at each cell, feed-forward."""

    def __init__(
        self, dim: int, heads: int, head_dim: int, *, dropout: float, padding: TimePadding, rope_before_scale: bool
    ):
        super().__init__()
        self.peg = PEG(dim, padding)
        self.attention = Attention(dim, heads, head_dim, rope_before_scale=rope_before_scale)
        self.ff = FeedForward(dim, dropout)

    def forward(self, x: Tensor, cache: TemporalCache | None = None) -> tuple[Tensor, TemporalCache]:
        """Map ``B T H W D`` to the same shape; also return the cache for the next call."""
        x, window = self.peg(x, cache and cache.window)
        seen, keys_values = self.attention.time(flatten(x), cache and cache.attention)
        x = x + unflatten(seen, x)
        return x + self.ff(x), TemporalCache(window, keys_values)


def flatten(x: Float[Tensor, "B T H W D"]) -> Float[Tensor, "B T N D"]:
    """Flatten the grid to tokens, row-major."""
    return rearrange(x, "b t h w d -> b t (h w) d")


def unflatten(x: Float[Tensor, "B T N D"], like: Float[Tensor, "B T H W E"]) -> Float[Tensor, "B T H W D"]:
    """Restore the grid of ``like`` from tokens."""
    return rearrange(x, "b t (h w) d -> b t h w d", h=like.shape[2])
