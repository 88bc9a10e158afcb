"""On a GPU, or in Triton's interpreter: `make kernels`."""

import importlib.util
from pathlib import Path

import torch
from kernel_world import DEVICE, HALF, INTERPRETED, anywhere

pytestmark = anywhere

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernels.py"


def script():
    spec = importlib.util.spec_from_file_location("benchmarks_kernels", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_the_benchmark_times_beside_the_kernels_gives_the_same(monkeypatch):
    module = script()
    for name, small in {"DIM": 24, "HEADS": 2, "WIDTH": 32, "INNER": 16, "STATES": 8}.items():
        monkeypatch.setattr(module, name, small)
    cases = module.cases(DEVICE, torch.float32 if INTERPRETED else HALF, clips=1, frames=4, side=3)
    assert {case.name for case in cases if case.theirs is None} == {"scan"}
    for case in cases:
        found = []
        for call in (case.ours, case.theirs or case.ours):
            inputs = [part.detach().requires_grad_() for part in case.given]
            out = call(*inputs)
            found.append([out, *torch.autograd.grad(out.float().square().sum(), inputs)])
        for ours, theirs in zip(*found, strict=True):
            error = (ours.float() - theirs.float()).norm() / theirs.float().norm()
            assert error < (1e-5 if INTERPRETED else 2e-2), case.name
