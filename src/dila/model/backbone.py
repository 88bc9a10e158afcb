"""Backbone, e -> h: spatial attention, then causal temporal attention (paper section 3, symbol h).

e  B T H W D   frozen features
h  B T H W Dh  features with the context of their frame and its past; Dh = D unless ``width`` is set
"""

from typing import NamedTuple

from torch import nn

from dila.model.config import DiLAConfig
from dila.nn.position import RelativePositionBias
from dila.nn.st_transformer import SpatialLayer, TemporalCache, TemporalLayer
from dila.shapes import Features, Float, Tensor


class BackboneCache(NamedTuple):
    """What the backbone carries from past frames to the next call."""

    spatial: tuple[Tensor, ...]
    temporal: tuple[TemporalCache, ...]


class Backbone(nn.Module):
    """Spatio-temporal transformer without absolute positions, as wide as the features unless ``width`` is set."""

    def __init__(self, config: DiLAConfig):
        super().__init__()
        dim, sizes = config.dim, config.backbone
        shared = {"dropout": config.dropout, "padding": config.time_padding}
        self.proj_in = nn.Linear(config.feature_dim, dim) if config.width else nn.Identity()
        self.bias = RelativePositionBias(dim, sizes.heads)
        self.spatial = nn.ModuleList(
            SpatialLayer(dim, sizes.heads, sizes.head_dim, **shared) for _ in range(sizes.spatial_depth)
        )
        self.spatial_norm = nn.LayerNorm(dim, bias=False)
        self.temporal = nn.ModuleList(
            TemporalLayer(dim, sizes.heads, sizes.head_dim, rope_before_scale=config.quirks.rope_before_scale, **shared)
            for _ in range(sizes.temporal_depth)
        )
        self.temporal_norm = nn.LayerNorm(dim, bias=False)

    def forward(
        self, e: Features, cache: BackboneCache | None = None
    ) -> tuple[Float[Tensor, "B T H W Dh"], BackboneCache]:
        """Process the next frames of a clip, one or many; ``cache`` is None at its start."""
        bias = self.bias(e.shape[2:4])
        h, windows, past = self.proj_in(e), [], []
        for i, layer in enumerate(self.spatial):
            h, window = layer(h, bias, cache and cache.spatial[i])
            windows.append(window)
        h = self.spatial_norm(h)
        for i, layer in enumerate(self.temporal):
            h, kept = layer(h, cache and cache.temporal[i])
            past.append(kept)
        return self.temporal_norm(h), BackboneCache(tuple(windows), tuple(past))
