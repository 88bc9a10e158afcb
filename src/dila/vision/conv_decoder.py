"""A small convolutional decoder from features to frames, trained beside the world model, also on a CPU.

Residual convolutions and pixel-shuffle upsampling (Shi et al. 2016), doubling the grid up to the size of the frame.
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

    The finest level, at a quarter of the frame's size, has `width` channels, each coarser one twice as many up to
    `max_width`; every level has `blocks` residual blocks. The default has 1.0M parameters, for 8 x 8 x 272 to 128
    pixels.

    Raises:
        DilaError: a size smaller than the grid, or a width that is not a multiple of 8.
    """

    feature_dim: int
    grid: tuple[int, int]
    size: int | tuple[int, int] = 128
    width: int = 48
    max_width: int = 192
    blocks: int = 1

    def __post_init__(self):
        if any(side < cells for side, cells in zip(rows_and_columns(self.size), self.grid, strict=True)):
            raise DilaError(f"the decoder's size {self.size} must be at least its feature grid {self.grid}")
        if self.width < 8 or self.width % 8 or self.max_width % 8:
            raise DilaError(
                f"the decoder's width and max_width should be multiples of 8, not {self.width} and {self.max_width}"
            )


class ConvDecoder(nn.Module):
    """Features ``B T H W D`` to frames: `forward` for training, `decode` for display."""

    name: ClassVar[str] = "conv"

    def __init__(self, config: ConvDecoderConfig):
        super().__init__()
        self.settings = config
        self.size = rows_and_columns(config.size)
        doublings = ceil(log2(max(side / cells for side, cells in zip(self.size, config.grid, strict=True))))
        # The last step upsamples by 4: normalised convolutions at half the frame's size would take half of the time.
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
        """Return frames in about 0..1, not clamped, with gradients."""
        x = rearrange(e, "b t h w d -> (b t) d h w")
        x = self.layers(x.contiguous(memory_format=torch.channels_last)).float() + 0.5
        if tuple(x.shape[-2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False, antialias=True)
        return rearrange(x, "(b t) c y x -> b t c y x", b=e.shape[0])

    def decode(self, e: Features) -> Pixels:
        """Return frames in [0, 1], with gradients if the features require them, as in planning by gradients."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and e.requires_grad):
            return self(e).clamp(0, 1)

    def config(self) -> dict[str, Any]:
        """Return a JSON-serialisable config from which `dila.vision.build_decoder` builds an untrained copy."""
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
    """Return the loss terms of a `ConvDecoder`; their sum is the loss.

    The error of a difference d is ``|d| + 4 d^2``: the square finds small objects early, the absolute value keeps them
    sharp.

    - ``pixels``: the error of each pixel, weighted by 1 + `foreground` times its absolute deviation from the median
      frame of the batch (maximum over the three colours), since moving objects are small and the background would
      dominate.
    - ``edges``: `edges` times the error of differences of neighbouring pixels, with the same weights.

    Args:
        predicted: the decoder's frames, ``B T 3 Y X``, not clamped.
        frames: the true frames, of the same size, uint8 or float 0..1.
        foreground: extra weight of a pixel that differs from the median frame as white from black.
        edges: weight of the edge term, which sharpens outlines.

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
    # A median along contiguous memory is several times faster than along the first axis.
    return x.flatten(1).T.contiguous().median(-1).values.view_as(x[0])
