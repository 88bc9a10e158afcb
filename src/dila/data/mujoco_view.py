"""Off-screen rendering of MuJoCo scenes on a CPU, antialiased and without shadows.

With MuJoCo's defaults, a shadow map of 4096 pixels and multisampling, software rendering takes most of a second per
picture. Here there are no shadows and one sample; the picture is rendered at twice the size and averaged.
"""

import atexit
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dila.errors import DilaError
from dila.shapes import Tensor, UInt8


class MujocoView:
    """A fixed camera on a model.

    Args:
        model: ``mujoco.MjModel``; its rendering settings are changed.
        lookat: the point in the middle of the picture.
        distance: distance of the camera from that point.
        azimuth: in degrees.
        elevation: in degrees, negative from above.
        hidden: groups of geoms that are not drawn.
        sites: draw the sites of group 0; other sites are never drawn.

    Raises:
        DilaError: this machine cannot render off-screen.
    """

    def __init__(
        self,
        model: Any,
        lookat: Sequence[int | float],
        distance: int | float,
        azimuth: int | float,
        elevation: int | float,
        hidden: Sequence[int] = (),
        sites: bool = False,
    ):
        self.mujoco: Any = importlib.import_module("mujoco")
        model.vis.quality.offsamples, model.vis.quality.shadowsize = 0, 512
        self.model = model
        self.camera = self.mujoco.MjvCamera()
        self.mujoco.mjv_defaultFreeCamera(model, self.camera)
        self.camera.lookat[:] = lookat
        self.camera.distance, self.camera.azimuth, self.camera.elevation = distance, azimuth, elevation
        self.option = self.mujoco.MjvOption()
        self.option.sitegroup[:] = 0
        self.option.sitegroup[0] = int(sites)
        self.option.geomgroup[list(hidden)] = 0
        self.renderer: Any = None

    def __call__(self, data: Any, size: int) -> UInt8[Tensor, "3 Y X"]:
        """Render ``mujoco.MjData``."""
        if self.renderer is None or self.renderer.height != 2 * size:
            self.renderer = self._open(2 * size)
        self.renderer.update_scene(data, self.camera, self.option)
        for flag in (self.mujoco.mjtRndFlag.mjRND_SHADOW, self.mujoco.mjtRndFlag.mjRND_REFLECTION):
            self.renderer.scene.flags[flag] = 0
        return halved(self.renderer.render())

    def _open(self, side: int) -> Any:
        self.model.vis.global_.offwidth = max(side, self.model.vis.global_.offwidth)
        self.model.vis.global_.offheight = max(side, self.model.vis.global_.offheight)
        self.close()
        try:
            renderer = self.mujoco.Renderer(self.model, side, side)
        except Exception as error:  # the binding of a missing library may raise anything
            raise DilaError(
                f"MuJoCo cannot render off-screen ({error}); install EGL (Debian: libegl1 libgl1-mesa-dri) or set "
                "MUJOCO_GL=osmesa (Debian: libosmesa6)"
            ) from error
        # Closed before the interpreter shuts down: its finaliser would then fail, since the library is already gone.
        atexit.register(renderer.close)
        return renderer

    def close(self) -> None:
        """Release the rendering context."""
        if self.renderer is not None:
            atexit.unregister(self.renderer.close)
            self.renderer.close()
            self.renderer = None


def halved(picture: np.ndarray) -> UInt8[Tensor, "3 Y X"]:
    """Downscale a picture ``2Y 2X 3`` to half the size by averaging."""
    rows, columns = picture.shape[0] // 2, picture.shape[1] // 2
    mean = picture.reshape(rows, 2, columns, 2, 3).astype(np.uint16).sum((1, 3))
    return torch.from_numpy(((mean + 2) // 4).astype(np.uint8)).permute(2, 0, 1).contiguous()
