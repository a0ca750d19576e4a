"""Analytic experts for the DeepMind Control Suite.

They read the simulator's state through `env.unwrapped`, so the twins in pictures have the same experts. What they reach is in
scores.json; dm_control_planners.py holds those that plan.
"""

import math
from typing import Any

import gymnasium as gym
import numpy as np

from ..registry import Controller
from .mujoco_experts import regulator, two_links

GRAVITY = 9.81


def _bounded(action: Any) -> np.ndarray:
    return np.clip(np.atleast_1d(action), -1, 1).astype(np.float32)


def _state(world: Any) -> np.ndarray:
    return np.concatenate([world.data.qpos, world.data.qvel])


def _turn(angle: float) -> float:
    """The same angle in [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def cartpole(env: gym.Env, seed: int) -> Controller:
    """Pump the pole's energy to that of the upright one, then hold it with a regulator; with several poles: hold them."""
    world: Any = env.unwrapped
    n = world.model.nq
    steps = round(world.dt / world.model.opt.timestep)
    cost = np.concatenate([[1.0], np.full(n - 1, 10.0), np.full(n, 0.1)])
    gain = regulator(world.model, np.zeros(2 * n), steps, cost, effort=1.0)

    def act(observation: Any) -> np.ndarray:
        state = _state(world)
        state[1:n] = [_turn(angle) for angle in state[1:n]]
        position, angle, velocity, spin = state[0], state[1], state[n], state[n + 1]
        balance = float((-gain @ state)[0])
        if abs(angle) < 0.6 and abs(balance) < 3:
            return _bounded(balance)
        energy = spin**2 / (3 * GRAVITY) + math.cos(angle) - 1   # of a pole of 1 m; 0 upright at rest
        pump = np.clip(8 * (energy - 0.05) * np.sign(spin * math.cos(angle)), -1, 1) if abs(spin) > 0.01 else 1.0
        return _bounded(pump - 0.5 * position - 0.25 * velocity)

    return act


def pendulum(env: gym.Env, seed: int) -> Controller:
    """Pump energy to that of the upright pendulum, then hold it there with a regulator."""
    world: Any = env.unwrapped
    gain = regulator(world.model, np.zeros(2), 1, np.array([10.0, 1.0]), effort=1.0)

    def act(observation: Any) -> np.ndarray:
        angle, spin = _turn(float(world.data.qpos[0])), float(world.data.qvel[0])
        balance = float((-gain @ np.array([angle, spin]))[0])
        if abs(angle) < 0.4 and abs(balance) < 2:
            return _bounded(balance)
        energy = 0.125 * spin**2 + 0.5 * GRAVITY * (math.cos(angle) - 1) - 0.05
        return _bounded(-math.copysign(1.0, energy * spin))

    return act


def point_mass(env: gym.Env, seed: int) -> Controller:
    """A proportional-derivative law, through the inverse of what the motors pull at: in `hard` each pulls both ways."""
    world: Any = env.unwrapped
    pull = np.linalg.inv(world.model.wrap_prm.reshape(2, 2).T)   # force on (x, y) -> motors

    def act(observation: Any) -> np.ndarray:
        return _bounded(pull @ (-20 * world.data.qpos - 5 * world.data.qvel))

    return act


def reacher(env: gym.Env, seed: int) -> Controller:
    """Joint angles of the target by the law of cosines, the nearer elbow of the two, and a proportional-derivative law."""
    world: Any = env.unwrapped
    target = world.data.geom("target").xpos[:2].copy()
    goals = two_links(target, 0.12, 0.12)
    goal = min(goals, key=lambda joints: abs(_turn(joints[0] - world.data.qpos[0])) + abs(joints[1] - world.data.qpos[1]))

    def act(observation: Any) -> np.ndarray:
        error = np.array([_turn(goal[0] - world.data.qpos[0]), goal[1] - world.data.qpos[1]])
        return _bounded(5 * error - 0.5 * world.data.qvel)

    return act


def linear(env: gym.Env, seed: int) -> Controller:
    """dm_control's own solution of its linear-quadratic tasks."""
    from dm_control.suite import lqr_solver

    world: Any = env.unwrapped
    _, gain, _ = lqr_solver.solve(world.dm_env)
    return lambda observation: np.clip(gain @ _state(world), world.action_space.low, world.action_space.high).astype(np.float32)


def reach(env: gym.Env, seed: int) -> Controller:
    """The Jaco hand goes straight to the target: joint speeds by the Jacobian's damped inverse."""
    import mujoco

    world: Any = env.unwrapped
    model, data = world.model, world.data
    hand, target = (next(i for i in range(model.nsite) if model.site(i).name.endswith(name))
                    for name in ("gripsite", "target_site"))
    joints = model.jnt_dofadr[model.actuator_trnid[:6, 0]]      # the arm's; the rest are fingers
    slopes = np.zeros((3, model.nv))

    def act(observation: Any) -> np.ndarray:
        mujoco.mj_jacSite(model, data, slopes, None, hand)
        arm = slopes[:, joints]
        away = data.site_xpos[target] - data.site_xpos[hand]
        speeds = 4 * arm.T @ np.linalg.solve(arm @ arm.T + 1e-3 * np.eye(3), away)
        fit = max(1.0, float(np.abs(speeds / world.action_space.high[:6]).max()))   # slower, but straight on
        return np.concatenate([speeds / fit, np.zeros(model.nu - 6)]).astype(np.float32)

    return act
