"""The receding horizon: look, plan, do the first actions, look again, in several environments at once."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from dila.errors import DilaError
from dila.planning.cost import FrameCost, Later
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
        execute: actions of a plan that are done before the next is made.

    Raises:
        DilaError: none of something, or more actions to do than are planned.
    """

    steps: int = 15
    horizon: int = 10
    context: int = 2
    seconds: float | None = None
    execute: int = 1

    def __post_init__(self):
        if min(self.steps, self.horizon, self.context) < 1:
            raise DilaError(f"steps = {self.steps}, horizon = {self.horizon} and context = {self.context} start at 1")
        if not 1 <= self.execute <= self.horizon:
            raise DilaError(f"execute = {self.execute} should be from 1 to horizon = {self.horizon}, all of a plan")


class Episode(NamedTuple):
    """What came of one environment: T + 1 frames, T actions; fewer than asked for where it ended by itself."""

    frames: UInt8[Tensor, "T1 3 Y X"]
    goal: UInt8[Tensor, "3 Y X"]
    scores: list[float]
    """At every frame, the start included; empty where the environment tells none."""
    costs: list[float]
    """Of every plan, the least among its candidates; empty where the planner asked for none."""
    actions: Float[Tensor, "T Da"]
    imagined: Float[Tensor, "T K H W D"] | None
    """Features of the frames that the plan expects at each action, from that action's on; the last is repeated where
    some of the plan are done."""
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
    """One episode in each environment, the same alone and beside others; it ends early where its environment says so.

    Args:
        environments: B of them, of one kind.
        seeds: of each environment's start and goal, and of what its plans try.
        planner: the search.
        dynamics: where candidates are tried.
        cost: made from the goals of the environments, and again of the others when one has ended; goals that are clips
            move on with the episode.
        limits: of actions.
        loop: how long and how far.
        show: keep what each plan looks like in this imagination.

    Raises:
        DilaError: not one seed for each environment, one that shows something else than pictures, has no goal, or tells
            its score at times only.
    """
    if len(seeds) != len(environments) or not seeds:
        raise DilaError(f"{len(seeds)} seeds for {len(environments)} environments; give one for each")
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
    """An episode while it lasts."""

    def __init__(self, environment: Environment, seed: int):
        self.environment, self.name = environment, type(environment).__name__
        self.generator = torch.Generator().manual_seed(seed)
        picture, info = environment.reset(seed=seed)
        if "goal" not in info:
            raise DilaError(f"reset of {self.name} told no goal; give its picture as goal in the info that it returns")
        self.goal, self.frames = as_tensor(info["goal"]), [as_tensor(picture)]
        self.scores = [float(info["score"])] if "score" in info else []
        self.costs: list[float] = []
        self.seconds: list[float] = []
        self.actions: list[Tensor] = []
        self.looks: list[Tensor] = []
        self.over = False

    def follow(self, plan: Plan, look: Float[Tensor, "K H W D"] | None, count: int) -> None:
        """Do so many actions of a plan, fewer where the environment ends."""
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
            raise DilaError(f"{self.name} told a score in one of reset and step alone; give it in both, or in neither")
        self.actions.append(action)
        self.frames.append(as_tensor(picture))
        self.scores += [float(info["score"])] if self.scores else []
        self.over = bool(terminated or truncated)

    def episode(self) -> Episode:
        looks = torch.stack(self.looks) if self.looks else None
        actions = torch.stack(self.actions)
        return Episode(torch.stack(self.frames), self.goal, self.scores, self.costs, actions, looks, self.seconds)
