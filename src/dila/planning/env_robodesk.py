"""RoboDesk's tasks of VP2 to plan in (`dila.data.sim_robodesk`, the same pictures and actions).

VP2 knows success alone; here a score is what is left to do as a share, at least `SUCCESS` until RoboDesk's own success
holds and 0 from then on, so that there is progress to speak of. An episode begins `LEAD` steps before its script gets
there, or a little earlier if next to nothing is left by then, and its goal is where the script got: slide and blocks
are pushed, buttons pressed, and the drawer, where it stands open a hand's breadth, is pushed out from within.
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
"""RoboDesk's thresholds: of the slide, of a light, of a block below the table, of blocks that did not move."""
PULLED = 0.2
LEAD = 12
"""Steps before the success at which an episode begins, at the latest."""

ARM = 9
"""Joints of the arm, which come first."""
LOWEST = 0.8
"""Where the fingers touch the desk."""
AJAR = 0.085
"""Metres that the drawer stands open where the fingers find room behind its front."""
PATIENCE = 140
"""Steps that a script has at most."""

Legs = Callable[[RoboDesk, np.random.Generator], list[Leg]]
"""Places that they take without ``copy`` move with the thing."""


class DeskBody(SimulatorBody):
    """An arm at a desk. Facts are the simulator's state, the three lights, and where the blocks stood at the reset."""

    width = 76
    """Of VP2's states, the hand's three included, which follow from the others."""

    def __init__(self) -> None:
        super().__init__(RoboDesk(), lambda sim: (sim.physics.model.ptr, sim.physics.data.ptr))
        self.stood = np.zeros(9)

    def reset(self, rng: np.random.Generator) -> None:
        """As the recordings begin."""
        super().reset(rng)
        self.stood = self._blocks()

    def facts(self) -> np.ndarray:
        """See the class."""
        desk: Any = self.simulator
        lights = [float(desk.physics.named.data.qpos[f"{colour}_light"][0]) for colour in COLOURS]
        return np.concatenate([desk.state(), lights, self.stood])

    def restore(self, snapshot: tuple[np.ndarray, list[dict[str, Any]]]) -> None:
        """And the arm's inner model, which inverse kinematics is solved in."""
        super().restore(snapshot)
        desk: Any = self.simulator
        desk.env.physics_copy.data.qpos[:] = desk.physics.data.qpos[:]

    def put(self, state: np.ndarray) -> None:
        """Into a state of VP2 (`dila.planning.vp2_files`); the blocks stand where they are from now on."""
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
"""Places of things in the simulator's state, see its names; lights and standing places come after."""
LIGHTS: dict[str, int] = dict(zip(COLOURS, (38, 39, 40), strict=True))
STOOD = dict(zip(BLOCKS, (41, 44, 47), strict=True))


def slide_left(facts: np.ndarray, goal: np.ndarray) -> float:
    """Of the slide's way."""
    return _left(OPEN - facts[SLIDE], OPEN)


def drawer_left(facts: np.ndarray, goal: np.ndarray) -> float:
    """Of the drawer's way, which is negative."""
    return _left(PULLED + facts[DRAWER], PULLED)


def button_left(facts: np.ndarray, goal: np.ndarray, *, colour: str) -> float:
    """Of the light's way that the button moves."""
    return _left(facts[LIGHTS[colour]] - PRESSED, -PRESSED)


def block_left(facts: np.ndarray, goal: np.ndarray, *, block: str) -> float:
    """Of the block's way to where it lies after the fall; all of it as soon as another block has moved."""
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
    """Against the side of the handle, to the right."""
    handle = desk.physics.named.data.site_xpos["slide_handle"].copy()
    return [*_to(handle - 0.1 * EAST), Leg(lambda: handle + 0.7 * EAST, 100, 1.0)]


def _drawer_legs(desk: RoboDesk, rng: np.random.Generator) -> list[Leg]:
    """Behind the front and towards the arm, which climbs as it comes nearer: down again, and on."""
    handle = desk.physics.named.data.geom_xpos["drawer_handle"]

    def over(height: float) -> Callable[[], np.ndarray]:
        return lambda: handle + 0.095 * NORTH + height * UP

    def pulled() -> np.ndarray:
        return np.array([handle[0], desk.position()[1] - 0.08, handle[2] + 0.04])

    once = [Leg(over(0.12), 10, 0.9), Leg(over(0.03), 12, 0.8), Leg(pulled, 15, 1.0, stay=True)]
    return [Leg(over(0.2), 25, 0.9), Leg(over(0.03), 25, 0.8), once[-1], *once, *once, *once]


def _block_legs(desk: RoboDesk, rng: np.random.Generator, *, block: str) -> list[Leg]:
    """From its left, and after it to the right wherever it turns, until it falls off the desk."""
    place = desk.physics.named.data.xpos[block]

    def through() -> np.ndarray:
        return np.array([place[0] + 0.12, place[1], LOWEST - 0.01])

    return [*_to(place - 0.12 * EAST - 0.05 * UP), Leg(through, 80, 1.0, stay=True)]


def _button_legs(desk: RoboDesk, rng: np.random.Generator, *, colour: str) -> list[Leg]:
    """From the front, down through it."""
    button = desk.physics.named.data.xpos[f"{colour}_button"].copy()
    return [*_to(button - 0.04 * NORTH), Leg(lambda: button + 0.04 * NORTH - 0.02 * UP, 16, 0.8)]


def _to(place: np.ndarray) -> list[Leg]:
    low = np.maximum(place, [-1, 0, LOWEST])
    return [Leg(lambda: low + 0.12 * UP, 25, 0.9), Leg(lambda: low, 10, 0.7)]


def _scripted(desk: Any, legs: Legs) -> Any:
    """The `RoboDesk` with one plan alone, for a `Driver`, that may leave the room over the desk."""
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
