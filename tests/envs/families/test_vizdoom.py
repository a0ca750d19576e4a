"""ViZDoom: buttons as the package counts them, ends kept apart, nothing left behind, and experts that aim, walk and dodge."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calico.envs.experts import make_expert
from calico.envs.families.vizdoom_experts import SLOW_TURN, turns
from calico.envs.registry import get_task, make, tasks
from calico.envs.runner import rollout

pytest.importorskip("vizdoom")


def test_the_tasks_are_registered_by_the_package() -> None:
    import gymnasium as gym
    import vizdoom.gymnasium_wrapper  # noqa: F401

    registered = {name: spec.kwargs.get("scenario_config_file") for name, spec in gym.registry.items()}
    for task in tasks("vizdoom"):
        assert registered[task.name] == f"{task.kwargs['scenario']}.cfg"


@pytest.mark.parametrize("name", ["VizdoomBasic-v1", "VizdoomBasic-MultiBinary-v1"])
def test_actions_press_the_buttons_that_they_press_in_the_package(name: str) -> None:
    import itertools

    env: Any = make(name)
    if env.action_space.shape:
        assert env.presses(np.array([1, 0, 1], np.int8)) == [1, 0, 1]
        assert env.action("ATTACK", "MOVE_LEFT").tolist() == [1, 0, 1]
    else:   # VizdoomEnv's list for one button at most
        combinations = [list(each) for each in itertools.product((0, 1), repeat=3) if sum(each) <= 1]
        assert [env.presses(action) for action in range(4)] == combinations
        assert env.presses(env.action("MOVE_RIGHT", "ATTACK")) == [0, 1, 0] and env.action() == 0
    env.close()


def test_an_episode_does_not_depend_on_those_before_it_nor_on_being_revealed() -> None:
    env: Any = make("VizdoomDefendCenter-v1")
    pictures: list[np.ndarray] = []
    for seed in (1, 2, 1, 1):
        env.reset(seed=seed)
        if len(pictures) == 3:
            env.reveal()
        pictures.append(np.stack([env.step(action)[0]["image"] for action in [1, 2, 3, 0, 2] * 4]))
    for again in pictures[2:]:
        np.testing.assert_array_equal(again, pictures[0])
    assert (pictures[1] != pictures[0]).any()
    env.close()


def test_time_is_up_or_the_player_is_dead() -> None:
    task = get_task("VizdoomBasic-v1")
    env: Any = make(task)
    env.reset(seed=0)
    waited = [env.step(0) for _ in range(task.episode_limit or 0)]
    assert [step[2:4] for step in waited] == [(False, False)] * 74 + [(False, True)]
    assert waited[0][0]["variables"].tolist() == [50]              # cartridges
    env.close()


def test_nothing_is_left_where_it_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                              capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    env = make("VizdoomMyWayHome-v1")
    env.reset(seed=0)
    env.close()
    assert os.listdir(tmp_path) == [] and Path.cwd() == tmp_path
    assert capfd.readouterr() == ("", "")


def test_a_few_steps_turn_by_any_angle_to_a_degree() -> None:
    angles, steps = turns(0, 4)
    one = [angle for (angle, count), buttons in zip(angles, steps, strict=True) if buttons == (("TURN_LEFT",),)]
    assert one == [4 * SLOW_TURN] == pytest.approx([7.03], abs=0.01)   # as measured in the engine
    for wanted in (0.0, 5.3, 10.0, -17.0, 40.0):
        assert np.abs(angles[:, 0] - wanted).min() < 1.3


@pytest.mark.parametrize(("scenario", "at_least"), [("Basic", 50), pytest.param("MyWayHome", 0.8, marks=pytest.mark.slow)])
def test_experts_reach_what_they_are_after(scenario: str, at_least: float) -> None:
    for name in (f"Vizdoom{scenario}-v1", f"Vizdoom{scenario}-MultiBinary-v1"):
        task = get_task(name)
        for episode in rollout(task, make_expert(task), [500], record=False):
            assert episode.score >= at_least and episode.terminated


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "at_least"), [
    ("DefendCenter", 15), ("DefendLine", 15), ("TakeCover", 1000), ("DeadlyCorridor", 2000), ("PredictPosition", 0.0),
    ("HealthGathering", 1800), ("HealthGatheringSupreme", 800),
])
def test_experts_are_far_above_random_play(scenario: str, at_least: float) -> None:
    task = get_task(f"Vizdoom{scenario}-v1")
    scores = [episode.score for episode in rollout(task, make_expert(task), range(500, 504), record=False)]
    assert np.mean(scores) >= at_least
