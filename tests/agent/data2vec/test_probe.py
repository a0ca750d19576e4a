"""Probes: what they find where the answer is known."""

import numpy as np
import pytest

from calico.agent.data2vec.probe import fit, knn_accuracy, linear_accuracy


def blobs(n: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three clouds of points around corners of a cube, and which one each is from."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    return (np.eye(3)[labels] * 4 + rng.normal(0, noise, (n, 3))).astype(np.float32), labels


def test_both_probes_find_classes_that_are_apart() -> None:
    (train, labels), (test, truth) = blobs(200, 0.5), blobs(100, 0.5, seed=1)
    assert knn_accuracy(train, labels, test, truth) > 0.98
    assert linear_accuracy(train, labels, test, truth) > 0.98


def test_noise_is_guessed() -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(900, 8)).astype(np.float32), rng.integers(0, 3, 900)
    for probe in (knn_accuracy, linear_accuracy):
        assert 0.2 < probe(x[:600], labels[:600], x[600:], labels[600:]) < 0.47


def test_the_linear_layer_is_the_one_of_least_loss() -> None:
    """At the minimum of the penalised loss no coordinate's finite difference falls."""
    x, labels = blobs(60, 2.0)
    weights = fit(x, labels, 3, 0.1, np.zeros((4, 3)))

    def loss(w: np.ndarray) -> float:
        logits = x @ w[:3] + w[3]
        logits = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return float(-logits[np.arange(60), labels].mean() + 0.05 * (w ** 2).sum())

    best = loss(weights)
    for place in np.ndindex(4, 3):
        for change in (-0.05, 0.05):
            other = weights.copy()
            other[place] += change
            assert loss(other) > best


def test_scale_and_offset_of_the_vectors_do_not_matter() -> None:
    (train, labels), (test, truth) = blobs(100, 2.0), blobs(100, 2.0, seed=1)
    assert linear_accuracy(train * 1e-3 + 7, labels, test * 1e-3 + 7, truth) == pytest.approx(
        linear_accuracy(train, labels, test, truth), abs=0.02)


def test_few_samples_and_one_class() -> None:
    x, labels = blobs(6, 0.1)
    assert knn_accuracy(x, labels, x, labels) > 0.3          # fewer than twenty neighbours
    with pytest.raises(ValueError, match="at least two classes"):
        linear_accuracy(x, np.zeros(6, int), x, np.zeros(6, int))
