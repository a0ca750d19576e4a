"""A family of its own, as small as one can be: the tests add it to the registry, with sound and with faulty tasks."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from calico.envs import registry
from calico.envs.registry import Controller, Family, Task

DIGITS, STEPS = 5, 10
FAULTS = ("nan", "outside", "crash", "reset")
FIRST_FAULTY_SEED = 3   # below it also the faulty tasks are sound


class Counting(gym.Env[dict[str, Any], dict[str, Any]]):
    """Shows a digit and the time; an action that names the next digit earns 1. Ten steps.

    `fault` shows at step 2 of the seeds from FIRST_FAULTY_SEED on.
    """

    def __init__(self, fault: str = "") -> None:
        self.observation_space = gym.spaces.Dict(digit=gym.spaces.Discrete(DIGITS), time=gym.spaces.Box(0, 1, (1,)))
        self.action_space = gym.spaces.Dict(digit=gym.spaces.Discrete(DIGITS), push=gym.spaces.Box(-1, 1, (2,)))
        self.fault, self.faulty = fault, False
        self.digit, self.steps = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.faulty = seed is not None and seed >= FIRST_FAULTY_SEED
        if self.faulty and self.fault == "reset":
            raise OSError("the game is gone")
        self.digit, self.steps = int(self.np_random.integers(DIGITS)), 0
        return self._observe(), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        right = int(action["digit"]) == (self.digit + 1) % DIGITS
        self.digit, self.steps = int(self.np_random.integers(DIGITS)), self.steps + 1
        return self._observe(), float(right), self.steps == STEPS, False, {}

    def _observe(self) -> dict[str, Any]:
        seen = {"digit": np.int64(self.digit), "time": np.array([self.steps / STEPS], np.float32)}
        if not self.faulty or self.steps != 2:
            return seen
        match self.fault:
            case "nan":
                return seen | {"time": np.array([np.nan], np.float32)}
            case "outside":
                return seen | {"digit": np.int64(DIGITS)}
            case "crash":
                raise ZeroDivisionError("the game divides by zero")
        return seen


def start_expert(env: gym.Env, seed: int) -> Controller:
    return lambda seen: {"digit": (int(seen["digit"]) + 1) % DIGITS, "push": np.array([0.5, -0.5], np.float32)}


FAMILY = Family(
    title="Counting",
    tasks=tuple(Task(name=f"Counting{fault.capitalize()}-v0", family="counting", expert="next", kwargs={"fault": fault})
                for fault in ("", *FAULTS)),
    make=lambda task, render: Counting(**task.kwargs),
    experts={"next": start_expert},
)


@contextmanager
def registered() -> Iterator[Family]:
    """The family is one of the registry's while this lasts."""
    module: Any = ModuleType("calico.envs.families.counting")
    module.FAMILY = FAMILY
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        patch.setattr(registry, "FAMILIES", (*registry.FAMILIES, "counting"))
        forget()
        yield FAMILY
    forget()


def forget() -> None:
    """Let the registry look at its families again."""
    registry.family.cache_clear()
    registry._by_name.cache_clear()
