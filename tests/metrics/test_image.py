import sys
import types
import warnings

import pytest
import torch

from dila.errors import DilaError
from dila.metrics import image
from dila.metrics.image import feature_distance, find_lpips, psnr, ssim


@pytest.mark.parametrize("size", [(32, 48), (11, 11)])
def test_psnr_and_ssim_are_torchmetrics(size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its optional parts warn of what is not installed
        image = pytest.importorskip("torchmetrics.image")
        theirs = image.StructuralSimilarityIndexMeasure(data_range=1.0)
        noise = image.PeakSignalNoiseRatio(data_range=1.0)
        x = torch.rand(3, 3, *size)
        y = (x + 0.2 * torch.randn_like(x)).clamp(0, 1)
        for a, b in zip(x, y, strict=True):
            assert float(ssim(a, b)) == pytest.approx(float(theirs(a[None], b[None])), abs=1e-5)
            assert float(psnr(a, b)) == pytest.approx(float(noise(a[None], b[None])), abs=1e-4)


def test_a_picture_is_like_itself_and_less_like_others():
    x = torch.rand(2, 4, 3, 24, 24)
    assert ssim(x, x).shape == (2, 4)
    torch.testing.assert_close(ssim(x, x), torch.ones(2, 4))
    assert (psnr(x, x) == 100).all()
    assert (ssim(x, x[:, :1])[:, 1:] < 0.5).all()  # one frame against all
    assert ssim(torch.rand(3, 4, 4), torch.rand(3, 4, 4)).shape == ()  # smaller than the window


def test_ssim_is_differentiable_after_a_call_under_inference_mode():
    image._blurring.cache_clear()
    x, y = torch.rand(2, 3, 16, 16).unbind(0)
    with torch.inference_mode():
        ssim(x, y)
    (slope,) = torch.autograd.grad(ssim(x.requires_grad_(), y), x)
    assert bool((slope != 0).any())


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_pictures_are_taken_as_episodes_and_worlds_give_them(measure):
    """In uint8, of one side or of both."""
    x, y = (torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8) for _ in range(2))
    expected = measure(x.float() / 255, y.float() / 255)
    torch.testing.assert_close(measure(x, y), expected)
    torch.testing.assert_close(measure(x, y.double() / 255), expected)


def test_the_feature_distance_sees_directions_of_each_part():
    x = torch.randn(2, 3, 4, 4, 6)
    assert feature_distance(x, 5 * x).abs().max() < 1e-6
    torch.testing.assert_close(feature_distance(x, -x), torch.full((2, 3), 4.0))
    halves = torch.cat([x[..., :2], -x[..., 2:]], -1)
    torch.testing.assert_close(feature_distance(x, halves, (2, 4)), torch.full((2, 3), 2.0))


def test_lpips_is_not_called_so_without_the_published_network(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lpips", None)
    assert "needs the extra lpips" in find_lpips("cpu")
    monkeypatch.setitem(sys.modules, "lpips", types.ModuleType("lpips"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert "AlexNet are not at" in find_lpips("cpu")


def test_lpips_is_used_where_it_is(monkeypatch, tmp_path):
    class Fake(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            assert net == "alex"

        def forward(self, x, y, normalize):
            assert normalize
            return (x - y).abs().mean((1, 2, 3), keepdim=True)

    module = types.ModuleType("lpips")
    module.LPIPS = Fake
    monkeypatch.setitem(sys.modules, "lpips", module)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    x = torch.randint(0, 256, (2, 3, 3, 16, 16), dtype=torch.uint8)
    pixels = x.float() / 255
    expected = (pixels - pixels[:, :1]).abs().mean((2, 3, 4))
    torch.testing.assert_close(find_lpips("cpu")(pixels, pixels[:, :1]), expected)
    torch.testing.assert_close(find_lpips("cpu")(x, x[:, :1]), expected)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_pictures_of_another_range_are_refused(measure):
    x = torch.rand(2, 3, 16, 16)
    with pytest.raises(DilaError, match=r"float pictures should be in 0\.\.1 but go from .* to 25.; rescale them"):
        measure(x, 255 * x)
