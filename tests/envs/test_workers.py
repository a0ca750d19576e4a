"""Worker processes: the same episodes as in one process, and faults that cost one episode and no more."""

import builtins
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from calico.envs import workers
from calico.envs.registry import Family, Task, get_task
from calico.envs.runner import EnvironmentFault
from calico.tokenizers.episode import Episode


class Treacherous(gym.Env):
    """Three steps long; what happens at the second depends on the seed."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.seed, self.steps = seed, 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps == 2 and self.seed == 1:
            raise RuntimeError("the wheel came off")
        if self.steps == 2 and self.seed == 3:
            time.sleep(3600)
        if self.steps == 2 and self.seed == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.steps == 2 and self.seed == 7:
            os._exit(3)
        return np.zeros(1, np.float32), 1.0, self.steps == 3, False, {}


def make_treacherous(task: Task, render: bool) -> gym.Env:
    if error := task.kwargs.get("error"):
        raise getattr(builtins, error)(28, "disk full")
    return Treacherous()


# The worker process imports this file to find the task's family: its name stands for the module.
FAMILY = Family(title="", tasks=(), make=make_treacherous)


class Here(Task):
    """A task whose processes know the family above, too."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _announced, (dict(self.kwargs),)


def _announced(kwargs: dict[str, Any]) -> Task:
    import calico.envs.registry as registry

    find = registry.family
    registry.family = lambda name: FAMILY if name == "treacherous" else find(name)  # type: ignore[assignment]
    return Task(name="Treacherous", family="treacherous", kwargs=kwargs)


def summary(results: Iterator[Episode | EnvironmentFault]) -> list[Any]:
    return [(r.seed, r.what if isinstance(r, EnvironmentFault) else len(r)) for r in results]


def test_the_same_episodes_whatever_the_number_of_processes() -> None:
    task = get_task("BabyAI-GoToObj-v0")
    alone, together = (list(workers.play(task, "expert", range(100, 111), workers=n, noise=0.2)) for n in (0, 2))
    for a, b in zip(alone, together, strict=True):
        assert isinstance(a, Episode) and isinstance(b, Episode)
        assert a.seed == b.seed and a.info == b.info
        np.testing.assert_array_equal(a.observations["image"], b.observations["image"])
        np.testing.assert_array_equal(a.actions[""], b.actions[""])


@pytest.mark.parametrize("processes", [1, 2])
def test_what_raises_hangs_or_dies_costs_one_episode(processes: int) -> None:
    task = Here(name="Treacherous", family="treacherous")
    found = summary(workers.play(task, "random", range(9), workers=processes, time_limit=8))
    assert found == [
        (0, 3), (1, "step raised RuntimeError: the wheel came off"), (2, 3), (3, "it hung for more than 8 s and was killed"),
        (4, 3), (5, "its process died of SIGKILL"), (6, 3), (7, "its process exited with 3"), (8, 3),
    ]


@pytest.mark.parametrize("error", ["OSError", "PermissionError", "BrokenPipeError"])
def test_an_environment_that_cannot_be_made_is_no_dead_process(error: str) -> None:
    task = Here(name="Treacherous", family="treacherous", kwargs={"error": error})
    with pytest.raises(OSError, match="disk full"):
        list(workers.play(task, "random", [0, 1], workers=1))


def test_the_message_names_task_seed_and_step() -> None:
    (fault,) = workers.play(Here(name="Treacherous", family="treacherous"), "random", [5], workers=1)
    assert str(fault) == "Treacherous, seed 5, step 1: its process died of SIGKILL"


def test_a_mistake_of_ours_is_raised_here() -> None:
    with pytest.raises(ValueError, match="unknown policy 'exprt'"):
        list(workers.play(get_task("CartPole-v1"), "exprt", range(3), workers=1))
    with pytest.raises(ValueError, match="noise=7"):
        list(workers.play(get_task("CartPole-v1"), "random", range(3), workers=1, noise=7))
    with pytest.raises(ValueError, match="workers=-1"):
        next(workers.play(get_task("CartPole-v1"), "random", range(3), workers=-1))
