"""Recordings of the simulator Push-T (`gym_pusht/PushT-v0`, https://github.com/huggingface/gym-pusht).

A PD controller moves a round agent toward a target (the action, in board units 0..512), and the agent pushes a T-shaped
block. The control rate is 10 Hz. The cross that the simulator's `render` draws at the target is omitted: frames that
show the action would make any probe of latent actions meaningless.

Columns: ``action`` = target [x, y] as executed in the step from frame f to f+1; ``state`` = [agent_x, agent_y,
block_x, block_y, block_angle] at frame f, before that action; the angle is in radians and unwrapped (the simulator's
observation is this modulo 2 pi). The agent's velocity, which is also part of the state, is not recorded.
"""

import os
import warnings
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from dila.data.recording import Recorded, Store, record
from dila.errors import DilaError, MissingExtra
from dila.shapes import Tensor, UInt8

VERSION = 1
"""Increase this when a change makes the same seed give different data, so that no recording mixes both."""
BOARD = 512
FPS = 10
TASK = "push the T about"
# Steady motion by d units a step needs a target this many d ahead of the agent: the PD controller (k_p 100, k_v 20,
# critically damped, 10 ticks of 0.01 s a step) closes 1 - 2/e of the distance from rest and keeps 1/e of its speed.
LEAD = 2.5
REACH = (22.0, 490.0)
"""Range of the agent's centre in x and y: its radius away from the walls."""
MARGIN = 70
"""A block whose centre is nearer than this to a wall is not pushed further toward it."""
NAMES = {"action": ("x", "y"), "state": ("agent_x", "agent_y", "block_x", "block_y", "block_angle")}

Policy = Literal["random", "push", "mixed"]


@dataclass(frozen=True)
class PushTRecorder:
    """Callable from the number of an episode to the episode; pickled for the worker processes."""

    frames: int
    size: int
    seed: int
    policy: Policy
    goal: bool

    def __call__(self, number: int) -> Recorded:
        """Run one episode with a random stream fixed by (seed, number)."""
        rng = np.random.default_rng([self.seed, number])
        env = make_pusht(self.frames)
        try:
            info = reset_clear(env, rng, self.goal)
            driver = Driver(rng, self.policy)
            pictures, actions, states = [], [], []
            for _ in range(self.frames):
                states.append(np.concatenate([info["pos_agent"], info["block_pose"]]))
                pictures.append(picture(env, self.size))
                actions.append(driver.target(info["pos_agent"], info["block_pose"]))
                _, _, _, _, info = env.step(actions[-1])
        finally:
            env.close()
        columns = {"action": np.stack(actions).astype(np.float32), "state": np.stack(states).astype(np.float32)}
        return Recorded(torch.stack(pictures), columns)


def record_pusht(
    out: str | Path,
    episodes: int,
    frames: int = 60,
    size: int = 128,
    seed: int = 0,
    policy: Policy = "mixed",
    workers: int = 1,
    progress: bool = True,
    goal: bool = True,
    store: Store | None = None,
) -> Path:
    """Record episodes into a corpus (mp4 + actions.parquet); resumes an interrupted recording.

    Args:
        out: folder, created if it does not exist.
        episodes: total number of episodes.
        frames: frames per episode, 10 a second.
        size: pixels a side, even, up to 512.
        seed: the same seed gives the same data for any number of workers.
        policy: "random" targets, "push" the block around, or "mixed", switching between the two.
        workers: number of processes.
        progress: show a progress bar.
        goal: draw the green goal zone.
        store: the layout, see `dila.data.recording.record`; None writes one mp4 per episode and one table.

    Raises:
        MissingExtra: gym-pusht is not installed.
        DilaError: an argument is out of range, or `out` has a recording with other settings.
    """
    if frames < 2 or not 16 <= size <= BOARD or size % 2:
        raise DilaError(f"frames = {frames} must be at least 2 and size = {size} an even number from 16 to {BOARD}")
    if policy not in ("random", "push", "mixed"):
        raise DilaError(f"policy = {policy!r} must be random, push or mixed")
    _import_gym()
    recorder = PushTRecorder(frames, size, seed, policy, goal)
    settings = {"source": "gym_pusht/PushT-v0", "version": VERSION, "fps": FPS, **asdict(recorder)}
    return record(
        out,
        episodes,
        recorder,
        settings=settings,
        names=NAMES,
        fps=FPS,
        workers=workers,
        progress=progress,
        store=store,
    )


def make_pusht(max_steps: int) -> Any:
    """Create the Gymnasium environment."""
    gym = _import_gym()
    return gym.make("gym_pusht/PushT-v0", obs_type="state", max_episode_steps=max_steps, disable_env_checker=True)


def reset_clear(env: Any, rng: np.random.Generator, goal: bool) -> dict[str, Any]:
    """Reset until nothing is in contact: if the simulator starts the agent inside the block, the block jumps aside."""
    while True:
        _, info = env.reset(seed=int(rng.integers(2**31)))
        if env.unwrapped.n_contact_points == 0:
            break
    if not goal:
        env.unwrapped.goal_pose = np.array([-BOARD, -BOARD, 0.0])
    return info


def picture(env: Any, size: int) -> UInt8[Tensor, "3 Y X"]:
    """Return an antialiased picture of the board.

    It is drawn by the simulator and scaled here, because `render` adds the cross of the action, and observations are
    downscaled by skipping pixels.
    """
    import pygame

    surface = pygame.transform.smoothscale(env.unwrapped._draw(), (size, size))
    return torch.from_numpy(pygame.surfarray.array3d(surface)).permute(2, 1, 0)


class Driver:
    """Policy that follows legs (a point, a speed, a maximum number of steps) queued by a plan."""

    def __init__(self, rng: np.random.Generator, policy: Policy):
        self.rng = rng
        self.plans = {"random": [self._wander], "push": [self._push], "mixed": [self._wander, self._push]}[policy]
        self.legs: deque[tuple[np.ndarray, float, int]] = deque()
        self.motion = np.zeros(2)

    def target(self, agent: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Return the next action [x, y] in 0..512, given the agent's position and the block's pose."""
        if self._squeezes(agent, block_centre(block)):
            self.legs = deque([(np.full(2, BOARD / 2), self._speed(), 6)])
        while not self.legs or self.legs[0][2] == 0 or self._arrived(agent):
            if self.legs:
                self.legs.popleft()
            if not self.legs:
                plan = self.plans[int(self.rng.integers(len(self.plans)))]
                self.legs.extend(plan(agent, block))
        point, speed, steps = self.legs[0]
        self.legs[0] = (point, speed, steps - 1)
        gap = point - agent
        wanted = gap * min(1.0, speed / (np.linalg.norm(gap) + 1e-6)) + self.rng.normal(0, 0.08 * speed, 2)
        # Smoothed, since otherwise every change of leg would be a jerk.
        self.motion = 0.4 * self.motion + 0.6 * wanted
        return np.clip(agent + LEAD * self.motion, 0, BOARD).astype(np.float32)

    def _arrived(self, agent: np.ndarray) -> bool:
        point, speed, _ = self.legs[0]
        return speed > 0 and bool(np.linalg.norm(point - agent) < 0.7 * speed)

    def _squeezes(self, agent: np.ndarray, centre: np.ndarray) -> bool:
        """Whether the agent is about to press the block through a wall, which the simulator does not prevent."""
        outward = ((centre < MARGIN) & (self.motion < 0)) | ((centre > BOARD - MARGIN) & (self.motion > 0))
        return bool(np.linalg.norm(centre - agent) < 110 and outward.any())

    def _wander(self, agent: np.ndarray, block: np.ndarray) -> list[tuple[np.ndarray, float, int]]:
        """Plan a few random points, biased to the edges, since straight lines between points favour the middle."""
        legs = []
        for _ in range(int(self.rng.integers(1, 4))):
            if self.rng.random() < 0.08:
                legs.append((agent, 0.0, int(self.rng.integers(2, 6))))
            point = REACH[0] + (REACH[1] - REACH[0]) * self.rng.beta(0.7, 0.7, 2)
            legs.append((point, self._speed(), 25))
        return legs

    def _push(self, agent: np.ndarray, block: np.ndarray) -> list[tuple[np.ndarray, float, int]]:
        """Plan to push the block toward a random point: around it to the opposite side, then through it."""
        centre = block_centre(block)
        aim = self.rng.uniform(120, BOARD - 120, 2) - centre
        ahead = aim / (np.linalg.norm(aim) + 1e-6)
        side = np.array([-ahead[1], ahead[0]])
        behind = np.clip(centre - 105 * ahead + self.rng.normal(0, 12, 2), *REACH)
        through = np.clip(centre + (np.linalg.norm(aim) - 30) * ahead + self.rng.normal(0, 12) * side, *REACH)
        legs = [(behind, self._speed(), 25), (through, self._speed() * 0.8, 12)]
        if (agent - centre) @ ahead > -60:
            # The block is in the way, so pass it on the side where the agent is.
            hand = 1.0 if (agent - centre) @ side >= 0 else -1.0
            legs.insert(0, (np.clip(centre + 110 * hand * side, *REACH), self._speed(), 25))
        return legs

    def _speed(self) -> float:
        return float(self.rng.uniform(25, 60))


def block_centre(pose: np.ndarray) -> np.ndarray:
    """Return the centre of the T, which is 120 wide and 120 tall and has its origin at the top of its bar."""
    angle = pose[2]
    return pose[:2] + 45 * np.array([-np.sin(angle), np.cos(angle)])


def _import_gym() -> Any:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import gym_pusht  # noqa: F401 - importing registers the environment
            import gymnasium
    except ImportError as error:
        raise MissingExtra("recording Push-T", "gym-pusht", "pusht") from error
    return gymnasium
