"""Episode: what a world hands to the tokenizers and a dataset keeps.

Observations and actions are trees of the Gymnasium spaces, flattened to leaves whose names join the keys with "/"
(see spaces.flatten); a space that is not a Dict or Tuple has the single leaf "".
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One episode of one task, T steps long.

    Attributes:
        task: the registry's name of the task.
        seed: the seed that the environment was reset with.
        observations: leaf name -> array (T + 1, ...), the last entry seen after the last action; text leaves are object
            arrays of str (T + 1,).
        actions: leaf name -> array (T, ...), text leaves as above.
        demonstrated: bool (T,), True where the action is the policy's own choice. Collecting with noise replaces some
            actions by random ones, so that the data shows how the expert recovers.
        rewards: float64 (T,), as the environment gave them.
        terminated: the environment ended the episode (its MDP did).
        truncated: a limit outside the MDP ended it.
        info: plain JSON values worth keeping (success, lives, frames).
        labels: leaf name -> array (T, ...), what the loss asks for at each step in place of `actions`: where an action was
            replaced, the one that the policy had chosen. None: `actions` themselves, of the steps that are `demonstrated`.
    """

    task: str
    seed: int
    observations: dict[str, np.ndarray]
    actions: dict[str, np.ndarray]
    demonstrated: np.ndarray
    rewards: np.ndarray
    terminated: bool
    truncated: bool
    info: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, np.ndarray] | None = None

    def __len__(self) -> int:
        """Number of steps T."""
        return len(self.rewards)

    @property
    def score(self) -> float:
        """Undiscounted return: the sum of the rewards."""
        return float(self.rewards.sum())
