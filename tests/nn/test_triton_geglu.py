"""On a GPU, or in Triton's interpreter: `make kernels`."""

import pytest
import torch
import torch.nn.functional as F
from kernel_world import DEVICE, anywhere

from dila.nn import kernels
from dila.nn.feedforward import FeedForward

pytestmark = anywhere


@pytest.mark.parametrize("dim", [20, 256, 768])
def test_the_feed_forward_is_its_parts(dim):
    ff = FeedForward(dim, dropout=0.1).to(DEVICE).eval()
    exact = FeedForward(dim).to(DEVICE).double()  # which no kernel takes
    exact.load_state_dict(ff.state_dict())
    x = torch.randn(3, 7, dim, device=DEVICE, requires_grad=True)
    x_exact, weight = x.detach().double().requires_grad_(), torch.randn(3, 7, dim, device=DEVICE)
    found = []
    for layer, given in ((ff, x), (exact, x_exact)):
        y = layer(given)
        found.append([y, *torch.autograd.grad((y * weight).sum(), [given, *layer.parameters()])])
    for mine, theirs in zip(*found, strict=True):
        assert (mine.double() - theirs).norm() / theirs.norm() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_scales_the_rest_and_goes_backward_alike(dtype):
    assert kernels.geglu is not None
    h = torch.randn(200, 2 * 688, device=DEVICE, dtype=dtype, requires_grad=True)
    seed = torch.tensor([7], device=DEVICE)
    whole, dropped = kernels.geglu(h, None, 0.0), kernels.geglu(h, seed, 0.1)
    kept = dropped != 0
    assert abs(kept.float().mean().item() - 0.9) < 3e-3
    assert (kernels.geglu(h, seed + 1, 0.1) != dropped).float().mean() > 0.1
    torch.testing.assert_close(dropped[kept].float(), whole[kept].float() / 0.9, rtol=1e-2, atol=1e-2)
    weight = torch.randn_like(dropped)
    (mine,) = torch.autograd.grad((dropped * weight).sum(), h)
    value, gate = (part.detach().double().requires_grad_() for part in h.chunk(2, dim=-1))
    exact = value * F.gelu(gate) * kept / 0.9
    theirs = torch.cat(torch.autograd.grad((exact * weight).sum(), [value, gate]), dim=-1)
    assert (mine.double() - theirs).norm() / theirs.norm() < (4e-3 if dtype == torch.bfloat16 else 1e-4)
