"""The selective scan of `dila.nn.mamba` as two Triton kernels for CUDA.

`mamba-ssm` is not suitable: its kernel accepts no initial state and gives no gradient to the last one, so it supports
neither clips processed in pieces nor rollouts. Numbers may be bfloat16 in memory; the recurrence is float32.

A program is one warp; it holds the state of some inner channels of one row in registers and iterates over time. The
backward runs the row forward again, stores the state of every fourth step in a scratch buffer, and keeps those between
in registers. A fixed number of programs process the rows in turn, so the size of the scratch depends on the device and
not on the batch. No atomics, so results are reproducible bit by bit.
"""

# pyright: reportIndexIssue=false
# (a kernel is launched as kernel[grid](...))

from typing import no_type_check

import torch
import triton
import triton.language as tl

from dila.shapes import Tensor

LOG2E = tl.constexpr(1.4426950408889634)
"""``exp2`` of a product with it equals `exp`, in half of the instructions."""
_TILE = 512
"""Numbers of state per program: 16 per thread, so that most of a sum over channels or states is within a thread."""
_STRIDE = tl.constexpr(4)
"""Steps between stored states."""
_PROGRAMS = 8
"""Programs of the backward per multiprocessor."""


@triton.jit
@no_type_check  # or a type checker would wrap the function, whose source Triton reads
def _read(x, t, frames, lane, width):
    """Load one step of a row, 0 beyond its last step."""
    return tl.load(x + t * width + lane, (t < frames) & (lane < width), 0.0).to(tl.float32)


@triton.jit
@no_type_check
def _state(x, has, given: tl.constexpr):
    """Load a state or its gradient; zeros if none is given."""
    return tl.load(x, has, 0.0) if given else tl.zeros(has.shape, tl.float32)


@triton.jit
@no_type_check
def _ahead(x, a, u, dt, B, t, frames, e, inner, s, states):
    """Return the state after a step, given that before it; steps beyond the last leave it unchanged."""
    step = _read(dt, t, frames, e, inner)
    drive = step * _read(u, t, frames, e, inner)
    return tl.exp2(step[:, None] * a) * x + drive[:, None] * _read(B, t, frames, s, states)[None, :]


@triton.jit
@no_type_check
def _back(
    gx, ga, before, after, a, u, dt, B, C, gy, gu, gdt, gB, gC, t, frames, e, inner, s, states,
):  # fmt: skip
    """Go back one step: return the gradients of the state before it and, so far, of A; store those of its inputs."""
    step, uu = _read(dt, t, frames, e, inner), _read(u, t, frames, e, inner)
    g, b, c = _read(gy, t, frames, e, inner), _read(B, t, frames, s, states), _read(C, t, frames, s, states)
    gx += g[:, None] * c[None, :]
    here, at = (t < frames) & (s < states), t * states + s
    tl.store(gC + at, tl.sum(after * g[:, None], 0), here)
    tl.store(gB + at, tl.sum(gx * (step * uu)[:, None], 0), here)
    gdrive = tl.sum(gx * b[None, :], 1)
    gx *= tl.exp2(step[:, None] * a)
    gexponent = gx * before
    here, at = (t < frames) & (e < inner), t * inner + e
    tl.store(gdt + at, gdrive * uu + tl.sum(gexponent * a, 1) / LOG2E, here)
    tl.store(gu + at, gdrive * step, here)
    return gx, ga + gexponent * step[:, None]


@triton.jit
@no_type_check
def _forward_kernel(
    u, dt, A, B, C, x0, y, last, frames, inner,
    begins: tl.constexpr, states: tl.constexpr, S: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    e, s = tl.program_id(1) * E + tl.arange(0, E), tl.arange(0, S)
    tile, has = e[:, None] * states + s[None, :], (e < inner)[:, None] & (s < states)[None, :]
    wide, narrow, state = row * frames * inner, row * frames * states, row * inner * states + tile
    a, x = tl.load(A + tile, has, 0.0) * LOG2E, _state(x0 + state, has, begins)
    for t in range(frames):
        x = _ahead(x, a, u + wide, dt + wide, B + narrow, t, frames, e, inner, s, states)
        c = _read(C + narrow, t, frames, s, states)
        tl.store(y + wide + t * inner + e, tl.sum(x * c[None, :], 1), e < inner)
    tl.store(last + state, x, has)


@triton.jit
@no_type_check
def _backward_kernel(
    u, dt, A, B, C, x0, gy, glast, gu, gdt, gA, gB, gC, gx0, scratch,
    rows, frames, inner,
    begins: tl.constexpr, goes_on: tl.constexpr, states: tl.constexpr, S: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    worker, block, blocks = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    e, s, chunks = block * E + tl.arange(0, E), tl.arange(0, S), tl.cdiv(frames, _STRIDE)
    tile, has = e[:, None] * states + s[None, :], (e < inner)[:, None] & (s < states)[None, :]
    kept = scratch + (worker * blocks + block).to(tl.int64) * chunks * E * S + tl.arange(0, E)[:, None] * S + s[None, :]
    a, ga = tl.load(A + tile, has, 0.0) * LOG2E, tl.zeros([E, S], tl.float32)
    row = worker.to(tl.int64)
    while row < rows:
        wide, narrow, state = row * frames * inner, row * frames * states, row * inner * states + tile
        part = (block * rows + row) * frames * states
        u_, dt_, B_, C_, gy_ = u + wide, dt + wide, B + narrow, C + narrow, gy + wide  # of this row
        gu_, gdt_, gB_, gC_ = gu + wide, gdt + wide, gB + part, gC + part
        x = _state(x0 + state, has, begins)
        tl.store(kept, x)
        for chunk in range(chunks - 1):
            x = _ahead(x, a, u_, dt_, B_, _STRIDE * chunk, frames, e, inner, s, states)
            x = _ahead(x, a, u_, dt_, B_, _STRIDE * chunk + 1, frames, e, inner, s, states)
            x = _ahead(x, a, u_, dt_, B_, _STRIDE * chunk + 2, frames, e, inner, s, states)
            x = _ahead(x, a, u_, dt_, B_, _STRIDE * chunk + 3, frames, e, inner, s, states)
            tl.store(kept + (chunk + 1) * E * S, x)
        tl.debug_barrier()  # threads read what others have written
        gx = _state(glast + state, has, goes_on)
        for back in range(chunks):
            t = _STRIDE * (chunks - 1 - back)
            x0_ = tl.load(kept + (chunks - 1 - back) * E * S)
            x1 = _ahead(x0_, a, u_, dt_, B_, t, frames, e, inner, s, states)
            x2 = _ahead(x1, a, u_, dt_, B_, t + 1, frames, e, inner, s, states)
            x3 = _ahead(x2, a, u_, dt_, B_, t + 2, frames, e, inner, s, states)
            x4 = _ahead(x3, a, u_, dt_, B_, t + 3, frames, e, inner, s, states)
            gx, ga = _back(
                gx, ga, x3, x4, a, u_, dt_, B_, C_, gy_, gu_, gdt_, gB_, gC_, t + 3, frames, e, inner, s, states
            )  # fmt: skip
            gx, ga = _back(
                gx, ga, x2, x3, a, u_, dt_, B_, C_, gy_, gu_, gdt_, gB_, gC_, t + 2, frames, e, inner, s, states
            )  # fmt: skip
            gx, ga = _back(
                gx, ga, x1, x2, a, u_, dt_, B_, C_, gy_, gu_, gdt_, gB_, gC_, t + 1, frames, e, inner, s, states
            )  # fmt: skip
            gx, ga = _back(
                gx, ga, x0_, x1, a, u_, dt_, B_, C_, gy_, gu_, gdt_, gB_, gC_, t, frames, e, inner, s, states
            )  # fmt: skip
        if begins:
            tl.store(gx0 + state, gx, has)
        tl.debug_barrier()  # the next row overwrites what threads have read
        row += tl.num_programs(0)
    tl.store(gA + worker.to(tl.int64) * inner * states + tile, ga, has)


@torch.library.custom_op("dila::scan", mutates_args=())
def scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, x0: Tensor | None) -> tuple[Tensor, Tensor]:
    """Outputs and last state of the recurrence, without its skip connection.

    Args:
        u: ``R T E``, in any floating dtype, as dt, B and C.
        dt: ``R T E``.
        A: ``E S``, float32.
        B: ``R T S``.
        C: ``R T S``.
        x0: ``R E S``, float32; None means zeros.
    """
    u, dt, A, B, C = (part.contiguous() for part in (u, dt, A, B, C))
    y, last = torch.empty_like(u), u.new_empty(len(u), *A.shape, dtype=torch.float32)
    sizes = _sizes(A) | {"begins": x0 is not None}
    x0 = last if x0 is None else x0.contiguous()
    grid = (u.shape[0], triton.cdiv(A.shape[0], sizes["E"]))
    _forward_kernel[grid](u, dt, A, B, C, x0, y, last, u.shape[1], A.shape[0], states=A.shape[1], **sizes)
    return y, last


@torch.library.custom_op("dila::scan_backward", mutates_args=())
def scan_backward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, x0: Tensor | None, gy: Tensor, glast: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the inputs of `scan`, given those of its outputs; the last is empty without x0."""
    u, dt, A, B, C, gy = (part.contiguous() for part in (u, dt, A, B, C, gy))
    rows, frames, (inner, states), sizes = u.shape[0], u.shape[1], A.shape, _sizes(A)
    blocks = triton.cdiv(inner, sizes["E"])
    workers = max(1, min(rows, programs(u.device, _PROGRAMS) // blocks))
    like = {"device": u.device, "dtype": torch.float32}
    gu, gdt, gx0 = torch.empty_like(u), torch.empty_like(dt), torch.empty(0 if x0 is None else x0.shape, **like)
    gA = torch.empty(workers, inner, states, **like)
    gB, gC = torch.empty(2, blocks, rows, frames, states, **like)
    scratch = torch.empty(workers, blocks, triton.cdiv(frames, _STRIDE.value), sizes["E"], sizes["S"], **like)
    sizes |= {"begins": x0 is not None, "goes_on": glast is not None}
    x0, glast = (gA if part is None else part.contiguous() for part in (x0, glast))
    _backward_kernel[(workers, blocks)](
        u, dt, A, B, C, x0, gy, glast, gu, gdt, gA, gB, gC, gx0, scratch, rows, frames, inner, states=states, **sizes
    )
    return gu, gdt, gA.sum(0), gB.sum(0).to(B.dtype), gC.sum(0).to(C.dtype), gx0


@scan.register_fake
def _(u, dt, A, B, C, x0):
    return u.new_empty(u.shape), u.new_empty(u.shape[0], *A.shape, dtype=torch.float32)


@scan_backward.register_fake
def _(u, dt, A, B, C, x0, gy, glast):
    gx0 = A.new_empty(0 if x0 is None else x0.shape)
    return *(part.new_empty(part.shape) for part in (u, dt, A, B, C)), gx0


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, gy, glast):
    u, *others, x0 = ctx.saved_tensors
    *gradients, gx0 = scan_backward(u, *others, x0, torch.zeros_like(u) if gy is None else gy, glast)
    return *gradients, None if x0 is None else gx0


scan.register_autograd(_differentiate, setup_context=_keep)


def _sizes(A: Tensor) -> dict[str, int]:
    states = triton.next_power_of_2(A.shape[1])
    return {"S": states, "E": min(triton.next_power_of_2(A.shape[0]), max(1, _TILE // states)), "num_warps": 1}


def programs(device: torch.device, each: int) -> int:
    """Return how many programs fill a device with ``each`` per multiprocessor; a few under Triton's interpreter."""
    return each * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
