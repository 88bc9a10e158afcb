"""Planning in Push-T: reach a position with the agent, or push the block to a pose (pictures as in `dila.data.pusht`).

An action is the displacement [x, y], in units of the board (0..512), from the agent to the target that it is pulled
towards, applied anew in every raw step: a held action moves the agent steadily. (The simulator's own action, the
absolute target position, does not determine a motion without the agent's position.) Facts: agent [x, y], block [x, y,
angle].
"""

from typing import Any, NamedTuple

import numpy as np

from dila.data.pusht import BOARD, FPS, NAMES, Driver, block_centre, make_pusht, picture, reset_clear
from dila.planning.environment import Staged, Task, driven
from dila.planning.planner import Limits
from dila.shapes import Tensor, UInt8

LIMIT = 150.0
"""Maximum displacement per axis; it moves the agent by 60 per step, the fastest in the recordings."""
BARS = (
    ((-60.0, 0.0), (60.0, 0.0), (60.0, 30.0), (-60.0, 30.0)),
    ((-15.0, 30.0), (15.0, 30.0), (15.0, 120.0), (-15.0, 120.0)),
)
"""Corners of the two bars of the T in its own frame."""
CORNERS = np.array([corner for bar in BARS for corner in bar])


class _Snapshot(NamedTuple):
    agent: tuple[tuple[float, float], tuple[float, float]]
    block: tuple[tuple[float, float], float, tuple[float, float], float]


class PushTBody:
    """See `dila.planning.environment.Body`."""

    fps = FPS
    names, relative = NAMES["action"], NAMES["state"][:2]

    def __init__(self) -> None:
        import torch

        self.limits = Limits(torch.full((2,), -LIMIT), torch.full((2,), LIMIT))
        self.env: Any = make_pusht(10**9)

    def reset(self, rng: np.random.Generator) -> None:
        """Place agent and block at random, apart from each other."""
        reset_clear(self.env, rng, goal=True)

    def snapshot(self) -> _Snapshot:
        """Return positions and velocities, without the physics engine's cached contacts, which matter little."""
        agent, block = self.env.unwrapped.agent, self.env.unwrapped.block
        return _Snapshot(
            (tuple(agent.position), tuple(agent.velocity)),
            (tuple(block.position), block.angle, tuple(block.velocity), block.angular_velocity),
        )

    def restore(self, snapshot: _Snapshot) -> None:
        """Restore a snapshot; the angle first, because setting it also moves the block."""
        agent, block = self.env.unwrapped.agent, self.env.unwrapped.block
        agent.position, agent.velocity = snapshot.agent
        block.angle = snapshot.block[1]
        block.position, _, block.velocity, block.angular_velocity = snapshot.block
        space = self.env.unwrapped.space
        space.reindex_shapes_for_body(agent)
        space.reindex_shapes_for_body(block)

    def facts(self) -> np.ndarray:
        """Return agent [x, y] and block [x, y, angle]."""
        agent, block = self.env.unwrapped.agent, self.env.unwrapped.block
        return np.array([*agent.position, *block.position, block.angle])

    def picture(self, size: int) -> UInt8[Tensor, "3 Y X"]:
        """Render as in the recordings."""
        return picture(self.env, size)

    def act(self, action: np.ndarray) -> None:
        """Advance by 0.1 s, like the simulator's `step` but without its reward, which is slower than the physics."""
        env = self.env.unwrapped
        agent = env.agent
        target = np.clip(np.asarray(agent.position) + np.clip(action, -LIMIT, LIMIT), 0, BOARD)
        for _ in range(round(1 / (env.dt * env.control_hz))):
            place, velocity = np.asarray(agent.position), np.asarray(agent.velocity)
            agent.velocity = tuple(velocity + (env.k_p * (target - place) - env.k_v * velocity) * env.dt)
            env.space.step(env.dt)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


def _drive(body: PushTBody, driver: Driver) -> np.ndarray:
    facts = body.facts()
    return driver.target(facts[:2], facts[2:]) - facts[:2]


def _moved(first: np.ndarray, now: np.ndarray) -> bool:
    return bool(np.linalg.norm(block_centre(now[2:]) - block_centre(first[2:])) > 1.0 or abs(now[4] - first[4]) > 0.02)


def _stage_push(body: PushTBody, rng: np.random.Generator) -> Staged | None:
    """Stage an episode from 0.3 s before the block is touched to 1.2 s after, if it moved and stayed on the board."""
    body.reset(rng)
    driver = Driver(rng, "push")
    staged = driven(body, lambda: _drive(body, driver), 60, _moved, lead=3, ahead=12)
    if staged is None:
        return None
    far = keypoint_distance(body.facts(), np.array([0, 0, *staged.start.block[0], staged.start.block[1]]))
    centre = block_centre(body.facts()[2:])
    return staged if far > 2 * 0.05 and ((centre > 60) & (centre < BOARD - 60)).all() else None


def _stage_reach(body: PushTBody, rng: np.random.Generator) -> Staged | None:
    """Stage an episode from a random position to where a script takes the agent in 1.4 s without touching the block."""
    body.reset(rng)
    start, first = body.snapshot(), body.facts()
    driver = Driver(rng, "random")
    for _ in range(14):
        body.act(_drive(body, driver))
    now = body.facts()
    return None if _moved(first, now) or reach_distance(first, now) < 0.2 else Staged(start, body.snapshot())


def keypoint_distance(facts: np.ndarray, goal: np.ndarray) -> float:
    """Mean distance of the block's corners from those of the goal, in board widths."""
    return float(np.linalg.norm(_corners(facts[2:]) - _corners(goal[2:]), axis=1).mean()) / BOARD


def reach_distance(facts: np.ndarray, goal: np.ndarray) -> float:
    """Distance of the agent from its goal, in board widths."""
    return float(np.linalg.norm(facts[:2] - goal[:2])) / BOARD


def _corners(pose: np.ndarray) -> np.ndarray:
    sine, cosine = np.sin(pose[2]), np.cos(pose[2])
    return pose[:2] + CORNERS @ np.array([[cosine, sine], [-sine, cosine]])


PUSH = Task(_stage_push, keypoint_distance)
REACH = Task(_stage_reach, reach_distance)
