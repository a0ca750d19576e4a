"""`calico score TASK...`: what uniform random actions and the task's expert reach, the ends of the scale of every score.

    calico score CartPole-v1 Acrobot-v1                      # 20 episodes of each, a table
    calico score --family classic --episodes 100 --json
    torchrun --nproc-per-node 4 -m calico.scripts.score --family atari     # each rank its share; see common/sharding.py

Every episode leaves a small file under --out, so that a stopped measurement goes on where it was; one made with other
packages, another view or an expert that was changed since is played again. `--write` puts finished tasks into the table that
the package ships (envs/scores.json), with seeds, versions and view settings.
"""

from pathlib import Path
from typing import Any

import numpy as np

from calico.envs import scores, workers
from calico.envs.experts import expert_version
from calico.envs.registry import FAMILIES, Task, get_task, tasks
from calico.envs.runner import EnvironmentFault
from calico.scripts.common import console
from calico.scripts.common.sharding import Results, share

POLICIES = ("random", "expert")


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, play, sum up."""
    parser = console.make_parser("score", __doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="names from `calico tasks`")
    parser.add_argument("--family", metavar="F", help=f"all tasks of this family: {', '.join(FAMILIES)}")
    parser.add_argument("--episodes", type=int, default=20, help="per task and policy (default 20)")
    parser.add_argument("--policy", choices=POLICIES, help="only this one")
    parser.add_argument("--workers", type=int, default=1, help="processes side by side (default 1; 0 plays in this one)")
    parser.add_argument("--time-limit", type=float, default=120.0, help="seconds a step or a reset may take (default 120)")
    parser.add_argument("--out", type=Path, default=Path("runs/score"), help="results of the episodes (default runs/score)")
    parser.add_argument("--write", action="store_true", help="put the results into the package's table")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.episodes < 1:
        raise ValueError(f"--episodes {arguments.episodes} must be at least 1")
    chosen = [get_task(name) for name in arguments.tasks] + (tasks(arguments.family) if arguments.family else [])
    chosen = [task for task in chosen if task.scores_of is None]
    if not chosen:
        raise ValueError("name at least one task (one that has scores of its own), or --family F; `calico tasks` lists them")
    seeds = range(scores.FIRST_SEED, scores.FIRST_SEED + arguments.episodes)
    found: list[dict[str, Any]] = []
    for task in chosen:
        for policy in [arguments.policy] if arguments.policy else POLICIES:
            if policy == "expert" and not task.expert:
                continue
            about: dict[str, Any] = {"versions": task.versions(), "view": dict(task.view)}
            if policy == "expert":
                about |= {"name": task.expert, "expert_version": expert_version(task)}
            results = Results(arguments.out, task.name, policy, about)
            measure(task, policy, seeds, results, arguments.workers, arguments.time_limit)
            if missing := results.missing(seeds):
                console.note(f"{task.name} {policy}: {len(missing)} episodes are other ranks', or still to be played")
                continue
            entry = summary(task, policy, seeds, results)
            found.append({"task": task.name, "policy": policy, **entry})
            if arguments.write:
                scores.write(task.name, policy, entry)
    if arguments.json:
        console.print_json(found)
    else:
        console.print_table(("task", "policy", "mean", "std", "episodes", "failed", "length"),
                            [[row[key] for key in ("task", "policy", "mean", "std", "episodes", "failed", "length")]
                             for row in found])
    console.wrote(scores.TABLE if arguments.write else arguments.out)
    return 0


def measure(task: Task, policy: str, seeds: range, results: Results, processes: int, time_limit: float) -> None:
    """Play this rank's episodes that have no result yet. One that its environment did not survive is a result, too."""
    missing = results.missing(share(seeds))
    if not missing:
        return
    with console.progress(f"{task.name} {policy}", total=len(seeds), unit="episodes", start=len(seeds) - len(missing)) as bar:
        for episode in workers.play(task, policy, missing, workers=processes, time_limit=time_limit, record=False):
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


if __name__ == "__main__":
    raise SystemExit(main())
