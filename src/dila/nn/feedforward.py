"""Position-wise networks: the GEGLU feed-forward (Shazeer 2020) and a residual MLP."""

from typing import cast

import torch.nn.functional as F
from torch import nn

from dila.nn import kernels
from dila.nn.dropout import Dropout
from dila.shapes import Float, Tensor


class GEGLU(nn.Module):
    """Split the channels into (value, gate) and return ``gelu(gate) * value``, with the exact erf GELU."""

    def forward(self, x: Float[Tensor, "... D2"]) -> Float[Tensor, "... D"]:
        """Gate the first half of the channels by the second."""
        value, gate = x.chunk(2, dim=-1)
        return F.gelu(gate) * value


class FeedForward(nn.Sequential):
    """LN, Linear, GEGLU, Dropout, Linear, with 8/3 * dim hidden channels, so that it costs as much as a 4x MLP."""

    def __init__(self, dim: int, dropout: float = 0.0):
        inner = int(4 * 2 / 3 * dim)
        super().__init__(
            nn.LayerNorm(dim),
            nn.Linear(dim, 2 * inner, bias=False),
            GEGLU(),
            Dropout(dropout),
            nn.Linear(inner, dim, bias=False),
        )

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Return the output; the caller adds the residual."""
        if kernels.geglu is None or not kernels.fits(x):
            return super().forward(x)
        wide, narrow = cast(nn.Linear, self[1]), cast(nn.Linear, self[4])
        h = F.linear(self[0](x), _even(wide.weight.unflatten(0, (2, -1)), 1).flatten(0, 1))
        p = cast(Dropout, self[3]).p if self.training else 0.0
        return F.linear(kernels.geglu(h, kernels.seed(p, x), p), _even(narrow.weight, 1))


def _even(weight: Tensor, axis: int) -> Tensor:
    """Pad with zeros to a multiple of 8 channels; with 682 channels, matrix products run at half speed on CUDA."""
    missing = -weight.shape[axis] % 8
    return F.pad(weight, [0, 0] * (weight.ndim - 1 - axis) + [0, missing]) if missing else weight


class ResMLP(nn.Module):
    """Linear, then ``depth`` residual layers of LN, ReLU and Linear, then LN, ReLU and Linear."""

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
