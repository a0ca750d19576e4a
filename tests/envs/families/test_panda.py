"""The Panda arm: seeds decide episodes, a tower is a tower, and the experts do what they are listed for."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("panda_gym")

from calico.envs.experts import RandomPolicy, make_expert
from calico.envs.registry import make, tasks
from calico.envs.runner import rollout

Place = tuple[float, float, float]


def test_the_tasks_are_those_that_the_package_registers() -> None:
    from panda_gym import ENV_IDS

    assert sorted(task.name for task in tasks("panda")) == sorted(ENV_IDS)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    env = make("PandaStack-v3", render=True)
    env.reset(seed=0)
    env.render()
    env.close()
    assert capfd.readouterr() == ("", "")


def test_an_episode_does_not_depend_on_those_before_it() -> None:
    def play(env: Any, seed: int) -> np.ndarray:
        env.action_space.seed(seed)
        env.reset(seed=seed)
        downwards = np.array([0, 0, -0.4, 0], np.float32)    # among the cubes
        return np.array([env.step(env.action_space.sample() + downwards)[0]["observation"] for _ in range(60)])

    env = make("PandaStack-v3")
    first = play(env, 3)
    play(env, 4)
    np.testing.assert_array_equal(first, play(env, 3))
    np.testing.assert_array_equal(first, play(make("PandaStack-v3"), 3))


def test_the_goal_of_a_flip_comes_from_the_seed() -> None:
    goals = [make("PandaFlip-v3").reset(seed=seed)[0]["desired_goal"] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(goals[0], goals[1])
    assert np.abs(goals[0] - goals[2]).max() > 0.01


def settle(lower: Place, upper: Place, steps: int = 12) -> tuple[list[bool], list[float]]:
    """Put the cubes at these offsets from the goal and wait: (terminated, reward) of each step."""
    env = make("PandaStack-v3")
    env.reset(seed=0)
    world: Any = env.unwrapped
    for body, offset, goal in (("object1", lower, world.task.goal[:3]), ("object2", upper, world.task.goal[:3])):
        world.sim.set_base_pose(body, goal + offset, np.array([0, 0, 0, 1.0]))
    trace = [env.step(np.array([0, 0, 0.2, 0], np.float32)) for _ in range(steps)]
    return [bool(step[2]) for step in trace], [float(step[1]) for step in trace]


def test_a_tower_at_the_goal_is_a_success_once_it_has_stood() -> None:
    over, rewards = settle((0, 0, 0), (0.005, 0, 0.04))
    first = over.index(True)
    assert first >= 4 and rewards[first] == 0 and set(rewards[:first]) == {-1.0}


@pytest.mark.parametrize(("lower", "upper"), [
    ((0, 0.02, 0), (0, -0.021, 0)),       # side by side: the shipped test calls this a success
    ((0.05, 0, 0), (0.05, 0, 0.04)),      # a tower somewhere else
    ((0, 0, 0.04), (0, 0, 0)),            # upside down
    ((0, 0, 0), (0.024, 0, 0.04)),        # it tips over
])
def test_anything_else_is_not(lower: Place, upper: Place) -> None:
    assert not any(settle(lower, upper, steps=20)[0])


def test_a_cube_that_the_fingers_hold_is_not_released() -> None:
    """Play the expert, but never let it open its fingers on top of the tower."""
    env = make("PandaStack-v3")
    expert = make_expert("PandaStack-v3")
    observation, _ = env.reset(seed=20_002)
    expert.reset(0, 20_002, env)
    world: Any = env.unwrapped
    for _ in range(149):
        action = expert.act([observation], [0])[0]
        gap = world.sim.get_base_position("object2") - world.sim.get_base_position("object1") - [0, 0, 0.04]
        if np.linalg.norm(gap) < 0.01:
            action = np.array([0, 0, 0, -0.05], np.float32)
        observation, _, terminated, _, _ = env.step(action)
        assert not terminated
    assert np.linalg.norm(gap) < 0.015     # it is on top, in the fingers


@pytest.mark.parametrize("name", ["PandaReach-v3", "PandaReachJoints-v3", "PandaPickAndPlace-v3", "PandaPush-v3",
                                  "PandaStack-v3"])
def test_the_expert_succeeds(name: str) -> None:
    seeds = [30_000, 30_001]
    assert [e.info["is_success"] for e in rollout(name, make_expert(name), seeds, record=False)] == [True, True]
    if name == "PandaStack-v3":
        assert [e.info["is_success"] for e in rollout(name, RandomPolicy(), seeds, record=False)] == [False, False]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PandaSlide-v3", "PandaSlideJoints-v3", "PandaPushJoints-v3", "PandaPickAndPlaceJoints-v3",
                                  "PandaStackJoints-v3", "PandaStackDense-v3"])
def test_the_slower_experts_succeed_mostly(name: str) -> None:
    done = [e.info["is_success"] for e in rollout(name, make_expert(name), range(30_000, 30_010), record=False)]
    assert sum(done) >= (4 if name == "PandaSlideJoints-v3" else 8)


@pytest.mark.slow
def test_the_stacking_expert_recovers_from_actions_that_it_did_not_choose() -> None:
    name = "PandaStack-v3"
    episodes = list(rollout(name, make_expert(name), range(30_000, 30_010), noise=0.05, record=False))
    assert sum(e.info["is_success"] for e in episodes) >= 7
