"""Environments to plan in: Gymnasium's verbs, a goal that a script has shown to be near, and a way back to any state.

An environment is a `Body`, what moves and is seen, under a `Task`, where to begin and where to get. A task begins
where its script was a moment before things happened, and its goal is what the script then did: so every goal can be
reached in about the time that there is. One action is all that happens between two frames of the model: it is held for
the raw steps in between.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from dila.errors import DilaError
from dila.planning.planner import Limits
from dila.shapes import Tensor, UInt8

SUCCESS = 0.05
"""A score below this has reached the goal (VP2)."""
TRIES = 50
"""Scripts that are run until one makes a start and a goal."""


@runtime_checkable
class Body(Protocol):
    """A simulator that can be put back. Actions are those of one raw step (`dila.planning.allowed`)."""

    limits: Limits

    @property
    def fps(self) -> int | float:
        """Raw steps a second."""
        ...

    def reset(self, rng: np.random.Generator) -> None:
        """Begin anew; everything that is random comes from `rng`."""
        ...

    def snapshot(self) -> Any:
        """Everything that the future depends on."""
        ...

    def restore(self, snapshot: Any) -> None:
        """Put it back."""
        ...

    def facts(self) -> np.ndarray:
        """What is the case, as numbers that a task is scored by."""
        ...

    def picture(self, size: int) -> UInt8[Tensor, "3 Y X"]:
        """What the camera sees now."""
        ...

    def act(self, action: np.ndarray) -> None:
        """One raw step."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class Staged(NamedTuple):
    """Snapshots of where an episode begins and of its goal."""

    start: Any
    goal: Any


@dataclass(frozen=True)
class Task:
    """Where to begin, where to get, and how far that is.

    Args:
        stage: script that begins anew and finds start and goal; None when this time nothing came of it.
        score: from the facts now and those of the goal to a distance, 0 at the goal, `SUCCESS` near enough.
    """

    stage: Callable[[Any, np.random.Generator], Staged | None]
    score: Callable[[np.ndarray, np.ndarray], float]


Picture = UInt8[Tensor, "3 Y X"] | np.ndarray
"""A tensor or a NumPy array, uint8 ``3 Y X``."""


def as_tensor(picture: Any) -> UInt8[Tensor, "3 Y X"]:
    """What an environment shows, copied, as some environments draw over their last one.

    Raises:
        DilaError: it is no such picture.
    """
    shown = torch.from_numpy(picture.copy()) if isinstance(picture, np.ndarray) else picture
    if not isinstance(shown, Tensor) or shown.dtype != torch.uint8 or shown.ndim != 3 or shown.shape[0] != 3:
        told = f"{picture.dtype} {list(picture.shape)}" if isinstance(shown, Tensor) else type(picture).__name__
        raise DilaError(
            f"an environment's picture should be a tensor or NumPy array of uint8 3 Y X, not {told}; bring it to that "
            "in reset, step and picture, and the goal too"
        )
    return shown.clone() if shown is picture else shown


@runtime_checkable
class Environment(Protocol):
    """Gymnasium's verbs as far as the loop uses them; an observation is a picture."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Picture, dict[str, Any]]:
        """Begin: the first picture; in the second part ``goal`` (a picture), and ``score`` where there is one."""
        ...

    def step(self, action: np.ndarray) -> tuple[Picture, float, bool, bool, dict[str, Any]]:
        """Picture, a reward that nothing reads, whether the episode is over, in either, and ``score`` as in reset."""
        ...


@runtime_checkable
class Simulated(Protocol):
    """An environment that can be put back: what planning in the true simulator needs."""

    def state(self) -> Any:
        """Everything that the future depends on."""
        ...

    def restore(self, state: Any) -> None:
        """Put it back."""
        ...

    def advance(self, action: np.ndarray) -> None:
        """`step` without looking."""
        ...

    def picture(self) -> Picture:
        """What the camera sees now."""
        ...

    def score(self) -> float:
        """Distance to the goal; 0 is there."""
        ...


class GoalEnvironment:
    """A body under a task: an `Environment`, and `Simulated`.

    Args:
        body: what moves.
        task: where to get.
        repeats: raw steps that an action is held for.
        size: pixels a side of pictures.
        given: from a seed to start and goal; the task's script makes them where it is None.
    """

    def __init__(
        self,
        body: Body,
        task: Task,
        repeats: int = 1,
        size: int = 128,
        given: Callable[[int | None], Staged] | None = None,
    ):
        self.body, self.task, self.repeats, self.size = body, task, repeats, size
        self.given = given or self._scripted
        self.fps, self.limits = body.fps / repeats, body.limits
        self.names, self.relative = getattr(body, "names", None), getattr(body, "relative", None)
        self.goal: np.ndarray | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """See `Environment`.

        Raises:
            DilaError: the script came to nothing in many tries.
        """
        staged = self.given(seed)
        self.body.restore(staged.goal)
        self.goal, shown = self.body.facts(), self.picture()
        self.body.restore(staged.start)
        return self.picture(), {"goal": shown, "score": self.score()}

    def _scripted(self, seed: int | None) -> Staged:
        rng = np.random.default_rng(seed)
        for _ in range(TRIES):
            if (staged := self.task.stage(self.body, rng)) is not None:
                return staged
        raise DilaError(f"no start and goal were found in {TRIES} tries from seed {seed}; choose another seed")

    def step(self, action: np.ndarray) -> tuple[Tensor, float, bool, bool, dict[str, Any]]:
        """See `Environment`: minus the score as the reward, and whether the goal is reached as ``is_success``, which
        ends nothing (VP2 counts the best moment of all)."""
        self.advance(action)
        score = self.score()
        return self.picture(), -score, False, False, {"score": score, "is_success": score < SUCCESS}

    def state(self) -> Any:
        """See `Simulated`."""
        return self.body.snapshot()

    def restore(self, state: Any) -> None:
        """See `Simulated`."""
        self.body.restore(state)

    def advance(self, action: np.ndarray) -> None:
        """See `Simulated`."""
        for _ in range(self.repeats):
            self.body.act(action)

    def picture(self) -> UInt8[Tensor, "3 Y X"]:
        """See `Simulated`."""
        return self.body.picture(self.size)

    def score(self) -> float:
        """See `Simulated`."""
        assert self.goal is not None, "reset first"
        return float(self.task.score(self.body.facts(), self.goal))

    def close(self) -> None:
        """Give back what the body holds."""
        self.body.close()


def driven(
    body: Body,
    drive: Callable[[], np.ndarray],
    steps: int,
    happened: Callable[[np.ndarray, np.ndarray], bool],
    lead: int,
    ahead: int,
    worth: Callable[[np.ndarray], bool] = lambda facts: True,
) -> Staged | None:
    """Let a script drive until something happened: start ``lead`` raw steps before that, goal ``ahead`` after.

    Args:
        body: begun.
        drive: the next action.
        steps: to wait for it.
        happened: from the facts of the beginning and those now.
        lead: raw steps.
        ahead: raw steps.
        worth: from facts to whether an episode may start there; it starts so much earlier that it may.
    """
    snapshots, passed = [body.snapshot()], [body.facts()]
    for _ in range(steps):
        body.act(drive())
        snapshots.append(body.snapshot())
        passed.append(body.facts())
        if happened(passed[0], passed[-1]):
            break
    else:
        return None
    for _ in range(ahead):
        body.act(drive())
    starts = [time for time, facts in enumerate(passed[: max(1, len(passed) - lead)]) if worth(facts)]
    return Staged(snapshots[starts[-1]], body.snapshot()) if starts else None
