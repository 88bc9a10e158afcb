"""DiLA (paper section 3): frozen features split into structure and content, and fused again to predict.

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
    """Teacher-forced prediction of frames 1..K from the frames before each."""

    s: Structure
    c_mem: Content
    z: LatentActions
    ds_hat: Structure
    s_hat: Structure
    e_hat: Features


class State(NamedTuple):
    """State of the model at one frame: all that the next step needs. Every tensor has a leading batch dimension."""

    s: Float[Tensor, "B H W Ds"]
    c_mem: Float[Tensor, "B H W Dc"]
    origin: Origin
    backbone: BackboneCache | None
    memory: MemoryState
    fdm: ForwardDynamicsCache | None
    decoder: tuple[Tensor, ...] | None
    drawn: Float[Tensor, "B H W D"] | None = None  # what a `step` drew of this frame: see `DiLA.caught_up`


class DiLA(nn.Module):
    """The model: `observe`, `infer`, `predict` for whole clips; `start`, `imagine`, `absorb`, `step` for single frames.

    A rollout that absorbs the true frames equals the teacher-forced prediction, because every part that depends on
    the past carries it in `State`.
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
        """Compute structure, content and content memory of a clip; each frame depends only on its past."""
        return self._observe(e)[0]

    def read(self, e: Features) -> Structure:
        """Compute only the structure of a clip, as in `observe`, whose content and memory take a third of the time."""
        return self.structure(self.backbone(e)[0])

    def infer(self, e: Features) -> LatentActions:
        """Infer latent actions between consecutive frames. Raises DilaError for a model without latent actions."""
        self.require_actions()
        return self.act(self.read(e))

    def act(self, s: Structure) -> LatentActions:
        """Infer latent actions from a clip's structure (equation 1)."""
        return self.bottleneck(self.idm(s[:, 1:] - s[:, :-1])).z

    def require_actions(self) -> None:
        """Raises DilaError for a model without latent actions."""
        if not self.acts:
            raise DilaError("this model was trained without latent actions, so it has none to give or follow")

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
        """Encode real actions. Raises DilaError if the model has no ``real_action_dim``, or a different one."""
        z = encoded(self.action_encoder, a)
        # The encoder gives a Gaussian's z itself, as there is nothing to snap to.
        return z if isinstance(self.config.bottleneck, Gaussian) else self.bottleneck(z).z

    # Frame by frame

    def start(self, e: Features, z: LatentActions | None = None) -> State:
        """Read context frames; ``z`` are their actions if known, otherwise they are inferred from the context."""
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
        """Predict only the next frame's structure (equation 2); also returns what the FDM keeps of this frame."""
        self.require_actions()
        cache = None if self.config.quirks.single_frame_rollout else past
        ds_hat, kept = self.fdm(s.unsqueeze(1), z.unsqueeze(1), cache)
        return s + ds_hat.squeeze(1), kept

    def absorb(self, state: State, e: Float[Tensor, "B H W D"], s: Float[Tensor, "B H W Ds"] | None = None) -> State:
        """Advance to the frame with these features, whatever was predicted; structure is ``s``, or read from them."""
        cache = None if self.config.quirks.single_frame_rollout else state.backbone
        h, backbone = self.backbone(e.unsqueeze(1), cache)
        c_mem, memory = self.memory(self.content(h), state.memory)
        s = self.structure(h).squeeze(1) if s is None else s
        return state._replace(s=s, c_mem=c_mem.squeeze(1), backbone=backbone, memory=memory, drawn=None)

    def step(self, state: State, z: Float[Tensor, "B Dz"]) -> tuple[State, Float[Tensor, "B H W D"]]:
        """Latent rollout (equation 5): only the FDM changes structure; the content memory reads predicted features."""
        state, s_hat, e_hat = self.imagine(state, z)
        return state._replace(s=s_hat, drawn=e_hat), e_hat

    def caught_up(self, state: State) -> State:
        """The state after reading the predicted features, as the next step needs it; not needed after the last step."""
        return state if state.drawn is None else self.absorb(state, state.drawn, state.s)

    def _observe(self, e: Features) -> tuple[Observation, BackboneCache, MemoryState]:
        h, backbone = self.backbone(e)
        c = self.content(h)
        c_mem, memory = self.memory(c)
        return Observation(self.structure(h), c, c_mem), backbone, memory


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def repeat_state(state: AnyState, copies: int) -> AnyState:
    """The state of B clips for ``B * copies`` candidate futures, candidates of one clip side by side."""
    return _map(state, lambda x: x.repeat_interleave(copies, dim=0))


def in_own_memory(state: AnyState) -> AnyState:
    """The state without the clip: views of a few frames would keep all of them. Where gradients are on, as it is."""
    frozen = not torch.is_grad_enabled()
    return _map(state, lambda x: x.clone() if frozen and x.untyped_storage().nbytes() > x.nbytes else x)


def _map(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    if value is None or isinstance(value, torch.Tensor):
        return value if value is None else fn(value)
    if not isinstance(value, tuple | list):
        raise DilaError(f"a state holds a {type(value).__name__}; make it of tensors and None, in tuples")
    parts = [_map(part, fn) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
