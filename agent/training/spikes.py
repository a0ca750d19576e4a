"""Steps whose gradient is far larger than those before are left out: OLMo's "skip step" (arXiv:2501.00656, section 3.2).

A few mislabelled or broken rows give such a step, and clipping alone only makes it as large as the largest honest one.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping

REMEMBERED = 128      # steps that a step is compared with
FEWEST = 32           # before so many have been seen, none is a spike: the first gradients are large


class Spikes:
    """The gradient norms of the last steps that were taken."""

    def __init__(self, deviations: float) -> None:
        """deviations: a norm so many standard deviations above the mean is a spike; 0: none is."""
        self.deviations = deviations
        self.norms: deque[float] = deque(maxlen=REMEMBERED)

    def sees(self, norm: float) -> bool:
        """Whether this norm is a spike. One that is not is remembered; a spike would widen what counts as usual."""
        if not self.deviations:
            return False
        if len(self.norms) >= FEWEST:
            mean = math.fsum(self.norms) / len(self.norms)
            deviation = math.sqrt(math.fsum((each - mean) ** 2 for each in self.norms) / (len(self.norms) - 1))
            if norm > mean + self.deviations * deviation:
                return True
        self.norms.append(norm)
        return False

    def restore(self, norms: Iterable[float]) -> None:
        """Continue with the norms of a saved run."""
        self.norms = deque(norms, maxlen=REMEMBERED)


def highest(losses: Mapping[str, float], most: int = 3) -> str:
    """Words for the log: the sources with the highest loss."""
    ranked = sorted(losses.items(), key=lambda each: -each[1])[:most]
    return ", ".join(f"{name} {loss:.3g}" for name, loss in ranked)
