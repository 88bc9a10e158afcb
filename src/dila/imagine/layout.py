"""Rollouts of structure alone, for comparing plans without drawing frames.

Structure advances by the FDM and never depends on predicted features (paper equation 5), so its rollout needs neither
content memory nor fusion decoder nor backbone: a fifteenth of the parameters, and the same structure up to rounding.
"""

from typing import NamedTuple

from dila.model.backbone import BackboneCache
from dila.model.dila import DiLA, in_own_memory
from dila.model.forward_dynamics import ForwardDynamicsCache
from dila.shapes import Features, Float, LatentActions, Structure, Tensor


class LayoutState(NamedTuple):
    """Structure of one frame, and the FDM's cache of those before it. Every tensor has a leading batch dimension."""

    s: Float[Tensor, "B H W Ds"]
    fdm: ForwardDynamicsCache | None


class Layout:
    """A DiLA as a `LatentActionModel` that predicts structure, ``B H W Ds``, instead of features.

    ``rollout(Layout(model), context, z)`` is the structure of the K frames after the context.
    """

    def __init__(self, model: DiLA):
        model.require_actions()
        self.model, self.config = model, model.config

    def read(self, e: Features, past: BackboneCache | None = None) -> Structure:
        """Return the structure of a clip, or of frames that continue those in ``past``."""
        return self.model.structure(self.model.backbone(e, past)[0])

    def infer(self, e: Features) -> LatentActions:
        """Return the latent actions between consecutive frames."""
        return self.model.act(self.read(e))

    def start(self, e: Features, z: LatentActions | None = None) -> LayoutState:
        """Return the state after context frames ``e``; ``z`` are their actions, inferred if None."""
        s, fdm = self.read(e), None
        if e.shape[1] > 1 and not self.config.quirks.single_frame_rollout:
            z = self.model.act(s) if z is None else z
            _, fdm = self.model.fdm(s[:, :-1], z)
        return in_own_memory(LayoutState(s[:, -1], fdm))

    def step(self, state: LayoutState, z: Float[Tensor, "B Dz"]) -> tuple[LayoutState, Float[Tensor, "B H W Ds"]]:
        """Predict the next frame's structure."""
        s_hat, fdm = self.model.move(state.s, z, state.fdm)
        return LayoutState(s_hat, fdm), s_hat
