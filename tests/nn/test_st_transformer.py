import subprocess
import sys

import pytest
import torch

from dila.nn.position import RelativePositionBias
from dila.nn.st_transformer import SpatialLayer, TemporalLayer, flatten, unflatten


def in_pieces(layer, x, chunk, *shared):
    cache, parts = None, []
    for piece in x.split(chunk, 1):
        out, cache = layer(piece, *shared, cache)
        parts.append(out)
    return torch.cat(parts, 1)


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_temporal_layer_in_pieces_equals_at_once(chunk, padding):
    layer = TemporalLayer(12, 2, 8, dropout=0.0, padding=padding, rope_before_scale=False)
    x = torch.randn(2, 7, 3, 4, 12)
    torch.testing.assert_close(in_pieces(layer, x, chunk), layer(x)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_spatial_layer_in_pieces_equals_at_once(chunk):
    layer, bias = SpatialLayer(12, 2, 8, dropout=0.0, padding="zeros"), RelativePositionBias(12, 2)((3, 4))
    x = torch.randn(2, 7, 3, 4, 12)
    torch.testing.assert_close(in_pieces(layer, x, chunk, bias), layer(x, bias)[0], atol=1e-5, rtol=0)


def test_flatten_is_row_major_and_unflatten_its_inverse():
    x = torch.randn(2, 3, 4, 5, 6)
    tokens = flatten(x)
    torch.testing.assert_close(tokens[:, :, 1 * 5 + 2], x[:, :, 1, 2])
    torch.testing.assert_close(unflatten(tokens, x), x)


COMPILE = """
import torch
from dila.nn.st_transformer import SpatialLayer, TemporalLayer

spatial = SpatialLayer(12, 2, 8, dropout=0.0, padding="zeros")
temporal = TemporalLayer(12, 2, 8, dropout=0.0, padding="replicate", rope_before_scale=False)
bias, x = torch.randn(2, 12, 12), torch.randn(2, 3, 3, 4, 12, requires_grad=True)
for layer, shared in ((spatial, (bias,)), (temporal, ())):
    found = []
    for each in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        out = each(x, *shared)[0]
        found.append([out, *torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])])
    torch.testing.assert_close(*found)
"""


def test_layers_compile_whole_and_are_as_before_forward_and_backward():
    """In a process of its own: checked signatures and the compiler do not go together."""
    subprocess.run([sys.executable, "-c", COMPILE], check=True)
