"""Planning in the MuJoCo simulators of `dila.data`: point maze, Fetch push, robosuite push, VP2's robosuite.

Pictures and actions are those of the recordings. A snapshot is MuJoCo's full integration state plus the internal state
of the arm's controllers. Starts and goals come from the recordings' scripts (`dila.planning.environment.driven`).

Scores: in the maze, the distance to the goal in maze widths (8 m); in pushes, the distance of the object from its goal
in metres, the largest if there are several objects.
"""

import copy
import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from dila.data.sim_fetch import FetchPush
from dila.data.sim_pointmaze import PointMaze
from dila.data.sim_robosuite import TABLE, Push
from dila.data.sim_robosuite_vp2 import THINGS, PushThings
from dila.data.simulators import Driver, Simulator
from dila.planning.environment import SUCCESS, Staged, Task, driven
from dila.planning.planner import Limits
from dila.shapes import Tensor, UInt8

MAZE = 8.0
"""Width of the maze in metres."""
NEAR = 2 * SUCCESS
"""Minimum initial score of an episode, so that there is something to do."""


class SimulatorBody:
    """A simulator of `dila.data` as a `dila.planning.environment.Body`.

    Args:
        simulator: the simulator, not shared with other environments.
        locate: returns its ``MjModel`` and ``MjData``.
        beside: returns objects with numeric state outside of MuJoCo, such as controllers and grippers.
    """

    relative: tuple[str, ...] = ()

    def __init__(
        self,
        simulator: Simulator,
        locate: Callable[[Any], tuple[Any, Any]],
        beside: Callable[[Any], Sequence[Any]] = lambda simulator: (),
    ):
        self.simulator = simulator
        self.locate, self.beside = locate, beside
        self.fps = self.simulator.fps
        self.names = self.simulator.names["action"]
        self.limits = Limits.unit(len(self.names))

    def reset(self, rng: np.random.Generator) -> None:
        """Reset as in the recordings."""
        self.simulator.reset(rng)

    def snapshot(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Return MuJoCo's integration state, and the numeric state outside of it."""
        mujoco: Any = importlib.import_module("mujoco")
        model, data = self.locate(self.simulator)
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(model, kind))
        mujoco.mj_getState(model, data, state, kind)
        return state, [copy.deepcopy(_numbers(thing)) for thing in self.beside(self.simulator)]

    def restore(self, snapshot: tuple[np.ndarray, list[dict[str, Any]]]) -> None:
        """Restore a snapshot; the state is set twice, because `mj_forward` changes its solver warm start."""
        mujoco: Any = importlib.import_module("mujoco")
        model, data = self.locate(self.simulator)
        state, numbers = snapshot
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        mujoco.mj_setState(model, data, state, kind)
        mujoco.mj_forward(model, data)
        mujoco.mj_setState(model, data, state, kind)
        for thing, its in zip(self.beside(self.simulator), numbers, strict=True):
            vars(thing).update(copy.deepcopy(its))

    def facts(self) -> np.ndarray:
        """Return the simulator's state."""
        return self.simulator.state()

    def picture(self, size: int) -> UInt8[Tensor, "3 Y X"]:
        """Render as in the recordings."""
        return self.simulator.picture(size)

    def act(self, action: np.ndarray) -> None:
        """Advance by one raw step."""
        self.simulator.step(np.clip(action, -1, 1).astype(np.float32))

    def close(self) -> None:
        """Close the simulator and its rendering context."""
        self.simulator.close()


def _numbers(thing: Any) -> dict[str, Any]:
    """Attributes of an object that are numbers, arrays or None."""
    return {
        name: value for name, value in vars(thing).items() if isinstance(value, int | float | np.ndarray | type(None))
    }


class MazeBody(SimulatorBody):
    """A ball in a maze."""

    def __init__(self) -> None:
        super().__init__(PointMaze(), lambda sim: (sim.env.point_env.model, sim.env.point_env.data))


class FetchBody(SimulatorBody):
    """A robot arm and a cube."""

    def __init__(self) -> None:
        super().__init__(FetchPush(), lambda sim: (sim.env.model, sim.env.data))


class RobosuiteBody(SimulatorBody):
    """A robot arm and two cubes.

    Args:
        simulator: a simulator with other objects; None means two cubes.
    """

    def __init__(self, simulator: Push | None = None) -> None:
        super().__init__(
            simulator or Push(),
            lambda sim: (sim.env.sim.model._model, sim.env.sim.data._data),
            lambda sim: [*sim.env.robots[0].part_controllers.values(), *sim.env.robots[0].gripper.values()],
        )


class ThingsBody(RobosuiteBody):
    """VP2's scene: a robot arm, two boxes, a cylinder and a ball."""

    width = 71
    """Length of VP2's states."""

    def __init__(self) -> None:
        super().__init__(PushThings())

    def put(self, state: np.ndarray) -> None:
        """Set a state of VP2 (`dila.planning.vp2_files`), and reset the goals of the arm's controllers to it."""
        sim: Any = self.simulator.env.sim  # type: ignore[attr-defined]
        positions, speeds = sim.model.nq, sim.model.nv
        sim.reset()
        sim.data.qpos[:], sim.data.qvel[:] = state[1 : 1 + positions], state[1 + positions :][:speeds]
        sim.forward()
        for controller in self.simulator.env.robots[0].part_controllers.values():  # type: ignore[attr-defined]
            controller.update(force=True)
            controller.reset_goal()


def _stage(
    body: SimulatorBody,
    rng: np.random.Generator,
    *,
    things: Sequence[str],
    lead: int,
    ahead: int,
    least: float,
    far: Callable[[np.ndarray, np.ndarray], float],
) -> Staged | None:
    """Run the recordings' script until one of ``things`` has moved; None if it fails or the goal is too near."""
    body.reset(rng)
    driver = Driver(body.simulator, rng, "scripted")
    places = [body.simulator.names["state"].index(thing) for thing in things]

    def happened(first: np.ndarray, now: np.ndarray) -> bool:
        return bool(np.abs(now[places] - first[places]).max() > least)

    staged = driven(body, driver.action, 80, happened, lead, ahead)
    if staged is None:
        return None
    goal = body.facts()
    body.restore(staged.start)
    return staged if far(body.facts(), goal) > NEAR else None


def _maze_distance(facts: np.ndarray, goal: np.ndarray) -> float:
    return float(np.linalg.norm(facts[:2] - goal[:2])) / MAZE


def _fetch_distance(facts: np.ndarray, goal: np.ndarray) -> float:
    return float(np.linalg.norm(facts[3:6] - goal[3:6]))


def _farthest(facts: np.ndarray, goal: np.ndarray) -> float:
    """Largest distance of an object from its goal; in the state, objects start at index 5 and take 7 numbers each."""
    return float(max(np.linalg.norm(facts[i : i + 3] - goal[i : i + 3]) for i in range(5, len(facts), 7)))


def _farthest_on_the_table(facts: np.ndarray, goal: np.ndarray) -> float:
    """`_farthest`, or 0 if an object has fallen off the table in the goal."""
    return _farthest(facts, goal) if goal[7::7].min() > TABLE else 0.0


MAZE_REACH = Task(partial(_stage, things=("x", "y"), lead=3, ahead=34, least=0.05, far=_maze_distance), _maze_distance)
FETCH_PUSH = Task(
    partial(_stage, things=("object_x", "object_y"), lead=15, ahead=30, least=0.003, far=_fetch_distance),
    _fetch_distance,
)
CUBES_PUSH = Task(
    partial(_stage, things=("red_x", "red_y", "green_x", "green_y"), lead=4, ahead=12, least=0.003, far=_farthest),
    _farthest,
)
THINGS_PUSH = Task(
    partial(
        _stage, things=tuple(f"{thing}_{axis}" for thing in THINGS for axis in "xy"), lead=4, ahead=10, least=0.003,
        far=_farthest_on_the_table,
    ),
    _farthest,
)  # fmt: skip
