"""The MiniGrid view: the picture is MiniGrid's own, the mission is plain text, and nothing is printed."""

from typing import Any

import numpy as np
import pytest

from calico.envs.registry import make
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
