"""Analytic experts for MuJoCo worlds: regulators around a balance and arms that follow their Jacobian.

They read the simulator's state through `env.unwrapped`, so the twins in pictures have the same experts.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from ..registry import Controller


def regulator(model: Any, state: np.ndarray, steps: int, cost: np.ndarray, effort: float) -> np.ndarray:
    """Gain of the discrete linear-quadratic regulator that holds a model at an equilibrium.

    Linearised by finite differences: MuJoCo's own mjd_transitionFD does not know the Runge-Kutta integrator.

    Args:
        model: of hinges and slides only, so that positions and velocities are n numbers each.
        state: positions and velocities of the equilibrium, (2 n,).
        steps: simulation steps per action.
        cost: of squared deviations, (2 n,).
        effort: of squared actions.
    Returns:
        (actions, 2 n); the action is -gain @ (state - equilibrium).
    """
    import mujoco
    from scipy.linalg import solve_discrete_are

    data, step = mujoco.MjData(model), 1e-5

    def after(start: np.ndarray) -> np.ndarray:
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = np.split(start, [model.nq, model.nq + model.nv])
        mujoco.mj_step(model, data, nstep=steps)
        return np.concatenate([data.qpos, data.qvel])

    at = np.concatenate([state, np.zeros(model.nu)])
    slopes = np.stack([after(at + step * one) - after(at - step * one) for one in np.eye(len(at))], axis=1) / (2 * step)
    a, b = np.split(slopes, [len(state)], axis=1)
    p = solve_discrete_are(a, b, np.diag(cost), effort * np.eye(model.nu))
    return np.linalg.solve(effort * np.eye(model.nu) + b.T @ p @ b, b.T @ p @ a)


def inverted_pendulum(env: gym.Env, seed: int) -> Controller:
    """Regulator around the upright pole, or poles: 1000 of 1000 steps with one, and with two."""
    world: Any = env.unwrapped
    n = world.model.nq
    cost = np.concatenate([np.ones(1), np.full(n - 1, 10.0), np.full(n, 0.1)])
    gain = regulator(world.model, np.zeros(2 * n), world.frame_skip, cost, effort=1.0)
    low, high = world.action_space.low, world.action_space.high

    def act(observation: Any) -> np.ndarray:
        state = np.concatenate([world.data.qpos, world.data.qvel])
        return np.clip(-gain @ state, low, high).astype(np.float32)

    return act


def reacher(env: gym.Env, seed: int) -> Controller:
    """Joint angles of the target by the law of cosines, the nearer elbow of the two, and a proportional-derivative law."""
    world: Any = env.unwrapped
    target = world.data.body("target").xpos[:2].copy()
    here = world.data.qpos[:2]
    goal = min(two_links(target, 0.1, 0.11), key=lambda joints: float(np.abs(_turn(joints - here)).sum()))

    def act(observation: Any) -> np.ndarray:
        error = goal - world.data.qpos[:2]
        error[0] = _turn(error[0])   # the shoulder may go round, the elbow has stops
        return np.clip(0.3 * error - 0.06 * world.data.qvel[:2], -1, 1).astype(np.float32)

    return act


def two_links(target: np.ndarray, first: float, second: float) -> list[np.ndarray]:
    """Shoulder and elbow angles, (2,) each, of a planar arm whose tip is at `target` (x, y), or as near as it can reach."""
    distance = float(np.clip(np.hypot(*target), abs(first - second) + 1e-6, first + second - 1e-6))
    bend = np.arccos((distance**2 - first**2 - second**2) / (2 * first * second))
    angle = np.arctan2(target[1], target[0])
    return [np.array([angle - np.arctan2(second * np.sin(elbow), first + second * np.cos(elbow)), elbow])
            for elbow in (bend, -bend)]


def _turn(angle: np.ndarray) -> np.ndarray:
    """The same angle in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def half_cheetah(env: gym.Env, seed: int) -> Controller:
    """A gallop: a sine for each motor and a little feedback from the body's pitch and its rate.

    The numbers were found by CMA-ES (arXiv:1604.00772) over episodes on seeds below 5000. Of 20 episodes on seeds
    from 10000 it runs 17 to their end, at 4800 each, and falls in three.
    """
    world: Any = env.unwrapped
    hertz = 4.3487
    swing, offset, phase, pitch, rate = np.array(GALLOP)

    def act(observation: Any) -> np.ndarray:
        lean, spin = np.clip(world.data.qpos[2], -1, 1), np.clip(world.data.qvel[2], -5, 5)
        wave = np.sin(2 * np.pi * hertz * world.data.time + phase)
        return np.clip(swing * wave + offset + pitch * lean + rate * spin, -1, 1).astype(np.float32)

    return act


GALLOP = (   # of the motors back thigh, shin, foot, front thigh, shin, foot
    (-1.2916, 1.4793, 1.7208, 1.8351, 1.0491, 1.5909),   # amplitude
    (0.6667, -0.0480, -0.4078, -1.0907, -0.4998, 0.3735),   # mean
    (2.5830, 1.5507, -7.2816, -4.4478, 2.5341, 1.7821),   # radians
    (-0.1259, 0.0594, -0.0567, -0.0153, -0.1137, -0.0656),   # per radian of pitch
    (-0.0008, -0.0079, -0.0097, -0.0025, 0.0003, -0.0056),   # per radian per second
)


def swimmer(env: gym.Env, seed: int) -> Controller:
    """Linear feedback from heading, joints and their speeds, found by CMA-ES on seeds below 5000; it makes the waves itself."""
    world: Any = env.unwrapped
    gain = np.array(STROKE)

    def act(observation: Any) -> np.ndarray:
        return np.clip(gain @ np.concatenate([world.data.qpos[2:], world.data.qvel[2:]]), -1, 1).astype(np.float32)

    return act


STROKE = ((1.896, -1.200, -4.389, 0.491, 2.615, -0.245),
          (-2.187, 0.487, -1.253, 0.840, 2.634, 0.769))
