"""Protocols of models, episodes, encoders and decoders; higher layers use these instead of concrete classes."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from dila.shapes import Features, Float, Frames, LatentActions, Pixels, Tensor

State = TypeVar("State")


@runtime_checkable
class LatentActionModel(Protocol[State]):
    """A world model driven by latent actions. All state is explicit; there are no hidden caches.

    A state is a tensor with the batch first, None, or a (named) tuple of these: planning repeats it per candidate.
    """

    def infer(self, e: Features) -> LatentActions:
        """Infer latent actions between consecutive frames: ``z[:, k]`` leads from frame k to frame k+1."""
        ...

    def start(self, e: Features) -> State:
        """Read the context frames (one or more) and return the state at the last of them."""
        ...

    def step(self, state: State, z: Float[Tensor, "B Dz"]) -> tuple[State, Float[Tensor, "B H W D"]]:
        """Advance by one frame under z; returns the new state and the predicted features of that frame."""
        ...


@runtime_checkable
class Episode(Protocol):
    """One continuous recording. Data sets are split by episode, and clips never cross episodes.

    `read` returns frames (uint8, ``N 3 Y X``) for readers of `dila.data`, and features (``N H W D``) for caches of
    `dila.vision`. Clips, splits and loaders treat both alike.
    """

    @property
    def id(self) -> str:
        """Stable id, unique in its corpus: the path relative to the corpus root."""
        ...

    @property
    def times(self) -> np.ndarray:
        """Timestamp of each frame in seconds from the first, increasing."""
        ...

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Ground-truth values for evaluation, one row per frame; empty for plain video.

        Row f of ``action`` moves frame f to f+1; row f of ``state`` holds at frame f.
        """
        ...

    def read(self, frames: Sequence[int]) -> Tensor:
        """Read the frames with these indices, in this order."""
        ...

    def fingerprint(self) -> str:
        """Short hash that changes when the underlying file does."""
        ...


@runtime_checkable
class FrameEncoder(Protocol):
    """A frozen encoder of frames."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the feature grid."""
        ...

    @property
    def feature_dim(self) -> int:
        """Channels of the features."""
        ...

    def encode(self, o: Frames | Pixels) -> Features:
        """Encode frames (uint8 0..255 or float 0..1, any size) to features ``B T H W D``.

        Each frame is encoded independently.
        """
        ...

    def config(self) -> dict[str, Any]:
        """JSON-ready description from which `dila.vision.build_encoder` rebuilds the encoder."""
        ...


@runtime_checkable
class FrameDecoder(Protocol):
    """A decoder of features to frames."""

    def decode(self, e: Features) -> Pixels:
        """Decode features ``B T H W D`` to frames in [0, 1], ``B T 3 Y X``; differentiable in the features."""
        ...

    def config(self) -> dict[str, Any]:
        """JSON-ready description from which `dila.vision.build_decoder` rebuilds the decoder."""
        ...
