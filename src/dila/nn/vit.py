"""Vision transformer parts (Vaswani et al. 2017, Dosovitskiy et al. 2021): attention, MLPs, residuals.

`dila.nn.attention`, in contrast, is the cosine attention of the released DiLA. Tokens are ``... N D``, of clips
``B T N D``.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from dila.errors import DilaError
from dila.nn.position import rotate
from dila.shapes import Float, Tensor


class SelfAttention(nn.Module):
    """Each token attends to all tokens, or with ``causal`` to itself and those before it.

    Args:
        dim: channels, a multiple of ``heads``.
        heads: number of heads.
        causal: tokens are ordered in time, and later ones are masked.
        rotary: use rotary positions along the tokens.
        unit: layer-normalise queries and keys per head (Dehghani et al. 2023).
    """

    def __init__(self, dim: int, heads: int, *, causal: bool = False, rotary: bool = False, unit: bool = False):
        super().__init__()
        if dim % heads:
            raise DilaError(f"width = {dim} must be a multiple of heads = {heads}; change one of them")
        self.heads, self.causal, self.rotary = heads, causal, rotary
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.to_out = nn.Linear(dim, dim)
        self.q_norm = nn.LayerNorm(dim // heads) if unit else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // heads) if unit else nn.Identity()

    def forward(self, x: Float[Tensor, "... N D"]) -> Float[Tensor, "... N D"]:
        """Mix over the tokens."""
        q, k, v = rearrange(self.to_qkv(x), "... n (three heads d) -> three ... heads n d", three=3, heads=self.heads)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if self.rotary:
            q, k = rotate(q), rotate(k)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if self.causal:
            hidden = torch.ones(logits.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
            logits = logits.masked_fill(hidden, float("-inf"))
        out = logits.softmax(-1).to(v.dtype) @ v
        return self.to_out(rearrange(out, "... heads n d -> ... n (heads d)"))


class OverTime(nn.Module):
    """Applies a layer over time, to each token position separately."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Float[Tensor, "B T N D"]) -> Float[Tensor, "B T N D"]:
        """Mix over time."""
        return self.layer(x.transpose(1, 2)).transpose(1, 2)


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))`` without biases (Shazeer 2020)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.gate_up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Process each token independently."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Residual(nn.Module):
    """``x + gate * layer(norm(x))``; ``gate`` is the initial value of a learned scale per channel, None means 1."""

    def __init__(
        self, dim: int, layer: nn.Module, *, norm: Callable[[int], nn.Module] = nn.LayerNorm, gate: float | None = None
    ):
        super().__init__()
        self.norm, self.layer = norm(dim), layer
        self.gate = None if gate is None else nn.Parameter(torch.full((dim,), gate))

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Return the input plus the layer's output."""
        out = self.layer(self.norm(x))
        return x + (out if self.gate is None else self.gate * out)


def mlp(dim: int, hidden: int | None = None) -> nn.Sequential:
    """Linear, GELU, Linear; ``hidden`` is 4 * ``dim`` by default."""
    hidden = hidden or 4 * dim
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


def vit_layer(dim: int, heads: int) -> nn.Sequential:
    """A pre-norm layer: attention over all tokens, then an MLP."""
    return nn.Sequential(Residual(dim, SelfAttention(dim, heads)), Residual(dim, mlp(dim)))


def space_time_layer(dim: int, heads: int) -> nn.Sequential:
    """A pre-norm layer over ``B T N D``: attention within each frame, over time with rotary positions, then an MLP."""
    time = OverTime(SelfAttention(dim, heads, rotary=True))
    return nn.Sequential(*(Residual(dim, layer) for layer in (SelfAttention(dim, heads), time, mlp(dim))))
