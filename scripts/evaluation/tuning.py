"""At which temperature does a network play each task best?

A network that copies an expert is unsure for two reasons: the expert itself does now this, now that (then the likeliest action
again and again may never leave a place, and drawing is better), or it has not learnt the task well (then drawing adds mistakes
to those that it makes anyway). Which of the two weighs more differs from task to task, so it is measured, on episodes of seeds
that neither demonstrations nor evaluations use.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from calico.agent.agent import Agent
from calico.agent.sampling import SamplingConfig
from calico.scripts.common import console
from calico.scripts.evaluation.all_suites import results_folder
from calico.scripts.evaluation.control import play_side_by_side
from calico.scripts.evaluation.report import TaskScore

TUNING = 50_000        # first seed of these episodes
GOOD_ENOUGH = 90.0     # per cent of the expert: where the first temperature reaches it, no other one is tried
BETTER = 5.0           # per cent of the expert by which another one must be better, for a few episodes say no more


def best_temperatures(run: str, temperatures: Sequence[float], episodes: int, max_steps: int | None = None) -> dict[str, float]:
    """Those tasks that are played better at another temperature than the first, and that temperature.

    What is played is kept in the run's results, so that the command goes on where it was stopped.

    Args:
        run: what `Agent.load` loads.
        temperatures: at least one.
        episodes: of each task at each temperature.
        max_steps: of an episode.
    """
    seeds, kept = range(TUNING, TUNING + episodes), results_folder(Path(run)) / "temperatures"

    def played(tasks: Sequence[str], temperature: float) -> dict[str, TaskScore]:
        if not tasks:
            return {}
        console.note(f"{len(tasks)} tasks at temperature {temperature:g}, {episodes} episodes each")
        found = play_side_by_side(run, tasks, seeds, SamplingConfig(temperature=temperature), processes=os.cpu_count() or 1,
                                  kept=kept / f"{temperature:g}", num_envs=episodes, max_steps=max_steps)
        return {score.task: score for score in found}

    first = played(sorted(Agent.load(run).tasks), temperatures[0])
    best = {task: (score.normalised, temperatures[0]) for task, score in first.items() if score.normalised is not None}
    unsure = [task for task, (score, _) in best.items() if score < GOOD_ENOUGH]
    for temperature in temperatures[1:]:
        for task, score in played(unsure, temperature).items():
            bar = best[task][0] + (BETTER if best[task][1] == temperatures[0] else 0.0)
            if score.normalised is not None and score.normalised > bar:
                best[task] = score.normalised, temperature
    return {task: temperature for task, (_, temperature) in best.items() if temperature != temperatures[0]}
