"""On a GPU, or in Triton's interpreter: `make kernels`."""

import pytest
import torch
from kernel_world import DEVICE, anywhere, sizes

from dila.nn import kernels
from dila.nn.position import PEG

pytestmark = anywhere


@pytest.mark.parametrize(
    "size", sizes([(2, 2, 3, 5, 70), (3, 16, 16, 16, 256), (1, 1, 17, 16, 8)], [(2, 2, 3, 5, 70), (1, 1, 5, 17, 8)])
)
@pytest.mark.parametrize("begins", ["zeros", "replicate", "continued"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_equal_the_convolution_in_double_precision(size, begins, dtype):
    clips, frames, *grid, channels = size
    padding = "replicate" if begins == "replicate" else "zeros"
    peg, exact = PEG(channels, padding).to(DEVICE), PEG(channels, padding).to(DEVICE).double()
    exact.load_state_dict(peg.state_dict())
    count = frames + 2 if begins == "continued" else frames
    given = torch.randn(clips, count, *grid, channels, device=DEVICE, dtype=dtype)
    weight = torch.randn(clips, frames, *grid, channels, device=DEVICE, dtype=dtype)
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
    peg, x = PEG(64).to(DEVICE), torch.randn(2, 3, 4, 4, 64, device=DEVICE)
    peg(x)[0].sum().backward()
    told = peg.conv.weight.grad.clone()
    peg.zero_grad()
    peg(x.clone().requires_grad_())[0].sum().backward()
    torch.testing.assert_close(peg.conv.weight.grad, told)
