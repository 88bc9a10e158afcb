"""Recordings of real simulators: who drives them, and how an episode of any of them comes about.

Each simulator is one small file, ``sim_*.py``, with a class of the form of `Simulator`; `SIMULATORS` names them all.
Driving is the same everywhere: legs, queued by a plan of the simulator (go behind the cube, then through it), with
smooth noise on top, or the noise alone. The picture never shows a goal or a target, for the pixels would give the
action away.
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
"""To be raised when the same seed begins to give other data, so that no recording mixes the two."""
MEMORY = 0.85
"""Of the smooth noise from one step to the next."""
SWAY = 0.12
"""Of that noise on top of a plan, in shares of the largest action."""
MAX_SIZE = 512
EAST, NORTH, UP = np.eye(3)

Policy = Literal["random", "scripted", "mixed"]
POLICIES = ("random", "scripted", "mixed")


class Leg(NamedTuple):
    """Where to go, at most for so many steps. A goal of None is a leg of noise alone."""

    goal: Callable[[], np.ndarray] | None
    steps: int
    speed: float = 0.6
    """Share of the largest action."""
    rest: tuple[float, ...] = ()
    """The components of the action that are not a direction (a gripper: -1 open, 1 closed), as the simulator has it."""
    stay: bool = False
    """Stay for all the steps, also when there."""


@runtime_checkable
class Simulator(Protocol):
    """One simulator, to be reset again and again. Actions are float32 in [-1, 1], states float64 vectors."""

    @property
    def fps(self) -> int | float:
        """Steps a second."""
        ...

    task: str
    names: Mapping[str, tuple[str, ...]]
    """Component names of ``action`` and ``state``."""
    things: Mapping[str, float]
    """Components of the state by which an object is seen to have moved, and by how much they must change."""
    reach: float
    """Distance at which a leg's goal is reached."""
    wander: float
    """Of noise alone, in shares of the largest action."""

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; everything that is random comes from `rng`."""
        ...

    def state(self) -> np.ndarray:
        """What is the case now, as many numbers as ``names["state"]``."""
        ...

    def picture(self, size: int) -> UInt8[Tensor, "3 Y X"]:
        """What the camera sees now."""
        ...

    def step(self, action: np.ndarray) -> None:
        """Do exactly this for one frame."""
        ...

    def position(self) -> np.ndarray:
        """Of what is driven."""
        ...

    def plan(self, rng: np.random.Generator) -> list[Leg]:
        """The next legs."""
        ...

    def towards(self, gap: np.ndarray, leg: Leg) -> np.ndarray:
        """The action that moves what is driven along `gap`."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...

    def strays(self) -> np.ndarray | None:
        """Where to turn to when what is driven has left the scene, else None."""
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
"""Every simulator but Push-T (`dila.data.pusht`), by module and class; imported when it is used."""


_OPEN: dict[str, Simulator] = {}


def open_simulator(name: str) -> Simulator:
    """The simulator of that name, kept until another is opened, for to make one takes up to seconds.

    Raises:
        MissingExtra: its package is not installed.
        DilaError: an unknown name, or a machine that cannot draw off-screen.
    """
    load_plugins()
    if name not in SIMULATORS:
        raise DilaError(f"there is no simulator {name!r}; choose one of {', '.join(SIMULATORS)}")
    if name not in _OPEN:
        close_simulator()
        _OPEN[name] = named(SIMULATORS[name])()
    return _OPEN[name]


def close_simulator() -> None:
    """Close the one that is open, if one is."""
    while _OPEN:
        _OPEN.popitem()[1].close()


class Driver:
    """Chooses actions: the legs of a plan with smooth noise on top, or the noise alone."""

    def __init__(self, simulator: Simulator, rng: np.random.Generator, policy: Policy):
        self.simulator, self.rng, self.policy = simulator, rng, policy
        self.legs: deque[Leg] = deque()
        self.homing = False
        self.noise = rng.normal(size=len(simulator.names["action"]))

    def action(self) -> np.ndarray:
        """The next action, float32 in [-1, 1]."""
        self.noise = MEMORY * self.noise + (1 - MEMORY**2) ** 0.5 * self.rng.normal(size=len(self.noise))
        home = self.simulator.strays()
        if home is not None and not self.homing:
            # For a while, or it would tremble at the border.
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
    """From an episode's number to the episode; pickled to the worker processes."""

    simulator: str
    frames: int
    size: int
    seed: int
    policy: Policy

    def __call__(self, number: int) -> Recorded:
        """Run one episode, its own random stream fixed by (seed, number)."""
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
    """Record episodes, as a LeRobot data set if `store` is None; goes on where an interrupted recording was.

    Args:
        simulator: one of `SIMULATORS`.
        frames: of each episode.
        size: pixels a side, even, 32 to 512.
        seed: the same seed gives the same data for any number of workers.
        policy: "random", smooth noise; "scripted", plans that reach and push; or "mixed", now this and now that.
        out, episodes, workers, progress, store: as of `dila.data.recording.record`.

    Raises:
        MissingExtra: its package is not installed.
        DilaError: an argument out of range, or `out` holds a recording with other settings.
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
    """Whether in an episode, states ``frames A``, an object moved by more than the simulator's threshold."""
    spans = np.ptp(states, axis=0)
    parts = simulator.names["state"]
    return any(spans[parts.index(name)] > least for name, least in simulator.things.items())


def draw_off_screen() -> None:
    """Let MuJoCo and pyglet draw without a display; what the environment says already goes before."""
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("PYGLET_HEADLESS", "true")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


@contextmanager
def seeded(rng: np.random.Generator) -> Iterator[None]:
    """NumPy's global stream, which some simulators draw from, fixed by `rng` and put back afterwards."""
    before: Any = np.random.get_state()
    np.random.seed(int(rng.integers(2**31)))
    try:
        yield
    finally:
        np.random.set_state(before)
