"""Procgen: one episode is one level that the seed decides, with its own last picture and its own kind of end."""

from typing import Any

import numpy as np
import pytest

from calico.envs.registry import make, tasks

pytest.importorskip("envpool.procgen", exc_type=ImportError)   # also where Qt is missing

STAY = 4


def play(name: str, seed: int, action: int | None = None) -> list[Any]:
    """(observation, reward, terminated, truncated, info) until the end; random actions if none is given."""
    env = make(name)
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    trace: list[Any] = [(observation, 0.0, False, False, info)]
    while not (trace[-1][2] or trace[-1][3]):
        trace.append(env.step(env.action_space.sample() if action is None else action))
    env.close()
    return trace


def test_the_tasks_are_those_of_envpool() -> None:
    from envpool.registration import registry

    limits = {name: config["max_episode_steps"] for name, (path, _, config) in registry.specs.items()
              if path == "envpool.procgen"}
    assert {task.name: task.episode_limit for task in tasks("procgen")} == limits and len(limits) == 50


def test_waiting_is_truncated_at_the_limit_and_being_eaten_is_an_end() -> None:
    waited = play("MazeEasy-v0", 3, STAY)
    assert len(waited) == 501 and waited[-1][2:4] == (False, True)
    eaten = play("BigfishEasy-v0", 3, STAY)
    assert len(eaten) < 501 and eaten[-1][2:4] == (True, False) and not eaten[-1][4]["level_complete"]


def test_the_last_picture_is_of_the_same_level() -> None:
    trace = play("MazeEasy-v0", 3, STAY)
    np.testing.assert_array_equal(trace[-1][0], trace[-2][0])       # nothing moved; the next level would look different
    assert len({info["level_seed"] for *_, info in trace}) == 1


def test_an_episode_does_not_depend_on_those_before_it() -> None:
    env = make("StarpilotEasy-v0")
    episodes = []
    for seed in (5, 6, 5):
        env.action_space.seed(seed)
        pictures = [env.reset(seed=seed)[0].copy()]
        for _ in range(40):
            pictures.append(env.step(env.action_space.sample())[0].copy())
        episodes.append(np.stack(pictures))
    np.testing.assert_array_equal(episodes[0], episodes[2])
    assert (episodes[0] != episodes[1]).any()


def test_the_frame_is_the_view_enlarged() -> None:
    env: Any = make("CoinrunHard-v0", render=True)
    observation, _ = env.reset(seed=0)
    frame = env.render()
    assert frame.shape == (256, 256, 3)
    np.testing.assert_array_equal(frame[2::4, 1::4], observation)
