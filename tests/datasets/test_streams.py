"""Streams of different names share nothing, and epochs are permutations."""

import itertools

import numpy as np

from calico.datasets.streams import shuffled, stream, stream_key

SMALL = (0, 1, 2, 3, 7, 10, 11, 110, 1 << 32, (1 << 32) + 1, 1 << 64)


def test_no_two_names_are_one_stream() -> None:
    """All pairs of names that can meet: any purpose, up to three numbers, zeros and numbers of two words among them."""
    names = [(seed, purpose, numbers) for seed in SMALL for purpose in ("row", "rows", "epoch", "1")
             for length in range(4) for numbers in itertools.product(SMALL[:8], repeat=length)]
    assert len({stream_key(seed, purpose, *numbers) for seed, purpose, numbers in names}) == len(names) > 20_000
    assert stream_key(np.int64(3), "row", np.int32(1)) == stream_key(3, "row", 1)   # type: ignore[arg-type]


def test_zeros_are_no_padding() -> None:
    assert np.random.default_rng((3, 5)).random() == np.random.default_rng((3, 5, 0)).random()      # why streams.py is there
    draws = [stream(*name).random(4) for name in ((3, "x"), (3, "x", 0), (3, "x", 0, 0), (3, "x 0"), (30, "x"))]
    assert all(not np.isclose(one, other).any() for one, other in itertools.combinations(draws, 2))
    np.testing.assert_array_equal(stream(3, "x", 0).random(4), draws[1])


def test_a_stream_stays_what_it_is() -> None:
    """Runs continue with it: a change here needs another ORDER and another STATE_FORMAT of mixtures."""
    assert stream_key(1, "row", 2, 3) == 242188755443807857936600585264003493596
    assert stream(1, "row", 2, 3).integers(1000, size=4).tolist() == [617, 31, 102, 483]


def test_every_row_once_per_epoch_in_another_order() -> None:
    drawn = np.concatenate([shuffled(10, 4, step, seed=3) for step in range(10)])        # four epochs of ten
    epochs = drawn.reshape(4, 10).tolist()
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert shuffled(10, 4, 7, seed=3).tolist() == drawn[28:32].tolist()                  # a function of the step alone
    assert shuffled(10, 10, 0, seed=3).tolist() != shuffled(10, 10, 0, seed=4).tolist()
    assert np.bincount(shuffled(10, 25, 0, seed=3)).tolist().count(2) == 5               # a batch of two epochs and a half
