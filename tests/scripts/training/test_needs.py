"""Weights by need: what a run starts from decides which tasks get more rows."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calico.agent import checkpoint
from calico.scripts.main import main
from calico.scripts.training import needs

from ...conftest import SmallRun

Refused = Callable[..., str]
TASKS = ("BabyAI-GoToLocal-v0", "CartPole-v1")


@pytest.fixture
def evaluated(small_run: SmallRun, tmp_path: Path) -> Path:
    """A copy of the small run with scores: CartPole half learnt, BabyAI learnt."""
    run = tmp_path / "before"
    shutil.copytree(small_run.run, run)
    assert main(["evaluate", str(run), "--suite", "control", "--episodes", "1", "--max-steps", "5"]) == 0
    score(run, {"BabyAI-GoToLocal-v0": 95.0, "CartPole-v1": 55.0})
    return run


def score(run: Path, percents: dict[str, float | None]) -> None:
    path = run / "evaluation" / "summary.json"
    found = json.loads(path.read_text())
    for task, percent in percents.items():
        found["tasks"][task]["normalised"] = percent
    path.write_text(json.dumps(found))


def config_of(run: Path) -> dict[str, Any]:
    return dict(checkpoint.load(run, only=()).documents["config"]["data"])


@pytest.mark.parametrize("of_expert, weight", [
    (-0.2, 2.0), (0.4999, 2.0), (0.5, 1.5), (0.6999, 1.5), (0.7, 1.0), (0.8999, 1.0), (0.9, 0.6), (1.4, 0.6)])
def test_what_a_score_asks_for(of_expert: float, weight: float) -> None:
    assert needs.factor(of_expert) == weight


def test_a_run_begins_and_goes_on_with_the_needs_of_what_it_starts_from(
        evaluated: Path, small_run: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "after"
    sources = "[" + ", ".join(f"{{path: {small_run.data / task}, weight: 2}}" for task in TASKS) + "]"
    words = ["train", str(small_run.config), f"init={evaluated}", f"out={out}", f"data.sources={sources}", "data.by_need=true"]
    assert main([*words, "training.steps=2"]) == 0
    said = capsys.readouterr().err
    assert "0 of 2 tasks are not played at half of the expert" in said
    assert "BabyAI-GoToLocal-v0 (4, 29%), CartPole-v1 (4, 71%)" in said          # 2 * 0.6 to 2 * 1.5
    expected = {"BabyAI-GoToLocal-v0": 0.6, "CartPole-v1": 1.5}
    assert config_of(out)["needs"] == expected and [source["weight"] for source in config_of(out)["sources"]] == [2, 2]
    score(evaluated, {"CartPole-v1": 10.0, "BabyAI-GoToLocal-v0": None})          # evaluated once more in between
    assert main([*words, "training.steps=4"]) == 0
    assert checkpoint.load(out, only=()).step == 4 and config_of(out)["needs"] == expected
    other = tmp_path / "other"
    assert main([*words, f"out={other}", "training.steps=1"]) == 0
    assert config_of(other)["needs"] == {"CartPole-v1": 2.0}                     # without an expert's score: as it was


def test_a_task_that_the_network_does_not_know_is_needed_most(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert needs.measured(str(evaluated), ["Pendulum-v1", *TASKS]) == {
        "BabyAI-GoToLocal-v0": 0.6, "CartPole-v1": 1.5, "Pendulum-v1": 2.0}


@pytest.mark.parametrize("words, message", [
    (["data.by_need=true"], "there is no init; give init=RUN"),
    (["data.needs.CartPole-v1=-1"], "data.needs.CartPole-v1=-1 must be a finite number of at least 0")])
def test_needs_that_cannot_be(small_run: SmallRun, tmp_path: Path, refused: Refused, words: list[str], message: str) -> None:
    sources = f"data.sources=[{{path: {small_run.data / 'CartPole-v1'}}}]"
    assert message in refused("train", small_run.config, sources, f"out={tmp_path / 'run'}", *words)
    assert not (tmp_path / "run").exists()


def test_a_start_that_was_not_evaluated_is_named(small_run: SmallRun, tmp_path: Path, refused: Refused) -> None:
    run = tmp_path / "before"
    shutil.copytree(small_run.run, run, ignore=shutil.ignore_patterns("evaluation"))
    sources = f"data.sources=[{{path: {small_run.data / 'CartPole-v1'}}}]"
    said = refused("train", small_run.config, sources, f"out={tmp_path / 'run'}", f"init={run}", "data.by_need=true")
    assert "was not evaluated yet; run `calico evaluate" in said
