"""The runner: one seed one episode whatever stands beside it, noise that is marked, and faults that are named."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from calico.envs.experts import FallbackAction, RandomPolicy, make_expert
from calico.envs.registry import Task, make
from calico.envs.runner import EnvironmentFault, Film, rollout
from calico.tokenizers.episode import Episode

COUNTING = Task(name="Counting", family="test")


class Counting(gym.Env):
    """Observes the step count, and ends after 3 + seed % 4 steps; `fault` happens at step 2 of odd seeds."""

    def __init__(self, fault: Callable[[np.ndarray], Any] | None = None) -> None:
        self.observation_space = gym.spaces.Dict({"count": gym.spaces.Box(0, 9, (2,), np.float32)})
        self.action_space = gym.spaces.Discrete(5)
        self.fault = fault
        self.count, self.limit, self.odd = 0, 0, False

    def _observe(self) -> dict[str, Any]:
        value = np.full(2, self.count, np.float32)
        return {"count": self.fault(value) if self.fault and self.odd and self.count == 2 else value}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        assert seed is not None
        self.count, self.limit, self.odd = 0, 3 + seed % 4, seed % 2 == 1
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.count < self.limit, "stepped past its end"
        self.count += 1
        return self._observe(), 1.0, self.count == self.limit, False, {"count": np.int64(self.count), "array": [1]}


class Checking:
    """A policy that knows each row's step count itself and fails when an observation disagrees."""

    def __init__(self, action: Any = 1) -> None:
        self.counts: dict[int, int] = {}
        self.resets: list[tuple[int, int]] = []
        self.action = action

    def reset(self, row: int, seed: int, env: gym.Env) -> None:
        self.counts[row] = 0
        self.resets.append((row, seed))

    def act(self, observations: Sequence[Any], rows: Sequence[int]) -> list[Any]:
        for observation, row in zip(observations, rows, strict=True):
            assert observation["count"].tolist() == [self.counts[row]] * 2
            self.counts[row] += 1
        return [self.action] * len(rows)


def run(policy: Any, seeds: Any, fault: Callable[[np.ndarray], Any] | None = None, **settings: Any) -> list[Episode]:
    return list(rollout(COUNTING, policy, seeds, make=lambda task, render: Counting(fault), **settings))


def test_each_row_resets_by_itself() -> None:
    policy = Checking()
    episodes = run(policy, range(7), num_envs=3)
    assert sorted((e.seed, len(e)) for e in episodes) == [(s, 3 + s % 4) for s in range(7)]
    assert [seed for _, seed in policy.resets] == list(range(7)) and {row for row, _ in policy.resets} == {0, 1, 2}
    for episode in episodes:
        assert episode.observations["count"].tolist() == [[i, i] for i in range(len(episode) + 1)]
        assert episode.actions[""].tolist() == [1] * len(episode)
        assert episode.terminated and not episode.truncated and episode.demonstrated.all()
        assert episode.score == len(episode) and episode.info == {"count": len(episode)}


@pytest.mark.parametrize(("task", "noise"), [
    ("LunarLander-v3", 0.0), ("Pendulum-v1", 0.3), ("BabyAI-GoToLocal-v0", 0.3),
])
def test_an_episode_depends_on_its_seed_alone(task: str, noise: float) -> None:
    def play(num_envs: int) -> dict[int, Episode]:
        settings: dict[str, Any] = {"num_envs": num_envs, "noise": noise, "max_steps": 60}
        return {e.seed: e for e in rollout(task, make_expert(task), [3, 1, 4, 5], **settings)}

    one, three = play(1), play(3)
    assert list(one) == [3, 1, 4, 5] and set(three) == set(one)
    for seed, episode in one.items():
        for field in ("observations", "actions"):
            for name, values in getattr(episode, field).items():
                np.testing.assert_array_equal(values, getattr(three[seed], field)[name])
        np.testing.assert_array_equal(episode.rewards, three[seed].rewards)
        np.testing.assert_array_equal(episode.demonstrated, three[seed].demonstrated)


def test_noise_marks_what_it_replaced() -> None:
    episodes = run(Checking(action=1), range(200), noise=0.25, num_envs=8)
    actions = np.concatenate([e.actions[""] for e in episodes])
    demonstrated = np.concatenate([e.demonstrated for e in episodes])
    assert (actions[demonstrated] == 1).all()
    assert set(actions[~demonstrated].tolist()) == {0, 1, 2, 3, 4}
    assert 0.2 < 1 - demonstrated.mean() < 0.3


def test_the_action_that_noise_replaced_is_kept_as_the_label() -> None:
    (undisturbed,) = run(Checking(action=1), [3])
    assert undisturbed.labels is None
    for episode in run(Checking(action=1), range(40), noise=0.5, noise_steps=2, num_envs=4):
        assert episode.labels is not None and episode.labels[""].tolist() == [1] * len(episode)
        assert episode.labels[""].dtype == episode.actions[""].dtype


def test_labels_are_what_the_expert_says_there() -> None:
    """The expert of Pendulum is a function of the observation."""
    noisy, = rollout("Pendulum-v1", make_expert("Pendulum-v1"), [5], noise=0.4, max_steps=50)
    expert = make_expert("Pendulum-v1")
    expert.reset(0, 5, make("Pendulum-v1"))
    assert noisy.labels is not None and not np.array_equal(noisy.labels[""], noisy.actions[""])
    for step, label in enumerate(noisy.labels[""]):
        np.testing.assert_array_equal(expert.act([noisy.observations[""][step]], [0])[0], label)
    np.testing.assert_array_equal(noisy.labels[""][noisy.demonstrated], noisy.actions[""][noisy.demonstrated])


def test_a_teacher_labels_every_step_and_takes_its_share_of_them() -> None:
    """DAgger: the labels are what the teacher would do where the policy has brought them."""
    for mix, share in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0)):
        episodes = run(Checking(action=2), range(60), teacher=Checking(action=3), mix=mix, num_envs=4)
        done = np.concatenate([episode.actions[""] for episode in episodes])
        assert all(e.labels is not None and e.labels[""].tolist() == [3] * len(e) for e in episodes)
        assert abs((done == 3).mean() - share) < 0.1
        assert np.array_equal(np.concatenate([episode.demonstrated for episode in episodes]), done == 3)
    with pytest.raises(ValueError, match="exclude each other"):
        run(Checking(), [1], teacher=Checking(), noise=0.5)
    with pytest.raises(ValueError, match="mix=1.5"):
        run(Checking(), [1], teacher=Checking(), mix=1.5)
    with pytest.raises(ValueError, match="action 9 of type int is not in"):
        run(Checking(), [1], teacher=Checking(action=9))


def test_an_expert_that_guesses_where_noise_acts_is_counted() -> None:
    (episode,) = run(Checking(action=FallbackAction(1)), [3], noise=1.0)
    assert episode.info["guesses"] == len(episode)


def test_noise_comes_in_stretches_of_one_held_action() -> None:
    marked, total = 0, 0
    for episode in rollout("MountainCar-v0", make_expert("MountainCar-v0"), range(12), noise=0.3, noise_steps=5, max_steps=100):
        actions, noisy = episode.actions[""], ~episode.demonstrated
        borders = np.flatnonzero(np.diff(np.concatenate([[False], noisy, [False]])))
        for start, stop in borders.reshape(-1, 2):                # two stretches may touch; the last may be cut
            assert (stop - start) % 5 == 0 or stop == len(actions)
            assert all(len(set(actions[at : min(at + 5, stop)].tolist())) == 1 for at in range(start, stop, 5))
        marked, total = marked + int(noisy.sum()), total + len(actions)
    assert 0.22 < marked / total < 0.38


def test_max_steps_truncates_but_does_not_hide_an_end() -> None:
    by_seed = {e.seed: (len(e), e.terminated, e.truncated) for e in run(Checking(), [0, 1, 2], max_steps=4)}
    assert by_seed == {0: (3, True, False), 1: (4, True, False), 2: (4, False, True)}


def test_scoring_keeps_no_observations() -> None:
    episode = run(Checking(), [2], record=False)[0]
    assert episode.observations == {} and episode.actions == {} and episode.score == 5


@pytest.mark.parametrize(("fault", "message"), [
    (lambda v: v * np.nan, r"Counting, seed 5, step 2: observation 'count' holds 2 NaN of 2 values"),
    (lambda v: np.append(v, v), r"Counting, seed 5, step 2: observation 'count' has shape \(4,\), expected \(2,\)"),
    (lambda v: v.astype(int), r"Counting, seed 5, step 2: observation 'count' has dtype int64, expected float32"),
    (lambda v: "two", r"Counting, seed 5, step 2: observation 'count' is the string 'two'"),
    (lambda v: 1 / 0, r"Counting, seed 5, step 2: step raised ZeroDivisionError: division by zero"),
])
def test_a_faulty_environment_is_named_and_its_episode_is_not_written(fault: Any, message: str) -> None:
    written = []
    with pytest.raises(EnvironmentFault, match=message):
        for episode in rollout(COUNTING, Checking(), [4, 5, 6], num_envs=1, make=lambda task, render: Counting(fault)):
            written.append(episode.seed)
    assert written == [4]


def test_other_kinds_of_faults_are_named() -> None:
    class Odd(Counting):
        def _observe(self) -> Any:
            return self.odd_one

        odd_one: Any = {"counts": np.zeros(2, np.float32)}

    class TooLarge(Odd):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = gym.spaces.Discrete(3)

        odd_one = 3

    faults = ((Odd, "the observation does not fit .*count"), (TooLarge, r"is 3, outside Discrete\(3\)"))
    for environment, message in faults:
        def make_one(task: Task, render: bool, environment: type[Odd] = environment) -> gym.Env:
            return environment()

        with pytest.raises(EnvironmentFault, match=f"Counting, seed 0, step 0: .*{message}"):
            list(rollout(COUNTING, RandomPolicy(), [0], make=make_one))


def test_a_policys_wrong_action_is_its_own_fault() -> None:
    with pytest.raises(ValueError, match=r"action 7 of type int is not in Discrete\(5\) \(seed 3, step 0\)"):
        run(Checking(action=7), [3])
    with pytest.raises(ValueError, match="noise=2"):
        run(Checking(), [3], noise=2)


def test_a_film_has_a_frame_per_step_and_one_before_them() -> None:
    film = Film()
    episode = next(iter(rollout("CartPole-v1", RandomPolicy(), [0], on_step=film, render=True)))
    assert len(film.frames[0]) == len(episode) + 1
    assert film.frames[0][0].shape == (400, 600, 3) and (film.frames[0][0] != film.frames[0][-1]).any()


def test_atari_episodes_are_bytes() -> None:
    episode = next(iter(rollout("ALE/Pong-v5", RandomPolicy(), [0], max_steps=5)))
    assert episode.observations[""].dtype == np.uint8 and episode.observations[""].shape == (6, 64, 64, 2)


def test_a_faulty_environment_is_replaced_and_play_goes_on() -> None:
    made, faults = list[gym.Env](), list[EnvironmentFault]()

    def make(task: Task, render: bool) -> gym.Env:
        made.append(Counting(lambda value: value * np.nan))
        return made[-1]

    episodes = list(rollout(COUNTING, Checking(), range(6), num_envs=2, make=make, on_fault=faults.append))
    assert sorted(episode.seed for episode in episodes) == [0, 2, 4]
    assert sorted(fault.seed for fault in faults) == [1, 3, 5] and all(fault.step == 2 for fault in faults)
    assert len(made) == 4                      # two rows, and a new one after each fault, none after the last
    alone = run(Checking(), [0, 2, 4], num_envs=1)
    for episode, same in zip(sorted(episodes, key=lambda e: e.seed), alone, strict=True):
        np.testing.assert_array_equal(episode.observations["count"], same.observations["count"])


def test_guesses_of_an_expert_are_counted_where_they_are_recorded() -> None:
    lost, sure = (run(Checking(action), [2])[0] for action in (FallbackAction(1), 1))
    unrecorded = run(Checking(FallbackAction(1)), [2], record=False)[0]
    assert lost.info["guesses"] == len(lost) == 5
    assert "guesses" not in sure.info and "guesses" not in unrecorded.info
    assert lost.actions[""].tolist() == sure.actions[""].tolist() and lost.actions[""].dtype == sure.actions[""].dtype


@pytest.mark.parametrize(("info", "kept"), [
    ({"long": np.longdouble(0.5), "half": np.float16(0.5), "whole": np.uint8(3), "true": np.bool_(True)},
     {"long": 0.5, "half": 0.5, "whole": 3, "true": True}),
    (None, {}), ([], {}), ("text", {}), ({"x": float("nan"), "y": 1.5}, {"y": 1.5}),
    ({"x": np.float32("inf"), "y": np.float32(2)}, {"y": 2.0}),
    ({("a", 1): 2.0, 3: 1, "z": True}, {"z": True}), ({"big": 2**80, "c": 1 + 2j, "b": b"x"}, {"big": 2**80})])
def test_an_odd_info_is_kept_where_it_is_plain(info: Any, kept: dict[str, Any]) -> None:
    class Odd(Counting):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
            return (*super().step(action)[:4], info)

    (episode,) = rollout(COUNTING, RandomPolicy(), [0], make=lambda task, render: Odd())
    assert episode.info == kept
