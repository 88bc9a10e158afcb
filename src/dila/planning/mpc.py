"""Model-predictive control: observe, plan, execute the first actions, and repeat, in several environments at once."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, NamedTuple

import torch

from dila.errors import DilaError
from dila.planning.cost import FrameCost, Later
from dila.planning.dynamics import Dynamics, Imagination, Now
from dila.planning.environment import Environment, as_tensor
from dila.planning.planner import Limits, Plan, Planner
from dila.shapes import Float, Tensor, UInt8

CostMaker = Callable[[UInt8[Tensor, "B 3 Y X"]], FrameCost]
"""Function from pictures of the goals to the cost."""


@dataclass(frozen=True)
class Loop:
    """Settings of the control loop.

    Args:
        steps: actions per episode; VP2 makes 14 plans.
        horizon: planning horizon, in actions.
        context: number of frames that a plan starts from; fewer at the start of an episode.
        seconds: time limit per plan; None uses the planner's number of iterations.
        execute: actions of a plan that are executed before the next plan.

    Raises:
        DilaError: a number is below 1, or ``execute`` exceeds the horizon.
    """

    steps: int = 15
    horizon: int = 10
    context: int = 2
    seconds: float | None = None
    execute: int = 1

    def __post_init__(self):
        if min(self.steps, self.horizon, self.context) < 1:
            raise DilaError(
                f"steps = {self.steps}, horizon = {self.horizon} and context = {self.context} must be at least 1"
            )
        if not 1 <= self.execute <= self.horizon:
            raise DilaError(
                f"execute = {self.execute} must be from 1 to horizon = {self.horizon}, the length of a plan"
            )


class Episode(NamedTuple):
    """Record of one episode: T + 1 frames and T actions, fewer than `Loop.steps` if the environment ended it."""

    frames: UInt8[Tensor, "T1 3 Y X"]
    goal: UInt8[Tensor, "3 Y X"]
    scores: list[float]
    """Score at every frame, including the first; empty if the environment returns none."""
    costs: list[float]
    """Lowest cost among the candidates of each plan; empty if the planner evaluates none."""
    actions: Float[Tensor, "T Da"]
    imagined: Float[Tensor, "T K H W D"] | None
    """Predicted features of the frames from each action to the end of its plan; the last frame is repeated for actions
    after the first of a plan."""
    seconds: list[float]
    """Duration of each plan, including encoding, for all environments that were planned at once."""


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
    """Run one episode in each environment, until `Loop.steps` or the environment ends it.

    An episode does not depend on those that run beside it.

    Args:
        environments: B environments of the same kind.
        seeds: seed of each environment's start and goal, and of the random numbers of its plans.
        planner: the planner.
        dynamics: model or simulator that evaluates candidates.
        cost: makes the cost from the goals of the environments; called again when an environment has ended. Goals that
            are clips advance with the episode.
        limits: action limits.
        loop: settings of the loop.
        show: model with which to record the predicted features of each plan.

    Raises:
        DilaError: the numbers of seeds and environments differ, or an environment returns no valid picture, no goal, or
            a score in only some of its calls or one that is not a finite number.
    """
    if len(seeds) != len(environments) or not seeds:
        raise DilaError(f"there are {len(seeds)} seeds for {len(environments)} environments; give one for each")
    runs = [_Run(environment, seed) for environment, seed in zip(environments, seeds, strict=True)]
    going, judge, warm = runs, cost(torch.stack([run.goal for run in runs])), None
    for step in range(0, loop.steps, loop.execute):
        frames = torch.stack([torch.stack(run.frames[-loop.context :]) for run in going])
        now = Now(frames, [run.environment for run in going])
        began = time.perf_counter()
        plan = planner.plan(
            dynamics.costs(now, Later(judge, step)), loop.horizon, limits, generator=[run.generator for run in going],
            batch=len(going), warm=warm, seconds=loop.seconds,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        looks = None if show is None else show.imagine(now, plan.actions).cpu()
        for b, run in enumerate(going):
            run.seconds.append(seconds)
            run.follow(plan.of([b]), None if looks is None else looks[b], min(loop.execute, loop.steps - step))
        left = [b for b, run in enumerate(going) if not run.over]
        if not left:
            break
        if len(left) < len(going):
            going, plan = [going[b] for b in left], plan.of(left)
            judge = cost(torch.stack([run.goal for run in going]))
        warm = plan.later(loop.execute - 1)
    return [run.episode() for run in runs]


class _Run:
    """A running episode."""

    def __init__(self, environment: Environment, seed: int):
        self.environment, self.name = environment, type(environment).__name__
        self.generator = torch.Generator().manual_seed(seed)
        picture, info = environment.reset(seed=seed)
        if "goal" not in info:
            raise DilaError(
                f"reset of {self.name} returned no goal; add its picture as 'goal' to the returned info dict"
            )
        self.goal, self.frames = as_tensor(info["goal"]), [as_tensor(picture)]
        self.scores = [self._score(info, "reset")] if "score" in info else []
        self.costs: list[float] = []
        self.seconds: list[float] = []
        self.actions: list[Tensor] = []
        self.looks: list[Tensor] = []
        self.over = False

    def follow(self, plan: Plan, look: Float[Tensor, "K H W D"] | None, count: int) -> None:
        """Execute ``count`` actions of a plan, fewer if the environment ends."""
        if len(plan.costs):
            self.costs.append(float(plan.costs.min()))
        for i, action in enumerate(plan.actions[0, :count]):
            self._step(action)
            if look is not None:
                self.looks.append(look[torch.arange(i, i + len(look)).clamp_max(len(look) - 1)])
            if self.over:
                return

    def _step(self, action: Float[Tensor, " Da"]) -> None:
        picture, _, terminated, truncated, info = self.environment.step(action.numpy().copy())
        if ("score" in info) != bool(self.scores):
            raise DilaError(
                f"{self.name} returned a score in only one of reset and step; return it in both, or in neither"
            )
        self.actions.append(action)
        self.frames.append(as_tensor(picture))
        self.scores += [self._score(info, f"step {len(self.actions)}")] if self.scores else []
        self.over = bool(terminated or truncated)

    def _score(self, info: Mapping[str, Any], where: str) -> float:
        try:
            score = float(info["score"])
        except (TypeError, ValueError):
            score = nan
        if not isfinite(score):
            raise DilaError(
                f"{where} of {self.name} returned the score {info['score']!r}; return the distance to the goal as a "
                "finite number"
            )
        return score

    def episode(self) -> Episode:
        looks = torch.stack(self.looks) if self.looks else None
        actions = torch.stack(self.actions)
        return Episode(torch.stack(self.frames), self.goal, self.scores, self.costs, actions, looks, self.seconds)
