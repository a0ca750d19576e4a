"""calico bench perceiver-shortcuts, and the shortcuts of `predict`: off they change nothing, what is wrong is one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calico.scripts.main import main

from ..perceiver_tasks.test_classify import make_data


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run and its data."""
    folder = tmp_path_factory.mktemp("shortcuts")
    data, _ = make_data("classify-text", folder)
    assert main(["perceive", "classify-text", "train", str(data), "length=64", "training.steps=20", "batch_size=8", "--out",
                 str(folder / "run")]) == 0
    return folder / "run", data


def test_accuracy_and_time_side_by_side(trained: tuple[Path, Path], answered: Callable[..., Any]) -> None:
    run, data = trained
    found = answered("bench", "perceiver-shortcuts", run, data, "--early-exit", "0.000001", "--keep-latents", "0.5",
                     "--turns", "1", "--batch", "8")
    assert found["task"] == "classify-text" and found["held_out"] > 4
    shortcuts = found["shortcuts"]
    assert list(shortcuts) == ["all", "early_exit 1e-06", "keep_latents 0.5"]
    everything, soon, few = shortcuts.values()
    assert everything["accuracy"] == json.loads((run / "held_out.json").read_text())["accuracy"]
    assert everything["same_answer"] == everything["times_as_fast"] == 1 and everything["layers"] == few["layers"] == 4
    assert soon["layers"] == 1 and soon["times_as_fast"] > 0 and 0 <= few["accuracy"] <= 1


def test_predict_takes_them_by_name(trained: tuple[Path, Path], answered: Callable[..., Any]) -> None:
    words = ("perceive", "classify-text", "predict", trained[0], "good 3 good 3 ", "terrible 3 terrible 3 ")
    exact = [answer["probability"] for answer in answered(*words)]
    assert [answer["probability"] for answer in answered(*words, "--early-exit", "1", "--keep-latents", "1")] == exact
    for option in ("--early-exit", "--keep-latents"):
        assert [answer["probability"] for answer in answered(*words, option, "0.1")] != exact


@pytest.mark.parametrize("option, name", [("--early-exit", "early_exit"), ("--keep-latents", "keep_latents")])
def test_wrong_values(option: str, name: str, trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["perceive", "classify-text", "predict", str(trained[0]), "good"],
                  ["bench", "perceiver-shortcuts", *map(str, trained)]):
        assert main([*words, option, "0"]) == 2
        assert f"{name}=0.0 must be above 0 and at most 1; 1 switches it off" in capsys.readouterr().err


def test_other_data_are_refused(trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"text": f"{i} words", "label": "odd" if i % 2 else "even"}) + "\n" for i in range(40)))
    assert main(["bench", "perceiver-shortcuts", str(trained[0]), str(other)]) == 2
    assert "has the classes even, odd, and" in capsys.readouterr().err
