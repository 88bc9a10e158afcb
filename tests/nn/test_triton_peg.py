"""On a GPU; elsewhere there is nothing to run the kernels on."""

import pytest
import torch

from dila.nn import kernels
from dila.nn.position import PEG

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels run on CUDA")


@pytest.mark.parametrize("size", [(2, 2, 3, 5, 70), (3, 16, 16, 16, 256), (1, 1, 17, 16, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_equal_the_convolution_in_double_precision(size, dtype):
    clips, frames, rows, cols, channels = size
    peg = PEG(channels).cuda()
    exact = PEG(channels).cuda().double()
    exact.load_state_dict(peg.state_dict())
    x = torch.randn(clips, frames + 2, rows, cols, channels, device="cuda", dtype=dtype, requires_grad=True)
    x_exact = x.detach().double().requires_grad_()
    weight = torch.randn(clips, frames, rows, cols, channels, device="cuda", dtype=dtype)
    assert kernels.peg is not None
    found = []
    for layer, given in ((peg, x), (exact, x_exact)):
        y = layer._convolve(given)
        found.append([y, *torch.autograd.grad((y.double() * weight.double()).sum(), [given, *layer.parameters()])])
    limits = (4e-3, 4e-3, 1e-3, 1e-3) if dtype == torch.bfloat16 else (1e-5,) * 4
    for mine, theirs, limit in zip(*found, limits, strict=True):
        assert (mine.double() - theirs).norm() / theirs.norm() < limit


def test_peg_compiles_without_a_break():
    peg, x = PEG(64).cuda(), torch.randn(2, 5, 8, 8, 64, device="cuda")
    torch.testing.assert_close(torch.compile(peg, fullgraph=True)(x)[0], peg(x)[0], atol=1e-4, rtol=0)
