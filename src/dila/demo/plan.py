"""Planning Push-T on the page: a visitor's goal, the imagined outcome of the plans, and the real outcome.

A model has only latent actions. The map from real actions is learned at once from seconds of scripted play, by the
regression that `dila adapt` begins with. The model itself is not changed.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dila.data.pusht import BOARD, REACH, Driver
from dila.errors import DilaError
from dila.evaluate.planning import cost_maker
from dila.imagine.pictures import Rows
from dila.imagine.world import World
from dila.planning.cost import Score
from dila.planning.dynamics import Imagination, Simulation
from dila.planning.env_pusht import LIMIT, PushTBody, reach_distance
from dila.planning.environment import SUCCESS, GoalEnvironment, Staged, Task
from dila.planning.environments import held_steps
from dila.planning.mpc import Episode, Loop, control
from dila.planning.mppi import MPPI
from dila.planning.planner import Blind, Limits
from dila.shapes import Float, Tensor, UInt8
from dila.train.adapt import Adaptation, Pairs, fit_encoder, score_encoder

SIZE = 128
"""Side in pixels of the pictures shown to the model."""
AGENT = 15
"""Radius of the agent, in units of the board."""
EPISODES, PLAY_SEED = 48, 20
"""Number of scripted clips that real actions are learned from, each as long as the model's clips, and their seed."""
FIT = 200
"""Steps of that regression; more would overfit so little data."""
KNOWN = 0.1
"""R² of that regression below which the model is considered not to know Push-T."""
SEARCH = MPPI(samples=32, iterations=2, gamma=3.0, relative=True)
LOOP = Loop(steps=10, horizon=5)

Told = Callable[[int | float, str], Any]
"""Called with the share that is done, and a description of the current work."""


class Hands(NamedTuple):
    """The map from real to latent actions."""

    encoder: nn.Sequential
    """Maps the displacement [x, y], held for a transition, to z."""
    limits: Limits
    repeats: int
    """Raw steps per transition."""
    r2: float
    """R² on held-out play."""


class Goal(NamedTuple):
    """A goal, to reach from the start with this number."""

    seed: int
    picture: UInt8[Tensor, "3 Y X"]
    place: tuple[float, float] | None = None
    """Position of the agent, in units of the board; None if only a picture is given."""


class Planned(NamedTuple):
    """Outcome of planning."""

    rows: Rows
    """Goal, true frames, each frame as imagined one step before, imagined end of each plan; T frames."""
    curves: Mapping[str, list[float]]
    """Distance to the goal before each step and after the last, for the model's plans and for random actions."""
    line: float | None
    """The distance below which the goal counts as reached, if defined."""
    unit: str
    """Unit of the distances."""
    said: str


def start_picture(seed: int) -> UInt8[Tensor, "3 Y X"]:
    """Return the picture of the board at the start of an episode.

    Raises:
        MissingExtra: gym-pusht is not installed.
    """
    with _board(seed) as body:
        return body.picture(SIZE)


def goal_at(seed: int, right: int | float, down: int | float) -> Goal:
    """Return the goal with the agent at this place, and everything else as at the start.

    Args:
        seed: number of the start.
        right: position as a share of the board's width.
        down: position as a share of the board's height.

    Raises:
        DilaError: the block is at this place.
    """
    x, y = (float(np.clip(share * BOARD, *REACH)) for share in (right, down))
    with _board(seed) as body:
        if any(shape.point_query((x, y)).distance < AGENT for shape in body.env.unwrapped.block.shapes):
            raise DilaError("the agent cannot be where the block is; click on a free place")
        body.restore(_placed(body.snapshot(), (x, y)))
        return Goal(seed, body.picture(SIZE), (x, y))


def goal_like(seed: int, picture: UInt8[Tensor, "3 Y X"]) -> Goal:
    """Return the goal shown by this picture, of any size."""
    return Goal(seed, F.interpolate(picture[None], (SIZE, SIZE), mode="bilinear", antialias=True)[0])


def learn_hands(world: World, told: Told = lambda share, what: None, episodes: int = EPISODES) -> Hands:
    """Record scripted play, infer its z, and fit the map from true actions to z.

    Args:
        world: a model with its encoder; an action encoder of its own is ignored.
        told: called with the progress.
        episodes: number of clips to play.

    Raises:
        MissingExtra: gym-pusht is not installed.
        DilaError: Push-T cannot run at the model's stride, or z says too little about Push-T's actions.
    """
    rng, parts = np.random.default_rng(PLAY_SEED), []
    with _board(PLAY_SEED) as body:
        repeats = held_steps("Push-T", body, world.stride)
        for number in range(episodes):
            told(number / episodes, "recording play to learn real actions")
            frames, a = _play(body, rng, world.frames, repeats)
            parts.append((a, world.infer(frames).float().cpu(), torch.full((len(a),), number)))
    pairs = Pairs(*(torch.cat(column) for column in zip(*parts, strict=True)))
    with torch.random.fork_rng(devices=[]):  # fitting seeds it
        encoder = fit_encoder(pairs, pairs.z.shape[1], Adaptation(fit_steps=FIT))
    r2 = score_encoder(encoder, pairs)
    if not r2 >= KNOWN:
        raise DilaError(
            f"this model's latent actions say too little about Push-T's actions (R² {r2:.2f}, at least {KNOWN} is "
            "needed); use a model that was trained on Push-T"
        )
    bound = pairs.a.abs().quantile(0.99, dim=0).clamp_max(LIMIT)
    return Hands(encoder.to(world.device).requires_grad_(False), Limits(-bound, bound), repeats, r2)


def plan_to(
    world: World, hands: Hands, goal: Goal, told: Told = lambda share, what: None, loop: Loop = LOOP
) -> Planned:
    """Plan by the structure cost and act in the simulator, with an observation per step; compare with random actions.

    Raises:
        MissingExtra: gym-pusht is not installed.
        DilaError: the model has no structure or no decoder.
    """
    eyes = Imagination(world, hands.encoder)
    eyes.layout()  # raises if the model has no structure
    done = iter(range(1, loop.steps + 1))
    with closing(_Watched(goal, hands.repeats, lambda: None)) as blind:
        (chance,) = control([blind], [goal.seed], Blind(), Simulation(), lambda goals: Score(), hands.limits, loop)
    told(0, "planning")
    with closing(_Watched(goal, hands.repeats, lambda: told(next(done) / loop.steps, "planning"))) as environment:
        (made,) = control(
            [environment], [goal.seed], SEARCH, eyes, cost_maker(eyes, "structure"), hands.limits, loop, show=eyes
        )
    assert made.imagined is not None
    rows = {
        "goal": made.goal.expand(loop.steps, -1, -1, -1),
        "true": made.frames[1:],
        "imagined one step before": world.draw(made.imagined[:, 0]),
        "end of each plan": world.draw(made.imagined[:, -1]),
    }
    curves = {name: _distances(eyes, goal, run) for name, run in (("random", chance), ("planned", made))}
    unit = "boards" if goal.place else "in structure, relative to the start"
    return Planned(rows, curves, SUCCESS if goal.place else None, unit, _told(goal, curves))


class _Watched(GoalEnvironment):
    """Push-T from the start with that number to a goal; calls ``stepped`` after every step."""

    def __init__(self, goal: Goal, repeats: int, stepped: Callable[[], Any]):
        super().__init__(PushTBody(), Task(self._stage, reach_distance), repeats, SIZE)
        self.wanted, self.stepped = goal, stepped

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        picture, info = super().reset(seed=seed, options=options)
        return picture, info | {"goal": self.wanted.picture}

    def step(self, action: np.ndarray) -> tuple[Tensor, float, bool, bool, dict[str, Any]]:
        made = super().step(action)
        self.stepped()
        return made

    def _stage(self, body: PushTBody, rng: np.random.Generator) -> Staged:
        body.reset(rng)
        start = body.snapshot()
        return Staged(start, _placed(start, self.wanted.place) if self.wanted.place else start)


@contextmanager
def _board(seed: int) -> Iterator[PushTBody]:
    with closing(PushTBody()) as body:
        body.reset(np.random.default_rng(seed))
        yield body


def _placed(snapshot: Any, place: tuple[float, float]) -> Any:
    """Return the snapshot with the agent at this place, at rest."""
    return snapshot._replace(agent=(place, (0.0, 0.0)))


def _play(
    body: PushTBody, rng: np.random.Generator, frames: int, repeats: int
) -> tuple[UInt8[Tensor, "T 3 Y X"], Float[Tensor, "K 2"]]:
    """Record one clip; return its frames and the displacement held during each transition."""
    body.reset(rng)
    driver, pictures, actions = Driver(rng, "mixed"), [body.picture(SIZE)], []
    for _ in range(frames - 1):
        facts = body.facts()
        actions.append(np.clip(driver.target(facts[:2], facts[2:]) - facts[:2], -LIMIT, LIMIT))
        for _ in range(repeats):
            body.act(actions[-1])
        pictures.append(body.picture(SIZE))
    return torch.stack(pictures), torch.tensor(np.stack(actions), dtype=torch.float32)


def _distances(eyes: Imagination, goal: Goal, run: Episode) -> list[float]:
    """Distances in boards if the agent's goal is known, else in structure relative to the first."""
    if goal.place:
        return run.scores
    apart = (eyes.structure(run.frames[None])[0] - eyes.structure(goal.picture[None, None])[0]).square().mean((1, 2, 3))
    return (apart / apart[0].clamp_min(1e-9)).tolist()


def _told(goal: Goal, curves: Mapping[str, list[float]]) -> str:
    planned, random = curves["planned"], curves["random"]
    best = min(planned)
    if not goal.place:
        return (
            f"The smallest distance in structure was {best:.2f} of the initial distance (random actions: "
            f"{min(random):.2f}). A goal picture does not determine the true distance."
        )
    first = next((step for step, distance in enumerate(planned) if distance < SUCCESS), None)
    reached = f"goal not reached (below {SUCCESS})" if first is None else f"goal reached at step {first}"
    return (
        f"The agent started {planned[0]:.2f} boards from its goal and came within {best:.3f}: {reached}. "
        f"Random actions came within {min(random):.2f}."
    )
