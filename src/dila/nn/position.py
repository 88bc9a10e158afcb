"""Position encodings: rotary angles in time, a continuous bias in space, a depthwise convolution in both.

Modules that use past frames take and return what they need of them, so that processing a clip frame by frame equals
processing it at once.
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
    """Return cosines and sines of the angles of `rotate`, float32, on the device of ``like``."""
    return (_turns_apart if torch.compiler.is_compiling() else _turns)(like.detach(), frames, half, start)


def _turns(like: Tensor, frames: int, half: int, start: int) -> Tensor:
    position = torch.arange(start, start + frames, device=like.device, dtype=torch.float32)
    frequency = 10000.0 ** (-torch.arange(half, device=like.device, dtype=torch.float32) / half)
    angle = position[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()])


# As a custom op, because the compiler would otherwise recompute a cosine and a sine for each number of each token.
_turns_apart = torch.library.custom_op("dila::turns", _turns, mutates_args=())
_turns_apart.register_fake(lambda like, frames, half, start: like.new_empty(2, frames, half, dtype=torch.float32))


class RelativePositionBias(nn.Module):
    """Continuous position bias (Swin v2): an MLP of the log-scaled offset between two cells of the grid.

    An H x W grid has only (2H-1)(2W-1) distinct offsets: the MLP runs on these, and the N x N table is gathered. On a
    CPU without gradients, the table is cached until the weights change.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, dim), nn.LeakyReLU(0.1), nn.Linear(dim, dim), nn.LeakyReLU(0.1), nn.Linear(dim, heads)
        )

    def forward(self, grid: tuple[int, int]) -> Float[Tensor, "heads N N"]:
        """Return the additive bias between all pairs of cells, row-major."""
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
    """A cached table of a `RelativePositionBias`, and what it depends on: grid, dtypes and values of the weights."""

    made: tuple[tuple[int, ...], torch.dtype, torch.dtype]
    weights: tuple[Tensor, ...]
    table: Tensor


_KEPT: WeakKeyDictionary[RelativePositionBias, _Kept] = WeakKeyDictionary()
"""Stored outside the modules, so that copies, pickles and state dicts exclude it."""


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # an inference tensor in the cache would break all later gradients
def _offsets(grid: tuple[int, int], device: torch.device) -> tuple[Float[Tensor, "P 2"], Int[Tensor, "N N"]]:
    """Return the distinct offsets of a grid, each axis divided by its length, and each pair's index in them."""
    rows, cols = grid
    dy, dx = torch.meshgrid(torch.arange(1 - rows, rows), torch.arange(1 - cols, cols), indexing="ij")
    offset = torch.stack([dy / rows, dx / cols], dim=-1).reshape(-1, 2)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    y, x = y.flatten(), x.flatten()
    index = (y[:, None] - y + rows - 1) * (2 * cols - 1) + (x[:, None] - x + cols - 1)
    return (offset.sign() * (1 + offset.abs()).log()).to(device), index.to(device)


class PEG(nn.Module):
    """Conditional position encoding (Chu et al. 2021): a depthwise 3 x 3 x 3 convolution, causal in time.

    It needs the last two frames. Before the first frame these are zeros, or with ``replicate`` the first frame itself,
    so that a static clip does not seem to start with a jump.
    """

    def __init__(self, dim: int, padding: TimePadding = "zeros"):
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv3d(dim, dim, 3, padding=(0, 1, 1), groups=dim)

    def forward(
        self, x: Float[Tensor, "B T H W D"], past: Float[Tensor, "B 2 H W D"] | None = None
    ) -> tuple[Float[Tensor, "B T H W D"], Float[Tensor, "B 2 H W D"]]:
        """Return the tokens with their position encoding added, and the last two frames for the next call."""
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
    """Return the dtype that autocast would use for this convolution, or the tensor's own."""
    kind = x.device.type
    known = x.is_cuda or torch.amp.is_autocast_available(kind)  # torch 2.11 fails to compile this query on CUDA
    cast = known and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if cast else x.dtype


def _last_two(past: Tensor | None, x: Float[Tensor, "B T H W D"]) -> Float[Tensor, "B 2 H W D"]:
    if x.shape[1] > 1:
        return x[:, -2:]
    return torch.cat([torch.zeros_like(x) if past is None else past[:, 1:], x], 1)


class _Depthwise(torch.autograd.Function):
    """The convolution of `PEG` with a faster backward; on a CPU PyTorch's takes twenty times as long as its forward.

    The input gradient is another convolution; the weight gradient is three 2-D ones, one per temporal tap.
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
    """Return encodings of positions 0..count-1 (Vaswani et al. 2017): sines in half of the channels, then cosines."""
    half = (dim + 1) // 2
    frequency = 10000.0 ** (-torch.arange(half, device=device) / half)
    angle = torch.arange(count, device=device)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[:, :dim]


def grid_sinusoids(grid: tuple[int, int], dim: int, device: torch.device) -> Float[Tensor, "N D"]:
    """Return encodings of the cells of a grid, row-major: the row in half of the channels, then the column."""
    rows, cols = grid
    row, col = sinusoids(rows, dim // 2, device), sinusoids(cols, dim - dim // 2, device)
    return torch.cat([row.repeat_interleave(cols, dim=0), col.repeat(rows, 1)], dim=-1)
