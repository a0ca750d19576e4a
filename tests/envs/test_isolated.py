"""Environments in other processes: the same steps as here, and what does not answer is killed, named and replaced."""

import os
import signal
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from calico.envs import registry
from calico.envs.experts import RandomPolicy
from calico.envs.isolated import isolated
from calico.envs.registry import get_task
from calico.envs.runner import EnvironmentFault, rollout


def test_an_environment_of_its_own_process_can_hang_or_die() -> None:
    task = get_task("CartPole-v1")
    env = isolated(time_limit=60)(task, True)
    assert env.reset(seed=3)[0].shape == (4,) and env.render().shape[2] == 3   # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="AssertionError"):
        env.step("no action")
    os.kill(env.host.process.pid, signal.SIGSTOP)   # type: ignore[attr-defined]
    env.host.time_limit = 0.2                        # type: ignore[attr-defined]
    with pytest.raises(TimeoutError, match="took more than 0.2 s and was killed"):
        env.step(0)
    env = isolated()(task, False)
    os.kill(env.host.process.pid, signal.SIGKILL)   # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="died of SIGKILL"):
        env.reset(seed=3)
    env.close()
    with pytest.raises(ValueError, match="processes=0 must be at least 1"):
        isolated(processes=0)


def test_rows_that_share_processes_play_the_same_episodes() -> None:
    """Bit by bit, and however often a row begins anew: pictures that are stacked, sticky actions, noise."""
    task = get_task("ALE/Pong-v5").with_view(frames=4)
    here, there = ({episode.seed: episode for episode in rollout(task, RandomPolicy(), range(5), num_envs=3, max_steps=12,
                                                                 noise=0.3, noise_steps=2, make=how)}
                   for how in (registry.make, isolated(processes=2)))
    assert here.keys() == there.keys()
    for seed, episode in here.items():
        np.testing.assert_array_equal(episode.observations[""], there[seed].observations[""])
        np.testing.assert_array_equal(episode.actions[""], there[seed].actions[""])
        np.testing.assert_array_equal(episode.rewards, there[seed].rewards)
        np.testing.assert_array_equal(episode.demonstrated, there[seed].demonstrated)
        assert episode.info == there[seed].info


def test_a_shared_process_that_dies_costs_its_rows_and_no_more() -> None:
    def shoot(row: int, seed: int, steps: int, env: gym.Env) -> None:
        if (seed, steps) == (1, 2):
            os.kill(env.host.process.pid, signal.SIGKILL)   # type: ignore[attr-defined]

    faults: list[EnvironmentFault] = []
    episodes = list(rollout("CartPole-v1", RandomPolicy(), range(7), num_envs=4, on_step=shoot, on_fault=faults.append,
                            make=isolated(processes=2)))
    assert [fault.seed for fault in faults] == [1, 3] and all("SIGKILL" in fault.what for fault in faults)   # the odd rows
    assert sorted(episode.seed for episode in episodes) == [0, 2, 4, 5, 6]
    alone = {episode.seed: len(episode) for episode in rollout("CartPole-v1", RandomPolicy(), range(7))}
    assert all(len(episode) == alone[episode.seed] for episode in episodes)


def test_what_cannot_be_made_leaves_no_process() -> None:
    task = replace(get_task("ALE/Pong-v5"), kwargs={"game": "pang"})
    make = isolated(processes=1)
    with pytest.raises(ValueError, match="cannot be made in a process of its own: .*holds no game 'pang'"):
        make(task, False)
    env = make(get_task("ALE/Pong-v5"), False)   # the next one gets a new process
    assert env.observation_space.shape == (64, 64, 2)
    env.close()
