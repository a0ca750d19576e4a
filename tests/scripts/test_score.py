"""`calico score`: the same numbers each time, a file per episode, ranks that share the work."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from calico.envs import scores
from calico.envs.experts import expert_version
from calico.envs.registry import Task, get_task
from calico.scripts.common.sharding import Results, share
from calico.scripts.score import main

TASK = "BabyAI-GoToObj-v0"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    copy = tmp_path / "scores.json"
    shutil.copy(scores.TABLE, copy)
    monkeypatch.setattr(scores, "TABLE", copy)
    return copy


def test_the_table_gets_what_was_measured(table: Path, tmp_path: Path) -> None:
    entries = []
    for out in ("first", "second"):
        assert main([TASK, "--episodes", "20", "--workers", "0", "--out", str(tmp_path / out), "--write"]) == 0
        measured = json.loads(table.read_text())["measured"][TASK]
        assert measured["expert"]["mean"] > 0.8 > measured["random"]["mean"]
        assert measured["expert"]["name"] == "babyai-bot" and measured["expert"]["episodes"] == 20
        assert measured["expert"]["expert_version"] == expert_version(get_task(TASK))
        entries.append(measured)
    assert entries[0] == entries[1]


def test_what_was_played_is_not_played_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [TASK, "--policy", "expert", "--workers", "0", "--out", str(tmp_path), "--json"]
    assert main([*arguments, "--episodes", "3"]) == 0
    capsys.readouterr()
    monkeypatch.setattr("calico.envs.workers.play", lambda task, player, seeds, **_: pytest.fail(f"played {seeds}"))
    assert main([*arguments, "--episodes", "2"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["episodes"] == 2


def test_a_changed_expert_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [TASK, "--episodes", "2", "--workers", "0", "--out", str(tmp_path)]
    assert main(arguments) == 0
    played: list[Any] = []

    def play(task: Task, player: str, seeds: list[int], **_: Any) -> list[Any]:
        played.append((player, seeds))
        return []

    monkeypatch.setattr("calico.scripts.evaluation.references.expert_version", lambda task: "changed")
    monkeypatch.setattr("calico.envs.workers.play", play)
    assert main(arguments) == 0 and played == [("expert", [10_000, 10_001])]


def test_ranks_share_the_episodes_and_a_lost_ones_work_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [TASK, "--policy", "random", "--episodes", "5", "--workers", "0", "--json", "--out"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main([*arguments, str(tmp_path / "shared")]) == 0
    assert json.loads(capsys.readouterr().out) == []                                   # rank 0's episodes are not there
    assert len(list((tmp_path / "shared").rglob("random-*.json"))) == 2
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    assert main([*arguments, str(tmp_path / "shared")]) == 0                           # run again, without it
    assert main([*arguments, str(tmp_path / "alone")]) == 0
    first, second = (json.loads(part) for part in capsys.readouterr().out.replace("]\n[", "]\n\0[").split("\0"))
    assert first == second


def test_a_result_of_other_conditions_does_not_count(tmp_path: Path) -> None:
    Results(tmp_path, "ALE/Pong-v5", "random", {"frames": 2}).put(7, {"score": 1.0})
    assert Results(tmp_path, "ALE/Pong-v5", "random", {"frames": 2}).missing([7, 8]) == [8]
    assert Results(tmp_path, "ALE/Pong-v5", "random", {"frames": 4}).missing([7, 8]) == [7, 8]
    Results(tmp_path, "ALE/Pong-v5", "random", {"frames": 2}).path(7).write_text("{")   # cut off by a full disk
    assert Results(tmp_path, "ALE/Pong-v5", "random", {"frames": 2}).missing([7]) == [7]


def test_shares_cover_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    parts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(share(range(8)))
    assert sorted(sum(parts, [])) == list(range(8)) and max(map(len, parts)) - min(map(len, parts)) <= 1
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ValueError, match="RANK=3 and WORLD_SIZE=3"):
        share(range(8))


def test_wrong_input_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "name at least one task" in capsys.readouterr().err
    assert main([TASK, "--episodes", "0"]) == 2
    assert "--episodes 0 must be at least 1" in capsys.readouterr().err


def test_a_planner_and_a_part_of_a_game_can_be_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["ALE/Boxing-v5", "--policy", "iw:8", "--episodes", "2", "--workers", "0", "--out", str(tmp_path), "--json"]
    assert main([*arguments, "--max-steps", "3"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["policy"], row["name"], row["max_steps"], row["length"], row["episodes"]) == ("iw:8", "iw:8", 3, 3, 2)
    assert len(row["expert_version"]) == 12
    assert main([*arguments, "--max-steps", "2"]) == 0   # another condition, played again
    assert json.loads(capsys.readouterr().out)[0]["length"] == 2


@pytest.mark.parametrize(("more", "message"), [
    (["--write", "--max-steps", "3"], "--write takes whole episodes"),
    (["--write", "--policy", "iw:8"], "--write takes whole episodes"),
    (["--policy", "npz:a.npz"], "none of random, expert, iw:FRAMES"),
    (["--policy", "iw:many"], "'many' is not a number of frames"),
    (["--max-steps", "0"], "--max-steps 0 must be at least 1"),
])
def test_what_cannot_be_measured_is_refused(more: list[str], message: str, tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ALE/Boxing-v5", "--workers", "0", "--out", str(tmp_path), *more]) == 2
    assert message in capsys.readouterr().err
