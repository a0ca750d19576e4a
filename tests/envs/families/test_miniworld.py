"""MiniWorld: worlds that share a process do not share their walls, one end at a time, and experts that arrive."""

from typing import Any

import numpy as np
import pytest

from calico.envs.experts import make_expert
from calico.envs.families.miniworld import WORLDS
from calico.envs.registry import get_task, make, tasks
from calico.envs.runner import rollout

pytest.importorskip("pyglet")
try:
    make("MiniWorld-OneRoom-v0").close()
except ImportError as missing:   # MiniWorld, or OpenGL without a screen
    pytest.skip(str(missing), allow_module_level=True)


def test_the_tasks_are_those_that_miniworld_registers() -> None:
    import gymnasium as gym

    assert {task.name for task in tasks("miniworld")} == {name for name in gym.registry if name.startswith("MiniWorld-")}


@pytest.mark.slow
@pytest.mark.parametrize("world", [world for world in WORLDS if world != "RoomObjects"])   # has no limit of its own
def test_the_limit_is_that_of_miniworld(world: str) -> None:
    env: Any = make(f"MiniWorld-{world}-v0")
    assert env.unwrapped.max_episode_steps == get_task(f"MiniWorld-{world}-v0").episode_limit
    env.close()


def pictures(env: Any, actions: list[int]) -> list[np.ndarray]:
    return [env.step(action)[0] for action in actions]


def test_worlds_in_one_process_keep_their_own_walls() -> None:
    one, actions = make("MiniWorld-OneRoom-v0"), [0, 2, 2, 1, 2]
    one.reset(seed=1)
    alone = pictures(one, actions)
    one.reset(seed=1)
    other = make("MiniWorld-MazeS2-v0")   # brick walls
    other.reset(seed=1)
    np.testing.assert_array_equal(pictures(one, actions), alone)
    other.close()
    np.testing.assert_array_equal(pictures(one, [1, 0])[-1], alone[-1])
    one.close()


def test_the_end_of_time_is_not_an_end_of_the_task() -> None:
    env = make(get_task("MiniWorld-OneRoomS6Fast-v0"))
    env.reset(seed=2)
    ends = [env.step(0)[1:4] for _ in range(50)]   # turns on the spot
    assert ends[:-1] == [(0.0, False, False)] * 49 and ends[-1] == (0.0, False, True)
    env.close()


def test_the_view_can_be_larger() -> None:
    env = make(get_task("MiniWorld-Sign-v0").with_view(height=80, width=96), render=True)
    observation, _ = env.reset(seed=0)
    assert observation["obs"].shape == (80, 96, 3) and env.observation_space.contains(observation)
    frame: Any = env.render()
    assert frame.shape == (256, 256, 3)
    env.close()


@pytest.mark.parametrize(("world", "at_least"), [
    ("FourRooms", 0.85), ("MazeS3Fast", 0.9), ("Sign", 1), ("PutNext", 0.7),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in [("YMaze", 0.85), ("Sidewalk", 0.85), ("PickupObjects", 5)]),
])
def test_experts_arrive(world: str, at_least: float) -> None:
    task = get_task(f"MiniWorld-{world}-v0")
    for episode in rollout(task, make_expert(task), [500, 501], num_envs=2, record=False):
        assert episode.score >= at_least and episode.terminated and not episode.truncated


def test_an_expert_goes_on_from_where_noise_led_it() -> None:
    task = get_task("MiniWorld-MazeS3-v0")
    episodes = list(rollout(task, make_expert(task), range(4), noise=0.3, noise_steps=3, record=False))
    assert all(episode.terminated and not episode.demonstrated.all() for episode in episodes)


@pytest.mark.slow
def test_the_survivor_outlives_its_first_health() -> None:
    task = get_task("MiniWorld-CollectHealth-v0")
    lengths = [len(episode) for episode in rollout(task, make_expert(task), range(500, 504), record=False)]
    assert np.mean(lengths) > 500                                # without medkits it is over after 50 steps
