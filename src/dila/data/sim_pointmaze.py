"""Ball in a maze: ``PointMaze_Medium-v3`` (https://robotics.farama.org/envs/maze/point_maze/).

Columns: ``action`` = force [x, y], as a share of the largest, held for the five steps of 0.01 s of a frame; ``state`` =
[x, y, vx, vy], in metres (one cell of the maze is 1 m) and metres a second.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dila.data.mujoco_view import MujocoView
from dila.data.sim_fetch import import_robotics
from dila.data.simulators import Leg
from dila.shapes import Tensor, UInt8

STEPS = 5
SPEED = 2.0
"""Target velocity of a leg of speed 1, in metres a second."""
BALL = 0.28
"""Drawn radius of the ball; the radius for collisions, 0.1, would be three pixels at 128 pixels a side."""


class PointMaze:
    """See `dila.data.simulators.Simulator`."""

    fps = 20
    task = "roll through the maze"
    names: Mapping[str, tuple[str, ...]] = {"action": ("fx", "fy"), "state": ("x", "y", "vx", "vy")}
    things: Mapping[str, float] = {"x": 0.5, "y": 0.5}
    reach = 0.3
    wander = 0.25

    def __init__(self) -> None:
        gym = import_robotics("the point maze")
        self.env: Any = gym.make("PointMaze_Medium-v3", continuing_task=True, disable_env_checker=True).unwrapped
        Path(self.env.tmp_xml_file_path).unlink(missing_ok=True)  # it has been loaded, and nothing else removes it
        model = self.env.point_env.model
        # A visible target would reveal the actions of a goal-directed policy.
        model.site("target").rgba[3] = 0
        model.site("particle_site").size[:] = BALL
        model.site("particle_site").rgba[:] = (0.3, 0.95, 0.45, 1)
        self.view = MujocoView(model, (0, 0, 0), 9.0, 90, -90, sites=True)

    def reset(self, rng: np.random.Generator) -> None:
        """Reset to a random free cell, at rest."""
        self.env.reset(seed=int(rng.integers(2**31)))

    def state(self) -> np.ndarray:
        """Return position and velocity."""
        data = self.env.point_env.data
        return np.concatenate([data.qpos[:2], data.qvel[:2]])

    def picture(self, size: int) -> UInt8[Tensor, "3 Y X"]:
        """Return a picture from above."""
        return self.view(self.env.point_env.data, size)

    def step(self, action: np.ndarray) -> None:
        """Take one frame of 0.05 s."""
        for _ in range(STEPS):
            self.env.point_env.step(action)

    def position(self) -> np.ndarray:
        """Return the position of the ball."""
        return self.state()[:2]

    def plan(self, rng: np.random.Generator) -> list[Leg]:
        """Plan the shortest path to a random free cell."""
        maze = self.env.maze
        free = [tuple(cell) for cell in np.argwhere(np.array(maze.maze_map) != 1).tolist()]
        here = tuple(int(c) for c in maze.cell_xy_to_rowcol(self.position()))
        path = _path(free, here, free[int(rng.integers(len(free)))])
        speed = rng.uniform(0.4, 1.0)
        goals = [maze.cell_rowcol_to_xy(np.array(cell)) + rng.normal(0, 0.08, 2) for cell in path]
        return [Leg(lambda goal=goal: goal, 15, speed) for goal in goals]

    def towards(self, gap: np.ndarray, leg: Leg) -> np.ndarray:
        """Return the force that accelerates the ball to the speed of the leg along the gap."""
        wanted = gap * min(2.5, leg.speed * SPEED / (np.linalg.norm(gap) + 1e-6))
        return 0.5 * (wanted - self.state()[2:])

    def close(self) -> None:
        """Release the rendering context."""
        self.view.close()

    def strays(self) -> np.ndarray | None:
        """Return None: walls keep the ball inside."""
        return None


def _path(free: list[tuple[int, ...]], start: tuple[int, ...], goal: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shortest path over free cells, without the start; only the start if there is no path."""
    came: dict[tuple[int, ...], tuple[int, ...]] = {start: start}
    queue = [start]
    for cell in queue:
        for step in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            near = (cell[0] + step[0], cell[1] + step[1])
            if near in free and near not in came:
                came[near] = cell
                queue.append(near)
    path = [goal] if goal in came else [start]
    while path[-1] != start:
        path.append(came[path[-1]])
    return path[-2::-1] or [start]
