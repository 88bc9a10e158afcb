"""Fusion decoder, (s_hat, c_mem, e[0]) -> e_hat (paper equation 4).

s_hat  B K H W Ds   predicted structure of frames 1..K: the query
c_mem  B K H W Dc   content memory of frames 0..K-1
e0     B H W D      features of the first frame
e_hat  B K H W D    predicted features of frames 1..K
"""

from typing import NamedTuple

from torch import nn

from dila.model.config import DiLAConfig
from dila.nn.attention import Attention
from dila.nn.feedforward import ResMLP, feed_forward
from dila.nn.position import PEG, RelativePositionBias
from dila.nn.st_transformer import flatten, unflatten
from dila.shapes import Content, Features, Float, Structure, Tensor


class Origin(NamedTuple):
    """The first frame as the decoder uses it: its features, and each layer's keys and values of them."""

    e0: Float[Tensor, "B 1 H W D"]
    context: tuple[tuple[Tensor, Tensor], ...]


class FusionDecoder(nn.Module):
    """Spatial transformer whose queries come from structure and whose context is content."""

    def __init__(self, config: DiLAConfig):
        super().__init__()
        dim, sizes = config.feature_dim, config.decoder
        self.structure_in = ResMLP(config.structure_dim, config.hidden, dim)
        self.bias = RelativePositionBias(dim, sizes.heads)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(sizes.depth))
        self.norm_out = nn.LayerNorm(dim, bias=False)
        self.to_change = nn.Linear(dim, dim) if sizes.predicts == "change" else None
        if self.to_change is not None:
            nn.init.zeros_(self.to_change.weight)
            nn.init.zeros_(self.to_change.bias)

    def origin(self, e0: Float[Tensor, "B H W D"]) -> Origin:
        """Read the first frame once for all the frames that will be decoded."""
        e0 = e0.unsqueeze(1)
        return Origin(e0, tuple(layer.across_origin.read(flatten(e0)) for layer in self.layers))

    def forward(
        self, s_hat: Structure, c_mem: Content, origin: Origin, windows: tuple[Tensor, ...] | None = None
    ) -> tuple[Features, tuple[Tensor, ...]]:
        """Decode the next frames, one or many, and return the PEG windows for those after them."""
        bias = self.bias(s_hat.shape[2:4])
        x, content, kept = self.structure_in(s_hat), flatten(c_mem), []
        for i, layer in enumerate(self.layers):
            x, window = layer(x, content, origin.context[i], bias, windows and windows[i])
            kept.append(window)
        x = self.norm_out(x)
        return (x if self.to_change is None else origin.e0 + self.to_change(x)), tuple(kept)


class _Layer(nn.Module):
    """PEG, self-attention, then first frame and content memory side by side, feed-forward."""

    def __init__(self, config: DiLAConfig):
        super().__init__()
        dim, sizes = config.feature_dim, config.decoder
        self.peg = PEG(dim, config.time_padding)
        self.attention = Attention(dim, sizes.heads, sizes.head_dim)
        self.across_origin = Attention(dim, sizes.heads, sizes.head_dim, context_dim=dim, null_tokens=2)
        self.across_content = Attention(
            dim, sizes.heads, sizes.head_dim, context_dim=config.content_dim, null_tokens=2
        )
        self.ff = feed_forward(dim, config.dropout)

    def forward(
        self, x: Tensor, content: Tensor, origin: tuple[Tensor, Tensor], bias: Tensor, window: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        position, window = self.peg(x, window)
        tokens = flatten(x + position)
        tokens = tokens + self.attention.space(tokens, bias)
        seen = self.across_origin.across(tokens, origin)
        tokens = tokens + seen + self.across_content.across(tokens, self.across_content.read(content))
        return unflatten(tokens + self.ff(tokens), x), window
