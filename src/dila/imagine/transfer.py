"""Action transfer: do in one scene what was done in another (paper figures 3 and 8, and the cycle of table 2).

The actions of the source are rolled out on the target's first frames alone, one imagined frame after another. The
released code's function of this name is teacher-forced: it reads structure and content memory of every true frame of
the target, and so shows the target's own future; its pictures do not compare with these.
"""

from typing import NamedTuple

import torch

from dila.imagine.rollout import rollout
from dila.imagine.windows import infer_long
from dila.protocols import LatentActionModel
from dila.shapes import Features, Float, LatentActions, Tensor


class Transfer(NamedTuple):
    """The source's actions, and the K frames that they lead to in the target's scene, after its context."""

    z: LatentActions
    e: Features


class Cycle(NamedTuple):
    """A's actions in B's scene, read there again and brought back to A's: ``back`` is compared with ``e_a[:, 1:]``."""

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
    """Roll the actions of ``source`` out on the first ``context`` frames of ``target``.

    Args:
        model: anything with the verbs of `LatentActionModel`.
        source: the clip whose actions are taken, ``B T H W D``.
        target: the clip whose scene is taken, ``B T2 H W D``; frames after the context are not looked at.
        context: frames of the target that the model sees.
        frames: window length by which a long source is read; its own length when None.
    """
    z = infer_long(model, source, frames or source.shape[1])
    return Transfer(z, rollout(model, target[:, :context], z))


def cycle(
    model: LatentActionModel, e_a: Features, e_b: Float[Tensor, "B T2 H W D"], frames: int | None = None
) -> Cycle:
    """Transfer A's actions to B's first frame, infer them from what was imagined, and transfer them back."""
    z, there = transfer(model, e_a, e_b, frames=frames)
    imagined = torch.cat([e_b[:, :1], there], dim=1)
    z_again, back = transfer(model, imagined, e_a, frames=frames)
    return Cycle(z, there, z_again, back)
