"""Random streams that share nothing: a generator for each purpose, seed and tuple of numbers; and shuffled epochs.

NumPy pads the words of a seed with zeros, so that `default_rng((seed, step))` and `default_rng((seed, step, 0))` are one
stream, and so are (seed, 1, step) and (seed, epoch) where epoch is 1 and step 0. Here a stream is named by text, which is
hashed: other names, other streams, whatever the numbers are.
"""

import hashlib
from functools import lru_cache

import numpy as np

ORDER = 2   # of the drawing of batches; runs of order 1, which wrote no number, drew from the padded seeds


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A generator that depends on its name alone: `stream(seed, "row", step, row)`."""
    return np.random.Generator(np.random.Philox(key=stream_key(seed, purpose, *numbers)))


def stream_key(seed: int, purpose: str, *numbers: int) -> int:
    """128 bits of the SHA-256 of a stream's name; its lowest 63 are a seed for PyTorch."""
    name = f"{purpose} {' '.join(str(int(number)) for number in (seed, *numbers))}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big")


def shuffled(count: int, size: int, step: int, seed: int) -> np.ndarray:
    """Rows of a step's batch, int64 (size,): each epoch has every one of `count` rows once, in an order of its own.

    A pure function of its arguments; a batch may span several epochs.
    """
    epochs, positions = np.divmod(np.arange(step * size, (step + 1) * size), count)
    pairs = zip(epochs.tolist(), positions.tolist(), strict=True)
    return np.array([_order(count, seed, epoch)[position] for epoch, position in pairs])


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return stream(seed, "epoch", epoch).permutation(count)
