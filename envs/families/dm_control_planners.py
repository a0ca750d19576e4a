"""Experts that plan: Control Suite tasks whose solution has no formula, solved by shooting (shooting.py).

Each says what a future is worth, from the positions and velocities of the model's joints: mostly the task's own reward with
a slope where that is flat.
"""

import math
from typing import Any

import gymnasium as gym
import numpy as np

from ..registry import Controller, Start
from .mujoco_experts import regulator
from .shooting import Shooting, plans


def _near(x: Any, low: float, margin: float) -> Any:
    """1 from `low` on, falling to 0 at `margin` below it."""
    return np.clip(1 - (low - x) / margin, 0, 1)


def ball_in_cup(env: gym.Env, seed: int) -> Controller:
    """A throw that ends with the ball in the cup."""
    world: Any = env.unwrapped

    def value(positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        cup, ball = positions[..., :2] + (0, 0.55), positions[..., 2:] + (0, 0.2)   # middle of the cup
        away = np.abs(ball - cup)
        caught = (away < 0.025).all(-1)
        return 2 * caught.sum(1) - away.sum(-1).min(1) - away.sum(-1).mean(1)

    def settled() -> bool:
        along = world.data.qvel[:2] - world.data.qvel[2:]
        return world.task.get_reward(world.physics) > 0 and float(np.abs(along).max()) < 0.5

    return plans(world, value, seed, settled, steps=50, knots=10, samples=40, follow=15)


def finger_turn(env: gym.Env, seed: int) -> Controller:
    """Pushes against the spinner until its tip is in the target."""
    world: Any = env.unwrapped
    x, _, z = world.model.site("target").pos - world.model.body("spinner").pos
    goal = math.atan2(x, z)

    def away(angle: Any) -> Any:
        """Angle between the tip and the target; the hinge turns against the clock."""
        return np.abs((-angle - goal + math.pi) % (2 * math.pi) - math.pi)

    def value(positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        return -away(positions[..., 2]).mean(1) - 3 * away(positions[:, -1, 2])

    def settled() -> bool:
        return world.task.get_reward(world.physics) > 0 and abs(world.data.qvel[2]) < 0.1

    return plans(world, value, seed, settled, steps=40, knots=5, samples=40, follow=5)


def finger_spin(env: gym.Env, seed: int) -> Controller:
    """Flicks that keep the spinner turning; the task asks for 15 rad/s."""

    def value(positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        spin = -velocities[..., 2]
        return (spin > 15).mean(1) + 0.05 * np.minimum(spin, 20).mean(1)

    return plans(env.unwrapped, value, seed, steps=50, knots=10, samples=40, follow=6)


def two_poles(env: gym.Env, seed: int) -> Controller:
    """Swings that raise both poles of the cart, and a regulator near the balance."""
    world: Any = env.unwrapped
    gain = regulator(world.model, np.zeros(6), 1, np.array([1.0, 10.0, 10.0, 0.1, 0.1, 0.1]), effort=1.0)

    def value(positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        high = (1 + np.cos(np.cumsum(positions[..., 1:], axis=-1)).mean(-1)) / 2
        central = high * (1 - 0.3 * np.clip(np.abs(positions[..., 0]) / 2, 0, 1))
        calm = high**4 / (1 + 0.05 * (velocities[..., 1:] ** 2).sum(-1))
        return central.mean(1) + central[:, -1] + 2 * calm.mean(1) + calm.max(1)

    shooting = Shooting(world, value, seed, steps=120, knots=15, samples=60, follow=6)
    return _caught(world, gain, [1, 2], shooting, near=0.4)


def _caught(world: Any, gain: np.ndarray, hinges: list[int], shooting: Shooting, near: float) -> Controller:
    """Follow plans until the hinges are so near to upright that the regulator can hold them."""

    def act(observation: Any) -> np.ndarray:
        positions = world.data.qpos.copy()
        positions[hinges] = (positions[hinges] + math.pi) % (2 * math.pi) - math.pi
        balance = -gain @ np.concatenate([positions, world.data.qvel])
        if np.abs(positions[hinges]).max() < near and abs(balance[0]) < 2.5:
            return np.clip(balance, -1, 1).astype(np.float32)
        return shooting().astype(np.float32)

    return act


def acrobot(env: gym.Env, seed: int) -> Controller:
    """Swings towards the upright acrobot's energy and height, and a regulator near the balance.

    The motor is weak: of five episodes on seeds from 10000 it was up for half the time in three, and late or never in two.
    """
    world: Any = env.unwrapped
    gain = regulator(world.model, np.zeros(4), 1, np.array([10.0, 10.0, 1.0, 1.0]), effort=1.0)
    gravity, inertia = 9.81, 1 / 12   # of two rods of 1 kg and 1 m

    def value(positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        upper, lower = positions[..., 0], positions.sum(-1)
        speed, lower_speed = velocities[..., 0], velocities.sum(-1)
        low = np.hypot(np.sin(upper) + np.sin(lower), np.cos(upper) + np.cos(lower) - 2)   # from the tip to the target
        high = np.exp(-2 * low**2)
        motion = (inertia + 1.25) * speed**2 + (inertia + 0.25) * lower_speed**2 + speed * lower_speed * np.cos(lower - upper)
        lacking = np.abs(motion / 2 + gravity * (1.5 * np.cos(upper) + 0.5 * np.cos(lower) - 2)) / 20
        calm = high / (1 + 0.1 * (velocities**2).sum(-1))
        whirl = np.maximum(np.abs(positions[..., 1]) - math.pi, 0)   # energy that goes round in the elbow lifts nothing
        return 4 * high.mean(1) + calm.max(1) - 0.3 * lacking[:, -1] - 0.2 * lacking.mean(1) - 0.2 * whirl.mean(1)

    shooting = Shooting(world, value, seed, steps=150, knots=15, samples=60, follow=8)
    return _caught(world, gain, [0, 1], shooting, near=0.5)


def fish_upright(env: gym.Env, seed: int) -> Controller:
    """Strokes of the fins that turn the fish upright."""
    return plans(env.unwrapped, lambda positions, velocities: _up(positions[..., 3:7]).mean(1), seed,
                 steps=20, knots=4, samples=16, follow=10)


def fish_swim(env: gym.Env, seed: int) -> Controller:
    """Strokes of tail and fins that bring the mouth to the target."""
    world: Any = env.unwrapped
    target = world.model.geom("target").pos

    def value(positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        w, x, y, z = np.moveaxis(positions[..., 3:7], -1, 0)
        ahead = np.stack([2 * (x * y - w * z), 1 - 2 * (x**2 + z**2), 2 * (y * z + w * x)], axis=-1)
        away = np.linalg.norm(positions[..., :3] + 0.075 * ahead - target, axis=-1)   # of the mouth
        return (0.5 * _near(-away, -0.05, 0.15) - away + 0.1 * _up(positions[..., 3:7])).mean(1)

    return plans(world, value, seed, steps=30, knots=6, samples=40, follow=5)


def _up(quaternion: np.ndarray) -> np.ndarray:
    """How far a body's z axis points up, -1 to 1; (..., 4) -> (...)."""
    return 1 - 2 * (quaternion[..., 1] ** 2 + quaternion[..., 2] ** 2)


def swimmer(env: gym.Env, seed: int) -> Controller:
    """Waves that bring the nose to the target."""
    world: Any = env.unwrapped
    target = world.model.geom("target").pos[:2]

    def value(positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        heading = positions[..., 2]
        nose = positions[..., :2] + 0.06 * np.stack([np.sin(heading), -np.cos(heading)], axis=-1)
        away = np.linalg.norm(nose - target, axis=-1)
        return -away.mean(1) - away[:, -1] + 0.5 * _near(-away, -0.1, 0.2).mean(1)

    return plans(world, value, seed, steps=50, knots=10, samples=30, follow=8)


def walker(speed: float) -> Start:
    """The planner that stands, or goes at `speed` in m/s."""

    def start(env: gym.Env, seed: int) -> Controller:
        def value(positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
            height, upright, ahead = positions[..., 0] + 1.3, np.cos(positions[..., 2]), velocities[..., 1]
            worth = (3 * _near(height, 1.2, 0.6) + (1 + upright) / 2) / 4
            if speed:
                worth *= 0.3 + _near(ahead, speed, speed)
            else:
                worth -= 0.01 * np.abs(velocities[..., :3]).sum(-1)
            return worth.mean(1)

        return plans(env.unwrapped, value, seed, steps=24, knots=8, samples=30, follow=4)

    return start


def cheetah(env: gym.Env, seed: int) -> Controller:
    """Strides as fast as they come, up to the 10 m/s that the task asks for."""

    def value(positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        return np.minimum(velocities[..., 0], 10).mean(1) - 0.5 * np.abs(positions[..., 2]).mean(1)

    return plans(env.unwrapped, value, seed, steps=60, knots=10, samples=50, follow=6)
