"""Fréchet distance between two sets of clips: between Gaussians fitted to their features.

The published FVD (Unterthiner et al. 2018) is this distance on features of an I3D network; on other features it has
another name. With fewer than a few hundred clips it is biased upwards, so compare only sets of the same size.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from dila.errors import DilaError
from dila.metrics.image import in_unit_range
from dila.shapes import Float, Frames, Pixels, Tensor

I3D_SIDE = 224
I3D_FRAMES = 10
"""Minimum number of frames, due to the strides of I3D."""


def frechet_distance(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> float:
    """Return the squared distance of the means plus ``tr(Sx + Sy - 2 (Sx Sy)^1/2)``, in double precision.

    The trace of the square root is computed as the nuclear norm of the product of the centred features, so that no
    matrix square root is needed and the cost grows with the smaller of the numbers of clips and channels.

    Raises:
        DilaError: a set has fewer than two clips.
    """
    if min(len(x), len(y)) < 2:
        raise DilaError(
            f"the Fréchet distance needs at least two clips per set, but there are {len(x)} and {len(y)}; give more"
        )
    x, y = x.detach().cpu().double(), y.detach().cpu().double()
    shift = (x.mean(0) - y.mean(0)).square().sum()
    a, b = (_root(part - part.mean(0)) for part in (x, y))
    spread = a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum()
    return float((shift + spread).clamp_min(0))


def motion_features(e: Float[Tensor, "B T H W D"]) -> Float[Tensor, "B F"]:
    """Return one vector per clip: mean and spatial standard deviation of its features, and mean change per frame."""
    e = e.float()
    change = (e[:, 1:] - e[:, :-1]).abs().mean((1, 2, 3)) if e.shape[1] > 1 else torch.zeros_like(e[:, 0, 0, 0])
    return torch.cat([e.mean((1, 2, 3)), e.std((2, 3), correction=0).mean(1), change], dim=-1)


class I3D:
    """I3D network of the published FVD as TorchScript (``i3d_torchscript.pt``, which is not included)."""

    def __init__(self, path: str | Path, device: torch.device | str = "cpu"):
        if not Path(path).is_file():
            raise DilaError(f"--i3d: {path} does not exist; give the TorchScript file of I3D, or omit the flag")
        try:
            self.network: Any = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            raise DilaError(
                f"--i3d: {path} is not a TorchScript file ({str(error).splitlines()[0]}); give the published I3D"
            ) from error
        self.device = device

    def __call__(self, clips: Frames | Pixels) -> Float[Tensor, "B F"]:
        """Return features of clips, uint8 or in [0, 1].

        Raises:
            DilaError: clips have fewer than `I3D_FRAMES` frames.
        """
        if clips.shape[1] < I3D_FRAMES:
            raise DilaError(f"I3D needs clips of at least {I3D_FRAMES} frames, not {clips.shape[1]}; raise --frames")
        frames = in_unit_range(clips.to(self.device)).flatten(0, 1)
        frames = F.interpolate(frames, (I3D_SIDE, I3D_SIDE), mode="bilinear", align_corners=False)
        video = (2 * frames - 1).unflatten(0, clips.shape[:2]).transpose(1, 2)
        return self.network(video, rescale=False, resize=False, return_features=True).float()


def _root(x: Float[Tensor, "N D"]) -> Tensor:
    """Return a matrix A of at most D rows such that ``A.T @ A`` is the covariance of centred ``x``."""
    rows = x / (len(x) - 1) ** 0.5
    return torch.linalg.qr(rows).R if len(x) > x.shape[1] else rows
