"""An environment in a process of its own: one that hangs or dies of a native crash can be given up.

    rollout(task, policy, seeds, make=isolated(time_limit=60), on_fault=faults.append)

For learned policies, which act for many environments at once and look at observations only. A step costs a message there
and back, some 0.1 ms.
"""

import multiprocessing as mp
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium as gym

from . import registry
from .registry import Task


def isolated(time_limit: float = 120.0) -> Callable[[Task, bool], gym.Env]:
    """A `make` for `rollout`.

    Args:
        time_limit: seconds that making the environment, a reset, a step or a frame may take.
    """
    return lambda task, render: Isolated(task, render, time_limit)


class Isolated(gym.Env):
    """Passes every call on to the environment in the other process.

    Raises:
        TimeoutError: a call took too long; the process has been killed.
        RuntimeError: the process is gone, or the environment raised: the message says which.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, task: Task, render: bool, time_limit: float) -> None:
        registry.require(task.family, task.name)   # a missing package is named here
        self.time_limit = time_limit
        context = mp.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, task, render), daemon=True)
        self.process.start()
        theirs.close()
        self.observation_space, self.action_space = self._answer()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See gym.Env."""
        super().reset(seed=seed)
        return self._ask("reset", seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See gym.Env."""
        return self._ask("step", action)

    def render(self) -> Any:
        """See gym.Env."""
        return self._ask("render")

    def close(self) -> None:
        """End the process, whatever it is doing."""
        end(self.process)
        self.connection.close()

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        try:
            self.connection.send((method, arguments, named))
        except OSError:
            raise RuntimeError(how_it_ended(self.process)) from None
        return self._answer()

    def _answer(self) -> Any:
        if not self.connection.poll(self.time_limit):
            self.close()
            raise TimeoutError(f"took more than {self.time_limit:g} s and was killed")
        try:
            raised, value = self.connection.recv()
        except (EOFError, OSError):
            raise RuntimeError(how_it_ended(self.process)) from None
        if raised:
            raise RuntimeError(value)
        return value


def stand_alone() -> None:
    """Lead a process group: Ctrl-C is for the process that started this one, and engines that an environment starts, as
    ViZDoom does, end with it."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def end(process: BaseProcess) -> None:
    """Kill a process that stands alone, with all that it has started."""
    if process.pid and hasattr(os, "killpg"):
        with suppress(ProcessLookupError):   # it died before it led a group
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def how_it_ended(process: BaseProcess) -> str:
    """For messages: the signal or the exit code of a process whose pipe has closed."""
    process.join(timeout=5)
    code = process.exitcode or 0
    return f"its process died of {signal.Signals(-code).name}" if code < 0 else f"its process exited with {code}"


def _serve(connection: Connection, task: Task, render: bool) -> None:
    """The life of the other process: (method, arguments) in, (whether it raised, value or message) out."""
    stand_alone()

    def answer(call: Callable[[], Any]) -> None:
        try:
            reply = (False, call())
        except Exception as error:   # noqa: BLE001  whatever it is, it belongs to the process that asked
            reply = (True, f"{type(error).__name__}: {error}")
        connection.send(reply)

    made: list[gym.Env] = []

    def open_it() -> tuple[gym.Space, gym.Space]:
        made.append(registry.make(task, render))
        return made[0].observation_space, made[0].action_space

    answer(open_it)
    while made:
        try:
            method, arguments, named = connection.recv()
        except EOFError:
            return
        answer(lambda: getattr(made[0], method)(*arguments, **named))   # noqa: B023  called at once
