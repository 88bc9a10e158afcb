"""Panda arm lifting one cube or pushing two: ``Lift`` and ``Stack`` of robosuite (https://robosuite.ai).

The arm is controlled by robosuite's operational-space position controller (OSC_POSITION); the hand always points down.

Columns: ``action`` = displacement of the hand [dx, dy, dz] as a share of the largest (5 cm) and the gripper (-1 opens,
1 closes); ``state`` = hand [x, y, z], the two fingers, and [x, y, z] and quaternion [w, x, y, z] of every cube, in
metres.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from dila.data.mujoco_view import MujocoView
from dila.data.simulators import UP, Leg, draw_off_screen, seeded
from dila.errors import MissingExtra
from dila.shapes import Tensor, UInt8

SCALE = 0.05
TABLE = 0.8
SETTLE = 6
"""Steps after a reset, during which the cubes fall the last centimetre onto the table."""
OPEN, CLOSED = (-1.0,), (1.0,)
PARTS = ("x", "y", "z", "qw", "qx", "qy", "qz")


class Arm:
    """Base class of both tasks; see `dila.data.simulators.Simulator`."""

    fps = 10
    reach = 0.02
    wander = 0.5
    low, high = np.array([-0.22, -0.25, TABLE + 0.01]), np.array([0.22, 0.25, TABLE + 0.28])
    """Range of the hand over the table."""
    camera: tuple[tuple[float, float, float], float, float, float] = ((-0.04, -0.02, TABLE + 0.08), 0.72, 135, -32)
    """Camera of `MujocoView`, from across the table."""

    def __init__(self, task: str, scene: str | Callable[[], str], cubes: Mapping[str, str]):
        self.task, self.cubes = task, cubes
        self.env = _make(scene, self.fps)
        hand = ("hand_x", "hand_y", "hand_z", "finger_left", "finger_right")
        state = (*hand, *(f"{cube}_{part}" for cube in cubes for part in PARTS))
        self.names: Mapping[str, tuple[str, ...]] = {"action": ("dx", "dy", "dz", "grip"), "state": state}
        self.things: Mapping[str, float] = {f"{cube}_{axis}": 0.01 for cube in cubes for axis in "xyz"}
        self.view: MujocoView | None = None

    def reset(self, rng: np.random.Generator) -> None:
        """Reset to random positions of the cubes on the table, with the arm near its start."""
        with seeded(rng):
            self.env.reset()
        for _ in range(SETTLE):
            self.env.step(np.array([0, 0, 0, *OPEN]))

    def state(self) -> np.ndarray:
        """Return hand, fingers and cubes."""
        fingers = [self._joint(f"gripper0_right_finger_joint{i}") for i in (1, 2)]
        return np.concatenate([self.position(), *fingers, *(self._cube(joint) for joint in self.cubes.values())])

    def picture(self, size: int) -> UInt8[Tensor, "3 Y X"]:
        """Return a picture without collision shapes, which would cover the meshes."""
        if self.view is None:
            self.view = MujocoView(self.env.sim.model._model, *self.camera, hidden=(0,))
        return self.view(self.env.sim.data._data, size)

    def step(self, action: np.ndarray) -> None:
        """Take one step."""
        self.env.step(action)

    def position(self) -> np.ndarray:
        """Return the point between the fingers."""
        return np.array(self.env.sim.data.get_site_xpos("gripper0_right_grip_site"))

    def towards(self, gap: np.ndarray, leg: Leg) -> np.ndarray:
        """Return the action straight along the gap."""
        wanted = gap / SCALE * 1.5
        return np.append(wanted * min(1.0, leg.speed / (np.abs(wanted).max() + 1e-6)), leg.rest or OPEN)

    def close(self) -> None:
        """Release the rendering context."""
        if self.view is not None:
            self.view.close()

    def strays(self) -> np.ndarray | None:
        """Return a point over the table if the hand has left it."""
        here = self.position()
        inside = np.clip(here, self.low - 0.01, self.high + 0.05)
        return None if np.array_equal(here, inside) else np.clip(here, self.low + 0.02, self.high - 0.03)

    def _joint(self, name: str) -> np.ndarray:
        return np.atleast_1d(self.env.sim.data.get_joint_qpos(name))

    def _cube(self, joint: str) -> np.ndarray:
        return np.array(self.env.sim.data.get_joint_qpos(joint))


class Lift(Arm):
    """One cube, grasped and lifted."""

    def __init__(self) -> None:
        super().__init__("lift the cube", "Lift", {"cube": "cube_joint0"})

    def plan(self, rng: np.random.Generator) -> list[Leg]:
        """Plan to grasp the cube, lift it, carry it to a random place and release it."""
        up = rng.uniform(0.1, 0.22)
        away = np.append(rng.uniform(self.low[:2] + 0.06, self.high[:2] - 0.06), TABLE + up)
        slip = rng.normal(0, 0.006, 3)  # so that some grasps fail
        speed = rng.uniform(0.4, 0.8)

        def cube() -> np.ndarray:
            return self._cube("cube_joint0")[:3] + slip

        return [
            Leg(lambda: cube() + 0.09 * UP, 30, speed, OPEN), Leg(cube, 20, 0.4, OPEN),
            Leg(cube, 5, 0.2, CLOSED, stay=True), Leg(lambda: away, int(rng.integers(12, 24)), speed, CLOSED),
            Leg(lambda: away, 4, 0.3, OPEN, stay=True),
        ]  # fmt: skip


class Push(Arm):
    """Two cubes, pushed around with the closed hand."""

    hover = 0.1
    """Height in metres above the start of a push at which the hand approaches."""
    wider: Mapping[str, float] = {}
    """Extra width of objects compared with a cube, in metres, by joint."""
    slow, fast, brisk = 0.25, 0.6, 0.8
    """Minimum and maximum speed of a push, and speed of the approach."""

    def __init__(self) -> None:
        super().__init__("push the cubes about", "Stack", {"red": "cubeA_joint0", "green": "cubeB_joint0"})

    def plan(self, rng: np.random.Generator) -> list[Leg]:
        """Plan to push an object: down beside it, then through it to a random place on the table."""
        joints = list(self.cubes.values())
        joint = joints[int(rng.integers(len(joints)))]
        cube, wider = self._cube(joint)[:3], self.wider.get(joint, 0.0)
        aim = rng.uniform(self.low[:2] + 0.05, self.high[:2] - 0.05)
        ahead = np.append(aim - cube[:2], 0) / (np.linalg.norm(aim - cube[:2]) + 1e-6)
        behind = cube - (rng.uniform(0.08, 0.1) + wider) * ahead
        behind[2] = TABLE + 0.025
        through = behind + (0.08 + max(0.1, float(np.linalg.norm(aim - cube[:2])))) * ahead
        speed = rng.uniform(self.slow, self.fast)
        here = self.position()
        up = np.append(here[:2], max(here[2], TABLE + 0.02 + self.hover))
        return [Leg(lambda: up, 8, self.brisk, CLOSED), Leg(lambda: behind + self.hover * UP, 25, self.brisk, CLOSED),
                Leg(lambda: behind, 12, 0.5, CLOSED), Leg(lambda: through, 30, speed, CLOSED)]  # fmt: skip


def _make(scene: str | Callable[[], str], rate: int) -> Any:
    draw_off_screen()
    with warnings.catch_warnings(), _quiet(), seeded(np.random.default_rng(0)):  # the size of Lift's cube is random
        warnings.simplefilter("ignore")
        try:
            import robosuite
            from robosuite.controllers import load_composite_controller_config
        except ImportError as error:
            raise MissingExtra("recording robosuite", "robosuite", "sim") from error
        controller: Any = load_composite_controller_config(controller="BASIC", robot="Panda")
        parts = controller["body_parts"]
        parts["right"] |= {"type": "OSC_POSITION", "output_max": [SCALE] * 3, "output_min": [-SCALE] * 3}
        controller["body_parts"] = {"right": parts["right"]}
        return robosuite.make(
            scene if isinstance(scene, str) else scene(), robots="Panda", controller_configs=controller,
            has_renderer=False, has_offscreen_renderer=False, use_camera_obs=False, control_freq=rate, ignore_done=True,
            hard_reset=False,
        )  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without the warnings of robosuite about files and packages that are not needed here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
