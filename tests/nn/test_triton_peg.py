"""On a GPU; elsewhere there is nothing to run the kernels on."""

import pytest
import torch

from dila.nn import kernels
from dila.nn.position import PEG

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels run on CUDA")


@pytest.mark.parametrize("size", [(2, 2, 3, 5, 70), (3, 16, 16, 16, 256), (1, 1, 17, 16, 8)])
@pytest.mark.parametrize("begins", ["zeros", "replicate", "continued"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_equal_the_convolution_in_double_precision(size, begins, dtype):
    clips, frames, *grid, channels = size
    padding = "replicate" if begins == "replicate" else "zeros"
    peg, exact = PEG(channels, padding).cuda(), PEG(channels, padding).cuda().double()
    exact.load_state_dict(peg.state_dict())
    count = frames + 2 if begins == "continued" else frames
    given = torch.randn(clips, count, *grid, channels, device="cuda", dtype=dtype)
    weight = torch.randn(clips, frames, *grid, channels, device="cuda", dtype=dtype)
    assert kernels.peg is not None
    found = []
    for layer, own in ((peg, given.clone()), (exact, given.double())):
        past, x = own.requires_grad_().split([count - frames, frames], dim=1)
        y, _ = layer(x, past if begins == "continued" else None)
        found.append([y, *torch.autograd.grad((y.double() * weight.double()).sum(), [own, *layer.parameters()])])
    limits = (4e-3, 4e-3, 1e-3, 1e-3) if dtype == torch.bfloat16 else (1e-5,) * 4
    for mine, theirs, limit in zip(*found, limits, strict=True):
        assert (mine.double() - theirs).norm() / theirs.norm() < limit


def test_an_input_that_needs_no_gradient_leaves_that_of_the_weights():
    peg, x = PEG(64).cuda(), torch.randn(2, 3, 4, 4, 64, device="cuda")
    peg(x)[0].sum().backward()
    told = peg.conv.weight.grad.clone()
    peg.zero_grad()
    peg(x.clone().requires_grad_())[0].sum().backward()
    torch.testing.assert_close(peg.conv.weight.grad, told)
