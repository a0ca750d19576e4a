"""The worlds of families/panda.py: panda-gym's robot and tasks in an environment of our own.

Imported when a world is made, for it imports the packages. What differs from panda-gym's environments:

- An episode depends on its seed and actions alone. Bullet keeps contacts and solver states across panda-gym's `reset`, so
  that the same seed gives other episodes later on; here the scene is built anew at each reset (40 ms).
- `Tower`, the honest stacking task, in place of `Stack`; `SeededFlip`, whose goals come from the seed and which does
  without a picture that is missing from the package.
- Nothing is printed, and frames are drawn by Bullet's TINY renderer, which needs no screen.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing is printed, not even from C: pybullet greets on import and echoes its arguments on each connection."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)   # C's own buffer, or its lines would come out later
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (*kept, nowhere):
            os.close(descriptor)


with _silence():
    from panda_gym.envs.robots.panda import Panda
    from panda_gym.envs.tasks.flip import Flip
    from panda_gym.envs.tasks.pick_and_place import PickAndPlace
    from panda_gym.envs.tasks.push import Push
    from panda_gym.envs.tasks.reach import Reach
    from panda_gym.envs.tasks.slide import Slide
    from panda_gym.envs.tasks.stack import Stack
    from panda_gym.pybullet import PyBullet

EDGE = 0.04   # metres, of every cube


class Tower(Stack):
    """PandaStack with a success that means a tower: cube 2 rests on cube 1 at the goal.

    The shipped test is a distance below 0.10 m between the six coordinates of both cubes and their goals; two cubes lying
    side by side pass it, and so does a cube still held by the gripper. Here all of this must hold for `REST` steps in a row:

    - at the goal: the same six-dimensional distance is below `AT_GOAL`;
    - on top: cube 2's centre is one edge above cube 1's and cube 1's half an edge above the table, each within `HEIGHT`, and
      the centres are less than `GAP` apart horizontally, so that the upper one's weight rests on the lower one;
    - released: no part of the robot touches a cube, while the cubes touch each other;
    - at rest: both cubes are slower than `SPEED` and turn slower than `SPIN`.

    The dense reward stays the negative distance; the sparse reward is 0 on success and -1 else.
    """

    AT_GOAL = 0.04   # metres in six dimensions, one edge
    HEIGHT = 0.005   # metres
    GAP = EDGE / 2   # metres
    SPEED = 0.02     # metres per second
    SPIN = 0.2       # radians per second
    REST = 5         # steps of 0.04 s

    still = 0        # steps that the tower has stood up to now

    def reset(self) -> None:
        """Draw the goal and the cubes' places."""
        super().reset()
        self.still = 0

    def is_success(self, achieved_goal: np.ndarray, desired_goal: np.ndarray) -> bool:
        """Called once after each step."""
        near = np.linalg.norm(achieved_goal - desired_goal) < self.AT_GOAL
        self.still = self.still + 1 if near and self.stands() else 0
        return self.still >= self.REST

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: dict[str, Any]) -> float:
        """-1 until success, or the negative distance."""
        if self.reward_type == "sparse":
            return float(info["is_success"]) - 1
        return -float(np.linalg.norm(achieved_goal - desired_goal))

    def stands(self) -> bool:
        """Does cube 2 rest on cube 1, wherever that is?"""
        lower, upper = (self.sim.get_base_position(body) for body in ("object1", "object2"))
        on_top = (abs(lower[2] - EDGE / 2) < self.HEIGHT and abs(upper[2] - lower[2] - EDGE) < self.HEIGHT
                  and np.linalg.norm((upper - lower)[:2]) < self.GAP)
        return bool(on_top) and self._at_rest() and self._released()

    def _at_rest(self) -> bool:
        return all(np.linalg.norm(self.sim.get_base_velocity(body)) < self.SPEED
                   and np.linalg.norm(self.sim.get_base_angular_velocity(body)) < self.SPIN
                   for body in ("object1", "object2"))

    def _released(self) -> bool:
        held = any(touching(self.sim, "panda", body) for body in ("object1", "object2"))
        return touching(self.sim, "object1", "object2") and not held


def touching(sim: PyBullet, one: str, other: str) -> bool:
    """Do two bodies touch? Bullet also lists pairs that are merely close, with a positive distance."""
    contacts = sim.physics_client.getContactPoints(sim._bodies_idx[one], sim._bodies_idx[other])
    return any(contact[8] <= 1e-3 for contact in contacts)


class SeededFlip(Flip):
    """PandaFlip with goals from the episode's seed: the shipped task draws them from NumPy's global generator."""

    def _sample_goal(self) -> np.ndarray:
        goal = self.np_random.normal(size=4)
        return goal / np.linalg.norm(goal)   # a uniform rotation as a quaternion


class _Physics(PyBullet):
    """Bullet without a window."""

    def clear(self) -> None:
        """Forget everything, contacts and solver included."""
        self.physics_client.resetSimulation()
        self.physics_client.setTimeStep(self.timestep)
        self.physics_client.setGravity(0, 0, -9.81)
        self._bodies_idx: dict[str, int] = {}

    def create_box(self, *args: Any, texture: str | None = None, **kwargs: Any) -> None:
        """A box; the one texture that is asked for, Flip's, is missing from panda-gym's wheel: a plain colour instead."""
        if texture is not None:
            kwargs["rgba_color"] = np.array([0.9, 0.5, 0.1, 1.0])
        super().create_box(*args, **kwargs)

    def _create_geometry(self, body_name: str, ghost: bool = False, visual_kwargs: dict[str, Any] | None = None,
                         **kwargs: Any) -> None:
        visual = dict(visual_kwargs or {})
        if ghost:   # goals are transparent, which the TINY renderer does not draw: pale instead
            visual["rgbaColor"] = [*(0.65 + 0.35 * np.asarray(visual["rgbaColor"])[:3]), 1.0]
        super()._create_geometry(body_name, ghost=ghost, visual_kwargs=visual, **kwargs)


TASKS: dict[str, tuple[Callable[..., Any], bool]] = {   # name -> (task, is the gripper blocked?)
    "Reach": (Reach, True), "Push": (Push, True), "Slide": (Slide, True),
    "PickAndPlace": (PickAndPlace, False), "Flip": (SeededFlip, False), "Stack": (Tower, False),
}


class PandaWorld(gym.Env):
    """One task with the view of families/panda.py.

    Observations are Dict(desired_goal, observation) of float32 vectors. Actions are float32 in [-1, 1]: with
    control_type "ee" the gripper's motion (x, y, z; 1 is 5 cm a step), with "joints" that of the seven joints (1 is 0.05
    radians a step); then the fingers' (positive opens) where the task does not block them. A step is 0.04 s.

    `sim`, `robot` and `task` are panda-gym's; experts and tests look into them. A reset replaces `robot` and `task`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}

    def __init__(self, task: str, reward_type: str, control_type: str, render_mode: str | None = None) -> None:
        self.make_task, self.blocked = TASKS[task]
        self.reward_type, self.control_type = reward_type, control_type
        self.render_mode = render_mode
        with _silence():
            self.sim = _Physics()
        self._build()
        self.robot.reset()
        self.task.np_random = np.random.default_rng(0)
        self.task.reset()
        self.action_space = self.robot.action_space
        self.observation_space = gym.spaces.Dict({
            name: gym.spaces.Box(-np.inf, np.inf, values.shape, np.float32) for name, values in self._observe().items()})

    def _build(self) -> None:
        self.sim.clear()
        self.robot = Panda(self.sim, block_gripper=self.blocked, base_position=np.array([-0.6, 0.0, 0.0]),
                           control_type=self.control_type)
        more = {"get_ee_position": self.robot.get_ee_position} if self.make_task is Reach else {}
        self.task = self.make_task(self.sim, reward_type=self.reward_type, **more)

    def reset(self, *, seed: int | None = None,
              options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A new scene; the seed decides the places of goal and objects."""
        super().reset(seed=seed)
        self._build()
        self.task.np_random = self.np_random
        self.robot.reset()
        self.task.reset()
        return self._observe(), {"is_success": self._success()}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Move for 0.04 s; success ends the episode."""
        self.robot.set_action(action)
        self.sim.step()
        info = {"is_success": self._success()}
        reward = float(self.task.compute_reward(self.task.get_achieved_goal(), self.task.get_goal(), info))
        return self._observe(), reward, info["is_success"], False, info

    def _success(self) -> bool:
        return bool(self.task.is_success(self.task.get_achieved_goal(), self.task.get_goal()))

    def _observe(self) -> dict[str, np.ndarray]:
        return {"desired_goal": self.task.get_goal().astype(np.float32),
                "observation": np.concatenate([self.robot.get_obs(), self.task.get_obs()]).astype(np.float32)}

    def render(self) -> np.ndarray:
        """The scene from its front right, uint8 (240, 320, 3); 50 ms."""
        height, width = 240, 320
        client = self.sim.physics_client
        view = client.computeViewMatrixFromYawPitchRoll(
            cameraTargetPosition=(-0.1, 0, 0.05), distance=0.8, yaw=50, pitch=-30, roll=0, upAxisIndex=2)
        projection = client.computeProjectionMatrixFOV(fov=60, aspect=width / height, nearVal=0.1, farVal=10)
        rgba = client.getCameraImage(width, height, view, projection, renderer=client.ER_TINY_RENDERER)[2]
        return np.array(rgba, np.uint8).reshape(height, width, 4)[..., :3]

    def close(self) -> None:
        """Disconnect from Bullet."""
        self.sim.close()
