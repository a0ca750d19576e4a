"""Box2D: the lunar lander, the bipedal walker and the car race, from Gymnasium.

View: raw state vectors (8 or 24 numbers); the car race is its own 96x96 RGB picture, 36 patches a step.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from ..registry import Controller, Family, Task


def _make(task: Task, render: bool) -> gym.Env:
    return gym.make(task.name, render_mode="rgb_array" if render else None, disable_env_checker=True, **task.kwargs)


def lander(env: gym.Env, seed: int) -> Controller:
    """The heuristic that Gymnasium ships with the lander (two proportional-derivative loops)."""
    from gymnasium.envs.box2d.lunar_lander import heuristic

    world: Any = env.unwrapped
    if world.continuous:
        return lambda state: np.asarray(heuristic(world, state), np.float32)
    return lambda state: int(heuristic(world, state))


def _task(name: str, episode_limit: int, solved_at: float, expert: str | None = None) -> Task:
    return Task(name=name, family="box2d", episode_limit=episode_limit, solved_at=solved_at, expert=expert,
                packages=("gymnasium", "box2d"))


FAMILY = Family(
    title="Box2D",
    tasks=(
        _task("LunarLander-v3", 1000, 200.0, "lander-heuristic"),
        _task("LunarLanderContinuous-v3", 1000, 200.0, "lander-heuristic"),
        _task("BipedalWalker-v3", 1600, 300.0),
        _task("BipedalWalkerHardcore-v3", 2000, 300.0),
        _task("CarRacing-v3", 1000, 900.0),
    ),
    make=_make,
    experts={"lander-heuristic": lander},
    modules=("Box2D", "pygame"),
)
