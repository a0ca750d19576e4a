"""Baselines without a network."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from calico.scripts.evaluation.metrics import Likelihood

SIDE = 32   # pixels: pictures are compared in this size


def unigram(train: Sequence[int] | np.ndarray, test: Sequence[int] | np.ndarray, vocab_size: int, size: int) -> Likelihood:
    """Likelihood under the token frequencies of the training text, one added to every count.

    Args:
        train, test: ids in [0, vocab_size); bytes give the baseline of bytes.
        size: length of the test text in bytes.
    """
    counts = np.bincount(np.asarray(train, np.int64), minlength=vocab_size) + 1
    nats = np.log(counts.sum()) - np.log(counts)
    return Likelihood(float(nats[np.asarray(test, np.int64)].sum()), len(test), size)


def most_frequent(texts: Iterable[str]) -> str:
    """The text given most often, the first of several; for captions or answers.

    Raises:
        ValueError: no texts.
    """
    counts = Counter(texts)
    if not counts:
        raise ValueError("there are no texts to choose the most frequent of")
    return counts.most_common(1)[0][0]


def nearest(images: Iterable[np.ndarray], known: Iterable[np.ndarray]) -> np.ndarray:
    """For each image the known one with the smallest squared difference of pixels, both shrunk to SIDE x SIDE.

    Args:
        images, known: uint8 (height, width, 3), of any sizes.
    Returns:
        int64 (images,), indices into `known`.
    Raises:
        ValueError: no known images.
    """
    one, other = _flat(images), _flat(known)
    if not len(other):
        raise ValueError("there are no known images to find the nearest of")
    return ((other**2).sum(1) - 2 * one @ other.T).argmin(1)      # |a - b|^2 without |a|^2, the same for every b


def _flat(images: Iterable[np.ndarray]) -> np.ndarray:
    """float32 (images, SIDE * SIDE * 3) in [-1, 1]."""
    small = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX)) for image in images]
    return np.reshape(np.array(small, np.float32) / 127.5 - 1, (len(small), SIDE * SIDE * 3))
