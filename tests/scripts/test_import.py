"""`calico import` and `calico export`: there and back through the commands, and one line for what is wrong."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from calico.datasets.episodes import EpisodeReader
from calico.scripts.main import main

from ..conftest import SmallRun
from ..datasets.test_episodes import assert_equal

Refused = Callable[..., str]


@pytest.mark.parametrize("task", ["CartPole-v1", "BabyAI-GoToLocal-v0"])
def test_collected_episodes_come_back_from_minari(small_run: SmallRun, tmp_path: Path, task: str,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("minari")
    assert main(["export", "minari", str(small_run.data / task), "--out", str(tmp_path / "sets")]) == 0
    assert f"wrote {tmp_path}/sets/{task}/expert-v0 (2 files" in capsys.readouterr().err
    assert main(["import", "minari", f"{tmp_path}/sets/{task}/expert-v0", "--task", task, "--out", str(tmp_path)]) == 0
    assert f"wrote {tmp_path / task} (2 files" in capsys.readouterr().err
    before, after = EpisodeReader(small_run.data / task), EpisodeReader(tmp_path / task)
    assert len(before) == len(after) == 4
    for one, other in zip(before, after, strict=True):
        assert_equal(one, other)
    for key in ("name", "observation_space", "action_space"):
        assert before.task[key] == after.task[key]


def write_d4rl(path: Path, width: int = 4) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = np.zeros((6, width)), np.array([0, 1, 0, 1, 1, 0])
        file["rewards"], file["terminals"], file["timeouts"] = np.ones(6), np.arange(6) == 3, np.zeros(6, bool)
    return path


def test_the_spaces_are_those_of_the_task_that_can_be_played(small_run: SmallRun, tmp_path: Path, refused: Refused) -> None:
    path = write_d4rl(tmp_path / "poles.hdf5")
    assert main(["import", "d4rl", str(path), "--task", "CartPole-v1", "--out", str(tmp_path)]) == 0
    assert main(["import", "d4rl", str(path), "--out", str(tmp_path)]) == 0
    known, guessed = EpisodeReader(tmp_path / "CartPole-v1"), EpisodeReader(tmp_path / "poles")
    assert known.lengths.tolist() == guessed.lengths.tolist() == [4, 2]
    played = EpisodeReader(small_run.data / "CartPole-v1").task
    assert known.task["observation_space"] == played["observation_space"] != guessed.task["observation_space"]
    said = refused("import", "d4rl", write_d4rl(tmp_path / "wide.hdf5", 5), "--task", "CartPole-v1", "--out", tmp_path / "more")
    assert "wide.hdf5, rows [0, 4), observation has the shape (5,) per step, expected (4,)" in said
    assert not list((tmp_path / "more").rglob("*.parquet"))


def test_nothing_is_imported_twice(tmp_path: Path, refused: Refused) -> None:
    words = ("import", "d4rl", write_d4rl(tmp_path / "poles.hdf5"), "--out", tmp_path)
    assert main([str(word) for word in words]) == 0
    assert f"{tmp_path / 'poles'} holds episodes already" in refused(*words)
    assert len(EpisodeReader(tmp_path / "poles")) == 2


def test_wrong_words_are_one_line(tmp_path: Path, refused: Refused) -> None:
    assert "argument format: invalid choice: 'd4lr'" in refused("import", "d4lr", tmp_path, "--out", tmp_path)
    assert "nothing does not exist" in refused("import", "jat", tmp_path / "nothing", "--out", tmp_path)
    assert "argument format: invalid choice" in refused("export", "d4rl", tmp_path, "--out", tmp_path)
    assert f"{tmp_path} holds no episodes" in refused("export", "minari", tmp_path, "--out", tmp_path)


def test_a_missing_package_names_the_command(small_run: SmallRun, tmp_path: Path, refused: Refused,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)   # makes `import minari` fail
    for words in (("import", "minari", tmp_path), ("export", "minari", small_run.data / "CartPole-v1")):
        assert 'run: pip install "calico-agent[data]"' in refused(*words, "--out", tmp_path)


def test_lerobot_s_clock_is_the_environment_s(small_run: SmallRun, tmp_path: Path, refused: Refused) -> None:
    for words, fps in (((), 50), (("--fps", "7"), 7)):
        out = tmp_path / str(fps)
        assert main(["export", "lerobot", str(small_run.data / "CartPole-v1"), "--out", str(out), *words]) == 0
        assert json.loads((out / "CartPole-v1" / "meta" / "info.json").read_text())["fps"] == fps
    assert "--fps 7 is for lerobot" in refused("export", "minari", tmp_path, "--out", tmp_path, "--fps", 7)
