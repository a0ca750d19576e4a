"""Stops a run of data2vec that has collapsed or diverged, with an error that gives the number which shows it."""

import math

from .objective import Outcome

COLLAPSES = {
    "target_deviation": "the targets have collapsed, their standard deviation",
    "prediction_deviation": "the predictions have collapsed, their standard deviation",
    "feature_deviation": "the features have collapsed, their standard deviation",
    "content_share": "the targets have collapsed to what their position alone tells, the fraction of variance between samples",
}
ADVICE = "lower the learning rate, lengthen its warm-up or raise tau, and start again from an earlier checkpoint"


class CollapseError(FloatingPointError):
    """The network has collapsed or diverged: more steps would not help."""


class CollapseGuard:
    """Stops a run whose network maps all inputs to one point: its loss still falls.

    The limits are fairseq's (0.1 and 0.01). A convolutional front end can collapse while targets and predictions still vary,
    so the local features are checked as well; and so are targets that vary between positions but no longer between samples.
    """

    def __init__(self, *, targets: float = 0.1, predictions: float = 0.01, features: float = 0.01, content: float = 0.02,
                 grace: int = 50, prediction_grace: int = 5000, patience: int = 20) -> None:
        """
        Args:
            targets, predictions, features: smallest stds.
            content: smallest fraction of the targets' variance that is between samples.
            grace: number of first steps in which only numbers that are not finite end the run.
            prediction_grace: the same for predictions, which are small at first and grow with the warm-up; it ends earlier
                once they have reached twice their limit.
            patience: so many steps in a row below a limit end the run.

        `steps` counts the checks; a resumed run sets it.
        """
        self.limits = {"target_deviation": targets, "prediction_deviation": predictions, "feature_deviation": features,
                       "content_share": content}
        self.grace = {**dict.fromkeys(self.limits, grace), "prediction_deviation": prediction_grace}
        self.patience, self.steps = patience, 0
        self.below = dict.fromkeys(self.limits, 0)

    def check(self, outcome: Outcome) -> None:
        """Call once per step. Raises CollapseError, which names the number, its value, its limit and what to do."""
        self.steps += 1
        loss = float(outcome.loss.detach())
        found = {name: getattr(outcome, name) for name in self.limits}
        for name, value in {"loss": loss, **found}.items():
            if not math.isfinite(value):
                raise CollapseError(f"step {self.steps}: the {name.replace('_', ' ')} is {value}: the run diverged; {ADVICE}")
        if found["prediction_deviation"] > 2 * self.limits["prediction_deviation"]:
            self.grace["prediction_deviation"] = self.grace["target_deviation"]
        for name, limit in self.limits.items():
            self.below[name] = self.below[name] + 1 if found[name] < limit and self.steps > self.grace[name] else 0
            if self.below[name] >= self.patience:
                raise CollapseError(f"step {self.steps}: {COLLAPSES[name]} {found[name]:.2g} has been below {limit} for "
                                    f"{self.patience} steps; {ADVICE}")
