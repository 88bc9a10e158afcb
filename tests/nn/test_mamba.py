import subprocess
import sys

import pytest
import torch

from dila.nn import mamba as module
from dila.nn.mamba import Mamba, MambaState, selective_scan


def inputs(rows=5, frames=6, inner=4, states=3, dtype=torch.float32, requires_grad=False):
    shapes = {
        "u": (rows, frames, inner), "dt": (rows, frames, inner), "A": (inner, states), "B": (rows, frames, states),
        "C": (rows, frames, states), "D": (inner,), "x": (rows, inner, states),
    }  # fmt: skip
    values = {name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()}
    values["dt"], values["A"] = values["dt"].abs(), -values["A"].abs()
    return [value.requires_grad_(requires_grad) for value in values.values()]


def naive_scan(u, dt, A, B, C, D, x):
    out = []
    for t in range(u.shape[1]):
        x = torch.exp(dt[:, t, :, None] * A) * x + dt[:, t, :, None] * B[:, t, None] * u[:, t, :, None]
        out.append((x * C[:, t, None]).sum(-1) + D * u[:, t])
    return torch.stack(out, 1), x


@pytest.mark.parametrize("rows_in_a_block", [1, 2, 5, 100])
def test_scan_equals_the_naive_loop_whatever_the_blocks(monkeypatch, rows_in_a_block):
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", rows_in_a_block * 12)
    values = inputs(requires_grad=True)
    ours, naive = selective_scan(*values), naive_scan(*values)
    for mine, theirs in zip(ours, naive, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    weights = [torch.randn_like(part) for part in ours]
    gradients = [
        torch.autograd.grad(sum((part * w).sum() for part, w in zip(parts, weights, strict=True)), values)
        for parts in (ours, naive)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_scan_gradients_in_double_precision(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 2 * 12)
    values = inputs(rows=3, frames=4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(selective_scan, values)


def test_scan_from_no_state_is_that_from_zeros():
    *values, x = inputs()
    for ours, theirs in zip(selective_scan(*values, None), selective_scan(*values, torch.zeros_like(x)), strict=True):
        assert torch.equal(ours, theirs)


def test_scan_saves_its_inputs_and_no_state_of_any_time_step():
    values = inputs(rows=8, frames=32, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append((t.data_ptr(), t.numel())) or t, lambda t: t):
        selective_scan(*values)
    assert {pointer for pointer, _ in saved} <= {value.data_ptr() for value in values}
    assert max(numel for _, numel in saved) < 8 * 32 * 4 * 3


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_in_pieces_equals_at_once(chunk):
    layer, y = Mamba(8, state_dim=4), torch.randn(5, 7, 8)
    whole, last = layer(y)
    state, parts = None, []
    for piece in y.split(chunk, 1):
        out, state = layer(piece, state)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(state.x, last.x, atol=1e-5, rtol=0)
    torch.testing.assert_close(state.window, last.window, atol=1e-6, rtol=0)


def test_forgetting_the_window_is_what_makes_the_released_step_wrong():
    layer, y = Mamba(8, state_dim=4), torch.randn(5, 7, 8)
    whole, _ = layer(y)
    _, state = layer(y[:, :4])
    forgot, _ = layer(y[:, 4:], MambaState(torch.zeros_like(state.window), state.x))
    assert not torch.allclose(forgot, whole[:, 4:], atol=1e-4)


def test_convolution_is_the_causal_depthwise_one():
    layer, u = Mamba(8, state_dim=4), torch.randn(3, 6, 16)
    expected = layer.conv(torch.nn.functional.pad(u.transpose(1, 2), (3, 0))).transpose(1, 2)
    torch.testing.assert_close(layer._convolve(u, None)[0], expected, atol=1e-6, rtol=1e-5)


def test_under_autocast_the_recurrence_stays_in_float32():
    layer, y = Mamba(8, state_dim=4), torch.randn(3, 6, 8)
    exact, _ = layer(y)
    with torch.autocast("cpu", torch.bfloat16):
        rough, state = layer(y)
    assert state.x.dtype == torch.float32
    torch.testing.assert_close(rough.float(), exact, atol=2e-2, rtol=5e-2)


def memory_times(layer: Mamba) -> torch.Tensor:
    """Frames until each mode has forgotten all but 1/e, at the step size of the bias alone."""
    dt = torch.nn.functional.softplus(layer.dt_proj.bias)
    return 1 / (dt[:, None] * layer.A_log.exp())


def test_initial_step_sizes_and_memory_times_are_the_papers():
    layer = Mamba(128, state_dim=16)
    dt = torch.nn.functional.softplus(layer.dt_proj.bias)
    assert 1e-3 <= dt.min() < 2e-3
    assert 5e-2 < dt.max() <= 1e-1 + 1e-6
    assert layer.dt_proj.weight.abs().max() <= layer.dt_rank**-0.5
    torch.testing.assert_close(layer.A_log.exp()[0], torch.arange(1.0, 17.0))
    times = memory_times(layer)
    assert times.min() < 2
    assert times.max() > 500
    assert 60 < times[:, 0].median() < 160


def test_the_released_re_initialisation_forgets_at_once():
    layer = Mamba(128, state_dim=16)
    torch.nn.init.zeros_(layer.dt_proj.bias)
    assert memory_times(layer).max() < 1.5


COMPILE = """
import torch
from dila.nn.mamba import Mamba

def count(graph, inputs):
    print(sum(len(part.graph.nodes) for part in graph.modules() if isinstance(part, torch.fx.GraphModule)))
    return graph

layer, y = Mamba(8, state_dim=4), torch.randn(40, 16, 8)
torch.testing.assert_close(torch.compile(layer, backend=count)(y)[0], layer(y)[0])
"""


def test_the_compiler_gets_the_projections_and_not_every_frame_of_the_scan():
    """In a process of its own: checked signatures and the compiler do not go together."""
    told = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=True)
    nodes = [int(line) for line in told.stdout.split()]
    assert nodes, "nothing was compiled"
    assert sum(nodes) < 100, "the loop over frames was unrolled"
