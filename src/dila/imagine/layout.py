"""Futures of the structure alone: what plans are compared by when nothing has to be drawn.

Structure moves by the FDM and never reads what was drawn (paper equation 5), so its rollout needs neither content
memory nor fusion decoder nor backbone: a fifteenth of the parameters, and the same structure to the bit of rounding.
"""

from typing import NamedTuple

from dila.model.backbone import BackboneCache
from dila.model.dila import DiLA, in_own_memory
from dila.model.forward_dynamics import ForwardDynamicsCache
from dila.shapes import Features, Float, LatentActions, Structure, Tensor


class LayoutState(NamedTuple):
    """Structure of one frame, and what the FDM keeps of those before it. Every tensor is led by the batch."""

    s: Float[Tensor, "B H W Ds"]
    fdm: ForwardDynamicsCache | None


class Layout:
    """A DiLA as a `LatentActionModel` whose predictions are structure, ``B H W Ds``, in place of features.

    ``rollout(Layout(model), context, z)`` is the structure of the K frames after the context.
    """

    def __init__(self, model: DiLA):
        model.require_actions()
        self.model, self.config = model, model.config

    def read(self, e: Features, past: BackboneCache | None = None) -> Structure:
        """Structure of a clip, or of frames that go on from those in ``past``."""
        return self.model.structure(self.model.backbone(e, past)[0])

    def infer(self, e: Features) -> LatentActions:
        """Latent actions between consecutive frames."""
        return self.model.act(self.read(e))

    def start(self, e: Features, z: LatentActions | None = None) -> LayoutState:
        """Read context frames; ``z`` are their actions where known, else they are inferred from the context."""
        s, fdm = self.read(e), None
        if e.shape[1] > 1 and not self.config.quirks.single_frame_rollout:
            z = self.model.act(s) if z is None else z
            _, fdm = self.model.fdm(s[:, :-1], z)
        return in_own_memory(LayoutState(s[:, -1], fdm))

    def step(self, state: LayoutState, z: Float[Tensor, "B Dz"]) -> tuple[LayoutState, Float[Tensor, "B H W Ds"]]:
        """The next frame's structure."""
        s_hat, fdm = self.model.move(state.s, z, state.fdm)
        return LayoutState(s_hat, fdm), s_hat
