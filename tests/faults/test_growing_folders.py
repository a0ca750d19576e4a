"""Folders that grow: one process at a time, nothing lost or doubled when it dies, and the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calico.datasets.document_writers import CaptionWriter
from calico.datasets.documents import CaptionReader, DialogueReader
from calico.datasets.episodes import EpisodeReader, EpisodeWriter
from calico.datasets.formats import d4rl
from calico.datasets.publish import plain_name
from calico.envs.scenes import scenes
from calico.scripts.common import collecting
from calico.scripts.main import main
from calico.tokenizers.episode import Episode

Refused = Callable[..., str]
CALICO = [sys.executable, "-m", "calico.scripts.main"]


def calico(*words: object, **more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([*CALICO, *map(str, words)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            env={**os.environ, **more})


def wait_for(found: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_two_collections_in_one_folder_do_every_episode_once(tmp_path: Path) -> None:
    words = ("collect", "CartPole-v1", "--episodes", 60, "--workers", 0, "--out", tmp_path)
    both = [calico(*words) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 0], [0, 2]), said      # the second one may have begun after the first one's end
    if codes == [0, 2]:
        assert any("CartPole-v1 is in use by process" in text for text in said), said
    assert sorted(EpisodeReader(tmp_path / "CartPole-v1").seeds.tolist()) == list(range(60))
    assert not list((tmp_path / "CartPole-v1").glob(".*"))


def test_a_folder_in_use_is_refused_and_torchruns_ranks_share_it(tmp_path: Path, refused: Refused,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("collect", "CartPole-v1", "--episodes", 4, "--workers", 0, "--out", tmp_path)
    script = ("import sys; from calico.agent.run_lock import *; lock = run_lock(sys.argv[1], '.lock', Share(0, 2, '0:4'))\n"
              "with lock: print('held', flush=True); sys.stdin.read()")
    other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "CartPole-v1")], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    assert other.stdout and other.stdout.readline() == "held\n"
    try:
        assert f"CartPole-v1 is in use by process {other.pid}" in refused(*words)
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert "is in use by process" in refused(*words, "--seed", 1)            # other episodes: two jobs
        assert main([str(word) for word in words]) == 0
        assert sorted(EpisodeReader(tmp_path / "CartPole-v1").seeds.tolist()) == [1, 3]
    finally:
        other.communicate("")


def test_sigterm_keeps_what_is_finished(tmp_path: Path) -> None:
    process = calico("collect", "CartPole-v1", "--episodes", 100_000, "--workers", 0, "--out", tmp_path)
    wait_for(lambda: list(tmp_path.glob("CartPole-v1/.part*")))
    time.sleep(1)
    process.terminate()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and "collect: stopped" in said, said
    seeds = EpisodeReader(tmp_path / "CartPole-v1").seeds.tolist()
    assert seeds == list(range(len(seeds))) and seeds
    assert not list((tmp_path / "CartPole-v1").glob(".*"))


@pytest.mark.parametrize("moment", range(3))
def test_a_killed_collection_is_completed_with_every_episode_once(tmp_path: Path, moment: int) -> None:
    words = ("collect", "CartPole-v1", "--episodes", 40, "--workers", 0, "--out", tmp_path)
    process = calico(*words)
    wait_for(lambda: list(tmp_path.glob("CartPole-v1/.part*")) or process.poll() is not None)
    time.sleep(0.1 * moment)
    process.kill()
    process.communicate()
    assert main([str(word) for word in words]) == 0
    assert sorted(EpisodeReader(tmp_path / "CartPole-v1").seeds.tolist()) == list(range(40))
    assert not list((tmp_path / "CartPole-v1").glob(".*"))       # nothing of the dead one is left


def test_episodes_that_are_there_twice_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["collect", "CartPole-v1", "--episodes", "2", "--workers", "0", "--out", str(tmp_path)]
    assert main(words) == 0
    folder = tmp_path / "CartPole-v1"
    reader = EpisodeReader(folder)
    with EpisodeWriter(folder, reader.task) as writer:
        writer.append(reader[0])
    assert main(words) == 0
    assert f"{folder} holds 1 episodes twice" in capsys.readouterr().err


def poles(path: Path, rows: int = 60) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = np.arange(4.0 * rows).reshape(rows, 4), np.arange(rows) % 2
        file["rewards"] = np.ones(rows)
        file["terminals"], file["timeouts"] = np.arange(rows) % 6 == 5, np.zeros(rows, bool)
    return path


def test_a_stopped_import_is_no_data_set_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    words = ["import", "d4rl", str(poles(tmp_path / "poles.hdf5")), "--out", str(tmp_path)]
    append = EpisodeWriter.append

    def append_three(writer: EpisodeWriter, episode: Episode) -> None:
        if episode.seed == 3:
            raise KeyboardInterrupt
        append(writer, episode)

    monkeypatch.setattr(EpisodeWriter, "append", append_three)
    assert main(words) == 130
    monkeypatch.undo()
    assert not (tmp_path / "poles").exists()
    assert main(words) == 0
    assert "going on with" in (said := capsys.readouterr().err) and "3 of 10 episodes are there" in said
    assert EpisodeReader(tmp_path / "poles").seeds.tolist() == list(range(10))
    assert {path.name for path in tmp_path.iterdir()} == {"poles", "poles.hdf5"}


def test_an_import_of_other_data_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    words = ["import", "d4rl", str(poles(tmp_path / "poles.hdf5")), "--out", str(tmp_path)]
    write = EpisodeWriter.append

    def one(writer: EpisodeWriter, episode: Episode) -> None:
        if episode.seed:
            raise KeyboardInterrupt
        write(writer, episode)

    monkeypatch.setattr(EpisodeWriter, "append", one)
    assert main(words) == 130
    monkeypatch.undo()
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "poles.hdf5", "r+") as file:
        file["rewards"][0] = 7
    assert ".poles.unfinished was begun from other data: episode 0 is another one; remove it" in refused(*words)


def test_a_killed_import_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["import", "d4rl", str(poles(tmp_path / "poles.hdf5", 60)), "--out", str(tmp_path)]
    code = ("import os, signal, sys; import calico.scripts.common.importing as i; i.PART_SECONDS = 0.0\n"
            "from calico.datasets.episodes import EpisodeWriter as W; append = W.append\n"
            "def killed(self, episode):\n"
            "    if episode.seed == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    append(self, episode)\n"
            "W.append = killed; from calico.scripts.main import main; main(sys.argv[1:])")
    assert subprocess.run([sys.executable, "-c", code, *words], capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / "poles").exists()
    assert main(words) == 0
    assert EpisodeReader(tmp_path / "poles").seeds.tolist() == list(range(10))


def drawn(folder: Path) -> list[Any]:
    """All that is in the two data sets of a world."""
    captions = [(each.name, each.image.tobytes(), each.captions, each.extra)
                for each in CaptionReader(folder / "minigrid-captions", max_side=None)]
    return captions + [(each.messages, {name: image.tobytes() for name, image in each.images.items()})
                       for each in DialogueReader(folder / "minigrid-dialogues", max_side=None)]


def test_pictures_of_worlds_go_on_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def words(name: str, episodes: int) -> list[str]:
        return ["collect", "--scenes", "minigrid", "--episodes", str(episodes), "--out", str(tmp_path / name)]

    assert main(words("whole", 30)) == 0
    asked: list[int] = []

    def counted(world: str, seeds: list[int]) -> Any:
        for scene in scenes(world, seeds):
            asked.append(scene.seed)
            yield scene

    monkeypatch.setattr(collecting, "scenes", counted)
    append = CaptionWriter.append

    def stopped(writer: CaptionWriter, *arguments: Any, **named: Any) -> None:
        if named["name"] == "0000012.png" and "unfinished" not in str(writer.path):
            raise KeyboardInterrupt
        append(writer, *arguments, **named)

    monkeypatch.setattr(CaptionWriter, "append", stopped)
    assert main(words("parts", 30)) == 130
    assert asked == list(range(13)) and not (tmp_path / "parts" / "minigrid-captions" / "captions.jsonl").exists()
    monkeypatch.setattr(CaptionWriter, "append", append)
    assert main(words("parts", 20)) == 0
    assert asked == list(range(20))                  # none was drawn twice
    assert main(words("parts", 30)) == 0
    assert asked == list(range(30))
    assert drawn(tmp_path / "parts") == drawn(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["minigrid-captions", "minigrid-dialogues"]


@pytest.mark.parametrize("name", ["..", ".", "../x", "", ".hidden", "a\\b", "a\nb", "x" * 300])
def test_a_foreign_name_leads_to_no_other_folder(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a folder"):
        plain_name(name)
    assert plain_name("ALE/Pong-v5") == "ALE-Pong-v5"


def test_an_import_writes_nothing_outside_of_its_folder(tmp_path: Path, refused: Refused) -> None:
    said = refused("import", "d4rl", poles(tmp_path / "poles.hdf5"), "--task", "..", "--out", tmp_path / "in" / "side")
    assert "'..' cannot be the name of a folder" in said
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["poles.hdf5"]
    assert d4rl.read_d4rl(tmp_path / "poles.hdf5").total == 10


def test_the_lock_of_a_data_set_is_one_line_per_process(tmp_path: Path) -> None:
    from calico.agent.run_lock import Share, run_lock

    with run_lock(tmp_path, ".lock", Share(0, 2, "x")), run_lock(tmp_path, ".lock", Share(1, 2, "x")):
        lines = (tmp_path / ".lock").read_text().splitlines()
        assert [json.loads(line)["share"] for line in lines] == [[0, 2, "x"], [1, 2, "x"]]
        with pytest.raises(ValueError, match=f"in use by process {os.getpid()}"), run_lock(tmp_path, ".lock", Share(1, 2, "x")):
            pass
        with pytest.raises(ValueError, match="in use by process"), run_lock(tmp_path, ".lock"):
            pass
    assert not (tmp_path / ".lock").exists()
