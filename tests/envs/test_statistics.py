"""Means over tasks and their intervals, against cases done by hand."""

import numpy as np
import pytest

from calico.envs.statistics import interquartile_mean, stratified_bootstrap


def test_the_interquartile_mean_drops_a_quarter_on_either_side() -> None:
    assert interquartile_mean(np.array([-900.0, 10, 20, 5000])) == 15
    np.testing.assert_allclose(interquartile_mean(np.array([[0.0, 1, 2, 3], [4, 4, 4, 4]])), [1.5, 4])


def test_tasks_without_spread_have_no_interval() -> None:
    estimate = stratified_bootstrap([[50, 50, 50], [100], [0, 0]], np.mean)
    assert (estimate.value, estimate.low, estimate.high) != (0, 0, 0)
    assert estimate.value == estimate.low == estimate.high == 50


def test_the_interval_is_that_of_the_mean() -> None:
    rng = np.random.default_rng(1)
    episodes = [list(rng.normal(60, 10, 100)) for _ in range(4)]       # the standard error of the mean of means is 0.5
    estimate = stratified_bootstrap(episodes, lambda means: means.mean(axis=-1))
    assert estimate.low < estimate.value < estimate.high
    assert 0.7 < estimate.high - estimate.value < 1.3
    assert estimate == stratified_bootstrap(episodes, lambda means: means.mean(axis=-1))   # seeded


def test_a_task_without_episodes_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 tasks, of which 1 have no episode"):
        stratified_bootstrap([[1.0], []], interquartile_mean)
