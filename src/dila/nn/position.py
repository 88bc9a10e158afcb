"""Where a token is: rotary angles in time, a continuous bias in space, a depthwise convolution in both.

Each module that looks back in time takes and returns what it needs of the past, so that reading a clip frame by frame
gives what reading it at once gives.
"""

from functools import lru_cache
from typing import Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torch.nn.grad import conv2d_weight

from dila.nn import kernels
from dila.shapes import Float, Int, Tensor

TimePadding = Literal["zeros", "replicate"]


def rotate(x: Float[Tensor, "... T D"], start: int = 0) -> Float[Tensor, "... T D"]:
    """Rotary position embedding (Su et al. 2021): dim i is paired with dim i + D/2, positions start at ``start``."""
    half = x.shape[-1] // 2
    cos, sin = turns(x, x.shape[-2], half, start).to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def turns(like: Tensor, frames: int, half: int, start: int = 0) -> Float[Tensor, "2 T half"]:
    """Cosines and sines of `rotate`'s angles, float32, on the device of ``like``."""
    return (_turns_apart if torch.compiler.is_compiling() else _turns)(like.detach(), frames, half, start)


def _turns(like: Tensor, frames: int, half: int, start: int) -> Tensor:
    position = torch.arange(start, start + frames, device=like.device, dtype=torch.float32)
    frequency = 10000.0 ** (-torch.arange(half, device=like.device, dtype=torch.float32) / half)
    angle = position[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()])


# The compiler would otherwise compute a cosine and a sine for each number of each token.
_turns_apart = torch.library.custom_op("dila::turns", _turns, mutates_args=())
_turns_apart.register_fake(lambda like, frames, half, start: like.new_empty(2, frames, half, dtype=torch.float32))


class RelativePositionBias(nn.Module):
    """Continuous position bias (Swin v2): an MLP of the log-scaled offset between two cells of the grid.

    An H x W grid has only (2H-1)(2W-1) distinct offsets: the MLP runs on those and the N x N table is gathered. On a
    CPU, without gradients, the table is kept for as long as the weights have the values that it was made of.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, dim), nn.LeakyReLU(0.1), nn.Linear(dim, dim), nn.LeakyReLU(0.1), nn.Linear(dim, heads)
        )

    def forward(self, grid: tuple[int, int]) -> Float[Tensor, "heads N N"]:
        """The additive bias between all pairs of cells, row-major."""
        weight = next(self.parameters())
        plain = type(weight) is nn.Parameter and weight.device.type == "cpu"
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not plain:
            return self._table(grid)
        made, kept = (tuple(grid), weight.dtype, _autocast(weight)), _KEPT.get(self)
        if kept is None or kept.made != made or not all(map(torch.equal, kept.weights, self.parameters())):
            kept = _KEPT[self] = _Kept(made, tuple(p.detach().clone() for p in self.parameters()), self._table(grid))
        return kept.table

    def _table(self, grid: tuple[int, int]) -> Float[Tensor, "heads N N"]:
        weight = next(self.parameters())
        offsets, index = _offsets(grid, weight.device)
        return self.net(offsets.to(weight.dtype))[index].permute(2, 0, 1).contiguous()  # added many times


class _Kept(NamedTuple):
    """The table of a `RelativePositionBias`, and what it was made of: a grid, types and the weights' values."""

    made: tuple[tuple[int, ...], torch.dtype, torch.dtype]
    weights: tuple[Tensor, ...]
    table: Tensor


_KEPT: WeakKeyDictionary[RelativePositionBias, _Kept] = WeakKeyDictionary()
"""Beside the modules, so that no copy, pickle or state dict has it."""


@lru_cache(maxsize=16)
def _offsets(grid: tuple[int, int], device: torch.device) -> tuple[Float[Tensor, "P 2"], Int[Tensor, "N N"]]:
    """The distinct offsets of a grid, each axis divided by its length, and which of them each pair of cells has."""
    rows, cols = grid
    dy, dx = torch.meshgrid(torch.arange(1 - rows, rows), torch.arange(1 - cols, cols), indexing="ij")
    offset = torch.stack([dy / rows, dx / cols], dim=-1).reshape(-1, 2)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    y, x = y.flatten(), x.flatten()
    index = (y[:, None] - y + rows - 1) * (2 * cols - 1) + (x[:, None] - x + cols - 1)
    return (offset.sign() * (1 + offset.abs()).log()).to(device), index.to(device)


class PEG(nn.Module):
    """Conditional position encoding (Chu et al. 2021): a depthwise 3 x 3 x 3 convolution, causal in time.

    Two frames are needed of the past. Before the first frame they are zeros, or with ``replicate`` the first frame
    itself, which keeps a clip that stands still from looking as if it began with a jump.
    """

    def __init__(self, dim: int, padding: TimePadding = "zeros"):
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv3d(dim, dim, 3, padding=(0, 1, 1), groups=dim)

    def forward(
        self, x: Float[Tensor, "B T H W D"], past: Float[Tensor, "B 2 H W D"] | None = None
    ) -> tuple[Float[Tensor, "B T H W D"], Float[Tensor, "B 2 H W D"]]:
        """The tokens with their positions added, and the last two frames for the next call."""
        if past is None and self.padding == "replicate":
            past = x[:, :1].expand(-1, 2, -1, -1, -1)
        past = None if past is None else past.to(x.dtype)
        if kernels.peg is not None and kernels.fits(x):
            return kernels.peg(x, past, self.conv.weight.flatten(1).T, self.conv.bias), _last_two(past, x)
        before = torch.zeros_like(x[:, :1]).expand(-1, 2, -1, -1, -1) if past is None else past
        whole = torch.cat([before, x], dim=1)
        return x + self._convolve(whole), whole[:, -2:]

    def _convolve(self, x: Float[Tensor, "B T2 H W D"]) -> Float[Tensor, "B T H W D"]:
        return _Depthwise.apply(*(part.to(_autocast(x)) for part in (x, *self.conv.parameters())))


def _autocast(x: Tensor) -> torch.dtype:
    """The type in which autocast, where it is on, would convolve this."""
    kind = x.device.type
    known = x.is_cuda or torch.amp.is_autocast_available(kind)  # asked on CUDA, torch 2.11 does not compile a layer
    cast = known and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if cast else x.dtype


def _last_two(past: Tensor | None, x: Float[Tensor, "B T H W D"]) -> Float[Tensor, "B 2 H W D"]:
    if x.shape[1] > 1:
        return x[:, -2:]
    return torch.cat([torch.zeros_like(x) if past is None else past[:, 1:], x], 1)


class _Depthwise(torch.autograd.Function):
    """The convolution of `PEG`, whose own backward takes twenty times as long as its forward on a CPU.

    Here the gradient of the input is a convolution again, and that of the weights three in two dimensions, one a time
    tap.
    """

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return F.conv3d(x.movedim(-1, 1), weight, bias, padding=(0, 1, 1), groups=len(weight)).movedim(1, -1)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        frames, gx = g.shape[1], None
        if ctx.needs_input_grad[0]:
            turned = weight.flip(2, 3, 4)
            gx = F.conv3d(g.movedim(-1, 1), turned, padding=(2, 1, 1), groups=len(weight)).movedim(1, -1)
        taps = [
            conv2d_weight(_images(x[:, tap : tap + frames]), weight[:, :, tap].shape, _images(g), 1, 1, 1, len(weight))
            for tap in range(3)
        ]
        return gx, torch.stack(taps, dim=2), g.sum((0, 1, 2, 3))


def _images(x: Float[Tensor, "B T H W D"]) -> Float[Tensor, "BT D H W"]:
    return rearrange(x, "b t h w d -> (b t) d h w")


def sinusoids(count: int, dim: int, device: torch.device) -> Float[Tensor, "N D"]:
    """Fixed positions 0..count-1 (Vaswani et al. 2017): sines in the first half of the channels, then cosines."""
    half = (dim + 1) // 2
    frequency = 10000.0 ** (-torch.arange(half, device=device) / half)
    angle = torch.arange(count, device=device)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[:, :dim]


def grid_sinusoids(grid: tuple[int, int], dim: int, device: torch.device) -> Float[Tensor, "N D"]:
    """Fixed positions of the cells of a grid, row-major: the row in the first half of the channels, then the column."""
    rows, cols = grid
    row, col = sinusoids(rows, dim // 2, device), sinusoids(cols, dim - dim // 2, device)
    return torch.cat([row.repeat_interleave(cols, dim=0), col.repeat(rows, 1)], dim=-1)
