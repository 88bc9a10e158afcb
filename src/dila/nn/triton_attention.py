"""Attention over the cells of a frame as Triton kernels for CUDA: softmax(q k + bias) v with dropout of the weights.

After FlashAttention-2 (Dao 2023), plus what no library kernel does fast: a bias shared by all frames, for any number of
tokens. The backward computes the gradient of the logits once, for as many frames as a buffer holds: gradients of keys
and values use it from registers, those of queries and bias from the buffer. No atomics, so results are reproducible bit
by bit. Queries must include their scale.
"""

# pyright: reportIndexIssue=false
# (a kernel is launched as kernel[grid](...))

from typing import no_type_check

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from dila.nn.triton_random import dropping, kept_of
from dila.nn.triton_scan import LOG2E
from dila.shapes import Tensor

_QUERIES, _KEYS = 64, 32
"""Queries and keys per tile in the forward."""
_OWN_KEYS = 64
"""Keys per tile in the backward: Hopper's tensor cores need 64 rows."""
_BUFFER = 1 << 27
"""Numbers in the buffer of logit gradients."""


@triton.jit
@no_type_check  # or a type checker would wrap the function, whose source Triton reads
def _rows(x, frame, head, token, count, x_frame, x_token, x_head, D: tl.constexpr):
    """Load tokens by channels of one head, 0 beyond the last token."""
    at = x + frame.to(tl.int64) * x_frame + head * x_head + token[:, None] * x_token + tl.arange(0, D)[None, :]
    return tl.load(at, (token < count)[:, None], 0.0)


@triton.jit
@no_type_check
def _own(frame, head, token, count, heads, D: tl.constexpr):
    """Offsets of tokens by channels of one head in the kernels' outputs, ``F count heads D``."""
    return ((frame.to(tl.int64) * count + token) * heads + head)[:, None] * D + tl.arange(0, D)[None, :]


@triton.jit
@no_type_check
def _part(count, N: tl.constexpr):
    """Return the frame and head of this program, as one index, and its N tokens."""
    blocks = tl.cdiv(count, N)
    return tl.program_id(0) // blocks, tl.program_id(0) % blocks * N + tl.arange(0, N)


@triton.jit
@no_type_check
def _logits(q, k, bias, head, m, n, queries, keys, bias_row):
    """Return the logits times log2(e)."""
    own = bias + head * queries * bias_row + m[:, None] * bias_row + n[None, :]
    s = tl.dot(q, tl.trans(k)) * LOG2E
    s += tl.load(own, (m < queries)[:, None] & (n < bias_row)[None, :], 0.0).to(tl.float32) * LOG2E
    return tl.where((n < keys)[None, :], s, float("-inf"))


@triton.jit
@no_type_check
def _kept(seed, pair, m, n, queries, keys, dropped, kept):
    """Return the dropout factor of each weight; ``pair`` is the index of frame and head."""
    return kept_of(seed, (pair * queries + m)[:, None] * keys + n[None, :], dropped, kept)


@triton.jit
@no_type_check
def _forward_kernel(
    q, k, v, bias, o, lse, queries, keys, heads, q_frame, q_token, q_head, k_frame, k_token, k_head,
    v_frame, v_token, v_head, bias_row, seed, dropped, kept,
    drops: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    pair, m = _part(queries, M)
    frame, head = pair // heads, pair % heads
    mine = _rows(q, frame, head, m, queries, q_frame, q_token, q_head, D)
    highest, total = tl.full([M], float("-inf"), tl.float32), tl.zeros([M], tl.float32)
    out = tl.zeros([M, D], tl.float32)
    for start in range(0, keys, N):
        n = start + tl.arange(0, N)
        theirs = _rows(k, frame, head, n, keys, k_frame, k_token, k_head, D)
        s = _logits(mine, theirs, bias, head, m, n, queries, keys, bias_row)
        higher = tl.maximum(highest, tl.max(s, 1))
        p, before = tl.exp2(s - higher[:, None]), tl.exp2(highest - higher)
        total = total * before + tl.sum(p, 1)
        if drops:
            p *= _kept(seed, pair, m, n, queries, keys, dropped, kept)
        values = _rows(v, frame, head, n, keys, v_frame, v_token, v_head, D)
        out = tl.dot(p.to(values.dtype), values, out * before[:, None])
        highest = higher
    tl.store(o + _own(frame, head, m, queries, heads, D), out / total[:, None], (m < queries)[:, None])
    tl.store(lse + pair * queries + m, highest + tl.log2(total), m < queries)


@triton.jit
@no_type_check
def _delta_kernel(o, go, delta, queries, heads, D: tl.constexpr, M: tl.constexpr):
    """Sum over channels of output times its gradient, for each query."""
    pair, m = _part(queries, M)
    frame, head, has = pair // heads, pair % heads, m < queries
    at = _own(frame, head, m, queries, heads, D)
    out, g = tl.load(o + at, has[:, None], 0.0).to(tl.float32), tl.load(go + at, has[:, None], 0.0).to(tl.float32)
    tl.store(delta + pair * queries + m, tl.sum(out * g, 1), has)


@triton.jit
@no_type_check
def _key_kernel(
    q, k, v, bias, lse, delta, go, gk, gv, glogits, first, queries, keys, heads, q_frame, q_token, q_head,
    k_frame, k_token, k_head, v_frame, v_token, v_head, bias_row, seed, dropped, kept,
    drops: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and values, and of the logits; ``first`` is the index of the first pair of this part."""
    pair, n = _part(keys, N)
    frame, head = pair // heads, pair % heads
    theirs = _rows(k, frame, head, n, keys, k_frame, k_token, k_head, D)
    values = _rows(v, frame, head, n, keys, v_frame, v_token, v_head, D)
    gn, gw = tl.zeros([N, D], tl.float32), tl.zeros([N, D], tl.float32)
    for start in range(0, queries, M):
        m = start + tl.arange(0, M)
        mine = _rows(q, frame, head, m, queries, q_frame, q_token, q_head, D)
        g = tl.load(go + _own(frame, head, m, queries, heads, D), (m < queries)[:, None], 0.0)
        own = tl.load(delta + pair * queries + m, m < queries, 0.0)
        s = _logits(mine, theirs, bias, head, m, n, queries, keys, bias_row)
        p = tl.exp2(s - tl.load(lse + pair * queries + m, m < queries, float("inf"))[:, None])
        met, gp = p, tl.dot(g, tl.trans(values))
        if drops:
            each = _kept(seed, first + pair, m, n, queries, keys, dropped, kept)
            met, gp = p * each, gp * each
        gs = (p * (gp - own[:, None])).to(mine.dtype)
        at = (pair.to(tl.int64) * queries + m)[:, None] * bias_row + n[None, :]
        tl.store(glogits + at, gs, (m < queries)[:, None] & (n < bias_row)[None, :])
        gw = tl.dot(tl.trans(met.to(g.dtype)), g, gw)
        gn = tl.dot(tl.trans(gs), mine, gn)
    at = _own(frame, head, n, keys, heads, D)
    tl.store(gk + at, gn, (n < keys)[:, None])
    tl.store(gv + at, gw, (n < keys)[:, None])


@triton.jit
@no_type_check
def _query_kernel(
    k, glogits, gq, queries, keys, heads, k_frame, k_token, k_head, bias_row,
    D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Gradient of the queries from that of the logits."""
    pair, m = _part(queries, M)
    frame, head, has = pair // heads, pair % heads, m < queries
    gm = tl.zeros([M, D], tl.float32)
    for start in range(0, keys, N):
        n = start + tl.arange(0, N)
        at = (pair.to(tl.int64) * queries + m)[:, None] * bias_row + n[None, :]
        gs = tl.load(glogits + at, has[:, None] & (n < bias_row)[None, :], 0.0)
        gm = tl.dot(gs, _rows(k, frame, head, n, keys, k_frame, k_token, k_head, D), gm)
    tl.store(gq + _own(frame, head, m, queries, heads, D), gm, has[:, None])


@torch.library.custom_op("dila::attend", mutates_args=())
def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, seed: Tensor | None, p: float) -> tuple[Tensor, Tensor]:
    """Attention within each of F frames.

    Args:
        q: ``F N heads dh``, with a 16-bit dtype, as k and v; dh a power of two, at least 16.
        k: ``F M heads dh``.
        v: ``F M heads dh``.
        bias: ``heads N M``, added to the logits of all frames.
        seed: one integer on the device, for dropout; None drops nothing.
        p: probability of dropout of the weights, accurate to 1e-5.

    Returns:
        The output, ``F N heads dh``, and the log2 of each query's softmax denominator, ``F heads N``.
    """
    q, k, v = (_dense(part) for part in (q, k, v))
    frames, queries, heads, width = q.shape
    o, lse, laid = q.new_empty(q.shape), q.new_empty(frames, heads, queries, dtype=torch.float32), _laid(bias)
    sizes = _sizes(q, k, laid) | _strides(q=q, k=k, v=v) | dropping(seed, p, q)
    _forward_kernel[(triton.cdiv(queries, _QUERIES) * frames * heads,)](
        q, k, v, laid, o, lse, D=width, M=_QUERIES, N=_KEYS, **sizes
    )
    return o, lse


@torch.library.custom_op("dila::attend_backward", mutates_args=())
def attend_backward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, seed: Tensor | None, o: Tensor, lse: Tensor, go: Tensor, p: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and the bias, given the gradient of the output of `attend`."""
    q, k, v, go, laid = (*(_dense(part) for part in (q, k, v)), go.contiguous(), _laid(bias))
    (frames, queries, heads, width), keys = q.shape, k.shape[1]
    gq, gk, gv = (x.new_empty(x.shape) for x in (q, k, v))
    gbias = bias.new_zeros(bias.shape, dtype=torch.float32)
    wide = width > 64  # larger key tiles would not fit shared memory
    tile = {"D": width, "M": _QUERIES, "N": _KEYS if wide else _OWN_KEYS, "num_stages": 2}
    rows, cols = triton.cdiv(queries, _QUERIES) * heads, triton.cdiv(keys, tile["N"]) * heads
    sizes, delta = _sizes(q, k, laid), torch.empty_like(lse)
    told = sizes | tile | _strides(q=q, k=k, v=v) | dropping(seed, p, q)
    at_once = max(1, min(frames, _BUFFER // laid.numel()))
    buffer = q.new_empty(at_once, *laid.shape)
    _delta_kernel[(rows * frames,)](o, go, delta, queries, heads, D=width, M=_QUERIES)
    for first in range(0, frames, at_once):
        part = slice(first, first + at_once)
        here, glogits = len(q[part]), buffer[: len(q[part])]
        _key_kernel[(cols * here,)](
            q[part], k[part], v[part], laid, lse[part], delta[part], go[part], gk[part], gv[part], glogits,
            first * heads, **told,
        )  # fmt: skip
        _query_kernel[(rows * here,)](k[part], glogits, gq[part], **sizes, **tile, **_strides(k=k))
        gbias += glogits.sum(0, dtype=torch.float32)[..., :keys]
    return gq, gk, gv, gbias.to(bias.dtype)


@attend.register_fake
def _(q, k, v, bias, seed, p):
    return q.new_empty(q.shape), q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32)


@attend_backward.register_fake
def _(q, k, v, bias, seed, o, lse, go, p):
    return tuple(part.new_empty(part.shape) for part in (q, k, v, bias))


def _keep(ctx, inputs, output):
    *tensors, ctx.p = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx, go, _):
    q, k, v, bias, seed, o, lse = ctx.saved_tensors
    return *attend_backward(q, k, v, bias, seed, o, lse, go, ctx.p), None, None


attend.register_autograd(_differentiate, setup_context=_keep)


def _dense(x: Tensor) -> Tensor:
    """Make the channels of a head contiguous."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _laid(bias: Tensor) -> Tensor:
    """Pad the rows of the bias to a multiple of 16 numbers, for vectorised loads."""
    return F.pad(bias, (0, -bias.shape[-1] % 16)).contiguous()


def _strides(**parts: Tensor) -> dict[str, int]:
    axes = enumerate(("frame", "token", "head"))
    return {f"{name}_{axis}": part.stride(i) for i, axis in axes for name, part in parts.items()}


def _sizes(q: Tensor, k: Tensor, laid: Tensor) -> dict[str, int]:
    return {"queries": q.shape[1], "keys": k.shape[1], "heads": q.shape[2], "bias_row": laid.shape[-1]}
