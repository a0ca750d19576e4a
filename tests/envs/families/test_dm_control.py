"""The Control Suite behind Gymnasium's interface: names, values, limits, seeds, ends."""

from typing import Any

import numpy as np
import pytest

from calico.envs.experts import make_expert
from calico.envs.families.dm_control import ControlTask
from calico.envs.families.shooting import Shooting
from calico.envs.registry import get_task, make, tasks
from calico.envs.runner import rollout

suite = pytest.importorskip("dm_control.suite")
NAMES = {task.name for task in tasks("dm_control")}


def test_all_tasks_of_the_package_are_listed() -> None:
    from dm_control import manipulation

    assert {name for name in NAMES if "manipulation" not in name and "pixels" not in name} == \
        {f"dm_control/{domain}-{level}" for domain, level in suite.ALL_TASKS}
    assert {name for name in NAMES if "manipulation" in name} == \
        {f"dm_control/manipulation-{name}" for name in manipulation.ALL if name.endswith("_features")}
    assert all(get_task(f"{name}-pixels").scores_of == name
               for name in NAMES if "manipulation" not in name and "pixels" not in name)


def test_values_are_dm_controls() -> None:
    ours, theirs = make("dm_control/walker-walk"), suite.load("walker", "walk", task_kwargs={"random": 7})
    observation, _ = ours.reset(seed=7)
    step = theirs.reset()
    for _ in range(20):
        parts = [step.observation["height"], step.observation["orientations"], step.observation["velocity"]]
        np.testing.assert_array_equal(observation, np.concatenate([np.ravel(part) for part in parts]).astype(np.float32))
        action = ours.action_space.sample()
        observation, reward, *_ = ours.step(action)
        step = theirs.step(action)
        assert type(reward) is float and reward == step.reward


@pytest.mark.parametrize(("name", "limit"), [("dm_control/cartpole-balance", 1000), ("dm_control/lqr-lqr_6_2", 1000),
                                             ("dm_control/manipulation-reach_site_features", 250)])
def test_episodes_are_truncated_at_their_limit(name: str, limit: int) -> None:
    env = make(name)
    env.reset(seed=0)
    idle = np.zeros(env.action_space.shape or (), np.float32)
    ends = [env.step(idle)[2:4] for _ in range(limit)]
    assert get_task(name).episode_limit == limit
    assert ends == [(False, False)] * (limit - 1) + [(False, True)]


def test_an_end_without_a_future_is_a_termination() -> None:
    env = make("dm_control/lqr-lqr_2_1")
    env.reset(seed=0)
    world: Any = env.unwrapped
    with world.physics.reset_context():
        world.physics.data.qpos[:] = 1e-9          # the regulator's task is done
    assert env.step(np.zeros(1, np.float32))[2:4] == (True, False)


def test_a_seed_draws_the_model_of_a_regulator() -> None:
    env = make("dm_control/lqr-lqr_6_2")
    world: Any = env.unwrapped
    stiffness = []
    for seed in (1, 2, 1):
        env.reset(seed=seed)
        stiffness.append(world.model.jnt_stiffness.copy())
    np.testing.assert_array_equal(stiffness[0], stiffness[2])
    assert (stiffness[0] != stiffness[1]).all()


def test_actuators_without_limits_get_some() -> None:
    env = make("dm_control/lqr-lqr_2_1")
    assert isinstance(env.unwrapped, ControlTask) and np.isfinite(getattr(env.action_space, "high")).all()  # noqa: B009


@pytest.mark.slow
def test_a_picture_shows_the_hills_of_its_own_episode() -> None:
    env = make("dm_control/quadruped-escape-pixels")
    first, second, again = (env.reset(seed=seed)[0] for seed in (1, 2, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != second).mean() > 0.2


@pytest.mark.parametrize(("name", "least"), [
    ("cartpole-balance", 990), ("cartpole-balance_sparse", 990), ("cartpole-swingup", 840), ("cartpole-swingup_sparse", 650),
    ("pendulum-swingup", 500), ("point_mass-easy", 800), ("point_mass-hard", 650), ("reacher-easy", 940),
    ("reacher-hard", 930), ("lqr-lqr_2_1", 750), ("lqr-lqr_6_2", 550), ("manipulation-reach_site_features", 200),
    pytest.param("reacher-easy-pixels", 940, marks=pytest.mark.slow),
])
def test_experts_do_their_task(name: str, least: float) -> None:
    seeds = [30_000] if "pixels" in name else [30_000, 30_001]
    for episode in rollout(f"dm_control/{name}", make_expert(f"dm_control/{name}"), seeds, record=False):
        assert episode.score >= least


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [
    ("acrobot-swingup", 20), ("ball_in_cup-catch", 800), ("cartpole-two_poles", 150), ("cheetah-run", 350),
    ("finger-spin", 150), ("finger-turn_easy", 800), ("finger-turn_hard", 700), ("fish-upright", 900), ("fish-swim", 400),
    ("swimmer-swimmer6", 200), ("walker-stand", 850), ("walker-walk", 750), ("walker-run", 250),
])
def test_planners_do_their_task(name: str, least: float) -> None:
    for episode in rollout(f"dm_control/{name}", make_expert(f"dm_control/{name}"), [30_000], record=False):
        assert episode.score >= least


def test_a_plan_is_followed_until_the_world_goes_another_way() -> None:
    env = make("dm_control/finger-turn_hard")
    env.reset(seed=3)
    planner = Shooting(env.unwrapped, lambda positions, velocities: -np.abs(positions[:, -1, 0]), 0, steps=10, knots=2,
                       samples=8, follow=8)
    made = []

    def act(disturbance: float = 0.0) -> None:
        env.step(np.clip(planner() + disturbance, -1, 1).astype(np.float32))
        made.append(planner.at == 1)

    for _ in range(10):
        act()
    assert made == [True, *[False] * 7, True, False]     # a plan is followed for eight steps, exactly as predicted
    act(0.5 if planner.plan[planner.at, 0] < 0 else -0.5)
    act()
    assert made[-2:] == [False, True]


def test_manipulation_resets_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    env = make("dm_control/manipulation-reach_site_features")
    for seed in range(20_000, 20_004):                   # two of them place the hand at the second attempt
        env.reset(seed=seed)
    assert not caplog.records
