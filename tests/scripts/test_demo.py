"""`calico demo`, with fewer and smaller parts: from nothing to a report, and again without doing anything twice."""

import json
from pathlib import Path

import pytest

from calico.agent import checkpoint
from calico.datasets.open_data import open_data
from calico.envs import scores
from calico.envs.registry import get_task
from calico.envs.scenes import WORLDS
from calico.scripts.main import main
from calico.scripts.training import demo


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of its tasks, one of its worlds, a few of each."""
    monkeypatch.setattr(demo, "TASKS", {name: (3, *demo.TASKS[name][1:]) for name in ("CartPole-v1", "Pendulum-v1")})
    monkeypatch.setattr(demo, "WORLDS", {"minigrid": (20, *demo.WORLDS["minigrid"][1:])})
    monkeypatch.setattr(demo, "PICTURES", 4)
    monkeypatch.setattr(demo, "SHOWN", ("CartPole-v1", "MiniGrid-DoorKey-5x5-v0"))
    monkeypatch.setattr(demo, "SHOWN_STEPS", 20)


def test_from_nothing_to_a_report_and_not_twice(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["demo", "backbone=perceiver-ar", f"out={tmp_path / 'demo'}", "training.steps=2", "--episodes", "2"]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "of 2 tasks at half the expert's score or more" in said and "report.html" in said
    told = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert {task["task"] for task in told["tasks"]} == {"CartPole-v1", "Pendulum-v1"}
    assert told["captions_judged"] == told["questions_judged"] == 4 and told["seconds"] > 0
    made = {path.name for path in (tmp_path / "demo" / "data").iterdir()}
    assert made == {"CartPole-v1", "Pendulum-v1", "minigrid-captions", "minigrid-dialogues", "small-talk"}
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo" / "data").rglob("*") if path.is_file()}
    assert main(words) == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    saved = checkpoint.load(tmp_path / "demo")
    assert saved.step == 2 and saved.documents["model"]["backbone"]["kind"] == "perceiver-ar"


def test_its_parts_are_real() -> None:
    """What the demo names exists, and each task's expert beats random play enough to be scored against."""
    assert demo.WORLDS.keys() <= WORLDS.keys()
    for name, (episodes, noise, weight) in demo.TASKS.items():
        known = scores.reference(name)
        assert get_task(name).expert and known.random is not None and known.expert is not None, name
        assert known.expert > known.random and episodes > 0 and 0 <= noise < 1 and weight > 0


def test_its_pictures_are_captions_and_dialogues(small: None, tmp_path: Path) -> None:
    sources = demo.make_data(tmp_path)
    kinds = [type(open_data(source.path)).__name__ for source in sources]
    assert kinds == ["EpisodeReader", "EpisodeReader", "CaptionReader", "DialogueReader", "DialogueReader"]
