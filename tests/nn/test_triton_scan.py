"""On a GPU, or in Triton's interpreter: `make kernels`."""

import pytest
import torch
from kernel_world import DEVICE, anywhere, on_a_gpu, sizes

from dila.nn import kernels
from dila.nn.mamba import Mamba, _Scan, selective_scan

pytestmark = anywhere


def inputs(rows, frames, inner, states, dtype=torch.float32):
    shapes = [(rows, frames, inner)] * 2 + [(inner, states)] + [(rows, frames, states)] * 2 + [(rows, inner, states)]
    u, dt, A, B, C, x0 = (torch.randn(shape, device=DEVICE) for shape in shapes)
    values = [u.to(dtype), dt.abs().to(dtype), -A.abs(), B.to(dtype), C.to(dtype), x0]
    return [value.requires_grad_() for value in values]


MIDDLE = sizes([(300, 16, 512, 32)], [(5, 16, 20, 32)])[0]


def relative(mine, theirs):
    return ((mine.double() - theirs.double()).norm() / theirs.double().norm()).item()


def both(values, begins=True, outputs=2):
    """Outputs and gradients of the kernels, and of the loop in double precision on the same numbers.

    Without ``begins`` from no state; with one output the last state has no gradient.
    """
    exact = [value.detach().double().requires_grad_() for value in values]
    D, none = torch.zeros(values[2].shape[0], device=DEVICE), torch.zeros_like(exact[5])
    ours = selective_scan(*values[:5], D, values[5] if begins else None)[:outputs]
    theirs = _Scan.apply(*exact[:5], exact[5] if begins else none)[:outputs]
    weights = [torch.randn_like(part).to(values[0].dtype).double() for part in theirs]  # exact in the type of y
    found = []
    for parts, given in ((ours, values[: 5 + begins]), (theirs, exact[: 5 + begins])):
        total = sum((part.double() * weight).sum() for part, weight in zip(parts, weights, strict=True))
        found.append([*parts, *torch.autograd.grad(total, given)])
    return found


LARGE = [(5, 6, 4, 3), (300, 16, 512, 32), (7, 33, 130, 16), (64, 1, 256, 8)]


@pytest.mark.parametrize("size", sizes(LARGE, [(5, 6, 4, 3), (9, 7, 40, 16), (6, 1, 20, 8)]))
@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("outputs", [1, 2])
def test_kernels_equal_the_loop(size, begins, outputs):
    assert kernels.scan is not None
    assert max(map(relative, *both(inputs(*size), begins, outputs))) < 1e-5


def test_kernels_in_bfloat16_equal_the_loop_on_the_same_numbers():
    ours, exact = both(inputs(*MIDDLE, torch.bfloat16))
    assert max(relative(ours[i], exact[i]) for i in (1, 4, 7)) < 1e-3  # what is kept in float32: last state, gA, gx0
    assert max(map(relative, ours, exact)) < 4e-3  # half the spacing of bfloat16


def test_same_input_same_bits():
    values = inputs(*MIDDLE)
    first, second = both(values)[0], both(values)[0]
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@on_a_gpu
def test_no_state_of_any_time_step_is_kept_for_the_backward():
    values = inputs(256, 64, 256, 32)
    D = torch.zeros(256, device=DEVICE)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    out = selective_scan(*values[:5], D, values[5])
    kept = torch.cuda.memory_allocated() - before
    states = 256 * 64 * 256 * 32 * 4
    assert out[0].requires_grad
    assert kept < states / 8


def test_mamba_reads_by_frame_as_it_reads_at_once():
    layer, y = Mamba(64, state_dim=16).to(DEVICE), torch.randn(5, 7, 64, device=DEVICE)
    whole, last = layer(y)
    state, parts = None, []
    for piece in y.split(1, 1):
        out, state = layer(piece, state)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=0)
    torch.testing.assert_close(state.x, last.x, atol=1e-4, rtol=0)
