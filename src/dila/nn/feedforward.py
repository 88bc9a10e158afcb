"""Position-wise networks: the GEGLU feed-forward (Shazeer 2020) and a residual MLP."""

import torch.nn.functional as F
from torch import nn

from dila.nn.dropout import Dropout
from dila.shapes import Float, Tensor


class GEGLU(nn.Module):
    """Halve the channels into (value, gate) and return ``gelu(gate) * value``, with the exact erf GELU."""

    def forward(self, x: Float[Tensor, "... D2"]) -> Float[Tensor, "... D"]:
        """Gate the first half of the channels by the second."""
        value, gate = x.chunk(2, dim=-1)
        return F.gelu(gate) * value


def feed_forward(dim: int, dropout: float = 0.0) -> nn.Sequential:
    """LN, Linear, GEGLU, Dropout, Linear, with 8/3 * dim hidden channels so that it costs as much as a 4x MLP."""
    inner = int(4 * 2 / 3 * dim)
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, 2 * inner, bias=False),
        GEGLU(),
        Dropout(dropout),
        nn.Linear(inner, dim, bias=False),
    )


class ResMLP(nn.Module):
    """Linear in, ``depth`` pre-norm residual layers of one Linear each, Linear out."""

    def __init__(self, dim_in: int, hidden: int, dim_out: int, depth: int = 2):
        super().__init__()
        self.proj_in = nn.Linear(dim_in, hidden)
        self.layers = nn.ModuleList(_norm_relu_linear(hidden, hidden) for _ in range(depth))
        self.proj_out = _norm_relu_linear(hidden, dim_out)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... E"]:
        """Map the last axis from ``dim_in`` to ``dim_out`` channels."""
        x = self.proj_in(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.proj_out(x)


def _norm_relu_linear(dim_in: int, dim_out: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim_in), nn.ReLU(), nn.Linear(dim_in, dim_out))
