"""The Python of README.md and docs/python.md runs as it stands, on a small run."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import calico

from ...conftest import SmallRun

ROOT = Path(__file__).parents[3]
BLOCKS = [pytest.param(block, id=f"{page.name}-{number}") for page in (ROOT / "README.md", ROOT / "docs" / "python.md")
          for number, block in enumerate(re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S))]


@pytest.fixture(scope="module")
def desk(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages name."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "runs").mkdir()
    os.symlink(small_run.run, folder / "runs" / "demo")
    os.symlink(small_run.run, folder / "calico-small")
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(folder / "room.png")
    return folder


@pytest.mark.parametrize("block", BLOCKS)
def test_the_code_of_the_pages_runs(block: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "stable_baselines3" in block:
        pytest.importorskip("stable_baselines3")
    monkeypatch.chdir(desk)
    agent = calico.load("runs/demo")
    policy, env = agent.policy("CartPole-v1"), agent.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    envs = agent.make_vec("CartPole-v1", 2)
    names: dict[str, Any] = {"calico": calico, "agent": agent, "policy": policy, "observation": observation, "np": np,
                             "state": None, "observations": envs.reset(seed=0)[0], "started": [True, True]}
    shorter = block.replace("range(1000)", "range(5)").replace("n_eval_episodes=20", "n_eval_episodes=1")
    exec(compile(shorter, "page", "exec"), names)
    assert {"action", "actions", "evaluate_policy", "agent"} & names.keys()


def test_there_is_code_on_the_pages() -> None:
    assert len(BLOCKS) >= 5
