"""Image metrics between clips, each under its own name.

``psnr`` (dB) and ``ssim`` are the published metrics; ``efficientnet_distance`` is our perceptual distance on the
embedded encoder, always at the same resolution and precision; ``lpips`` is computed only if the published network is
installed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from dila.data.clips import resized
from dila.evaluate.result import Better
from dila.metrics.image import feature_distance, find_lpips, in_unit_range, psnr, ssim
from dila.metrics.video import I3D, motion_features
from dila.shapes import Float, Pixels, Tensor, UInt8
from dila.vision import EfficientNetLite, EfficientNetLiteConfig

PERCEPTION = EfficientNetLiteConfig(size=128, taps=("stride8", "stride16"), precision="fp32")
"""Encoder of the perceptual distance, the same for all models, whatever their own encoder."""

BETTER: dict[str, Better] = {
    "psnr": "higher",
    "ssim": "higher",
    "efficientnet_distance": "lower",
    "lpips": "lower",
}


UNDRAWN = ("pixel metrics are omitted: the model has no decoder (dila train-decoder)",)


class Seen(NamedTuple):
    """Frames of clips, and their features in the perceptual encoder."""

    pixels: Pixels
    features: Float[Tensor, "B K H W D"]

    @property
    def rest(self) -> "Seen":
        """All frames but the first."""
        return Seen(*(part[:, 1:] for part in self))

    @property
    def still(self) -> "Seen":
        """The first frame, repeated to the length of `rest`."""
        return Seen(*(part[:, :1].expand(-1, part.shape[1] - 1, *part.shape[2:]) for part in self))


class Judge:
    """Compares frames on one device.

    Attributes:
        size: rows and columns at which frames are compared.
        notes: sentences about metrics that are omitted.
    """

    def __init__(self, size: tuple[int, int], device: torch.device, i3d: str | None = None):
        self.size, self.device = size, device
        self.eye = EfficientNetLite(PERCEPTION).to(device)
        found = find_lpips(device)
        self.lpips: Callable[..., Tensor] | None = None if isinstance(found, str) else found
        self.notes = (found,) if isinstance(found, str) else ()
        self.i3d = I3D(i3d, device) if i3d else None

    @property
    def frechet(self) -> str:
        """Name of the distance between sets of clips: ``fvd`` only with I3D."""
        return "fvd" if self.i3d else "frechet_efficientnet"

    def look(self, clips: Pixels | Sequence[UInt8[Tensor, "K 3 _ _"]]) -> Seen:
        """Resize clips (uint8 or in [0, 1], of any sizes) to `size` and encode them."""
        pixels = torch.stack([resized(in_unit_range(clip.to(self.device)), self.size).clamp(0, 1) for clip in clips])
        return Seen(pixels, self.eye.encode(pixels))

    def compare(self, first: Seen, second: Seen) -> dict[str, Float[Tensor, "B K"]]:
        """Return every metric for each frame; a side of one frame is compared with every frame of the other."""
        x, y = first.pixels, second.pixels
        told = {
            "psnr": psnr(x, y),
            "ssim": ssim(x, y),
            "efficientnet_distance": feature_distance(first.features, second.features, self.eye.tap_channels),
        }
        if self.lpips:
            told["lpips"] = self.lpips(x, y)
        return {name: values.cpu() for name, values in told.items()}

    def compare_all(self, pairs: Mapping[str, tuple[Seen, Seen]]) -> dict[str, Float[Tensor, "B K"]]:
        """Return every metric of every pair, as ``metric/pair``."""
        told = {name: self.compare(*pair) for name, pair in pairs.items()}
        return {f"{measure}/{name}": values for name, its in told.items() for measure, values in its.items()}

    def clip_features(self, seen: Seen) -> Float[Tensor, "B F"]:
        """Return one feature vector per clip, for the Fréchet distance."""
        return (self.i3d(seen.pixels) if self.i3d else motion_features(seen.features)).cpu()
