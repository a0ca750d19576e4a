"""Scenes: reproducible, varied, and true by a second way of looking."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from minigrid.core.constants import COLORS
from minigrid.core.grid import Grid
from minigrid.core.world_object import Ball, Box, Key

from calico.envs import scenes as module
from calico.envs.scenes import COLOURS, HEIGHTS, KINDS, LEANS, PLACES, lean, place, scenes


@pytest.mark.parametrize("world", ["minigrid", "lander", "freeway"])
def test_a_seed_gives_its_scene_in_any_order(world: str) -> None:
    first = {scene.seed: scene for scene in scenes(world, [3, 1, 2])}
    for scene in scenes(world, [2, 3]):
        np.testing.assert_array_equal(scene.image, first[scene.seed].image)
        assert scene.facts == first[scene.seed].facts and scene.image.shape == (64, 64, 3)
        assert scene.image.dtype == np.uint8


def test_rooms_are_drawn_as_described() -> None:
    """Each described tile is found in the named ninth, by comparing with tiles drawn afresh; all other cells are empty."""
    draw: dict[str, Any] = {"ball": Ball, "box": Box, "key": Key}
    empty = Grid.render_tile(None, tile_size=8)
    seen: Counter[str] = Counter()
    for scene in scenes("minigrid", range(200)):
        tiles = scene.image.reshape(8, 8, 8, 8, 3).swapaxes(1, 2)[1:7, 1:7]     # (row, column, 8, 8, 3) inside the walls
        filled = {(r, c) for r in range(6) for c in range(6) if (tiles[r, c] != empty).any()}
        assert len(filled) == len(scene.facts) in (1, 2, 3)
        assert len({fact["place"] for fact in scene.facts}) == len(scene.facts)
        for fact in scene.facts:
            row, column = divmod(PLACES.index(fact["place"]), 3)
            tile = Grid.render_tile(draw[fact["kind"]](fact["colour"]), tile_size=8)
            assert any((tiles[r, c] == tile).all() for r, c in filled if r // 2 == row and c // 2 == column)
            seen.update(fact.values())
    assert set(seen) == {*KINDS, *COLOURS, *PLACES} and set(COLORS) == set(COLOURS)


def test_landers_are_where_and_how_the_picture_shows_them() -> None:
    seen: Counter[str] = Counter()
    for scene in scenes("lander", range(60)):
        (fact,) = scene.facts
        purple = (scene.image[..., 2] > 150) & (scene.image[..., 0] < 170) & (scene.image[..., 1] < 140)
        rows, columns = np.nonzero(purple)
        assert fact["place"] == place(columns.mean() / 64, (rows.mean() - 1) / 64)
        seen.update([fact["place"], fact["lean"]])
    assert set(LEANS) < set(seen) and len(seen) >= 10


def test_a_ship_that_turned_counter_clockwise_leans_left() -> None:
    assert [lean(angle) for angle in (0.5, 0.1, -0.1, -0.5)] == ["left", "upright", "upright", "right"]


def test_the_chicken_is_as_high_as_the_picture_shows() -> None:
    seen = Counter()
    for scene in scenes("freeway", range(12)):
        column = scene.image[5:58, 15:22].astype(int)                            # the left chicken's column, 64x64 pixels
        yellow = (column[..., 0] > 190) & (column[..., 1] > 190) & (column[..., 2] < 150)
        fraction = 1 - np.nonzero(yellow)[0].mean() / len(column)
        (fact,) = scene.facts
        assert abs(fraction * 3 - HEIGHTS.index(fact["height"]) - 0.5) < 0.8
        seen[fact["height"]] += 1
    assert set(seen) == set(HEIGHTS)


def test_an_unknown_world_is_named() -> None:
    with pytest.raises(ValueError, match="unknown world 'minigrids'; nearest: minigrid"):
        next(scenes("minigrids", [0]))
    assert set(module.WORLDS) == {"minigrid", "lander", "freeway"}
