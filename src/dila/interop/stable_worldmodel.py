"""An adapted model as stable-worldmodel takes it, by duck typing (https://github.com/galilai-group/stable-worldmodel).

Its solvers call ``get_cost(info_dict, action_candidates)``; newer versions call ``encode``, ``rollout`` and then the
objective. We read ``pixels`` and ``goal`` from ``info_dict``: ``B S H C Y X``, or without S (candidates share them,
so only the first is read), uint8 or float in [0, 1]. Candidates are ``B S T A``, where A counts all raw actions between
two frames of the model (``action_block`` = `ActionSpace.repeats`). Past actions, ``action`` and ``action_history``, are
not needed: the model infers them from the frames.
"""

from typing import Any, Literal

import torch

from dila.errors import DilaError
from dila.imagine.rollout import steps
from dila.interop.actions import ActionSpace
from dila.model.dila import repeat_state
from dila.planning.cost import Features, FrameCost, Structure, total
from dila.planning.dynamics import Imagination, Now
from dila.shapes import Float, Tensor, UInt8


class CostModel:
    """Cost model for the solvers.

    Args:
        imagination: planning interface of an adapted model, see `cost_model`.
        space: compare structure, without drawing frames, or frozen features.
        scale: mean and standard deviation by which candidates are standardised; None if they are in their own units.
    """

    def __init__(
        self,
        imagination: Imagination,
        space: Literal["structure", "features"] = "structure",
        scale: tuple[Tensor, Tensor] | None = None,
    ):
        self.imagination, self.space, self.scale = imagination, space, scale

    def get_cost(self, info_dict: dict[str, Any], action_candidates: Float[Tensor, "B S T A"]) -> Float[Tensor, "B S"]:
        """Return the cost of each candidate: mean squared distances of predicted frames to the goal; lower is better.

        They are reduced over time as the imagination's `over` says.

        Raises:
            DilaError: pictures or candidates of the wrong shape.
        """
        now = Now(_pictures(info_dict, "pixels"), ())
        goal = self._goal(info_dict)
        cost: FrameCost = Structure(goal) if self.space == "structure" else Features(goal)
        return self.imagination.costs(now, cost)(self._raw(action_candidates, len(goal)))

    def encode(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return ``info`` with ``emb`` added, and ``goal_emb`` if there is a goal: ``B T H W C``."""
        return self._encoded(info, self.imagination.see(_pictures(info, "pixels")))

    def rollout(self, info: dict[str, Any], action_candidates: Float[Tensor, "B S T A"]) -> dict[str, Any]:
        """Return `encode` with ``predicted_emb`` added: the context and the predicted frames, ``B S H+T H W C``.

        Differentiable if the candidates require gradients.
        """
        e = self.imagination.see(_pictures(info, "pixels"))
        made, a = self._encoded(info, e), self._raw(action_candidates, len(e))
        world = self.imagination.world
        model: Any = self.imagination.layout() if self.space == "structure" else world.model
        with world.running():
            state = model.start(e)
        with world.running(), torch.set_grad_enabled(action_candidates.requires_grad):
            future = torch.cat([self._future(model, state, part) for part in self.imagination.in_turn(a, e)], dim=1)
        context = made["emb"][:, None].expand(-1, future.shape[1], *made["emb"].shape[1:])
        return made | {"predicted_emb": torch.cat([context, future], dim=2)}

    def criterion(self, info: dict[str, Any]) -> Float[Tensor, "B S"]:
        """Return the objective: `get_cost` of the output of `rollout`."""
        context = info["emb"].shape[1]
        future, goal = info["predicted_emb"][:, :, context:], info["goal_emb"][:, None]
        return total((future - goal).square().flatten(3).mean(3).unbind(2), self.imagination.over)

    __call__ = criterion

    def _encoded(self, info: dict[str, Any], e: Float[Tensor, "B T H W D"]) -> dict[str, Any]:
        made = {**info, "emb": self._embed(e)}
        return made | ({"goal_emb": self._goal(info)} if "goal" in info else {})

    def _goal(self, info: dict[str, Any]) -> Float[Tensor, "B 1 H W C"]:
        return self._embed(self.imagination.see(_pictures(info, "goal")[:, -1:]))

    def _embed(self, e: Float[Tensor, "B T H W D"]) -> Float[Tensor, "B T H W C"]:
        with self.imagination.world.running():
            return (self.imagination.layout().read(e) if self.space == "structure" else e).float()

    def _future(self, model: Any, state: Any, a: Float[Tensor, "B S T A"]) -> Float[Tensor, "B S T H W C"]:
        z = self.imagination.to_latent(a.flatten(0, 1))
        made = [made for _, made in steps(model, repeat_state(state, a.shape[1]), z)]
        return torch.stack(made, dim=1).float().unflatten(0, a.shape[:2])

    def _raw(self, candidates: Tensor, batch: int) -> Tensor:
        model: Any = self.imagination.world.model
        width: int = model.config.real_action_dim or candidates.shape[-1]
        if candidates.ndim != 4 or len(candidates) != batch or candidates.shape[-1] != width:
            raise DilaError(
                f"candidates should be B S T A with B = {batch} and A = {width}, not {list(candidates.shape)}; set "
                "action_block to the number of raw actions per transition"
            )
        if self.scale is None:
            return candidates.float()
        mean, std = (part.to(candidates.device).repeat(width // len(part)) for part in self.scale)
        return candidates.float() * std + mean


def cost_model(
    imagination: Imagination,
    actions: ActionSpace,
    space: Literal["structure", "features"] = "structure",
    *,
    standardised: bool = False,
) -> CostModel:
    """Return the cost model for stable-worldmodel.

    Args:
        imagination: planning interface of an adapted model.
        actions: real actions of the adapted model.
        space: what is compared with the goal.
        standardised: whether candidates are standardised by the data's statistics, as in its own datasets.
    """
    scale = (torch.tensor(actions.mean), torch.tensor(actions.std)) if standardised else None
    return CostModel(imagination, space, scale)


def _pictures(info: dict[str, Any], name: str) -> UInt8[Tensor, "B T 3 Y X"]:
    """Return the pictures without the candidate dimension, along which they are equal."""
    if name not in info:
        raise DilaError(f"info_dict has no key {name!r}; its keys are {', '.join(info)}")
    pictures = torch.as_tensor(info[name])
    if pictures.ndim == 6:
        pictures = pictures[:, 0]
    if pictures.ndim == 4:
        pictures = pictures[:, None]
    if pictures.ndim != 5 or pictures.shape[2] != 3:
        raise DilaError(f"info_dict: {name} should be B S H 3 Y X or B H 3 Y X, not {list(pictures.shape)}")
    if pictures.dtype == torch.uint8:
        return pictures
    if not 0 <= float(pictures.min()) <= float(pictures.max()) <= 1:
        raise DilaError(f"info_dict: float {name} should be in 0..1; remove the normalisation of pictures")
    return (pictures * 255).round().byte()
