"""A run that collapses or diverges is stopped, with the number that shows it; early steps and short dips are not."""

import math
from typing import Any

import pytest
import torch

from calico.agent.data2vec.collapse import CollapseError, CollapseGuard
from calico.agent.data2vec.objective import Outcome


def outcome(**changes: float) -> Outcome:
    values: dict[str, Any] = {"target_deviation": 1.0, "prediction_deviation": 0.5, "feature_deviation": 1.0,
                              "content_share": 0.8, **changes}
    return Outcome(torch.tensor(values.pop("loss", 1.0)), 10, tau=0.999, **values)


@pytest.mark.parametrize(("changes", "message"), [
    ({"target_deviation": 0.09}, "step 8: the targets have collapsed, their standard deviation 0.09 has been below 0.1 for 5"),
    ({"prediction_deviation": 0.009}, "step 10: the predictions have collapsed"),
    ({"feature_deviation": 0.001}, "step 8: the features have collapsed"),
    ({"content_share": 0.01}, "step 8: the targets have collapsed to what their position alone tells"),
])
def test_the_guard_waits_out_the_start_and_short_dips(changes: dict[str, float], message: str) -> None:
    guard = CollapseGuard(grace=3, prediction_grace=5, patience=5)
    with pytest.raises(CollapseError, match=message):
        for _ in range(20):
            guard.check(outcome(**changes))
    guard = CollapseGuard(grace=1, prediction_grace=9**9, patience=5)
    for _ in range(20):
        for _ in range(4):
            guard.check(outcome(**changes))
        guard.check(outcome())
    with pytest.raises(CollapseError):   # predictions that once were large do not wait
        for _ in range(5):
            guard.check(outcome(**changes))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_guard_stops_at_once_when_a_number_is_not_finite(value: float) -> None:
    with pytest.raises(CollapseError, match="step 1: the loss is (nan|inf): the run diverged"):
        CollapseGuard().check(outcome(loss=value))
