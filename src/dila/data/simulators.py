"""Recordings of simulators: the interface of a simulator, the policy that drives it, and the recording of episodes.

Each simulator is one file, ``sim_*.py``, with a class that implements `Simulator`; `SIMULATORS` lists them. The policy
is the same for all: legs queued by a plan of the simulator (go behind the cube, then through it) with smooth noise
added, or noise alone. Pictures never show a goal or a target, which would reveal the action.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from dila.data.lerobot_write import LeRobotV3
from dila.data.recording import Recorded, Store, record
from dila.errors import DilaError
from dila.plugins import load_plugins, named
from dila.shapes import Tensor, UInt8

VERSION = 1
"""Increase this when a change makes the same seed give different data, so that no recording mixes both."""
MEMORY = 0.85
"""Autocorrelation of the smooth noise from one step to the next."""
SWAY = 0.12
"""Scale of the noise added to a plan, as a share of the largest action."""
MAX_SIZE = 512
EAST, NORTH, UP = np.eye(3)

Policy = Literal["random", "scripted", "mixed"]
POLICIES = ("random", "scripted", "mixed")


class Leg(NamedTuple):
    """A goal to move to, for at most `steps` steps. A leg with goal None is noise alone."""

    goal: Callable[[], np.ndarray] | None
    steps: int
    speed: float = 0.6
    """Share of the largest action."""
    rest: tuple[float, ...] = ()
    """Components of the action that are not a direction, such as a gripper, in the simulator's convention."""
    stay: bool = False
    """Take all the steps, even after reaching the goal."""


@runtime_checkable
class Simulator(Protocol):
    """Interface of a simulator, which is reset for every episode. Actions are float32 in [-1, 1], states float64."""

    @property
    def fps(self) -> int | float:
        """Steps a second."""
        ...

    task: str
    names: Mapping[str, tuple[str, ...]]
    """Component names of ``action`` and ``state``."""
    things: Mapping[str, float]
    """Components of the state that show whether an object has moved, with the minimum change of each."""
    reach: float
    """Distance at which the goal of a leg counts as reached."""
    wander: float
    """Scale of the noise of legs without a goal, as a share of the largest action."""

    def reset(self, rng: np.random.Generator) -> None:
        """Start an episode; all randomness comes from `rng`."""
        ...

    def state(self) -> np.ndarray:
        """Return the current state, one number for each of ``names["state"]``."""
        ...

    def picture(self, size: int) -> UInt8[Tensor, "3 Y X"]:
        """Return the current picture of the camera."""
        ...

    def step(self, action: np.ndarray) -> None:
        """Execute an action for one frame."""
        ...

    def position(self) -> np.ndarray:
        """Return the position of the controlled body (agent, hand or ball)."""
        ...

    def plan(self, rng: np.random.Generator) -> list[Leg]:
        """Return the next legs."""
        ...

    def towards(self, gap: np.ndarray, leg: Leg) -> np.ndarray:
        """Return the action that moves the controlled body along `gap`."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...

    def strays(self) -> np.ndarray | None:
        """Return a point to return to if the controlled body has left the scene, else None."""
        ...


SIMULATORS: dict[str, str] = {
    "fetch": "dila.data.sim_fetch:FetchPush",
    "kitchen": "dila.data.sim_kitchen:Kitchen",
    "pointmaze": "dila.data.sim_pointmaze:PointMaze",
    "robosuite-lift": "dila.data.sim_robosuite:Lift",
    "robosuite-push": "dila.data.sim_robosuite:Push",
    "robosuite-vp2": "dila.data.sim_robosuite_vp2:PushThings",
    "robodesk": "dila.data.sim_robodesk:RoboDesk",
    "miniworld": "dila.data.sim_miniworld:Rooms",
}
"""All simulators except Push-T (`dila.data.pusht`), as module and class; imported on first use."""


_OPEN: dict[str, Simulator] = {}


def open_simulator(name: str) -> Simulator:
    """Return the simulator of this name, which stays open until another is opened, since creating one takes seconds.

    Raises:
        MissingExtra: its package is not installed.
        DilaError: the name is unknown, or this machine cannot render off-screen.
    """
    load_plugins()
    if name not in SIMULATORS:
        raise DilaError(f"there is no simulator {name!r}; choose one of {', '.join(SIMULATORS)}")
    if name not in _OPEN:
        close_simulator()
        _OPEN[name] = named(SIMULATORS[name])()
    return _OPEN[name]


def close_simulator() -> None:
    """Close the open simulator, if any."""
    while _OPEN:
        _OPEN.popitem()[1].close()


class Driver:
    """Policy that follows the legs of plans with smooth noise added, or takes noise alone."""

    def __init__(self, simulator: Simulator, rng: np.random.Generator, policy: Policy):
        self.simulator, self.rng, self.policy = simulator, rng, policy
        self.legs: deque[Leg] = deque()
        self.homing = False
        self.noise = rng.normal(size=len(simulator.names["action"]))

    def action(self) -> np.ndarray:
        """Return the next action, float32 in [-1, 1]."""
        self.noise = MEMORY * self.noise + (1 - MEMORY**2) ** 0.5 * self.rng.normal(size=len(self.noise))
        home = self.simulator.strays()
        if home is not None and not self.homing:
            # Several steps, since it would otherwise oscillate at the border.
            self.legs, self.homing = deque([Leg(lambda: home, 6, 0.6)]), True
        while not self.legs or self._done(self.legs[0]):
            if self.legs:
                self.legs.popleft()
            if not self.legs:
                self.legs.extend(self._plan())
                self.homing = False
        leg = self.legs[0]
        self.legs[0] = leg._replace(steps=leg.steps - 1)
        if leg.goal is None:
            chosen = self.simulator.wander * self.noise
        else:
            chosen = self.simulator.towards(leg.goal() - self.simulator.position(), leg) + SWAY * self.noise
        return np.clip(chosen, -1, 1).astype(np.float32)

    def _plan(self) -> list[Leg]:
        wander = self.policy == "random" or (self.policy == "mixed" and self.rng.random() < 0.3)
        return [Leg(None, int(self.rng.integers(8, 20)))] if wander else self.simulator.plan(self.rng)

    def _done(self, leg: Leg) -> bool:
        if leg.steps <= 0 or leg.goal is None or leg.stay:
            return leg.steps <= 0
        return bool(np.linalg.norm(leg.goal() - self.simulator.position()) < self.simulator.reach)


@dataclass(frozen=True)
class SimulatorRecorder:
    """Callable from the number of an episode to the episode; pickled for the worker processes."""

    simulator: str
    frames: int
    size: int
    seed: int
    policy: Policy

    def __call__(self, number: int) -> Recorded:
        """Run one episode with a random stream fixed by (seed, number)."""
        rng = np.random.default_rng([self.seed, number])
        simulator = open_simulator(self.simulator)
        simulator.reset(rng)
        driver = Driver(simulator, rng, self.policy)
        pictures, actions, states = [], [], []
        for _ in range(self.frames):
            states.append(simulator.state())
            pictures.append(simulator.picture(self.size))
            actions.append(driver.action())
            simulator.step(actions[-1])
        columns = {"action": np.stack(actions), "state": np.stack(states).astype(np.float32)}
        return Recorded(torch.stack(pictures), columns)


def record_simulator(
    simulator: str,
    out: str | Path,
    episodes: int,
    frames: int = 60,
    size: int = 128,
    seed: int = 0,
    policy: str = "mixed",
    workers: int = 1,
    progress: bool = True,
    store: Store | None = None,
) -> Path:
    """Record episodes, as a LeRobot data set if `store` is None; resumes an interrupted recording.

    Args:
        simulator: one of `SIMULATORS`.
        frames: frames per episode.
        size: pixels a side, even, 32 to 512.
        seed: the same seed gives the same data for any number of workers.
        policy: "random" (smooth noise), "scripted" (plans that reach and push), or "mixed" (in turn).
        out, episodes, workers, progress, store: as for `dila.data.recording.record`.

    Raises:
        MissingExtra: its package is not installed.
        DilaError: an argument is out of range, or `out` has a recording with other settings.
    """
    if frames < 2 or not 32 <= size <= MAX_SIZE or size % 2:
        raise DilaError(f"frames = {frames} must be at least 2 and size = {size} an even number from 32 to {MAX_SIZE}")
    if policy not in POLICIES:
        raise DilaError(f"policy = {policy!r} must be one of {', '.join(POLICIES)}")
    made = open_simulator(simulator)
    recorder = SimulatorRecorder(simulator, frames, size, seed, policy)
    settings = {"source": simulator, "version": VERSION, "fps": made.fps, **asdict(recorder)}
    return record(
        out, episodes, recorder, settings=settings, names=made.names, fps=made.fps, workers=workers, progress=progress,
        store=store or LeRobotV3(made.task),
    )  # fmt: skip


def moved(simulator: Simulator, states: np.ndarray) -> bool:
    """Whether an object moved by more than its threshold in an episode with these states ``frames A``."""
    spans = np.ptp(states, axis=0)
    parts = simulator.names["state"]
    return any(spans[parts.index(name)] > least for name, least in simulator.things.items())


def draw_off_screen() -> None:
    """Set environment variables for rendering without a display, unless they are already set."""
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("PYGLET_HEADLESS", "true")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


@contextmanager
def seeded(rng: np.random.Generator) -> Iterator[None]:
    """Context with NumPy's global generator, which some simulators use, seeded from `rng`; restored afterwards."""
    before: Any = np.random.get_state()
    np.random.seed(int(rng.integers(2**31)))
    try:
        yield
    finally:
        np.random.set_state(before)
