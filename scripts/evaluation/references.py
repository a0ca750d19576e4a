"""Reference scores: random play and the expert, measured episode by episode."""

import argparse
from typing import Any

import numpy as np

from calico.envs import scores, workers
from calico.envs.experts import code_version, expert_version
from calico.envs.families.atari_planner import planner
from calico.envs.registry import Task, get_task, tasks
from calico.envs.runner import EnvironmentFault
from calico.scripts.common import console
from calico.scripts.common.sharding import Results, share


def score(arguments: argparse.Namespace) -> int:
    """What `calico score` does once its options are known; returns its exit code."""
    chosen = [get_task(name) for name in arguments.tasks] + (tasks(arguments.family) if arguments.family else [])
    chosen = [task for task in chosen if task.scores_of is None]
    if not chosen:
        raise ValueError("name at least one task (one that has scores of its own), or --family F; `calico tasks` lists them")
    for task in chosen:
        if arguments.write and scores.is_outside(task.name):
            raise ValueError(f"{task.name} is none of Calico's own tasks: measure it without --write, and put the means into "
                             "the `scores` of its FAMILY, see docs/extending.md")
    seeds = range(scores.FIRST_SEED, scores.FIRST_SEED + arguments.episodes)
    found: list[dict[str, Any]] = []
    for task in chosen:
        for policy in [arguments.policy] if arguments.policy else ("random", "expert"):
            if policy == "expert" and not task.expert:
                continue
            about: dict[str, Any] = {"versions": task.versions(), "view": dict(task.view)}
            if policy == "expert":
                about |= {"name": task.expert, "expert_version": expert_version(task)}
            elif policy != "random":
                about |= {"name": policy, "expert_version": code_version(planner)}
            if arguments.max_steps:
                about["max_steps"] = arguments.max_steps
            results = Results(arguments.out, task.name, policy.replace(":", "-"), about)
            measure(task, policy, seeds, results, arguments)
            if missing := results.missing(seeds):
                console.note(f"{task.name} {policy}: {len(missing)} episodes are other ranks', or still to be played")
                continue
            entry = summary(task, policy, seeds, results)
            found.append({"task": task.name, "policy": policy, **entry})
            if arguments.write:
                scores.write(task.name, policy, entry)
    columns = ("task", "policy", "mean", "std", "episodes", "failed", "length")
    console.print_result(found, arguments.json, columns, [[row[column] for column in columns] for row in found])
    console.wrote(scores.TABLE if arguments.write else arguments.out)
    return 0


def measure(task: Task, policy: str, seeds: range, results: Results, arguments: argparse.Namespace) -> None:
    """Play this rank's episodes that have no result yet. One that its environment did not survive is a result, too."""
    missing = results.missing(share(seeds))
    if not missing:
        return
    with console.progress(f"{task.name} {policy}", total=len(seeds), unit="episodes", start=len(seeds) - len(missing)) as bar:
        for episode in workers.play(task, policy, missing, workers=arguments.workers, time_limit=arguments.time_limit,
                                    max_steps=arguments.max_steps, record=False):
            if isinstance(episode, EnvironmentFault):
                results.put(episode.seed, {"fault": str(episode)})
                console.note(f"failed: {episode}")
                bar.advance()
                continue
            results.put(episode.seed, {"score": episode.score, "length": len(episode)})
            bar.advance(note=f"return {episode.score:g}")


def summary(task: Task, policy: str, seeds: range, results: Results) -> dict[str, Any]:
    """Mean and standard deviation, with what is needed to measure them again.

    Raises:
        ValueError: no episode could be played to its end.
    """
    played = [result for seed in seeds if (result := results.get(seed))]
    whole = [result for result in played if "fault" not in result]
    if not whole:
        raise ValueError(f"{task.name} {policy}: all {len(played)} episodes failed, the first with: {played[0]['fault']}")
    values = np.array([result["score"] for result in whole])
    return {
        "mean": round(float(values.mean()), 4), "std": round(float(values.std()), 4), "episodes": len(whole),
        "failed": len(played) - len(whole), "seeds": [seeds.start, seeds.stop],
        "length": round(float(np.mean([result["length"] for result in whole])), 1), **results.about,
    }
