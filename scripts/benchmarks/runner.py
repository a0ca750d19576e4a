"""The environment runner's figures for `calico bench runner`: its cost compared with plain loops and with Gymnasium.

Both sides play the same environments with uniform actions; both sides of a ratio run in turns.
"""

import multiprocessing as mp
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import count
from typing import Any

import gymnasium as gym

from calico.envs.experts import RandomPolicy
from calico.envs.isolated import isolated
from calico.envs.registry import Task, get_task, make
from calico.envs.runner import rollout
from calico.scripts.benchmarks.interleaved import interleaved, peer

ROWS = 16
CORES = os.cpu_count() or 1
STEPS = {"CartPole-v1": 40_000, "HalfCheetah-v5": 16_000, "ALE/Pong-v5": 4_000, "BabyAI-GoToLocal-v0": 8_000}   # about a second


def bench_runner(turns: int) -> dict[str, Any]:
    """`overhead` is the runner's time per step over that of a bare loop, less one; the others are factors of speed.

    Rows of Atari run in as many processes as there are cores (`isolated.py`), Gymnasium's in one.
    """
    found: dict[str, Any] = {"overhead": {}}
    for name, steps in STEPS.items():
        runner, bare = interleaved(turns, lambda: runner_seconds(get_task(name), steps),              # noqa: B023
                                lambda: bare_seconds(get_task(name), steps))                       # noqa: B023
        found["overhead"][name] = runner / bare - 1
        found[f"{name}_steps_per_second"] = 1 / runner
    frames = get_task("ALE/Pong-v5").with_view(frames=4)
    steps = STEPS["ALE/Pong-v5"]
    ours, alone, sync = interleaved(turns, lambda: runner_seconds(frames, steps, isolated(processes=CORES)),
                                 lambda: runner_seconds(frames, steps), lambda: sync_seconds(steps))
    found |= {"atari_steps_per_second": 1 / ours, "atari_sync_steps_per_second": 1 / sync, "atari_vs_sync": sync / ours,
              "atari_one_process_vs_sync": sync / alone}
    # Each in a process of its own: once an off-screen camera exists, Gymnasium's viewer draws into its small buffer.
    with ProcessPoolExecutor(1, mp.get_context("spawn"), max_tasks_per_child=1) as apart:
        ours, default = interleaved(turns, lambda: apart.submit(pixel_seconds, 400, False).result(),
                                 lambda: apart.submit(pixel_seconds, 10, True).result())
    found |= {"mujoco_pixels_per_second": 1 / ours, "mujoco_default_pixels_per_second": 1 / default,
              "mujoco_pixels_vs_default": default / ours}
    return found


class Clocked(RandomPolicy):
    """Uniform actions; stops after so many of them and measures their time."""

    def __init__(self, stop: int) -> None:
        super().__init__()
        self.stop, self.steps, self.began, self.seconds = stop, 0, 0.0, 0.0

    def act(self, observations: Sequence[Any], rows: Sequence[int]) -> list[Any]:
        if not self.steps:
            self.began = time.perf_counter()
        elif self.steps >= self.stop:
            self.seconds = time.perf_counter() - self.began
            raise Enough
        self.steps += len(rows)
        return super().act(observations, rows)


class Enough(Exception):
    """The measurement is over."""


def runner_seconds(task: Task, steps: int, how: Callable[[Task, bool], gym.Env] = make) -> float:
    """Seconds per step of the runner, sixteen rows."""
    policy = Clocked(steps)
    with suppress(Enough):
        for _ in rollout(task, policy, range(steps), num_envs=ROWS, record=False, make=how):
            pass
    return policy.seconds / policy.steps


def bare_seconds(task: Task, steps: int) -> float:
    """Seconds per step of the plain way: a loop over sixteen environments that samples, steps and resets."""
    envs = [make(task) for _ in range(ROWS)]
    seeds = count()
    for env in envs:
        env.reset(seed=next(seeds))
    taken = 0
    began = time.perf_counter()
    while taken < steps:
        for env in envs:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset(seed=next(seeds))
        taken += ROWS
    seconds = time.perf_counter() - began
    for env in envs:
        env.close()
    return seconds / taken


def sync_seconds(steps: int) -> float:
    """Seconds per step of Gymnasium's SyncVectorEnv: its own Atari wrappers, 64x64 grey, four frames."""
    peer("cv2")   # AtariPreprocessing shrinks frames with it
    import ale_py
    from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

    gym.register_envs(ale_py)

    def one() -> gym.Env:
        game = gym.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.25)
        return FrameStackObservation(AtariPreprocessing(game, noop_max=30, frame_skip=4, screen_size=64), 4)

    envs = gym.vector.SyncVectorEnv([one] * ROWS)
    envs.reset(seed=0)
    began = time.perf_counter()
    for _ in range(steps // ROWS):
        envs.step(envs.action_space.sample())
    seconds = time.perf_counter() - began
    envs.close()
    return seconds / (steps // ROWS * ROWS)


def pixel_seconds(steps: int, render: bool) -> float:
    """Seconds per step of a cheetah observed in pixels; render: as Gymnasium renders it by default."""
    env = (gym.make("HalfCheetah-v5", render_mode="rgb_array", width=64, height=64) if render
           else make("HalfCheetah-v5-pixels"))
    env.reset(seed=0)
    for _ in range(2):   # the first pictures load shaders
        env.step(env.action_space.sample())
        if render:
            env.render()
    began = time.perf_counter()
    for _ in range(steps):
        env.step(env.action_space.sample())
        if render:
            env.render()
    seconds = time.perf_counter() - began
    env.close()
    return seconds / steps

