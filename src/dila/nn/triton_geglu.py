"""The gate of `dila.nn.feedforward` with its dropout, as one Triton kernel per pass, for CUDA.

PyTorch's own operations make eight passes over the widest tensor of a layer, half of them copies; this makes one
forward and one backward. Only the seed of the dropout is kept: the mask is generated again.
"""

# pyright: reportIndexIssue=false
# (a kernel is launched as kernel[grid](...))

from typing import no_type_check

import torch
import triton
import triton.language as tl

from dila.nn.triton_random import dropping, kept_of
from dila.nn.triton_scan import LOG2E
from dila.shapes import Tensor

_ROWS, _COLS = 4, 512
"""Rows and columns of a program's tile."""


@triton.jit
@no_type_check  # or a type checker would wrap the function, whose source Triton reads
def _halves(h, row, col, rows, inner):
    """Load value and gate of a tile."""
    at = h + row.to(tl.int64)[:, None] * 2 * inner + col[None, :]
    here = (row < rows)[:, None] & (col < inner)[None, :]
    return tl.load(at, here, 0.0).to(tl.float32), tl.load(at + inner, here, 0.0).to(tl.float32)


@triton.jit
@no_type_check
def _normal(x):
    """Density and distribution function of the standard normal, to 1e-7 (Abramowitz and Stegun 1964, 26.2.17)."""
    density = 0.3989422804014327 * tl.exp2(-0.5 * LOG2E * x * x)
    t = 1.0 / (1.0 + 0.2316419 * tl.abs(x))
    series = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    tail = density * series
    return density, tl.where(x < 0.0, tail, 1.0 - tail)


@triton.jit
@no_type_check
def _forward_kernel(
    h, y, seed, rows, inner, dropped, kept, drops: tl.constexpr, R: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    """``y = value gelu(gate)``; a row of h is value, then gate."""
    row, col = tl.program_id(0) * R + tl.arange(0, R), tl.program_id(1) * C + tl.arange(0, C)
    value, gate = _halves(h, row, col, rows, inner)
    _, below = _normal(gate)
    out = value * gate * below
    if drops:
        out *= kept_of(seed, row[:, None] * inner + col[None, :], dropped, kept)
    at = y + row.to(tl.int64)[:, None] * inner + col[None, :]
    tl.store(at, out, (row < rows)[:, None] & (col < inner)[None, :])


@triton.jit
@no_type_check
def _backward_kernel(
    h, gy, gh, seed, rows, inner, dropped, kept, drops: tl.constexpr, R: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    row, col = tl.program_id(0) * R + tl.arange(0, R), tl.program_id(1) * C + tl.arange(0, C)
    here = (row < rows)[:, None] & (col < inner)[None, :]
    value, gate = _halves(h, row, col, rows, inner)
    g = tl.load(gy + row.to(tl.int64)[:, None] * inner + col[None, :], here, 0.0).to(tl.float32)
    if drops:
        g *= kept_of(seed, row[:, None] * inner + col[None, :], dropped, kept)
    density, below = _normal(gate)
    at = gh + row.to(tl.int64)[:, None] * 2 * inner + col[None, :]
    tl.store(at, g * gate * below, here)
    tl.store(at + inner, g * value * (below + gate * density), here)


@torch.library.custom_op("dila::geglu", mutates_args=())
def geglu(h: Tensor, seed: Tensor | None, p: float) -> Tensor:
    """``dropout(value gelu(gate), p)`` of ``h = (value, gate)``.

    Args:
        h: ``... 2 E``.
        seed: one integer on the device, for dropout; None drops nothing.
        p: probability of dropout, accurate to 1e-5.

    Returns:
        ``... E``.
    """
    h = h.contiguous()
    y = h.new_empty(*h.shape[:-1], h.shape[-1] // 2)
    _run(_forward_kernel, h, seed, (y,), p)
    return y


@torch.library.custom_op("dila::geglu_backward", mutates_args=())
def geglu_backward(h: Tensor, seed: Tensor | None, gy: Tensor, p: float) -> Tensor:
    """Gradient of h, given the gradient of the output of `geglu`."""
    h, gy = h.contiguous(), gy.contiguous()
    gh = torch.empty_like(h)
    _run(_backward_kernel, h, seed, (gy, gh), p)
    return gh


@geglu.register_fake
def _(h, seed, p):
    return h.new_empty(*h.shape[:-1], h.shape[-1] // 2)


@geglu_backward.register_fake
def _(h, seed, gy, p):
    return h.new_empty(h.shape)


def _keep(ctx, inputs, output):
    h, seed, ctx.p = inputs
    ctx.save_for_backward(h, seed)


def _differentiate(ctx, gy):
    h, seed = ctx.saved_tensors
    return geglu_backward(h, seed, gy, ctx.p), None, None


geglu.register_autograd(_differentiate, setup_context=_keep)


def _run(kernel, h: Tensor, seed: Tensor | None, others: tuple[Tensor, ...], p: float) -> None:
    inner = h.shape[-1] // 2
    rows = h.numel() // (2 * inner)
    kernel[(triton.cdiv(rows, _ROWS), triton.cdiv(inner, _COLS))](
        h, *others, rows=rows, inner=inner, R=_ROWS, C=_COLS, **dropping(seed, p, h)
    )
