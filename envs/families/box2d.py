"""Box2D: the lunar lander, the bipedal walker and the car race, from Gymnasium.

View: raw state vectors (8 or 24 numbers); the car race is its own 96x96 RGB picture, 36 patches a step.

Experts: Gymnasium's own heuristics for the lander and the walker (which falls in about half of its episodes), and a driver
that knows the track. The hardcore walker has none.
"""

import math
from typing import Any

import gymnasium as gym
import numpy as np

from ..registry import Controller, Family, Task


class NewWorld(gym.Wrapper):
    """Builds the walker's world anew for each episode: contacts of the last one would push the first steps of the next."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See gym.Env."""
        import Box2D

        walker: Any = self.env.unwrapped
        walker._destroy()
        walker.world = Box2D.b2World()
        return super().reset(seed=seed, options=options)


def _make(task: Task, render: bool) -> gym.Env:
    env = gym.make(task.name, render_mode="rgb_array" if render else None, disable_env_checker=True, **task.kwargs)
    return NewWorld(env) if task.name.startswith("BipedalWalker") else env


def lander(env: gym.Env, seed: int) -> Controller:
    """The heuristic that Gymnasium ships with the lander (two proportional-derivative loops)."""
    from gymnasium.envs.box2d.lunar_lander import heuristic

    world: Any = env.unwrapped
    if world.continuous:
        return lambda state: np.asarray(heuristic(world, state), np.float32)
    return lambda state: int(heuristic(world, state))


def walker(env: gym.Env, seed: int) -> Controller:
    """The gait that Gymnasium ships with the walker: a state machine of the legs over proportional-derivative loops."""
    from gymnasium.envs.box2d.bipedal_walker import BipedalWalkerHeuristics

    gait = BipedalWalkerHeuristics()
    return lambda state: gait.step_heuristic(state).astype(np.float32)


# The driver's constants were chosen on seeds 0 to 8 (927 of 1000 in the mean); lengths are in the world's units.
TILE_LENGTH = 3.5                 # gymnasium's TRACK_DETAIL_STEP
LOOK_AHEAD = (3, 0.08)            # tiles, and more of them per unit of speed
STEER, COUNTER_STEER = 2.0, 0.2   # per radian off the line; per radian a second of turning. Without the latter the car spins
GRIP, BRAKING, FASTEST = 160.0, 40.0, 90.0   # acceleration in a bend, deceleration before it, speed
BEND = 5                          # tiles over which a bend is measured
HORIZON = 24                      # tiles within which bends are seen


def racer(env: gym.Env, seed: int) -> Controller:
    """Pure pursuit: steer to a point of the track ahead, as fast as the sharpest bend within sight allows."""
    world: Any = env.unwrapped
    places = np.array([tile[2:4] for tile in world.track])                    # (tile, x/y)
    headings = np.array([tile[1] for tile in world.track])                    # radians
    turns = np.abs((np.roll(headings, -BEND) - headings + np.pi) % (2 * np.pi) - np.pi)
    fastest = np.sqrt(GRIP / np.maximum(turns / (BEND * TILE_LENGTH), 1e-3))  # speed allowed on each tile
    ahead = np.arange(HORIZON)

    def act(observation: Any) -> np.ndarray:
        car = world.car.hull
        here = int(((places - car.position) ** 2).sum(axis=1).argmin())
        speed = math.hypot(*car.linearVelocity)
        tiles = (here + ahead) % len(places)
        limit = min(FASTEST, float(np.sqrt(fastest[tiles] ** 2 + 2 * BRAKING * TILE_LENGTH * ahead).min()))
        x, y = places[(here + int(LOOK_AHEAD[0] + LOOK_AHEAD[1] * speed)) % len(places)] - car.position
        sine, cosine = math.sin(car.angle), math.cos(car.angle)
        off_line = math.atan2(x * cosine + y * sine, y * cosine - x * sine)   # positive to the right
        steer = min(max(STEER * off_line + COUNTER_STEER * car.angularVelocity, -1.0), 1.0)
        gas = 1 - 0.6 * abs(steer) if speed < limit else 0.0
        return np.array([steer, gas, 0.4 if speed > 1.1 * limit else 0.0], np.float32)

    return act


def _task(name: str, episode_limit: int, solved_at: float, expert: str | None = None) -> Task:
    return Task(name=name, family="box2d", episode_limit=episode_limit, solved_at=solved_at, expert=expert,
                packages=("gymnasium", "box2d"))


FAMILY = Family(
    title="Box2D",
    tasks=(
        _task("LunarLander-v3", 1000, 200.0, "lander-heuristic"),
        _task("LunarLanderContinuous-v3", 1000, 200.0, "lander-heuristic"),
        _task("BipedalWalker-v3", 1600, 300.0, "walker-heuristic"),
        _task("BipedalWalkerHardcore-v3", 2000, 300.0),
        _task("CarRacing-v3", 1000, 900.0, "racer"),
    ),
    make=_make,
    experts={"lander-heuristic": lander, "walker-heuristic": walker, "racer": racer},
    modules=("Box2D", "pygame"),
)
