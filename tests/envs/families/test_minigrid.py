"""MiniGrid: the picture is its own, the mission is plain text, nothing is printed; the planner solves unseen levels."""

import warnings
from typing import Any

import numpy as np
import pytest

from calico.envs.experts import make_expert
from calico.envs.families.minigrid import (
    COLORS,
    COLOUR_COLOURS,
    KIND_COLOURS,
    KINDS,
    PLANNER_OF,
    STATE_COLOURS,
    STATES,
    FirstPersonView,
)
from calico.envs.families.minigrid_experts import Planner, take_object
from calico.envs.interfaces import describe
from calico.envs.registry import get_task, make, tasks
from calico.envs.runner import rollout
from calico.tokenizers.patches import patch_grid
from calico.tokenizers.spaces import space_from_json, space_to_json

LEVELS = ["BabyAI-BossLevel-v0", "MiniGrid-LavaCrossingS9N1-v0", "MiniGrid-ObstructedMaze-Full-v1"]


@pytest.mark.parametrize("name", LEVELS)
def test_the_picture_is_minigrids_own_first_person_view(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    env = make(name)
    world: Any = env.unwrapped
    for seed in range(3):
        env.action_space.seed(seed)
        observation, _ = env.reset(seed=seed)
        for _ in range(25):
            np.testing.assert_array_equal(observation["image"], world.get_frame(tile_size=8, agent_pov=True))
            assert env.observation_space.contains(observation)
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                break
    assert capsys.readouterr().out == ""                           # BossLevel rejects samples at most resets


def symbols(picture: np.ndarray) -> np.ndarray:
    """MiniGrid's (column, row, kind/colour/state) back from the compact picture, uint8 (16, 16, 3)."""
    def number(pixels: np.ndarray, palette: Any) -> np.ndarray:
        same = (pixels[:, :, None] == np.array(palette)).all(axis=-1)
        assert (same.sum(axis=-1) == 1).all()
        return same.argmax(axis=-1).T

    shown = picture[:14, :14]
    assert not picture[14:].any() and not picture[:, 14:].any()
    return np.stack([number(shown[::2, ::2], KIND_COLOURS), number(shown[::2, 1::2], COLOUR_COLOURS),
                     number(shown[1::2, ::2], STATE_COLOURS)], axis=-1)


def test_the_compact_picture_holds_every_symbol_there_is() -> None:
    assert len(set(KIND_COLOURS)) == KINDS and len(set(COLOUR_COLOURS)) == COLORS and len(set(STATE_COLOURS)) == STATES
    env = make(get_task("MiniGrid-Empty-5x5-v0").compact())
    view = env if isinstance(env, FirstPersonView) else None
    assert view is not None
    every = np.array(list(np.ndindex(KINDS, COLORS, STATES)), np.uint8)
    for start in range(0, len(every), 49):
        grid = np.resize(every[start : start + 49], (7, 7, 3))
        picture = view._view({"image": grid, "direction": 0, "mission": ""})["image"]
        np.testing.assert_array_equal(symbols(picture), grid)


@pytest.mark.parametrize("name", LEVELS)
def test_the_compact_view_is_one_patch_that_holds_what_minigrid_gives(name: str) -> None:
    env = make(get_task(name).compact())
    world: Any = env.unwrapped
    for seed in range(3):
        env.action_space.seed(seed)
        observation, _ = env.reset(seed=seed)
        for _ in range(25):
            assert env.observation_space.contains(observation)
            np.testing.assert_array_equal(symbols(observation["image"]), world.gen_obs()["image"])
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                break
    space: Any = env.observation_space
    assert patch_grid(*space["image"].shape[:2]) == (1, 1)
    about = describe(get_task(name))
    assert (about["tokens_per_step"], about["compact_tokens_per_step"]) == ([18 + 1, 83], [4, 68])


def test_a_wrong_tile_is_named() -> None:
    with pytest.raises(ValueError, match="view setting tile=4; there are tiles of 8 and 2 pixels"):
        make(get_task("MiniGrid-Empty-5x5-v0").with_view(tile=4))


def test_a_carried_key_is_seen_under_the_agent() -> None:
    from minigrid.core.world_object import Key

    env = make("MiniGrid-Empty-5x5-v0")
    env.reset(seed=0)
    world: Any = env.unwrapped
    world.carrying = Key("yellow")
    observation, *_ = env.step(0)
    np.testing.assert_array_equal(observation["image"], world.get_frame(tile_size=8, agent_pov=True))


def test_the_space_can_be_stored() -> None:
    space = make("BabyAI-GoToLocal-v0").observation_space
    assert space_from_json(space_to_json(space)) == space


def test_all_levels_of_the_package_are_listed_but_those_that_it_cannot_make() -> None:
    import gymnasium as gym
    import minigrid

    gym.register_envs(minigrid)
    registered = {name for name in gym.registry if name.startswith(("MiniGrid-", "BabyAI-"))}
    assert {name for name in registered if "WFC" not in name} == {task.name for task in tasks("minigrid")}
    assert [task.name for task in tasks("minigrid") if task.expert is None] == ["MiniGrid-Playground-v0"]


ONE_OF_EACH = [next(task.name for task in tasks("minigrid") if task.name.startswith(f"MiniGrid-{beginning}"))
               for beginning in PLANNER_OF]
HARD = ["MiniGrid-KeyCorridorS6R3-v0", "MiniGrid-MultiRoom-N6-v0", "MiniGrid-ObstructedMaze-1Dlhb-v0",
        "MiniGrid-ObstructedMaze-Full-v1", "BabyAI-KeyInBox-v0", "BabyAI-PutNextS7N4Carrying-v0"]


@pytest.mark.parametrize("name", [*ONE_OF_EACH, *HARD])
def test_the_planner_solves_unseen_levels(name: str) -> None:
    assert all(episode.score > 0 for episode in rollout(name, make_expert(name), range(20_000, 20_003), record=False))


@pytest.mark.parametrize("name", ["MiniGrid-DoorKey-8x8-v0", "MiniGrid-BlockedUnlockPickup-v0", "BabyAI-KeyInBox-v0"])
def test_the_planner_recovers_from_actions_that_it_did_not_choose(name: str) -> None:
    episodes = list(rollout(name, make_expert(name), range(10), noise=0.3, record=False))
    assert sum(not episode.demonstrated.all() for episode in episodes) > 8
    assert all(episode.score > 0 for episode in episodes)


def test_the_planner_moves_what_blocks_the_only_way_and_does_not_put_it_back() -> None:
    """In this level a box stands before the ball that stands before the door; dropped where it stood, it never ends."""
    name = "MiniGrid-ObstructedMaze-2Dlhb-v1"
    (episode,) = rollout(name, make_expert(name), [10_001], record=False)
    assert episode.score > 0


def test_a_plan_carries_the_blocking_ball_aside_before_it_fetches_the_key() -> None:
    env = make("MiniGrid-BlockedUnlockPickup-v0")
    env.reset(seed=20_000)
    world: Any = env.unwrapped
    planner = Planner(world, touch=True)
    carried = []
    while world.carrying is not world.obj:
        for action in take_object(planner):
            env.step(action)
        if world.carrying and world.carrying.type not in carried:
            carried.append(world.carrying.type)
    assert carried == ["ball", "key", "box"]


def test_the_memory_expert_looks_before_it_goes() -> None:
    """The thing to remember must be in a picture, or nobody could learn the way from the expert."""
    name = "MiniGrid-MemoryS13-v0"
    for seed in range(20_000, 20_010):
        env = make(name)
        observation, _ = env.reset(seed=seed)
        act = make_expert(name)
        act.reset(0, seed, env)
        world: Any = env.unwrapped
        cue, seen, over = (1, world.height // 2 - 1), False, False
        while not over:
            seen = seen or bool(world.agent_sees(*cue))
            observation, _, over, _, _ = env.step(act.act([observation], [0])[0])
        assert seen


def test_an_outdated_version_is_made_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make(get_task("MiniGrid-MultiRoom-N4-S5-v0"))
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    env.close()
