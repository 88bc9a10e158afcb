"""VP2's robosuite scene on the current robosuite: a Panda arm pushing two boxes, a cylinder and a ball.

Shapes, masses, friction, initial positions and the camera (``agentview_shift_2``) are those of ``PushCenterMulti`` in
VP2's fork of robosuite (https://github.com/s-tian/robosuite), so that its states have the same meaning here
(`dila.planning.vp2_files`). Differences: plain colours instead of random textures, MuJoCo's renderer instead of
iGibson's, and a step of 0.2 s, so that the largest action moves the hand by 3 to 4 cm.

Columns: as in `dila.data.sim_robosuite`, with box, small box, cylinder and ball as the cubes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dila.data.sim_robosuite import TABLE, Push

THINGS: Mapping[str, str] = {
    "box": "cube_joint0", "small_box": "cube2_joint0", "cylinder": "cylinder_joint0", "ball": "ball_joint0",
}  # fmt: skip
"""Joints of the objects, in the order of VP2's states."""


class PushThings(Push):
    """Four objects, pushed around with the closed hand."""

    fps = 5
    low, high = np.array([-0.2, -0.28, TABLE + 0.01]), np.array([0.32, 0.28, TABLE + 0.3])
    camera = ((0.076, 0.0, TABLE + 0.001), 0.75, 180, -36.9)
    hover = 0.19
    slow, fast, brisk = 0.6, 1.0, 1.0
    wider: Mapping[str, float] = {
        "cube_joint0": 0.05, "cube2_joint0": 0.03, "cylinder_joint0": 0.04, "ball_joint0": 0.05,
    }  # fmt: skip

    def __init__(self) -> None:
        super(Push, self).__init__("push the things about", _define, THINGS)


def _define() -> str:
    """Register the scene with robosuite and return its name."""
    from robosuite.environments.manipulation.manipulation_env import ManipulationEnv
    from robosuite.models.arenas import TableArena
    from robosuite.models.objects import BallObject, BoxObject, CylinderObject
    from robosuite.models.tasks import ManipulationTask
    from robosuite.utils.placement_samplers import UniformRandomSampler

    class PushCenterMulti(ManipulationEnv):
        """The scene, without reward or termination."""

        def __init__(self, **settings: Any) -> None:
            super().__init__(initialization_noise="default", **settings)

        def reward(self, action: Any = None) -> float:
            return 0.0

        def _check_success(self) -> bool:
            return False

        def _load_model(self) -> None:
            super()._load_model()
            width, top = 0.8, np.array([0, 0, TABLE])
            robot = self.robots[0].robot_model
            robot.set_base_xpos(robot.base_xpos_offset["table"](width))
            arena = TableArena(table_full_size=(width, width, 0.05), table_offset=top)
            arena.set_origin([0, 0, 0])
            common: dict[str, Any] = {"density": 1000, "friction": [0.7, 0.005, 0.0001]}
            self.things = [
                BoxObject(name="cube", size=[0.06] * 3, rgba=[0.75, 0.15, 0.12, 1], **common),
                BoxObject(name="cube2", size=[0.04] * 3, rgba=[0.15, 0.25, 0.75, 1], **common),
                CylinderObject(name="cylinder", size=[0.06, 0.06], rgba=[0.85, 0.7, 0.15, 1], **common),
                BallObject(name="ball", size=[0.07], rgba=[0.15, 0.6, 0.25, 1], **common),
            ]
            self.places = UniformRandomSampler(
                name="places", mujoco_objects=self.things, x_range=[-0.1, 0.3], y_range=[-0.15, 0.15], rotation=None,
                ensure_object_boundary_in_range=False, ensure_valid_placement=True, reference_pos=top, z_offset=0.01,
            )  # fmt: skip
            self.model = ManipulationTask(arena, [robot], self.things)

        def _reset_internal(self) -> None:
            super()._reset_internal()
            data: Any = self.sim.data  # type: ignore[union-attr]
            for place, turned, thing in self.places.sample().values():
                data.set_joint_qpos(thing.joints[0], np.concatenate([place, turned]))

    return PushCenterMulti.__name__
