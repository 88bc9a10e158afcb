"""Forward dynamics model, (s, z) -> change of s (paper equations 2 and 5).

s       B K H W Ds   structure of the present frames
z       B K Dz       latent action of each transition
ds_hat  B K H W Ds   predicted change: s_hat[:, k] = s[:, k] + ds_hat[:, k] is compared with s[:, k+1]
"""

import torch
import torch.nn.functional as F
from torch import nn

from dila.model.config import DiLAConfig, NoAction, WholeChange
from dila.nn.attention import Attention
from dila.nn.feedforward import FeedForward
from dila.nn.position import PEG, RelativePositionBias
from dila.nn.st_transformer import TemporalCache, flatten, unflatten
from dila.shapes import Float, LatentActions, Structure, Tensor

ForwardDynamicsCache = tuple[TemporalCache, ...]


def forward_dynamics(config: DiLAConfig) -> "ForwardDynamics | Given":
    """Return the module that maps (s, z) to ds_hat, and takes and returns its cache."""
    return Given() if isinstance(config.bottleneck, NoAction) else ForwardDynamics(config)


class Given(nn.Module):
    """Replaces the FDM in a model without actions: returns the true change."""

    def forward(self, s: Structure, z: LatentActions, cache: object = None) -> tuple[Structure, tuple[()]]:
        """Return ``z``, which is the flattened change, on the grid of ``s``."""
        return z.view_as(s), ()


class ForwardDynamics(nn.Module):
    """Causal spatio-temporal transformer over the tokens of the grid and one action token per frame.

    If z is the whole change of structure, each token is conditioned on its own part of it.
    """

    def __init__(self, config: DiLAConfig):
        super().__init__()
        sizes = config.fdm
        dim = sizes.dim
        self.part = config.structure_dim if isinstance(config.bottleneck, WholeChange) else config.action_dim
        self.structure_in = nn.Sequential(nn.Linear(config.structure_dim, dim), FeedForward(dim, sizes.dropout))
        self.action_in = nn.Sequential(nn.Linear(self.part, dim), FeedForward(dim, sizes.dropout))
        self.bias = RelativePositionBias(dim, sizes.heads)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(sizes.depth))
        self.norm_out = nn.LayerNorm(dim, bias=False)
        self.to_change = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, dim // 2), nn.SiLU(), nn.Linear(dim // 2, config.structure_dim)
        )

    def forward(
        self, s: Structure, z: LatentActions, cache: ForwardDynamicsCache | None = None
    ) -> tuple[Structure, ForwardDynamicsCache]:
        """Predict the change of the next frames, one or many, given those before them in ``cache``."""
        a = self.action_in(z.unflatten(-1, (-1, self.part)))
        token = a.mean(2, keepdim=True)
        tokens = torch.cat([flatten(self.structure_in(s)), token], dim=2)
        a = token if a.shape[2] == 1 else torch.cat([a, token], dim=2)
        bias = F.pad(self.bias(s.shape[2:4]), (0, 1, 0, 1))  # the action token has no position: bias 0
        kept = []
        for i, layer in enumerate(self.layers):
            tokens, past = layer(tokens, a, s, bias, cache and cache[i])
            kept.append(past)
        return unflatten(self.to_change(self.norm_out(tokens[:, :, :-1])), s), tuple(kept)


class _Layer(nn.Module):
    """AdaLN-conditioned MLP, PEG on the grid, temporal attention, spatial attention, feed-forward."""

    def __init__(self, config: DiLAConfig):
        super().__init__()
        sizes = config.fdm
        dim = sizes.dim
        self.condition = AdaptiveMLP(dim)
        self.peg = PEG(dim, config.time_padding)
        self.temporal = Attention(
            dim, sizes.heads, sizes.head_dim, dropout=sizes.dropout, rope_before_scale=config.quirks.rope_before_scale
        )
        self.spatial = Attention(dim, sizes.heads, sizes.head_dim, dropout=sizes.dropout)
        self.ff = FeedForward(dim, sizes.dropout)

    def forward(
        self,
        tokens: Float[Tensor, "B K N1 D"],
        a: Float[Tensor, "B K A D"],
        s: Structure,
        bias: Float[Tensor, "heads N1 N1"],
        cache: TemporalCache | None,
    ) -> tuple[Float[Tensor, "B K N1 D"], TemporalCache]:
        tokens = tokens + self.condition(tokens, a)
        placed, window = self.peg(unflatten(tokens[:, :, :-1], s), cache and cache.window)
        tokens = torch.cat([flatten(placed), tokens[:, :, -1:]], dim=2)
        seen, keys_values = self.temporal.time(tokens, cache and cache.attention)
        tokens = tokens + seen
        tokens = tokens + self.spatial.space(tokens, bias)
        return tokens + self.ff(tokens), TemporalCache(window, keys_values)


class AdaptiveMLP(nn.Module):
    """AdaLN-zero (Peebles and Xie 2023): an MLP of the normalised input, scaled and shifted by the condition.

    The map from the condition starts at zero, so an untrained model ignores the action.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.to_scale_shift = nn.Linear(dim, 2 * dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        nn.init.zeros_(self.to_scale_shift.weight)
        nn.init.zeros_(self.to_scale_shift.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the MLP's output; the caller adds the residual."""
        scale, shift = self.to_scale_shift(condition).chunk(2, dim=-1)
        return self.mlp(self.norm(x) * (1 + scale) + shift)
