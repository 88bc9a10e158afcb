import pytest
import torch
import torch.nn.functional as F

from dila.nn.convolutions import Conv2d, Conv3d


def check(conv, x, plain):
    torch.testing.assert_close(conv(x), plain)
    weight = torch.randn_like(plain)
    gradients = [torch.autograd.grad((out * weight).sum(), [x, *conv.parameters()]) for out in (conv(x), plain)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("cells", "stride"), [(2, 1), (2, 2), (4, 2), (3, 1), (1, 1)])
def test_a_convolution_of_few_cells_is_the_convolution(cells, stride):
    conv = Conv3d(5, 6, 3, stride=(1, stride, stride), padding=1).double()
    x = torch.randn(2, 5, 4, cells, cells, dtype=torch.float64, requires_grad=True)
    check(conv, x, F.conv3d(x, conv.weight, conv.bias, conv.stride, conv.padding))


@pytest.mark.parametrize("sizes", [(1, 1), (3, 1), (1, 3), (4, 4)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_of_a_narrow_map_is_the_convolution(sizes, stride):
    conv = Conv2d(5, 6, 3, stride=stride, padding=1).double()
    x = torch.randn(2, 5, *sizes, dtype=torch.float64, requires_grad=True)
    check(conv, x, F.conv2d(x, conv.weight, conv.bias, stride, 1))


@pytest.mark.parametrize("height", [1, 3])
def test_gradients_of_a_narrow_map_are_right_in_bfloat16(height):
    for seed in range(12):  # what oneDNN gives of it is what lay in memory, and now and then nothing did
        torch.manual_seed(seed)
        _ = [torch.randn(64, 64, 3, 3) * 1e3 for _ in range(8)]
        conv, x = Conv2d(64, 64, 3, stride=2, padding=1), torch.randn(112, 64, height, 1)
        with torch.autocast("cpu", torch.bfloat16):
            y = conv(x).float()
        weight = torch.randn_like(y)
        given, true = (torch.autograd.grad((out * weight).sum(), conv.weight)[0] for out in (y, conv(x)))
        assert (given - true).abs().max() < 0.05 * true.abs().max()
