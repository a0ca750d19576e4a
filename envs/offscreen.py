"""Pictures of MuJoCo worlds without a screen, drawn in software about 50 times faster than by default.

At 64x64 pixels the time goes into shadows, reflections and multisampling and not into the pixels: with the three switched
off (`FAST`) a frame takes about 1 ms in place of 70 (Mesa's llvmpipe, one core). The picture changes with them, so they are
view settings that are stored with the data.

Importing this module chooses EGL for MuJoCo unless MUJOCO_GL says otherwise, because MuJoCo reads that variable once, when
it is imported: a family's file that draws imports this one at its top.
"""

import atexit
import os
import sys
import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

if sys.platform == "linux":   # elsewhere the systems' own libraries draw without a screen
    os.environ.setdefault("MUJOCO_GL", "egl")

APT = ("libegl1", "libgl1")   # Debian packages that draw in software
FAST: Mapping[str, Any] = MappingProxyType({"shadows": False, "reflections": False, "offsamples": 0})


class Camera:
    """Draws a MuJoCo model from one point of view.

    Args:
        model: mujoco.MjModel, unchanged afterwards.
        data: mujoco.MjData of that model; each picture shows its present state.
        height, width: of the picture in pixels, any size.
        camera: name or number of one of the model's cameras; -1 for the free camera that sees the whole model; or that
            free camera with some of these changed: "distance" in metres, "azimuth" and "elevation" in degrees, "lookat"
            (x, y, z) in metres, or "track", the name of a body to follow in place of a fixed "lookat".
        shadows, reflections, offsamples: what is drawn, and samples per pixel against jagged edges; see FAST.
    Raises:
        ValueError: the model has no such camera or body, or a free camera has no such setting.
    """

    def __init__(self, model: Any, data: Any, height: int = 64, width: int = 64,
                 camera: int | str | Mapping[str, Any] = -1, *, shadows: bool = False, reflections: bool = False,
                 offsamples: int = 0) -> None:
        import mujoco

        self.data = data
        self.camera = _view(model, camera)
        self.flags = [int(mujoco.mjtRndFlag.mjRND_SHADOW), int(mujoco.mjtRndFlag.mjRND_REFLECTION)]
        self.drawn = [shadows, reflections]
        # The renderer reads size and samples from the model once, here; other cameras of the model may differ.
        size, quality = model.vis.global_, model.vis.quality
        before = size.offheight, size.offwidth, quality.offsamples
        size.offheight, size.offwidth, quality.offsamples = height, width, offsamples
        try:
            self.renderer = mujoco.Renderer(model, height, width)
        finally:
            size.offheight, size.offwidth, quality.offsamples = before
        # One that nobody closed must go before EGL's own farewell, which was registered by the line above.
        self.close_once = weakref.finalize(self, self.renderer.close)
        atexit.register(self.close_once)

    def picture(self) -> np.ndarray:
        """What the camera sees now, RGB, uint8 (height, width, 3)."""
        self.renderer.update_scene(self.data, self.camera)
        self.renderer.scene.flags[self.flags] = self.drawn   # update_scene switches them on again
        return self.renderer.render()

    def close(self) -> None:
        """Free the memory; there are no pictures after it."""
        self.close_once()
        atexit.unregister(self.close_once)


def _view(model: Any, camera: int | str | Mapping[str, Any]) -> Any:
    """A mujoco.MjvCamera, see Camera."""
    import mujoco

    view = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, view)
    if isinstance(camera, Mapping):
        for key, value in camera.items():
            if key == "track":
                view.type = mujoco.mjtCamera.mjCAMERA_TRACKING
                view.trackbodyid = _number(model, mujoco.mjtObj.mjOBJ_BODY, value)
            elif key in ("distance", "azimuth", "elevation", "lookat"):
                setattr(view, key, value)
            else:
                raise ValueError(f"a free camera has no {key!r}; it has: distance, azimuth, elevation, lookat, track")
    elif camera != -1:
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = _number(model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
    return view


def _number(model: Any, kind: Any, name: int | str) -> int:
    """The number of a camera or body that is given by name or number."""
    import mujoco

    cameras = kind == mujoco.mjtObj.mjOBJ_CAMERA
    known = [mujoco.mj_id2name(model, kind, i) for i in range(model.ncam if cameras else model.nbody)]
    if name in known:
        return known.index(name)
    if name in range(len(known)):
        return int(name)
    raise ValueError(f"the model has no {'camera' if cameras else 'body'} {name!r}; it has: "
                     f"{', '.join(f'{i} {each}' for i, each in enumerate(known)) or 'none'}")
