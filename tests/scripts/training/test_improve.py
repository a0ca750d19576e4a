"""`calico improve`: the network plays, the expert labels, training goes on; scores of every round; exact after a stop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calico.agent import checkpoint
from calico.agent.agent import Agent
from calico.datasets.episodes import EpisodeReader
from calico.envs import workers
from calico.envs.experts import make_expert
from calico.envs.registry import make
from calico.scripts.evaluation import control
from calico.scripts.main import main

from ...conftest import SmallRun

Refused = Callable[..., str]
Answered = Callable[..., Any]
SMALL = ("--rounds", 2, "--episodes", 3, "--judged", 2, "training.steps=3", "data.batch_size=2")


@pytest.fixture(scope="module")
def improved(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("improved") / "out"
    assert main([str(word) for word in ("improve", small_run.run, "CartPole-v1", "Acrobot-v1", *SMALL, "--out", out)]) == 0
    return out


def test_each_round_adds_corrections_and_trains_on(improved: Path) -> None:
    """Acrobot is new to the run: in the first round there is nothing to correct yet."""
    assert sorted(path.relative_to(improved / "data").as_posix() for path in (improved / "data").glob("*/*")) == [
        "expert/Acrobot-v1", "expert/CartPole-v1", "round-1/CartPole-v1", "round-2/Acrobot-v1", "round-2/CartPole-v1"]
    first, second = (EpisodeReader(improved / "data" / f"round-{number}" / "CartPole-v1") for number in (1, 2))
    assert sorted(first.seeds) == [3, 4, 5] and sorted(second.seeds) == [6, 7, 8]
    assert (first.task["label"], first.task["mix"], second.task["mix"]) == ("expert", 0.5, 0.25)
    sources = [[Path(s["path"]).parent.name for s in checkpoint.load(improved / run).documents["config"]["data"]["sources"]]
               for run in ("round-1", "round-2")]
    assert sources == [["expert", "expert", "round-1"], ["expert", "expert", "round-1", "round-2", "round-2"]]
    assert set(Agent.load(improved / "round-1").tasks) == {"CartPole-v1", "Acrobot-v1"}


def test_labels_are_what_the_expert_would_have_done_there(improved: Path) -> None:
    expert, env = make_expert("CartPole-v1"), make("CartPole-v1")
    for episode in EpisodeReader(improved / "data" / "round-2" / "CartPole-v1"):
        env.reset(seed=episode.seed)
        expert.reset(0, episode.seed, env)
        said = [expert.act([seen], [0])[0] for seen in episode.observations[""][:-1]]
        assert episode.labels is not None and np.array_equal(said, episode.labels[""])
        done, label = episode.actions[""], episode.labels[""]
        assert np.array_equal(done[episode.demonstrated], label[episode.demonstrated])
        assert len(done) and not episode.demonstrated.all()


def test_the_scores_of_every_round_are_shown_and_nothing_is_done_twice(improved: Path, small_run: SmallRun,
                                                                       answered: Answered,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in improved.rglob("*.safetensors")}
    for module in (workers, control):
        monkeypatch.setattr(module, "rollout", lambda task, player, seeds, **more: pytest.fail("again") if seeds else iter(()))
    found = answered("improve", small_run.run, "CartPole-v1", "Acrobot-v1", *SMALL, "--out", improved)
    assert [(one["round"], one["task"]) for one in found] == [
        (0, "CartPole-v1"), (1, "CartPole-v1"), (1, "Acrobot-v1"), (2, "CartPole-v1"), (2, "Acrobot-v1")]
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


@pytest.mark.parametrize(("words", "said"), [
    (["CartPole-v1", "--mix", "2"], "--mix 2 must be from 0 to 1"), (["CartPole-v1", "--rounds", "0"], "--rounds 0 must be"),
    (["Ant-v5"], "Ant-v5 has no scripted expert"), ([], "no task is named")])
def test_wrong_words_are_one_line(words: list[str], said: str, small_run: SmallRun, tmp_path: Path, refused: Refused) -> None:
    assert said in refused("improve", small_run.run, *words, "--out", tmp_path)
