"""Pictures of MuJoCo worlds without a screen, drawn in software about 50 times faster than by default.

At 64x64 pixels the time goes into shadows, reflections and multisampling and not into the pixels: with the three switched
off (`FAST`) a frame takes about 1 ms in place of 70 (Mesa's llvmpipe, one core). The picture changes with them, so they are
view settings that are stored with the data.

Importing this module chooses EGL for MuJoCo unless MUJOCO_GL says otherwise, because MuJoCo reads that variable once, when
it is imported: a family's file that draws imports this one at its top. It also imports triton, which comes with torch for
GPUs: its LLVM and that of Mesa's drivers live together only if triton's is loaded first; else torch's compiler, which loads
triton when it is first asked for, would end the process (seen with triton 3.7 and Mesa 22).
"""

import atexit
import contextlib
import importlib
import os
import sys
import weakref
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np

if sys.platform == "linux":   # elsewhere the systems' own libraries draw without a screen
    os.environ.setdefault("MUJOCO_GL", "egl")
with contextlib.suppress(ImportError):
    importlib.import_module("triton")

APT = ("libegl1", "libgl1")   # Debian packages that draw in software
FAST: Mapping[str, Any] = MappingProxyType({"shadows": False, "reflections": False, "offsamples": 0})
PIXELS: Mapping[str, Any] = {"height": 64, "width": 64, "frames": 2, "seconds_apart": 0.05, **FAST}   # see PixelView
GREY = np.array([77, 150, 29], np.uint16)   # / 256: brightness of red, green and blue, ITU-R BT.601


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

        self.model, self.data = model, data
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


class _Watched(gym.Wrapper):
    """An environment with a camera of its own; `env.unwrapped` has a `model` and a `data`."""

    def __init__(self, env: gym.Env, height: int, width: int, camera: int | str | Mapping[str, Any], **drawn: Any) -> None:
        super().__init__(env)
        self.settings = {"height": height, "width": width, "camera": camera, **drawn}
        self.camera: Camera | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(seed=seed, options=options)
        world: Any = self.unwrapped
        if self.camera and (self.camera.model is not world.model or world.model.nhfield):
            self._drop_camera()   # it would go on to show the model, or the hills, of the last episode
        return result

    def picture(self) -> np.ndarray:
        """What its camera sees now, RGB, uint8 (height, width, 3)."""
        world: Any = self.unwrapped
        self.camera = self.camera or Camera(world.model, world.data, **self.settings)
        return self.camera.picture()

    def close(self) -> None:
        self._drop_camera()
        super().close()

    def _drop_camera(self) -> None:
        if self.camera:
            self.camera.close()
        self.camera = None


class Rendered(_Watched):
    """Lets `env.render()` draw for people, RGB, uint8 (240, 320, 3)."""

    render_mode = "rgb_array"

    def __init__(self, env: gym.Env, camera: int | str | Mapping[str, Any]) -> None:
        super().__init__(env, 240, 320, camera)

    def render(self) -> Any:
        return self.picture()


class PixelView(_Watched):
    """Pictures in place of the state: grey frames stacked as channels, newest last, uint8 (height, width, frames).

    One picture shows no velocities, two do at the same price in patches; what colours tell apart in these worlds grey tells
    apart, too. Simulations run at up to 125 steps a second, in which nothing moves by a pixel: so the frames of a stack are
    `seconds_apart` (at least one step).
    """

    def __init__(self, env: gym.Env, *, height: int, width: int, frames: int, seconds_apart: float,
                 camera: int | str | Mapping[str, Any], **drawn: Any) -> None:
        super().__init__(env, height, width, camera, **drawn)
        if not 1 <= frames <= 4:
            raise ValueError(f"view setting frames={frames}; a patch has 1 to 4 channels")
        world: Any = env.unwrapped
        self.apart = max(1, round(seconds_apart / world.dt))
        self.recent: deque[np.ndarray] = deque(maxlen=(frames - 1) * self.apart + 1)
        self.observation_space = gym.spaces.Box(0, 255, (height, width, frames), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The first picture stands for those before it."""
        _, info = super().reset(seed=seed, options=options)
        self.recent.extend([self._grey()] * (self.recent.maxlen or 1))
        return self._stack(), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        _, reward, terminated, truncated, info = self.env.step(action)
        self.recent.append(self._grey())
        return self._stack(), reward, terminated, truncated, info

    def _grey(self) -> np.ndarray:
        return (self.picture().astype(np.uint16) @ GREY >> 8).astype(np.uint8)

    def _stack(self) -> np.ndarray:
        return np.stack([*self.recent][::self.apart], axis=-1)
