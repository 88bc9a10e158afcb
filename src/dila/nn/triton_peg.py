"""The depthwise 3 x 3 x 3 convolution of `dila.nn.position.PEG` as Triton kernels, for CUDA.

PyTorch's own depthwise kernels want channels first and take a sixth of a training step at `base` size, with the copies
around them more. These read ``B T H W D`` as it lies: a program holds a tile of cells by channels of one frame and
walks over the 27 taps, whose reads overlap and so come from the multiprocessor's own cache.
"""

# pyright: reportIndexIssue=false
# (a kernel is launched as kernel[grid](...))

from typing import no_type_check

import torch
import triton
import triton.language as tl

from dila.nn.triton_scan import programs
from dila.shapes import Tensor

_CELLS, _CHANNELS = 256, 64
_PROGRAMS = 4
"""Programs of the weight's gradient on each multiprocessor."""


@triton.jit
@no_type_check  # Triton reads the function itself: nothing may be wrapped around it
def _taps_kernel(
    x, weight, bias, y, frames_in, frames_out, rows, cols, channels,
    way: tl.constexpr, biased: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """``y[t, i, j] = sum of x[t + way a, i + way (b - 1), j + way (c - 1)] weight[a, b, c]`` over taps a, b, c."""
    frame, cells = tl.program_id(0).to(tl.int64), rows * cols
    p, c = tl.program_id(1) * P + tl.arange(0, P), tl.program_id(2) * C + tl.arange(0, C)
    clip, t = frame // frames_out, frame % frames_out
    i, j, has_c = p // cols, p % cols, c < channels
    sums = tl.zeros([P, C], tl.float32)
    for tap in tl.static_range(27):
        tt, ii, jj = t + way * (tap // 9), i + way * (tap // 3 % 3 - 1), j + way * (tap % 3 - 1)
        there = (p < cells) & (tt >= 0) & (tt < frames_in) & (ii >= 0) & (ii < rows) & (jj >= 0) & (jj < cols)
        at = ((clip * frames_in + tt) * cells + ii * cols + jj)[:, None] * channels + c[None, :]
        w = tl.load(weight + tap * channels + c, has_c, 0.0).to(tl.float32)
        sums += tl.load(x + at, there[:, None] & has_c[None, :], 0.0).to(tl.float32) * w[None, :]
    if biased:
        sums += tl.load(bias + c, has_c, 0.0).to(tl.float32)[None, :]
    tl.store(y + (frame * cells + p)[:, None] * channels + c[None, :], sums, (p < cells)[:, None] & has_c[None, :])


@triton.jit
@no_type_check
def _weight_kernel(
    x, gy, gweight, tiles, frames_in, frames_out, rows, cols, channels, P: tl.constexpr, C: tl.constexpr
):
    """Each program's share of the sum over frames and cells, ``27 D``, left for the caller to add up."""
    cells, worker = rows * cols, tl.program_id(0)
    blocks = tl.cdiv(cells, P)
    c, row = tl.program_id(1) * C + tl.arange(0, C), tl.arange(0, 32)
    has_c = c < channels
    sums = tl.zeros([32, C], tl.float32)
    tile = worker.to(tl.int64)
    while tile < tiles:
        frame, p = tile // blocks, (tile % blocks) * P + tl.arange(0, P)
        clip, t, i, j = frame // frames_out, frame % frames_out, p // cols, p % cols
        here = (p < cells)[:, None] & has_c[None, :]
        g = tl.load(gy + (frame * cells + p)[:, None] * channels + c[None, :], here, 0.0).to(tl.float32)
        for tap in tl.static_range(27):
            tt, ii, jj = t + tap // 9, i + tap // 3 % 3 - 1, j + tap % 3 - 1
            there = (p < cells) & (ii >= 0) & (ii < rows) & (jj >= 0) & (jj < cols)
            at = ((clip * frames_in + tt) * cells + ii * cols + jj)[:, None] * channels + c[None, :]
            product = tl.load(x + at, there[:, None] & has_c[None, :], 0.0).to(tl.float32) * g
            sums += tl.where(row[:, None] == tap, tl.sum(product, 0)[None, :], 0.0)
        tile += tl.num_programs(0)
    at = (worker * 27 + row)[:, None] * channels + c[None, :]
    tl.store(gweight + at, sums, (row < 27)[:, None] & has_c[None, :])


@torch.library.custom_op("dila::peg", mutates_args=())
def peg(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve a clip that begins with two frames of the past.

    Args:
        x: ``B T+2 H W D``.
        weight: ``27 D``, taps in time, rows and columns.
        bias: ``D``.

    Returns:
        ``B T H W D``, in the type of x.
    """
    x = x.contiguous()
    y = torch.empty_like(x[:, 2:], memory_format=torch.contiguous_format)
    _run_taps(x, weight.contiguous(), bias, y, 1)
    return y


@torch.library.custom_op("dila::peg_backward", mutates_args=())
def peg_backward(x: Tensor, weight: Tensor, gy: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight, given that of the result of `peg`."""
    x, gy, weight = x.contiguous(), gy.contiguous(), weight.contiguous()
    gx = torch.empty_like(x)
    _run_taps(gy, weight, None, gx, -1)
    (clips, frames, rows, cols, channels), cells = gy.shape, _cells(gy)
    blocks = triton.cdiv(channels, _CHANNELS)
    tiles = clips * frames * triton.cdiv(rows * cols, cells)
    workers = max(1, min(tiles, programs(x.device, _PROGRAMS) // blocks))
    gweight = torch.empty(workers, 27, channels, device=x.device, dtype=torch.float32)
    _weight_kernel[(workers, blocks)](
        x, gy, gweight, tiles, frames + 2, frames, rows, cols, channels, P=cells, C=_CHANNELS
    )
    return gx, gweight.sum(0).to(weight.dtype)


@peg.register_fake
def _(x, weight, bias):
    return x.new_empty(x[:, 2:].shape)


@peg_backward.register_fake
def _(x, weight, gy):
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, gy):
    x, weight, bias = ctx.saved_tensors
    return *peg_backward(x, weight, gy), gy.sum((0, 1, 2, 3)).to(bias.dtype)


peg.register_autograd(_differentiate, setup_context=_keep)


def _run_taps(x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor, way: int) -> None:
    clips, frames, rows, cols, channels = y.shape
    grid = (clips * frames, triton.cdiv(rows * cols, _cells(y)), triton.cdiv(channels, _CHANNELS))
    _taps_kernel[grid](
        x, weight, weight if bias is None else bias, y, x.shape[1], frames, rows, cols, channels,
        way=way, biased=bias is not None, P=_cells(y), C=_CHANNELS, num_warps=8,
    )  # fmt: skip


def _cells(y: Tensor) -> int:
    return min(_CELLS, triton.next_power_of_2(y.shape[2] * y.shape[3]))
