"""Normalised scores by hand, the shipped table, and writers that do not undo each other's work."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from calico.envs import scores
from calico.envs.registry import get_task
from calico.envs.scores import Reference, normalise, reference, share_at


def test_normalised_scores_by_hand() -> None:
    assert normalise(20, random=20, expert=500) == 0
    assert normalise(500, random=20, expert=500) == 100
    assert normalise(-150, random=-1200, expert=-150) == 100
    assert normalise(260, 20, 500) == 50
    assert normalise(740, 20, 500) == 150                # better than the expert


def test_an_expert_that_does_not_beat_random_play_scores_nothing() -> None:
    assert normalise(5, random=5, expert=5) is None
    assert normalise(9, random=5, expert=4) is None
    assert normalise(9, random=5, expert=float("nan")) is None
    assert normalise(9, random=None, expert=4) is None


def test_share_at_counts_scored_tasks_only() -> None:
    assert share_at([100, 49.9, 50, None], 50) == 2 / 3
    assert share_at([None], 50) is None


def test_the_expert_comes_before_the_human() -> None:
    assert Reference(task="x", random=0, expert=10, human=5).normalise(5) == 50
    assert Reference(task="x", random=0, human=5).normalise(5) == 100
    assert reference("ALE/Pong-v5").human == 14.6
    assert reference("no such task").normalise(1) is None


def test_the_shipped_table_is_complete() -> None:
    measured = scores.table()["measured"]
    for name in ("CartPole-v1", "LunarLander-v3", "BabyAI-GoToLocal-v0", "ALE/Freeway-v5", "ALE/Breakout-v5"):
        assert {"random", "expert"} <= set(measured[name])
    for name, entry in measured.items():
        assert get_task(name)
        for values in entry.values():
            assert values["episodes"] >= 20 and values["versions"] and "view" in values
        if "expert" in entry:   # some planners take minutes an episode, and are measured after the random policy
            assert reference(name).normalise(entry["expert"]["mean"]) == pytest.approx(100)


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    table = tmp_path / "scores.json"
    shutil.copy(scores.TABLE, table)
    before = json.loads(table.read_text())["measured"]
    code = """
import sys
from pathlib import Path
from calico.envs import scores
scores.TABLE = Path(sys.argv[1])
for number in range(25):
    scores.write(f"Task-{number}", sys.argv[2], {"mean": float(number)})
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, str(table), who]) for who in ("random", "expert")]
    assert [writer.wait() for writer in writers] == [0, 0]
    after = json.loads(table.read_text())["measured"]
    new = {f"Task-{number}": {who: {"mean": float(number)} for who in ("random", "expert")} for number in range(25)}
    assert after == before | new and [path.name for path in tmp_path.iterdir()] == ["scores.json"]
