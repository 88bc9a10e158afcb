"""Procedural clips of one textured object under known transforms, used for the manifolds of the latent actions.

The paper's figure 6 translates, scales and rotates 4,000 scanned objects; here shapes and textures are drawn at random,
so nothing is downloaded. With `moving_background`, the background drifts and changes on its own, while object and
transform stay exactly those of the same seed without it: a test of whether z follows the object only.

Columns: ``state`` = [x, y, log_scale, angle] (x and y in picture widths from the top left corner, log of the size
relative to the middle of its range, radians clockwise, unwrapped); ``action`` = state of the next frame minus this one;
``background`` = [x, y, blend], the drift of the background (in widths) and its blend from one texture to another;
``colour`` and ``background_colour`` = mean red, green and blue of the object's pixels and of the background textures;
``kind`` = [index in `KINDS`]; ``shape`` = [index in `SHAPES`].
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dila.data.recording import Recorded, Store, record
from dila.errors import DilaError
from dila.shapes import Float, Tensor

KINDS = (
    "translation", "scaling", "rotation", "translation+scaling", "translation+rotation", "scaling+rotation",
    "translation+scaling+rotation",
)  # fmt: skip
COLOURS = ("red", "green", "blue")
NAMES = {
    "action": ("dx", "dy", "dlog_scale", "dangle"),
    "state": ("x", "y", "log_scale", "angle"),
    "background": ("x", "y", "blend"),
    "colour": COLOURS,
    "background_colour": COLOURS,
    "kind": ("kind",),
}
VERSION = 2
"""Increase this when a change makes the same seed give different data, so that no recording mixes both."""
FPS = 10.0
TASK = "move, scale and turn the object"
RADIUS = 0.22
"""Radius of the object at log_scale 0, in picture widths."""
LOW = np.array([0.22, 0.22, -0.5, -np.inf])
HIGH = np.array([0.78, 0.78, 0.5, np.inf])
SPEED = np.array([0.03, 0.03, 0.06, 0.14])
"""Root mean square of each component of the action, per frame."""
PART = {"translation": [1, 1, 0, 0], "scaling": [0, 0, 1, 0], "rotation": [0, 0, 0, 1]}
CHUNK = 8


@dataclass(frozen=True)
class PrimitiveRenderer:
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
        thing, shape = _object(rng, self.size)
        background = background_path(scene, self.frames + 1, self.moving_background)
        near, far = backgrounds(scene, 2 * self.size, thing)
        pictures = []
        for chunk in (slice(i, i + CHUNK) for i in range(0, self.frames, CHUNK)):
            front = _place(thing, torch.from_numpy(states[chunk]).float(), self.size)
            pictures.append(compose(front, near, far, background[chunk], self.size))
        columns = known_columns(states, background, kind) | colour_columns(thing, near, far, background)
        columns["shape"] = np.full((self.frames, 1), shape)
        return Recorded(torch.cat(pictures)[: self.frames], columns)


def render_primitives(
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
    """Draw a corpus (mp4 + actions.parquet) of objects under known transforms; resumable and deterministic.

    Args:
        frames: frames per episode.
        size: pixels a side, even, 32 to 512.
        seed: the same seed gives the same data for any number of workers.
        kind: one of `KINDS`, or "mixed" for one of them at random in each episode.
        moving_background: let the background drift and change independently of the action.
        fps: frames a second.
        out, episodes, workers, progress, store: as for `dila.data.recording.record`.

    Raises:
        DilaError: an argument is out of range, or `out` has a recording with other settings.
    """
    check_settings(frames, size, kind, fps)
    renderer = PrimitiveRenderer(frames, size, seed, kind, moving_background)
    settings = {"source": "primitives", "version": VERSION, "fps": fps, **asdict(renderer)}
    return record(
        out,
        episodes,
        renderer,
        settings=settings,
        names=NAMES | {"shape": ("shape",)},
        fps=fps,
        workers=workers,
        progress=progress,
        store=store,
    )


def check_settings(frames: int, size: int, kind: str, fps: int | float) -> None:
    """Check the settings of a recording; raises DilaError."""
    if frames < 2 or not 32 <= size <= 512 or size % 2 or not fps > 0:
        raise DilaError(f"frames = {frames} must be at least 2, size = {size} even from 32 to 512, fps = {fps} above 0")
    if kind not in (*KINDS, "mixed"):
        raise DilaError(f"kind = {kind!r} must be mixed or one of {', '.join(KINDS)}")


def known_columns(states: np.ndarray, background: np.ndarray, kind: str) -> dict[str, np.ndarray]:
    """Return the columns of an episode from the states of object and background, one more of each than frames."""
    return {
        "action": np.diff(states, axis=0).astype(np.float32),
        "state": states[:-1].astype(np.float32),
        "background": background[:-1].astype(np.float32),
        "kind": np.full((len(states) - 1, 1), KINDS.index(kind)),
    }


def colour_columns(
    thing: Float[Tensor, "4 Y X"], near: Tensor, far: Tensor, background: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the columns of mean colours, in [0, 1], of the object (premultiplied RGBA) and the blended background."""
    own = (thing[:3].sum((1, 2)) / thing[3].sum()).numpy()
    first, second = (texture.mean((1, 2)).numpy() for texture in (near, far))
    blend = background[:-1, 2:]
    return {
        "colour": np.tile(own, (len(blend), 1)).astype(np.float32),
        "background_colour": ((1 - blend) * first + blend * second).astype(np.float32),
    }


def background_path(rng: np.random.Generator, steps: int, moves: bool) -> np.ndarray:
    """Return the path of the background ``steps 3``: drift in widths, and blend into its second texture."""
    start = rng.uniform(0, 1, 3) * [1, 1, 0]
    return _fold(start + _walk(rng, steps, np.array([0.03, 0.03, 0.06]) * moves), np.zeros(3), np.ones(3))


def trajectory(rng: np.random.Generator, steps: int, kind: str) -> np.ndarray:
    """Return states ``steps 4``; components that the kind does not include stay constant."""
    start = np.array([*rng.uniform(0.35, 0.65, 2), rng.uniform(-0.3, 0.3), rng.uniform(-np.pi, np.pi)])
    moves = np.sum([PART[part] for part in kind.split("+")], axis=0)
    return _fold(start + _walk(rng, steps, SPEED * moves), LOW, HIGH)


def _walk(rng: np.random.Generator, steps: int, speed: np.ndarray) -> np.ndarray:
    """Return a path from 0 whose velocity changes smoothly (autoregressive, memory of about five frames)."""
    velocity = rng.normal(size=speed.shape)
    path = np.zeros((steps, len(speed)))
    for t in range(1, steps):
        path[t] = path[t - 1] + speed * velocity
        velocity = 0.8 * velocity + 0.6 * rng.normal(size=speed.shape)
    return path


def _fold(path: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Reflect a path at its bounds."""
    folded = path.copy()
    for i in np.flatnonzero(np.isfinite(high)):
        width = high[i] - low[i]
        folded[:, i] = low[i] + width - np.abs((path[:, i] - low[i]) % (2 * width) - width)
    return folded


def compose(front: Float[Tensor, "N 4 Y X"], near: Tensor, far: Tensor, background: np.ndarray, size: int) -> Tensor:
    """Return pictures uint8 ``N 3 Y X``: the foreground, given at twice the size, over the background, downsampled."""
    scene = torch.from_numpy(background).float()
    blend = scene[:, 2, None, None, None]
    behind = (1 - blend) * _window(near, scene, size) + blend * _window(far, scene, size)
    picture = front[:, :3] + (1 - front[:, 3:]) * behind
    return (F.avg_pool2d(picture, 2) * 255).round().clamp(0, 255).to(torch.uint8)


def _place(thing: Float[Tensor, "4 S S"], state: Float[Tensor, "N 4"], size: int) -> Float[Tensor, "N 4 Y X"]:
    """Return the object in the given states, as premultiplied RGBA."""
    x, y, log_scale, angle = state.unbind(1)
    # grid_sample needs the inverse of the transform: from pixels to the object's own square [-1, 1].
    shrink = 1 / (2 * RADIUS * log_scale.exp())
    cos, sin = angle.cos() * shrink, angle.sin() * shrink
    inverse = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], 1)
    centre = torch.stack([2 * x - 1, 2 * y - 1], -1)[..., None]
    return _sample(thing, torch.cat([inverse, -inverse @ centre], -1), size)


def _window(image: Float[Tensor, "3 S S"], scene: Float[Tensor, "N 3"], size: int) -> Float[Tensor, "N 3 Y X"]:
    """Return the visible part of a texture that is twice as wide as the picture, after the drift."""
    half = torch.eye(2).expand(len(scene), 2, 2) / 2
    return _sample(image, torch.cat([half, (scene[:, :2, None] - 0.5)], -1), size)


def _sample(image: Tensor, affine: Float[Tensor, "N 2 3"], size: int) -> Tensor:
    grid = F.affine_grid(affine, [len(affine), 1, 2 * size, 2 * size], align_corners=False)
    return F.grid_sample(image.expand(len(affine), *image.shape), grid, align_corners=False)


def _object(rng: np.random.Generator, size: int) -> tuple[Float[Tensor, "4 S S"], int]:
    """Return a random shape with a random texture, as premultiplied RGBA, and its index in `SHAPES`."""
    from PIL import Image, ImageDraw

    shape = int(rng.integers(len(SHAPES)))
    mask = Image.new("L", (4 * size, 4 * size))
    SHAPES[list(SHAPES)[shape]](ImageDraw.Draw(mask), 4 * size, rng)
    alpha = torch.from_numpy(np.array(mask.resize((size, size), Image.Resampling.BOX))).float() / 255
    return torch.cat([texture(rng, size) * alpha, alpha[None]]), shape


def backgrounds(rng: np.random.Generator, side: int, thing: Float[Tensor, "4 Y X"]) -> tuple[Tensor, Tensor]:
    """Return two background textures whose mean colours differ from the object's."""
    colour = thing[:3].sum((1, 2)) / thing[3].sum()
    found = []
    while len(found) < 2:
        background = texture(rng, side)
        if (background.mean((1, 2)) - colour).norm() > 0.35:
            found.append(background)
    return found[0], found[1]


def texture(rng: np.random.Generator, side: int) -> Float[Tensor, "3 S S"]:
    """Return two random colours mixed by a random pattern, in [0, 1]."""
    axis = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    turn, phase, waves = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi, 2), rng.uniform(6, 16)
    u = waves * (np.cos(turn) * x + np.sin(turn) * y) + phase[0]
    v = waves * (np.cos(turn) * y - np.sin(turn) * x) + phase[1]
    noise = sum(_noise(rng, cells, side) / cells**0.5 for cells in (3, 6, 12))
    patterns = [u.sin(), 3 * u.sin() * v.sin(), u.sin() + v.sin(), 3 * noise, u.sin() + 2 * noise]
    # A steep sigmoid gives edges that are sharp but still wider than a pixel.
    mix = torch.sigmoid(2.5 * patterns[int(rng.integers(len(patterns)))])
    first, second = (torch.from_numpy(rng.uniform(0.05, 0.95, 3)).float()[:, None, None] for _ in range(2))
    return first + (second - first) * mix


def _noise(rng: np.random.Generator, cells: int, side: int) -> Float[Tensor, "S S"]:
    coarse = torch.from_numpy(rng.normal(size=(1, 1, cells, cells))).float()
    return F.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)[0, 0]


def _polygon(*radii: float, corners: int) -> Callable[[Any, int, np.random.Generator], None]:
    def draw(pen: Any, side: int, rng: np.random.Generator) -> None:
        count = corners * len(radii)
        turns = 2 * np.pi * np.arange(count) / count - np.pi / 2
        reach = side / 2 * np.resize(radii, count)
        points = np.stack([side / 2 + reach * np.cos(turns), side / 2 + reach * np.sin(turns)], 1)
        pen.polygon([tuple(p) for p in points], fill=255)

    return draw


def _disc(pen: Any, side: int, rng: np.random.Generator) -> None:
    pen.ellipse((0.08 * side, 0.08 * side, 0.92 * side, 0.92 * side), fill=255)


def _cross(pen: Any, side: int, rng: np.random.Generator) -> None:
    pen.rectangle((0.36 * side, 0.05 * side, 0.64 * side, 0.95 * side), fill=255)
    pen.rectangle((0.05 * side, 0.36 * side, 0.95 * side, 0.64 * side), fill=255)


def _letter(pen: Any, side: int, rng: np.random.Generator) -> None:
    from PIL import ImageFont

    letter = "ABEFGHJKLMNPQRSTUWXYZ"[int(rng.integers(21))]
    pen.text(
        (side / 2, side / 2), letter, fill=255, font=ImageFont.load_default(0.95 * side), anchor="mm",
        stroke_width=side // 24,
    )  # fmt: skip


SHAPES: dict[str, Callable[[Any, int, np.random.Generator], None]] = {
    "disc": _disc,
    "square": _polygon(0.98, corners=4),
    "triangle": _polygon(0.98, corners=3),
    "hexagon": _polygon(0.95, corners=6),
    "star": _polygon(0.98, 0.45, corners=5),
    "cross": _cross,
    "letter": _letter,
}
