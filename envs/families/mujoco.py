"""Gymnasium's MuJoCo tasks, version 5: eleven bodies that balance, reach, push, swim, walk and run (arXiv:2407.17032).

View: the raw state as float32, 4-348 numbers. Each task has a twin "-pixels" in which the agent sees two grey 64x64 frames,
16 patches a step, of a camera that follows the body; scores are the same (offscreen.py has the settings).
"""

from typing import Any

import gymnasium as gym
import numpy as np

from ..offscreen import APT, PIXELS, PixelView, Rendered
from ..registry import Family, Task
from .mujoco_experts import half_cheetah, inverted_pendulum, reacher, swimmer

# Task: (episode limit, solved at, expert, camera). "track" is the models' own camera, which follows the body from the side;
# bodies that are taller than its picture get a free camera.
TASKS: dict[str, tuple[int, float | None, str | None, Any]] = {
    "Ant-v5": (1000, 6000.0, None, {"track": "torso", "distance": 4.0, "elevation": -30.0}),
    "HalfCheetah-v5": (1000, 4800.0, "half-cheetah-gallop", "track"),
    "Hopper-v5": (1000, 3800.0, None, "track"),
    "Humanoid-v5": (1000, None, None, "track"),
    "HumanoidStandup-v5": (1000, None, None, "track"),
    "InvertedDoublePendulum-v5": (1000, 9100.0, "pendulum-lqr",
                                 {"distance": 3.0, "azimuth": 90.0, "elevation": 0.0, "lookat": (0.0, 0.0, 0.5)}),
    "InvertedPendulum-v5": (1000, 950.0, "pendulum-lqr",
                            {"distance": 2.6, "azimuth": 90.0, "elevation": 0.0, "lookat": (0.0, 0.0, 0.3)}),
    "Pusher-v5": (100, 0.0, None, {"distance": 2.2, "azimuth": 90.0, "elevation": -60.0, "lookat": (0.3, -0.2, -0.2)}),
    "Reacher-v5": (50, -3.75, "reacher-angles",
                   {"distance": 0.6, "azimuth": 90.0, "elevation": -90.0, "lookat": (0.0, 0.0, 0.0)}),
    "Swimmer-v5": (1000, 360.0, "swimmer-feedback", "track"),
    "Walker2d-v5": (1000, None, None, "track"),
}


class PlainValues(gym.Wrapper):
    """float32 states, Python's own float and bool: the tasks give float64 and NumPy's."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, env.observation_space.shape or (), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See gym.Env."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation.astype(np.float32), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See gym.Env."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation.astype(np.float32), float(reward), bool(terminated), bool(truncated), info


def _make(task: Task, render: bool) -> gym.Env:
    name = task.name.removesuffix("-pixels")
    env: gym.Env = PlainValues(gym.make(name, disable_env_checker=True, **task.kwargs))
    if task.view:
        env = PixelView(env, **task.view)
    return Rendered(env, TASKS[name][-1]) if render else env


def _task(name: str, pixels: bool) -> Task:
    episode_limit, solved_at, expert, camera = TASKS[name]
    return Task(name=f"{name}-pixels" if pixels else name, family="mujoco", episode_limit=episode_limit, solved_at=solved_at,
                expert=expert, view={**PIXELS, "camera": camera} if pixels else {}, scores_of=name if pixels else None,
                packages=("gymnasium", "mujoco"))


FAMILY = Family(
    title="MuJoCo",
    tasks=tuple(_task(name, pixels) for pixels in (False, True) for name in TASKS),
    make=_make,
    experts={"pendulum-lqr": inverted_pendulum, "reacher-angles": reacher, "half-cheetah-gallop": half_cheetah,
             "swimmer-feedback": swimmer},
    modules=("mujoco", "gymnasium.envs.mujoco.mujoco_env"),
    extra="mujoco",
    apt=APT,
)
