"""Panda arm at a desk with drawer, slide, buttons and blocks: RoboDesk (https://github.com/google-research/robodesk).

Columns: ``action`` = displacement of the hand [dx, dy, dz] as a share of the largest (1 cm per substep), wrist, and
fingers (-1 closed, 1 open), held for ten substeps of 0.02 s; ``state`` = hand [x, y, z], the nine joints, drawer,
slide, three buttons, and [x, y, z] and quaternion [w, x, y, z] of ball and blocks, in metres and radians.
"""

import contextlib
import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from dila.data.mujoco_view import MujocoView
from dila.data.simulators import EAST, NORTH, UP, Leg, draw_off_screen, seeded
from dila.errors import MissingExtra
from dila.shapes import Tensor, UInt8

REPEAT = 10
SCALE = 0.025
"""Metres that the hand moves in a frame with the largest action, less than commanded because it lags behind."""
BLOCKS = ("ball", "upright_block", "flat_block")
FIXTURES = ("drawer", "slide", "red_button", "green_button", "blue_button")
PARTS = ("x", "y", "z", "qw", "qx", "qy", "qz")
LOW, HIGH = np.array([-0.55, 0.4, 0.8]), np.array([0.55, 1.0, 1.15])
"""Range of the hand over the desk; at the lowest point the fingers touch it."""
SHUT, WIDE = (0.0, -1.0), (0.0, 1.0)


class RoboDesk:
    """See `dila.data.simulators.Simulator`."""

    fps = 5
    task = "push, pull and press things on the desk"
    names: Mapping[str, tuple[str, ...]] = {
        "action": ("dx", "dy", "dz", "wrist", "fingers"),
        "state": ("hand_x", "hand_y", "hand_z", *(f"joint{i}" for i in range(1, 10)), *FIXTURES,
                  *(f"{block}_{part}" for block in BLOCKS for part in PARTS)),
    }  # fmt: skip
    things: Mapping[str, float] = {
        **{f"{block}_{axis}": 0.02 for block in BLOCKS for axis in "xyz"},
        "slide": 0.02, "red_button": 0.004, "green_button": 0.004, "blue_button": 0.004,
    }  # fmt: skip
    reach = 0.03
    wander = 0.5

    def __init__(self) -> None:
        self.env: Any = _import_robodesk().RoboDesk(episode_length=0)
        # Its own rendering takes half a second per picture and uses a function that Pillow has removed.
        self.env._get_obs = lambda: None
        self.physics: Any = self.env.physics
        model = self.physics.model.ptr
        self.view = MujocoView(model, (0, 0.66, 0.85), 1.45, 90, -50)
        self.joints = {name: model.joint(name) for name in (*FIXTURES[2:], *BLOCKS)}
        self.joints |= {name: model.joint(f"{name}_joint") for name in FIXTURES[:2]}

    def reset(self, rng: np.random.Generator) -> None:
        """Reset to a random state drawn by the simulator, and take one step to let it settle."""
        with seeded(rng):
            self.env.reset()
        self.physics.data.qacc_warmstart[:] = 0
        self._step(np.zeros(5))

    def state(self) -> np.ndarray:
        """Return hand, arm and all objects."""
        data = self.physics.data.ptr
        things = [data.qpos[j.qposadr[0] : j.qposadr[0] + (7 if name in BLOCKS else 1)]
                  for name in (*FIXTURES, *BLOCKS) for j in (self.joints[name],)]  # fmt: skip
        return np.concatenate([self.position(), data.qpos[:9], *things])

    def picture(self, size: int) -> UInt8[Tensor, "3 Y X"]:
        """Return a picture from above the front edge."""
        return self.view(self.physics.data.ptr, size)

    def step(self, action: np.ndarray) -> None:
        """Take one step of 0.2 s."""
        self._step(action.astype(np.float64))

    def position(self) -> np.ndarray:
        """Return the point between the fingers."""
        return self.physics.named.data.site_xpos["end_effector"].copy()

    def plan(self, rng: np.random.Generator) -> list[Leg]:
        """Plan to push a block, move the slide or press a button."""
        plans = [self._push, self._push, self._slide, self._press]
        up = self.position()
        up[2] = max(up[2], 0.9)
        return [Leg(lambda: up, 5, 0.9, SHUT), *plans[int(rng.integers(len(plans)))](rng)]

    def towards(self, gap: np.ndarray, leg: Leg) -> np.ndarray:
        """Return the action straight along the gap."""
        wanted = gap / SCALE
        return np.append(wanted * min(1.0, leg.speed / (np.abs(wanted).max() + 1e-6)), leg.rest or SHUT)

    def close(self) -> None:
        """Release the rendering context."""
        self.view.close()

    def strays(self) -> np.ndarray | None:
        """Return a point over the desk if the hand has left it."""
        here = self.position()
        inside = np.clip(here, LOW - 0.03, HIGH + 0.08)
        return None if np.array_equal(here, inside) else np.clip(here, LOW + 0.03, HIGH)

    def _push(self, rng: np.random.Generator) -> list[Leg]:
        block = self._body(BLOCKS[int(rng.integers(len(BLOCKS)))])
        angle = rng.uniform(0, 2 * np.pi)
        ahead = np.array([np.cos(angle), np.sin(angle), 0])
        behind = np.clip(block - 0.13 * ahead, LOW, HIGH)
        through = behind + rng.uniform(0.25, 0.4) * ahead
        return self._via(behind, through, rng)

    def _slide(self, rng: np.random.Generator) -> list[Leg]:
        handle = self.physics.named.data.site_xpos["slide_handle"].copy()
        side = rng.choice([-1, 1])
        return self._via(handle - 0.1 * side * EAST, handle + 0.35 * side * EAST, rng)

    def _press(self, rng: np.random.Generator) -> list[Leg]:
        button = self._body(("red_button", "green_button", "blue_button")[int(rng.integers(3))])
        return self._via(button - 0.04 * NORTH, button + 0.04 * NORTH - 0.02 * UP, rng)

    def _via(self, start: np.ndarray, end: np.ndarray, rng: np.random.Generator) -> list[Leg]:
        low, end = (np.maximum(point + rng.normal(0, 0.01, 3), [-1, 0, LOW[2]]) for point in (start, end))
        above = low + 0.1 * UP
        return [Leg(lambda: above, 25, 0.9, SHUT), Leg(lambda: low, 10, 0.7, SHUT),
                Leg(lambda: end, 16, rng.uniform(0.4, 0.8), SHUT)]  # fmt: skip

    def _body(self, name: str) -> np.ndarray:
        return self.physics.named.data.xpos[name].copy()

    def _step(self, action: np.ndarray) -> None:
        """Take the simulator's step without computing its reward, which would double the cost."""
        for _ in range(REPEAT):
            joints = self.env._convert_action(action)
            for _ in range(10):
                self.physics.data.ctrl[:9] = joints[:9]
                self.physics.data.qfrc_applied[:9] = self.physics.data.qfrc_bias[:9]
                self.physics.step()
            self.env.physics_copy.data.qpos[:] = self.physics.data.qpos[:]


def _import_robodesk() -> Any:
    draw_off_screen()
    try:
        # gym, which it needs, prints that it is no longer maintained.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            import robodesk
    except ImportError as error:
        # Its dependency labmaze has wheels up to Python 3.12.
        raise MissingExtra("recording RoboDesk", "robodesk", "sim", newest=(3, 12)) from error
    return robodesk
