"""How alike two sets of clips are: the Fréchet distance between Gaussians of their features.

The published FVD (Unterthiner et al. 2018) is this distance on features of an I3D network; on any other features it has
another name. With fewer clips than a few hundred it is biased upwards, so only sets of the same size compare.
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
"""Fewer frames than this do not survive the strides of I3D."""


def frechet_distance(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> float:
    """Squared distance of the means plus ``tr(Sx + Sy - 2 (Sx Sy)^1/2)``, in double precision.

    The trace of the root is the nuclear norm of the product of the centred features, so no root of a matrix is taken
    and the cost grows with the smaller of clips and channels.

    Raises:
        DilaError: fewer than two clips on a side.
    """
    if min(len(x), len(y)) < 2:
        raise DilaError(f"a Fréchet distance needs two clips on each side, not {len(x)} and {len(y)}; take more clips")
    x, y = x.detach().cpu().double(), y.detach().cpu().double()
    shift = (x.mean(0) - y.mean(0)).square().sum()
    a, b = (_root(part - part.mean(0)) for part in (x, y))
    spread = a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum()
    return float((shift + spread).clamp_min(0))


def motion_features(e: Float[Tensor, "B T H W D"]) -> Float[Tensor, "B F"]:
    """One vector a clip from its frames' features: mean, spread over places, and mean change from frame to frame."""
    e = e.float()
    change = (e[:, 1:] - e[:, :-1]).abs().mean((1, 2, 3)) if e.shape[1] > 1 else torch.zeros_like(e[:, 0, 0, 0])
    return torch.cat([e.mean((1, 2, 3)), e.std((2, 3), correction=0).mean(1), change], dim=-1)


class I3D:
    """The I3D network of the published FVD as TorchScript (``i3d_torchscript.pt``, which must be brought along)."""

    def __init__(self, path: str | Path, device: torch.device | str = "cpu"):
        if not Path(path).is_file():
            raise DilaError(f"{path} does not exist; give the TorchScript file of I3D, or leave it out")
        try:
            self.network: Any = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            raise DilaError(f"{path} is no TorchScript file: {str(error).splitlines()[0]}") from error
        self.device = device

    def __call__(self, clips: Frames | Pixels) -> Float[Tensor, "B F"]:
        """Features of clips, uint8 or in [0, 1].

        Raises:
            DilaError: fewer than `I3D_FRAMES` frames.
        """
        if clips.shape[1] < I3D_FRAMES:
            raise DilaError(f"I3D needs clips of {I3D_FRAMES} frames, not {clips.shape[1]}; imagine more frames")
        frames = in_unit_range(clips.to(self.device)).flatten(0, 1)
        frames = F.interpolate(frames, (I3D_SIDE, I3D_SIDE), mode="bilinear", align_corners=False)
        video = (2 * frames - 1).unflatten(0, clips.shape[:2]).transpose(1, 2)
        return self.network(video, rescale=False, resize=False, return_features=True).float()


def _root(x: Float[Tensor, "N D"]) -> Tensor:
    """A matrix of at most D rows with the covariance of centred ``x`` as its square."""
    rows = x / (len(x) - 1) ** 0.5
    return torch.linalg.qr(rows).R if len(x) > x.shape[1] else rows
