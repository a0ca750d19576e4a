"""Work shared out among real processes: torchrun's ranks, and one that is killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from calico.datasets.episodes import EpisodeReader
from calico.scripts.main import main

COLLECTOR = ("import calico.scripts.common.collecting as c, calico.scripts.collect as verb, sys; "
             "c.PART_SECONDS = 0.3; sys.exit(verb.main(sys.argv[1:]))")


def environment() -> dict[str, Any]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_collection_that_was_killed_is_completed_without_a_lost_or_doubled_episode(tmp_path: Path) -> None:
    words = ["Acrobot-v1", "--episodes", "400", "--out", str(tmp_path), "--workers"]
    process = subprocess.Popen([sys.executable, "-c", COLLECTOR, *words, "1"], stderr=subprocess.DEVNULL, env=environment())
    folder = tmp_path / "Acrobot-v1"
    deadline = time.monotonic() + 60
    while not any(folder.glob("_part-*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = EpisodeReader(folder).seeds.tolist()
    assert 0 < len(kept) < 400
    assert main(["collect", *words, "0"]) == 0
    again = EpisodeReader(folder).seeds.tolist()
    assert again[: len(kept)] == kept and sorted(again) == list(range(400))


@pytest.mark.slow
def test_two_ranks_of_torchrun_share_the_episodes(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    collect = ["-m", "calico.scripts.collect", "CartPole-v1", "--episodes", "7", "--workers", "0",
               "--out", str(tmp_path / "data")]
    subprocess.run([*torchrun, *collect], check=True, env=environment(), timeout=120)
    reader = EpisodeReader(tmp_path / "data" / "CartPole-v1")
    assert sorted(reader.seeds.tolist()) == list(range(7)) and len(list(reader.path.glob("part-*.parquet"))) == 2
    score = ["calico.scripts.score", "Acrobot-v1", "--episodes", "6", "--workers", "0", "--json",
             "--out", str(tmp_path / "score")]
    subprocess.run([*torchrun, "-m", *score], check=True, env=environment(), timeout=120, stdout=subprocess.DEVNULL)
    files = sorted((tmp_path / "score").rglob("expert-*.json"))
    assert len(files) == 6
    files[3].unlink()                                              # a rank that was killed before its last episode
    last = subprocess.run([sys.executable, "-m", *score], check=True, env=environment(), timeout=120, capture_output=True)
    random, expert = json.loads(last.stdout)
    assert expert["episodes"] == 6 and expert["mean"] > random["mean"]
