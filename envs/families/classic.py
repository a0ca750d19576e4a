"""Classic control: five small problems from Gymnasium, each with an analytic expert.

View: the raw observation vector, 2-6 numbers, so a step costs 4-8 tokens.
"""

import math
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np

from ..registry import Controller, Family, Task


def _make(task: Task, render: bool) -> gym.Env:
    return gym.make(task.name, render_mode="rgb_array" if render else None, disable_env_checker=True, **task.kwargs)


@cache
def _cartpole_gain() -> np.ndarray:
    """Gain of the linear-quadratic regulator around the upright pole, float (4,)."""
    from scipy.linalg import solve_discrete_are  # scipy.linalg takes 0.2 s to import

    gravity, cart, pole, half_length, dt = 9.8, 1.0, 0.1, 0.5, 0.02   # gymnasium's cartpole.py
    total = cart + pole
    inertia = half_length * (4 / 3 - pole / total)
    a = np.array([[0, 1, 0, 0], [0, 0, -pole * half_length * gravity / inertia / total, 0],
                  [0, 0, 0, 1], [0, 0, gravity / inertia, 0]])
    b = np.array([[0], [1 / total + pole * half_length / (total**2 * inertia)], [0], [-1 / (total * inertia)]])
    a, b = np.eye(4) + dt * a, dt * b
    cost, effort = np.diag([1, 0.1, 10, 0.1]), np.array([[0.01]])
    p = solve_discrete_are(a, b, cost, effort)
    return np.linalg.solve(effort + b.T @ p @ b, b.T @ p @ a)[0]


def cartpole(env: gym.Env, seed: int) -> Controller:
    """Linear-quadratic regulator; its sign chooses the push."""
    gain = _cartpole_gain()
    return lambda state: int(gain @ state < 0)


def acrobot(env: gym.Env, seed: int) -> Controller:
    """Torque against the first link's velocity pumps energy until the tip is up."""
    return lambda state: 2 if state[4] < 0 else 0


def pendulum(env: gym.Env, seed: int) -> Controller:
    """Pump energy to that of the upright pendulum, then hold it there with a proportional-derivative law."""

    def act(observation: np.ndarray) -> np.ndarray:
        cosine, sine, speed = (float(x) for x in observation)
        if cosine > 0.90 and abs(speed) < 4:
            torque = -(8.5 * math.atan2(sine, cosine) + 2.2 * speed)
        else:
            energy = 0.5 * speed**2 + 15 * (cosine - 1)   # acceleration is 15 sin(angle) + 3 torque; 0 upright at rest
            torque = math.copysign(2.0, (0.3 - energy) * speed) if abs(speed) > 1e-3 else 2.0
        return np.array([np.clip(torque, -2, 2)], np.float32)

    return act


def mountain_car(env: gym.Env, seed: int) -> Controller:
    """Rollout: the first push of whichever is faster to the flag, left or right once and then along the velocity.

    Pushing along the velocity alone needs 126 steps in the mean over 100 seeds, this needs 103.
    """

    def act(state: np.ndarray) -> int:
        position, velocity = float(state[0]), float(state[1])
        return 2 if _steps_to_flag(position, velocity, 1) <= _steps_to_flag(position, velocity, -1) else 0

    return act


def _steps_to_flag(position: float, velocity: float, push: int) -> int:
    """Steps to the flag with one `push` first and pushes along the velocity after it (gymnasium's mountain_car.py)."""
    for step in range(250):
        velocity = min(max(velocity + 0.001 * push - 0.0025 * math.cos(3 * position), -0.07), 0.07)
        position = max(position + velocity, -1.2)
        if position == -1.2:
            velocity = max(velocity, 0.0)
        if position >= 0.5:
            return step
        push = 1 if velocity > 0 else -1
    return 250


def mountain_car_continuous(env: gym.Env, seed: int) -> Controller:
    """Push along the velocity; 0.45 of the full force is enough and costs the least."""
    return lambda state: np.array([0.45 if state[1] > 1e-4 else -0.45], np.float32)


def _task(name: str, episode_limit: int, solved_at: float | None, expert: str) -> Task:
    return Task(name=name, family="classic", episode_limit=episode_limit, solved_at=solved_at, expert=expert)


EXPERTS: dict[str, Any] = {"cartpole-lqr": cartpole, "acrobot-energy": acrobot, "pendulum-energy": pendulum,
                           "mountain-car-rollout": mountain_car, "mountain-car-energy": mountain_car_continuous}

FAMILY = Family(
    title="Classic control",
    tasks=(
        _task("CartPole-v1", 500, 475.0, "cartpole-lqr"),
        _task("Acrobot-v1", 500, -100.0, "acrobot-energy"),
        _task("Pendulum-v1", 200, None, "pendulum-energy"),
        _task("MountainCar-v0", 200, -110.0, "mountain-car-rollout"),
        _task("MountainCarContinuous-v0", 999, 90.0, "mountain-car-energy"),
        _task("CartPole-v0", 200, 195.0, "cartpole-lqr"),
    ),
    make=_make,
    experts=EXPERTS,
)
