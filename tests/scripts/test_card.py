"""`calico card`: a network is packed, evaluated, and its card goes with it; nothing is shown that was not measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calico.agent import checkpoint
from calico.agent.agent import Agent
from calico.scripts.main import main

from ..conftest import SmallRun

Refused = Callable[..., str]
Answered = Callable[..., Any]
SMALL = ("--episodes", "2", "--pictures", "3")


@pytest.fixture(scope="module")
def packed(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run's network, with its card."""
    folder = tmp_path_factory.mktemp("packed") / "small"
    assert main(["card", str(small_run.run), "--pack", str(folder), "--temperature", "0.5"]) == 0
    assert main(["evaluate", str(folder), *SMALL]) == 0
    assert main(["card", str(folder), "--write"]) == 0
    return folder


def test_a_packed_network_is_small_plays_and_names_no_path(small_run: SmallRun, packed: Path) -> None:
    run, given = checkpoint.load(small_run.run), checkpoint.load(packed)
    weights, before = given.tensors["model"], run.tensors["model"]
    assert set(given.tensors) == {"model"} and "config" not in given.documents
    for name, tensor in weights.items():
        lost = (tensor.float() - before[name]).abs().max()
        assert str(tensor.dtype) == "torch.bfloat16" and lost < 0.01 * before[name].abs().max()
    assert str(small_run.data) not in (packed / "sources.json").read_text() + (packed / "tasks.json").read_text()
    agent = Agent.load(packed)
    assert next(agent.model.parameters()).dtype == next(Agent.load(small_run.run).model.parameters()).dtype
    assert agent.temperature == agent.policy("CartPole-v1").sampling.temperature == 0.5
    assert Agent.load(small_run.run).temperature == 1
    assert agent.tasks.keys() == Agent.load(small_run.run).tasks.keys()


def test_the_card_says_what_was_measured(packed: Path, answered: Answered) -> None:
    card = answered("card", packed)
    found = json.loads((packed / "evaluation" / "summary.json").read_text())
    assert card["temperature"] == found["sampling"]["temperature"] == 0.5
    assert card["tasks"] == 2 and card["families"] == 2 and card["episodes"] == 2
    assert card["share_at_50"] == found["share_at_50"]
    middle = found["aggregates"]["all"]["interquartile_mean"]["value"]
    assert card["interquartile_mean"] == pytest.approx(middle / 100, abs=1e-4)
    assert card["caption_accuracy"] == found["caption_accuracy"] and card["question_accuracy"] == found["question_accuracy"]
    assert card["parameters"] == Agent.load(packed).model.parameter_count() and card["bytes"] > 2 * card["parameters"]
    for name, task in card["scores"].items():
        assert task["score"] == found["tasks"][name]["score"]
        assert task["of_expert"] == pytest.approx(found["tasks"][name]["normalised"] / 100, abs=1e-4)
    page = (packed / "README.md").read_text()
    assert all(name in page for name in card["scores"]) and "What it cannot do" in page


def test_a_card_is_shown_as_tables(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", str(packed)]) == 0
    said = capsys.readouterr().out
    assert "2 tasks of 2 families" in said and "minigrid" in said and "parameters" in said


def test_no_card_without_an_evaluation_of_these_weights(small_run: SmallRun, tmp_path: Path, refused: Refused,
                                                        packed: Path) -> None:
    other = tmp_path / "other"
    assert main(["card", str(small_run.run), "--pack", str(other)]) == 0
    assert "was not evaluated yet; run `calico evaluate" in refused("card", other)
    (other / "evaluation").mkdir()
    summary = json.loads((packed / "evaluation" / "summary.json").read_text())
    (other / "evaluation" / "summary.json").write_text(json.dumps({**summary, "network": "0" * 16}))
    assert "is of other weights than" in refused("card", other)
    assert "give a folder that does not exist yet" in refused("card", small_run.run, "--pack", other)
