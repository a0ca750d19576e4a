"""Pictures without a screen: sizes, points of view, what is drawn, and messages."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from calico.envs.offscreen import FAST, PIXELS, Camera, PixelView, Rendered

mujoco = pytest.importorskip("mujoco")

# A white floor, a red ball 1 m above it, and a light straight above; camera "left" sees the ball in its right half.
SCENE = """
<mujoco>
  <visual><global offwidth="32" offheight="32"/></visual>
  <worldbody>
    <light pos="0 0 4" dir="0 0 -1" directional="true"/>
    <geom type="plane" size="3 3 .1"/>
    <body name="ball" pos="0 0 1"><freejoint/><geom type="sphere" size=".3" rgba="1 0 0 1"/></body>
    <camera name="left" pos="-.5 -3 1" xyaxes="1 0 0 0 0 1"/>
    <camera name="right" pos=".5 -3 1" xyaxes="1 0 0 0 0 1"/>
  </worldbody>
</mujoco>"""


@pytest.fixture
def world() -> Iterator[tuple[Any, Any]]:
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    yield model, data


def picture(world: tuple[Any, Any], *args: Any, **kwargs: Any) -> np.ndarray:
    camera = Camera(*world, *args, **kwargs)
    taken = camera.picture()
    camera.close()
    return taken


def red(image: np.ndarray) -> np.ndarray:
    """Where the ball is, bool (height, width)."""
    return image[..., 0] > 60 + image[..., 1].astype(int)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (240, 320), (7, 900)])
def test_any_size_and_the_model_stays_as_it_was(world: tuple[Any, Any], height: int, width: int) -> None:
    samples = world[0].vis.quality.offsamples
    image = picture(world, height, width)
    assert image.shape == (height, width, 3) and image.dtype == np.uint8 and image.std() > 0
    assert (world[0].vis.global_.offheight, world[0].vis.global_.offwidth) == (32, 32)
    assert world[0].vis.quality.offsamples == samples > 0


def test_a_camera_by_name_and_by_number(world: tuple[Any, Any]) -> None:
    left, right = picture(world, camera="left"), picture(world, camera="right")
    assert np.nonzero(red(left))[1].min() > 31 > np.nonzero(red(right))[1].max()
    np.testing.assert_array_equal(left, picture(world, camera=0))
    np.testing.assert_array_equal(right, picture(world, camera=1))


def test_a_picture_shows_the_present_state(world: tuple[Any, Any]) -> None:
    camera = Camera(*world, camera="left")
    before = camera.picture()
    world[1].qpos[2] += 0.5
    mujoco.mj_forward(*world)
    after = camera.picture()
    assert np.nonzero(red(after))[0].max() < np.nonzero(red(before))[0].max()
    camera.close()


def test_a_free_camera_near_and_far_and_one_that_follows(world: tuple[Any, Any]) -> None:
    near, far = (picture(world, camera={"distance": d, "lookat": (0, 0, 1), "elevation": -30}) for d in (2, 4))
    assert red(near).sum() > 3 * red(far).sum() > 0
    world[1].qpos[0] += 50
    mujoco.mj_forward(*world)
    assert not red(picture(world, camera={"distance": 2, "lookat": (0, 0, 1)})).any()
    assert red(picture(world, camera={"distance": 2, "track": "ball"}))[32, 32]


def test_shadows_are_drawn_on_request(world: tuple[Any, Any]) -> None:
    view = {"distance": 6, "elevation": -60}
    plain, shadowed = picture(world, camera=view, **FAST), picture(world, camera=view, **{**FAST, "shadows": True})
    assert (picture(world, camera=view) == plain).all()              # the fast settings are the default
    change = shadowed[~red(plain)].mean(-1) - plain[~red(plain)].mean(-1)
    assert (change < -50).sum() > 20 > (change > 10).sum()


def test_what_the_model_does_not_have_is_named(world: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="no camera 'top'; it has: 0 left, 1 right"):
        Camera(*world, camera="top")
    with pytest.raises(ValueError, match="no camera 2; it has"):
        Camera(*world, camera=2)
    with pytest.raises(ValueError, match="no body 'cube'; it has: 0 world, 1 ball"):
        Camera(*world, camera={"track": "cube"})
    with pytest.raises(ValueError, match="no 'zoom'; it has: distance"):
        Camera(*world, camera={"zoom": 2})


def test_one_that_nobody_closes_leaves_in_silence() -> None:
    code = (f"import mujoco; from calico.envs.offscreen import Camera; m = mujoco.MjModel.from_xml_string({SCENE!r}); "
            "c = Camera(m, mujoco.MjData(m)); print(c.picture().shape)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("(64, 64, 3)\n", "")


class Falling(gym.Env):
    """The ball falls; each of its episodes has a model of its own, as dm_control's manipulation tasks do."""

    observation_space = action_space = gym.spaces.Discrete(2)
    dt = 0.02

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        self.model = mujoco.MjModel.from_xml_string(SCENE)
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        mujoco.mj_step(self.model, self.data, nstep=10)
        return 0, 0.0, False, False, {}


def test_stacked_frames_are_seconds_apart_and_an_episode_starts_with_one_picture() -> None:
    env = PixelView(Falling(), **{**PIXELS, "camera": "left", "frames": 3})   # 0.05 s are 2 steps
    first, _ = env.reset(seed=0)
    seen = [first[..., 2], *(env.step(0)[0][..., 2] for _ in range(6))]
    assert env.observation_space.contains(first) and len({frame.tobytes() for frame in seen}) == 7
    last = env.step(0)[0]
    np.testing.assert_array_equal(last[..., 0], seen[3])
    np.testing.assert_array_equal(last[..., 1], seen[5])
    again, _ = env.reset(seed=0)
    assert (again == first[..., :1]).all()
    env.close()
    env.close()


def test_frames_for_people_are_larger() -> None:
    env = Rendered(Falling(), "left")
    env.reset(seed=0)
    frame: Any = env.render()
    assert env.render_mode == "rgb_array" and frame.shape == (240, 320, 3) and red(frame).any()
    env.close()


def test_a_stack_of_frames_fits_a_patch() -> None:
    with pytest.raises(ValueError, match="view setting frames=5; a patch has 1 to 4 channels"):
        PixelView(Falling(), **{**PIXELS, "camera": -1, "frames": 5})


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton comes with torch for GPUs")
def test_triton_lives_beside_what_draws() -> None:
    """Loaded after Mesa's LLVM it ends the process, and torch's compiler loads it late."""
    code = ("from calico.envs.registry import make; make('Hopper-v5-pixels').reset(seed=0); import torch._dynamo; "
            "from triton import knobs")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
