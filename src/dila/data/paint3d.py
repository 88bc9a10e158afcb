"""Off-screen rendering of textured meshes in orthographic projection, with moderngl over EGL.

The projection is orthographic so that the state determines the exact position in the picture: the object's centre is at
(x, y), its unit sphere has a radius of `radius` times exp(log_scale) picture widths, and it is rotated by the angle.
"""

import importlib
from typing import Any

import numpy as np
import torch

from dila.data.meshes3d import Mesh
from dila.errors import DilaError
from dila.shapes import Float, Tensor

VERTEX = """
#version 330
uniform mat3 turn;      // rotation in space, before the rotation in the picture plane
uniform mat2 plane;     // rotation and scale in the picture plane
uniform vec2 middle;
in vec3 position;
in vec3 normal;
in vec2 place;
out vec3 facing;
out vec2 at;
void main() {
    vec3 seen = turn * position;
    vec3 towards = turn * normal;
    facing = vec3(plane * towards.xy / length(plane[0]), towards.z);
    at = place;
    gl_Position = vec4(plane * seen.xy + middle, -0.5 * seen.z, 1.0);
}
"""
FRAGMENT = """
#version 330
uniform sampler2D surface;
uniform vec3 light;
in vec3 facing;
in vec2 at;
out vec4 colour;
void main() {
    vec3 n = normalize(facing);
    n = n.z < 0.0 ? -n : n;
    float key = max(dot(n, light), 0.0);
    float fill = max(dot(n, normalize(vec3(-light.x, 0.3, 0.8))), 0.0);
    float shine = pow(max(reflect(-light, n).z, 0.0), 24.0);
    vec3 base = texture(surface, at).rgb;
    colour = vec4(min(base * (0.38 + 0.62 * key + 0.22 * fill) + 0.10 * shine, 1.0), 1.0);
}
"""


class Painter:
    """OpenGL context for rendering; create one per process.

    Raises:
        DilaError: this machine cannot render off-screen.
    """

    def __init__(self) -> None:
        moderngl: Any = importlib.import_module("moderngl")

        try:
            self.context: Any = moderngl.create_context(standalone=True, backend="egl")
        except Exception as error:  # a missing library may raise anything
            raise DilaError(
                f"3D objects cannot be rendered off-screen ({error}); install EGL (Debian: libegl1 libgl1-mesa-dri), "
                "or record primitives, which do not need it"
            ) from error
        self.program = self.context.program(vertex_shader=VERTEX, fragment_shader=FRAGMENT)
        self.context.enable(moderngl.DEPTH_TEST)

    def draw(
        self,
        mesh: Mesh,
        place: np.ndarray,
        surface: np.ndarray,
        turn: np.ndarray,
        light: np.ndarray,
        states: np.ndarray,
        radius: float,
        side: int,
    ) -> Float[Tensor, "N 4 Y X"]:
        """Render the object in every state, as premultiplied RGBA.

        Args:
            mesh: the object.
            place: texture coordinates of its corners, ``corners 2``.
            surface: the texture, uint8 ``Y X 3``, first row at the top.
            turn: rotation of the object in space, ``3 3``.
            light: direction to the light, ``3``: x to the right, y up, z to the viewer.
            states: ``N 4``: x and y in picture widths from the top left corner, log of the size, angle clockwise.
            radius: radius of the object at log_scale 0, in picture widths.
            side: pixels a side.
        """
        corners = np.concatenate([mesh.position, mesh.normal, place], axis=1).astype("f4")
        buffer = self.context.buffer(corners.tobytes())
        array = self.context.vertex_array(self.program, [(buffer, "3f 3f 2f", "position", "normal", "place")])
        texture = self.context.texture(surface.shape[1::-1], 3, np.ascontiguousarray(surface[::-1]).tobytes())
        texture.build_mipmaps()
        texture.anisotropy = 4.0
        target = self.context.simple_framebuffer((side, side), 4)
        target.use()
        texture.use(0)
        # GLSL matrices are column-major.
        self.program["turn"].write(turn.T.astype("f4").tobytes())
        self.program["light"].value = tuple(float(x) for x in light / np.linalg.norm(light))
        pictures = np.stack([self._frame(array, target, state, radius, side) for state in states])
        for thing in (array, buffer, texture, target):
            thing.release()
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255

    def _frame(self, array: Any, target: Any, state: np.ndarray, radius: float, side: int) -> np.ndarray:
        x, y, log_scale, angle = (float(value) for value in state)
        size = 2 * radius * np.exp(log_scale)
        cos, sin = size * np.cos(angle), size * np.sin(angle)
        # The angle is clockwise in the picture, but y points up in OpenGL.
        self.program["plane"].write(np.array([[cos, sin], [-sin, cos]]).T.astype("f4").tobytes())
        self.program["middle"].value = (2 * x - 1, 1 - 2 * y)
        target.clear(0, 0, 0, 0)
        array.render()
        return np.frombuffer(target.read(components=4), np.uint8).reshape(side, side, 4)[::-1].copy()
