"""Fusion decoder, (s_hat, c_mem, e[0]) -> e_hat (paper equation 4).

s_hat  B K H W Ds   predicted structure of frames 1..K: the query
c_mem  B K H W Dc   content memory of frames 0..K-1
e0     B H W D      features of the first frame
e_hat  B K H W D    predicted features of frames 1..K
"""

from collections.abc import Iterable
from typing import NamedTuple, cast

from torch import nn

from dila.model.config import DiLAConfig
from dila.nn.attention import Attention
from dila.nn.feedforward import FeedForward, ResMLP
from dila.nn.position import PEG, RelativePositionBias
from dila.nn.st_transformer import flatten, unflatten
from dila.shapes import Content, Features, Float, Structure, Tensor


class Origin(NamedTuple):
    """The first frame as the decoder uses it: its features, and each layer's keys and values for it."""

    e0: Float[Tensor, "B 1 H W D"]
    context: tuple[tuple[Tensor, Tensor], ...]


class FusionDecoder(nn.Module):
    """Spatial transformer whose queries come from structure and whose context is content."""

    def __init__(self, config: DiLAConfig):
        super().__init__()
        dim, sizes = config.dim, config.decoder
        self.structure_in = ResMLP(config.structure_dim, config.hidden, dim)
        self.bias = RelativePositionBias(dim, sizes.heads)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(sizes.depth))
        self.norm_out = nn.LayerNorm(dim, bias=False)
        self.predicts_change = sizes.predicts == "change"
        self.proj_out = nn.Linear(dim, config.feature_dim) if self.predicts_change or config.width else nn.Identity()
        if self.predicts_change:
            for parameter in self.proj_out.parameters():
                nn.init.zeros_(parameter)

    def origin(self, e0: Float[Tensor, "B H W D"]) -> Origin:
        """Compute the decoder's view of the first frame once, for all frames to decode."""
        e0 = e0.unsqueeze(1)
        return Origin(e0, tuple(layer.across_origin.read(flatten(e0)) for layer in cast(Iterable[_Layer], self.layers)))

    def forward(
        self, s_hat: Structure, c_mem: Content, origin: Origin, windows: tuple[Tensor, ...] | None = None
    ) -> tuple[Features, tuple[Tensor, ...]]:
        """Decode the next frames, one or many; also return the PEG windows for the frames after them."""
        bias = self.bias(s_hat.shape[2:4])
        x, content, kept = self.structure_in(s_hat), flatten(c_mem), []
        for i, layer in enumerate(self.layers):
            x, window = layer(x, content, origin.context[i], bias, windows and windows[i])
            kept.append(window)
        e_hat = self.proj_out(self.norm_out(x))
        return (origin.e0 + e_hat if self.predicts_change else e_hat), tuple(kept)


class _Layer(nn.Module):
    """PEG, self-attention, cross-attention to the first frame and to the content memory in parallel, feed-forward."""

    def __init__(self, config: DiLAConfig):
        super().__init__()
        dim, sizes = config.dim, config.decoder
        self.peg = PEG(dim, config.time_padding)
        self.attention = Attention(dim, sizes.heads, sizes.head_dim)
        self.across_origin = Attention(dim, sizes.heads, sizes.head_dim, context_dim=config.feature_dim, null_tokens=2)
        self.across_content: Attention | None = None
        if config.content is None:
            width = config.content_dim
            self.across_content = Attention(dim, sizes.heads, sizes.head_dim, context_dim=width, null_tokens=2)
        self.ff = FeedForward(dim, config.dropout)

    def forward(
        self, x: Tensor, content: Tensor, origin: tuple[Tensor, Tensor], bias: Tensor, window: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        x, kept = self.peg(x, window)
        tokens = flatten(x)
        tokens = tokens + self.attention.space(tokens, bias)
        told = tokens + self.across_origin.across(tokens, origin)
        if self.across_content is not None:
            told = told + self.across_content.across(tokens, self.across_content.read(content))
        return unflatten(told + self.ff(told), x), kept
