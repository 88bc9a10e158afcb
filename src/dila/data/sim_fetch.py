"""Fetch arm pushing a cube on a table: ``FetchPush-v4`` (https://robotics.farama.org/envs/fetch/push/).

Columns: ``action`` = commanded displacement of the gripper [x, y, z], as a share of the largest (the fourth component
of the simulator's action opens the gripper, which is locked here, and is always 0); ``state`` = gripper [x, y, z],
object [x, y, z] and its quaternion [w, x, y, z], in metres.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from dila.data.mujoco_view import MujocoView
from dila.data.simulators import UP, Leg, draw_off_screen
from dila.errors import MissingExtra
from dila.shapes import Tensor, UInt8

LOW, HIGH = np.array([1.12, 0.48, 0.42]), np.array([1.52, 1.02, 0.6])
"""Range of the gripper over the table."""
TABLE = 0.42
SCALE = 0.03
"""Metres that the gripper moves in a step with the largest action."""


class FetchPush:
    """See `dila.data.simulators.Simulator`."""

    fps = 25
    task = "push the cube about on the table"
    names: Mapping[str, tuple[str, ...]] = {
        "action": ("dx", "dy", "dz"),
        "state": ("gripper_x", "gripper_y", "gripper_z", "object_x", "object_y", "object_z", "object_qw", "object_qx",
                  "object_qy", "object_qz"),
    }  # fmt: skip
    things: Mapping[str, float] = {"object_x": 0.01, "object_y": 0.01}
    reach = 0.025
    wander = 0.55

    def __init__(self) -> None:
        gym = import_robotics("Fetch")
        self.env: Any = gym.make("FetchPush-v4", disable_env_checker=True).unwrapped
        self._dress()
        self.view = MujocoView(self.env.model, (1.3, 0.75, 0.45), 1.15, 145, -35)

    def reset(self, rng: np.random.Generator) -> None:
        """Reset to a random position of the cube on the table, with the gripper at its start."""
        self.env.reset(seed=int(rng.integers(2**31)))

    def state(self) -> np.ndarray:
        """Return gripper and cube."""
        return np.concatenate([self.position(), self._object()])

    def picture(self, size: int) -> UInt8[Tensor, "3 Y X"]:
        """Return a picture from in front of the table."""
        return self.view(self.env.data, size)

    def step(self, action: np.ndarray) -> None:
        """Take one step of 0.04 s."""
        self.env.step(np.append(action, np.float32(0)))

    def position(self) -> np.ndarray:
        """Return the position of the gripper."""
        return self.env._utils.get_site_xpos(self.env.model, self.env.data, "robot0:grip").copy()

    def plan(self, rng: np.random.Generator) -> list[Leg]:
        """Plan a push: move above one side of the cube, down, and through it to a random place on the table."""
        cube = self._object()[:3]
        aim = rng.uniform(LOW[:2] + 0.1, HIGH[:2] - 0.1)
        ahead = np.append(aim - cube[:2], 0) / (np.linalg.norm(aim - cube[:2]) + 1e-6)
        behind = cube - rng.uniform(0.09, 0.12) * ahead
        behind[2] = TABLE
        through = np.append(cube[:2] + max(0.12, np.linalg.norm(aim - cube[:2])) * ahead[:2], TABLE)
        above = behind + 0.11 * UP
        speed = rng.uniform(0.4, 0.9)
        up = self.position() + 0.08 * UP
        return [Leg(lambda: up, 6, 0.8), Leg(lambda: above, 22, 0.9), Leg(lambda: behind, 12, 0.8),
                Leg(lambda: through, 22, speed)]  # fmt: skip

    def towards(self, gap: np.ndarray, leg: Leg) -> np.ndarray:
        """Return the action straight along the gap."""
        return gap / SCALE * min(1.0, leg.speed / (np.abs(gap / SCALE).max() + 1e-6))

    def close(self) -> None:
        """Release the rendering context."""
        self.view.close()

    def strays(self) -> np.ndarray | None:
        """Return a point over the table if the gripper has left it."""
        here = self.position()
        inside = np.clip(here, LOW - 0.02, HIGH + 0.05)
        return None if np.array_equal(here, inside) else np.clip(here, LOW + 0.03, HIGH)

    def _dress(self) -> None:
        """Colour the cube and hide the marker at the commanded position of the gripper."""
        model = self.env.model
        cube = model.geom("object0")
        cube.matid[:], cube.rgba[:] = -1, (0.9, 0.35, 0.1, 1)
        model.geom_rgba[np.isin(model.geom_bodyid, np.flatnonzero(model.body_mocapid >= 0)), 3] = 0

    def _object(self) -> np.ndarray:
        return self.env._utils.get_joint_qpos(self.env.model, self.env.data, "object0:joint").copy()


def import_robotics(what: str) -> Any:
    """Import Gymnasium and register the environments of gymnasium-robotics; raises `MissingExtra`."""
    draw_off_screen()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import gymnasium
            import gymnasium_robotics
    except ImportError as error:
        raise MissingExtra(f"recording {what}", "gymnasium-robotics", "sim") from error
    gymnasium.register_envs(gymnasium_robotics)
    return gymnasium
