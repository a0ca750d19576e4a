"""`calico bench learning`: both sides train on the same data for equal minutes, and the better one is told from play."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calico.agent import checkpoint
from calico.scripts.benchmarks.learning import describe, summary
from calico.scripts.evaluation.report import TaskScore

Refused = Callable[..., str]
Answered = Callable[..., Any]
RECIPE = "families: {classic: {noise: 0.2, episodes: {CartPole-v1: 3}}, minigrid: {episodes: {BabyAI-GoToObj-v0: 20}}}"


def test_a_tasks_episodes_of_all_seeds_count_together() -> None:
    scores = [TaskScore(task="one", family="f", random=0.0, expert=10.0, returns=returns) for returns in ([10, 10], [0, 0])]
    scores.append(TaskScore(task="two", family="f", random=0.0, expert=4.0, returns=[4.0]))
    found = summary(scores)
    assert found["of_expert"] == {"one": 0.5, "two": 1.0} and found["mean"] == 0.75 and found["share_at_50"] == 1.0
    assert found["low"] <= found["interquartile_mean"] <= found["high"] and "0.750" in describe(found)


def test_both_sides_are_trained_and_played(tmp_path: Path, answered: Answered) -> None:
    (tmp_path / "two.yaml").write_text(RECIPE)
    found = answered("bench", "learning", "--recipe", tmp_path / "two.yaml", "--data", tmp_path / "data", "--out", tmp_path,
                     "--a", "backbone.depth=1 backbone.width=32 training.compile=false data.batch_size=4",
                     "--b", "backbone.depth=2 backbone.width=32 training.compile=false data.batch_size=4",
                     "--minutes", "0.03", "--seeds", 1, "--episodes", 1)
    assert found["ratio"] == pytest.approx(found["b"]["interquartile_mean"] / found["a"]["interquartile_mean"])
    assert set(found["a"]["of_expert"]) == {"CartPole-v1", "BabyAI-GoToObj-v0"} and found["tasks"] == 2
    depths = [checkpoint.load(tmp_path / f"{side}-0").documents["model"]["backbone"]["depth"] for side in "ab"]
    assert depths == [1, 2]


@pytest.mark.parametrize(("words", "says"), [(["--b", "x=1", "--minutes", 0], "--minutes 0 must be above 0"),
                                             (["--b", "x=1", "--recipe", "none"], "no recipe 'none'")])
def test_wrong_words_are_one_line(words: list[object], says: str, refused: Refused) -> None:
    assert says in refused("bench", "learning", *words)
