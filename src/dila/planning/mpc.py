"""The receding horizon: look, plan, do the first action, look again, in several environments at once."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from dila.errors import DilaError
from dila.planning.cost import FrameCost
from dila.planning.dynamics import Dynamics, Imagination, Now
from dila.planning.environment import Environment, as_tensor
from dila.planning.planner import Limits, Plan, Planner
from dila.shapes import Float, Tensor, UInt8

CostMaker = Callable[[UInt8[Tensor, "B 3 Y X"]], FrameCost]
"""From the pictures of the goals to the cost."""


@dataclass(frozen=True)
class Loop:
    """How the loop goes.

    Args:
        steps: actions of an episode; VP2 makes 14 plans.
        horizon: actions ahead that a plan looks.
        context: frames that a plan begins from; fewer at the first.
        seconds: for each plan; without, the planner's own number of iterations.
    """

    steps: int = 15
    horizon: int = 10
    context: int = 2
    seconds: float | None = None

    def __post_init__(self):
        if min(self.steps, self.horizon, self.context) < 1:
            raise DilaError(f"steps = {self.steps}, horizon = {self.horizon} and context = {self.context} start at 1")


class Episode(NamedTuple):
    """What came of one environment: T + 1 frames, T actions."""

    frames: UInt8[Tensor, "T1 3 Y X"]
    goal: UInt8[Tensor, "3 Y X"]
    scores: list[float]
    """At every frame, the start included."""
    costs: list[float]
    """Of every plan, the least among its candidates; empty where the planner asked for none."""
    actions: Float[Tensor, "T Da"]
    imagined: Float[Tensor, "T K H W D"] | None
    """Features of the frames that each plan expects."""
    seconds: list[float]
    """That each plan took, looking included, in all environments planned at once."""


def control(
    environments: Sequence[Environment],
    seeds: Sequence[int],
    planner: Planner,
    dynamics: Dynamics,
    cost: CostMaker,
    limits: Limits,
    loop: Loop,
    *,
    show: Imagination | None = None,
) -> list[Episode]:
    """One episode in each environment.

    Args:
        environments: B of them, of one kind.
        seeds: of each environment's start and goal; the first is the seed of the planner as well.
        planner: the search.
        dynamics: where candidates are tried.
        cost: made once from the goals.
        limits: of actions.
        loop: how long and how far.
        show: keep what each plan looks like in this imagination.

    Raises:
        DilaError: not one seed for each environment, or an environment that shows something else than pictures.
    """
    if len(seeds) != len(environments) or not seeds:
        raise DilaError(f"{len(seeds)} seeds for {len(environments)} environments; give one for each")
    generator = torch.Generator().manual_seed(seeds[0])
    begun = [environment.reset(seed=seed) for environment, seed in zip(environments, seeds, strict=True)]
    frames = [[as_tensor(picture)] for picture, _ in begun]
    goals = torch.stack([as_tensor(info["goal"]) for _, info in begun])
    scores = [[float(info["score"])] for _, info in begun]
    judge = cost(goals)
    plans: list[Plan] = []
    looks: list[Tensor] = []
    seconds: list[float] = []
    for _ in range(loop.steps):
        now = Now(torch.stack([torch.stack(seen[-loop.context :]) for seen in frames]), environments)
        began = time.perf_counter()
        plan = planner.plan(
            dynamics.costs(now, judge), loop.horizon, limits, generator=generator, batch=len(environments),
            warm=plans[-1] if plans else None, seconds=loop.seconds,
        )  # fmt: skip
        seconds.append(time.perf_counter() - began)
        if show is not None:
            looks.append(show.imagine(now, plan.actions).cpu())
        plans.append(plan)
        for b, environment in enumerate(environments):
            picture, _, _, _, info = environment.step(plan.actions[b, 0].numpy().copy())
            frames[b].append(as_tensor(picture))
            scores[b].append(float(info["score"]))
    return [_episode(b, frames[b], goals[b], scores[b], plans, looks, seconds) for b in range(len(environments))]


def _episode(
    b: int,
    frames: list[Tensor],
    goal: Tensor,
    scores: list[float],
    plans: list[Plan],
    looks: list[Any],
    seconds: list[float],
) -> Episode:
    costs = [float(plan.costs[:, b].min()) for plan in plans if len(plan.costs)]
    actions = torch.stack([plan.actions[b, 0] for plan in plans])
    imagined = torch.stack([look[b] for look in looks]) if looks else None
    return Episode(torch.stack(frames), goal, scores, costs, actions, imagined, seconds)
