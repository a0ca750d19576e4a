"""Checkpoints and episodes of an older version (calico-agent of November 2026) load, act and resume, or are refused by name.

tests/fixtures/old was made by the commands that README.md there lists, run in that folder by the older version.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calico.agent import checkpoint
from calico.agent.agent import Agent
from calico.agent.data2vec.pretrained import load_encoder
from calico.agent.perceiver.layers import LatentConfig
from calico.agent.perceiver.runs import load_trained
from calico.agent.perceiver.sizes import SMALL
from calico.datasets.episodes import EpisodeReader
from calico.datasets.open_data import open_data
from calico.scripts.main import main

OLD = Path(__file__).parent / "fixtures" / "old"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, in which the commands are given: the runs name their data relative to it."""
    folder = Path(shutil.copytree(OLD, tmp_path / "old"))
    monkeypatch.chdir(folder)
    small = SMALL["classify-image"]["patches"]
    reader: Any = small.reader
    monkeypatch.setitem(SMALL["classify-image"], "patches", replace(
        small, latent=LatentConfig(latents=2, width=8, layers=1, heads=2), reader=replace(reader, bands=2, project=8)))
    return folder


# run -> the command of today that continues it, without its length; steps that it has
COMMANDS: dict[str, tuple[list[str], int]] = {
    "agent": (["train", "agent.yaml", "backbone.segments=false",
               "data.sources=[{path: episodes/CartPole-v1}, {path: words.txt}]", "out=agent"], 4),
    "pretrained": (["pretrain", "pretrain.yaml", "data.paths=[pictures.npz]", "out=pretrained"], 4),
    "finetuned": (["finetune", "pretrained", "pictures.npz", "batch_size=4", "training.ema=0.9", "optimizer.warmup_steps=2",
                   "--out", "finetuned"], 4),
    "perceived": (["perceive", "classify-image", "train", "pictures.npz", "batch_size=4", "side=8", "size=patches", "--out",
                   "perceived"], 20),
}


def begun(run: str, old: Path) -> tuple[Path, list[str], int]:
    """A run with its command and steps: the old agent; of the other kinds, whose old runs draw in another order, a new one."""
    words, steps = COMMANDS[run]
    if run != "agent":
        words = [word if word not in (run, f"out={run}") else word.replace(run, "new") for word in words]
        assert main([*words, f"training.steps={steps}"]) == 0
        return old / "new", words, steps
    return old / run, words, steps


@pytest.mark.parametrize("run", ["pretrained", "finetuned", "perceived"])
def test_an_old_run_that_drew_otherwise_is_refused_by_name(run: str, old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, steps = COMMANDS[run]
    assert main([*words, f"training.steps={steps + 3}"]) == 2
    assert "samples came in another order (version 1, this Calico has 2)" in capsys.readouterr().err.splitlines()[-1]
    assert checkpoint.load(old / run).step == steps


@pytest.mark.parametrize("run", COMMANDS)
def test_a_run_is_continued_and_made_longer(run: str, old: Path) -> None:
    folder, words, steps = begun(run, old)
    assert checkpoint.load(folder).step == steps
    before = checkpoint.load(folder).tensors["optimizer"]
    assert main([*words, f"training.steps={steps + 3}"]) == 0
    saved = checkpoint.load(folder)
    assert saved.step == steps + 3
    assert saved.tensors["optimizer"].keys() == before.keys()
    counted = [name for name in before if name.endswith("/step")]
    assert counted and all(float(saved.tensors["optimizer"][name]) == float(before[name]) + 3 for name in counted)


@pytest.mark.parametrize("run, change, says", [
    ("agent", "training.seed=1", "training.seed is 1 but was 0"),
    ("agent", "training.accumulate=2", "training.accumulate is 2 but was 1"),
    ("pretrained", "optimizer.learning_rate=0.1", "optimizer.learning_rate is 0.1 but was 0.002"),
    ("finetuned", "training.seed=1", "training.seed is 1 but was 0"),
    ("finetuned", "from_scratch=true", "from_scratch is true but was false"),
    ("perceived", "training.seed=1", "training.seed is 1 but was 0"),
    ("perceived", "batch_size=5", "batch_size is 5 but was 4"),
    ("perceived", "mirror=false", "mirror is false but was true"),
    ("perceived", "optimizer.learning_rate=0.1", "optimizer.learning_rate is 0.1 but was 0.001"),
])
def test_a_run_is_not_continued_with_other_settings(run: str, change: str, says: str, old: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    _, words, steps = begun(run, old)
    assert main([*words, f"training.steps={steps}", change]) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_the_old_agent_acts_an_episode(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = Agent.load(old / "agent")
    assert list(agent.tasks) == ["CartPole-v1"]
    assert main(["rollout", "agent", "CartPole-v1", "--episodes", "1", "--json"]) == 0
    (played,) = json.loads(capsys.readouterr().out)
    assert played["task"] == "CartPole-v1" and played["episodes"] == 1


def test_the_old_episodes_open(old: Path) -> None:
    reader = open_data(old / "episodes" / "CartPole-v1")
    assert isinstance(reader, EpisodeReader) and len(reader) == 3 and reader.task["name"] == "CartPole-v1"
    assert reader[0].observations[""].shape == (len(reader[0].rewards) + 1, 4) and reader[0].rewards.sum() > 5


@pytest.mark.parametrize("load", [
    lambda old: load_encoder(old / "pretrained", "vision"), lambda old: load_encoder(old / "finetuned", "vision"),
    lambda old: load_trained(old / "perceived", ("classify-image",)).model], ids=["pretrained", "finetuned", "perceived"])
def test_old_networks_load(load: Callable[[Path], Any], old: Path) -> None:
    assert sum(parameter.numel() for parameter in load(old).parameters()) > 500


@pytest.mark.parametrize("words", [["finetune", "finetuned", "picture.png", "--predict"],
                                   ["perceive", "classify-image", "predict", "perceived", "picture.png"]])
def test_old_classifiers_answer(words: list[str], old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.full((8, 8, 3), 230, np.uint8)).save("picture.png")
    assert main([*words, "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["class"] in ("dark", "light") and 0.5 <= answer["probability"] <= 1
