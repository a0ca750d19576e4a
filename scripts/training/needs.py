"""More rows for what a network does not play well yet: the weights of tasks follow its measured scores.

Hundreds of tasks share a training's minutes. Most of them are soon learnt, and what they are shown from then on teaches little;
so a run that goes on from another one (`init`) may multiply each task's weight by what the other's scores ask for
(`data.by_need`). Tasks that are learnt keep more than half: with a quarter those that need fine movements were forgotten
(docs/results/generalist.md).
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from calico.scripts.common import console
from calico.scripts.common.settings import RunSettings
from calico.scripts.common.sources import OpenedSource

# score as a share of the expert's that is not reached -> weight
FACTORS = ((0.5, 2.0), (0.7, 1.5), (0.9, 1.0), (math.inf, 0.6))
NEW = FACTORS[0][1]      # of a task that the network does not know


def factor(of_expert: float) -> float:
    """By which the weight of a task with this score is multiplied."""
    return next(weight for bound, weight in FACTORS if of_expert < bound)


def resolved(settings: RunSettings, tasks: Iterable[str]) -> RunSettings:
    """With `data.needs` filled in: of a run that is continued those that it began with, else from the scores of `init`.

    Args:
        tasks: names, of all sources that have one.
    Raises:
        ValueError: no `init`, or one that was not evaluated.
    """
    data = settings.data
    if not data.by_need or data.needs:
        return settings
    begun = Path(settings.out) / "config.json"
    needs = json.loads(begun.read_text())["data"].get("needs", {}) if begun.exists() else {}
    return replace(settings, data=replace(data, needs=needs or measured(settings.init, tasks)))


def measured(init: str, tasks: Iterable[str]) -> dict[str, float]:
    """What the scores of a network ask for, task by task; those without an expert's score keep their weight."""
    if not init:
        raise ValueError("data.by_need=true follows the scores of the run that init names, and there is no init; give "
                         "init=RUN, or leave by_need out")
    from calico.scripts.evaluation.card import card_of  # late: what it loads takes a second, and few runs ask

    scores = card_of(init)["scores"]
    found = {}
    for task in sorted(set(tasks)):
        if task not in scores:
            found[task] = NEW
        elif (reached := scores[task]["of_expert"]) is not None:
            found[task] = factor(reached)
    weak = sum(number == NEW for number in found.values())
    console.note(f"weights by need: {weak} of {len(found)} tasks are not played at half of the expert by {init}, or not known")
    return found


def weighted(settings: RunSettings, opened: Sequence[OpenedSource]) -> list[OpenedSource]:
    """The sources, each with its weight times what its task needs."""
    needs = settings.data.needs
    return [replace(source, settings=replace(source.settings, weight=source.settings.weight * needs[task["name"]]))
            if (task := source.data.task) is not None and task["name"] in needs else source for source in opened]
