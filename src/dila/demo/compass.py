"""Controls over z: its leading directions, rotated to agree with the screen, and actions found by clustering.

Everything is derived from example clips and the model, without labels. An action is named by how the pictures changed
under it (right, up left, still), measured in pixels.
"""

from collections.abc import Mapping, Sequence
from math import atan2, pi
from typing import NamedTuple

import torch

from dila.errors import DilaError
from dila.imagine.world import World
from dila.shapes import Float, Int, Tensor, UInt8

AXES = 4
"""Maximum number of directions offered; the first two are on the pad."""

CLUSTERS = 8
REACH = 1.25
"""Standard deviations at the edge of the pad; models have rarely seen larger actions."""

USUAL = 0.85
"""Share of the examples, those with the smallest z, that named actions are derived from."""

ROUNDS = 50
_WAYS = ("right", "down right", "down", "down left", "left", "up left", "up", "up right")
_STILL = 0.35
"""A cluster whose z is smaller than this share of the mean size of z counts as standing still."""


class Compass(NamedTuple):
    """Maps the visitor's controls to latent actions."""

    origin: Float[Tensor, " Dz"]
    """The action inferred between two equal frames."""
    axes: Float[Tensor, "A Dz"]
    spread: Float[Tensor, " A"]
    """Standard deviation of the examples along each axis."""
    actions: Mapping[str, Float[Tensor, " Dz"]]

    def point(self, amounts: Sequence[int | float]) -> Float[Tensor, " Dz"]:
        """Return the latent action with these amounts along the first axes, in standard deviations."""
        reach = torch.tensor(list(amounts), dtype=torch.float32)
        if len(reach) > len(self.axes):
            raise DilaError(f"{len(reach)} amounts were given, but there are only {len(self.axes)} directions")
        return self.origin + (reach * self.spread[: len(reach)]) @ self.axes[: len(reach)]

    def read(self, z: Float[Tensor, "*batch Dz"]) -> Float[Tensor, "*batch A"]:
        """Return the amounts along the axes: the inverse of `point`."""
        return (z - self.origin) @ self.axes.T / self.spread


def find_compass(world: World, clips: Sequence[UInt8[Tensor, "T 3 Y X"]]) -> Compass:
    """Find the directions and named actions of these clips.

    Raises:
        DilaError: there is no clip, or there are fewer than two transitions.
    """
    if not clips:
        raise DilaError("there are no example clips to find the directions of z in; give at least one")
    z = torch.cat([world.infer(clip).float().cpu() for clip in clips])
    moved = torch.cat([motion(clip) for clip in clips])
    still = clips[0][:1].expand(2, -1, -1, -1).contiguous()
    origin = world.infer(still).float().cpu()[0]
    axes, spread = _directions(z - origin, moved)
    return Compass(origin, axes, spread, _named(z, moved, origin))


def motion(frames: UInt8[Tensor, "T 3 Y X"]) -> Float[Tensor, "K 2"]:
    """Return how far things moved between frames, right and down, in widths of the picture.

    Pixels that differ from the clip's median frame count as things. The motion is the centre of where they appeared,
    minus the centre of where they disappeared. A rough estimate with the right sign, without labels.
    """
    grey = frames.float().mean(1) / 255
    there = (grey - grey.median(0).values).abs()
    change = there[1:] - there[:-1]
    come, gone = change.clamp_min(0), (-change).clamp_min(0)
    return (_middle(come) - _middle(gone)) * (change.abs().mean((1, 2)) > 1e-4)[:, None]


def cluster(x: Float[Tensor, "N C"], count: int) -> tuple[Float[Tensor, "G C"], Int[Tensor, " N"]]:
    """K-means with deterministic farthest-point initialisation: return the centres and each point's cluster."""
    count = min(count, len(x))
    chosen = [int((x - x.mean(0)).norm(dim=1).argmin())]
    while len(chosen) < count:
        chosen.append(int(torch.cdist(x, x[chosen]).min(1).values.argmax()))
    centres = x[chosen].clone()
    for _ in range(ROUNDS):
        belongs = torch.cdist(x, centres).argmin(1)
        moved = torch.stack([x[belongs == g].mean(0) if (belongs == g).any() else centres[g] for g in range(count)])
        if torch.allclose(moved, centres):
            break
        centres = moved
    return centres, torch.cdist(x, centres).argmin(1)


def _directions(z: Float[Tensor, "N Dz"], moved: Float[Tensor, "N 2"]) -> tuple[Tensor, Tensor]:
    """Return the principal axes about the origin, the first two rotated towards right and down, and their spread."""
    if len(z) < 2:
        raise DilaError("the example clips have fewer than two transitions; give longer clips or more of them")
    _, _, rows = torch.linalg.svd(z, full_matrices=False)
    axes = rows[:AXES]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    u, _, v = torch.linalg.svd((z @ axes[:2].T).T @ moved)
    axes = torch.cat([(u @ v).T @ axes[:2], axes[2:]])
    return axes, (z @ axes.T).square().mean(0).sqrt().clamp_min(1e-6)


def _named(z: Tensor, moved: Tensor, origin: Tensor) -> dict[str, Tensor]:
    size = (z - origin).norm(dim=1)
    kept = size <= size.quantile(USUAL)
    z, moved, usual = z[kept], moved[kept], size.mean()
    centres, belongs = cluster(z, CLUSTERS)
    found: dict[str, Tensor] = {"still": origin}
    for g in (centres - origin).norm(dim=1).argsort().tolist():
        if (centres[g] - origin).norm() > _STILL * usual:
            found[_numbered(_way(moved[belongs == g].mean(0)), found)] = centres[g]
    return dict(sorted(found.items()))


def _way(moved: Float[Tensor, "2"]) -> str:
    if moved.norm() < 1e-3:
        return "change"
    return _WAYS[round(atan2(float(moved[1]), float(moved[0])) / (pi / 4)) % 8]


def _numbered(name: str, taken: Mapping[str, Tensor]) -> str:
    same = sum(other == name or other.startswith(f"{name}, ") for other in taken)
    return name if not same else f"{name}, {same + 1}"


def _middle(weights: Float[Tensor, "K Y X"]) -> Float[Tensor, "K 2"]:
    rows, columns = weights.shape[-2:]
    x, y = (torch.arange(columns) + 0.5) / columns, (torch.arange(rows) + 0.5) / columns
    total = weights.sum((1, 2)).clamp_min(1e-6)
    return torch.stack([(weights.sum(1) @ x) / total, (weights.sum(2) @ y) / total], dim=1)
