"""Base class of the baselines: a latent action between two frames, and the next frame from one frame and z.

None of the published models carries anything between frames except the frame itself, so the state of a rollout is the
features of the last frame, predicted or true; LAPA, Moto and AdaWorld's latent action model are applied repeatedly in
the same way. Each model reads and predicts features ``B T H W D``. With the encoder "pixels", features are the frame's
patches, and the model is the published one.
"""

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange
from torch import nn

from dila.nn.bottleneck import Bottlenecked
from dila.nn.real_actions import action_encoder, encoded
from dila.shapes import Actions, Features, Float, Int, LatentActions, Tensor

Predicts = Literal["features", "change", "unit"]
"""Output of the last linear map: the next frame; the change from the previous frame, initially zero; or the next frame
through a sigmoid, for pixels in 0..1.
"""


class Foretold(NamedTuple):
    """Teacher-forced prediction of frames 1..K, each from the true frame before it."""

    z: LatentActions
    e_hat: Features
    penalties: dict[str, Float[Tensor, ""]]
    """Penalties of the bottleneck, by the name of their weight in `dila.train.published`."""
    codes: Int[Tensor, "B K tokens"] | None
    """Codebook entries, if there is a codebook."""


class FrameModel(nn.Module, ABC):
    """A latent action model of two functions: `squeeze` maps two frames to z, `draw` a frame and z to the next frame.

    Args:
        config: config of the model, with ``grid``, ``feature_dim``, ``action_dim`` and ``real_action_dim``.
    """

    penalty: str | None = None
    """Name of the bottleneck's penalty."""
    acts = True
    """The model has latent actions."""

    def __init__(self, config: Any):
        super().__init__()
        self.config = config
        self.action_encoder = action_encoder(width, config.action_dim) if (width := config.real_action_dim) else None

    @abstractmethod
    def squeeze(self, e: Features) -> Bottlenecked:
        """Return the latent action of each transition, ``B K Dz``; codes are ``B K tokens``."""

    @abstractmethod
    def draw(self, e: Features, z: LatentActions) -> Features:
        """Predict the frame after each of K frames under its z, independently of all other frames."""

    def forward(self, e: Features) -> Foretold:
        """Infer the actions of a clip and predict each frame from the true one before it."""
        z, penalty, codes = self.squeeze(e)
        penalties = {} if self.penalty is None else {self.penalty: penalty}
        return Foretold(z, self.draw(e[:, :-1], z), penalties, codes)

    def infer(self, e: Features) -> LatentActions:
        """Return the latent actions between consecutive frames."""
        return self.squeeze(e).z

    def encode_actions(self, a: Actions) -> LatentActions:
        """Return the z of real actions. Raises DilaError unless their width is the model's ``real_action_dim``."""
        return encoded(self.action_encoder, a)

    def start(self, e: Features) -> Float[Tensor, "B H W D"]:
        """Return the state: the last context frame."""
        return e[:, -1].clone()  # not a view, which would keep the whole context in memory

    def step(
        self, state: Float[Tensor, "B H W D"], z: Float[Tensor, "B Dz"]
    ) -> tuple[Float[Tensor, "B H W D"], Float[Tensor, "B H W D"]]:
        """Predict the next frame, which is also the next state."""
        e_hat = self.draw(state.unsqueeze(1), z.unsqueeze(1)).squeeze(1)
        return e_hat, e_hat


class Head(nn.Module):
    """The last linear map of a decoder; see `Predicts`."""

    def __init__(self, dim: int, feature_dim: int, predicts: Predicts):
        super().__init__()
        self.predicts = predicts
        self.to_features = nn.Linear(dim, feature_dim)
        if predicts == "change":
            nn.init.zeros_(self.to_features.weight)
            nn.init.zeros_(self.to_features.bias)

    def forward(self, x: Float[Tensor, "... C"], e: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Return the next frame, from tokens and the previous frame."""
        out = self.to_features(x)
        if self.predicts == "change":
            return e + out
        return out.sigmoid() if self.predicts == "unit" else out


def pairs(e: Features) -> Float[Tensor, "BK 2 H W D"]:
    """Return every two consecutive frames as a separate clip."""
    return torch.stack([e[:, :-1], e[:, 1:]], dim=2).flatten(0, 1)


def tokens(e: Float[Tensor, "B T H W D"]) -> Float[Tensor, "B T N D"]:
    """Flatten the grid to tokens, row-major."""
    return rearrange(e, "b t h w d -> b t (h w) d")
