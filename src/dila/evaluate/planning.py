"""Planning evaluation (paper table 4): a model against a random policy and the true simulator, on the same episodes.

::

    out/plan.json              settings; later calls must use the same
    out/episodes/ARM_SEED.json one episode: scores, costs, actions, and the seconds of each plan
    out/videos/ARM_SEED.mp4    the goal, the true frames, and the imagined frames
    out/report.json            success, progress, and the share of the gap between the two bounds, with intervals
    out/evaluation.json        the same for `dila report`
    out/curves.png             mean score by step of each arm
    out/costs.png              mean cost by plan of the arms that plan by the model's cost
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from tqdm import tqdm
from tyro.conf import Positional

from dila.configs import to_json
from dila.errors import DilaError, at_least
from dila.evaluate.curves import write_curves
from dila.evaluate.planned import MEASURES, gap_closed, listed, summarise_arm, to_result
from dila.evaluate.result import Subject, write_results
from dila.files import alone, at_home, read_object, write_json
from dila.imagine.label import hash_of, hash_world
from dila.imagine.pictures import write_clip
from dila.imagine.world import World
from dila.interop.actions import ActionSpace
from dila.planning.allowed import seen, taken
from dila.planning.cem import CEM, icem
from dila.planning.cost import Features, FrameCost, Over, Pixels, Score, Structure
from dila.planning.dynamics import Imagination, Now, Simulation, check_needs
from dila.planning.environment import SUCCESS, Simulated
from dila.planning.environments import make_environment
from dila.planning.gradient import Gradient
from dila.planning.mpc import CostMaker, Episode, Loop, control
from dila.planning.mppi import MPPI
from dila.planning.planner import Blind, CostOf, Limits, Planner
from dila.planning.vp2_files import FromTo, read_tasks
from dila.shapes import Tensor, UInt8
from dila.version import version

CostName = Literal["structure", "features", "pixels"]
PlannerName = Literal["mppi", "vp2", "cem", "icem", "gradient"]
Arm = Literal["model", "random", "simulator"]
ARMS: tuple[Arm, ...] = ("random", "model", "simulator")

PLANNERS: dict[PlannerName, Any] = {
    "mppi": MPPI(gamma=3.0, relative=True, iterations=3),
    "vp2": MPPI(),
    "cem": CEM(),
    "icem": icem(),
    "gradient": Gradient(),
}
"""``vp2`` is MPPI exactly as in VP2, for a sum of squared pixels; ``mppi`` scales costs by their standard deviation."""

SMALLEST = 8
"""Minimum picture size in pixels; below it nothing of the environments is visible."""
FILMS = 4
"""Maximum number of videos in a result."""


@dataclass(frozen=True)
class Planning:
    """How planning is evaluated.

    Args:
        environment: one of `dila.planning.environments.ENVIRONMENTS`, or ``module:function`` of your own
            (docs/planning.md).
        episodes: episodes per arm, with the same starts and goals.
        planner: planning algorithm.
        cost: what the model compares with the goal.
        over: how the costs of the frames of a candidate are combined.
        samples: candidates per environment; None uses the planner's default.
        iterations: iterations per plan; None uses the planner's default.
        std: initial standard deviation of the candidates, as a fraction of half the action's range: one number, or one
            per component. Also applies to the random arm. None uses the planner's default.
        steps: actions per episode.
        horizon: planning horizon, in actions.
        context: number of frames that a plan starts from.
        seconds: time limit per plan, instead of iterations, without encoding the frames; the iteration during which it
            expires is finished, so a plan takes longer (``plan_seconds`` in the report).
        upper: cost for planning in the true simulator: its own "score", or the "same" cost as the model.
        arms: arms to run.
        together: number of environments planned in parallel.
        seed: seed of the first episode; each next episode adds one.
        size: size of the pictures, in pixels a side.
        goals: task file of VP2 (`dila.planning.vp2_files`), whose episode n has seed n; None uses starts and goals from
            the environment's own script.
        execute: actions of a plan that are executed before the next plan.

    Raises:
        DilaError: a setting is out of range, or settings contradict each other.
    """

    environment: Positional[str]
    episodes: int = 20
    planner: PlannerName = "mppi"
    cost: CostName = "structure"
    over: Over = "mean"
    samples: int | None = None
    iterations: int | None = None
    std: float | tuple[float, ...] | None = None
    steps: int = 15
    horizon: int = 8
    context: int = 2
    seconds: float | None = None
    upper: Literal["score", "same"] = "score"
    arms: tuple[Arm, ...] = ARMS
    together: int = 4
    seed: int = 0
    size: int = 128
    goals: str | None = None
    execute: int = 1

    def __post_init__(self):
        at_least(1, episodes=self.episodes, together=self.together, steps=self.steps, horizon=self.horizon)
        at_least(1, context=self.context, samples=self.samples, iterations=self.iterations)
        at_least(0, seed=self.seed)
        at_least(SMALLEST, size=self.size)
        if self.seconds is not None and not 0 < self.seconds < inf:
            raise DilaError(f"--seconds {self.seconds:g} must be a number above 0; omit it to count iterations")
        if not self.arms:
            raise DilaError("--arms is empty; give one or more of random, model and simulator")
        if self.planner == "gradient" and "simulator" in self.arms:
            raise DilaError(
                "--planner gradient needs a cost with a gradient, which a simulator does not have; "
                "give --arms random model"
            )
        _ = self.loop, self.search  # their constructors check the rest

    @property
    def search(self) -> Planner:
        """The planner with these settings."""
        wanted = {"samples": self.samples, "iterations": self.iterations, "std": self.std}
        return replace(PLANNERS[self.planner], **{name: value for name, value in wanted.items() if value is not None})

    @property
    def loop(self) -> Loop:
        """Settings of the control loop."""
        return Loop(self.steps, self.horizon, self.context, self.seconds, self.execute)

    @property
    def blind(self) -> Blind:
        """The planner of the random arm."""
        return Blind() if self.std is None else Blind(self.std)


def measure_planning(
    world: World,
    actions: ActionSpace,
    plan: Planning,
    out: str | Path,
    *,
    subject: Subject | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Run the episodes that ``out`` lacks, and write the report; call it again to resume.

    Args:
        world: an adapted model.
        actions: action space of its adaptation.
        plan: settings.
        out: output folder.
        subject: the model's name and identity in ``evaluation.json``; None writes no such file.
        progress: show a progress bar.

    Returns:
        The contents of ``report.json``.

    Raises:
        DilaError: ``out`` contains episodes of other settings or of another model, the model lacks what the cost needs,
            the environment is unknown, or its actions differ from those of the model.
    """
    out = at_home(out)
    if "model" in plan.arms:
        check_needs(world, {plan.cost})
    with alone(out):
        _settle(out, plan, _hashes(world, actions))
        bench = _Bench(world, actions, plan)
        groups: list[tuple[Arm, Sequence[int]]] = [(arm, seeds) for arm in plan.arms for seeds in _groups(plan)]
        try:
            for arm, seeds in tqdm(groups, unit="group", desc=plan.environment, disable=not progress):
                if missing := [seed for seed in seeds if not _file(out, arm, seed).is_file()]:
                    bench.run(arm, missing, out)
        finally:
            bench.close()
        episodes: dict[Arm, list[Any]] = {arm: [_read(out, arm, seed) for seed in _seeds(plan)] for arm in plan.arms}
        report = summarise(plan, episodes)
        report["limits"] = {"environment": _ends(bench.taken), "model": _ends(bench.seen)}
        write_json(out / "report.json", report)
        write_curves(out / "curves.png", {arm: report["arms"][arm]["scores"] for arm in plan.arms}, SUCCESS)
        _write_costs(out / "costs.png", plan, report["arms"])
        if subject is not None:
            made = to_result(report, episodes, subject, world.stride, _pictures(out, plan))
            write_results(out / "evaluation.json", [made])
        return report


def summarise(plan: Planning, episodes: dict[Arm, list[dict[str, Any]]]) -> dict[str, Any]:
    """Build the report from the episodes of each arm."""
    arms = {arm: summarise_arm(each) for arm, each in episodes.items()}
    closed = {}
    if set(arms) == set(ARMS):
        closed = {measure: gap_closed(measure, *(episodes[arm] for arm in ARMS)) for measure in MEASURES}
    return {
        "dila_version": version(),
        "settings": to_json(plan),
        "arms": arms,
        "normalised": {measure: share for measure, (share, _) in closed.items()},
        "normalised_interval": {measure: listed(interval) for measure, (_, interval) in closed.items()},
    }


def _write_costs(path: Path, plan: Planning, arms: dict[Arm, dict[str, Any]]) -> None:
    """Plot the costs of the plans of each arm that plans by ``plan.cost``; no plot if there is none."""
    same: tuple[Arm, ...] = ("model", "simulator") if plan.upper == "same" else ("model",)
    if curves := {arm: row["costs"] for arm, row in arms.items() if arm in same and row["costs"]}:
        unit = f"{plan.over} over {plan.horizon} frames"
        write_curves(path, curves, None, unit, ("plans made before", f"cost of the best candidate in {plan.cost}"))


def _pictures(out: Path, plan: Planning) -> dict[str, str]:
    """Captions of the plot of costs and of some videos of the model."""
    films = [f"videos/model_{seed:05d}.mp4" for seed in _seeds(plan)[:FILMS]]
    rows = (
        "from top to bottom: the goal; true frames; each frame as imagined one step before; imagined end of each plan"
    )
    told = {"costs.png": "Cost of the plans."} | dict.fromkeys(films, f"Planned with the model, {rows}.")
    return {name: caption for name, caption in told.items() if (out / name).is_file()}


class _Bench:
    """What the episodes of all arms share: environments, action limits and the model."""

    def __init__(self, world: World, actions: ActionSpace, plan: Planning):
        self.world, self.plan = world, plan
        tasks = _tasks(plan)
        self.environments: list[Any] = [
            make_environment(plan.environment, world.stride, plan.size, tasks) for _ in range(plan.together)
        ]
        if "simulator" in plan.arms and not isinstance(self.environments[0], Simulated):
            raise DilaError(
                f"the arm simulator needs an environment with state, restore, advance, picture and score, which "
                f"{plan.environment} lacks; give --arms random model"
            )
        self.taken = taken(plan.environment, actions, self.environments[0])
        self.seen = seen(plan.environment, actions, self.taken)
        model: Any = world.model
        self.eyes = Imagination(world, lambda a: model.encode_actions(actions.hold(a)), plan.over)

    def run(self, arm: Arm, seeds: Sequence[int], out: Path) -> None:
        planner: Planner = self.plan.blind if arm == "random" else self.plan.search
        same = arm == "model" or self.plan.upper == "same"
        cost = cost_maker(self.eyes, self.plan.cost) if same else lambda goals: Score()
        dynamics = self.eyes if arm == "model" else Simulation(self.eyes if same else None, self.plan.over)
        if arm == "random":
            cost, dynamics = (lambda goals: Score()), _Unasked()
        limits = self.seen if arm == "model" else self.taken
        began = time.perf_counter()
        show = self.eyes if arm == "model" and self.world.decoder is not None else None
        here = self.environments[: len(seeds)]
        made = control(here, seeds, planner, dynamics, cost, limits, self.plan.loop, show=show)
        seconds = (time.perf_counter() - began) / len(seeds)
        for seed, episode in zip(seeds, made, strict=True):
            self.draw(out / "videos" / f"{arm}_{seed:05d}.mp4", episode)
            write_json(_file(out, arm, seed), _told(seed, seconds, episode))

    def draw(self, path: Path, episode: Episode) -> None:
        """Write a video of the goal, the true frames, each frame as imagined one step before, and the ends of plans."""
        rows: dict[str, Tensor] = {
            "goal": episode.goal.expand(len(episode.frames), -1, -1, -1), "happened": episode.frames,
        }  # fmt: skip
        if episode.imagined is not None:
            rows["imagined a step before"] = self.world.draw(episode.imagined[:, 0])
            rows["end of the plan"] = self.world.draw(episode.imagined[:, -1])
        write_clip(path, rows, 1 / self.world.stride)

    def close(self) -> None:
        for environment in self.environments:
            if hasattr(environment, "close"):
                environment.close()


class _Unasked(Simulation):
    """Dynamics of the random arm, whose planner evaluates no cost; needs no environment that can be restored."""

    def costs(self, now: Now, cost: FrameCost) -> CostOf:
        return lambda candidates: torch.zeros(candidates.shape[:2])


def cost_maker(eyes: Imagination, name: CostName) -> CostMaker:
    """Return a function from pictures of goals to the cost of this name."""

    def make(goals: UInt8[Tensor, "B 3 Y X"]) -> FrameCost:
        clip = goals[:, None]
        if name == "structure":
            return Structure(eyes.structure(clip))
        return Features(eyes.see(clip)) if name == "features" else Pixels(clip.float() / 255)

    return make


def _tasks(plan: Planning) -> list[FromTo] | None:
    """Read VP2's starts and goals, of which each may be used once; None without ``goals``."""
    if plan.goals is None:
        return None
    tasks = read_tasks(plan.goals)
    if plan.episodes > len(tasks):
        raise DilaError(f"--episodes {plan.episodes} exceeds the {len(tasks)} episodes of {plan.goals}; give fewer")
    return tasks


def _ends(limits: Limits) -> dict[str, list[float]]:
    return {"low": limits.low.tolist(), "high": limits.high.tolist()}


def _settle(out: Path, plan: Planning, hashes: dict[str, str]) -> None:
    """Write ``plan.json``; if there are finished episodes, check that only the number of episodes and arms changed."""
    path, described = out / "plan.json", hashes | json.loads(json.dumps(to_json(plan)))
    if path.is_file() and any((out / "episodes").glob("*.json")):
        stored = read_object(path, f"choose another folder, or remove {out} to start again")
        free = {"episodes", "arms"}
        if other := [key for key in described if key not in free and stored.get(key) != described[key]]:
            told = ", ".join(f"{key} = {stored.get(key)!r} (now {described[key]!r})" for key in other)
            raise DilaError(f"{out} contains episodes with {told}; choose another folder")
    write_json(path, described)


def _hashes(world: World, actions: ActionSpace) -> dict[str, str]:
    """Hashes of the model, decoder and actions, so that episodes of different models are not mixed."""
    decoder = world.decoder
    tensors: dict[str, Any] = decoder.state_dict() if isinstance(decoder, nn.Module) else {}
    return {
        "model": hash_world(world),
        "decoder": hash_of(None if decoder is None else decoder.config(), tensors),
        "actions": hash_of(to_json(actions), {}),
    }


def _seeds(plan: Planning) -> range:
    return range(plan.seed, plan.seed + plan.episodes)


def _groups(plan: Planning) -> Iterator[Sequence[int]]:
    """Yield groups of seeds that are planned in parallel; each episode is the same as if planned alone."""
    seeds = _seeds(plan)
    return (seeds[start : start + plan.together] for start in range(0, len(seeds), plan.together))


def _file(out: Path, arm: Arm, seed: int) -> Path:
    return out / "episodes" / f"{arm}_{seed:05d}.json"


def _read(out: Path, arm: Arm, seed: int) -> dict[str, Any]:
    path, mend = _file(out, arm, seed), "remove it and run the same command again"
    told = read_object(path, mend)
    lists = [told.get("scores"), told.get("plan_seconds"), [told.get("seconds")]]
    if not all(each and isinstance(each, list) and all(map(_is_finite, each)) for each in lists):
        raise DilaError(
            f"{path} lacks the scores or seconds of an episode, or they are not finite; if your environment returns no "
            f"score, add it to reset and step, else {mend}"
        )
    return told


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value)


def _told(seed: int, seconds: float, episode: Episode) -> dict[str, Any]:
    return {
        "seed": seed, "seconds": seconds, "plan_seconds": episode.seconds, "scores": episode.scores,
        "costs": episode.costs, "actions": episode.actions.tolist(),
    }  # fmt: skip
