"""A light convolutional decoder: features to frames, trained beside the world model, small enough for a CPU.

Residual convolutions and pixel-shuffle enlargements (Shi et al. 2016), doubling the grid until the frame's size.
"""

from dataclasses import dataclass
from math import ceil, log2
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from dila.errors import DilaError
from dila.shapes import Features, Float, Frames, Pixels, Tensor
from dila.vision.configs import rows_and_columns, to_json


@dataclass(frozen=True)
class ConvDecoderConfig:
    """Features of `feature_dim` channels on `grid` (rows, columns) to frames of `size` (one number, or rows and columns).

    The feature grid has `max_width` channels at most; the last level before the frame has `width`, each coarser one
    twice as many. `blocks` residual blocks a level.

    Raises:
        DilaError: a size smaller than the grid, or a width that is no multiple of 8.
    """

    feature_dim: int
    grid: tuple[int, int]
    size: int | tuple[int, int] = 128
    width: int = 32
    max_width: int = 128
    blocks: int = 1

    def __post_init__(self):
        if any(side < cells for side, cells in zip(rows_and_columns(self.size), self.grid, strict=True)):
            raise DilaError(f"the decoder's size {self.size} should be no smaller than its feature grid {self.grid}")
        if self.width < 8 or self.width % 8 or self.max_width % 8:
            raise DilaError(
                f"the decoder's width and max_width should be multiples of 8, not {self.width}, {self.max_width}"
            )


class ConvDecoder(nn.Module):
    """Features ``B T H W D`` to frames: `forward` trains, `decode` shows."""

    name: ClassVar[str] = "conv"

    def __init__(self, config: ConvDecoderConfig):
        super().__init__()
        self.settings = config
        self.size = rows_and_columns(config.size)
        doublings = ceil(log2(max(side / cells for side, cells in zip(self.size, config.grid, strict=True))))
        # The last doubling is a shuffle straight to pixels, so the costliest resolution never sees a wide convolution.
        widths = [min(config.width * 2**level, config.max_width) for level in reversed(range(max(doublings, 1)))]
        layers: list[nn.Module] = [nn.Conv2d(config.feature_dim, widths[0], 1)]
        layers += [_ResidualBlock(widths[0]) for _ in range(config.blocks)]
        for narrow, wide in zip(widths[1:], widths, strict=False):
            layers += [nn.Conv2d(wide, 4 * narrow, 1), nn.PixelShuffle(2)]
            layers += [_ResidualBlock(narrow) for _ in range(config.blocks)]
        last = 2 if doublings else 1
        layers += [_norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], 3 * last**2, 3, padding=1), nn.PixelShuffle(last)]
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, e: Features) -> Pixels:
        """Frames in about 0..1, not clamped, with gradients."""
        x = rearrange(e, "b t h w d -> (b t) d h w")
        x = self.layers(x.contiguous(memory_format=torch.channels_last)).float() + 0.5
        if tuple(x.shape[-2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False, antialias=True)
        return rearrange(x, "(b t) c y x -> b t c y x", b=e.shape[0])

    @torch.no_grad()
    def decode(self, e: Features) -> Pixels:
        """Frames in [0, 1], without gradients."""
        return self(e).clamp(0, 1)

    def config(self) -> dict[str, Any]:
        """JSON-ready description from which `dila.vision.build_decoder` makes the same decoder, untrained."""
        return to_json(self.name, self.settings)


class _ResidualBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Sequential(_norm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        self.second = nn.Sequential(_norm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(8, width)


def decoder_loss(
    predicted: Pixels, frames: Frames | Pixels, *, foreground: float = 8.0, edges: float = 1.0
) -> dict[str, Float[Tensor, ""]]:
    """The terms a `ConvDecoder` is trained by; their sum is the loss.

    - ``pixels``: L1, each pixel weighted by 1 + `foreground` times its absolute deviation from the median frame of the
      batch (largest of three colours): what moves or differs between clips is small and would drown in the background.
    - ``edges``: `edges` times the L1 between differences of neighbouring pixels, under the same weights: sharp outlines.

    Args:
        predicted: the decoder's frames, ``B T 3 Y X``, not clamped.
        frames: the true ones, of the same size, uint8 or float 0..1.

    Returns:
        ``{"pixels": ..., "edges": ...}``, scalars.
    """
    x = frames.float() / 255 if not frames.is_floating_point() else frames.float()
    x, y = x.flatten(0, 1), predicted.flatten(0, 1)
    deviation = (x - x.median(0).values).abs().amax(1, keepdim=True)
    weight = 1 + foreground * deviation
    weight = weight / weight.mean()
    across = _difference(y, x, -1).abs() * weight[..., 1:]
    down = _difference(y, x, -2).abs() * weight[..., 1:, :]
    return {"pixels": ((y - x).abs() * weight).mean(), "edges": edges * (across.mean() + down.mean())}


def _difference(y: Tensor, x: Tensor, dim: int) -> Tensor:
    return torch.diff(y, dim=dim) - torch.diff(x, dim=dim)
