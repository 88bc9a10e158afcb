"""Attention over the cells of a frame as Triton kernels, for CUDA: softmax(q k + bias) v with dropout of the weights.

After FlashAttention-2 (Dao 2023), with what no library's kernel has at speed: a bias that all frames share, whose
gradient is summed over the frames where it is made and never written for each, at any number of tokens. No atomics: the
same input gives the same bits. Queries come multiplied by their scale.
"""

# pyright: reportIndexIssue=false
# (a kernel is launched as kernel[grid](...))

from typing import Any, no_type_check

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from dila.nn.triton_random import dropping, kept_of
from dila.nn.triton_scan import LOG2E, programs
from dila.shapes import Tensor

_QUERIES, _KEYS = 64, 32
"""Of a tile; with 64 keys the gradient of the bias takes seven times as long."""
_OWN_KEYS = 64
"""Of a tile of the keys' own gradient, whose products Hopper's tensor cores take in 64 rows or not at all."""
_PROGRAMS = 8
"""Programs of the bias's gradient on each multiprocessor."""


@triton.jit
@no_type_check  # Triton reads the function itself: nothing may be wrapped around it
def _rows(x, frame, head, token, count, x_frame, x_token, x_head, D: tl.constexpr):
    """Tokens by channels of one head, 0 past the last token."""
    at = x + frame.to(tl.int64) * x_frame + head * x_head + token[:, None] * x_token + tl.arange(0, D)[None, :]
    return tl.load(at, (token < count)[:, None], 0.0)


@triton.jit
@no_type_check
def _own(frame, head, token, count, heads, D: tl.constexpr):
    """Where tokens by channels of one head lie in what the kernels write, ``F count heads D``."""
    return ((frame.to(tl.int64) * count + token) * heads + head)[:, None] * D + tl.arange(0, D)[None, :]


@triton.jit
@no_type_check
def _part(count, N: tl.constexpr):
    """Which frame and head this program works at, counted together, and at which N of its tokens."""
    blocks = tl.cdiv(count, N)
    return tl.program_id(0) // blocks, tl.program_id(0) % blocks * N + tl.arange(0, N)


@triton.jit
@no_type_check
def _logits(q, k, bias, head, m, n, queries, keys, bias_row, biased: tl.constexpr):
    """To the base of 2."""
    s = tl.dot(q, tl.trans(k)) * LOG2E
    if biased:
        own = bias + head * queries * bias_row + m[:, None] * bias_row + n[None, :]
        s += tl.load(own, (m < queries)[:, None] & (n < bias_row)[None, :], 0.0).to(tl.float32) * LOG2E
    return tl.where((n < keys)[None, :], s, float("-inf"))


@triton.jit
@no_type_check
def _kept(seed, pair, m, n, queries, keys, dropped, kept):
    """What dropout multiplies each weight by; ``pair`` counts frames and heads."""
    return kept_of(seed, (pair * queries + m)[:, None] * keys + n[None, :], dropped, kept)


@triton.jit
@no_type_check
def _forward_kernel(
    q, k, v, bias, o, lse, queries, keys, heads, q_frame, q_token, q_head, k_frame, k_token, k_head,
    v_frame, v_token, v_head, bias_row, seed, dropped, kept,
    biased: tl.constexpr, drops: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    pair, m = _part(queries, M)
    frame, head = pair // heads, pair % heads
    mine = _rows(q, frame, head, m, queries, q_frame, q_token, q_head, D)
    highest, total = tl.full([M], float("-inf"), tl.float32), tl.zeros([M], tl.float32)
    out = tl.zeros([M, D], tl.float32)
    for start in range(0, keys, N):
        n = start + tl.arange(0, N)
        theirs = _rows(k, frame, head, n, keys, k_frame, k_token, k_head, D)
        s = _logits(mine, theirs, bias, head, m, n, queries, keys, bias_row, biased)
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
def _change(
    mine, theirs, values, g, scale, delta, bias, seed, pair, head, m, n, queries, keys, bias_row, dropped, kept,
    biased: tl.constexpr, drops: tl.constexpr,
):  # fmt: skip
    """The weights as they met the values, and the gradient of the logits, of one tile."""
    s = _logits(mine, theirs, bias, head, m, n, queries, keys, bias_row, biased)
    p = tl.exp2(s - scale[:, None])
    gp = tl.dot(g, tl.trans(values))
    met = p
    if drops:
        each = _kept(seed, pair, m, n, queries, keys, dropped, kept)
        met, gp = p * each, gp * each
    return met, p * (gp - delta[:, None])


@triton.jit
@no_type_check
def _query_kernel(
    q, k, v, bias, lse, delta, o, go, gq, queries, keys, heads, q_frame, q_token, q_head,
    k_frame, k_token, k_head, v_frame, v_token, v_head, bias_row, seed, dropped, kept,
    biased: tl.constexpr, drops: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Gradient of the queries; leaves ``delta``, the sum of o times its gradient, for the others."""
    pair, m = _part(queries, M)
    frame, head, has = pair // heads, pair % heads, m < queries
    mine = _rows(q, frame, head, m, queries, q_frame, q_token, q_head, D)
    at = _own(frame, head, m, queries, heads, D)
    g, out = tl.load(go + at, has[:, None], 0.0), tl.load(o + at, has[:, None], 0.0)
    scale = tl.load(lse + pair * queries + m, has, float("inf"))
    own = tl.sum(g.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(delta + pair * queries + m, own, has)
    gm = tl.zeros([M, D], tl.float32)
    for start in range(0, keys, N):
        n = start + tl.arange(0, N)
        theirs = _rows(k, frame, head, n, keys, k_frame, k_token, k_head, D)
        values = _rows(v, frame, head, n, keys, v_frame, v_token, v_head, D)
        _, gs = _change(
            mine, theirs, values, g, scale, own, bias, seed, pair, head, m, n, queries, keys, bias_row, dropped, kept,
            biased, drops,
        )  # fmt: skip
        gm = tl.dot(gs.to(theirs.dtype), theirs, gm)
    tl.store(gq + at, gm, has[:, None])


@triton.jit
@no_type_check
def _key_kernel(
    q, k, v, bias, lse, delta, go, gk, gv, queries, keys, heads, q_frame, q_token, q_head,
    k_frame, k_token, k_head, v_frame, v_token, v_head, bias_row, seed, dropped, kept,
    biased: tl.constexpr, drops: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and values."""
    pair, n = _part(keys, N)
    frame, head = pair // heads, pair % heads
    theirs = _rows(k, frame, head, n, keys, k_frame, k_token, k_head, D)
    values = _rows(v, frame, head, n, keys, v_frame, v_token, v_head, D)
    gn, gw = tl.zeros([N, D], tl.float32), tl.zeros([N, D], tl.float32)
    for start in range(0, queries, M):
        m = start + tl.arange(0, M)
        mine = _rows(q, frame, head, m, queries, q_frame, q_token, q_head, D)
        g = tl.load(go + _own(frame, head, m, queries, heads, D), (m < queries)[:, None], 0.0)
        scale = tl.load(lse + pair * queries + m, m < queries, float("inf"))
        own = tl.load(delta + pair * queries + m, m < queries, 0.0)
        met, gs = _change(
            mine, theirs, values, g, scale, own, bias, seed, pair, head, m, n, queries, keys, bias_row, dropped, kept,
            biased, drops,
        )  # fmt: skip
        gw = tl.dot(tl.trans(met.to(g.dtype)), g, gw)
        gn = tl.dot(tl.trans(gs.to(mine.dtype)), mine, gn)
    at = _own(frame, head, n, keys, heads, D)
    tl.store(gk + at, gn, (n < keys)[:, None])
    tl.store(gv + at, gw, (n < keys)[:, None])


@triton.jit
@no_type_check
def _bias_kernel(
    q, k, v, bias, lse, delta, go, gbias, frames, queries, keys, heads, q_frame, q_token, q_head,
    k_frame, k_token, k_head, v_frame, v_token, v_head, bias_row, seed, dropped, kept,
    biased: tl.constexpr, drops: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Gradient of one tile of one head's bias, summed over a share of the frames."""
    head, share, blocks = tl.program_id(1), tl.program_id(2), tl.cdiv(keys, N)
    m, n = tl.program_id(0) // blocks * M + tl.arange(0, M), tl.program_id(0) % blocks * N + tl.arange(0, N)
    sums = tl.zeros([M, N], tl.float32)
    for frame in range(share, frames, tl.num_programs(2)):
        pair = frame * heads + head
        mine = _rows(q, pair // heads, head, m, queries, q_frame, q_token, q_head, D)
        theirs = _rows(k, pair // heads, head, n, keys, k_frame, k_token, k_head, D)
        values = _rows(v, pair // heads, head, n, keys, v_frame, v_token, v_head, D)
        g = tl.load(go + _own(pair // heads, head, m, queries, heads, D), (m < queries)[:, None], 0.0)
        scale = tl.load(lse + pair * queries + m, m < queries, float("inf"))
        own = tl.load(delta + pair * queries + m, m < queries, 0.0)
        _, gs = _change(
            mine, theirs, values, g, scale, own, bias, seed, pair, head, m, n, queries, keys, bias_row, dropped, kept,
            biased, drops,
        )  # fmt: skip
        sums += gs
    at = gbias + (share * heads + head) * queries * keys + m[:, None] * keys + n[None, :]
    tl.store(at, sums, (m < queries)[:, None] & (n < keys)[None, :])


@torch.library.custom_op("dila::attend", mutates_args=())
def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, seed: Tensor | None, p: float
) -> tuple[Tensor, Tensor]:
    """Attention within each of F frames.

    Args:
        q: ``F N heads dh``, in a type of 16 bits, as are k and v; dh a power of two from 16 on.
        k: ``F M heads dh``.
        v: ``F M heads dh``.
        bias: ``heads N M``, added to the logits of all frames.
        seed: one integer on the device, of the dropout; none is dropped when None.
        p: the share of the weights dropped, met to 1e-5.

    Returns:
        ``F N heads dh`` and the logarithm to the base of 2 of each query's sum, ``F heads N``.
    """
    q, k, v = (_dense(part) for part in (q, k, v))
    frames, queries, heads, _ = q.shape
    o, lse = q.new_empty(q.shape), q.new_empty(frames, heads, queries, dtype=torch.float32)
    laid = _laid(bias, q)
    _forward_kernel[(triton.cdiv(queries, _QUERIES) * frames * heads,)](
        q, k, v, laid, o, lse, queries, k.shape[1], heads, **_settings(q, k, v, laid, bias, seed, p)
    )
    return o, lse


@torch.library.custom_op("dila::attend_backward", mutates_args=())
def attend_backward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, seed: Tensor | None, o: Tensor, lse: Tensor, go: Tensor,
    p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v and the bias (empty without one), given that of the result of `attend`."""
    q, k, v, go = (*(_dense(part) for part in (q, k, v)), go.contiguous())
    (frames, queries, heads, _), keys = q.shape, k.shape[1]
    gq, gk, gv, delta = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), torch.empty_like(lse)
    laid = _laid(bias, q)
    settings = _settings(q, k, v, laid, bias, seed, p)
    rows, cols = triton.cdiv(queries, _QUERIES), triton.cdiv(keys, _KEYS)
    _query_kernel[(rows * frames * heads,)](q, k, v, laid, lse, delta, o, go, gq, queries, keys, heads, **settings)
    own = settings | {"N": _KEYS if q.shape[-1] > 64 else _OWN_KEYS}  # wide heads would not fit shared memory
    blocks = triton.cdiv(keys, own["N"])
    _key_kernel[(blocks * frames * heads,)](q, k, v, laid, lse, delta, go, gk, gv, queries, keys, heads, **own)
    if bias is None:
        return gq, gk, gv, q.new_empty(0)
    shares = max(1, min(frames, programs(q.device, _PROGRAMS) // (rows * cols * heads)))
    gbias = torch.empty(shares, *bias.shape, device=q.device, dtype=torch.float32)
    _bias_kernel[(rows * cols, heads, shares)](
        q, k, v, laid, lse, delta, go, gbias, frames, queries, keys, heads, **settings
    )
    return gq, gk, gv, gbias.sum(0).to(bias.dtype)


@attend.register_fake
def _(q, k, v, bias, seed, p):
    return q.new_empty(q.shape), q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32)


@attend_backward.register_fake
def _(q, k, v, bias, seed, o, lse, go, p):
    return *(part.new_empty(part.shape) for part in (q, k, v)), q.new_empty(0 if bias is None else bias.shape)


def _keep(ctx, inputs, output):
    *tensors, ctx.p = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx, go, _):
    q, k, v, bias, seed, o, lse = ctx.saved_tensors
    gq, gk, gv, gbias = attend_backward(q, k, v, bias, seed, o, lse, go, ctx.p)
    return gq, gk, gv, None if bias is None else gbias, None, None


attend.register_autograd(_differentiate, setup_context=_keep)


def _dense(x: Tensor) -> Tensor:
    """With the channels of a head side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _laid(bias: Tensor | None, q: Tensor) -> Tensor:
    """The bias in rows of a multiple of 16 numbers, which are read many at a time."""
    return q if bias is None else F.pad(bias, (0, -bias.shape[-1] % 16)).contiguous()


def _settings(q: Tensor, k: Tensor, v: Tensor, laid: Tensor, bias: Tensor | None, seed: Tensor | None, p: float) -> Any:
    strides = {
        f"{name}_{axis}": part.stride(i)
        for name, part in (("q", q), ("k", k), ("v", v))
        for i, axis in enumerate(("frame", "token", "head"))
    }
    sizes = {"D": q.shape[-1], "M": _QUERIES, "N": _KEYS}
    return strides | sizes | dropping(seed, p, q) | {"biased": bias is not None, "bias_row": laid.shape[-1]}
