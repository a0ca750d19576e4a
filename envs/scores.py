"""Reference scores and the arithmetic of normalised scores.

`scores.json` beside this file holds, per task, what the random policy and the expert reached here, each with the number
of episodes, the seeds, package versions and view settings; and the published human and random scores of Atari games.
Published scores come from other protocols (no sticky actions there), so the random baseline measured here comes first.

`python -m calico.envs.scores CartPole-v1 --episodes 100` measures a task again and writes it into the file.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .experts import Policy, RandomPolicy, make_expert
from .registry import get_task
from .runner import rollout

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
    """Reference scores of a task; all None for a task that nobody measured."""
    measured = {kind: values["mean"] for kind, values in table()["measured"].get(task, {}).items()}
    published = table()["published"]["scores"].get(task, {})
    return Reference(task=task, random=measured.get("random", published.get("random")), expert=measured.get("expert"),
                     human=published.get("human"))


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


def measure(task_name: str, policy: Policy, seeds: range) -> dict[str, Any]:
    """Mean and standard deviation of a policy's scores, with what is needed to measure them again."""
    task = get_task(task_name)
    episodes = list(rollout(task, policy, seeds, record=False))
    scores = np.array([episode.score for episode in episodes])
    lengths = [len(episode) for episode in episodes]
    return {
        "mean": round(float(scores.mean()), 4), "std": round(float(scores.std()), 4), "episodes": len(seeds),
        "seeds": [seeds.start, seeds.stop], "length": round(float(np.mean(lengths)), 1),
        "versions": task.versions(), "view": dict(task.view),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure tasks and write scores.json."""
    parser = argparse.ArgumentParser(description="Measure random and expert scores and write them into scores.json.")
    parser.add_argument("tasks", nargs="+", metavar="TASK")
    parser.add_argument("--episodes", type=int, default=100)
    options = parser.parse_args(arguments)
    seeds = range(FIRST_SEED, FIRST_SEED + options.episodes)
    for name in options.tasks:
        task = get_task(name)
        policies: dict[str, Policy] = {"random": RandomPolicy()}
        if task.expert:
            policies["expert"] = make_expert(task)
        entry: dict[str, Any] = {}
        for kind, policy in policies.items():
            entry[kind] = measure(name, policy, seeds) | ({"name": task.expert} if kind == "expert" else {})
            mean, std = entry[kind]["mean"], entry[kind]["std"]
            print(f"{name} {kind}: {mean:.2f} +- {std:.2f} over {len(seeds)} episodes", flush=True)
        values = json.loads(TABLE.read_text())      # read late: another process may have measured others meanwhile
        values["measured"][name] = entry
        values["measured"] = dict(sorted(values["measured"].items()))
        TABLE.write_text(json.dumps(values, indent=1) + "\n")
    print(f"wrote {TABLE}")


if __name__ == "__main__":
    main()
