"""What the frozen encoders share: frames in any form to a pixel batch, chunks, statistics."""

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from dila.configs import to_json
from dila.errors import DilaError, check_unit_range
from dila.protocols import FrameDecoder
from dila.shapes import Features, Float, Frames, Pixels, Tensor
from dila.vision.statistics import FeatureStatistics
from dila.vision.stored import digest_tensors

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

CHUNK_CPU, CHUNK_GPU = 8, 64
"""Frames through the network at once: bounds memory, and on a CPU eight frames' maps stay in its cache."""

Encoder = TypeVar("Encoder", bound="FrozenEncoder")


@dataclass(frozen=True)
class Resize:
    """How frames are brought to the network's size: rows and columns, and the two switches of `interpolate`."""

    size: tuple[int, int]
    mode: str
    antialias: bool


def rows_and_columns(size: int | tuple[int, int]) -> tuple[int, int]:
    """A size as ``(Y, X)``; a single number means square."""
    return (size, size) if isinstance(size, int) else size


class FrozenEncoder(ABC):
    """Frames to features with weights that never train. Not a Module, so no model can take in its weights by chance.

    Each frame is encoded alone, T is no context: the cache gives neighbouring frames of a recording, a `World` those of
    a clip, and both must get the same features.

    A subclass gives `features`, the raw features of a flat batch of normalised frames. It sets the fields here, and
    `network`, or has it made when it is first needed by `made_by`: who reads features from a cache never holds one.
    """

    name: ClassVar[str]
    settings: Any
    """A dataclass of all but the statistics."""
    grid: tuple[int, int]
    feature_dim: int
    statistics: FeatureStatistics | None
    resize: Resize
    _network: "_Network"

    @property
    def network(self) -> nn.Module:
        """The weights; made on first use."""
        return self._network.get()

    @network.setter
    def network(self, network: nn.Module) -> None:
        self._network = _Network(lambda: network)
        self._network.get()

    def made_by(self, make: Callable[[], nn.Module]) -> None:
        """Have the network made when it is first needed, once for all copies of this encoder."""
        self._network = _Network(make)

    def weights(self) -> str:
        """What tells these weights from others under the same config: a hash of them, for which the network is made.

        A subclass whose config says all gives the empty text.
        """
        digest = hashlib.blake2b(digest_size=8)
        digest_tensors(digest, self.network.state_dict())
        return digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        """The config without the place that weights are read from: with `weights`, all that features depend on."""
        return self.config()

    @abstractmethod
    def features(self, frames: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N H W D"]:
        """Raw features of frames that are resized and ImageNet-normalised."""

    def config(self) -> dict[str, Any]:
        """JSON-ready description from which `dila.vision.build_encoder` makes the same encoder, statistics aside."""
        return {"name": self.name} | to_json(self.settings)

    def inverse(self) -> FrameDecoder | None:
        """The exact way back from features to frames, where there is one."""
        return None

    @torch.no_grad()
    def encode(self, o: Frames | Pixels) -> Features:
        """Frames (uint8 0..255 or float 0..1, any size) to float32 features, normalised if there are statistics.

        Raises:
            DilaError: frames that are neither uint8 nor float, or float ones that are not in 0..1.
        """
        _check(o)
        batch = o.shape[0]
        chunk = CHUNK_CPU if self.device.type == "cpu" else CHUNK_GPU
        chunks = [self.features(self.prepare(part)).float() for part in o.flatten(0, 1).split(chunk)]
        e = torch.cat(chunks) if chunks else torch.empty(0, *self.grid, self.feature_dim, device=self.device)
        if self.statistics is not None:
            e = self.statistics.normalise(e)
        return rearrange(e, "(b t) h w d -> b t h w d", b=batch, t=o.shape[1])

    def prepare(self, o: Tensor) -> Float[Tensor, "N 3 Y X"]:
        """Frames ``N 3 Y X`` of any type to the network's device and size, ImageNet-normalised."""
        x = self.resized(o)
        return (x - _per_channel(IMAGENET_MEAN, x)) / _per_channel(IMAGENET_STD, x)

    def resized(self, o: Tensor) -> Float[Tensor, "N 3 Y X"]:
        """Frames ``N 3 Y X`` of any type in 0..1, on the network's device and of its size."""
        x = o.to(self.device)
        x = x.float() if x.is_floating_point() else x.float() / 255
        if tuple(x.shape[-2:]) == self.resize.size:
            return x
        return F.interpolate(
            x, self.resize.size, mode=self.resize.mode, align_corners=False, antialias=self.resize.antialias
        )

    def with_statistics(self: Encoder, statistics: FeatureStatistics | None) -> Encoder:
        """The same encoder, network shared, with other statistics; None gives raw features."""
        other = copy.copy(self)
        other.statistics = statistics
        return other

    def to(self: Encoder, device: torch.device | str) -> Encoder:
        """Move the network, in place."""
        self._network.to(torch.device(device))
        return self

    @property
    def device(self) -> torch.device:
        """Where the network is, and where features come out."""
        return self._network.device


def _check(o: Tensor) -> None:
    if o.dtype != torch.uint8 and not o.is_floating_point():
        raise DilaError(f"frames should be uint8 in 0..255 or float in 0..1, not {o.dtype}; bring them to one of these")
    if o.is_floating_point() and o.numel():
        check_unit_range("float frames", *torch.stack(o.aminmax()).tolist())  # both are NaN where one number is


class _Network:
    """A network that is made when it is needed, and moved where it was said to go."""

    def __init__(self, make: Callable[[], nn.Module]):
        self.make = make
        self.network: nn.Module | None = None
        self.device = torch.device("cpu")

    def get(self) -> nn.Module:
        if self.network is None:
            self.network = self.make().to(self.device)
        return self.network

    def to(self, device: torch.device) -> None:
        self.device = device
        if self.network is not None:
            self.network.to(device)


def denormalise_pixels(x: Float[Tensor, "*batch 3 Y X"]) -> Float[Tensor, "*batch 3 Y X"]:
    """ImageNet-normalised pixels back to 0..1, not clamped."""
    return x * _per_channel(IMAGENET_STD, x) + _per_channel(IMAGENET_MEAN, x)


def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype)[:, None, None]
