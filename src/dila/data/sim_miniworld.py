"""First-person walks through furnished rooms: MiniWorld (https://miniworld.farama.org) with our own floor plan.

Four connected rooms, with random textures and objects in each episode. Movement is continuous, unlike MiniWorld's own
actions of fixed length: its ``move_agent`` and ``turn_agent`` are called directly.

Columns: ``action`` = [forward, turn] as a share of the largest (0.2 m, 9 degrees), left turns positive, as commanded:
an agent that walks into a wall or an object does not move, as ``state`` = [x, z, heading] shows (metres, radians,
unwrapped).
"""

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dila.data.simulators import Leg, draw_off_screen
from dila.errors import DilaError, MissingExtra
from dila.shapes import Tensor, UInt8

STRIDE, TURN = 0.2, 9.0
WALLS = ("brick_wall", "concrete", "drywall", "stucco", "wood_planks", "marble", "cinder_blocks", "cardboard")
FLOORS = ("floor_tiles_bw", "wood", "concrete_tiles", "asphalt", "grass", "rock", "marble")
THINGS = {"barrel": 1.0, "cone": 0.75, "duckie": 0.8, "medkit": 0.5, "office_chair": 1.1, "office_desk": 0.9,
          "potion": 0.6, "tree_pine": 1.9, "barrier": 0.9}  # fmt: skip
"""Meshes of the package, with heights in metres."""
KEYS = ("key_red", "key_blue", "key_yellow")
BOXES = ("red", "green", "blue", "purple", "yellow", "grey")
WIDEST = 0.7
"""Maximum radius of an object in metres, so that the agent can pass it."""
AROUND = (0.0, 0.3, 0.6, 0.9, 1.2, 1.6, 2.0, 2.5)
"""Angles in radians, to either side, that are tried to get around an obstacle."""
CENTRES = ((-4, 4), (4, 4), (4, -4), (-4, -4))


class Rooms:
    """See `dila.data.simulators.Simulator`."""

    fps = 10
    task = "walk through the rooms"
    names: Mapping[str, tuple[str, ...]] = {"action": ("forward", "turn"), "state": ("x", "z", "heading")}
    things: Mapping[str, float] = {"x": 0.5, "z": 0.5}
    reach = 0.6
    wander = 0.6

    def __init__(self) -> None:
        self.env = _make()
        self.env.furnished = True
        self.sizes: dict[int, Any] = {}
        self.side = 1

    def reset(self, rng: np.random.Generator) -> None:
        """Reset with new textures, objects and position."""
        self.env.reset(seed=int(rng.integers(2**31)))
        self.side = 1

    def state(self) -> np.ndarray:
        """Return position and heading."""
        agent = self.env.agent
        return np.array([agent.pos[0], agent.pos[2], agent.dir])

    def picture(self, size: int) -> UInt8[Tensor, "3 Y X"]:
        """Return the view of the agent."""
        from miniworld.opengl import FrameBuffer

        if size not in self.sizes:
            self.sizes[size] = FrameBuffer(size, size, 8)
        seen = self.env.render_obs(self.sizes[size])
        return torch.from_numpy(np.ascontiguousarray(seen)).permute(2, 0, 1).contiguous()

    def step(self, action: np.ndarray) -> None:
        """Turn, then walk."""
        self.env.turn_agent(float(action[1]) * TURN)
        self.env.move_agent(float(action[0]) * STRIDE, 0)

    def position(self) -> np.ndarray:
        """Return the position of the agent."""
        return self.state()[:2]

    def plan(self, rng: np.random.Generator) -> list[Leg]:
        """Plan to go through the door to a neighbouring room or to a point in this one, then to look around."""
        here = int(np.argmin(np.linalg.norm(np.array(CENTRES) - self.position(), axis=1)))
        there = (here + int(rng.choice([-1, 0, 1]))) % 4
        goals = [np.array(CENTRES[there]) + rng.uniform(-1.8, 1.8, 2)]
        if there != here:
            goals.insert(0, (np.array(CENTRES[here]) + np.array(CENTRES[there])) / 2)
        speed = rng.uniform(0.6, 1.0)
        return [*(Leg(lambda goal=goal: goal, 30, speed) for goal in goals), Leg(None, int(rng.integers(3, 9)))]

    def towards(self, gap: np.ndarray, leg: Leg) -> np.ndarray:
        """Turn to the goal, or to the nearest free direction, and walk faster the better the heading matches."""
        bearing = float(np.arctan2(-gap[1], gap[0]))
        for turn in AROUND:
            # The side taken last is tried first, since the agent would otherwise oscillate.
            side = next((side for side in (self.side, -self.side) if self._free(bearing + side * turn)), None)
            if side is not None:
                bearing += side * turn
                self.side = side if turn else self.side
                break
        off = (bearing - self.state()[2] + np.pi) % (2 * np.pi) - np.pi
        return np.array([leg.speed * max(0.0, np.cos(off)) ** 3, np.clip(off / np.radians(TURN), -1, 1)])

    def _free(self, heading: float) -> bool:
        agent, ahead = self.env.agent, np.array([np.cos(heading), 0, -np.sin(heading)])
        return not any(self.env.intersect(agent, agent.pos + d * ahead, agent.radius) for d in (0.25, 0.5, 0.75, 1.0))

    def close(self) -> None:
        """Release the rendering context."""
        self.env.close()

    def strays(self) -> np.ndarray | None:
        """Return None: walls keep the agent inside."""
        return None


def _image(path: str) -> Any:
    """Load an image in pyglet's format: RGBA, first row at the bottom."""
    import pyglet
    from PIL import Image

    with Image.open(path) as image:
        picture = image.convert("RGBA").transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return pyglet.image.ImageData(*picture.size, "RGBA", picture.tobytes())


def _make() -> Any:
    draw_off_screen()
    if importlib.util.find_spec("miniworld") is None:
        raise MissingExtra("recording MiniWorld", "miniworld", "sim")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            import pyglet
            from miniworld.entity import Box, MeshEnt
            from miniworld.miniworld import MiniWorldEnv
        except (ImportError, OSError) as error:
            raise DilaError(f"MiniWorld cannot render off-screen ({error}); install EGL (Debian: libegl1)") from error

        # pyglet takes more than a second to load a texture, since it applies a regular expression to the pixels.
        pyglet.image.load = _image

        class FourFurnishedRooms(MiniWorldEnv):
            """The floor plan; unfurnished at first, since the world that the constructor builds is never used."""

            furnished = False

            def _gen_world(self) -> None:
                rng = self.np_random
                rooms = []
                for x, z in CENTRES:
                    wall, floor = (str(rng.choice(kinds)) for kinds in (WALLS, FLOORS))
                    rooms.append(self.add_rect_room(
                        min_x=x - 3, max_x=x + 3, min_z=z - 3, max_z=z + 3, wall_tex=wall, floor_tex=floor,
                        ceil_tex="ceiling_tiles",
                    ))  # fmt: skip
                self.connect_rooms(rooms[0], rooms[1], min_z=3, max_z=5, max_y=2.2)
                self.connect_rooms(rooms[1], rooms[2], min_x=3, max_x=5, max_y=2.2)
                self.connect_rooms(rooms[2], rooms[3], min_z=-5, max_z=-3, max_y=2.2)
                self.connect_rooms(rooms[3], rooms[0], min_x=-5, max_x=-3, max_y=2.2)
                self._gen_static_data()
                for room in rooms:
                    for thing in rng.choice([*THINGS, *KEYS, *BOXES], 4 * self.furnished, replace=False):
                        self._put(self._thing(str(thing)), room)
                self.place_agent()

            def _thing(self, name: str) -> Any:
                share = float(self.np_random.uniform(0.85, 1.15))
                if name in BOXES:
                    return Box(name, 0.6 * share)
                thing = MeshEnt(name, THINGS.get(name, 0.45) * share, static=False)
                return thing if thing.radius < WIDEST else MeshEnt(name, thing.height * WIDEST / thing.radius, False)

            def _put(self, thing: Any, room: Any) -> None:
                """Put an object at a random free place, or skip it after 50 tries; the package's search may not end."""
                for _ in range(50):
                    low, high = (room.min_x, 0, room.min_z), (room.max_x, 0, room.max_z)
                    place = self.np_random.uniform(low, high)
                    if not self.intersect(thing, place, thing.radius):
                        self.place_entity(thing, pos=place)
                        return

        return FourFurnishedRooms(obs_width=64, obs_height=64, window_width=64, window_height=64)
