"""Planning by rollout IW(1): toy worlds with answers by hand, and games whose emulator must be left as it was found."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import pytest

from calico.envs.experts import code_version, make_player
from calico.envs.families import atari_planner
from calico.envs.families.atari import AtariGame
from calico.envs.families.atari_planner import Console, Search, SearchConfig, planner, trace
from calico.envs.registry import get_task, make
from calico.envs.runner import rollout

TINY = SearchConfig(frames=40, horizon=60)
GAME = "ALE/Boxing-v5"


Edges = list[list[tuple[int, float, bool]]]   # [state][action] -> (next state, reward, a life is lost)


class Graph:
    """States joined by actions; a state is its only feature."""

    def __init__(self, edges: Edges) -> None:
        self.edges, self.at, self.tried = edges, 0, list[tuple[int, int]]()
        self.n_actions = len(edges[0])

    def save(self) -> int:
        return self.at

    def load(self, state: int) -> None:
        self.at = state

    def step(self, action: int, time: int) -> tuple[float, bool, bool]:
        self.tried.append((self.at, action))
        self.at, reward, dead = self.edges[self.at][action]
        return reward, dead, False

    def features(self) -> np.ndarray:
        return np.array([self.at], np.uint8)

    def trace(self) -> Hashable:
        return self.at


def searched(edges: Edges, seed: int = 0, frames: int = 1000, **settings: Any) -> tuple[Search, int]:
    """A search from state 0 and the action that it chose."""
    search = Search(Graph(edges), SearchConfig(frames=frames, **settings), np.random.default_rng(seed))
    search.start(0)
    return search, search.plan()


def quiet(*states: int) -> list[tuple[int, float, bool]]:
    return [(state, 0.0, False) for state in states]


LINE = [quiet(max(state - 1, 0), min(state + 1, 9)) for state in range(10)]   # left, right


@pytest.mark.parametrize("seed", range(5))
def test_a_state_met_no_farther_from_the_root_is_not_searched_again(seed: int) -> None:
    search, _ = searched(LINE, seed)
    assert search.root is not None and search.root.closed == search.number   # it ends by itself, far below its budget
    assert search.depths[0, :10].tolist() == list(range(10))                 # each state at its least distance
    assert isinstance(search.world, Graph)
    assert sorted(search.world.tried) == [(state, action) for state in range(10) for action in (0, 1)]   # and once


def test_a_nearer_way_to_a_state_is_novel_again() -> None:
    """From 0 one action leads to 3 by way of 1 and 2, the other at once; beyond 3 lies 4."""
    edges = [quiet(1, 3), quiet(2, 2), quiet(3, 3), quiet(4, 4), quiet(4, 4)]
    for seed in range(8):
        search, _ = searched(edges, seed)
        assert search.depths[0, :5].tolist() == [0, 1, 2, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_the_branch_with_the_largest_discounted_reward_is_chosen(seed: int) -> None:
    edges = [quiet(1, 4), quiet(2, 2), [(3, 5.0, False)] * 2, quiet(3, 3), [(5, 4.0, False)] * 2, quiet(5, 5)]
    assert searched(edges, seed, discount=0.99)[1] == 0   # 5 after three steps
    assert searched(edges, seed, discount=0.7)[1] == 1    # 4 after two


@pytest.mark.parametrize("seed", range(5))
def test_a_lost_life_ends_a_branch_and_is_avoided(seed: int) -> None:
    edges = [[(1, 0.0, True), (2, 0.0, False)], [(3, 100.0, False)] * 2, quiet(2, 2), quiet(3, 3)]
    search, action = searched(edges, seed)
    assert action == 1
    assert isinstance(search.world, Graph)
    assert all(state != 1 for state, _ in search.world.tried)   # nothing is planned for after it


def test_ties_are_broken_at_random() -> None:
    assert {searched(LINE, seed)[1] for seed in range(20)} == {0, 1}


def test_a_budget_is_kept() -> None:
    for frames in (1, 2, 7):
        search, action = searched(LINE, frames=frames)
        assert search.frames == frames and action in (0, 1)


def test_what_is_kept_of_a_tree_is_not_emulated_again() -> None:
    world = Graph(LINE)
    search = Search(world, SearchConfig(frames=1000), np.random.default_rng(0))
    search.start(5)
    search.plan()
    assert search.root is not None
    search.root = search.root.children[1]
    world.tried.clear()
    search.plan()
    assert search.depths[0, :10].tolist() == [6, 5, 4, 3, 2, 1, 0, 1, 2, 3]
    assert len(world.tried) < 15   # of 20: what lay to the right was known


@pytest.mark.parametrize(("name", "settings", "message"), [
    ("frames", {"frames": 0}, "frames=0"), ("discount", {"discount": 1.5}, "discount=1.5 must be in"),
])
def test_settings_that_make_no_sense(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig(**settings)


def started(seed: int = 3, steps: int = 0, game: str = GAME, **view: Any) -> tuple[AtariGame, Any]:
    """A game and a planner in it, after some steps of somebody else."""
    env: Any = make(get_task(game).with_view(**view))
    env.reset(seed=seed)
    act = planner(env, seed, TINY)
    for step in range(steps):
        env.step(step % env.action_space.n)
    return env, act


def everything(env: AtariGame) -> list[Any]:
    """All that an AtariGame's next steps and pictures depend on."""
    return [env.ale.cloneState(include_rng=True).serialize(), env.ale.getScreenRGB().tobytes(), env.screens.tobytes(),
            env.stack.tobytes(), env.held, env.np_random.bit_generator.state, env.ale.lives(), env.ale.game_over()]


VIEWS = [{}, {"repeat_action_probability": 0.0}, {"frame_skip": 1}, {"frame_skip": 10, "frames": 1}]


@pytest.mark.parametrize("view", VIEWS)
def test_the_environment_is_left_as_it_was(view: dict[str, Any]) -> None:
    env, act = started(steps=20, **view)
    for _ in range(3):
        before = everything(env)
        action = act(None)
        assert env.action_space.contains(action)
        assert everything(env) == before
        env.step(action)


@pytest.mark.parametrize("view", VIEWS)
def test_a_step_of_the_plan_is_a_step_of_the_environment(view: dict[str, Any]) -> None:
    env, _ = started(steps=15, **view)
    console, actions = Console(env), [3, 3, 0, 5, 1, 1, 7, 2]
    copied = np.random.default_rng()
    copied.bit_generator.state = env.np_random.bit_generator.state
    console.repeats = copied.random((len(actions), env.frame_skip)) < env.stickiness
    console.load((env.ale.cloneState(), env.held))
    for time, action in enumerate(actions):
        _, reward, terminated, truncated, info = env.step(action)
        assert console.step(action, time) == (reward, False, terminated or truncated)
        assert console.trace() == trace(env.ale, env.held)
    assert console.ale.cloneState().equals(env.ale.cloneState())


def test_an_episode_depends_on_its_seed_alone() -> None:
    def actions(*seeds: int) -> list[list[int]]:   # played in turn
        games = [started(seed) for seed in seeds]
        played: list[list[int]] = [[] for _ in games]
        for _ in range(6):
            for (env, act), row in zip(games, played, strict=True):
                row.append(act(None))
                env.step(row[-1])
        return played

    alone, other = actions(3)[0], actions(4)[0]
    assert actions(5, 3)[1] == alone != other


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The states from which a search began with an empty tree."""
    begun: list[Any] = []
    start = Search.start

    def noted(search: Search, state: Any) -> None:
        begun.append(state)
        start(search, state)

    monkeypatch.setattr(Search, "start", noted)
    return begun


def test_the_tree_is_kept_while_the_game_goes_as_planned(starts: list[Any]) -> None:
    env, act = started()
    for _ in range(16):
        env.step(act(None))
    assert len(starts) == 1   # sticky actions included: they are known
    for step in range(8):
        act(None)
        env.step((step + 5) % 18)   # somebody else plays
    assert len(starts) > 4
    assert env.action_space.contains(act(None))


def test_where_sticky_actions_are_not_known_the_plan_is_made_anew_after_them(starts: list[Any]) -> None:
    env: Any = make(GAME)
    env.reset(seed=1)
    act = planner(env, 1, SearchConfig(frames=20, knows_sticky=False))
    for _ in range(16):
        env.step(act(None))
    assert len(starts) > 1


def test_the_planner_boxes() -> None:
    (episode,) = rollout(GAME, make_player(get_task(GAME), "iw:60"), [1], record=False, max_steps=60)
    assert episode.score >= 2   # random play: 0


def test_any_atari_game_can_be_planned_and_no_other_task() -> None:
    start = atari_planner.planning_player(get_task("ALE/Pong-v5"), "40")
    assert len(code_version(start)) == 12
    assert len(next(iter(rollout("ALE/Pong-v5", make_player(get_task("ALE/Pong-v5"), "iw:40"), [0], max_steps=3)))) == 3
    with pytest.raises(ValueError, match="iw:40 plans over copies of the Atari .*; CartPole-v1 is of the family 'classic'"):
        make_player(get_task("CartPole-v1"), "iw:40")
    for wrong in ("0", "many", "-3"):
        with pytest.raises(ValueError, match=f"'{wrong}' is not a number of frames"):
            make_player(get_task("ALE/Pong-v5"), f"iw:{wrong}")
