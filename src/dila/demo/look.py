"""A view into the model: structure and content as colours, and latent actions on a plane with their frames."""

import base64
from html import escape
from io import BytesIO
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch

from dila.errors import DilaError, MissingExtra
from dila.imagine.pictures import contact_sheet, fit_colours, paint
from dila.imagine.world import World
from dila.model.dila import DiLA
from dila.shapes import Float, Tensor, UInt8

Plane = Literal["PCA", "UMAP"]
SIZE, MARGIN, THUMBNAIL = 420, 40, 72


class Inside(NamedTuple):
    """What the model computes from a clip."""

    frames: UInt8[Tensor, "T 3 Y X"]
    structure: UInt8[Tensor, "T 3 Y X"]
    content: UInt8[Tensor, "T 3 Y X"]
    z: Float[Tensor, "K Dz"]


def look(world: World, frames: UInt8[Tensor, "T 3 Y X"]) -> Inside:
    """Return structure and content as colours of their first three principal components, and the latent actions.

    Raises:
        DilaError: the model is not a DiLA.
    """
    if not isinstance(world.model, DiLA):
        raise DilaError(
            f"only a DiLA has structure and content, but this model is a {type(world.model).__name__}; load a DiLA"
        )
    e = world.features(frames)
    with world.running():
        seen = world.model.observe(e[None])
    size = cast(tuple[int, int], tuple(frames.shape[-2:]))
    s, c = (paint(fit_colours(maps), maps, size) for maps in (seen.s[0].float(), seen.c[0].float()))
    return Inside(frames, s, c, world.infer(frames).float().cpu())


def sheet(inside: Inside) -> Any:
    """Draw frames, structure and content below one another, as a PIL image."""
    return contact_sheet({"frames": inside.frames, "structure s": inside.structure, "content c": inside.content})


def plane(z: Float[Tensor, "K Dz"], method: Plane = "PCA") -> Float[Tensor, "K 2"]:
    """Project latent actions to a plane.

    Raises:
        MissingExtra: UMAP is not installed.
        DilaError: fewer actions than UMAP needs.
    """
    if method == "UMAP":
        return _umap(z)
    x = z - z.mean(0)
    _, _, rows = torch.linalg.svd(x, full_matrices=False)
    flat = x @ rows[:2].T
    return torch.nn.functional.pad(flat, (0, 2 - flat.shape[1]))


def axis_names(z: Float[Tensor, "K Dz"], method: Plane = "PCA") -> tuple[str, str]:
    """Return the names of the plane's axes, for PCA with their shares of the variance of z."""
    if method == "UMAP":
        return ("UMAP 1", "UMAP 2")
    energy = torch.linalg.svdvals(z - z.mean(0)).square()
    first, second = (
        float(share) for share in torch.nn.functional.pad(energy, (0, 1))[:2] / energy.sum().clamp_min(1e-12)
    )
    return (f"PC 1 of z ({first:.0%} of its variance)", f"PC 2 of z ({second:.0%})")


def scatter(points: Float[Tensor, "K 2"], frames: UInt8[Tensor, "T 3 Y X"], title: str, names: tuple[str, str]) -> str:
    """Return an SVG with a dot per transition, from early (blue) to late (orange); hovering shows its two frames.

    ``names`` are the labels of the axes. Pictures and styles are embedded, so the SVG needs no other file.
    """
    low, high = points.amin(0), points.amax(0)
    # One scale for both axes, so that a direction of little variance is not exaggerated.
    shares = (points - (low + high) / 2) / (high - low).max().clamp_min(1e-6)
    placed = shares * (SIZE - 2 * MARGIN) + SIZE / 2
    across, down = map(escape, names)
    late = np.linspace(0, 1, max(2, len(points)))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed.tolist())
    dots = "".join(_dot(k, x, y, late[k]) for k, (x, y) in enumerate(placed.tolist()))
    # Pictures come after all dots, so that no dot covers them.
    pairs = "".join(_pair(k, x, y, frames[k], frames[k + 1]) for k, (x, y) in enumerate(placed.tolist()))
    rules = "".join(f"#dot{k}:hover~#pair{k}{{visibility:visible}}" for k in range(len(points)))
    return (
        f'<svg viewBox="0 0 {SIZE} {SIZE}" style="max-width:{SIZE + 80}px;background:#fff" role="img">'
        f"<style>.pair{{visibility:hidden;pointer-events:none}}circle:hover{{r:9}}{rules}</style>"
        f'<text x="8" y="16" font-size="12" fill="#5a6475">{escape(title)}; <tspan fill="{_colour(0.0)}">early</tspan> '
        f'to <tspan fill="{_colour(1.0)}">late</tspan></text>'
        f'<text x="{SIZE / 2}" y="{SIZE - 8}" font-size="12" fill="#5a6475" text-anchor="middle">{across}</text>'
        f'<text transform="translate(14 {SIZE / 2}) rotate(-90)" font-size="12" fill="#5a6475" text-anchor="middle">'
        f"{down}</text>"
        f'<polyline points="{path}" fill="none" stroke="#d7dce4"/>{dots}{pairs}</svg>'
    )


def _colour(late: float) -> str:
    return f"rgb({int(40 + 200 * late)},{int(110 + 20 * late)},{int(210 - 170 * late)})"


def _dot(k: int, x: float, y: float, late: float) -> str:
    return f'<circle id="dot{k}" cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{_colour(late)}"/>'


def _pair(k: int, x: float, y: float, before: Tensor, after: Tensor) -> str:
    left = min(max(x - THUMBNAIL, 0), SIZE - 2 * THUMBNAIL)
    top = y + 24 if y < SIZE / 2 else y - 12 - THUMBNAIL
    pictures = "".join(
        f'<image href="{_data(picture)}" x="{left + i * THUMBNAIL:.0f}" y="{top:.0f}" width="{THUMBNAIL - 2}" '
        f'height="{THUMBNAIL - 2}"/>'
        for i, picture in enumerate((before, after))
    )
    label = f'<text x="{left:.0f}" y="{top - 3:.0f}" font-size="11" fill="#1d2430">z {k}</text>'
    return f'<g id="pair{k}" class="pair">{pictures}{label}</g>'


def _data(picture: UInt8[Tensor, "3 Y X"]) -> str:
    from PIL import Image

    kept = BytesIO()
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.save(kept, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(kept.getvalue()).decode()


def _umap(z: Tensor) -> Tensor:
    try:
        from umap import UMAP
    except ImportError as error:
        raise MissingExtra("the UMAP projection", "umap-learn", "analysis") from error
    if len(z) < 8:
        raise DilaError(f"UMAP needs at least 8 latent actions, but the clip has {len(z)}; use PCA or a longer clip")
    made = UMAP(n_neighbors=min(15, len(z) - 1), random_state=0, n_jobs=1).fit_transform(z.numpy())
    return torch.from_numpy(np.asarray(made, dtype=np.float32))
