"""Clips of real 3D objects under known transforms in the picture plane, after the paper's probing benchmark.

The paper (figure 6) uses 4,000 scanned objects, which we do not have. These are the 33 meshes and primitives of
`dila.data.meshes3d`, each with its own texture or one of dozens of others, seen from a random side: hundreds of
combinations. Every tenth episode, and no other, shows one of six held-out objects. In a LeRobot data set these episodes
are the split ``held_out``, which `dila.data.split_episodes` excludes from training.

Columns are those of `dila.data.primitives` except ``shape``, and ``object`` (index in `OBJECTS`), ``texture`` (see
`dila.data.meshes3d.TEXTURES`) and ``held_out`` (0 or 1).
"""

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from dila.data import primitives
from dila.data.lerobot_write import LeRobotV3
from dila.data.meshes3d import HELD_OUT, OBJECTS, OWN, SIDE, TEXTURES, assets, load_mesh, load_texture
from dila.data.paint3d import Painter
from dila.data.primitives import (
    CHUNK,
    FPS,
    KINDS,
    background_path,
    backgrounds,
    check_settings,
    colour_columns,
    compose,
    known_columns,
    texture,
    trajectory,
)  # fmt: skip
from dila.data.recording import Recorded, Store, record
from dila.shapes import Tensor

VERSION = 3
"""Increase this when a change makes the same seed give different data, so that no recording mixes both."""
RADIUS = 0.22
"""Radius of the bounding sphere of an object at log_scale 0, in picture widths."""
EVERY = 10
"""Every this many episodes, one shows a held-out object."""
NAMES = {**primitives.NAMES, "object": ("object",), "texture": ("texture",), "held_out": ("held_out",)}


@dataclass(frozen=True)
class ObjectRenderer:
    """Callable from the number of an episode to the episode; pickled for the worker processes."""

    frames: int
    size: int
    seed: int
    kind: str
    moving_background: bool

    def __call__(self, number: int) -> Recorded:
        """Draw one episode; object and background have separate random streams, fixed by (seed, number)."""
        rng, scene = (np.random.default_rng([self.seed, number, stream]) for stream in (0, 1))
        kind = KINDS[int(rng.integers(len(KINDS)))] if self.kind == "mixed" else self.kind
        states = trajectory(rng, self.frames + 1, kind)
        held_out = number % EVERY == EVERY - 1
        pool = [name for name in OBJECTS if (name in HELD_OUT) == held_out]
        name = pool[int(rng.integers(len(pool)))]
        front, worn = _front(rng, name, states[:-1], 2 * self.size)
        background = background_path(scene, self.frames + 1, self.moving_background)
        near, far = backgrounds(scene, 2 * self.size, front[0])
        pictures = [
            compose(front[i : i + CHUNK], near, far, background[:-1][i : i + CHUNK], self.size)
            for i in range(0, self.frames, CHUNK)
        ]
        known = known_columns(states, background, kind) | colour_columns(front[0], near, far, background)
        columns = known | {
            "object": np.full((self.frames, 1), OBJECTS.index(name)),
            "texture": np.full((self.frames, 1), worn),
            "held_out": np.full((self.frames, 1), int(held_out)),
        }
        return Recorded(torch.cat(pictures), columns, "held_out" if held_out else "train")


def render_objects3d(
    out: str | Path,
    episodes: int,
    frames: int = 32,
    size: int = 128,
    seed: int = 0,
    kind: str = "mixed",
    moving_background: bool = False,
    fps: int | float = FPS,
    workers: int = 1,
    progress: bool = True,
    store: Store | None = None,
) -> Path:
    """Draw a LeRobot data set of real objects under known transforms; resumable and deterministic.

    Args:
        frames: frames per episode.
        size: pixels a side, even, 32 to 512.
        seed: the same seed gives the same data for any number of workers.
        kind: one of `KINDS`, or "mixed" for one of them at random in each episode.
        moving_background: let the background drift and change independently of the action.
        fps: frames a second.
        out, episodes, workers, progress, store: as for `dila.data.recording.record`. Every tenth episode shows a
            held-out object; a folder of videos marks it only in the column ``held_out``.

    Raises:
        MissingExtra: a package with meshes or moderngl is not installed.
        DilaError: an argument is out of range, this machine cannot render off-screen, or `out` has a recording with
            other settings.
    """
    check_settings(frames, size, kind, fps)
    assets()
    _painter()
    renderer = ObjectRenderer(frames, size, seed, kind, moving_background)
    settings = {"source": "objects3d", "version": VERSION, "fps": fps, **asdict(renderer)}
    return record(
        out, episodes, renderer, settings=settings, names=NAMES, fps=fps, workers=workers, progress=progress,
        store=store or LeRobotV3(primitives.TASK),
    )  # fmt: skip


@lru_cache(maxsize=1)
def _painter() -> Painter:
    return Painter()


def _front(rng: np.random.Generator, name: str, states: np.ndarray, side: int) -> tuple[Tensor, int]:
    """Render the object in every state, with a random texture, view and light; also returns the texture's number."""
    mesh = load_mesh(name)
    draw = rng.random()
    if name in OWN and draw < 0.4:
        worn, surface, place = 0, load_texture(OWN[name][1]), mesh.own
    elif draw < 0.85:
        worn = 1 + int(rng.integers(len(TEXTURES)))
        surface, place = load_texture(TEXTURES[worn - 1]), mesh.wrapped
    else:
        worn, place = 1 + len(TEXTURES), mesh.wrapped
        surface = (texture(rng, SIDE).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    light = np.array([rng.uniform(-0.7, 0.7), rng.uniform(0.4, 0.9), 0.9])
    return _painter().draw(mesh, place, surface, _view(rng), light, states, RADIUS, side), worn


def _view(rng: np.random.Generator) -> np.ndarray:
    """Return a random rotation about the vertical axis, seen from slightly above."""
    yaw, pitch = rng.uniform(-np.pi, np.pi), rng.uniform(0.25, 0.75)
    about = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    tip = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    return tip @ about
