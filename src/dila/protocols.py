"""What the layers above know of a model, an encoder and a decoder: never a class, only these verbs."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from dila.shapes import Features, Float, Frames, LatentActions, Pixels, Tensor

State = TypeVar("State")


@runtime_checkable
class LatentActionModel(Protocol[State]):
    """A world model driven by latent actions. All state is an explicit value; there are no hidden caches.

    A state is a tensor with the batch first, None, or a (named) tuple of such: planning repeats it for its candidates.
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
    """One unbroken recording: the unit that data sets are split by and windows never cross.

    What `read` gives is up to the episode: frames (uint8, ``N 3 Y X``) from a reader of `dila.data`, features
    (``N H W D``) from a cache of `dila.vision`. Windows, splits and loaders treat both alike.
    """

    @property
    def id(self) -> str:
        """Stable and unique in its corpus: the path relative to the corpus root."""
        ...

    @property
    def times(self) -> np.ndarray:
        """Seconds of each frame from the first, increasing, one per frame."""
        ...

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """True values kept aside for evaluation, one row a frame; empty for plain video.

        Row f of ``action`` moves frame f to f+1; row f of ``state`` holds at frame f.
        """
        ...

    def read(self, frames: Sequence[int]) -> Tensor:
        """The frames with these indices, in this order."""
        ...

    def fingerprint(self) -> str:
        """A short hash that changes when the underlying file does."""
        ...


@runtime_checkable
class FrameEncoder(Protocol):
    """Frames to frozen features."""

    @property
    def grid(self) -> tuple[int, int]:
        """Cells of a frame, rows and columns."""
        ...

    @property
    def feature_dim(self) -> int:
        """Numbers of a cell."""
        ...

    def encode(self, o: Frames | Pixels) -> Features:
        """Frames (uint8 0..255 or float 0..1, any size) to features ``B T H W D``.

        Each frame is encoded alone, T is no context.
        """
        ...

    def config(self) -> dict[str, Any]:
        """JSON-ready description from which `dila.vision.build_encoder` makes the same encoder again."""
        ...


@runtime_checkable
class FrameDecoder(Protocol):
    """Features back to frames."""

    def decode(self, e: Features) -> Pixels:
        """Features ``B T H W D`` to frames in [0, 1], ``B T 3 Y X``."""
        ...

    def config(self) -> dict[str, Any]:
        """JSON-ready description from which `dila.vision.build_decoder` makes the same decoder again."""
        ...
