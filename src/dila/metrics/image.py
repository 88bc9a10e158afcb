"""Image metrics: PSNR and SSIM as published, our own perceptual distance, and LPIPS if installed.

Pictures are uint8 or floats in [0, 1], ``... 3 Y X``; every metric returns one number per picture.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

from dila.errors import check_unit_range
from dila.shapes import Float, Tensor, UInt8

PERFECT = 1e-10
"""Mean squared error at which PSNR saturates, at 100 dB."""

_SIGMA, _REACH, _K1, _K2 = 1.5, 5, 0.01, 0.03
_PLANES = 32
"""Number of colour planes compared at a time, so that they fit into a CPU's cache."""
_WEIGHTS = {"alex": ("AlexNet", "alexnet-owt-7be5be79.pth"), "vgg": ("VGG16", "vgg16-397923af.pth")}
"""Torchvision's networks that LPIPS builds on, with their weight files in torch's hub folder."""

Pictures = Float[Tensor, "... 3 Y X"] | UInt8[Tensor, "... 3 Y X"]


def in_unit_range(pictures: Pictures) -> Float[Tensor, "... 3 Y X"]:
    """Return pictures as floats in [0, 1]; uint8 is divided by 255.

    Raises:
        DilaError: floats are in another range.
    """
    if not pictures.is_floating_point():
        return pictures.float() / 255
    if pictures.numel():
        check_unit_range("float pictures", *torch.stack(pictures.aminmax()).tolist())
    return pictures.float()


def psnr(x: Pictures, y: Pictures) -> Float[Tensor, "..."]:
    """Peak signal-to-noise ratio in dB, with a data range of 1."""
    return -10 * (in_unit_range(x) - in_unit_range(y)).square().mean((-3, -2, -1)).clamp_min(PERFECT).log10()


def ssim(x: Pictures, y: Pictures) -> Float[Tensor, "..."]:
    """Structural similarity (Wang et al. 2004): Gaussian with sigma 1.5 over 11 pixels, mirrored at the edges.

    Equals torchmetrics' ``StructuralSimilarityIndexMeasure(data_range=1)``. Pictures smaller than 11 pixels are
    enlarged to 11 pixels.
    """
    x, y = torch.broadcast_tensors(in_unit_range(x), in_unit_range(y))
    planes = [_large_enough(part.reshape(-1, *part.shape[-3:])).flatten(0, 1) for part in (x, y)]
    told = [_plane_ssim(a, b) for a, b in zip(*(part.split(_PLANES) for part in planes), strict=True)]
    return torch.cat(told).reshape(*x.shape[:-3], 3).mean(-1)


def _plane_ssim(x: Float[Tensor, "N Y X"], y: Float[Tensor, "N Y X"]) -> Float[Tensor, " N"]:
    """SSIM of each colour plane."""
    rows, columns = (_blurring(size, x.device) for size in x.shape[-2:])
    mean_x, mean_y, xx, yy, xy = (rows @ part @ columns.T for part in (x, y, x * x, y * y, x * y))
    var_x, var_y = (xx - mean_x.square()).clamp_min(0), (yy - mean_y.square()).clamp_min(0)
    structure = (2 * (xy - mean_x * mean_y) + _K2**2) / (var_x + var_y + _K2**2)
    light = (2 * mean_x * mean_y + _K1**2) / (mean_x.square() + mean_y.square() + _K1**2)
    return (structure * light).mean((-2, -1))


def feature_distance(
    x: Float[Tensor, "... H W D"], y: Float[Tensor, "... H W D"], parts: Sequence[int] = ()
) -> Float[Tensor, "..."]:
    """Squared distance of unit-norm features, averaged over cells and parts: 0 if equal, 2 if orthogonal, at most 4.

    Like LPIPS (Zhang et al. 2018), but with any encoder and without learned weights, so it must not be called LPIPS.

    Args:
        x: features of some pictures.
        y: features of others.
        parts: channels of each part that is normalised by itself, such as an encoder's taps; empty means one part.
    """
    sizes = list(parts) or [x.shape[-1]]
    distances = [
        (F.normalize(a.float(), dim=-1) - F.normalize(b.float(), dim=-1)).square().sum(-1).mean((-2, -1))
        for a, b in zip(x.split(sizes, -1), y.split(sizes, -1), strict=True)
    ]
    return torch.stack(torch.broadcast_tensors(*distances)).mean(0)


def find_lpips(
    device: torch.device | str, net: Literal["alex", "vgg"] = "alex"
) -> Callable[[Pictures, Pictures], Tensor] | str:
    """Return the published LPIPS, or a sentence that says why it is unavailable. Nothing is downloaded.

    Args:
        device: device of the network.
        net: AlexNet, used for published scores, or VGG16, usual in losses.
    """
    try:
        import lpips
    except (ImportError, RuntimeError) as error:  # a torchvision built for another torch raises RuntimeError
        return f"LPIPS is unavailable: it needs the extra lpips ({str(error).splitlines()[0]})"
    title, file = _WEIGHTS[net]
    weights = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not weights.is_file():
        return f"LPIPS is unavailable: the weights of torchvision's {title} are not at {weights}"
    network: Any = lpips.LPIPS(net=net, verbose=False).to(device).eval().requires_grad_(False)

    def distance(x: Pictures, y: Pictures) -> Tensor:
        x, y = torch.broadcast_tensors(in_unit_range(x), in_unit_range(y))
        told = network(x.reshape(-1, *x.shape[-3:]), y.reshape(-1, *y.shape[-3:]), normalize=True)
        return told.reshape(x.shape[:-3])

    return distance


def _large_enough(x: Float[Tensor, "N 3 Y X"]) -> Tensor:
    least = 2 * _REACH + 1
    size = (max(least, x.shape[-2]), max(least, x.shape[-1]))
    return x if tuple(x.shape[-2:]) == size else F.interpolate(x, size, mode="bilinear", align_corners=False)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # an inference tensor in the cache would break all later gradients
def _blurring(size: int, device: torch.device) -> Float[Tensor, "N N"]:
    """Gaussian blur along one axis, mirrored at both ends, as a matrix.

    On a CPU, multiplying by it takes a tenth of the time of a convolution.
    """
    place = torch.arange(-_REACH, _REACH + 1)
    kernel = torch.exp(-place.square() / (2 * _SIGMA**2))
    source = (torch.arange(size)[:, None] + place).abs()
    source = torch.where(source < size, source, 2 * (size - 1) - source)
    return torch.zeros(size, size).scatter_add_(1, source, (kernel / kernel.sum()).expand(size, -1)).to(device)
