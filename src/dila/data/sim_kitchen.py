"""Franka arm in a kitchen: ``FrankaKitchen-v1`` (https://robotics.farama.org/envs/franka_kitchen/franka_kitchen/).

Columns: ``action`` = commanded velocities of the seven joints and two fingers, as a share of the largest (2 rad/s), for
two steps of 0.08 s; ``state`` = positions of these nine joints, then hinges, slides and the kettle [x, y, z, qw, qx,
qy, qz], in radians and metres, without the noise that the simulator adds to observations.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from dila.data.mujoco_view import MujocoView
from dila.data.sim_fetch import import_robotics
from dila.data.simulators import Leg
from dila.shapes import Tensor, UInt8

ARM = tuple(f"joint{i}" for i in range(1, 8))
FIXTURES = ("knob1", "burner1", "knob2", "burner2", "knob3", "burner3", "knob4", "burner4", "light_switch", "light",
            "slide_cabinet", "left_hinge_cabinet", "right_hinge_cabinet", "microwave")  # fmt: skip
KETTLE = tuple(f"kettle_{part}" for part in ("x", "y", "z", "qw", "qx", "qy", "qz"))
REPEAT = 2
LARGEST = 2.0
"""Joint velocity of an action of 1, in radians a second."""
DAMPING = 0.05
LOW, HIGH = np.array([-0.9, -0.1, 1.6]), np.array([0.6, 0.9, 2.7])
PULL = {
    "kettle_site": (0.35, 0.35, 0.0),
    "microhandle_site": (0.1, -0.45, 0.0),
    "slide_site": (0.5, -0.05, 0.0),
    "hinge_site1": (-0.05, -0.45, 0.0),
    "light_site": (-0.35, 0.0, 0.0),
    "knob2_site": (0.2, 0.1, 0.15),
    "knob4_site": (0.2, 0.1, 0.15),
}
"""Sites that the arm reaches for, and the largest motion from there along each axis, to either side."""


class Kitchen:
    """See `dila.data.simulators.Simulator`."""

    fps = 6.25
    task = "reach for things in the kitchen and move them"
    names: Mapping[str, tuple[str, ...]] = {
        "action": (*(f"{joint}_velocity" for joint in ARM), "finger1_velocity", "finger2_velocity"),
        "state": (*ARM, "finger1", "finger2", *FIXTURES, *KETTLE),
    }
    things: Mapping[str, float] = {
        **{name: 0.1 for name in FIXTURES if not name.startswith(("burner", "light"))},
        "light_switch": 0.1, "slide_cabinet": 0.02, "kettle_x": 0.02, "kettle_y": 0.02,
    }  # fmt: skip
    reach = 0.05
    wander = 0.4

    def __init__(self) -> None:
        gym = import_robotics("the Franka kitchen")
        self.env: Any = gym.make(
            "FrankaKitchen-v1", terminate_on_tasks_completed=False, object_noise_ratio=0.0, robot_noise_ratio=0.0,
            disable_env_checker=True,
        ).unwrapped  # fmt: skip
        self.start = self.env.robot_env.init_qpos.copy()
        self.site = self.env.model.site("end_effector").id
        self.view = MujocoView(self.env.model, (-0.15, 0.45, 2.0), 2.0, 70, -28, hidden=(3, 4))

    def reset(self, rng: np.random.Generator) -> None:
        """Reset to closed doors, with the arm near its start."""
        self.env.robot_env.init_qpos[:] = self.start
        self.env.robot_env.init_qpos[:7] += rng.normal(0, 0.12, 7)
        self.env.reset(seed=int(rng.integers(2**31)))

    def state(self) -> np.ndarray:
        """Return all joint positions."""
        return self.env.data.qpos.copy()

    def picture(self, size: int) -> UInt8[Tensor, "3 Y X"]:
        """Return a picture from behind the arm's shoulder."""
        return self.view(self.env.data, size)

    def step(self, action: np.ndarray) -> None:
        """Take one frame of 0.16 s."""
        for _ in range(REPEAT):
            self.env.robot_env.step(action)

    def position(self) -> np.ndarray:
        """Return the position of the hand."""
        return self.env.data.site_xpos[self.site].copy()

    def plan(self, rng: np.random.Generator) -> list[Leg]:
        """Plan to reach one of the sites, close the hand, and move on."""
        thing = list(PULL)[int(rng.integers(len(PULL)))]
        slip = rng.normal(0, 0.02, 3)
        along = rng.choice([-1, 1], 3) * rng.uniform(0.6, 1.2, 3) * np.array(PULL[thing])
        speed = rng.uniform(0.6, 1.0)

        def place() -> np.ndarray:
            return self.env.data.site(thing).xpos + slip

        goal = place() + along
        return [Leg(place, 25, speed, (0.5,)), Leg(place, 3, 0.3, (-1.0,), stay=True),
                Leg(lambda: goal, 18, speed, (-1.0,))]  # fmt: skip

    def towards(self, gap: np.ndarray, leg: Leg) -> np.ndarray:
        """Return joint velocities that move the hand along the gap: damped least squares on its Jacobian."""
        mujoco: Any = importlib.import_module("mujoco")

        jacobian = np.zeros((3, self.env.model.nv))
        mujoco.mj_jacSite(self.env.model, self.env.data, jacobian, None, self.site)
        arm = jacobian[:, :7]
        wanted = 4 * gap * min(1.0, 0.25 * leg.speed / (np.linalg.norm(gap) + 1e-6))
        joints = arm.T @ np.linalg.solve(arm @ arm.T + DAMPING**2 * np.eye(3), wanted) / LARGEST
        joints *= min(1.0, leg.speed / (np.abs(joints).max() + 1e-6))
        return np.concatenate([joints, np.repeat(leg.rest or (0.0,), 2)])

    def close(self) -> None:
        """Release the rendering context."""
        self.view.close()

    def strays(self) -> np.ndarray | None:
        """Return a point between hob and cupboards if the hand has left that range."""
        here = self.position()
        inside = np.clip(here, LOW, HIGH)
        return None if np.array_equal(here, inside) else np.clip(here, LOW + 0.1, HIGH - 0.1)
