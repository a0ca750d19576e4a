"""`calico fewshot`: every way to use few demonstrations is measured on unseen seeds; a stop loses nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calico.agent.agent import Agent
from calico.datasets.episodes import EpisodeReader
from calico.envs.registry import get_task, make
from calico.scripts.common.collecting import collect
from calico.scripts.training.few_shot import NearestNeighbour, nearest_score

from ...conftest import SmallRun

SMALL = ("--demonstrations", 0, 2, "--judged", 2, "--max-steps", 60, "training.steps=3", "data.batch_size=2")


def test_all_ways_are_measured_and_nothing_is_done_twice(small_run: SmallRun, tmp_path: Path,
                                                         answered: Callable[..., Any]) -> None:
    words = ("fewshot", small_run.run, "Acrobot-v1", "CartPole-v1", *SMALL, "--out", tmp_path / "few")
    found = answered(*words)
    ways = [(point["task"], point["demonstrations"], point["way"], point["known"]) for point in found]
    assert [way for way in ways if way[2] != "prompted"] == [
        (task, count, way, known) for task, known in (("Acrobot-v1", False), ("CartPole-v1", True))
        for count, way in ((0, "zero-shot"), (2, "fine-tuned"), (2, "from scratch"), (2, "nearest"))]
    assert all(np.isfinite(point["score"]) for point in found)
    assert sorted(EpisodeReader(tmp_path / "few" / "Acrobot-v1" / "2-demonstrations" / "Acrobot-v1").seeds) == [0, 1]
    files = [*(tmp_path / "few").rglob("*.safetensors"), *(tmp_path / "few").rglob("*.parquet")]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert answered(*words) == found
    assert before and all(path.stat().st_mtime_ns == when for path, when in before.items())


def test_the_nearest_neighbour_repeats_a_demonstration_where_it_sees_it_again(tmp_path: Path) -> None:
    data = collect(get_task("Acrobot-v1"), range(3), tmp_path)
    episodes = list(EpisodeReader(data))
    policy, env = NearestNeighbour(episodes), make("Acrobot-v1")
    for episode in episodes:
        seen, _ = env.reset(seed=episode.seed)
        policy.reset(0, episode.seed, env)
        for action in episode.actions[""]:
            assert policy.act([seen], [0]) == [action]
            seen, *_ = env.step(action)
    env.close()


def test_other_words_are_never_the_nearest_while_the_same_ones_are_there(tmp_path: Path) -> None:
    data = collect(get_task("BabyAI-GoToLocal-v0"), range(12), tmp_path)
    episodes = list(EpisodeReader(data))
    policy, env = NearestNeighbour(episodes), make("BabyAI-GoToLocal-v0")
    policy.reset(0, 0, env)
    missions = {str(value) for episode in episodes for name, leaf in episode.observations.items() if leaf.dtype == object
                for value in leaf}
    assert len(missions) > 2
    for words, action in zip(policy.words, policy.actions, strict=True):
        assert set(words) <= missions and set(action) == set(episodes[0].actions)


def test_many_demonstrations_make_the_nearest_neighbour_better_than_chance(tmp_path: Path) -> None:
    data = collect(get_task("CartPole-v1"), range(10), tmp_path, noise=0.1)
    score = nearest_score(Agent.load("calico-small"), "CartPole-v1", EpisodeReader(data), range(10_000, 10_004))
    assert score.normalised is not None and score.normalised > 10


@pytest.mark.parametrize("words, says", [
    (("CartPole-v1", "--demonstrations", "-1"), "--demonstrations -1 must be at least 0"),
    (("CartPole-v1", "--judged", "0"), "--judged 0 must be at least 1"),
    (("MiniGrid-Playground-v0",), "MiniGrid-Playground-v0 has no scripted expert"),
    (("CartPole-v1", "training.stepz=3"), "stepz"),
    (("CartPol-v1",), "CartPol-v1"),
])
def test_wrong_words_are_one_line(words: tuple[str, ...], says: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    assert says in refused("fewshot", *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
