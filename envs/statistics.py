"""Many tasks in one number: mean and interquartile mean of normalised scores, with stratified bootstrap intervals.

After Agarwal et al., "Deep RL at the edge of the statistical precipice" (arXiv:2108.13264): the interquartile mean drops
the lowest and the highest quarter of the tasks, so that one game at 5,000 % does not decide; the interval comes from drawing
the episodes of each task again, with replacement, task by task (a stratum is a task).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import trim_mean


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the last axis: (..., tasks) -> (...)."""
    return trim_mean(values, 0.25, axis=-1)


def stratified_bootstrap(episodes: Sequence[Sequence[float]], statistic: Callable[[np.ndarray], np.ndarray], *,
                         resamples: int = 2000, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """A statistic over the tasks' means.

    Args:
        episodes: per task the normalised scores of its episodes, at least one.
        statistic: task means (..., tasks) -> (...).
    Raises:
        ValueError: no task, or a task without episodes.
    """
    if not episodes or not all(len(scores) for scores in episodes):
        raise ValueError(f"{len(episodes)} tasks, of which {sum(not len(s) for s in episodes)} have no episode; give at least "
                         "one task and one episode each")
    rng = np.random.default_rng(seed)
    drawn = np.empty((resamples, len(episodes)))
    for number, scores in enumerate(episodes):
        values = np.asarray(scores, float)
        drawn[:, number] = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(statistic(drawn), [tail, 100 - tail])
    return Estimate(float(statistic(np.array([np.mean(scores) for scores in episodes]))), float(low), float(high))
