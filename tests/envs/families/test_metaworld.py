"""The Meta-World view: the package's tasks and split, goals by seed, experts that succeed, the end of an episode."""

from typing import Any

import numpy as np
import pytest

from calico.envs.experts import make_expert
from calico.envs.families import metaworld as family
from calico.envs.registry import get_task, make, tasks
from calico.envs.runner import rollout

pytest.importorskip("metaworld")

QUICK = ["reach", "button-press-topdown", "pick-place"]
NAMES = [task.name for task in tasks("metaworld")]


def named(task: str) -> str:
    return f"Meta-World/{task}-v3"


def test_tasks_and_split_are_the_packages() -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS, ML45_V3

    assert sorted(NAMES) == sorted(f"Meta-World/{key}" for key in ALL_V3_ENVIRONMENTS)
    assert sorted(family.TRAINING.split()) == sorted(key.removesuffix("-v3") for key in ML45_V3["train"])
    assert sorted(family.HELD_OUT.split()) == sorted(key.removesuffix("-v3") for key in ML45_V3["test"])


@pytest.mark.parametrize("task", QUICK)
def test_the_goal_is_seen_and_depends_on_the_seed(task: str) -> None:
    env = make(named(task))
    world: Any = env.unwrapped
    goals = []
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        np.testing.assert_allclose(observation[-3:], world._target_pos, rtol=1e-6)
        observation, *_ = env.step(np.zeros(4, np.float32))
        np.testing.assert_allclose(observation[-3:], world._target_pos, rtol=1e-6)   # `step` clips to the space's bounds
        goals.append(tuple(observation[-3:]))
    assert len(set(goals)) == 3
    env.close()


@pytest.mark.parametrize("name", [named("box-close"), named("window-close"),
                                  *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES)])
def test_an_episode_does_not_depend_on_the_one_before(name: str) -> None:
    def play(env: Any, seed: int, steps: int) -> list[Any]:
        actions = np.random.default_rng(0).uniform(-1, 1, (steps, 4)).astype(np.float32)
        return [env.reset(seed=seed)[0].tolist(), *(env.step(action)[1] for action in actions)]

    used, fresh = make(name), make(name)
    play(used, 9, 100)
    assert play(used, 3, 10) == play(fresh, 3, 10)


@pytest.mark.parametrize("task", QUICK)
def test_the_scripted_policy_succeeds(task: str) -> None:
    brief = get_task(named(task)).with_view(terminate_on_success=True)
    for episode in rollout(brief, make_expert(brief), range(700, 703), record=False):
        assert episode.info["succeeded"] and episode.terminated and not episode.truncated and len(episode) < 150


def test_by_default_an_episode_goes_on_after_success() -> None:
    episode = next(iter(rollout(named("reach"), make_expert(named("reach")), [700])))
    assert len(episode) == 500 and episode.truncated and not episode.terminated
    assert episode.score > 4000 and episode.info["succeeded"]


@pytest.mark.parametrize("task", ["handle-press-side", "button-press", "stick-push"])
def test_the_expert_keeps_its_reward_after_success(task: str) -> None:
    """Where the package's policy alone collects a quarter of it, or less."""
    episode = next(iter(rollout(named(task), make_expert(named(task)), [700], record=False)))
    assert episode.score > 3500


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_scripted_policy_succeeds_on_most_seeds(name: str) -> None:
    task = get_task(name).with_view(terminate_on_success=True)
    episodes = list(rollout(task, make_expert(task), range(700, 704), record=False))
    assert sum(episode.info["succeeded"] for episode in episodes) >= 2
