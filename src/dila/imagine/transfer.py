"""Action transfer: apply the actions of one clip in the scene of another (paper figures 3 and 8, cycle of table 2).

The source's actions are rolled out autoregressively from the target's first frames alone. The function of the same name
in the released code is teacher-forced: it reads structure and content memory of every true frame of the target, and so
shows the target's own future. Its pictures are not comparable with these.
"""

from typing import NamedTuple

import torch

from dila.imagine.rollout import rollout
from dila.imagine.windows import infer_long
from dila.protocols import LatentActionModel
from dila.shapes import Features, Float, LatentActions, Tensor


class Transfer(NamedTuple):
    """The source's actions, and the K frames predicted for them in the target's scene, after its context."""

    z: LatentActions
    e: Features


class Cycle(NamedTuple):
    """A's actions in B's scene, inferred again, and replayed in A's: ``back`` is compared with ``e_a[:, 1:]``."""

    z: LatentActions
    there: Features
    z_again: LatentActions
    back: Features


def transfer(
    model: LatentActionModel,
    source: Features,
    target: Float[Tensor, "B T2 H W D"],
    context: int = 1,
    frames: int | None = None,
) -> Transfer:
    """Roll out the actions of ``source`` from the first ``context`` frames of ``target``.

    Args:
        model: any `LatentActionModel`.
        source: features of the clip that gives the actions, ``B T H W D``.
        target: features of the clip that gives the scene, ``B T2 H W D``; frames after the context are not used.
        context: number of target frames that the model sees.
        frames: window length for a long source; None uses the source's own length.
    """
    z = infer_long(model, source, frames or source.shape[1])
    return Transfer(z, rollout(model, target[:, :context], z))


def cycle(
    model: LatentActionModel, e_a: Features, e_b: Float[Tensor, "B T2 H W D"], frames: int | None = None
) -> Cycle:
    """Transfer A's actions to B's first frame, infer them from the predicted frames, and transfer them back."""
    z, there = transfer(model, e_a, e_b, frames=frames)
    imagined = torch.cat([e_b[:, :1], there], dim=1)
    z_again, back = transfer(model, imagined, e_a, frames=frames)
    return Cycle(z, there, z_again, back)
