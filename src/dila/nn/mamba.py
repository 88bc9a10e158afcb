"""Mamba (Gu and Dao 2023): a selective state space model over time, with an explicit state.

Symbols: u input of the scan, dt step size, A decay, B and C input and output maps, D skip, x state of the recurrence
``x[t] = exp(dt[t] A) x[t-1] + dt[t] B[t] u[t]``, ``y[t] = C[t] x[t] + D u[t]``.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from dila.nn import kernels
from dila.shapes import Float, Tensor


class MambaState(NamedTuple):
    """What one layer carries between frames: the last inputs of the convolution, and the state of the recurrence."""

    window: Float[Tensor, "R taps E"]
    x: Float[Tensor, "R E S"]


class Mamba(nn.Module):
    """One Mamba mixer on independent sequences, ``R T D``, with ``E = expand * dim`` inner channels.

    Initialised as in the paper: A = -(1..S), and dt log-uniform in 1e-3..1e-1 by the bias of its projection, so that
    memory spans range from a few steps to hundreds.
    """

    def __init__(self, dim: int, state_dim: int = 32, conv_taps: int = 4, expand: int = 2):
        super().__init__()
        inner = expand * dim
        self.dt_rank = math.ceil(dim / 16)
        self.state_dim = state_dim
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, conv_taps, groups=inner)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * state_dim, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, state_dim + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self._init_step_size()

    @torch.no_grad()
    def _init_step_size(self) -> None:
        low, high = 1e-3, 1e-1
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        dt = torch.exp(torch.rand_like(self.dt_proj.bias) * math.log(high / low) + math.log(low))
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus

    def forward(
        self, y: Float[Tensor, "R T D"], state: MambaState | None = None
    ) -> tuple[Float[Tensor, "R T D"], MambaState]:
        """Mix over time from ``state`` (None at the start of a clip) and return the state after the last frame."""
        u, gate = self.in_proj(y).chunk(2, dim=-1)
        u, window = self._convolve(u, None if state is None else state.window)
        u = F.silu(u)
        dt, B, C = self.x_proj(u).split([self.dt_rank, self.state_dim, self.state_dim], dim=-1)
        dt = F.softplus(self.dt_proj(dt))
        A = -self.A_log.float().exp()
        with torch.autocast(u.device.type, enabled=False):
            out, x = selective_scan(u, dt, A, B, C, self.D.float(), None if state is None else state.x.float())
        return self.out_proj(out.to(gate.dtype) * F.silu(gate)), MambaState(window, x)

    def _convolve(self, u: Float[Tensor, "R T E"], window: Tensor | None) -> tuple[Tensor, Tensor]:
        """Causal depthwise convolution over time as a sum of shifted products, the fastest way for a few taps."""
        taps, frames = self.conv.kernel_size[0], u.shape[1]
        if window is None:
            window = u.new_zeros(u.shape[0], taps - 1, u.shape[2])
        u = torch.cat([window.to(u.dtype), u], dim=1)
        weight, bias = (parameter.to(u.dtype) for parameter in self.conv.parameters())  # E 1 taps, E
        out = bias + sum(u[:, tap : tap + frames] * weight[:, 0, tap] for tap in range(taps))
        return out, u[:, u.shape[1] - (taps - 1) :]


def selective_scan(
    u: Float[Tensor, "R T E"],
    dt: Float[Tensor, "R T E"],
    A: Float[Tensor, "E S"],
    B: Float[Tensor, "R T S"],
    C: Float[Tensor, "R T S"],
    D: Float[Tensor, " E"],
    x: Float[Tensor, "R E S"] | None,
) -> tuple[Float[Tensor, "R T E"], Float[Tensor, "R E S"]]:
    """Run the recurrence in at least float32 from state ``x``, or from zeros; return the outputs and the last state.

    Neither pass stores a state per time step: the backward runs the recurrence forward again. CUDA uses the kernel of
    `dila.nn.triton_scan`; other devices process blocks of rows that fit the processor's cache.
    """
    if kernels.scan is not None and kernels.fits(u):
        y, last = kernels.scan(u, dt, A, B, C, x)
    else:
        u, dt, B, C = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (u, dt, B, C))
        x = A.new_zeros(u.shape[0], *A.shape) if x is None else x
        y, last = _scan(u, dt, A, B, C, x)
    return y + u * D, last


_BLOCK_ELEMENTS = 1 << 18
"""Numbers of state in a block of rows: one megabyte, which fits a core's L2 cache."""


def _row_blocks(rows: int, elements_per_row: int) -> list[slice]:
    size = max(1, _BLOCK_ELEMENTS // elements_per_row)
    return [slice(i, i + size) for i in range(0, rows, size)]


@torch.compiler.disable()
def _scan(u, dt, A, B, C, x):
    """Hidden from `torch.compile`, which would unroll every frame of every block and compile for minutes."""
    return _Scan.apply(u, dt, A, B, C, x)


class _Scan(torch.autograd.Function):
    """The scan without its skip connection, with a hand-written backward.

    Internally, the state of a block of rows is ``S R E``: inner channels are contiguous, so that products are
    vectorised and sums over the state are sums of whole planes.
    """

    @staticmethod
    def forward(ctx, u, dt, A, B, C, x0):
        ctx.save_for_backward(u, dt, A, B, C, x0)
        y, A = torch.empty_like(u), _planes(A)
        last = x0.new_empty(x0.shape[2], *x0.shape[:2]).permute(1, 2, 0)  # the internal layout: no transposing
        for rows in _row_blocks(u.shape[0], A.numel()):
            y[rows], last[rows] = _scan_block(u[rows], dt[rows], A, B[rows], C[rows], x0[rows])
        return y, last

    @staticmethod
    def backward(ctx, gy, glast):
        u, dt, A, B, C, x0 = ctx.saved_tensors
        gu, gdt, gB, gC, gx0 = (torch.empty_like(v) for v in (u, dt, B, C, x0))
        A = _planes(A)
        gA = torch.zeros_like(A)
        for rows in _row_blocks(u.shape[0], A.numel()):
            gu[rows], gdt[rows], gB[rows], gC[rows], gx0[rows] = _scan_backward_block(
                u[rows], dt[rows], A, B[rows], C[rows], x0[rows], gy[rows], glast[rows], gA
            )
        return gu, gdt, gA.squeeze(1).T, gB, gC, gx0


def _planes(A):
    """``E S`` to ``S 1 E``."""
    return A.T.contiguous().unsqueeze(1)


def _over_time(B):
    """``R T S`` to ``T S R 1``."""
    return B.permute(1, 2, 0).unsqueeze(-1).contiguous()


def _scan_block(u, dt, A, B, C, x0):
    """Return outputs ``R T E`` and last state ``R E S`` of one block of rows."""
    drive, B, C = dt * u, _over_time(B), _over_time(C)
    x = x0.permute(2, 0, 1).clone(memory_format=torch.contiguous_format)
    y, product = [], torch.empty_like(x)
    for t in range(u.shape[1]):
        x.mul_(torch.mul(dt[:, t], A, out=product).exp_()).addcmul_(B[t], drive[:, t].unsqueeze(0))
        y.append(torch.mul(x, C[t], out=product).sum(0))
    return torch.stack(y, dim=1), x.permute(1, 2, 0)


def _scan_backward_block(u, dt, A, B, C, x0, gy, glast, gA):
    """Return the gradients of one block of rows, recomputing its states; adds to ``gA`` in place."""
    frames, drive = u.shape[1], dt * u
    gdrive, gdt, gB, gC = torch.empty_like(u), torch.empty_like(dt), torch.empty_like(B), torch.empty_like(C)
    B, C = _over_time(B), _over_time(C)
    decays, states = [], [x0.permute(2, 0, 1).contiguous()]
    for t in range(frames):
        decays.append(torch.mul(dt[:, t], A).exp_())
        states.append(torch.mul(states[t], decays[t]).addcmul_(B[t], drive[:, t].unsqueeze(0)))
    gx = glast.permute(2, 0, 1).clone(memory_format=torch.contiguous_format)
    product = torch.empty_like(gx)
    for t in reversed(range(frames)):
        gx.addcmul_(C[t], gy[:, t].unsqueeze(0))
        gC[:, t] = torch.mul(states[t + 1], gy[:, t], out=product).sum(-1).T
        gB[:, t] = torch.mul(gx, drive[:, t], out=product).sum(-1).T
        gdrive[:, t] = torch.mul(gx, B[t], out=product).sum(0)
        gexponent = torch.mul(gx.mul_(decays[t]), states[t], out=product)
        gdt[:, t] = (gexponent * A).sum(0)
        gA += gexponent.mul_(dt[:, t]).sum(1, keepdim=True)
    return gdrive * dt, gdt + gdrive * u, gB, gC, gx.permute(1, 2, 0)
