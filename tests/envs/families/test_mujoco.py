"""Gymnasium's MuJoCo tasks: names and limits as registered, values, and the view in pictures."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from calico.envs.experts import make_expert
from calico.envs.families.mujoco_experts import regulator, two_links
from calico.envs.registry import get_task, make, tasks
from calico.envs.runner import rollout

pytest.importorskip("mujoco")
STATES = [task for task in tasks("mujoco") if not task.view]


def test_all_of_version_5_with_limits_and_thresholds_as_registered() -> None:
    specs = {name: spec for name, spec in gym.registry.items() if name.endswith("-v5") and "mujoco" in str(spec.entry_point)}
    assert {task.name: (task.episode_limit, task.solved_at) for task in STATES} == \
        {name: (spec.max_episode_steps, spec.reward_threshold) for name, spec in specs.items()}


def test_values_are_gymnasiums_in_plain_types() -> None:
    ours, theirs = make("Hopper-v5"), gym.make("Hopper-v5")
    pairs: list[Any] = [(ours.reset(seed=5), theirs.reset(seed=5))]
    theirs.action_space.seed(5)
    for _ in range(40):
        action = theirs.action_space.sample()
        pairs.append((ours.step(action), theirs.step(action)))
    for (a, *rest_a), (b, *rest_b) in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-6)
        assert rest_a == rest_b and a.dtype == np.float32
    assert type(pairs[-1][0][1]) is float and type(pairs[-1][0][2]) is bool
    assert any(step[0][2] for step in pairs[1:])                       # the hopper fell


def test_a_twin_in_pictures_is_the_same_world() -> None:
    for task in STATES:
        twin = get_task(f"{task.name}-pixels")
        assert twin.scores_of == task.name and twin.expert == task.expert and twin.episode_limit == task.episode_limit
    state, pixels = make("Hopper-v5"), make(get_task("Hopper-v5-pixels").with_view(frames=4, height=32))
    state.reset(seed=1)
    picture, _ = pixels.reset(seed=1)
    assert picture.shape == (32, 64, 4)
    for _ in range(10):
        action = state.action_space.sample()
        assert state.step(action)[1:] == pixels.step(action)[1:]


@pytest.mark.parametrize(("name", "least"), [("InvertedPendulum-v5", 1000), ("InvertedDoublePendulum-v5", 9350),
                                             ("Reacher-v5", -8), ("Swimmer-v5", 330), ("Reacher-v5-pixels", -8)])
def test_experts_do_their_task(name: str, least: float) -> None:
    for episode in rollout(name, make_expert(name), [30_000, 30_001], record=False):
        assert episode.score >= least


def test_a_regulator_holds_what_falls_without_it() -> None:
    import mujoco

    model = mujoco.MjModel.from_xml_string("""
        <mujoco><worldbody><body><joint name="hinge" axis="0 1 0"/><geom type="capsule" size=".05" fromto="0 0 0 0 0 1"/></body>
        </worldbody><actuator><motor joint="hinge"/></actuator></mujoco>""")
    gain = regulator(model, np.zeros(2), 5, np.ones(2), effort=1e-3)
    tilts = []
    for held in (0.0, 1.0):
        data = mujoco.MjData(model)
        data.qpos[0] = 0.1
        for _ in range(200):
            data.ctrl[:] = -held * gain @ np.concatenate([data.qpos, data.qvel])
            mujoco.mj_step(model, data, nstep=5)
        tilts.append(abs(data.qpos[0]))
    assert tilts[0] > 1 and tilts[1] < 0.01


@pytest.mark.parametrize("target", [(0.1, 0.1), (-0.15, 0.02), (0.0, -0.05), (3.0, 4.0)])
def test_both_elbows_of_an_arm_reach_the_target(target: tuple[float, float]) -> None:
    for shoulder, elbow in two_links(np.array(target), 0.1, 0.11):
        tip = 0.1 * np.exp(1j * shoulder) + 0.11 * np.exp(1j * (shoulder + elbow))
        wanted = complex(*target) if abs(complex(*target)) < 0.21 else complex(0.6, 0.8) * 0.21
        assert abs(tip - wanted) < 1e-5
