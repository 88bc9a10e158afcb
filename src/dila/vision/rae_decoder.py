"""Decoder of the representation autoencoder (RAE, Zheng et al. 2025): a ViT like MAE's decoder (He et al. 2022).

Reads the published file layout (``dinov2_decoder.pt`` of the RAE release). Sizes are inferred from the tensors, except
the number of heads, which is an argument.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from dila.configs import to_json
from dila.errors import DilaError
from dila.shapes import Features, Float, Pixels, Tensor
from dila.vision.encoder import denormalise_pixels
from dila.vision.statistics import FeatureStatistics
from dila.vision.stored import read_tensors, tensor_faults

NORM_EPS = 1e-12
PUBLISHED_GRID = 16


@dataclass(frozen=True)
class RAEDecoderConfig:
    """`weights` is the published file, ``.pt`` or safetensors; `grid` is used only if it has no position table."""

    weights: str
    heads: int = 16
    grid: int = PUBLISHED_GRID


@dataclass(frozen=True)
class RAESizes:
    """Sizes inferred from a file: input `features`, `width`, `depth`, `mlp`, `patch` in pixels, `grid` in tokens."""

    features: int
    width: int
    depth: int
    mlp: int
    patch: int
    grid: int


class RAEDecoder(nn.Module):
    """Features ``B T H W D``, normalised by `statistics` (None: raw), to frames of ``H * patch`` pixels.

    Raises:
        DilaError: the file does not exist, keys are missing, unexpected, misshapen or not finite, or heads do not
            divide the width.
    """

    name: ClassVar[str] = "rae"

    def __init__(self, config: RAEDecoderConfig, statistics: FeatureStatistics | None = None):
        super().__init__()
        self.settings = config
        self.statistics = statistics
        stored = dict(read_tensors(Path(config.weights), "RAE decoder weights"))
        sizes = _sizes(stored, config)
        if sizes.width % config.heads:
            raise DilaError(
                f"heads = {config.heads} does not divide the width {sizes.width} of {config.weights}; change heads"
            )
        stored.setdefault("decoder_pos_embed", sincos_table(sizes.grid, sizes.width))
        self.sizes = sizes
        with torch.device("meta"):
            self._build(sizes, config.heads)
        if faults := tensor_faults(stored, self.state_dict()):
            raise DilaError(
                f"{config.weights} is not a complete RAE decoder ({'; '.join(faults)}); give the published file"
            )
        self.load_state_dict({key: value.float() for key, value in stored.items()}, assign=True)
        self.eval().requires_grad_(False)

    def forward(self, e: Features) -> Pixels:
        """Return frames in about 0..1, not clamped, with gradients."""
        z = e.float() if self.statistics is None else self.statistics.denormalise(e)
        x = self.decoder_embed(rearrange(z, "b t h w d -> (b t) (h w) d"))
        x = torch.cat([self.trainable_cls_token.expand(len(x), -1, -1), x], dim=1) + self.decoder_pos_embed
        for layer in self.decoder_layers:
            x = layer(x)
        patches = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        pixels = rearrange(
            patches, "(b t) (h w) (p q c) -> b t c (h p) (w q)",
            b=e.shape[0], h=e.shape[2], p=self.sizes.patch, q=self.sizes.patch,
        )  # fmt: skip
        return denormalise_pixels(pixels)

    def decode(self, e: Features) -> Pixels:
        """Return frames in [0, 1], with gradients if the features require them; the weights require none."""
        return self(e).clamp(0, 1)

    def config(self) -> dict[str, Any]:
        """Return a JSON-serialisable config for `dila.vision.build_decoder`; excludes the statistics.

        The tensors of its file are its state dict, under the same names.
        """
        return {"name": self.name} | to_json(self.settings)

    def _build(self, sizes: RAESizes, heads: int) -> None:
        # The names are those of the published file.
        self.decoder_embed = nn.Linear(sizes.features, sizes.width)
        self.trainable_cls_token = nn.Parameter(torch.empty(1, 1, sizes.width))
        self.decoder_pos_embed = nn.Parameter(torch.empty(1, 1 + sizes.grid**2, sizes.width))
        self.decoder_layers = nn.ModuleList(_Layer(sizes.width, sizes.mlp, heads) for _ in range(sizes.depth))
        self.decoder_norm = nn.LayerNorm(sizes.width, eps=NORM_EPS)
        self.decoder_pred = nn.Linear(sizes.width, 3 * sizes.patch**2)


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Float[Tensor, "N L C"]) -> Float[Tensor, "N L C"]:
        q, k, v = (
            rearrange(y, "n l (a c) -> n a l c", a=self.heads) for y in (self.query(x), self.key(x), self.value(x))
        )
        return rearrange(F.scaled_dot_product_attention(q, k, v), "n a l c -> n l (a c)")


class _Dense(nn.Module):
    """A linear layer, nested as in the published names."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)

    def forward(self, x: Float[Tensor, "N L I"]) -> Float[Tensor, "N L O"]:
        return self.dense(x)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = _SelfAttention(width, heads)
        self.output = _Dense(width, width)

    def forward(self, x: Float[Tensor, "N L C"]) -> Float[Tensor, "N L C"]:
        return self.output(self.attention(x))


class _Layer(nn.Module):
    def __init__(self, width: int, mlp: int, heads: int):
        super().__init__()
        self.attention = _Attention(width, heads)
        self.intermediate = _Dense(width, mlp)
        self.output = _Dense(mlp, width)
        self.layernorm_before = nn.LayerNorm(width, eps=NORM_EPS)
        self.layernorm_after = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, x: Float[Tensor, "N L C"]) -> Float[Tensor, "N L C"]:
        x = x + self.attention(self.layernorm_before(x))
        return x + self.output(F.gelu(self.intermediate(self.layernorm_after(x))))


def sincos_table(grid: int, width: int) -> Float[Tensor, "1 L C"]:
    """Return MAE's fixed position table for a square grid, row-major, after a row of zeros for the class token.

    The first half of the channels encodes the column, the second the row; each has sines, then cosines, of
    ``position / 10000^(i / (width / 4))`` (MAE's ``util/pos_embed.py``).
    """
    quarter = width // 4
    frequency = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angle = torch.arange(grid, dtype=torch.float64)[:, None] * frequency
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)
    column = axis[None].expand(grid, grid, -1)
    row = axis[:, None].expand(grid, grid, -1)
    table = torch.cat([column, row], dim=-1).flatten(0, 1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), table])[None].float()


def _sizes(stored: Mapping[str, Tensor], config: RAEDecoderConfig) -> RAESizes:
    needed = {"decoder_embed.weight": 2, "decoder_pred.weight": 2, "decoder_layers.0.intermediate.dense.weight": 2}
    if missing := [key for key in needed if key not in stored]:
        raise DilaError(f"{config.weights} is not an RAE decoder: it lacks {', '.join(missing)}")
    if bad := [key for key, ndim in needed.items() if stored[key].ndim != ndim]:
        raise DilaError(f"{config.weights} is not an RAE decoder: {', '.join(bad)} should be a matrix")
    width, features = stored["decoder_embed.weight"].shape
    numbers = [int(m[1]) for key in stored if (m := re.match(r"decoder_layers\.(\d+)\.", key))]
    table = stored.get("decoder_pos_embed")
    return RAESizes(
        features=features,
        width=width,
        depth=1 + max(numbers),
        mlp=stored["decoder_layers.0.intermediate.dense.weight"].shape[0],
        patch=isqrt(stored["decoder_pred.weight"].shape[0] // 3),
        grid=isqrt(table.shape[-2] - 1) if table is not None and table.ndim == 3 else config.grid,
    )
