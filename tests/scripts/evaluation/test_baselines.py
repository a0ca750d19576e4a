"""Baselines against cases worked out by hand."""

import math

import numpy as np
import pytest

from calico.scripts.evaluation.baselines import SIDE, most_frequent, nearest, unigram


def test_unigram_by_hand() -> None:
    """Training ids 0 0 1 of four: shares 3/7, 2/7, 1/7, 1/7 with one added to each."""
    found = unigram([0, 0, 1], [0, 1, 3], vocab_size=4, size=6)
    assert found.bits_per_byte == pytest.approx((math.log2(7 / 3) + math.log2(7 / 2) + math.log2(7)) / 6)
    assert (found.tokens, found.bytes) == (3, 6)


def test_unigram_of_even_bytes_is_eight_bits() -> None:
    every = np.arange(256)
    assert unigram(every, every, 256, 256).bits_per_byte == pytest.approx(8)


def test_the_most_frequent_text() -> None:
    assert most_frequent(["a", "b", "c", "b"]) == "b"
    assert most_frequent(iter(["c", "a"])) == "c"
    with pytest.raises(ValueError, match="no texts"):
        most_frequent([])


def test_the_nearest_picture_in_any_size() -> None:
    rng = np.random.default_rng(0)
    known = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(5)]
    larger = [np.kron(image, np.ones((n, n, 1), np.uint8)) for n, image in enumerate(known, 2)]
    noisy = [np.clip(image + rng.integers(-9, 10, image.shape), 0, 255).astype(np.uint8) for image in larger]
    assert nearest(noisy[::-1], known).tolist() == [4, 3, 2, 1, 0]
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((SIDE, SIDE, 3), 100, np.uint8)
    assert nearest([np.full((2, 9, 3), v, np.uint8) for v in (49, 51)], [black, grey]).tolist() == [0, 1]
    assert nearest([], known).tolist() == []
    with pytest.raises(ValueError, match="no known images"):
        nearest([black], [])
