"""The robots: the package's newest ids, numbers that are not said twice, rendering that changes nothing, experts."""

from pathlib import Path
from tempfile import gettempdir
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from calico.envs.experts import RandomPolicy, make_expert
from calico.envs.families.robotics_experts import _launch, _travel, _way
from calico.envs.registry import make, tasks
from calico.envs.runner import rollout

gymnasium_robotics = pytest.importorskip("gymnasium_robotics")

GOAL_VIEWS = ["FetchPush-v4", "HandReach-v3", "HandManipulateEgg-v1", "PointMaze_UMaze-v3"]


def test_tasks_are_the_newest_of_the_packages_ids() -> None:
    gym.register_envs(gymnasium_robotics)
    newest: dict[str, int] = {}
    limits = {}
    for name, spec in gym.registry.items():
        if str(spec.entry_point).startswith("gymnasium_robotics") and ".mujoco." not in str(spec.entry_point):
            newest[spec.name] = max(spec.version or 0, newest.get(spec.name, 0))
            limits[name] = spec.max_episode_steps
    kept = {f"{name}-v{version}" for name, version in newest.items()
            if "TouchSensors" not in name and not name.removesuffix("Dense").endswith("Full")}
    listed = {task.name: task.episode_limit for task in tasks("robotics")}
    assert set(listed) == kept
    assert listed == {name: limits[name] for name in listed}


@pytest.mark.parametrize("name", GOAL_VIEWS)
def test_the_achieved_goal_that_is_left_out_is_a_part_of_the_observation(name: str) -> None:
    ours: Any = make(name)
    env = ours.env   # the package's
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(5):
        observation, *_ = env.step(env.action_space.sample())
    values, achieved = observation["observation"], observation["achieved_goal"]
    n = len(achieved)
    assert any((values[i:i + n] == achieved).all() for i in range(len(values) - n + 1))


def test_the_goal_that_the_kitchen_leaves_out_is_always_the_same() -> None:
    env = gym.make("FrankaKitchen-v1", disable_env_checker=True)
    first, second = (env.reset(seed=seed)[0]["desired_goal"] for seed in (0, 1))
    assert first.keys() == second.keys() and all((first[key] == second[key]).all() for key in first)
    assert make("FrankaKitchen-v1").observation_space.shape == (59,)


@pytest.mark.parametrize("name", ["FetchPickAndPlace-v4", "HandManipulateEgg-v1"])
def test_rendering_does_not_change_the_episode(name: str) -> None:
    def play(render: bool) -> list[float]:
        env = make(name, render=render)
        env.action_space.seed(1)
        env.reset(seed=1)
        values: list[float] = []
        for _ in range(15):
            if render:
                env.render()
            values += env.step(env.action_space.sample())[0]["observation"].tolist()
        env.close()
        return values

    assert play(render=True) == play(render=False)


def test_the_goal_is_shown_where_it_is() -> None:
    env = make("FetchReach-v4", render=True)
    env.reset(seed=0)
    before: Any = env.render()
    world: Any = env.unwrapped
    world.goal = world.goal + (0.0, 0.2, 0.0)
    assert (env.render() != before).any()
    env.close()


def test_a_maze_leaves_no_file_behind() -> None:
    def found() -> set[Path]:
        return set(Path(gettempdir()).glob("ant_maze*.xml"))

    before = found()
    make("PointMaze_UMaze-v3").close()
    assert found() <= before


def test_importing_the_package_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", "from calico.envs.registry import make; make('FetchReach-v4')"], check=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "at_least", "random_below"), [
    ("FetchReach-v4", -5, -40), ("FetchReachDense-v4", -1.5, -5), ("FetchPush-v4", -35, -40),
    ("FetchPickAndPlace-v4", -30, -40), ("HandReachDense-v3", -1.3, -2.5),
    ("PointMaze_UMaze-v3", 100, 60), ("PointMaze_Large_Diverse_GRDense-v3", 250, 100),
])
def test_the_expert_succeeds_and_random_play_does_not(name: str, at_least: float, random_below: float) -> None:
    seeds = range(500, 503)
    episodes = list(rollout(name, make_expert(name), seeds, record=False))
    assert np.mean([episode.score for episode in episodes]) >= at_least
    if not name.startswith("Hand"):   # whose expert ends within the centimetre in every second episode
        assert all(episode.info.get("is_success", episode.info.get("success")) for episode in episodes)
    assert np.mean([episode.score for episode in rollout(name, RandomPolicy(), seeds, record=False)]) <= random_below


def test_the_puck_expert_foresees_how_far_it_slides() -> None:
    env = make("FetchSlide-v4")
    env.reset(seed=0)
    world: Any = env.unwrapped
    speed = world.data.joint("object0:joint").qvel
    speed[:2] = _launch(np.array([0.3, -0.2]))
    before = world.data.site("object0").xpos[:2].copy()
    for _ in range(40):
        env.step(np.zeros(4, np.float32))
    np.testing.assert_allclose(world.data.site("object0").xpos[:2] - before, [0.3, -0.2], atol=0.02)
    np.testing.assert_allclose(_travel(_launch(np.array([-0.1, 0.5]))), [-0.1, 0.5])


@pytest.mark.slow   # each stroke is searched for in the simulation
def test_the_puck_expert_reaches_most_goals() -> None:
    episodes = list(rollout("FetchSlide-v4", make_expert("FetchSlide-v4"), range(500, 510), record=False))
    assert sum(bool(episode.info["is_success"]) for episode in episodes) >= 5


def test_the_way_through_a_maze_is_the_shortest() -> None:
    walls: list[list[Any]] = [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, "g", 1], [1, "r", 0, 0, 1], [1, 1, 1, 1, 1]]
    assert _way(walls, (3, 1), (1, 1)) == [(3, 1), (3, 2), (3, 3), (2, 3), (1, 3), (1, 2), (1, 1)]
    assert _way(walls, (3, 1), (3, 1)) == [(3, 1)]
