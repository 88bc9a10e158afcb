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
    """A clip as the model sees it."""

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
    """The model at one frame: all it needs to go on. Every tensor is led by the batch."""

    s: Float[Tensor, "B H W Ds"]
    c_mem: Float[Tensor, "B H W Dc"]
    origin: Origin
    backbone: BackboneCache | None
    memory: MemoryState
    fdm: ForwardDynamicsCache | None
    decoder: tuple[Tensor, ...] | None
    drawn: Float[Tensor, "B H W D"] | None = None  # what a `step` drew of this frame: see `DiLA.caught_up`


class DiLA(nn.Module):
    """The model's verbs: `observe`, `infer`, `predict` over whole clips; `start`, `imagine`, `absorb`, `step` by frame.

    Rolling out with true frames absorbed equals the teacher-forced prediction, because every part that looks back in
    time carries its past in `State`.
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
        """Structure, content and content memory of a clip, each frame knowing only its past."""
        return self._observe(e)[0]

    def read(self, e: Features) -> Structure:
        """Structure of a clip alone, as `observe` has it: content and its memory take a third of that."""
        return self.structure(self.backbone(e)[0])

    def infer(self, e: Features) -> LatentActions:
        """Latent actions between consecutive frames. Raises DilaError for a model without any."""
        self.require_actions()
        return self.act(self.read(e))

    def act(self, s: Structure) -> LatentActions:
        """Latent actions of a clip's structure (equation 1)."""
        return self.bottleneck(self.idm(s[:, 1:] - s[:, :-1])).z

    def require_actions(self) -> None:
        """Raises DilaError for a model without latent actions."""
        if not self.acts:
            raise DilaError("this model was trained without latent actions, so it has none to give or follow")

    def forward(self, e: Features) -> Prediction:
        """Infer the actions of a clip and predict each frame from the true ones before it (equations 1 to 4)."""
        return self.predict(self.observe(e), e)

    def predict(self, seen: Observation, e: Features, z: LatentActions | None = None) -> Prediction:
        """Predict frames 1..K of an observed clip under ``z``, by default the clip's own actions."""
        z = self.act(seen.s) if z is None else z
        ds_hat, _ = self.fdm(seen.s[:, :-1], z)
        s_hat = seen.s[:, :-1] + ds_hat
        e_hat, _ = self.decoder(s_hat, seen.c_mem[:, :-1], self.decoder.origin(e[:, 0]))
        return Prediction(seen.s, seen.c_mem, z, ds_hat, s_hat, e_hat)

    def encode_actions(self, a: Actions) -> LatentActions:
        """Latent actions of real ones. Raises DilaError for a model without ``real_action_dim``, or with another."""
        z = encoded(self.action_encoder, a)
        # The encoder gives a Gaussian's z itself, as there is nothing to snap to.
        return z if isinstance(self.config.bottleneck, Gaussian) else self.bottleneck(z).z

    # Frame by frame

    def start(self, e: Features, z: LatentActions | None = None) -> State:
        """Read context frames; ``z`` are their actions where known, else they are inferred from the context."""
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
        """The next frame's structure and features. The state returned is still at this frame: see `absorb`."""
        state = self.caught_up(state)
        s_hat, fdm = self.move(state.s, z, state.fdm)
        windows = None if self.config.quirks.single_frame_rollout else state.decoder
        e_hat, decoder = self.decoder(s_hat.unsqueeze(1), state.c_mem.unsqueeze(1), state.origin, windows)
        return state._replace(fdm=fdm, decoder=decoder), s_hat, e_hat.squeeze(1)

    def move(
        self, s: Float[Tensor, "B H W Ds"], z: Float[Tensor, "B Dz"], past: ForwardDynamicsCache | None
    ) -> tuple[Float[Tensor, "B H W Ds"], ForwardDynamicsCache]:
        """The next frame's structure alone (equation 2), and what the FDM keeps of this one."""
        self.require_actions()
        cache = None if self.config.quirks.single_frame_rollout else past
        ds_hat, kept = self.fdm(s.unsqueeze(1), z.unsqueeze(1), cache)
        return s + ds_hat.squeeze(1), kept

    def absorb(self, state: State, e: Float[Tensor, "B H W D"], s: Float[Tensor, "B H W Ds"] | None = None) -> State:
        """Move to the frame with these features, whatever was drawn there; its structure is ``s``, or read off them."""
        cache = None if self.config.quirks.single_frame_rollout else state.backbone
        h, backbone = self.backbone(e.unsqueeze(1), cache)
        c_mem, memory = self.memory(self.content(h), state.memory)
        s = self.structure(h).squeeze(1) if s is None else s
        return state._replace(s=s, c_mem=c_mem.squeeze(1), backbone=backbone, memory=memory, drawn=None)

    def step(self, state: State, z: Float[Tensor, "B Dz"]) -> tuple[State, Float[Tensor, "B H W D"]]:
        """Latent rollout (equation 5): structure moves by the FDM alone, content remembers what was drawn."""
        state, s_hat, e_hat = self.imagine(state, z)
        return state._replace(s=s_hat, drawn=e_hat), e_hat

    def caught_up(self, state: State) -> State:
        """The state that has read what was drawn: as the next step needs it, and nobody after a rollout's last."""
        return state if state.drawn is None else self.absorb(state, state.drawn, state.s)

    def _observe(self, e: Features) -> tuple[Observation, BackboneCache, MemoryState]:
        h, backbone = self.backbone(e)
        c = self.content(h)
        c_mem, memory = self.memory(c)
        return Observation(self.structure(h), c, c_mem), backbone, memory


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def repeat_state(state: AnyState, copies: int) -> AnyState:
    """The state of B clips for ``B * copies`` candidate futures, candidates of one clip side by side."""
    return _map(state, lambda x: x.repeat_interleave(copies, dim=0))


def in_own_memory(state: AnyState) -> AnyState:
    """The state without the clip: views of a few frames would keep all of them. Where gradients are on, as it is."""
    frozen = not torch.is_grad_enabled()
    return _map(state, lambda x: x.clone() if frozen and x.untyped_storage().nbytes() > x.nbytes else x)


def _map(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return fn(value)
    if value is None:
        return None
    parts = [_map(part, fn) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
