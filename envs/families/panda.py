"""A Franka Panda arm above a table: reach, push, slide, pick, flip and stack (panda-gym, arXiv:2106.13687).

View: Dict(desired_goal, observation) of float32 vectors, positions in metres; panda-gym's third entry, achieved_goal, is
left out because the observation holds its values. Observation: the gripper's position and velocity, the fingers' width
where they move, then for each object its position, rotation, velocity and angular velocity. With the goal's 3-6 numbers a
step costs 9 (Reach) to 37 (Stack) tokens, a separator and 3-8 for the action. Joints tasks move the seven joints in place of
the gripper.

What is done differently from panda-gym's own environments, and what success means in PandaStack, stands in panda_worlds.py.
PandaStack's episodes have 150 steps instead of 100. Flip has no expert: the hand cannot turn, so that a cube would have to be
tumbled, which was not tried.
"""

from typing import Any

import gymnasium as gym

from ..registry import Family, Task
from .panda_experts import pick_and_place, push, reach, slide, stack

EXPERTS: dict[str, Any] = {"panda-reach": reach, "panda-push": push, "panda-slide": slide,
                           "panda-pick-and-place": pick_and_place, "panda-stack": stack}
TASKS = {"Reach": "panda-reach", "Push": "panda-push", "Slide": "panda-slide", "PickAndPlace": "panda-pick-and-place",
         "Stack": "panda-stack", "Flip": None}


def _make(task: Task, render: bool) -> gym.Env:
    from .panda_worlds import PandaWorld

    world = PandaWorld(**task.kwargs, render_mode="rgb_array" if render else None)
    assert task.episode_limit is not None
    return gym.wrappers.TimeLimit(world, task.episode_limit)


def _task(name: str, joints: bool, dense: bool) -> Task:
    return Task(
        name=f"Panda{name}{'Joints' * joints}{'Dense' * dense}-v3", family="panda", expert=TASKS[name],
        kwargs={"task": name, "reward_type": "dense" if dense else "sparse", "control_type": "joints" if joints else "ee"},
        episode_limit=150 if name == "Stack" else 50, packages=("panda-gym", "pybullet"), licence="MIT AND Zlib")


FAMILY = Family(
    title="Panda arm",
    tasks=tuple(_task(name, joints, dense) for name in TASKS for joints in (False, True) for dense in (False, True)),
    make=_make,
    experts=EXPERTS,
    modules=("panda_gym",),
    extra="panda",
)
