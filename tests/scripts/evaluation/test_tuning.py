"""The temperature of each task's actions, measured: `calico card RUN --pack FOLDER --temperature 1 0 0.5`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from calico.agent.agent import Agent
from calico.agent.sampling import SamplingConfig
from calico.scripts.evaluation import tuning
from calico.scripts.evaluation.control import UNSEEN, play
from calico.scripts.evaluation.report import TaskScore
from calico.scripts.main import main

from ...conftest import SmallRun

TASKS = ("CartPole-v1", "MiniGrid-Empty-5x5-v0")


class Told:
    """Scores in per cent of the expert by temperature and task, in the place of play."""

    def __init__(self, percents: dict[float, dict[str, float]]) -> None:
        self.percents, self.asked = percents, list[tuple[float, tuple[str, ...], range]]()

    def __call__(self, run: str, tasks: Sequence[str], seeds: range, sampling: SamplingConfig, **_: Any) -> list[TaskScore]:
        self.asked.append((sampling.temperature, tuple(tasks), seeds))
        found = []
        for task in tasks:
            known = TaskScore.of(task, [])
            assert known.random is not None and known.expert is not None
            share = self.percents[sampling.temperature][task] / 100
            found.append(TaskScore.of(task, [known.random + share * (known.expert - known.random)]))
        return found


@pytest.mark.parametrize("percents, best", [
    ({1.0: (50, 50), 0.0: (70, 20), 0.5: (60, 60)}, (0.0, 0.5)),
    ({1.0: (50, 50), 0.0: (54, 20), 0.5: (54.5, 56)}, (1.0, 0.5)),        # four points in a few episodes are chance
    ({1.0: (50, 50), 0.0: (60, 50), 0.5: (62, 50)}, (0.5, 1.0)),
    ({1.0: (95, 50), 0.0: (None, 80), 0.5: (None, 20)}, (1.0, 0.0)),      # near the expert: no other one is tried
    ({1.0: (95, 99), 0.0: (None, None), 0.5: (None, None)}, (1.0, 1.0))])
def test_the_first_temperature_stays_unless_another_is_clearly_better(
        small_run: SmallRun, monkeypatch: pytest.MonkeyPatch, percents: dict[float, tuple[float, float]],
        best: tuple[float, float]) -> None:
    told = Told({heat: dict(zip(TASKS, numbers, strict=True)) for heat, numbers in percents.items()})
    monkeypatch.setattr(tuning, "play_side_by_side", told)
    monkeypatch.setattr(Agent, "load", lambda run: type("", (), {"tasks": TASKS}))
    found = tuning.best_temperatures(str(small_run.run), list(percents), episodes=3)
    assert tuple(found.get(task, 1.0) for task in TASKS) == best and 1.0 not in found.values()
    assert told.asked[0][:2] == (1.0, TASKS)
    assert all(not set(seeds) & set(range(UNSEEN, UNSEEN + 1000)) for _, _, seeds in told.asked)


def test_a_pack_plays_each_task_at_the_temperature_that_was_measured_for_it(small_run: SmallRun, tmp_path: Path) -> None:
    words = ["card", str(small_run.run), "--temperature", "1", "0", "--episodes", "2", "--max-steps", "20"]
    assert main([*words, "--pack", str(tmp_path / "tuned")]) == 0
    kept = sorted((small_run.run / "evaluation" / "temperatures").rglob("*.json"))
    written = [path.stat().st_mtime_ns for path in kept]
    assert main([*words, "--pack", str(tmp_path / "again")]) == 0
    assert kept and [path.stat().st_mtime_ns for path in kept] == written          # what was played is not played again
    assert (tmp_path / "tuned" / "acting.json").read_bytes() == (tmp_path / "again" / "acting.json").read_bytes()
    run, agent = Agent.load(small_run.run), Agent.load(tmp_path / "tuned")
    seeds = range(tuning.TUNING, tuning.TUNING + 2)
    for task in agent.tasks:
        drawn, greedy = (play(run, task, seeds, run.sampling(task, heat), max_steps=20, progress=False).normalised or 0.0
                         for heat in (1.0, 0.0))
        expected = 0.0 if drawn < tuning.GOOD_ENOUGH and greedy > drawn + tuning.BETTER else 1.0
        assert agent.temperature(task) == agent.policy(task).sampling.temperature == expected
        assert agent.sampling(task, 0.3, seed=4) == SamplingConfig(temperature=0.3, seed=4)


@pytest.mark.parametrize("words, message", [
    (["--temperature", "1", "0"], "--temperature 1 goes with --pack"),
    (["--temperature", "1", "-2", "--pack", "out"], "--temperature 1 -2: each must be at least 0"),
    (["--temperature", "nan", "--pack", "out"], "each must be at least 0"),
    (["--temperature", "1", "0", "--episodes", "0", "--pack", "out"], "--episodes 0 must be at least 1")])
def test_temperatures_that_cannot_be(small_run: SmallRun, refused: Callable[..., str], words: list[str], message: str) -> None:
    assert message in refused("card", small_run.run, *words)
