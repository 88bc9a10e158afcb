"""How much moves in a clip, and whether it is the camera: a filter for corpora such as Something-Something-V2.

The paper leaves out clips that stand still or whose camera moves; its lists were never published. This filter is our
own. It looks at a few pairs of frames, small, and fits to each, in grey, the affine motion that most of the picture
follows (shift, turn, zoom; Gauss-Newton on three scales, with weights that forget what moves on its own). What the
fit explains is the camera's; what changes though the fit is undone is the content's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from dila.errors import DilaError, refuse_shortage
from dila.protocols import Episode
from dila.shapes import Float, Tensor

SIDE = 64
"""Pixels a side that frames are shrunk to."""
SCALES = (16, 32, 64)
ROUNDS = 6
CHANGED = 12.0
"""Levels out of 255 by which a pixel must differ to count as changed: above the noise of a compressed video."""


class Motion(NamedTuple):
    """What was measured; all are medians or shares over the pairs of frames looked at."""

    changed: float
    """Share of the picture that differs in any colour between frames `gap` apart: the largest of all pairs."""
    camera: float
    """Widths of the picture a second that the picture as a whole moves, at its corners: median."""
    followed: float
    """Share of what the motion of the whole changes that it also explains: 1 for a pan over a still scene."""
    own: float
    """Share of the picture that still differs when the motion of the whole is undone: the largest of all pairs."""


@dataclass(frozen=True)
class MotionLimits:
    """Where `judge` draws its lines. Each is wide of what still scenes and steady hands measure; see docs/data.md."""

    still: float = 0.005
    """A clip whose `changed` is below this stands still."""
    camera: float = 0.06
    """A clip whose `camera` is above this, and ..."""
    followed: float = 0.2
    """... whose `followed` is above this, is moved by its camera."""


def measure_motion(episode: Episode, pairs: int = 8, gap: int | float = 0.25) -> Motion:
    """Look at `pairs` pairs of frames `gap` seconds apart, evenly spread over the episode.

    Args:
        episode: frames, not features.
        pairs: looked at; fewer if the episode is shorter.
        gap: seconds; the nearest frames are taken.

    Raises:
        DilaError: the episode has fewer than two frames, gives features, or cannot be read.
    """
    first, second = _pairs(episode.times, pairs, gap)
    if not len(first):
        raise DilaError(f"{episode.id} has {len(episode.times)} frames; at least 2 are needed to see motion")
    wanted = np.unique(np.concatenate([first, second]))
    frames = episode.read(wanted.tolist())
    if frames.dtype != torch.uint8:
        raise DilaError(f"{episode.id} gives features, not frames; measure motion before they are cached")
    small = F.interpolate(frames.float(), (SIDE, SIDE), mode="area")
    one, two = (small[np.searchsorted(wanted, side)] for side in (first, second))
    return _motion(one, two, torch.from_numpy(episode.times[second] - episode.times[first]).float())


def judge(motion: Motion, limits: MotionLimits | None = None) -> str | None:
    """``static``, ``camera``, or None for a clip to keep."""
    limits = limits or MotionLimits()
    if motion.changed < limits.still:
        return "static"
    if motion.camera > limits.camera and motion.followed > limits.followed:
        return "camera"
    return None


def _pairs(times: np.ndarray, pairs: int, gap: int | float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the first and second frames."""
    if len(times) < 2:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    last = max(0.0, float(times[-1]) - gap)
    first = np.unique(np.abs(times - np.linspace(0, last, pairs)[:, None]).argmin(axis=1))
    second = np.abs(times - (times[first][:, None] + gap)).argmin(axis=1)
    second = np.maximum(second, first + 1)
    inside = second < len(times)
    return first[inside], second[inside]


def _motion(one: Float[Tensor, "N 3 Y X"], two: Float[Tensor, "N 3 Y X"], seconds: Float[Tensor, " N"]) -> Motion:
    # A camera's exposure is no motion: the second frame is brought to the brightness of the first.
    bright, other = (frames.mean(1).flatten(1).median(dim=1).values.clamp(min=1) for frames in (one, two))
    two = two * (bright / other).clamp(0.5, 2)[:, None, None, None]
    affine = _fit(_grey(one), _grey(two))
    back, inside = _warp(two, affine)
    area = inside.sum((1, 2, 3)).clamp(min=1)
    changed, own = ((_differs(one, frames) * inside).sum((1, 2, 3)) / area for frames in (two, back))
    before, after = ((_grey(one - frames).abs() * inside).sum((1, 2, 3)) for frames in (two, back))
    corners = torch.tensor([[-1.0, -1, 1], [1, -1, 1], [-1, 1, 1], [1, 1, 1]])
    moved = torch.einsum("nij,cj->nci", affine - torch.eye(2, 3), corners).norm(dim=2).mean(1) / 2
    followed = 1 - after / before.clamp(min=1e-6)
    real = before / area > 1.0
    share = followed[real].median() if real.any() else torch.tensor(0.0)
    return Motion(*(round(float(x), 4) for x in (changed.max(), (moved / seconds).median(), share, own.max())))


def _grey(frames: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N 1 Y X"]:
    return frames.mean(1, keepdim=True)


def _differs(one: Float[Tensor, "N 3 Y X"], two: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N 1 Y X"]:
    """1 where a colour does: red on blue may be as bright."""
    return ((one - two).abs().amax(1, keepdim=True) > CHANGED).float()


def _fit(one: Float[Tensor, "N 1 Y X"], two: Float[Tensor, "N 1 Y X"]) -> Float[Tensor, "N 2 3"]:
    """Affine motion, in half widths of the picture, that takes each first frame to its second one."""
    affine = torch.eye(2, 3).repeat(len(one), 1, 1)
    for side in SCALES:
        small, goal = (F.interpolate(x, (side, side), mode="area") for x in (one, two))
        for _ in range(ROUNDS):
            affine = _step(small, goal, affine)
    return affine


def _step(one: Float[Tensor, "N 1 Y X"], two: Float[Tensor, "N 1 Y X"], affine: Float[Tensor, "N 2 3"]) -> Tensor:
    """One Gauss-Newton step, in which a pixel counts the less the worse it fits (Geman-McClure weights)."""
    side = one.shape[-1]
    back, inside = _warp(two, affine)
    dy, dx = _slope(back)
    error = one - back
    scale = error.abs().flatten(1).median(dim=1).values.clamp(min=2.0)[:, None, None, None]
    weight = inside / (1 + (error / (2 * scale)).square()).square()
    axis = (torch.arange(side) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    flat = [t.flatten(1) for t in (dx * x, dx * y, dx, dy * x, dy * y, dy)]
    slopes = torch.stack(flat, dim=2)
    weighted = slopes * weight.flatten(1)[..., None]
    normal = weighted.mT @ slopes + 1e-3 * side * side * torch.eye(6)
    step = torch.linalg.solve(normal, weighted.mT @ error.flatten(1)[..., None])
    return affine + step.reshape(-1, 2, 3)


def _slope(frames: Float[Tensor, "N 1 Y X"]) -> tuple[Tensor, Tensor]:
    """Change per half width downwards and to the right."""
    half = frames.shape[-1] / 2
    padded = F.pad(frames, (1, 1, 1, 1), mode="replicate")
    return (
        (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2 * half,
        (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2 * half,
    )


def _warp(frames: Float[Tensor, "N C Y X"], affine: Float[Tensor, "N 2 3"]) -> tuple[Tensor, Tensor]:
    """Second frames drawn back to where the first ones were, and 1 where they reach."""
    grid = F.affine_grid(affine, list(frames.shape), align_corners=False)
    inside = (grid.abs() <= 1).all(dim=3)[:, None].float()
    return F.grid_sample(frames, grid, align_corners=False, padding_mode="border"), inside


def sort_by_motion(
    episodes: Sequence[Episode], limits: MotionLimits | None = None
) -> tuple[list[Episode], dict[str, tuple[str, Motion | None]]]:
    """Episodes to keep, and for the ids of all others why: ``static``, ``camera``, or the sentence of a reader."""
    kept: list[Episode] = []
    dropped: dict[str, tuple[str, Motion | None]] = {}
    for episode in episodes:
        try:
            motion = measure_motion(episode)
        except DilaError as error:
            refuse_shortage(error)
            dropped[episode.id] = (str(error), None)
            continue
        reason = judge(motion, limits)
        if reason is None:
            kept.append(episode)
        else:
            dropped[episode.id] = (reason, motion)
    return kept, dropped
