"""Choice and probing of samples."""

import numpy as np
import pytest

from calico.datasets.samples.labelled import Labelled
from calico.scripts.training.encoder_data import Probe, by_length, some_per_class


def test_few_labels_are_drawn_from_each_class() -> None:
    labels = np.array([0] * 20 + [1] * 3 + [2] * 20)
    numbers = np.arange(1, 43)
    chosen = some_per_class(numbers, labels, 5, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [5, 3, 5] and len(set(chosen)) == 13 and 0 not in chosen
    assert not np.array_equal(chosen, some_per_class(numbers, labels, 5, seed=1))
    with pytest.raises(ValueError, match="0 labels per class leave nothing"):
        some_per_class(numbers, labels, 0, seed=0)


def test_batches_of_like_length_hold_everything_once() -> None:
    samples = ["abc", "a", "abcde", "ab"]
    assert list(by_length(samples, 3)) == [[1, 3, 0], [2]]


def test_a_probe_learns_from_one_side_and_is_measured_on_the_other() -> None:
    values = np.arange(200)
    data = Labelled(values.tolist(), values % 2, ["even", "odd"], [str(value) for value in values])
    seen: list[list[int]] = []

    def vectors(samples: list[int]) -> np.ndarray:
        seen.append(samples)
        return np.array([[value % 2, value / 200] for value in samples], np.float32)

    found = Probe(data, most=100)(vectors, per_class=10, draws=3)
    learnt, held_out = data.split(0.2)
    assert set(seen[0]) <= set(learnt) and set(seen[1]) == set(held_out) and len(seen[0]) == 100
    assert found == {"knn": 1.0, "linear": 1.0}
