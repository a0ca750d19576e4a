"""Sokoban: every level is well formed and can be solved, the rules hold, and the solver neither misses nor spoils a win."""

from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico.envs.experts import RandomPolicy, make_expert
from calico.envs.families.sokoban import BOX, COLOURS, FLOOR, LIMIT, PLAYER, SIZES, TILES, Level, Sokoban, generate, tiles
from calico.envs.families.sokoban_expert import after, is_lost, solve
from calico.envs.interfaces import describe
from calico.envs.registry import get_task, make
from calico.envs.runner import rollout

seeds, sizes = st.integers(0, 2**32 - 1), st.sampled_from(SIZES)


@settings(max_examples=60, deadline=None)
@given(seeds, sizes)
def test_a_level_is_well_formed(seed: int, kind: tuple[int, int]) -> None:
    size, boxes = kind
    level = generate(np.random.default_rng(seed), size, boxes)
    assert len(level.boxes) == len(level.targets) == boxes
    assert level.boxes | level.targets | {level.player} <= level.floor and level.player not in level.boxes
    assert not level.boxes & level.targets
    assert all(1 <= row < size - 1 and 1 <= column < size - 1 for row, column in level.floor)   # the outer ring is wall
    assert level == generate(np.random.default_rng(seed), size, boxes)


@settings(max_examples=60, deadline=None)
@given(seeds, sizes)
def test_replaying_the_solution_wins(seed: int, kind: tuple[int, int]) -> None:
    env = make(f"Sokoban-{kind[0]}x{kind[0]}-{kind[1]}")
    env.reset(seed=seed)
    world: Any = env.unwrapped
    rewards: list[float] = []
    for action in world.level.solution:
        _, reward, terminated, truncated, info = env.step(action)
        rewards.append(float(reward))
        if terminated:
            break
    assert terminated and info["is_success"] and len(rewards) <= LIMIT
    assert sum(rewards) == pytest.approx(kind[1] + 10 - 0.1 * len(rewards))


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from(SIZES[:5]), st.lists(st.integers(0, 3), max_size=30))
def test_nothing_goes_through_walls_or_boxes(seed: int, kind: tuple[int, int], actions: list[int]) -> None:
    game = Sokoban(*kind, tile=8)
    game.reset(seed=seed)
    for action in actions:
        old = set(game.boxes), game.player
        game.step(action)
        assert len(game.boxes) == kind[1] and game.boxes <= game.level.floor
        assert game.player in game.level.floor - game.boxes
        assert abs(game.player[0] - old[1][0]) + abs(game.player[1] - old[1][1]) <= 1
        assert game.boxes == old[0] or (game.player in old[0] and len(game.boxes - old[0]) == 1)


def read(board: str) -> Level:
    """A level from the usual signs: # wall, . target, $ box, @ player."""
    cells = {(row, column): sign for row, line in enumerate(board.split()) for column, sign in enumerate(line)}
    at: dict[str, frozenset[Any]] = {sign: frozenset(cell for cell in cells if cells[cell] == sign) for sign in "#.$@-"}
    return Level(len(board.split()), frozenset(cells) - at["#"], at["."], at["$"], min(at["@"]), ())


def play(board: str, actions: str) -> list[float]:
    game = Sokoban(6, 1, tile=8)
    game.reset(seed=0)
    game.level = read(board)
    game.boxes, game.player = set(game.level.boxes), game.level.player
    return [game.step("udlr".index(action))[1] for action in actions]


def test_the_rewards_are_those_of_gym_sokoban() -> None:
    board = "###### #@$.-# #-$--# #---.# ###### ######"
    assert play(board, "r") == [pytest.approx(0.9)]                              # a box on a target
    assert play(board, "rr") == [pytest.approx(0.9), pytest.approx(-1.1)]        # and off it
    assert play(board, "rrr")[2] == pytest.approx(-0.1)                          # against a wall: a step all the same
    assert play("###### #@$-.# #----# #----# ###### ######", "rr")[1] == pytest.approx(10.9)   # all of them


def test_two_boxes_in_a_row_do_not_move() -> None:
    assert play("###### #@$$.# #---.# #----# ###### ######", "r") == [pytest.approx(-0.1)]


def fewest_steps(level: Level) -> int:
    """Plain breadth-first search over single steps."""
    start = level.boxes, level.player
    steps = {start: 0}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        if node[0] == level.targets:
            return steps[node]
        for action in range(4):
            boxes, player = after(node, action)
            legal = player in level.floor and boxes <= level.floor and len(boxes) == len(level.boxes)
            if legal and (boxes, player) not in steps:
                steps[boxes, player] = steps[node] + 1
                queue.append((boxes, player))
    raise AssertionError("no solution")


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from(SIZES[:4]))
def test_the_plan_wins_in_about_the_fewest_steps(seed: int, kind: tuple[int, int]) -> None:
    level = generate(np.random.default_rng(seed), *kind)
    plan = solve(level.floor, level.targets, level.boxes, level.player)
    assert plan is not None
    node = level.boxes, level.player
    for action in plan:
        node = after(node, action)
        assert node[1] in level.floor and node[0] <= level.floor and len(node[0]) == kind[1]
    assert node[0] == level.targets
    assert len(plan) <= 1.5 * fewest_steps(level)


@pytest.mark.parametrize(("board", "lost"), [
    ("###### #$--.# #-@--# #----# ###### ######", True),     # in a corner
    ("###### #-$$-# #-@..# #----# ###### ######", True),     # two beside each other along a wall
    ("###### #@---# #-$$-# #-..-# ###### ######", False),
    ("###### #-$--# #-@--# #.---# ###### ######", False),    # along a wall it can still move
])
def test_frozen_boxes_are_lost(board: str, lost: bool) -> None:
    level = read(board)
    assert is_lost(level.floor, level.targets, level.boxes) == lost


def test_a_lost_game_is_not_won_and_the_solver_says_so() -> None:
    level = read("###### #-$--# #-@.-# #----# ###### ######")      # not frozen, but it cannot leave the wall
    assert not is_lost(level.floor, level.targets, level.boxes)
    assert solve(level.floor, level.targets, level.boxes, level.player) is None


@pytest.mark.parametrize("pixels", TILES)
def test_every_kind_of_tile_looks_different(pixels: int) -> None:
    pictures = tiles(pixels).astype(int)
    assert pictures.shape == (7, pixels, pixels, 3)
    for a in range(7):
        for b in range(a):
            assert np.abs(pictures[a] - pictures[b]).sum((1, 2)).max() > (100 if pixels > 2 else 90), (a, b)


def test_the_picture_shows_the_board() -> None:
    env = make(get_task("Sokoban-8x8-3").with_view(tile=16), render=True)
    picture, _ = env.reset(seed=1)
    world: Any = env.unwrapped
    assert picture.shape == (128, 128, 3)
    for row in range(8):
        for column in range(8):
            cell = row, column
            kind = 0 if cell not in world.level.floor else (
                BOX if cell in world.boxes else PLAYER if cell == world.player else FLOOR) + (cell in world.level.targets)
            np.testing.assert_array_equal(picture[row * 16:row * 16 + 16, column * 16:column * 16 + 16], tiles(16)[kind])


@pytest.mark.parametrize("name", ["Sokoban-6x6-2", "Sokoban-7x7-1", "Sokoban-8x8-3", "Sokoban-10x10-4"])
def test_the_compact_view_is_one_patch_that_holds_the_whole_board(name: str) -> None:
    task = get_task(name).compact()
    assert describe(task)["compact_tokens_per_step"] == [3, 3]
    small, large = make(task), make(name)
    size, tile = task.kwargs["size"], task.view["tile"]
    for env in (small, large):
        env.action_space.seed(0)
    for seed in range(3):
        (picture, _), (board, _) = small.reset(seed=seed), large.reset(seed=seed)
        for _ in range(60):
            assert small.observation_space.contains(picture) and picture.shape == (16, 16, 3)
            cells = picture[: size * tile : tile, : size * tile : tile]
            kinds = (cells[:, :, None] == np.array(COLOURS)).all(axis=-1).argmax(axis=-1)         # (row, column)
            again = tiles(8)[kinds].transpose(0, 2, 1, 3, 4).reshape(8 * size, 8 * size, 3)
            np.testing.assert_array_equal(again, board)
            picture, *_, stop, _ = small.step(action := small.action_space.sample())
            board, *_ = large.step(action)
            if stop:
                break


def test_a_wrong_tile_is_named() -> None:
    with pytest.raises(ValueError, match="tile=7; there are tiles of 1, 2, 8, 16, 32 pixels"):
        make(get_task("Sokoban-6x6-1").with_view(tile=7))


@pytest.mark.parametrize("size", ["6x6-1", "7x7-2", "8x8-3"])
def test_the_expert_wins_and_random_play_does_not(size: str) -> None:
    task = f"Sokoban-{size}"
    assert all(e.info["is_success"] for e in rollout(task, make_expert(task), range(40_000, 40_005), record=False))
    assert sum(e.info["is_success"] for e in rollout(task, RandomPolicy(), range(40_000, 40_005), record=False)) <= 3


def test_the_expert_goes_on_after_actions_that_it_did_not_choose() -> None:
    task = "Sokoban-7x7-2"
    noisy = list(rollout(task, make_expert(task), range(40_000, 40_020), noise=0.1, record=False))
    assert sum(not e.demonstrated.all() for e in noisy) > 10
    assert sum(e.info["is_success"] for e in noisy) >= 12          # the others were lost by a random push
