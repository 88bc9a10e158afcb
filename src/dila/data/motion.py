"""Filter for static clips and moving cameras, for corpora such as Something-Something-V2.

The paper excludes such clips with lists that were never published; this filter is our own. It compares a few pairs of
frames at low resolution and fits to each pair, in grey, the affine motion that most of the picture follows (shift,
rotation, zoom; Gauss-Newton on three scales, with robust weights for parts that move on their own). Change that the fit
explains is attributed to the camera; change that remains after undoing it, to the content.
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
"""Frames are downscaled to this many pixels a side."""
SCALES = (16, 32, 64)
ROUNDS = 6
CHANGED = 12.0
"""Levels out of 255 by which a pixel must differ to count as changed: above the noise of video compression."""


class Motion(NamedTuple):
    """Result of `measure_motion` over all pairs of frames."""

    changed: float
    """Share of the picture that differs in any colour channel; maximum over pairs."""
    camera: float
    """Speed of the fitted motion at the corners of the picture, in picture widths a second; median over pairs."""
    followed: float
    """Share of the change that the fitted motion explains (1 for a pan over a static scene); median over pairs."""
    own: float
    """Share of the picture that still differs after the fitted motion is undone; maximum over pairs."""


@dataclass(frozen=True)
class MotionLimits:
    """Thresholds of `judge`, with a margin from what static scenes and steady cameras measure; see docs/data.md."""

    still: float = 0.005
    """A clip is static if `changed` is below this."""
    camera: float = 0.06
    """The camera moves if `camera` is above this ..."""
    followed: float = 0.2
    """... and `followed` is above this."""


def measure_motion(episode: Episode, pairs: int = 8, gap: int | float = 0.25) -> Motion:
    """Measure motion between `pairs` pairs of frames `gap` seconds apart, evenly spread over the episode.

    Args:
        episode: an episode of frames, not features.
        pairs: number of pairs; fewer if the episode is short.
        gap: seconds between the frames of a pair; the nearest frames are taken.

    Raises:
        DilaError: the episode has fewer than two frames, has features instead of frames, or cannot be read.
    """
    first, second = _pairs(episode.times, pairs, gap)
    if not len(first):
        raise DilaError(f"{episode.id} has {len(episode.times)} frames; measuring motion needs at least 2")
    wanted = np.unique(np.concatenate([first, second]))
    frames = episode.read(wanted.tolist())
    if frames.dtype != torch.uint8:
        raise DilaError(f"{episode.id} has features instead of frames; measure motion before encoding")
    small = F.interpolate(frames.float(), (SIDE, SIDE), mode="area")
    one, two = (small[np.searchsorted(wanted, side)] for side in (first, second))
    return _motion(one, two, torch.from_numpy(episode.times[second] - episode.times[first]).float())


def judge(motion: Motion, limits: MotionLimits | None = None) -> str | None:
    """Return ``static``, ``camera`` (it moves), or None for a clip to keep."""
    limits = limits or MotionLimits()
    if motion.changed < limits.still:
        return "static"
    if motion.camera > limits.camera and motion.followed > limits.followed:
        return "camera"
    return None


def _pairs(times: np.ndarray, pairs: int, gap: int | float) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the first and second frame of each pair."""
    if len(times) < 2:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    last = max(0.0, float(times[-1]) - gap)
    first = np.unique(np.abs(times - np.linspace(0, last, pairs)[:, None]).argmin(axis=1))
    second = np.abs(times - (times[first][:, None] + gap)).argmin(axis=1)
    second = np.maximum(second, first + 1)
    inside = second < len(times)
    return first[inside], second[inside]


def _motion(one: Float[Tensor, "N 3 Y X"], two: Float[Tensor, "N 3 Y X"], seconds: Float[Tensor, " N"]) -> Motion:
    # A change of exposure is not motion, so match the brightness of the second frame to the first.
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
    """Return 1 where any colour channel differs; red and blue may have the same grey level."""
    return ((one - two).abs().amax(1, keepdim=True) > CHANGED).float()


def _fit(one: Float[Tensor, "N 1 Y X"], two: Float[Tensor, "N 1 Y X"]) -> Float[Tensor, "N 2 3"]:
    """Fit the affine motion from each first frame to its second one, in half widths of the picture."""
    affine = torch.eye(2, 3).repeat(len(one), 1, 1)
    for side in SCALES:
        small, goal = (F.interpolate(x, (side, side), mode="area") for x in (one, two))
        for _ in range(ROUNDS):
            affine = _step(small, goal, affine)
    return affine


def _step(one: Float[Tensor, "N 1 Y X"], two: Float[Tensor, "N 1 Y X"], affine: Float[Tensor, "N 2 3"]) -> Tensor:
    """Take one Gauss-Newton step with Geman-McClure weights, which downweight pixels that fit badly."""
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
    """Return the gradients downwards and to the right, per half width."""
    half = frames.shape[-1] / 2
    padded = F.pad(frames, (1, 1, 1, 1), mode="replicate")
    return (
        (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2 * half,
        (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2 * half,
    )


def _warp(frames: Float[Tensor, "N C Y X"], affine: Float[Tensor, "N 2 3"]) -> tuple[Tensor, Tensor]:
    """Warp the second frames back onto the first ones; also returns a mask of the pixels inside the picture."""
    grid = F.affine_grid(affine, list(frames.shape), align_corners=False)
    inside = (grid.abs() <= 1).all(dim=3)[:, None].float()
    return F.grid_sample(frames, grid, align_corners=False, padding_mode="border"), inside


def sort_by_motion(
    episodes: Sequence[Episode], limits: MotionLimits | None = None
) -> tuple[list[Episode], dict[str, tuple[str, Motion | None]]]:
    """Return the episodes to keep, and by id why others are not: ``static``, ``camera`` or an error message."""
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
