"""Reference scores and the arithmetic of normalised scores.

`scores.json` beside this file holds, per task, what the random policy and the expert reached here, each with the number
of episodes, the seeds, package versions and view settings; and the published human and random scores of Atari games.
Published scores come from other protocols (no sticky actions there), so the random baseline measured here comes first.

`calico score CartPole-v1 --episodes 100 --write` measures a task again and writes it into the file.
"""

import fcntl
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..datasets.publish import replace_file
from . import task_table
from .registry import family, get_task, is_known

TABLE = Path(__file__).with_name("scores.json")
FIRST_SEED = 10_000   # references are measured on seeds that no demonstration is collected from


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a task's scores are compared with.

    Attributes:
        random: mean score of the random policy: measured here, or else published.
        expert: mean score of the scripted expert, measured here.
        human: published score of a professional tester.
        Each is None where it is unknown.
    """

    task: str
    random: float | None = None
    expert: float | None = None
    human: float | None = None

    def normalise(self, score: float) -> float | None:
        """`normalise` against the expert, or the human where there is no expert."""
        return normalise(score, self.random, self.human if self.expert is None else self.expert)


@cache
def table() -> dict[str, Any]:
    """The whole of scores.json: {"measured": {task: {"random": {...}, "expert": {...}}}, "published": {...}}."""
    return json.loads(TABLE.read_text())


def reference(task: str) -> Reference:
    """Reference scores of a task; all None for a task that nobody measured, or that is not known here."""
    with suppress(ValueError):
        task = get_task(task).scores_of or task
    return recorded(task)


def recorded(task: str) -> Reference:
    """What scores.json holds under exactly this name; for a task from outside, what its family says."""
    measured = {kind: values["mean"] for kind, values in table()["measured"].get(task, {}).items()}
    if not measured and is_outside(task):
        measured = dict(family(get_task(task).family).scores.get(task, {}))
    published = table()["published"]["scores"].get(task, {})
    return Reference(task=task, random=measured.get("random", published.get("random")), expert=measured.get("expert"),
                     human=published.get("human"))


def is_outside(task: str) -> bool:
    """Whether a task is none of those that come with Calico."""
    return task not in task_table.rows() and is_known(task)


def normalise(score: float, random: float | None, expert: float | None) -> float | None:
    """100 * (score - random) / (expert - random): 0 is random play, 100 the expert (Gato, arXiv:2205.06175, 4.1).

    Returns:
        per cent; None where a reference is missing, or the expert does not beat random play: nothing is measured then.
    """
    if random is None or expert is None or not expert > random:
        return None
    return 100 * (score - random) / (expert - random)


def share_at(normalised: Iterable[float | None], threshold: float) -> float | None:
    """Share of the scored tasks, in [0, 1], whose normalised score is at least `threshold`; None if none is scored."""
    scored = [score for score in normalised if score is not None]
    return sum(score >= threshold for score in scored) / len(scored) if scored else None


def write(task: str, policy: str, entry: dict[str, Any]) -> None:
    """Put a measurement into scores.json; the file appears whole or not at all, and other writers wait meanwhile."""
    folder = os.open(TABLE.parent, os.O_RDONLY)   # the lock is the folder's, for the file itself is replaced
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        values = json.loads(TABLE.read_text())
        values["measured"].setdefault(task, {})[policy] = entry
        values["measured"] = {name: values["measured"][name] for name in sorted(values["measured"])}
        replace_file(TABLE, json.dumps(values, indent=1) + "\n")
    finally:
        os.close(folder)
    table.cache_clear()
