"""Probes of frozen vectors: nearest neighbours, and one linear layer.

    knn_accuracy      votes of the nearest training vectors by cosine, weighted as Wu et al. (1805.01978)
    linear_accuracy   multinomial logistic regression on standardised vectors; a fifth of the training split is held out to
                      choose the weight decay
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

NEIGHBOURS, TEMPERATURE = 20, 0.07
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)   # tried weights of the squared norm, per training sample
ITERATIONS = 200


def knn_accuracy(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Accuracy on the test vectors (m, width); train (n, width), labels int (n,), truth int (m,)."""
    train, test = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (train, test))
    similarity = test @ train.T                                                          # (m, n)
    k = min(NEIGHBOURS, len(train))
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    weights = np.exp(np.take_along_axis(similarity, nearest, 1) / TEMPERATURE)
    votes = np.zeros((len(test), int(labels.max()) + 1))
    np.add.at(votes, (np.arange(len(test))[:, None], labels[nearest]), weights)
    return float((votes.argmax(1) == truth).mean())


def linear_accuracy(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray,
                    decays: Sequence[float] = DECAYS) -> float:
    """Accuracy of a linear layer. Raises ValueError where there are fewer than two classes."""
    classes = int(labels.max()) + 1
    if len(np.unique(labels)) < 2:
        raise ValueError("a probe needs samples of at least two classes; give more labelled data")
    centre, scale = train.mean(0), train.std(0) + 1e-6
    train, test = ((x - centre) / scale for x in (train, test))
    order = np.random.default_rng(0).permutation(len(train))
    chosen, kept = order[len(order) // 5:], order[:len(order) // 5]
    best, score = decays[0], -1.0
    weights = np.zeros((train.shape[1] + 1, classes))
    for decay in sorted(decays, reverse=True) if len(kept) else ():                  # each starts from the weights of the last
        weights = fit(train[chosen], labels[chosen], classes, decay, weights)
        if (found := accuracy(train[kept], labels[kept], weights)) > score:
            best, score = decay, found
    return accuracy(test, truth, fit(train, labels, classes, best, weights))


def fit(x: np.ndarray, labels: np.ndarray, classes: int, decay: float, start: np.ndarray) -> np.ndarray:
    """Weights (width + 1, classes), the last row the bias, that minimise mean cross-entropy + decay / 2 * squared norm."""
    x = np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)
    wanted = np.eye(classes)[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(start.shape)
        logits = x @ weights.astype(x.dtype)
        logits = logits - logits.max(1, keepdims=True)
        log_sums = np.log(np.exp(logits).sum(1, keepdims=True))
        gradient = x.T @ ((np.exp(logits - log_sums) - wanted) / len(x)).astype(x.dtype) + decay * weights
        value = float((log_sums[:, 0] - (logits * wanted).sum(1)).mean() + decay / 2 * (weights ** 2).sum())
        return value, gradient.ravel().astype(np.float64)

    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    return np.asarray(found.x).reshape(start.shape)


def accuracy(x: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Fraction of the rows whose largest logit is at their label."""
    return float(((x @ weights[:-1] + weights[-1]).argmax(1) == labels).mean())
