"""Choosing a token from logits: greedy, temperature, top-k; one random generator per row, independent of the batch."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How to choose. Temperature 0 is greedy."""

    temperature: float = 1.0
    top_k: int = 0           # only the k best; 0: all
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0 or self.top_k < 0:
            raise ValueError(f"temperature={self.temperature} and top_k={self.top_k} must not be negative; "
                             "temperature 0 always takes the best token")

    def generator(self, episode_seed: int) -> np.random.Generator:
        """The generator of a row that plays the episode (or answers the prompt) with this seed."""
        return np.random.default_rng((self.seed, episode_seed))


def choose(logits: np.ndarray, config: SamplingConfig, generators: list[np.random.Generator]) -> np.ndarray:
    """One index per row, int64 (rows,) in [0, n).

    Args:
        logits: float (rows, n), of the legal tokens alone; -inf for tokens that cannot be chosen.
        generators: one per row, used only where the temperature is above 0.
    """
    if config.temperature == 0:
        return logits.argmax(axis=-1)
    if 0 < config.top_k < logits.shape[-1]:
        smallest = np.partition(logits, -config.top_k, axis=-1)[:, -config.top_k, None]
        logits = np.where(logits < smallest, -np.inf, logits)
    uniform = np.stack([g.random(logits.shape[-1]) for g in generators])
    return (logits / config.temperature - np.log(-np.log(uniform))).argmax(axis=-1)   # Gumbel-max: exact sampling
