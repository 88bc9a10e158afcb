"""Meshes and textures of real objects, shipped with robosuite and MiniWorld, and primitives of trimesh.

Nothing is downloaded: the files come with the installed packages (licences in docs/data.md). Meshes are centred and
scaled to radius 1, with +y up.
"""

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dila.errors import DilaError, MissingExtra

ROBOSUITE, MINIWORLD = "robosuite/models/assets", "miniworld"
OWN: dict[str, tuple[str, str]] = {
    **{name: (f"{ROBOSUITE}/objects/meshes/{name}.obj", f"{ROBOSUITE}/textures/{image}.png") for name, image in {
        "bottle": "glass", "bread": "bread", "can": "soda", "cereal": "cereal", "lemon": "lemon", "milk": "ceramic",
    }.items()},
    **{name: (f"{MINIWORLD}/meshes/{name}.obj", f"{MINIWORLD}/meshes/{name}.png") for name in (
        "barrel", "barrier", "building", "cone", "duckie", "keycard", "medkit", "office_chair", "office_desk", "potion",
    )},
}  # fmt: skip
"""Scanned or modelled objects: mesh and texture."""
BARE: dict[str, str] = {"key": f"{MINIWORLD}/meshes/key.obj", "pine": f"{MINIWORLD}/meshes/tree_pine.obj",
                        "handle": f"{ROBOSUITE}/objects/meshes/handles.obj"}  # fmt: skip
"""Objects without a texture of their own."""
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "cube": ("box", {"extents": (1, 1, 1)}),
    "slab": ("box", {"extents": (1.4, 0.9, 0.5)}),
    "beam": ("box", {"extents": (0.5, 0.5, 1.8)}),
    "cylinder": ("cylinder", {"radius": 0.5, "height": 1.3, "sections": 48}),
    "disc": ("cylinder", {"radius": 0.9, "height": 0.4, "sections": 48}),
    "prism": ("cylinder", {"radius": 0.7, "height": 1.2, "sections": 3}),
    "nut": ("annulus", {"r_min": 0.4, "r_max": 0.8, "height": 0.5, "sections": 6}),
    "ring": ("annulus", {"r_min": 0.5, "r_max": 0.8, "height": 0.7, "sections": 48}),
    "torus": ("torus", {"major_radius": 0.7, "minor_radius": 0.28, "major_sections": 48, "minor_sections": 24}),
    "capsule": ("capsule", {"radius": 0.45, "height": 1.0}),
    "spike": ("cone", {"radius": 0.6, "height": 1.4, "sections": 48}),
    "pyramid": ("cone", {"radius": 0.9, "height": 1.1, "sections": 4}),
    "ball": ("icosphere", {"subdivisions": 3}),
    "gem": ("icosahedron", {}),
}
"""Primitives: function of ``trimesh.creation`` and its arguments."""
OBJECTS = (*OWN, *BARE, *SHAPES)
HELD_OUT = frozenset({"milk", "duckie", "barrier", "key", "torus", "prism"})
"""Objects that appear in held-out episodes only."""
TEXTURES = tuple(f"{ROBOSUITE}/textures/{name}.png" for name in (
    "blue-wood", "brass-ambra", "bread", "cereal", "clay", "cream-plaster", "dark-wood", "dirt", "gray-felt",
    "gray-woodgrain", "green-wood", "lemon", "light-wood", "metal", "pink-plaster", "red-wood", "soda", "steel-brushed",
    "steel-scratched", "white-bricks", "wood-tiles", "wood-varnished-panels", "yellow-plaster",
)) + tuple(f"{MINIWORLD}/textures/{name}.png" for name in (
    "airduct_grate_1", "asphalt_1", "brick_wall_1", "cardboard_1", "cinder_blocks_1", "concrete_1", "concrete_tiles_1",
    "door_doom_1", "door_garage_red", "door_steel_brown", "floor_tiles_bw_1", "grass_1", "lava_1", "marble_1",
    "metal_grill_1", "picket_fence_1", "rock_1", "slime_1", "stucco_1", "water_1", "wood_1", "wood_planks_1",
))  # fmt: skip
"""Textures for any object. In the column ``texture``, 0 is the object's own texture, n the n-th of these, and
len(TEXTURES) + 1 a random pattern."""
SMOOTH = 0.75
"""Cosine of the angle between face normal and vertex normal below which a face is shaded flat."""
SIDE = 256
"""Pixels a side of textures."""


class Mesh(NamedTuple):
    """Corners of triangles, three rows per triangle, float32."""

    position: np.ndarray
    normal: np.ndarray
    own: np.ndarray
    """Texture coordinates in the object's own texture; zeros if it has none."""
    wrapped: np.ndarray
    """Texture coordinates of a box projection, for any texture."""


def assets() -> dict[str, Path]:
    """Return the folders of the packages that ship the objects; raises `MissingExtra`."""
    found = {}
    for package in ("robosuite", "miniworld", "trimesh", "moderngl"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise MissingExtra("drawing 3D objects", package, "sim")
        found[package] = Path(spec.origin).parent
    return found


@lru_cache(maxsize=64)
def load_mesh(name: str) -> Mesh:
    """Load one of `OBJECTS`.

    Raises:
        MissingExtra: a package is not installed.
        DilaError: the installed version lacks the file, or the file is unreadable.
    """
    assets()
    import trimesh

    if name in SHAPES:
        kind, arguments = SHAPES[name]
        shape = getattr(trimesh.creation, kind)(**arguments)
        return _corners(_upright(shape), None)
    path = OWN[name][0] if name in OWN else BARE[name]
    try:
        mesh: Any = trimesh.load(_file(path), force="mesh", process=False)
    except ValueError as error:
        raise DilaError(f"{_file(path)} is not a readable mesh ({error}); install the package again") from error
    uv = getattr(mesh.visual, "uv", None)
    return _corners(_upright(mesh) if path.startswith(ROBOSUITE) else mesh, uv)


@lru_cache(maxsize=128)
def load_texture(path: str) -> np.ndarray:
    """Load a texture of a package, uint8 ``256 256 3``, first row at the top."""
    from PIL import Image

    with Image.open(_file(path)) as image:
        return np.array(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))


def _file(path: str) -> Path:
    package, _, rest = path.partition("/")
    found = assets()[package] / rest
    if not found.is_file():
        raise DilaError(f"{found} is missing; install the versions of the extra 'sim' (robosuite 1.5.1, miniworld 2.1)")
    return found


def _upright(mesh: Any) -> Any:
    """Rotate a mesh from z up to y up."""
    mesh = mesh.copy()
    mesh.apply_transform(np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]]))
    return mesh


def _corners(mesh: Any, uv: np.ndarray | None) -> Mesh:
    import trimesh

    faces = np.asarray(mesh.faces)
    middle = mesh.bounds.mean(axis=0)
    position = (np.asarray(mesh.vertices) - middle)[faces]
    position = position / np.linalg.norm(position, axis=-1).max()
    flat = np.cross(position[:, 1] - position[:, 0], position[:, 2] - position[:, 0])
    flat = flat / np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-12)
    flat = np.repeat(flat[:, None], 3, axis=1)
    welded = trimesh.Trimesh(position.reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3), process=False)
    welded.merge_vertices(digits_vertex=5)
    round_ = np.asarray(welded.vertex_normals)[np.asarray(welded.faces)]
    normal = np.where((round_ * flat).sum(-1, keepdims=True) > SMOOTH, round_, flat)
    own = np.zeros((*faces.shape, 2)) if uv is None else np.asarray(uv)[faces]
    return Mesh(*(part.reshape(-1, part.shape[-1]).astype(np.float32) for part in (
        position, normal, own, _wrap(position, flat),
    )))  # fmt: skip


def _wrap(position: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """Return texture coordinates by projecting each face onto the side of a cube that it faces most."""
    side = np.abs(flat[:, 0]).argmax(-1)
    pairs = np.array([[2, 1], [0, 2], [0, 1]])[side]
    picked = np.take_along_axis(position, np.repeat(pairs[:, None], 3, axis=1), axis=-1)
    return 0.75 * (picked + 1)
