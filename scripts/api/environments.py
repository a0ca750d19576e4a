"""Worlds for Python programs: the tasks that there are, and environments in Gymnasium's manner."""

from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from calico.envs import registry
from calico.envs.registry import Task


def tasks(family: str | None = None) -> list[Task]:
    """What can be played: every task, or those of one family; `calico tasks` shows the same as a table.

    Raises:
        ValueError: no such family.
    """
    return registry.tasks(family)


def make(task: Task | str, *, render_mode: str | None = None, **view: Any) -> gym.Env:
    """An environment as Calico's agents see it: `gym.make` would show pictures in other sizes, for instance.

    Args:
        task: a name from `calico tasks`, any Gymnasium id, "module:Env-v0", or a Task.
        render_mode: "rgb_array" lets `env.render()` give frames, uint8 (height, width, 3); slower for some worlds.
        view: settings of what is seen, those of `Task.view`. A run may have been trained with others than the task has by
            itself: `agent.make` knows them.
    Raises:
        ValueError: an unknown task, view setting or render mode.
        ImportError: a package is not installed; the message holds the command that installs it.
    """
    return registry.make(_with_view(task, view), _renders(render_mode))


def make_vec(task: Task | str, num_envs: int, *, render_mode: str | None = None, **view: Any) -> SyncVectorEnv:
    """Several of them as one `gym.vector` environment.

    A row that ends begins its next episode in the same step (AutoresetMode.SAME_STEP), so what follows in a loop is
    `policy.predict(observations, episode_start=terminated | truncated)`.

    Raises:
        ValueError, ImportError: see `make`; num_envs is less than 1.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs={num_envs} must be at least 1")
    seen, renders = _with_view(task, view), _renders(render_mode)
    return SyncVectorEnv([lambda: registry.make(seen, renders)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def _with_view(task: Task | str, view: dict[str, Any]) -> Task:
    return (registry.get_task(task) if isinstance(task, str) else task).with_view(**view)


def _renders(render_mode: str | None) -> bool:
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode={render_mode!r}: give 'rgb_array' for frames, or leave it out")
    return render_mode is not None
