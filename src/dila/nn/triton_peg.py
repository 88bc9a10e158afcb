"""The depthwise 3 x 3 x 3 convolution of `dila.nn.position.PEG`, plus its input, as Triton kernels for CUDA.

PyTorch's own depthwise kernels need channels first and take a sixth of a training step at `base` size, more with the
copies. These read ``B T H W D`` in place. A program handles two rows of cells and some channels, and iterates over
time: each frame is loaded once for its three temporal taps, four of its rows for the two output rows, and sums stay in
registers.
"""

# pyright: reportIndexIssue=false
# (a kernel is launched as kernel[grid](...))

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl

from dila.nn.triton_scan import programs
from dila.shapes import Tensor

_TILE, _WEIGHT_TILE = (16, 64), (16, 32)
"""Cells per row and channels of a program, few enough that all sums stay in registers."""
_PROGRAMS = 4
"""Programs of the weight gradient per multiprocessor."""


@triton.jit
@no_type_check  # or a type checker would wrap the function, whose source Triton reads
def _row(frame, i, j, c, rows, cols, channels):
    """Load cells j of row i of a frame by channels c, 0 outside the grid."""
    there = (i >= 0) & (i < rows) & (j >= 0) & (j < cols)
    at = ((i * cols + j) * channels)[:, None] + c[None, :]
    return tl.load(frame + at, there[:, None] & (c < channels)[None, :], 0.0).to(tl.float32)


@triton.jit
@no_type_check
def _four(frame, i, j, c, rows, cols, channels):
    """Load rows i - 1 to i + 2."""
    return (
        _row(frame, i - 1, j, c, rows, cols, channels),
        _row(frame, i, j, c, rows, cols, channels),
        _row(frame, i + 1, j, c, rows, cols, channels),
        _row(frame, i + 2, j, c, rows, cols, channels),
    )


@triton.jit
@no_type_check
def _frame(x, past, clip, t, frames, size, past_clip, past_frame):
    """Pointer to frame t of a clip; the two frames before the first are in the past."""
    if t < 0:  # noqa: SIM108 (Triton would compute both)
        at = past + clip * past_clip + (t + 2) * past_frame
    else:
        at = x + (clip * frames + t) * size
    return at


@triton.jit
@no_type_check
def _part(number, cols, P: tl.constexpr):
    """Return the upper of the two rows of this part of a frame, and its cells per row."""
    across = tl.cdiv(cols, P)
    return number // across * 2, number % across * P + tl.arange(0, P)


@triton.jit
@no_type_check
def _put(y, upper, lower, i, j, c, rows, cols, channels):
    """Store two rows of a frame."""
    at, here = ((i * cols + j) * channels)[:, None] + c[None, :], (j < cols)[:, None] & (c < channels)[None, :]
    tl.store(y + at, upper, here)
    tl.store(y + at + cols * channels, lower, here & (i + 1 < rows))


@triton.jit
@no_type_check
def _weigh(upper, lower, v0, v1, v2, v3, w, step, has_c):
    """Accumulate two output rows from four input rows and the three taps of a column, ``step`` apart.

    Tap by tap, so that each product and its sum are one instruction.
    """
    w0, w1, w2 = tl.load(w, has_c, 0.0), tl.load(w + step, has_c, 0.0), tl.load(w + 2 * step, has_c, 0.0)
    upper, lower = upper + v0 * w0[None, :], lower + v1 * w0[None, :]
    upper, lower = upper + v1 * w1[None, :], lower + v2 * w1[None, :]
    return upper + v2 * w2[None, :], lower + v3 * w2[None, :]


@triton.jit
@no_type_check
def _taps_kernel(
    x, past, weight, bias, y, frames, rows, cols, channels, past_clip, past_frame,
    continued: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """``y[t, i, j] = bias + sum over a, b, d of x[t + a - 2, i + b - 1, j + d - 1] weight[a, b, d]``."""
    clip, size = tl.program_id(0).to(tl.int64), rows * cols * channels
    i, j = _part(tl.program_id(1), cols, P)
    c = tl.program_id(2) * C + tl.arange(0, C)
    has_c, none = c < channels, tl.zeros([P, C], tl.float32)
    b = tl.load(bias + c, has_c, 0.0).to(tl.float32)[None, :]
    now, now_, next_, next__, after, after_ = none, none, none, none, none, none  # names of lower rows have one more _
    for t in range(-2 if continued else 0, frames):
        frame = _frame(x, past, clip, t, frames, size, past_clip, past_frame)
        for d in range(3):
            v0, v1, v2, v3 = _four(frame, i, j + d - 1, c, rows, cols, channels)
            w, step = weight + d * channels + c, 3 * channels
            now, now_ = _weigh(now, now_, v0, v1, v2, v3, w + 18 * channels, step, has_c)
            next_, next__ = _weigh(next_, next__, v0, v1, v2, v3, w + 9 * channels, step, has_c)
            after, after_ = _weigh(after, after_, v0, v1, v2, v3, w, step, has_c)
        if t >= 0:
            _put(y + (clip * frames + t) * size, now + b, now_ + b, i, j, c, rows, cols, channels)
        now, now_, next_, next__, after, after_ = next_, next__, after, after_, none, none


@triton.jit
@no_type_check
def _input_kernel(
    gy, weight, gx, gpast, frames, rows, cols, channels,
    continued: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Gradient of the input: frame t of ``gy`` contributes to frames t - 2 to t, with mirrored taps."""
    clip, size = tl.program_id(0).to(tl.int64), rows * cols * channels
    i, j = _part(tl.program_id(1), cols, P)
    c = tl.program_id(2) * C + tl.arange(0, C)
    has_c, none = c < channels, tl.zeros([P, C], tl.float32)
    now, now_, next_, next__, after, after_ = none, none, none, none, none, none
    for t in range(frames + 2):
        if t < frames:
            frame = gy + (clip * frames + t) * size
            for d in range(3):
                v0, v1, v2, v3 = _four(frame, i, j + d - 1, c, rows, cols, channels)
                w, step = weight + (8 - d) * channels + c, -3 * channels
                now, now_ = _weigh(now, now_, v0, v1, v2, v3, w, step, has_c)
                next_, next__ = _weigh(next_, next__, v0, v1, v2, v3, w + 9 * channels, step, has_c)
                after, after_ = _weigh(after, after_, v0, v1, v2, v3, w + 18 * channels, step, has_c)
        if continued or t >= 2:
            frame = _frame(gx, gpast, clip, t - 2, frames, size, 2 * size, size)
            _put(frame, now, now_, i, j, c, rows, cols, channels)
        now, now_, next_, next__, after, after_ = next_, next__, after, after_, none, none


@triton.jit
@no_type_check
def _meet(s0, s1, s2, upper, lower, v0, v1, v2, v3):
    """Accumulate the gradients of a column's three taps from two rows of gradients and four rows of cells."""
    return s0 + upper * v0 + lower * v1, s1 + upper * v1 + lower * v2, s2 + upper * v2 + lower * v3


@triton.jit
@no_type_check
def _two(gy, clip, t, frames, i, j, c, rows, cols, channels):
    """Load two rows of a frame of gradients, 0 before the first and after the last frame."""
    frame, top = gy + (clip * frames + t) * rows * cols * channels, tl.where((t >= 0) & (t < frames), i, rows)
    return _row(frame, top, j, c, rows, cols, channels), _row(frame, top + 1, j, c, rows, cols, channels)


@triton.jit
@no_type_check
def _weight_kernel(
    x, past, gy, gweight, tiles, frames, rows, cols, channels, past_clip, past_frame,
    continued: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Each program's partial sums over frames and cells, which the caller adds up.

    ``28 D`` per program: 27 taps, then the bias. Sums p, q and r belong to the taps 2, 1 and 0 frames back.
    """
    worker, size = tl.program_id(0), rows * cols * channels
    parts = tl.cdiv(rows, 2) * tl.cdiv(cols, P)
    c, z = tl.program_id(1) * C + tl.arange(0, C), tl.zeros([P, C], tl.float32)
    p0, p1, p2, p3, p4, p5, p6, p7, p8 = z, z, z, z, z, z, z, z, z
    q0, q1, q2, q3, q4, q5, q6, q7, q8 = z, z, z, z, z, z, z, z, z
    r0, r1, r2, r3, r4, r5, r6, r7, r8 = z, z, z, z, z, z, z, z, z
    total = z
    for tile in range(worker, tiles, tl.num_programs(0)):
        clip = (tile // parts).to(tl.int64)
        i, j = _part(tile % parts, cols, P)
        first = -2 if continued else 0
        u, u_ = _two(gy, clip, first, frames, i, j, c, rows, cols, channels)
        v, v_ = _two(gy, clip, first + 1, frames, i, j, c, rows, cols, channels)
        total += (u + u_) + (v + v_)
        for t in range(first, frames):
            w, w_ = _two(gy, clip, t + 2, frames, i, j, c, rows, cols, channels)
            total += w + w_
            frame = _frame(x, past, clip, t, frames, size, past_clip, past_frame)
            x0, x1, x2, x3 = _four(frame, i, j - 1, c, rows, cols, channels)
            p0, p3, p6 = _meet(p0, p3, p6, w, w_, x0, x1, x2, x3)
            q0, q3, q6 = _meet(q0, q3, q6, v, v_, x0, x1, x2, x3)
            r0, r3, r6 = _meet(r0, r3, r6, u, u_, x0, x1, x2, x3)
            x0, x1, x2, x3 = _four(frame, i, j, c, rows, cols, channels)
            p1, p4, p7 = _meet(p1, p4, p7, w, w_, x0, x1, x2, x3)
            q1, q4, q7 = _meet(q1, q4, q7, v, v_, x0, x1, x2, x3)
            r1, r4, r7 = _meet(r1, r4, r7, u, u_, x0, x1, x2, x3)
            x0, x1, x2, x3 = _four(frame, i, j + 1, c, rows, cols, channels)
            p2, p5, p8 = _meet(p2, p5, p8, w, w_, x0, x1, x2, x3)
            q2, q5, q8 = _meet(q2, q5, q8, v, v_, x0, x1, x2, x3)
            r2, r5, r8 = _meet(r2, r5, r8, u, u_, x0, x1, x2, x3)
            u, u_, v, v_ = v, v_, w, w_
    own = gweight + worker * 28 * channels
    _leave(own, c, channels, p0, p1, p2, p3, p4, p5, p6, p7, p8)
    _leave(own + 9 * channels, c, channels, q0, q1, q2, q3, q4, q5, q6, q7, q8)
    _leave(own + 18 * channels, c, channels, r0, r1, r2, r3, r4, r5, r6, r7, r8)
    tl.store(own + 27 * channels + c, tl.sum(total, 0), c < channels)


@triton.jit
@no_type_check
def _leave(own, c, channels, s0, s1, s2, s3, s4, s5, s6, s7, s8):
    """Store the sums over cells of the nine taps of a frame."""
    has_c = c < channels
    tl.store(own + c, tl.sum(s0, 0), has_c)
    tl.store(own + channels + c, tl.sum(s1, 0), has_c)
    tl.store(own + 2 * channels + c, tl.sum(s2, 0), has_c)
    tl.store(own + 3 * channels + c, tl.sum(s3, 0), has_c)
    tl.store(own + 4 * channels + c, tl.sum(s4, 0), has_c)
    tl.store(own + 5 * channels + c, tl.sum(s5, 0), has_c)
    tl.store(own + 6 * channels + c, tl.sum(s6, 0), has_c)
    tl.store(own + 7 * channels + c, tl.sum(s7, 0), has_c)
    tl.store(own + 8 * channels + c, tl.sum(s8, 0), has_c)


@torch.library.custom_op("dila::peg", mutates_args=())
def peg(x: Tensor, past: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
    """Add to the frames of a clip their convolution, given two past frames.

    Args:
        x: ``B T H W D``.
        past: ``B 2 H W D``, in the dtype of x; None means zeros.
        weight: ``27 D``, taps over time, rows and columns.
        bias: ``D``.

    Returns:
        ``B T H W D``, in the dtype of x.
    """
    x = x.contiguous()
    y = torch.empty_like(x)
    _taps_kernel[_tiles(x, _TILE)](x, weight=_added(weight), bias=bias, y=y, **_sizes(x, _TILE), **_before(past, x))
    return y


@torch.library.custom_op("dila::peg_backward", mutates_args=())
def peg_backward(
    x: Tensor, past: Tensor | None, weight: Tensor, gy: Tensor, moves: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, past, weight and bias, given that of `peg`'s output; the first two are empty if not ``moves``."""
    x, gy = x.contiguous(), gy.contiguous()
    gx = torch.empty_like(x) if moves else x.new_empty(0)
    gpast = x.new_empty(past.shape) if moves and past is not None else x.new_empty(0)
    if moves:
        _input_kernel[_tiles(x, _TILE)](gy, _added(weight), gx, gpast, continued=past is not None, **_sizes(x, _TILE))
    sizes, channels = _sizes(x, _WEIGHT_TILE), x.shape[-1]
    clips, parts, blocks = _tiles(x, _WEIGHT_TILE)
    tiles = clips * parts
    workers = max(1, min(tiles, programs(x.device, _PROGRAMS) // blocks))
    shares = torch.empty(workers, 28, channels, device=x.device, dtype=torch.float32)
    _weight_kernel[(workers, blocks)](x, gy=gy, gweight=shares, tiles=tiles, **sizes, **_before(past, x))
    sums = shares.sum(0).to(weight.dtype)
    return gx, gpast, sums[:27].clone(), sums[27].clone()


@peg.register_fake
def _(x, past, weight, bias):
    return x.new_empty(x.shape)


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
    return gx if moves else None, gpast if moves and past is not None else None, gweight, gbias


peg.register_autograd(_differentiate, setup_context=_keep)


def _added(weight: Tensor) -> Tensor:
    """Return the weights plus 1 at the tap of the same cell and frame, which adds the input to the result."""
    weight = weight.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    weight[22] += 1
    return weight


def _before(past: Tensor | None, x: Tensor) -> dict[str, Any]:
    """Return the past and its strides; each frame must be contiguous. For a past of zeros, any tensor serves."""
    laid = x if past is None else past if past[0, 0].is_contiguous() else past.contiguous()
    strides = {"past_clip": laid.stride(0), "past_frame": laid.stride(1)}
    return strides | {"past": laid, "continued": past is not None}


def _sizes(x: Tensor, tile: tuple[int, int]) -> dict[str, int]:
    _, frames, rows, cols, channels = x.shape
    sizes = {"frames": frames, "rows": rows, "cols": cols, "channels": channels}
    return sizes | {"P": min(tile[0], triton.next_power_of_2(cols)), "C": tile[1]}


def _tiles(x: Tensor, tile: tuple[int, int]) -> tuple[int, int, int]:
    """Return the numbers of clips, of parts of a frame, and of blocks of channels."""
    sizes = _sizes(x, tile)
    parts = triton.cdiv(sizes["rows"], 2) * triton.cdiv(sizes["cols"], sizes["P"])
    return x.shape[0], parts, triton.cdiv(sizes["channels"], sizes["C"])
