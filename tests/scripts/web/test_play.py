"""The tab Play: live episodes, what was likely, two visitors at once, and worlds that fail."""

import itertools
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from calico.agent.sampling import choose
from calico.scripts.api.agents import Agent
from calico.scripts.web import play
from calico.scripts.web.desk import MOST_SESSIONS, Desk, Session, task_choices


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the waits that keep the pace."""
    monkeypatch.setattr(play.time, "sleep", lambda seconds: None)


def test_the_bars_are_the_probabilities_that_the_action_was_drawn_from(desk: Desk) -> None:
    policy = desk.agent.policy("CartPole-v1", temperature=0.5)
    chosen = play.Choice(("push left", "push right"))
    policy.playing.on_logits = chosen.keep
    action, _ = policy.predict(np.zeros(4, np.float32), deterministic=True)
    (logits,) = chosen.logits
    assert logits.shape == (2,) and action == int(logits.argmax())
    assert play.probabilities(logits, 0.5) == pytest.approx(np.exp(2 * logits) / np.exp(2 * logits).sum(), rel=1e-4)
    page = chosen.to_html(0.5)
    assert page.index("push left") < page.index("push right") and f"{play.probabilities(logits, 0.5)[0]:.0%}" in page


def test_many_bins_become_a_strip_and_every_number_has_one(desk: Desk) -> None:
    session = Session()
    moments = list(itertools.islice(play.play(desk, session, desk.agent, "LunarLanderContinuous-v3", 3), 3))
    assert moments[0].choice == "" and moments[2].choice.count('class="strip"') == 2
    assert moments[2].choice.count("<i ") == 2 * play.COLUMNS and "number 2 of 2" in moments[2].choice


def test_an_episode_is_shown_step_by_step_with_its_instruction(desk: Desk) -> None:
    moments = list(itertools.islice(play.play(desk, Session(), desk.agent, "BabyAI-GoToLocal-v0", 10_000), 6))
    expected = [0]
    for moment in moments[:-1]:                          # counted from 0 in each episode
        expected.append(0 if moment.ended else moment.steps + 1)
    assert [moment.steps for moment in moments] == expected
    assert moments[0].frame.dtype == np.uint8 and moments[0].frame.shape[2] == 3
    assert moments[0].texts and "go to" in moments[0].texts[0]
    frame, choice, facts = next(play.shown(iter([moment for moment in moments if moment.steps])))
    assert frame.startswith("<img") and "forward" in choice and "go to" in facts and "seed 10000" in facts


def test_where_it_looked_is_shown_on_demand_and_changes_nothing(desk: Desk) -> None:
    """Ticked after three steps; the same actions as without."""
    def played(looks: bool) -> list[play.Moment]:
        session, found = Session(), []
        for moment in play.play(desk, session, desk.agent, "BabyAI-GoToLocal-v0", 10_000):
            found.append(moment)
            session.looks = looks and len(found) > 3
            if len(found) == 6:
                return found
        raise AssertionError

    plain, watched = played(False), played(True)
    assert [moment.choice.count('class="looked"') for moment in watched] == [0, 0, 0, 0, 1, 1]
    for one, other in zip(plain, watched, strict=True):
        assert "looked" not in one.choice and other.choice.startswith(one.choice)
        np.testing.assert_array_equal(one.frame, other.frame)
    assert watched[-1].choice.count("<img") == 1 and "of its attention" in watched[-1].choice
    numbers = play.play(desk, Session(looks=True), desk.agent, "CartPole-v1", 0)
    assert "looked" not in [next(numbers) for _ in range(2)][1].choice


def test_the_heat_lies_on_the_patch_that_was_looked_at() -> None:
    picture, grid = np.zeros((24, 40, 3), np.uint8), np.zeros((2, 3), np.float32)
    grid[1, 2], grid[0, 0] = 0.2, 0.1                    # of 8 x 8 pixels in a corner, and of 16 x 16
    drawn = play.with_heat(picture, grid, 0.2)
    times = play.SEEN_SIDE // 40
    assert drawn.shape == (24 * times, 40 * times, 3)
    strongest = np.round(np.array(play.HEAT) * play.STRONGEST)
    np.testing.assert_array_equal(drawn[16 * times:, 32 * times:], np.broadcast_to(strongest, (8 * times, 8 * times, 3)))
    assert (drawn[: 16 * times, : 16 * times, 0] == round(255 * play.STRONGEST / 2)).all()
    assert (drawn[:, 16 * times : 32 * times] == 0).all()
    alone = {"image": np.array([[0.3]], np.float32)}
    assert (play.with_heat(picture[:16, :16], alone["image"], play.scale_of(alone)) == 0).all()
    assert play.scale_of({**alone, "map": grid}) == np.float32(0.3) and play.total({**alone, "map": grid}) == pytest.approx(0.6)
    assert play.as_rgb(np.stack([picture[..., 0], picture[..., 0] + 9], axis=2)).tolist() == (picture + 9).tolist()


def test_the_same_seed_plays_the_same_and_the_next_episode_counts_on(desk: Desk) -> None:
    def lengths() -> list[tuple[int, int]]:
        found = []
        for moment in play.play(desk, Session(), desk.agent, "BabyAI-GoToObjS4-v0", 10_000):
            if moment.ended:
                found.append((moment.seed, moment.steps))
            if len(found) == 2:
                return found
        raise AssertionError

    first = lengths()
    assert first == lengths() and [seed for seed, _ in first] == [10_000, 10_001]


def test_stop_ends_a_loop_and_another_visitor_plays_on(desk: Desk) -> None:
    mine, other = (desk.session(SimpleNamespace(session_hash=name)) for name in ("a", "b"))
    left = play.play(desk, mine, desk.agent, "CartPole-v1", 0)
    right = play.play(desk, other, desk.agent, "CartPole-v1", 0)
    together = [(next(left).steps, next(right).steps) for _ in range(5)]
    assert together == [(step, step) for step in range(5)]
    mine.take_turn()
    assert list(left) == [] and next(right).steps == 5
    desk.leave(SimpleNamespace(session_hash="b"))
    assert list(right) == [] and list(desk.sessions) == ["a"]


def test_a_new_temperature_counts_from_the_next_step(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def noted(logits: Any, config: Any, generators: Any) -> Any:
        used.append(config.temperature)
        return choose(logits, config, generators)

    monkeypatch.setattr("calico.agent.policy.choose", noted)
    session = Session(temperature=1.0)
    moments = play.play(desk, session, desk.agent, "CartPole-v1", 0)
    next(moments), next(moments)
    session.temperature = 0.0
    next(moments)
    assert used == [1.0, 0.0]


def test_sessions_that_nobody_closes_do_not_add_up(desk: Desk) -> None:
    first = desk.session(SimpleNamespace(session_hash="0"))
    before = first.turn
    for number in range(1, MOST_SESSIONS + 1):
        desk.session(SimpleNamespace(session_hash=str(number)))
    assert len(desk.sessions) == MOST_SESSIONS and "0" not in desk.sessions and first.turn > before


class Broken(gym.Env):
    """Falls at its third step."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)

    def __init__(self) -> None:
        self.steps, self.closed = 0, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps == 3:
            raise RuntimeError("the physics exploded")
        return np.zeros(4, np.float32), 0.0, False, False, {}

    def render(self) -> np.ndarray:
        return np.zeros((8, 8, 3), np.uint8)

    def close(self) -> None:
        self.closed = True


def test_a_world_that_fails_is_told_in_one_sentence_and_closed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Broken()
    monkeypatch.setattr(play, "open_env", lambda agent, task: world)
    with pytest.raises(ValueError, match="CartPole-v1, seed 7, step 3: the environment failed .*the physics exploded"):
        list(play.play(desk, Session(), desk.agent, "CartPole-v1", 7))
    assert world.closed


def test_a_task_that_the_run_does_not_know(desk: Desk) -> None:
    with pytest.raises(ValueError, match="no spec for the task 'CartPol-v1'; did you mean"):
        next(play.play(desk, Session(), desk.agent, "CartPol-v1", 0))


def test_tasks_of_missing_packages_say_so_and_the_first_ones_come_first(shipped: Agent,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calico.scripts.web.desk.task_table.missing_module",
                        lambda family: "metaworld" if family == "metaworld" else None)
    choices = dict((name, words) for words, name in task_choices(shipped.tasks))
    assert list(choices)[:2] == ["BabyAI-GoToLocal-v0", "CartPole-v1"] and set(choices) == set(shipped.tasks)
    assert choices["Meta-World/reach-v3"] == "Meta-World/reach-v3 (not installed)" and choices["CartPole-v1"] == "CartPole-v1"


@pytest.mark.parametrize("seed", [None, -1])
def test_a_seed_that_is_none(seed: float | None) -> None:
    with pytest.raises(ValueError, match="the seed is .*whole number of at least 0"):
        play.whole(seed)
