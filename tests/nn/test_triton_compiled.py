"""Layers that call our kernels, through `torch.compile`: on a GPU."""

import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels run on CUDA")

COMPILE = """
import torch
from dila.nn.mamba import Mamba
from dila.nn.st_transformer import SpatialLayer, TemporalLayer

spatial = SpatialLayer(64, 2, 32, dropout=0.0, padding="zeros")
temporal = TemporalLayer(64, 2, 32, dropout=0.0, padding="replicate", rope_before_scale=False)
x, rows = torch.randn(2, 3, 9, 9, 64), torch.randn(50, 7, 64)
for layer, inputs in ((spatial, (x, torch.randn(2, 81, 81))), (temporal, (x,)), (Mamba(64, state_dim=16), (rows,))):
    layer, inputs = layer.cuda(), [part.cuda().requires_grad_() for part in inputs]
    found = []
    for each in (layer, torch.compile(layer, fullgraph=True)):
        with torch.autocast("cuda", torch.bfloat16):
            out = each(*inputs)[0]
        found.append([out, *torch.autograd.grad(out.float().square().sum(), [*inputs, *layer.parameters()])])
    for ours, theirs in zip(*found, strict=True):
        assert (ours.float() - theirs.float()).norm() <= 2e-2 * theirs.float().norm(), type(layer)
"""


def test_layers_compile_whole_and_are_as_before_forward_and_backward():
    """In a process of its own: checked signatures and the compiler do not go together."""
    subprocess.run([sys.executable, "-c", COMPILE], check=True)
