"""Base class of frozen encoders: preparation of frames, chunking, statistics."""

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
"""Frames per forward pass: bounds memory; on a CPU the maps of eight frames stay in its cache."""

Encoder = TypeVar("Encoder", bound="FrozenEncoder")


@dataclass(frozen=True)
class Resize:
    """How frames are resized: target rows and columns, and two arguments of `interpolate`."""

    size: tuple[int, int]
    mode: str
    antialias: bool
    through: tuple[int, int] | None = None
    """Frames with more rows or columns are first brought to this size, bilinearly with antialiasing; None: none are."""


def rows_and_columns(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return a size as ``(Y, X)``; a single number means a square."""
    return (size, size) if isinstance(size, int) else size


class FrozenEncoder(ABC):
    """Frames to features with frozen weights. Not a Module, so that no model includes its weights by accident.

    Each frame is encoded independently of T: the cache encodes neighbouring frames of a recording, a `World` those of a
    clip, and both must get the same features.

    A subclass implements `features`, the raw features of a flat batch of normalised frames. It sets the fields below,
    and either `network`, or by `made_by` a function that builds it on first use, so that reading from the cache loads
    none.
    """

    name: ClassVar[str]
    settings: Any
    """A dataclass of all settings except the statistics."""
    grid: tuple[int, int]
    feature_dim: int
    statistics: FeatureStatistics | None
    resize: Resize
    _network: "_Network"

    @property
    def network(self) -> nn.Module:
        """The network, built on first use."""
        return self._network.get()

    @network.setter
    def network(self, network: nn.Module) -> None:
        self._network = _Network(lambda: network)
        self._network.get()

    def made_by(self, make: Callable[[], nn.Module]) -> None:
        """Build the network by this function on first use, once for all copies of this encoder."""
        self._network = _Network(make)

    def weights(self) -> str:
        """Return a hash of the weights, which distinguishes them from others with the same config; builds the network.

        A subclass whose config determines the weights returns the empty string.
        """
        digest = hashlib.blake2b(digest_size=8)
        digest_tensors(digest, self.network.state_dict())
        return digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        """Return the config without the location of the weights: with `weights`, it determines the features."""
        return self.config()

    @abstractmethod
    def features(self, frames: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N H W D"]:
        """Return raw features of resized, ImageNet-normalised frames."""

    def config(self) -> dict[str, Any]:
        """Return a JSON-serialisable config for `dila.vision.build_encoder`; excludes the statistics."""
        return {"name": self.name} | to_json(self.settings)

    def inverse(self) -> FrameDecoder | None:
        """Return the exact inverse from features to frames, if there is one."""
        return None

    @torch.no_grad()
    def encode(self, o: Frames | Pixels) -> Features:
        """Encode frames (uint8 0..255 or float 0..1, any size) to float32 features, normalised if there are statistics.

        Raises:
            DilaError: frames that are neither uint8 nor float, or float frames outside 0..1.
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
        """Convert frames ``N 3 Y X`` of any dtype to the network's device and size, ImageNet-normalised."""
        x = self.resized(o)
        return (x - _per_channel(IMAGENET_MEAN, x)) / _per_channel(IMAGENET_STD, x)

    def resized(self, o: Tensor) -> Float[Tensor, "N 3 Y X"]:
        """Convert frames ``N 3 Y X`` of any dtype to 0..1, on the network's device and at its size."""
        x = o.to(self.device)
        x = x.float() if x.is_floating_point() else x.float() / 255
        through = self.resize.through
        if through is not None and (x.shape[-2] > through[0] or x.shape[-1] > through[1]):
            x = F.interpolate(x, through, mode="bilinear", align_corners=False, antialias=True)
        if tuple(x.shape[-2:]) == self.resize.size:
            return x
        return F.interpolate(
            x, self.resize.size, mode=self.resize.mode, align_corners=False, antialias=self.resize.antialias
        )

    def with_statistics(self: Encoder, statistics: FeatureStatistics | None) -> Encoder:
        """Return the same encoder, sharing the network, with other statistics; None gives raw features."""
        other = copy.copy(self)
        other.statistics = statistics
        return other

    def to(self: Encoder, device: torch.device | str) -> Encoder:
        """Move the network in place."""
        self._network.to(torch.device(device))
        return self

    @property
    def device(self) -> torch.device:
        """Device of the network and of the features."""
        return self._network.device


def _check(o: Tensor) -> None:
    if o.dtype != torch.uint8 and not o.is_floating_point():
        raise DilaError(f"frames should be uint8 in 0..255 or float in 0..1, not {o.dtype}; convert them")
    if o.is_floating_point() and o.numel():
        check_unit_range("float frames", *torch.stack(o.aminmax()).tolist())  # both are NaN if any value is


class _Network:
    """A network that is built on first use and then moved to the device set before."""

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
    """Convert ImageNet-normalised pixels back to 0..1, not clamped."""
    return x * _per_channel(IMAGENET_STD, x) + _per_channel(IMAGENET_MEAN, x)


def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype)[:, None, None]
