"""Box2D: the walker's gait and the driver beat random play on unseen seeds."""

import numpy as np
import pytest

from calico.envs.experts import RandomPolicy, make_expert
from calico.envs.runner import rollout


def test_the_walker_walks() -> None:
    expert, random = ([e.score for e in rollout("BipedalWalker-v3", player, range(20_000, 20_004), max_steps=500, record=False)]
                      for player in (make_expert("BipedalWalker-v3"), RandomPolicy()))
    assert np.mean(expert) > 0 > -20 > np.mean(random)


def test_the_driver_keeps_to_the_track_from_the_start() -> None:
    """In 120 steps random play has some 15 points; the whole lap is in the slow test."""
    (episode,) = rollout("CarRacing-v3", make_expert("CarRacing-v3"), [20_000], max_steps=120, record=False)
    assert episode.score > 80


@pytest.mark.slow
def test_the_driver_finishes_its_lap() -> None:
    episodes = list(rollout("CarRacing-v3", make_expert("CarRacing-v3"), range(20_000, 20_003), num_envs=1, record=False))
    assert all(episode.terminated and episode.score > 880 for episode in episodes)
