"""The selective scan of `dila.nn.mamba` as two Triton kernels, for CUDA.

`mamba-ssm` does not fit: its kernel takes no initial state and gives no gradient to the last one, so neither a clip
read in pieces nor a rollout could use it. Here numbers may be bfloat16 in memory; the recurrence is float32.

A program holds the state of some inner channels of one row in registers and walks over time. The backward runs the
row forward again into a scratch of its own: a fixed number of programs take the rows in turn, so that the scratch has
the size of the device and not of the batch. No atomics: the same input gives the same bits.
"""

# pyright: reportIndexIssue=false
# (a kernel is launched as kernel[grid](...))

from typing import no_type_check

import torch
import triton
import triton.language as tl

from dila.shapes import Tensor

LOG2E = tl.constexpr(1.4426950408889634)
"""``exp2`` of a product with it is `exp` in half of the instructions."""
_TILE = 1024
"""Numbers of state in a program: 8 a thread of 4 warps."""
_PROGRAMS = 8
"""Programs of the backward on each multiprocessor."""


@triton.jit
@no_type_check  # Triton reads the function itself: nothing may be wrapped around it
def _forward_kernel(u, dt, A, B, C, x0, y, last, frames, inner, states: tl.constexpr, S: tl.constexpr, E: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    e, s = tl.program_id(1) * E + tl.arange(0, E), tl.arange(0, S)
    has_e, has_s = e < inner, s < states
    tile, has = e[:, None] * states + s[None, :], has_e[:, None] & has_s[None, :]
    wide, narrow, state = row * frames * inner, row * frames * states, row * inner * states  # where the row begins
    a = tl.load(A + tile, has, 0.0) * LOG2E
    x = tl.load(x0 + state + tile, has, 0.0)
    for t in range(frames):
        at, of = t * inner + e, t * states + s
        step = tl.load(dt + wide + at, has_e, 0.0).to(tl.float32)
        drive = step * tl.load(u + wide + at, has_e, 0.0).to(tl.float32)
        b = tl.load(B + narrow + of, has_s, 0.0).to(tl.float32)
        c = tl.load(C + narrow + of, has_s, 0.0).to(tl.float32)
        x = tl.exp2(step[:, None] * a) * x + drive[:, None] * b[None, :]
        tl.store(y + wide + at, tl.sum(x * c[None, :], 1), has_e)
    tl.store(last + state + tile, x, has)


@triton.jit
@no_type_check  # Triton reads the function itself: nothing may be wrapped around it
def _backward_kernel(
    u, dt, A, B, C, x0, gy, glast, gu, gdt, gA, gB, gC, gx0, scratch,
    rows, frames, inner, states: tl.constexpr, S: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    worker, block, blocks = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    e, s = block * E + tl.arange(0, E), tl.arange(0, S)
    has_e, has_s = e < inner, s < states
    tile, has = e[:, None] * states + s[None, :], has_e[:, None] & has_s[None, :]
    own = tl.arange(0, E)[:, None] * S + s[None, :]
    kept = scratch + (worker * blocks + block).to(tl.int64) * frames * E * S
    a = tl.load(A + tile, has, 0.0) * LOG2E
    ga = tl.zeros([E, S], tl.float32)
    row = worker.to(tl.int64)
    while row < rows:
        wide, narrow, state = row * frames * inner, row * frames * states, row * inner * states  # where it begins
        part = (block * rows + row) * frames * states
        x = tl.load(x0 + state + tile, has, 0.0)
        for t in range(frames):
            at, of = t * inner + e, t * states + s
            step = tl.load(dt + wide + at, has_e, 0.0).to(tl.float32)
            drive = step * tl.load(u + wide + at, has_e, 0.0).to(tl.float32)
            b = tl.load(B + narrow + of, has_s, 0.0).to(tl.float32)
            tl.store(kept + t * E * S + own, x)
            x = tl.exp2(step[:, None] * a) * x + drive[:, None] * b[None, :]
        tl.debug_barrier()  # what a thread reads next another may have written
        gx = tl.load(glast + state + tile, has, 0.0)
        for back in range(frames):
            t = frames - 1 - back
            at, of = t * inner + e, t * states + s
            step = tl.load(dt + wide + at, has_e, 0.0).to(tl.float32)
            uu = tl.load(u + wide + at, has_e, 0.0).to(tl.float32)
            g = tl.load(gy + wide + at, has_e, 0.0).to(tl.float32)
            b = tl.load(B + narrow + of, has_s, 0.0).to(tl.float32)
            c = tl.load(C + narrow + of, has_s, 0.0).to(tl.float32)
            before = tl.load(kept + t * E * S + own)
            decay = tl.exp2(step[:, None] * a)
            gx += g[:, None] * c[None, :]
            tl.store(gC + part + of, tl.sum(x * g[:, None], 0), has_s)
            tl.store(gB + part + of, tl.sum(gx * (step * uu)[:, None], 0), has_s)
            gdrive = tl.sum(gx * b[None, :], 1)
            gx = gx * decay
            gexponent = gx * before
            tl.store(gdt + wide + at, gdrive * uu + tl.sum(gexponent * a, 1) / LOG2E, has_e)
            tl.store(gu + wide + at, gdrive * step, has_e)
            ga += gexponent * step[:, None]
            x = before
        tl.store(gx0 + state + tile, gx, has)
        tl.debug_barrier()  # the next row writes where this one was read
        row += tl.num_programs(0)
    tl.store(gA + worker.to(tl.int64) * inner * states + tile, ga, has)


@torch.library.custom_op("dila::scan", mutates_args=())
def scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and last state of the recurrence without its skip.

    Args:
        u: ``R T E``, in any floating type, as are dt, B and C.
        dt: ``R T E``.
        A: ``E S``, float32.
        B: ``R T S``.
        C: ``R T S``.
        x0: ``R E S``, float32.
    """
    u, dt, A, B, C, x0 = (part.contiguous() for part in (u, dt, A, B, C, x0))
    y, last = torch.empty_like(u), torch.empty_like(x0)
    sizes = _sizes(A)
    grid = (u.shape[0], triton.cdiv(A.shape[0], sizes["E"]))
    _forward_kernel[grid](u, dt, A, B, C, x0, y, last, u.shape[1], A.shape[0], A.shape[1], **sizes)
    return y, last


@torch.library.custom_op("dila::scan_backward", mutates_args=())
def scan_backward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, x0: Tensor, gy: Tensor, glast: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the inputs of `scan`, given those of its outputs."""
    u, dt, A, B, C, x0, gy, glast = (part.contiguous() for part in (u, dt, A, B, C, x0, gy, glast))
    rows, frames, (inner, states), sizes = u.shape[0], u.shape[1], A.shape, _sizes(A)
    blocks = triton.cdiv(inner, sizes["E"])
    workers = max(1, min(rows, programs(u.device, _PROGRAMS) // blocks))
    like = {"device": u.device, "dtype": torch.float32}
    gu, gdt, gx0 = torch.empty_like(u), torch.empty_like(dt), torch.empty_like(x0)
    gA = torch.empty(workers, inner, states, **like)
    gB, gC = torch.empty(2, blocks, rows, frames, states, **like)
    scratch = torch.empty(workers, blocks, frames, sizes["E"], sizes["S"], **like)
    _backward_kernel[(workers, blocks)](
        u, dt, A, B, C, x0, gy, glast, gu, gdt, gA, gB, gC, gx0, scratch, rows, frames, inner, states, **sizes
    )
    return gu, gdt, gA.sum(0), gB.sum(0).to(B.dtype), gC.sum(0).to(C.dtype), gx0


@scan.register_fake
def _(u, dt, A, B, C, x0):
    return u.new_empty(u.shape), x0.new_empty(x0.shape)


@scan_backward.register_fake
def _(u, dt, A, B, C, x0, gy, glast):
    return tuple(part.new_empty(part.shape) for part in (u, dt, A, B, C, x0))


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, gy, glast):
    return scan_backward(*ctx.saved_tensors, gy, glast)


scan.register_autograd(_differentiate, setup_context=_keep)


def _sizes(A: Tensor) -> dict[str, int]:
    states = triton.next_power_of_2(A.shape[1])
    return {"S": states, "E": min(triton.next_power_of_2(A.shape[0]), max(1, _TILE // states))}


def programs(device: torch.device, each: int) -> int:
    """How many programs fill a device with ``each`` on a multiprocessor; a few under Triton's interpreter."""
    return each * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
