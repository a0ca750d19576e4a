"""Scenes: reproducible, varied, and true by a second way of looking."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from minigrid.core.constants import COLORS
from minigrid.core.grid import Grid
from minigrid.core.world_object import Ball, Box, Key

from calico.envs import scenes as module
from calico.envs.experts import make_expert
from calico.envs.registry import make
from calico.envs.scenes import (
    COLOURS,
    HEIGHTS,
    KINDS,
    LEANS,
    PLACES,
    SIDES,
    breakout_facts,
    chicken_height,
    lean,
    place,
    scenes,
)

RED = (200, 72, 72)    # Breakout's ball and paddle


@pytest.mark.parametrize("world", module.WORLDS)
def test_a_seed_gives_its_scene_in_any_order(world: str) -> None:
    first = {scene.seed: scene for scene in scenes(world, [3, 1, 2])}
    for scene in scenes(world, [2, 3]):
        np.testing.assert_array_equal(scene.image, first[scene.seed].image)
        assert scene.facts == first[scene.seed].facts
        assert scene.image.shape == ((48, 48, 3) if world == "minigrid" else (64, 64, 3))
        assert scene.image.dtype == np.uint8


def test_rooms_are_drawn_as_described() -> None:
    """Each described tile is found in its ninth, by comparing with tiles drawn afresh; all other cells are empty."""
    draw: dict[str, Any] = {"ball": Ball, "box": Box, "key": Key}
    empty = Grid.render_tile(None, tile_size=8).astype(np.uint8)
    seen: Counter[str] = Counter()
    for scene in scenes("minigrid", range(200)):
        tiles = scene.image.reshape(6, 8, 6, 8, 3).swapaxes(1, 2)                 # (row, column, 8, 8, 3)
        filled = {(r, c) for r in range(6) for c in range(6) if (tiles[r, c] != empty).any()}
        assert len(filled) == len(scene.facts) in (1, 2, 3)
        assert len({fact["place"] for fact in scene.facts}) == len(scene.facts)
        for fact in scene.facts:
            row, column = divmod(PLACES.index(fact["place"]), 3)
            tile = Grid.render_tile(draw[fact["kind"]](fact["colour"]), tile_size=8).astype(np.uint8)
            assert any((tiles[r, c] == tile).all() for r, c in filled if r // 2 == row and c // 2 == column)
            seen.update(fact.values())
    assert set(seen) == {*KINDS, *COLOURS, *PLACES} and set(COLORS) == set(COLOURS)


def test_landers_are_where_and_how_the_picture_shows_them() -> None:
    seen: Counter[str] = Counter()
    for scene in scenes("lander", range(90)):
        (fact,) = scene.facts
        red, green, blue = scene.image.astype(int).transpose(2, 0, 1)
        rows, columns = np.nonzero((blue - red > 60) & (blue - green > 60))      # the ship alone is purple
        middle_row, middle_column = rows.mean() / 64, columns.mean() / 64
        nearby = {place(middle_column + dx, middle_row + dy) for dx in (-0.04, 0.04) for dy in (-0.04, 0.04)}
        assert fact["place"] in nearby
        seen.update([fact["place"], fact["lean"]])
    assert {*LEANS, *PLACES} == set(seen)


def test_a_ship_that_turned_counter_clockwise_leans_left() -> None:
    assert [lean(angle) for angle in (0.5, 0.1, -0.1, -0.5)] == ["left", "upright", "upright", "right"]


def test_the_chicken_is_as_high_as_the_screen_shows() -> None:
    env, expert = make("ALE/Freeway-v5", render=True), make_expert("ALE/Freeway-v5")
    game: Any = env.unwrapped
    observation, _ = env.reset(seed=0)
    expert.reset(0, 0, env)
    seen = set()
    for _ in range(80):
        observation, *_ = env.step(expert.act([observation], [0])[0])
        screen: Any = env.render()
        body = (screen[:, 44:50] == (252, 252, 84)).all(-1).sum(1) >= 3
        body[[102, 104]] = False                                     # the middle line has the same yellow
        row = float(np.nonzero(body)[0].mean())                      # the road reaches from row 20 to row 191
        height = (191 - row) / (191 - 20) * 3
        if abs(height - 1) > 0.1 < abs(height - 2):                  # not on the border between two thirds
            assert chicken_height(game.ram()) == HEIGHTS[min(int(max(height, 0)), 2)]
            seen.add(chicken_height(game.ram()))
    assert seen == set(HEIGHTS) == {scene.facts[0]["height"] for scene in scenes("freeway", range(12))}


def test_paddle_and_ball_are_where_the_screen_shows_them() -> None:
    env = make("ALE/Breakout-v5", render=True)
    game: Any = env.unwrapped
    env.reset(seed=0)
    rng, balls, sides = np.random.default_rng(0), 0, set()
    for frame in range(1500):
        game.ale.act(game.actions[1 if frame % 20 == 0 else rng.integers(2, 4) if frame % 90 < 30 else 0])
        if frame % 3:
            continue
        red = (game.render() == RED).all(-1)
        facts = {fact["kind"]: fact for fact in breakout_facts(game.ram())}
        middle = np.nonzero(red[189:193, 8:152].any(0))[0].mean() / 144 * 3      # columns between the walls
        if min(abs(middle - 1), abs(middle - 2)) > 0.1:
            assert facts["paddle"]["side"] == SIDES[int(middle)]
            sides.add(facts["paddle"]["side"])
        rows, columns = np.nonzero(red[96:188, 8:152])                           # below the bricks, above the paddle
        if len(rows) and "flying ball" in facts:
            x, y = (columns.mean() + 8.5) / 160, (rows.mean() + 96.5) / 210
            assert facts["flying ball"]["place"] in {place(x + dx, y + dy) for dx in (-0.02, 0.02) for dy in (-0.02, 0.02)}
            balls += 1
    env.close()
    assert balls > 50 and len(sides) > 1
    seen = Counter(value for scene in scenes("breakout", range(60)) for fact in scene.facts for value in fact.values())
    assert {*SIDES, "flying ball", "left", "right", "bottom"} <= set(seen)


def test_boards_are_drawn_as_described() -> None:
    """Whatever looks like a crate is brown, or green where it stands on a target; only players have blue clothes."""
    seen: Counter[str] = Counter()
    for scene in scenes("sokoban", range(60)):
        red, green, blue = scene.image.reshape(8, 8, 8, 8, 3).swapaxes(1, 2).astype(int).mean((2, 3)).transpose(2, 0, 1)
        drawn = {"loose": (red > 140) & (blue < 100), "placed": green - red > 40}
        for state, cells in drawn.items():
            places = sorted(place((column + 0.5) / 8, (row + 0.5) / 8) for row, column in np.argwhere(cells))
            assert places == sorted(fact["place"] for fact in scene.facts if fact.get("state") == state)
        (player,) = (fact for fact in scene.facts if fact["kind"] == "player")
        pixels = np.argwhere(scene.image[..., 2].astype(int) - scene.image[..., 0] > 90)
        row, column = pixels.mean(0)
        assert player["place"] == place((column // 8 + 0.5) / 8, (row // 8 + 0.5) / 8)
        seen.update(value for fact in scene.facts for value in fact.values())
    assert {"loose", "placed", *PLACES} <= set(seen)


def test_things_of_a_room_in_first_person_are_where_the_picture_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(scenes("miniworld", range(30)))
    monkeypatch.setattr(module, "_things", lambda world, rng: [])
    seen: Counter[str] = Counter()
    for scene, empty in zip(first, scenes("miniworld", range(30)), strict=True):
        changed = np.abs(scene.image.astype(int) - empty.image).sum(-1) > 30
        for fact in scene.facts:
            row, column = divmod(PLACES.index(fact["place"]), 3)
            rows, columns = np.nonzero(changed[:, column * 64 // 3:(column + 1) * 64 // 3])
            assert len(rows) and abs(rows.mean() / 64 * 3 - row - 0.5) < 0.6, scene.seed
            seen.update(fact.values())
        assert empty.facts == [] and len({fact["place"] for fact in scene.facts}) == len(scene.facts) in (1, 2)
    assert {*KINDS, *COLOURS[:5], "left", "right", "bottom left", "bottom", "bottom right"} <= set(seen)


def test_an_unknown_world_is_named() -> None:
    with pytest.raises(ValueError, match="unknown world 'minigrids'; nearest: minigrid"):
        next(scenes("minigrids", [0]))
    assert set(module.WORLDS) == set(module.FAMILIES) == {"minigrid", "lander", "freeway", "sokoban", "breakout", "miniworld"}
