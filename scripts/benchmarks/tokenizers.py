"""Tokenizers: whole episodes into tokens, per second."""

import gymnasium as gym
import numpy as np

from calico.scripts.benchmarks.interleaved import seconds
from calico.tokenizers.episode import Episode
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.vocabulary import Vocabulary


def bench_tokenizers(turns: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    steps = 2000
    spaces: dict[str, tuple[gym.Space, np.ndarray]] = {
        "state": (gym.spaces.Box(-np.inf, np.inf, (8,)), rng.normal(size=(steps + 1, 8)).astype(np.float32)),
        "frames": (gym.spaces.Box(0, 255, (64, 64, 3), np.uint8),
                   rng.integers(0, 256, (steps + 1, 64, 64, 3)).astype(np.uint8))}
    found = {}
    for name, (space, observations) in spaces.items():
        codec = TaskCodec(space, gym.spaces.Discrete(6), Vocabulary(), None)
        episode = Episode(task=name, seed=0, observations={"": observations}, actions={"": rng.integers(0, 6, steps)},
                          demonstrated=np.ones(steps, bool), rewards=np.zeros(steps), terminated=False, truncated=True)
        (taken,) = seconds(turns, lambda: codec.encode_episode(episode))   # noqa: B023
        found[f"tokens_per_second_{name}"] = len(codec.encode_episode(episode)) / taken
    return found
