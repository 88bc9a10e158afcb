"""Planning in RoboDesk: the tasks of VP2 (pictures and actions as in `dila.data.sim_robodesk`).

VP2 measures success only. Here the score is the share of the task that is left to do: at least `SUCCESS` until
RoboDesk's own success condition holds, then 0. An episode starts `LEAD` steps before its script succeeds, or earlier if
almost nothing is left to do by then; its goal is the state after the script succeeded. Slide and blocks are pushed,
buttons are pressed, and the drawer is pushed open from inside, in episodes in which it starts slightly open.
"""

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any

import numpy as np

from dila.data.sim_robodesk import RoboDesk
from dila.data.simulators import EAST, NORTH, UP, Driver, Leg
from dila.planning.env_simulators import NEAR, SimulatorBody
from dila.planning.environment import SUCCESS, Staged, Task, driven

COLOURS = ("red", "green", "blue")
OPEN, PRESSED, LOW, STAY = 0.55, -0.00453, 0.6, 0.01
"""RoboDesk's thresholds: slide open, button pressed, block below the table, block not moved."""
PULLED = 0.2
"""Metres that the drawer must be open."""
LEAD = 12
"""Minimum number of steps between the start of an episode and the script's success."""

ARM = 9
"""Number of joints of the arm, which come first in the state."""
LOWEST = 0.8
"""Height of the hand at which the fingers touch the desk."""
AJAR = 0.085
"""Metres that the drawer must be open for the fingers to fit behind its front."""
PATIENCE = 140
"""Maximum number of steps of a script."""

Legs = Callable[[RoboDesk, np.random.Generator], list[Leg]]
"""Makes the legs of a script. MuJoCo's arrays are views: positions taken without ``copy`` follow the object."""


class DeskBody(SimulatorBody):
    """A robot arm at a desk. Facts: the simulator's state, the three lights, and the blocks' positions at reset."""

    width = 76
    """Length of VP2's states, including the hand's position, which follows from the rest."""

    def __init__(self) -> None:
        super().__init__(RoboDesk(), lambda sim: (sim.physics.model.ptr, sim.physics.data.ptr))
        self.stood = np.zeros(9)

    def reset(self, rng: np.random.Generator) -> None:
        """Reset as in the recordings."""
        super().reset(rng)
        self.stood = self._blocks()

    def facts(self) -> np.ndarray:
        """Return the facts; see the class."""
        desk: Any = self.simulator
        lights = [float(desk.physics.named.data.qpos[f"{colour}_light"][0]) for colour in COLOURS]
        return np.concatenate([desk.state(), lights, self.stood])

    def restore(self, snapshot: tuple[np.ndarray, list[dict[str, Any]]]) -> None:
        """Restore a snapshot, and the copy of the physics in which inverse kinematics is solved."""
        super().restore(snapshot)
        desk: Any = self.simulator
        desk.env.physics_copy.data.qpos[:] = desk.physics.data.qpos[:]

    def put(self, state: np.ndarray) -> None:
        """Set a state of VP2 (`dila.planning.vp2_files`); its block positions count as those at reset."""
        physics: Any = self.simulator.physics  # type: ignore[attr-defined]
        arm, things = ARM, physics.model.nq - ARM
        physics.reset()
        physics.data.qpos[:] = np.concatenate([state[:arm], state[2 * arm : 2 * arm + things]])
        speeds = state[2 * arm + things :][: physics.model.nv - arm]
        physics.data.qvel[:] = np.concatenate([state[arm : 2 * arm], speeds])
        physics.forward()
        self.simulator.env.physics_copy.data.qpos[:] = physics.data.qpos[:]  # type: ignore[attr-defined]
        self.stood = self._blocks()

    def _blocks(self) -> np.ndarray:
        state = self.simulator.state()
        return np.concatenate([state[i : i + 3] for i in BLOCKS.values()])


SLIDE, DRAWER = 13, 12
BLOCKS = {"ball": 17, "upright_block": 24, "flat_block": 31}
"""Indices into the facts: the simulator's state (see its names), then lights, then block positions at reset."""
LIGHTS: dict[str, int] = dict(zip(COLOURS, (38, 39, 40), strict=True))
STOOD = dict(zip(BLOCKS, (41, 44, 47), strict=True))


def slide_left(facts: np.ndarray, goal: np.ndarray) -> float:
    """Share of the slide's distance that is left."""
    return _left(OPEN - facts[SLIDE], OPEN)


def drawer_left(facts: np.ndarray, goal: np.ndarray) -> float:
    """Share of the drawer's distance that is left; its position is negative when open."""
    return _left(PULLED + facts[DRAWER], PULLED)


def button_left(facts: np.ndarray, goal: np.ndarray, *, colour: str) -> float:
    """Share of the button's travel that is left, measured by the position of its light."""
    return _left(facts[LIGHTS[colour]] - PRESSED, -PRESSED)


def block_left(facts: np.ndarray, goal: np.ndarray, *, block: str) -> float:
    """Share of the block's horizontal distance to the goal that is left; 1 if another block has moved, 0 if it fell."""
    others = [name for name in BLOCKS if name != block]
    if any(np.linalg.norm(_block(facts, name) - _stood(facts, name)) > STAY for name in others):
        return 1.0
    if facts[BLOCKS[block] + 2] < LOW:
        return 0.0
    way, start = _block(facts, block) - _block(goal, block), _stood(facts, block) - _block(goal, block)
    return _left(float(np.linalg.norm(way[:2])) + 1e-9, float(np.linalg.norm(start[:2])) + 1e-9)


def _left(rest: float, whole: float) -> float:
    return 0.0 if rest < 0 else float(np.clip(rest / whole, SUCCESS, 1.0))


def _block(facts: np.ndarray, name: str) -> np.ndarray:
    return facts[BLOCKS[name] : BLOCKS[name] + 3]


def _stood(facts: np.ndarray, name: str) -> np.ndarray:
    return facts[STOOD[name] : STOOD[name] + 3]


def _slide_legs(desk: RoboDesk, rng: np.random.Generator) -> list[Leg]:
    """Push the side of the handle to the right."""
    handle = desk.physics.named.data.site_xpos["slide_handle"].copy()
    return [*_to(handle - 0.1 * EAST), Leg(lambda: handle + 0.7 * EAST, 100, 1.0)]


def _drawer_legs(desk: RoboDesk, rng: np.random.Generator) -> list[Leg]:
    """Push the front from behind, towards the arm; the hand rises as it comes nearer, so lower it again repeatedly."""
    handle = desk.physics.named.data.geom_xpos["drawer_handle"]

    def over(height: float) -> Callable[[], np.ndarray]:
        return lambda: handle + 0.095 * NORTH + height * UP

    def pulled() -> np.ndarray:
        return np.array([handle[0], desk.position()[1] - 0.08, handle[2] + 0.04])

    once = [Leg(over(0.12), 10, 0.9), Leg(over(0.03), 12, 0.8), Leg(pulled, 15, 1.0, stay=True)]
    return [Leg(over(0.2), 25, 0.9), Leg(over(0.03), 25, 0.8), once[-1], *once, *once, *once]


def _block_legs(desk: RoboDesk, rng: np.random.Generator, *, block: str) -> list[Leg]:
    """Push the block from its left, and follow it to the right until it falls off the desk."""
    place = desk.physics.named.data.xpos[block]

    def through() -> np.ndarray:
        return np.array([place[0] + 0.12, place[1], LOWEST - 0.01])

    return [*_to(place - 0.12 * EAST - 0.05 * UP), Leg(through, 80, 1.0, stay=True)]


def _button_legs(desk: RoboDesk, rng: np.random.Generator, *, colour: str) -> list[Leg]:
    """Press the button from the front, downwards."""
    button = desk.physics.named.data.xpos[f"{colour}_button"].copy()
    return [*_to(button - 0.04 * NORTH), Leg(lambda: button + 0.04 * NORTH - 0.02 * UP, 16, 0.8)]


def _to(place: np.ndarray) -> list[Leg]:
    low = np.maximum(place, [-1, 0, LOWEST])
    return [Leg(lambda: low + 0.12 * UP, 25, 0.9), Leg(lambda: low, 10, 0.7)]


def _scripted(desk: Any, legs: Legs) -> Any:
    """Copy of the `RoboDesk` with a single plan, for a `Driver`; the hand may leave the space above the desk."""
    alone = copy(desk)
    alone.plan = partial(legs, desk)
    alone.strays = lambda: None
    return alone


def _stage(
    body: DeskBody,
    rng: np.random.Generator,
    *,
    legs: Legs,
    left: Callable[[np.ndarray, np.ndarray], float],
    ready: Callable[[np.ndarray], bool] = lambda facts: True,
) -> Staged | None:
    body.reset(rng)
    while not ready(body.facts()):
        body.reset(rng)
    driver = Driver(_scripted(body.simulator, legs), rng, "scripted")
    nowhere = np.zeros(len(body.facts()))
    return driven(
        body, driver.action, PATIENCE, lambda first, now: left(now, nowhere) < SUCCESS, LEAD, 0,
        worth=lambda facts: left(facts, nowhere) > NEAR,
    )  # fmt: skip


def _task(legs: Legs, left: Callable[[np.ndarray, np.ndarray], float], **ready: Callable[[np.ndarray], bool]) -> Task:
    return Task(partial(_stage, legs=legs, left=left, **ready), left)


OPEN_SLIDE = _task(_slide_legs, slide_left)
OPEN_DRAWER = _task(_drawer_legs, drawer_left, ready=lambda facts: facts[DRAWER] < -AJAR)
PUSH_RED, PUSH_GREEN, PUSH_BLUE = (
    _task(partial(_button_legs, colour=colour), partial(button_left, colour=colour)) for colour in COLOURS
)
UPRIGHT_OFF, FLAT_OFF = (
    _task(partial(_block_legs, block=block), partial(block_left, block=block))
    for block in ("upright_block", "flat_block")
)
