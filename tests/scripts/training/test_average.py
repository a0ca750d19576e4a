"""calico average: the mean of runs of one origin is a run of its own; what has no common origin is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from calico.agent import checkpoint
from calico.agent.agent import Agent
from calico.scripts.main import main

from ...conftest import SmallRun

Refused = Callable[..., str]


@pytest.fixture
def trained_on(small_run: SmallRun, tmp_path: Path) -> Path:
    """Another run, which started from the session's."""
    out = tmp_path / "further"
    assert main(["train", str(small_run.config), f"data.sources=[{{path: {small_run.data / 'CartPole-v1'}}}]",
                 f"init={small_run.run}", "training.steps=2", "training.seed=5", f"out={out}"]) == 0
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(run, only=("model",)).tensors["model"])


def tokens(run: Path) -> float:
    return checkpoint.spent(checkpoint.load(run, only=()))["tokens"]


def test_the_mean_is_a_run_that_plays_and_trains_on(small_run: SmallRun, trained_on: Path, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mean"
    assert main(["average", str(small_run.run), str(trained_on), "--shares", "3", "1", "--out", str(out)]) == 0
    one, two, mean = weights(small_run.run), weights(trained_on), weights(out)
    assert mean.keys() == one.keys() and any(not one[name].equal(two[name]) for name in one)
    for name in mean:
        torch.testing.assert_close(mean[name], one[name] * 0.75 + two[name] * 0.25)
    assert Agent.load(out).tasks == Agent.load(small_run.run).tasks       # of both: the second knows CartPole alone
    assert tokens(out) == tokens(trained_on) > tokens(small_run.run)     # one went into the other: counted once
    assert json.loads((out / "config.json").read_text())["out"] == str(small_run.run)
    assert main(["rollout", str(out), "CartPole-v1", "--episodes", "1"]) == 0
    further = tmp_path / "on"
    assert main(["train", str(small_run.config), f"data.sources=[{{path: {small_run.data / 'CartPole-v1'}}}]", f"init={out}",
                 "training.steps=1", f"out={further}"]) == 0
    capsys.readouterr()
    assert main(["average", str(small_run.run), str(small_run.run), "--out", str(tmp_path / "same")]) == 0
    assert tokens(tmp_path / "same") == tokens(small_run.run)
    beside = tmp_path / "beside"         # another run from the session's: what both spent themselves is added
    shutil.copytree(trained_on, beside)
    assert main(["average", str(trained_on), str(beside), "--out", str(tmp_path / "both")]) == 0
    assert tokens(tmp_path / "both") == 2 * tokens(trained_on) - tokens(small_run.run)
    carded = checkpoint.find(beside)     # a network that was given away has its card with it, which is not the mean's
    checkpoint.add(carded, {"card.json": b'{"name": "other"}', "README.md": b"other"})
    assert main(["average", str(beside), str(trained_on), "--out", str(tmp_path / "of_carded")]) == 0
    assert {"card.json", "README.md"}.isdisjoint(path.name for path in checkpoint.find(tmp_path / "of_carded").iterdir())
    for name, tensor in weights(tmp_path / "same").items():
        torch.testing.assert_close(tensor, one[name])


@pytest.mark.parametrize("words, says", [
    ((), "the mean of {run} alone is {run}; name at least two runs"),
    (("{run}", "--shares", "1"), "--shares has 1 numbers for 2 runs; give one for each"),
    (("{run}", "--shares", "1", "-1"), "--shares 1 -1: give numbers of at least 0, not all of them 0"),
    (("{run}", "--shares", "0", "0"), "--shares 0 0: give numbers of at least 0"),
    (("{run}", "--shares", "1", "nan"), "--shares 1 nan: give numbers of at least 0"),
    (("nowhere",), "nowhere"),
    (("calico-small",), "differ in model: "),
])
def test_what_has_no_mean(small_run: SmallRun, tmp_path: Path, refused: Refused, words: tuple[str, ...], says: str) -> None:
    out = tmp_path / "mean"
    named = [word.format(run=small_run.run) for word in words]
    assert says.format(run=small_run.run) in refused("average", small_run.run, *named, "--out", out)
    assert not out.exists()


def test_networks_that_read_or_see_otherwise(small_run: SmallRun, tmp_path: Path, refused: Refused) -> None:
    other, out = tmp_path / "other", tmp_path / "mean"
    shutil.copytree(small_run.run, other)
    folder = checkpoint.find(other)
    tasks = json.loads((folder / "tasks.json").read_text())
    tasks["CartPole-v1"]["codec"]["changed"] = 1
    checkpoint.add(folder, {"tasks.json": json.dumps(tasks).encode()})
    assert "sees CartPole-v1 otherwise" in refused("average", small_run.run, other, "--out", out)
    checkpoint.add(folder, {"tokenizer.model": b"other pieces"})
    assert "have other text pieces" in refused("average", small_run.run, other, "--out", out)


def test_nothing_is_written_over(small_run: SmallRun, refused: Refused) -> None:
    assert "exists; give a folder that does not exist yet" in refused("average", small_run.run, small_run.run, "--out",
                                                                      small_run.run)
