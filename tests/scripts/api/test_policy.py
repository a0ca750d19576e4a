"""A run in loops of other people's: Gymnasium's, gym.vector's, Stable-Baselines3's."""

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

import calico
from calico.agent.sampling import SamplingConfig
from calico.envs.runner import rollout
from calico.scripts.api.policy import join, split, stacked_rows

from ...conftest import SmallRun

CARTPOLE, BABYAI = "CartPole-v1", "BabyAI-GoToLocal-v0"


@pytest.fixture(scope="module")
def agent(small_run: SmallRun) -> calico.Agent:
    return calico.load(small_run.run)


@pytest.fixture(params=[CARTPOLE, BABYAI])
def task(request: pytest.FixtureRequest) -> str:
    return request.param


def returns_of(agent: calico.Agent, task: str, seeds: list[int]) -> list[float]:
    """What the runner measures, greedily."""
    policy = agent.network.policy(task, SamplingConfig(temperature=0))
    found = {episode.seed: episode.score for episode in rollout(agent.as_trained(task), policy, seeds, record=False)}
    return [found[seed] for seed in seeds]


def test_a_loop_of_one_s_own_plays_what_the_runner_plays(agent: calico.Agent, task: str) -> None:
    policy, env = agent.policy(task), agent.make(task)
    returns = []
    for seed in (3, 4):
        observation, _ = env.reset(seed=seed)
        policy.reset()
        ended, total = False, 0.0
        while not ended:
            action, _ = policy.predict(observation, deterministic=True)
            assert env.action_space.contains(action)
            observation, reward, terminated, truncated, _ = env.step(action)
            ended, total = terminated or truncated, total + float(reward)
        returns.append(total)
    assert returns == pytest.approx(returns_of(agent, task, [3, 4]))


def test_a_state_that_is_passed_on_is_the_memory(agent: calico.Agent) -> None:
    """Two episodes in turn, each with its state, are the two episodes alone."""
    policy, envs = agent.policy(BABYAI), [agent.make(BABYAI) for _ in range(2)]
    observations = [env.reset(seed=seed)[0] for seed, env in enumerate(envs)]
    states: list[Any] = [None, None]
    totals, going = [0.0, 0.0], [True, True]
    while any(going):
        for i, env in enumerate(envs):
            if going[i]:
                action, states[i] = policy.predict(observations[i], states[i], states[i] is None, deterministic=True)
                observations[i], reward, terminated, truncated, _ = env.step(action)
                totals[i], going[i] = totals[i] + float(reward), not (terminated or truncated)
    assert states[0] is not states[1] and totals == pytest.approx(returns_of(agent, BABYAI, [0, 1]))


def test_state_none_begins_for_who_passes_states_on(agent: calico.Agent) -> None:
    policy, env = agent.policy(BABYAI), agent.make(BABYAI)
    observation, _ = env.reset(seed=0)
    _, state = policy.predict(observation)
    _, same = policy.predict(observation, state)
    _, other = policy.predict(observation)
    assert same is state and other is not state and (state.steps, other.steps) == ([2], [1])
    assert policy.predict(observation)[1] is other and other.steps == [2]          # who passes none on goes on
    policy.reset()
    assert policy.predict(observation)[1].steps == [1]


def test_gym_vector(agent: calico.Agent, task: str) -> None:
    envs, policy = agent.make_vec(task, 3), agent.policy(task)
    observations, _ = envs.reset(seed=7)
    starts, totals, done = np.ones(3, bool), np.zeros(3), np.zeros(3, bool)
    while not done.all():
        actions, _ = policy.predict(observations, episode_start=starts, deterministic=True)
        assert envs.action_space.contains(actions)
        observations, rewards, terminated, truncated, _ = envs.step(actions)
        totals += rewards * ~done
        starts = terminated | truncated
        done |= starts
    assert totals.tolist() == pytest.approx(returns_of(agent, task, [7, 8, 9]), rel=1e-5)
    envs.close()


def test_stable_baselines_evaluates_it(agent: calico.Agent) -> None:
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    env_util = pytest.importorskip("stable_baselines3.common.env_util")
    policy = agent.policy(CARTPOLE)
    returns, lengths = evaluation.evaluate_policy(policy, agent.make(CARTPOLE), n_eval_episodes=3,
                                                  return_episode_rewards=True, warn=False)
    assert len(returns) == 3 and returns == lengths
    envs = env_util.make_vec_env(lambda: agent.make(CARTPOLE), n_envs=2, seed=11)
    mean, _ = evaluation.evaluate_policy(policy, envs, n_eval_episodes=2)
    assert mean == pytest.approx(np.mean(returns_of(agent, CARTPOLE, [11, 12])))


def test_what_is_drawn_depends_on_the_seed_alone(agent: calico.Agent) -> None:
    observation, _ = agent.make(CARTPOLE).reset(seed=0)
    drawn = [[int(policy.predict(observation)[0]) for _ in range(20)] for policy in
             (agent.policy(CARTPOLE, seed=1), agent.policy(CARTPOLE, seed=1), agent.policy(CARTPOLE, seed=2))]
    assert drawn[0] == drawn[1] != drawn[2]
    policy = agent.policy(CARTPOLE, seed=1)
    assert len({int(policy.predict(observation, deterministic=True)[0]) for _ in range(20)}) == 1
    assert policy.playing.sampling == SamplingConfig(seed=1)


def test_gym_make_is_told_to_take_calico_s_view(agent: calico.Agent) -> None:
    observation, _ = gym.make(BABYAI).reset(seed=0)
    with pytest.raises(ValueError, match=r"BabyAI-GoToLocal-v0: .*env = agent.make\('BabyAI-GoToLocal-v0'\) in place of gym"):
        agent.policy(BABYAI).predict(observation)
    with pytest.raises(ValueError, match=r"has shape \(3,\), expected \(4,\)"):
        agent.policy(CARTPOLE).predict(np.zeros(3, np.float32))


def test_rows_that_change_are_told(agent: calico.Agent) -> None:
    policy, four = agent.policy(BABYAI), agent.make_vec(BABYAI, 4)
    observations, _ = four.reset(seed=0)
    policy.predict(observations)
    one, _ = agent.make(BABYAI).reset(seed=0)
    with pytest.raises(ValueError, match="1 observations come after 4 in the middle of an episode; call policy.reset"):
        policy.predict(one)
    _, state = policy.predict(one, episode_start=True)
    assert state.steps == [1]
    with pytest.raises(ValueError, match="episode_start holds 2 values for 4 observations"):
        policy.predict(observations, episode_start=[True, False])
    with pytest.raises(ValueError, match="no observation is given"):
        policy.predict([])


def test_an_episode_that_never_ends_is_remarked(agent: calico.Agent) -> None:
    assert agent.policy(CARTPOLE).longest == 500
    policy, (observation, _), limit = agent.policy(BABYAI), agent.make(BABYAI).reset(seed=0), 5
    policy.longest = limit               # BabyAI's depends on the seed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(limit):
            policy.predict(observation)
    with pytest.warns(UserWarning, match=f"ends after {limit} steps.*policy.reset"):
        policy.predict(observation)


def test_a_task_that_it_does_not_know(agent: calico.Agent) -> None:
    with pytest.raises(ValueError, match="no spec for the task 'CartPole-v2'.*CartPole-v1"):
        agent.policy("CartPole-v2")


# ---- one observation or several


def spaces() -> Iterator[gym.Space[Any]]:
    kinds = gym.spaces
    yield from (kinds.Discrete(5), kinds.Box(-1, 1, (3,)), kinds.Box(-1, 1, ()), kinds.Box(0, 255, (16, 16, 3), np.uint8),
                kinds.MultiDiscrete([3, 4]), kinds.MultiBinary(4), kinds.Text(8))
    yield kinds.Dict(a=kinds.Discrete(3), b=kinds.Dict(c=kinds.Box(0, 1, (2, 2)), d=kinds.Text(5)))
    yield kinds.Tuple((kinds.Box(0, 1, (2,)), kinds.Discrete(4)))


@pytest.mark.parametrize("space", list(spaces()), ids=str)
def test_stacked_values_come_apart_and_together_again(space: gym.Space[Any]) -> None:
    space.seed(0)
    values = [space.sample() for _ in range(3)]
    assert stacked_rows(space, values[0]) is None
    stacked = join(space, values)
    for given in (stacked, values):
        apart, several = split(space, given)
        assert several and len(apart) == 3 and all(space.contains(value) for value in apart)
        again = join(space, apart)
        assert data_equivalence(again, stacked)
    assert not split(space, values[0])[1]
