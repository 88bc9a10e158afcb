"""DiLA (paper section 3): splits frozen features into structure and content, and fuses them to predict the next frame.

e      B T H W D    frozen features                      h      B T H W D    features after the backbone
s      B T H W Ds   structure                            ds     B K H W Ds   change of structure
c      B T H W Dc   content of a frame                   c_mem  B T H W Dc   content memory
z      B K Dz       latent actions                       s_hat, e_hat        predictions of frames 1..K
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from dila.errors import DilaError
from dila.model.backbone import Backbone, BackboneCache
from dila.model.bottleneck import bottleneck
from dila.model.config import DiLAConfig, Gaussian, NoAction
from dila.model.content import MemoryState, content_head, content_memory
from dila.model.forward_dynamics import ForwardDynamicsCache, forward_dynamics
from dila.model.fusion_decoder import FusionDecoder, Origin
from dila.model.inverse_dynamics import inverse_dynamics
from dila.model.structure import structure_head
from dila.nn.real_actions import action_encoder, encoded
from dila.shapes import Actions, Content, Features, Float, LatentActions, Structure, Tensor

AnyState = TypeVar("AnyState")


class Observation(NamedTuple):
    """Structure, content and content memory of a clip."""

    s: Structure
    c: Content
    c_mem: Content


class Prediction(NamedTuple):
    """Teacher-forced prediction of frames 1..K, each from the true frames before it."""

    s: Structure
    c_mem: Content
    z: LatentActions
    ds_hat: Structure
    s_hat: Structure
    e_hat: Features


class State(NamedTuple):
    """Model state at one frame: everything the next step needs. Every tensor has a leading batch dimension."""

    s: Float[Tensor, "B H W Ds"]
    c_mem: Float[Tensor, "B H W Dc"]
    origin: Origin
    backbone: BackboneCache | None
    memory: MemoryState
    fdm: ForwardDynamicsCache | None
    decoder: tuple[Tensor, ...] | None
    drawn: Float[Tensor, "B H W D"] | None = None  # predicted but not yet absorbed: see `DiLA.caught_up`


class DiLA(nn.Module):
    """The model: `observe`, `infer`, `predict` for whole clips; `start`, `imagine`, `absorb`, `step` for single frames.

    A rollout that absorbs the true frames equals the teacher-forced prediction, because every part that depends on
    the past keeps its memory in `State`.
    """

    def __init__(self, config: DiLAConfig):
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.structure = structure_head(config)
        self.content = content_head(config)
        self.memory = content_memory(config)
        self.idm = inverse_dynamics(config)
        self.bottleneck = bottleneck(config)
        self.penalty = "kl" if isinstance(config.bottleneck, Gaussian) else None  # name of the bottleneck's loss
        self.acts = not isinstance(config.bottleneck, NoAction)
        self.fdm = forward_dynamics(config)
        self.decoder = FusionDecoder(config)
        self.action_encoder = action_encoder(width, config.action_dim) if (width := config.real_action_dim) else None

    # Whole clips

    def observe(self, e: Features) -> Observation:
        """Return structure, content and content memory of a clip; each frame depends only on its past."""
        return self._observe(e)[0]

    def read(self, e: Features) -> Structure:
        """Return only the structure of a clip: content and memory would take a third of the time of `observe`."""
        return self.structure(self.backbone(e)[0])

    def infer(self, e: Features) -> LatentActions:
        """Return the latent actions between consecutive frames. Raises DilaError for a model without latent actions."""
        self.require_actions()
        return self.act(self.read(e))

    def act(self, s: Structure) -> LatentActions:
        """Return the latent actions of a clip from its structure (equation 1)."""
        return self.bottleneck(self.idm(s[:, 1:] - s[:, :-1])).z

    def require_actions(self) -> None:
        """Raise DilaError if the model has no latent actions."""
        if not self.acts:
            raise DilaError("this model was trained without latent actions, so it can neither infer nor follow them")

    def forward(self, e: Features) -> Prediction:
        """Infer the actions of a clip and predict each frame from the true frames before it (equations 1 to 4)."""
        return self.predict(self.observe(e), e)

    def predict(self, seen: Observation, e: Features, z: LatentActions | None = None) -> Prediction:
        """Predict frames 1..K of an observed clip under ``z``, by default the clip's own actions."""
        z = self.act(seen.s) if z is None else z
        ds_hat, _ = self.fdm(seen.s[:, :-1], z)
        s_hat = seen.s[:, :-1] + ds_hat
        e_hat, _ = self.decoder(s_hat, seen.c_mem[:, :-1], self.decoder.origin(e[:, 0]))
        return Prediction(seen.s, seen.c_mem, z, ds_hat, s_hat, e_hat)

    def encode_actions(self, a: Actions) -> LatentActions:
        """Return the z of real actions. Raises DilaError unless their width is the model's ``real_action_dim``."""
        z = encoded(self.action_encoder, a)
        # With a Gaussian bottleneck the encoder outputs z directly: unlike codes, it needs no quantisation.
        return z if isinstance(self.config.bottleneck, Gaussian) else self.bottleneck(z).z

    # Frame by frame

    def start(self, e: Features, z: LatentActions | None = None) -> State:
        """Return the state after context frames ``e``; ``z`` are their actions, inferred if None."""
        seen, backbone, memory = self._observe(e)
        origin, fdm, decoder = self.decoder.origin(e[:, 0]), None, None
        if e.shape[1] > 1 and not self.config.quirks.single_frame_rollout:
            z = self.act(seen.s) if z is None else z
            ds_hat, fdm = self.fdm(seen.s[:, :-1], z)
            _, decoder = self.decoder(seen.s[:, :-1] + ds_hat, seen.c_mem[:, :-1], origin)
        return in_own_memory(State(seen.s[:, -1], seen.c_mem[:, -1], origin, backbone, memory, fdm, decoder))

    def imagine(
        self, state: State, z: Float[Tensor, "B Dz"]
    ) -> tuple[State, Float[Tensor, "B H W Ds"], Float[Tensor, "B H W D"]]:
        """Predict the next frame's structure and features. The returned state is still at this frame: see `absorb`."""
        state = self.caught_up(state)
        s_hat, fdm = self.move(state.s, z, state.fdm)
        windows = None if self.config.quirks.single_frame_rollout else state.decoder
        e_hat, decoder = self.decoder(s_hat.unsqueeze(1), state.c_mem.unsqueeze(1), state.origin, windows)
        return state._replace(fdm=fdm, decoder=decoder), s_hat, e_hat.squeeze(1)

    def move(
        self, s: Float[Tensor, "B H W Ds"], z: Float[Tensor, "B Dz"], past: ForwardDynamicsCache | None
    ) -> tuple[Float[Tensor, "B H W Ds"], ForwardDynamicsCache]:
        """Predict only the next frame's structure (equation 2); also return the FDM's cache after this frame."""
        self.require_actions()
        cache = None if self.config.quirks.single_frame_rollout else past
        ds_hat, kept = self.fdm(s.unsqueeze(1), z.unsqueeze(1), cache)
        return s + ds_hat.squeeze(1), kept

    def absorb(self, state: State, e: Float[Tensor, "B H W D"], s: Float[Tensor, "B H W Ds"] | None = None) -> State:
        """Advance to the frame with features ``e``, whatever was predicted; structure is ``s``, inferred if None."""
        cache = None if self.config.quirks.single_frame_rollout else state.backbone
        h, backbone = self.backbone(e.unsqueeze(1), cache)
        c_mem, memory = self.memory(self.content(h), state.memory)
        s = self.structure(h).squeeze(1) if s is None else s
        return state._replace(s=s, c_mem=c_mem.squeeze(1), backbone=backbone, memory=memory, drawn=None)

    def step(self, state: State, z: Float[Tensor, "B Dz"]) -> tuple[State, Float[Tensor, "B H W D"]]:
        """Latent rollout (equation 5): only the FDM advances structure; the content memory reads predicted features."""
        state, s_hat, e_hat = self.imagine(state, z)
        return state._replace(s=s_hat, drawn=e_hat), e_hat

    def caught_up(self, state: State) -> State:
        """Return the state with any pending prediction absorbed, as the next step needs it; skip it after the last."""
        return state if state.drawn is None else self.absorb(state, state.drawn, state.s)

    def _observe(self, e: Features) -> tuple[Observation, BackboneCache, MemoryState]:
        h, backbone = self.backbone(e)
        c = self.content(h)
        c_mem, memory = self.memory(c)
        return Observation(self.structure(h), c, c_mem), backbone, memory


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def repeat_state(state: AnyState, copies: int) -> AnyState:
    """Repeat the state of B clips for ``B * copies`` candidate futures; candidates of one clip are adjacent."""
    return _map(state, lambda x: x.repeat_interleave(copies, dim=0))


def in_own_memory(state: AnyState) -> AnyState:
    """Copy tensors that are views of a clip, so that it can be freed; with gradients on, return the state as it is."""
    frozen = not torch.is_grad_enabled()
    return _map(state, lambda x: x.clone() if frozen and x.untyped_storage().nbytes() > x.nbytes else x)


def _map(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    if value is None or isinstance(value, torch.Tensor):
        return value if value is None else fn(value)
    if not isinstance(value, tuple | list):
        raise DilaError(f"a model state contains a {type(value).__name__}; use only tensors, None and tuples of them")
    parts = [_map(part, fn) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
