"""Gymnasium's MuJoCo tasks: names and limits as registered, values, and the view in pictures."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from calico.envs.registry import get_task, make, tasks

pytest.importorskip("mujoco")
STATES = [task for task in tasks("mujoco") if not task.view]


def test_all_of_version_5_with_limits_and_thresholds_as_registered() -> None:
    specs = {name: spec for name, spec in gym.registry.items() if name.endswith("-v5") and "mujoco" in str(spec.entry_point)}
    assert {task.name: (task.episode_limit, task.solved_at) for task in STATES} == \
        {name: (spec.max_episode_steps, spec.reward_threshold) for name, spec in specs.items()}


def test_values_are_gymnasiums_in_plain_types() -> None:
    ours, theirs = make("Hopper-v5"), gym.make("Hopper-v5")
    pairs: list[Any] = [(ours.reset(seed=5), theirs.reset(seed=5))]
    theirs.action_space.seed(5)
    for _ in range(40):
        action = theirs.action_space.sample()
        pairs.append((ours.step(action), theirs.step(action)))
    for (a, *rest_a), (b, *rest_b) in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-6)
        assert rest_a == rest_b and a.dtype == np.float32
    assert type(pairs[-1][0][1]) is float and type(pairs[-1][0][2]) is bool
    assert any(step[0][2] for step in pairs[1:])                       # the hopper fell


def test_a_twin_in_pictures_is_the_same_world() -> None:
    for task in STATES:
        twin = get_task(f"{task.name}-pixels")
        assert twin.scores_of == task.name and twin.expert == task.expert and twin.episode_limit == task.episode_limit
    state, pixels = make("Hopper-v5"), make(get_task("Hopper-v5-pixels").with_view(frames=4, height=32))
    state.reset(seed=1)
    picture, _ = pixels.reset(seed=1)
    assert picture.shape == (32, 64, 4)
    for _ in range(10):
        action = state.action_space.sample()
        assert state.step(action)[1:] == pixels.step(action)[1:]
