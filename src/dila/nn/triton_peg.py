"""The depthwise 3 x 3 x 3 convolution of `dila.nn.position.PEG` as Triton kernels, for CUDA.

PyTorch's own depthwise kernels want channels first and take a sixth of a training step at `base` size, with the copies
around them more. These read ``B T H W D`` as it lies. A program holds a tile of cells by channels and walks over time:
each frame is read once for the three frames that it is a tap of, whose sums stay in registers.
"""

# pyright: reportIndexIssue=false
# (a kernel is launched as kernel[grid](...))

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl

from dila.nn.triton_scan import programs
from dila.shapes import Tensor

_TILE, _WEIGHT_TILE = (32, 64), (16, 32)
"""Cells and channels of a program, few enough that all sums stay in registers."""
_PROGRAMS = 4
"""Programs of the weight's gradient on each multiprocessor."""


@triton.jit
@no_type_check  # Triton reads the function itself: nothing may be wrapped around it
def _shifted(frame, i, j, p, c, rows, cols, channels):
    """The tile of a frame at rows i and columns j, 0 outside the grid; p are its cells, c its channels."""
    there = (p < rows * cols) & (i >= 0) & (i < rows) & (j >= 0) & (j < cols)
    at = ((i * cols + j) * channels)[:, None] + c[None, :]
    return tl.load(frame + at, there[:, None] & (c < channels)[None, :], 0.0).to(tl.float32)


@triton.jit
@no_type_check
def _frame(x, past, clip, t, frames, size, past_clip, past_frame):
    """Where frame t of a clip lies; the two before the first are the past's."""
    if t < 0:  # noqa: SIM108 (Triton would compute both)
        at = past + clip * past_clip + (t + 2) * past_frame
    else:
        at = x + (clip * frames + t) * size
    return at


@triton.jit
@no_type_check
def _taps_kernel(
    x, past, weight, bias, y, frames, rows, cols, channels, past_clip, past_frame,
    continued: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """``y[t, i, j] = bias + sum over a, b, d of x[t + a - 2, i + b - 1, j + d - 1] weight[a, b, d]``."""
    clip, size = tl.program_id(0).to(tl.int64), rows * cols * channels
    p, c = tl.program_id(1) * P + tl.arange(0, P), tl.program_id(2) * C + tl.arange(0, C)
    i, j, has_c = p // cols, p % cols, c < channels
    here = (p < rows * cols)[:, None] & has_c[None, :]
    at, b = (p * channels)[:, None] + c[None, :], tl.load(bias + c, has_c, 0.0).to(tl.float32)
    now, next_, after = tl.zeros([P, C], tl.float32), tl.zeros([P, C], tl.float32), tl.zeros([P, C], tl.float32)
    for t in range(-2 if continued else 0, frames):
        frame = _frame(x, past, clip, t, frames, size, past_clip, past_frame)
        for tap in range(9):
            v = _shifted(frame, i + tap // 3 - 1, j + tap % 3 - 1, p, c, rows, cols, channels)
            w = weight + tap * channels + c
            now += v * tl.load(w + 18 * channels, has_c, 0.0)[None, :]
            next_ += v * tl.load(w + 9 * channels, has_c, 0.0)[None, :]
            after += v * tl.load(w, has_c, 0.0)[None, :]
        if t >= 0:
            tl.store(y + (clip * frames + t) * size + at, now + b[None, :], here)
        now, next_, after = next_, after, tl.zeros([P, C], tl.float32)


@triton.jit
@no_type_check
def _input_kernel(
    gy, weight, gx, gpast, frames, rows, cols, channels,
    continued: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Gradient of the input: frame t of ``gy`` goes to frames t - 2 to t, each tap the other way."""
    clip, size = tl.program_id(0).to(tl.int64), rows * cols * channels
    p, c = tl.program_id(1) * P + tl.arange(0, P), tl.program_id(2) * C + tl.arange(0, C)
    i, j, has_c = p // cols, p % cols, c < channels
    here = (p < rows * cols)[:, None] & has_c[None, :]
    at = (p * channels)[:, None] + c[None, :]
    now, next_, after = tl.zeros([P, C], tl.float32), tl.zeros([P, C], tl.float32), tl.zeros([P, C], tl.float32)
    for t in range(frames + 2):
        if t < frames:
            frame = gy + (clip * frames + t) * size
            for tap in range(9):
                v = _shifted(frame, i + 1 - tap // 3, j + 1 - tap % 3, p, c, rows, cols, channels)
                w = weight + tap * channels + c
                now += v * tl.load(w, has_c, 0.0)[None, :]
                next_ += v * tl.load(w + 9 * channels, has_c, 0.0)[None, :]
                after += v * tl.load(w + 18 * channels, has_c, 0.0)[None, :]
        if continued or t >= 2:
            tl.store(_frame(gx, gpast, clip, t - 2, frames, size, 2 * size, size) + at, now, here)
        now, next_, after = next_, after, tl.zeros([P, C], tl.float32)


@triton.jit
@no_type_check
def _weight_kernel(
    x, past, gy, gweight, tiles, frames, rows, cols, channels, past_clip, past_frame,
    continued: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Each program's share of the sums over frames and cells of one tap in time, left for the caller to add up.

    ``28 D`` of each worker: 27 taps, and last the bias.
    """
    worker, a, size = tl.program_id(0), tl.program_id(1), rows * cols * channels
    blocks = tl.cdiv(rows * cols, P)
    c = tl.program_id(2) * C + tl.arange(0, C)
    has_c, none = c < channels, tl.zeros([P, C], tl.float32)
    s0, s1, s2, s3, s4, s5, s6, s7, s8, s9 = none, none, none, none, none, none, none, none, none, none
    first = 0 if continued else 2 - a
    for tile in range(worker, tiles, tl.num_programs(0)):
        clip, p = (tile // blocks).to(tl.int64), (tile % blocks) * P + tl.arange(0, P)
        i, j = p // cols, p % cols
        for t in range(first, frames):
            g = _shifted(gy + (clip * frames + t) * size, i, j, p, c, rows, cols, channels)
            frame = _frame(x, past, clip, t + a - 2, frames, size, past_clip, past_frame)
            s0 += g * _shifted(frame, i - 1, j - 1, p, c, rows, cols, channels)
            s1 += g * _shifted(frame, i - 1, j, p, c, rows, cols, channels)
            s2 += g * _shifted(frame, i - 1, j + 1, p, c, rows, cols, channels)
            s3 += g * _shifted(frame, i, j - 1, p, c, rows, cols, channels)
            s4 += g * _shifted(frame, i, j, p, c, rows, cols, channels)
            s5 += g * _shifted(frame, i, j + 1, p, c, rows, cols, channels)
            s6 += g * _shifted(frame, i + 1, j - 1, p, c, rows, cols, channels)
            s7 += g * _shifted(frame, i + 1, j, p, c, rows, cols, channels)
            s8 += g * _shifted(frame, i + 1, j + 1, p, c, rows, cols, channels)
            s9 += g
    own = gweight + (worker * 28 + 9 * a) * channels + c
    tl.store(own, tl.sum(s0, 0), has_c)
    tl.store(own + channels, tl.sum(s1, 0), has_c)
    tl.store(own + 2 * channels, tl.sum(s2, 0), has_c)
    tl.store(own + 3 * channels, tl.sum(s3, 0), has_c)
    tl.store(own + 4 * channels, tl.sum(s4, 0), has_c)
    tl.store(own + 5 * channels, tl.sum(s5, 0), has_c)
    tl.store(own + 6 * channels, tl.sum(s6, 0), has_c)
    tl.store(own + 7 * channels, tl.sum(s7, 0), has_c)
    tl.store(own + 8 * channels, tl.sum(s8, 0), has_c)
    if a == 2:  # of the three taps in time the one that reads every frame of gy
        tl.store(own + 9 * channels, tl.sum(s9, 0), has_c)


@torch.library.custom_op("dila::peg", mutates_args=())
def peg(x: Tensor, past: Tensor | None, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """Convolve the frames of a clip after two of the past.

    Args:
        x: ``B T H W D``.
        past: ``B 2 H W D``, in the type of x; zeros when None.
        weight: ``27 D``, taps in time, rows and columns, float32.
        bias: ``D``.
        dtype: of the result.

    Returns:
        ``B T H W D``.
    """
    x = x.contiguous()
    y = torch.empty_like(x, dtype=dtype)
    _taps_kernel[_tiles(x)](x, weight=weight.contiguous(), bias=bias, y=y, **_sizes(x, _TILE), **_before(past, x))
    return y


@torch.library.custom_op("dila::peg_backward", mutates_args=())
def peg_backward(
    x: Tensor, past: Tensor | None, weight: Tensor, gy: Tensor, moves: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, past, weight and bias, given that of `peg`'s result; the first two empty if not ``moves``."""
    x, gy, weight = x.contiguous(), gy.contiguous(), weight.contiguous()
    gx = torch.empty_like(x) if moves else x.new_empty(0)
    gpast = x.new_empty(past.shape) if moves and past is not None else x.new_empty(0)
    if moves:
        _input_kernel[_tiles(x)](gy, weight, gx, gpast, continued=past is not None, **_sizes(x, _TILE))
    channels, sizes = x.shape[-1], _sizes(x, _WEIGHT_TILE)
    blocks = triton.cdiv(channels, sizes["C"])
    tiles = x.shape[0] * triton.cdiv(x.shape[2] * x.shape[3], sizes["P"])
    workers = max(1, min(tiles, programs(x.device, _PROGRAMS) // (3 * blocks)))
    shares = torch.empty(workers, 28, channels, device=x.device, dtype=torch.float32)
    _weight_kernel[(workers, 3, blocks)](x, gy=gy, gweight=shares, tiles=tiles, **sizes, **_before(past, x))
    sums = shares.sum(0).to(weight.dtype)
    return gx, gpast, sums[:27].clone(), sums[27].clone()


@peg.register_fake
def _(x, past, weight, bias, dtype):
    return x.new_empty(x.shape, dtype=dtype)


@peg_backward.register_fake
def _(x, past, weight, gy, moves):
    gx, gpast = (x.new_empty(part.shape if moves and part is not None else 0) for part in (x, past))
    return gx, gpast, weight.new_empty(weight.shape), weight.new_empty(weight.shape[1])


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3])


def _differentiate(ctx, gy):
    x, past, weight = ctx.saved_tensors
    moves = any(ctx.needs_input_grad[:2])
    gx, gpast, gweight, gbias = peg_backward(x, past, weight, gy, moves)
    return gx if moves else None, gpast if moves and past is not None else None, gweight, gbias, None


peg.register_autograd(_differentiate, setup_context=_keep)


def _before(past: Tensor | None, x: Tensor) -> dict[str, Any]:
    """The past as the kernels take it: frames in one piece, at any distance from each other; where it is zeros, any."""
    laid = x if past is None else past if past[0, 0].is_contiguous() else past.contiguous()
    strides = {"past_clip": laid.stride(0), "past_frame": laid.stride(1)}
    return strides | {"past": laid, "continued": past is not None}


def _sizes(x: Tensor, tile: tuple[int, int]) -> dict[str, int]:
    _, frames, rows, cols, channels = x.shape
    sizes = {"frames": frames, "rows": rows, "cols": cols, "channels": channels}
    return sizes | {"P": min(tile[0], triton.next_power_of_2(rows * cols)), "C": tile[1]}


def _tiles(x: Tensor) -> tuple[int, int, int]:
    sizes = _sizes(x, _TILE)
    cells = triton.cdiv(sizes["rows"] * sizes["cols"], sizes["P"])
    return x.shape[0], cells, triton.cdiv(sizes["channels"], sizes["C"])
