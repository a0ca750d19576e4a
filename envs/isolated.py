"""Environments in other processes: one that hangs or dies of a native crash can be given up, and several step at once.

    rollout(task, policy, seeds, make=isolated(time_limit=60), on_fault=faults.append)   # a process for each
    rollout(task, policy, seeds, make=isolated(processes=os.cpu_count()))                # shared out, for speed alone

For learned policies, which act for many environments at once and look at observations only. A step costs a message to each
process and back, some 0.1 ms; the processes work at the same time, so that slow worlds (Atari, anything drawn) gain what the
machine has in cores. Threads would not do: the emulators hold Python's lock.
"""

import itertools
import multiprocessing as mp
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium as gym

from . import registry
from .registry import Task

Call = tuple[int, str, tuple[Any, ...], dict[str, Any]]   # (an environment's number in its process, method, arguments)


def isolated(time_limit: float = 120.0, processes: int | None = None) -> Callable[[Task, bool], gym.Env]:
    """A `make` for `rollout`.

    Args:
        time_limit: seconds that making an environment, a reset, a frame or a process's part of a step may take.
        processes: share the environments out among so many. They take less time and memory to start than one for each,
            which is the default; but one that hangs or crashes takes its neighbours' episodes with it.
    Raises:
        ValueError: processes is less than 1.
    """
    if processes is None:
        return lambda task, render: Isolated(task, render, Host(time_limit))
    if processes < 1:
        raise ValueError(f"processes={processes} must be at least 1, or None for one per environment")
    hosts: list[Host] = []
    turns = itertools.cycle(range(processes))

    def make(task: Task, render: bool) -> gym.Env:
        if not hosts:
            hosts.extend(Host(time_limit) for _ in range(processes))   # all at once: starting takes seconds
        index = next(turns)
        if not hosts[index].process.is_alive():
            hosts[index] = Host(time_limit)
        return Isolated(task, render, hosts[index])

    return make


class Isolated(gym.Env):
    """Passes every call on to the environment in the other process.

    Raises:
        ValueError: (the constructor) the environment cannot be made there, for whatever reason.
        TimeoutError: a call took too long; the process has been killed.
        RuntimeError: the process is gone, or the environment raised: the message says which.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, task: Task, render: bool, host: "Host") -> None:
        registry.require(task.family, task.name)   # a missing package is named here
        self.host, self.number = host, host.enter()
        self.begun = False
        try:
            self.observation_space, self.action_space = self._call("make", task, render)
        except Exception as error:
            self.close()
            raise ValueError(f"{task.name} cannot be made in a process of its own: {error}") from error

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._call("reset", seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if not self.begun:
            begin([self], [action])
        self.begun = False
        return self.host.answer(self.number)

    def render(self) -> Any:
        return self._call("render")

    def close(self) -> None:
        """Close it there; its process ends with its last environment, whatever it is doing."""
        self.host.leave(self.number)

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        self.host.ask([(self.number, method, arguments, named)])
        return self.host.answer(self.number)


def begin(envs: Sequence[Isolated], actions: Sequence[Any]) -> None:
    """Let a step of all these environments begin; `step` of each, with the same action, waits for its end."""
    calls: dict[Host, list[Call]] = {}
    for env, action in zip(envs, actions, strict=True):
        calls.setdefault(env.host, []).append((env.number, "step", (action,), {}))
        env.begun = True
    for host, its in calls.items():
        host.ask(its)


class Host:
    """A process that holds environments, each under a number of its own."""

    def __init__(self, time_limit: float) -> None:
        self.time_limit = time_limit
        context = mp.get_context("spawn")   # a forked copy of a process with threads and GL contexts may lock up
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.entered = 0
        self.inside: set[int] = set()
        self.answers: dict[int, tuple[bool, Any]] = {}   # those that came before they were waited for

    def enter(self) -> int:
        """A number for one more environment."""
        self.entered += 1
        self.inside.add(self.entered)
        return self.entered

    def leave(self, number: int) -> None:
        """Close an environment, and the process with the last one."""
        self.inside.discard(number)
        if self.inside:
            self.ask([(number, "close", (), {})])
        else:
            self.end()

    def ask(self, calls: list[Call]) -> None:
        """Send calls on their way; `answer` gives what comes of each."""
        with suppress(OSError):   # the process is gone: `answer` says how
            self.connection.send(calls)

    def answer(self, number: int) -> Any:
        """Wait for the value that an environment's last call gave.

        Raises:
            TimeoutError, RuntimeError: see Isolated.
        """
        while number not in self.answers:
            try:
                is_late = not self.connection.poll(self.time_limit)
                if not is_late:
                    self.answers |= self.connection.recv()
            except (EOFError, OSError):
                raise RuntimeError(how_it_ended(self.process)) from None
            if is_late:
                self.end()
                raise TimeoutError(f"took more than {self.time_limit:g} s and was killed")
        raised, value = self.answers.pop(number)
        if raised:
            raise RuntimeError(value)
        return value

    def end(self) -> None:
        end(self.process)
        self.connection.close()


def detach_process() -> None:
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


def _serve(connection: Connection) -> None:
    """The life of the other process: calls in, number -> (whether it raised, value or message) out."""
    detach_process()
    envs: dict[int, gym.Env] = {}

    def run(number: int, method: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if method == "make":
            env = envs[number] = registry.make(*arguments)
            return env.observation_space, env.action_space
        if method == "close":
            return envs.pop(number).close()
        return getattr(envs[number], method)(*arguments, **named)

    with suppress(EOFError, BrokenPipeError, ConnectionResetError):   # nobody is there any more
        while True:
            answers: dict[int, tuple[bool, Any]] = {}
            for call in connection.recv():
                try:
                    answers[call[0]] = False, run(*call)
                except Exception as error:   # noqa: BLE001  whatever it is, it belongs to the process that asked
                    answers[call[0]] = True, f"{type(error).__name__}: {error}"
            connection.send(answers)
