"""Scripted experts are far better than random play, also when noise pushes them off their way."""

from pathlib import Path

import numpy as np
import pytest

from calico.envs.experts import Policy, RandomPolicy, expert_version, make_expert
from calico.envs.families.atari_experts import bounce
from calico.envs.registry import get_task, tasks
from calico.envs.runner import rollout


@pytest.mark.parametrize(("task", "at_least", "random_below"), [
    ("CartPole-v1", 475, 60), ("Acrobot-v1", -130, -400), ("Pendulum-v1", -400, -700), ("MountainCar-v0", -125, -199),
    ("MountainCarContinuous-v0", 95, 0), ("LunarLander-v3", 100, 0), ("LunarLanderContinuous-v3", 200, 0),
    ("BabyAI-GoToLocal-v0", 0.8, 0.6), ("BabyAI-PickupLoc-v0", 0.8, 0.6), ("BabyAI-UnlockPickup-v0", 0.6, 0.3),
])
def test_the_expert_beats_random_play(task: str, at_least: float, random_below: float) -> None:
    seeds = range(500, 504)
    assert np.mean([e.score for e in rollout(task, make_expert(task), seeds, record=False)]) >= at_least
    assert np.mean([e.score for e in rollout(task, RandomPolicy(), seeds, record=False)]) <= random_below


@pytest.mark.parametrize(("task", "steps", "at_least", "random_below"), [
    ("ALE/Freeway-v5", 300, 4, 0), ("ALE/Breakout-v5", 400, 10, 8), ("ALE/Pong-v5", 600, -3, -9),
])
def test_the_atari_experts_beat_random_play_from_the_start(task: str, steps: int, at_least: float,
                                                           random_below: float) -> None:
    def score(policy: Policy) -> float:
        return float(np.mean([e.score for e in rollout(task, policy, [7, 8], record=False, max_steps=steps)]))

    assert score(make_expert(task)) >= at_least
    assert score(RandomPolicy()) <= random_below


def test_the_babyai_bot_recovers_from_actions_that_it_did_not_choose() -> None:
    task = "BabyAI-PickupLoc-v0"
    episodes = list(rollout(task, make_expert(task), range(20), noise=0.3, record=False))
    assert sum(not e.demonstrated.all() for e in episodes) > 15
    assert np.mean([e.score > 0 for e in episodes]) >= 0.9


def test_random_play_depends_on_the_seed_alone() -> None:
    alone = list(rollout("CartPole-v1", RandomPolicy(), [11], num_envs=1))[0]
    among = {e.seed: e for e in rollout("CartPole-v1", RandomPolicy(), [4, 9, 11, 2], num_envs=3)}
    np.testing.assert_array_equal(alone.actions[""], among[11].actions[""])
    assert alone.actions[""].tolist()[:8] != among[9].actions[""].tolist()[:8]


def test_a_bounce_folds_the_flight() -> None:
    assert [bounce(place, 0, 10) for place in (-3, 4, 12, 23, 35)] == [3, 4, 8, 3, 5]


def test_the_babyai_bot_does_not_plan_in_circles_for_ever() -> None:
    """Unguarded, the bot never returns from this episode: noise leaves it with a plan that feeds itself."""
    task = "BabyAI-GoToImpUnlock-v0"
    episode = next(iter(rollout(task, make_expert(task), [6], noise=0.15, max_steps=300, record=False)))
    assert len(episode) == 300


def test_an_experts_version_is_that_of_the_files_it_is_written_in(monkeypatch: pytest.MonkeyPatch) -> None:
    task, read = get_task("MiniWorld-FourRooms-v0"), Path.read_bytes
    as_it_is = expert_version(task)
    for name, changes in {"floor_plan.py": True, "miniworld_experts.py": True, "sokoban_expert.py": False}.items():
        monkeypatch.setattr(Path, "read_bytes", lambda path, name=name: read(path) + b"#" * (path.name == name))
        assert (expert_version(task) != as_it_is) is changes
    assert all(len(expert_version(task)) == 12 for task in tasks() if task.expert)   # of every way to write one
