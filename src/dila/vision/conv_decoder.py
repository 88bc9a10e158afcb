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

from dila.configs import to_json
from dila.errors import DilaError
from dila.shapes import Features, Float, Frames, Pixels, Tensor
from dila.vision.encoder import rows_and_columns


@dataclass(frozen=True)
class ConvDecoderConfig:
    """Features of `feature_dim` channels on `grid` (rows, columns) to frames of `size` (a number, or rows and columns).

    The finest level, a quarter of the frame, has `width` channels, each coarser one twice as many up to `max_width`;
    every level has `blocks` residual blocks. The default is 1.0 M parameters for 8 x 8 x 272 to 128 pixels.

    Raises:
        DilaError: a size smaller than the grid, or a width that is no multiple of 8.
    """

    feature_dim: int
    grid: tuple[int, int]
    size: int | tuple[int, int] = 128
    width: int = 48
    max_width: int = 192
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
        # The last step is a shuffle by 4: normalised convolutions at half the frame's size would cost half of all time.
        last = 2 ** min(2, doublings)
        levels = max(doublings - 2, 0) + 1
        widths = [min(config.width * 2**level, config.max_width) for level in reversed(range(levels))]
        layers: list[nn.Module] = [nn.Conv2d(config.feature_dim, widths[0], 1)]
        layers += [_ResidualBlock(widths[0]) for _ in range(config.blocks)]
        for narrow, wide in zip(widths[1:], widths, strict=False):
            layers += [nn.Conv2d(wide, 4 * narrow, 1), nn.PixelShuffle(2)]
            layers += [_ResidualBlock(narrow) for _ in range(config.blocks)]
        layers += [
            _norm(widths[-1]),
            nn.SiLU(),
            nn.Conv2d(widths[-1], 3 * last**2, 3, padding=1),
            nn.PixelShuffle(last),
        ]
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
        return {"name": self.name} | to_json(self.settings)


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
    predicted: Pixels, frames: Frames | Pixels, *, foreground: float = 20.0, edges: float = 1.0
) -> dict[str, Float[Tensor, ""]]:
    """The terms a `ConvDecoder` is trained by; their sum is the loss.

    The error of a difference d is ``|d| + 4 d^2``: the square finds small objects early, the absolute keeps them sharp.

    - ``pixels``: the error of each pixel, weighted by 1 + `foreground` times its absolute deviation from the median
      frame of the batch (largest of three colours): what moves is small and would drown in the background.
    - ``edges``: `edges` times the error of differences of neighbouring pixels, under the same weights: sharp outlines.

    Args:
        predicted: the decoder's frames, ``B T 3 Y X``, not clamped.
        frames: the true ones, of the same size, uint8 or float 0..1.
        foreground: extra weight of a pixel that is as far from the median frame as black from white.
        edges: weight of the outlines.

    Returns:
        ``{"pixels": ..., "edges": ...}``, scalars.
    """
    x = frames.float() / 255 if not frames.is_floating_point() else frames.float()
    x, y = x.flatten(0, 1), predicted.flatten(0, 1)
    weight = 1 + foreground * (x - _median(x)).abs().amax(1, keepdim=True)
    weight = weight / weight.mean()
    d = y - x
    across = _error(d.diff(dim=-1)) * weight[..., 1:]
    down = _error(d.diff(dim=-2)) * weight[..., 1:, :]
    return {"pixels": (_error(d) * weight).mean(), "edges": edges * (across.mean() + down.mean())}


def _error(d: Tensor) -> Tensor:
    return d.abs() + 4 * d.square()


def _median(x: Tensor) -> Tensor:
    # Along contiguous memory: several times faster than along the first axis.
    return x.flatten(1).T.contiguous().median(-1).values.view_as(x[0])
