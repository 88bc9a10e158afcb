"""Environments for planning: Gymnasium's methods, a goal that a script has reached, and states that can be restored.

An environment is a `Body` (a simulator) under a `Task` (start, goal and score). An episode starts a moment before its
script achieved something, and the goal is the state after that, so every goal can be reached in the available time. An
action is held for all raw steps between two frames of the model.
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
"""Score below which the goal is reached (VP2)."""
TRIES = 50
"""Maximum number of attempts of a script to find a start and a goal."""


@runtime_checkable
class Body(Protocol):
    """A simulator whose state can be restored. Actions are those of one raw step (`dila.planning.allowed`)."""

    limits: Limits

    @property
    def fps(self) -> int | float:
        """Raw steps per second."""
        ...

    def reset(self, rng: np.random.Generator) -> None:
        """Reset; all randomness comes from `rng`."""
        ...

    def snapshot(self) -> Any:
        """Return the full state, everything that the future depends on."""
        ...

    def restore(self, snapshot: Any) -> None:
        """Restore a snapshot."""
        ...

    def facts(self) -> np.ndarray:
        """Return the numbers that a task is scored by."""
        ...

    def picture(self, size: int) -> UInt8[Tensor, "3 Y X"]:
        """Render the current state."""
        ...

    def act(self, action: np.ndarray) -> None:
        """Execute one raw step."""
        ...

    def close(self) -> None:
        """Release resources."""
        ...


class Staged(NamedTuple):
    """Snapshots of the start of an episode and of its goal."""

    start: Any
    goal: Any


@dataclass(frozen=True)
class Task:
    """Start, goal and score of an episode.

    Args:
        stage: script that resets the body and finds a start and a goal; returns None if this attempt failed.
        score: distance from the current facts to those of the goal; below `SUCCESS` the goal is reached.
    """

    stage: Callable[[Any, np.random.Generator], Staged | None]
    score: Callable[[np.ndarray, np.ndarray], float]


Picture = UInt8[Tensor, "3 Y X"] | np.ndarray
"""A tensor or a NumPy array, uint8 ``3 Y X``."""


def as_tensor(picture: Any) -> UInt8[Tensor, "3 Y X"]:
    """Return an environment's picture as a tensor, copied, because some environments reuse their buffer.

    Raises:
        DilaError: the picture is not uint8 ``3 Y X``.
    """
    shown = torch.from_numpy(picture.copy()) if isinstance(picture, np.ndarray) else picture
    if not isinstance(shown, Tensor) or shown.dtype != torch.uint8 or shown.ndim != 3 or shown.shape[0] != 3:
        told = f"{picture.dtype} {list(picture.shape)}" if isinstance(shown, Tensor) else type(picture).__name__
        raise DilaError(
            f"an environment's picture must be a tensor or NumPy array of uint8 3 Y X, not {told}; convert pictures in "
            "reset, step and picture, and the goal"
        )
    return shown.clone() if shown is picture else shown


@runtime_checkable
class Environment(Protocol):
    """The part of Gymnasium's interface that the control loop uses; observations are pictures."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Picture, dict[str, Any]]:
        """Start an episode; returns the first picture and a dict with ``goal`` (a picture) and optionally ``score``."""
        ...

    def step(self, action: np.ndarray) -> tuple[Picture, float, bool, bool, dict[str, Any]]:
        """Return picture, reward (unused), terminated and truncated (either ends it), and ``score`` as in reset."""
        ...


@runtime_checkable
class Simulated(Protocol):
    """An environment whose state can be restored, for planning in the true simulator."""

    def state(self) -> Any:
        """Return the full state, everything that the future depends on."""
        ...

    def restore(self, state: Any) -> None:
        """Restore a state."""
        ...

    def advance(self, action: np.ndarray) -> None:
        """Execute an action without rendering."""
        ...

    def picture(self) -> Picture:
        """Render the current state."""
        ...

    def score(self) -> float:
        """Return the distance to the goal; 0 at the goal."""
        ...


class GoalEnvironment:
    """A body under a task, as an `Environment` that is also `Simulated`.

    Args:
        body: the simulator.
        task: the task.
        repeats: raw steps that an action is held for.
        size: size of pictures in pixels.
        given: function from a seed to start and goal; None uses the task's script.
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
            DilaError: the script found no start and goal in `TRIES` attempts.
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
        raise DilaError(f"no start and goal found in {TRIES} attempts from seed {seed}; choose another seed")

    def step(self, action: np.ndarray) -> tuple[Tensor, float, bool, bool, dict[str, Any]]:
        """See `Environment`. The reward is minus the score; ``is_success`` does not end the episode, as in VP2."""
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
        """Close the body."""
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
    """Run a script until an event; stage an episode from ``lead`` raw steps before it to ``ahead`` after it.

    Args:
        body: the body, reset.
        drive: returns the next action of the script.
        steps: maximum number of raw steps until the event.
        happened: whether the event has happened, given the first and the current facts.
        lead: minimum number of raw steps from the start to the event.
        ahead: raw steps from the event to the goal.
        worth: whether an episode may start at these facts; the latest such state is chosen.

    Returns:
        None if the event did not happen, or no state may be the start.
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
