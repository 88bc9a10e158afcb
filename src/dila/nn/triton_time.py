"""Attention of each cell over its own past, for clips of a few dozen frames, as Triton kernels for CUDA.

All frames of a cell fit one tile: normalisation, scaling, rotation, products and the weighted sum of values stay in
registers, with one pass over q, k and v each way, where PyTorch's own operations make a dozen. The backward repeats the
forward and stores nothing of it. No atomics, so results are reproducible bit by bit.
"""

# pyright: reportIndexIssue=false
# (a kernel is launched as kernel[grid](...))

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl

from dila.nn.triton_random import dropping, kept_of
from dila.nn.triton_scan import LOG2E, programs
from dila.shapes import Tensor

_PROGRAMS, _BACKWARD_PROGRAMS = 16, 8
"""Programs per multiprocessor, forward and backward."""
_OF_A_WARP = 256
"""Numbers of a tile per warp."""


@triton.jit
@no_type_check  # or a type checker would wrap the function, whose source Triton reads
def _unit(x, here, H: tl.constexpr):
    """Load both halves of each frame's channels as parts of unit vectors; also return the inverse norms."""
    a, b = tl.load(x, here, 0.0).to(tl.float32), tl.load(x + H, here, 0.0).to(tl.float32)
    inverse = 1.0 / tl.maximum(tl.sqrt(tl.sum(a * a, 1) + tl.sum(b * b, 1)), 1e-12)
    return a * inverse[:, None], b * inverse[:, None], inverse


@triton.jit
@no_type_check
def _turned(a, b, cos, sin):
    """Rotate each pair of channels."""
    return a * cos - b * sin, b * cos + a * sin


@triton.jit
@no_type_check
def _weights(qa, qb, ka, kb, frames, T: tl.constexpr):
    """Softmax over this frame and earlier ones."""
    m, n = tl.arange(0, T)[:, None], tl.arange(0, T)[None, :]
    s = tl.dot(qb, tl.trans(kb), tl.dot(qa, tl.trans(ka))) * LOG2E
    s = tl.where((n <= m) & (n < frames), s, float("-inf"))
    p = tl.exp2(s - tl.max(s, 1)[:, None])
    return p / tl.sum(p, 1)[:, None]


@triton.jit
@no_type_check
def _kept(seed, pair, frames, dropped, kept, T: tl.constexpr):
    """Return the dropout factor of each weight; ``pair`` is the index of cell and head."""
    m, n = tl.arange(0, T)[:, None], tl.arange(0, T)[None, :]
    return kept_of(seed, (pair * frames + m) * frames + n, dropped, kept)


@triton.jit
@no_type_check
def _where(pair, frames, cells, heads, T: tl.constexpr, H: tl.constexpr):
    """Offsets of the first halves of the frames of one cell and head in ``B T N heads dh``, and of their tokens."""
    t, head = tl.arange(0, T), pair % heads
    clip, cell = pair // heads // cells, pair // heads % cells
    token = clip.to(tl.int64) * frames * cells + t * cells + cell
    return token[:, None] * heads * 2 * H + head * 2 * H + tl.arange(0, H)[None, :], token[:, None] * heads * 2 * H


@triton.jit
@no_type_check
def _forward_kernel(
    q, kv, q_scale, k_scale, turns, o, placed, pairs, frames, cells, heads, seed, dropped, kept,
    drops: tl.constexpr, T: tl.constexpr, H: tl.constexpr,
):  # fmt: skip
    t, h = tl.arange(0, T), tl.arange(0, H)
    here = (t < frames)[:, None] & (h < H)[None, :]
    turn = turns + t[:, None] * H + h[None, :]
    cos, sin = tl.load(turn, here, 0.0), tl.load(turn + frames * H, here, 0.0)
    for pair in range(tl.program_id(0), pairs, tl.num_programs(0)):
        own, row = _where(pair, frames, cells, heads, T, H)
        qa, qb, _ = _unit(q + own, here, H)
        qa, qb = _turned(qa * tl.load(q_scale + h)[None, :], qb * tl.load(q_scale + H + h)[None, :], cos, sin)
        ka, kb, _ = _unit(kv + own + row, here, H)
        ka, kb = _turned(ka * tl.load(k_scale + h)[None, :], kb * tl.load(k_scale + H + h)[None, :], cos, sin)
        kind = o.dtype.element_ty
        ka, kb = ka.to(kind), kb.to(kind)
        tl.store(placed + own, ka, here)
        tl.store(placed + own + H, kb, here)
        p = _weights(qa.to(kind), qb.to(kind), ka, kb, frames, T)
        if drops:
            p *= _kept(seed, pair, frames, dropped, kept, T)
        values = kv + own + row + heads * 2 * H
        p = p.to(kind)
        tl.store(o + own, tl.dot(p, tl.load(values, here, 0.0)), here)
        tl.store(o + own + H, tl.dot(p, tl.load(values + H, here, 0.0)), here)


@triton.jit
@no_type_check
def _straight(a, b, gx, ga, gb, inverse, scale, here, H: tl.constexpr):
    """Store the gradient of vectors, given that of their scaled unit vectors; return that of the scale, per frame."""
    h = tl.arange(0, H)
    ta, tb = ga * tl.load(scale + h)[None, :], gb * tl.load(scale + H + h)[None, :]
    along = tl.sum(ta * a + tb * b, 1)[:, None]
    tl.store(gx, (ta - a * along) * inverse[:, None], here)
    tl.store(gx + H, (tb - b * along) * inverse[:, None], here)
    return ga * a, gb * b


@triton.jit
@no_type_check
def _backward_kernel(
    q, kv, q_scale, k_scale, turns, go, gplaced, gq, gkv, gscale, pairs, frames, cells, heads, seed, dropped, kept,
    used: tl.constexpr, drops: tl.constexpr, T: tl.constexpr, H: tl.constexpr,
):  # fmt: skip
    t, h = tl.arange(0, T), tl.arange(0, H)
    here = (t < frames)[:, None] & (h < H)[None, :]
    turn = turns + t[:, None] * H + h[None, :]
    kind = gq.dtype.element_ty
    none = tl.zeros([T, H], tl.float32)
    sqa, sqb, ska, skb = none, none, none, none
    for pair in range(tl.program_id(0), pairs, tl.num_programs(0)):
        own, row = _where(pair, frames, cells, heads, T, H)
        cos, sin = tl.load(turn, here, 0.0), tl.load(turn + frames * H, here, 0.0)
        ua, ub, u_inverse = _unit(q + own, here, H)
        qa, qb = _turned(ua * tl.load(q_scale + h)[None, :], ub * tl.load(q_scale + H + h)[None, :], cos, sin)
        wa, wb, w_inverse = _unit(kv + own + row, here, H)
        ka, kb = _turned(wa * tl.load(k_scale + h)[None, :], wb * tl.load(k_scale + H + h)[None, :], cos, sin)
        qa, qb, ka, kb = qa.to(kind), qb.to(kind), ka.to(kind), kb.to(kind)
        p = _weights(qa, qb, ka, kb, frames, T)
        values = own + row + heads * 2 * H
        ga, gb = tl.load(go + own, here, 0.0), tl.load(go + own + H, here, 0.0)
        va, vb = tl.load(kv + values, here, 0.0), tl.load(kv + values + H, here, 0.0)
        gp, met = tl.dot(gb, tl.trans(vb), tl.dot(ga, tl.trans(va))), p
        if drops:
            each = _kept(seed, pair, frames, dropped, kept, T)
            met, gp = p * each, gp * each
        met = tl.trans(met.to(kind))
        tl.store(gkv + values, tl.dot(met, ga), here)
        tl.store(gkv + values + H, tl.dot(met, gb), here)
        gs = (p * (gp - tl.sum(p * gp, 1)[:, None])).to(kind)
        ga, gb = _turned(tl.dot(gs, ka), tl.dot(gs, kb), cos, -sin)
        ga, gb = _straight(ua, ub, gq + own, ga, gb, u_inverse, q_scale, here, H)
        sqa += ga
        sqb += gb
        gs = tl.trans(gs)
        ga, gb = tl.dot(gs, qa), tl.dot(gs, qb)
        if used:
            ga += tl.load(gplaced + own, here, 0.0).to(tl.float32)
            gb += tl.load(gplaced + own + H, here, 0.0).to(tl.float32)
        ga, gb = _turned(ga, gb, cos, -sin)
        ga, gb = _straight(wa, wb, gkv + own + row, ga, gb, w_inverse, k_scale, here, H)
        ska += ga
        skb += gb
    share = gscale + tl.program_id(0) * 4 * H + h
    tl.store(share, tl.sum(sqa, 0))
    tl.store(share + H, tl.sum(sqb, 0))
    tl.store(share + 2 * H, tl.sum(ska, 0))
    tl.store(share + 3 * H, tl.sum(skb, 0))


@torch.library.custom_op("dila::attend_back", mutates_args=())
def attend_back(
    q: Tensor, kv: Tensor, q_scale: Tensor, k_scale: Tensor, turns: Tensor, seed: Tensor | None, p: float
) -> tuple[Tensor, Tensor]:
    """Attention of each cell to its own frame and earlier ones.

    Args:
        q: ``B T N heads dh``, with a 16-bit dtype, as kv; dh a power of two, at least 32.
        kv: ``B T N 2 heads dh``, keys and values.
        q_scale: ``dh``, float32, scale of the unit vectors, including the factor of the logits.
        k_scale: ``dh``, float32.
        turns: ``2 T dh/2``, cosines and sines of the rotation after scaling, float32.
        seed: one integer on the device, for dropout; None drops nothing.
        p: probability of dropout of the weights, accurate to 1e-5.

    Returns:
        The output, and the scaled and rotated keys, both ``B T N heads dh``.
    """
    q, kv = q.contiguous(), kv.contiguous()
    o, placed = torch.empty_like(q), torch.empty_like(q)
    settings = _settings(q, seed, p)
    _forward_kernel[(_programs(q, _PROGRAMS),)](q, kv, q_scale, k_scale, turns, o, placed, **settings)
    return o, placed


@torch.library.custom_op("dila::attend_back_backward", mutates_args=())
def attend_back_backward(
    q: Tensor, kv: Tensor, q_scale: Tensor, k_scale: Tensor, turns: Tensor, seed: Tensor | None, go: Tensor,
    gplaced: Tensor | None, p: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, kv and both scales, ``2 dh``, given those of the outputs of `attend_back`."""
    q, kv, go = q.contiguous(), kv.contiguous(), go.contiguous()
    gq, gkv, count = torch.empty_like(q), torch.empty_like(kv), _programs(q, _BACKWARD_PROGRAMS)
    shares = torch.empty(count, 2, q.shape[-1], device=q.device, dtype=torch.float32)
    settings = _settings(q, seed, p) | {"used": gplaced is not None}
    gplaced = q if gplaced is None else gplaced.contiguous()
    _backward_kernel[(count,)](q, kv, q_scale, k_scale, turns, go, gplaced, gq, gkv, shares, **settings)
    return gq, gkv, shares.sum(0)


@attend_back.register_fake
def _(q, kv, q_scale, k_scale, turns, seed, p):
    return q.new_empty(q.shape), q.new_empty(q.shape)


@attend_back_backward.register_fake
def _(q, kv, q_scale, k_scale, turns, seed, go, gplaced, p):
    return q.new_empty(q.shape), kv.new_empty(kv.shape), q_scale.new_empty(2, *q_scale.shape)


def _keep(ctx, inputs, output):
    *tensors, ctx.p = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, go, gplaced):
    q, *others = ctx.saved_tensors
    gq, gkv, gscale = attend_back_backward(q, *others, torch.zeros_like(q) if go is None else go, gplaced, ctx.p)
    return gq, gkv, gscale[0], gscale[1], None, None, None


attend_back.register_autograd(_differentiate, setup_context=_keep)


def _programs(q: Tensor, each: int) -> int:
    clips, _, cells, heads, _ = q.shape
    return max(1, min(clips * cells * heads, programs(q.device, each)))


def _settings(q: Tensor, seed: Tensor | None, p: float) -> dict[str, Any]:
    clips, frames, cells, heads, width = q.shape
    tile, half = max(16, triton.next_power_of_2(frames)), width // 2
    sizes = {"pairs": clips * cells * heads, "frames": frames, "cells": cells, "heads": heads}
    warps = max(1, min(8, tile * half // _OF_A_WARP))
    stages = 3 if warps <= 2 else 1  # prefetch the next cells, if shared memory has room
    return sizes | dropping(seed, p, q) | {"T": tile, "H": half, "num_warps": warps, "num_stages": stages}
