"""The quick test of all rows lets nothing through that the slow test of one would name."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from calico.envs.checks import all_fit, complaint

SPACES: list[gym.Space] = [
    spaces.Box(-1, 1, (3,)), spaces.Box(-np.inf, np.inf, (2,), np.float64), spaces.Box(0, 255, (4, 4, 3), np.uint8),
    spaces.Box(0, 7, (2,), np.int64), spaces.Discrete(4, start=-1), spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(5),
    spaces.Text(8), spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3)),
    spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1, (1,)))),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_samples_fit(space: gym.Space) -> None:
    space.seed(0)
    values = [space.sample() for _ in range(16)]
    assert all_fit(space, bounds=True)(values) and all_fit(space, bounds=False)(values)
    assert [complaint(space)(value) for value in values] == [None] * 16


@pytest.mark.parametrize(("space", "wrong", "says"), [
    (SPACES[0], np.array([0, np.nan, 0], np.float32), "1 NaN of 3 values"),
    (SPACES[0], np.zeros(4, np.float32), r"shape \(4,\)"),
    (SPACES[0], np.zeros(3, np.int64), "dtype int64"),
    (SPACES[0], "up", "the string 'up'"),
    (SPACES[2], np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\)"),
    (SPACES[2], np.zeros((4, 4, 3), np.float32), "dtype float32"),
    (SPACES[3], np.array([0, 8]), r"is \[0, 8\], outside"),
    (SPACES[4], np.int64(3), "is 3, outside"),
    (SPACES[5], np.array([0, 4]), "outside"),
    (SPACES[7], 3, "is a ndarray, expected a string"),
    (SPACES[8], {"a": np.zeros(2, np.float32)}, "must have the keys"),
    (SPACES[8], {"a": np.zeros(2, np.float32), "b": 3}, "observation 'b' is 3"),
    (SPACES[9], (1,), "must be a tuple of 2 parts"),
])
def test_one_wrong_value_among_others_is_seen_and_named(space: gym.Space, wrong: Any, says: str) -> None:
    space.seed(0)
    values = [space.sample() for _ in range(5)]
    values[3] = wrong
    assert not all_fit(space, bounds=False)(values)
    with pytest.raises(AssertionError, match=says):
        assert complaint(space)(wrong) is None, complaint(space)(wrong)


def test_observations_may_leave_float_bounds_and_actions_may_not() -> None:
    far = [np.array([0, 0, 2], np.float32)] * 2
    assert all_fit(SPACES[0], bounds=False)(far) and not all_fit(SPACES[0], bounds=True)(far)
    infinite = [np.array([np.inf, -np.inf])] * 2
    assert complaint(SPACES[1])(infinite[0]) is None
