"""`calico bench learning`: two settings of `calico train` for equal minutes on the same data; which one plays better?

    calico bench learning --b "optimizer.kind=adamw optimizer.learning_rate=3e-3" --minutes 5 --seeds 3
    calico bench learning --b data.numbers=binned --out bench/numbers --json
    calico bench learning --recipe mine.yaml --a training.ema=0.99 --b training.ema=0

Trains --a and --b, each beside the defaults of the config `generalist`, on a recipe's data (default: `forty`, 40 tasks of
eight families), then lets both play every task on unseen seeds. Prints the interquartile mean of expert-normalised scores of
both with 95 % intervals, and their ratio. What is trained already in --out is kept: a stopped bench goes on where it was.
"""

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from calico.agent.sampling import SamplingConfig
from calico.envs.scores import normalise, share_at
from calico.envs.statistics import interquartile_mean, stratified_bootstrap
from calico.scripts.common import console
from calico.scripts.common.recipes import collect_recipe, read_recipe
from calico.scripts.common.settings import SourceSettings, load_settings
from calico.scripts.evaluation.control import UNSEEN, play_side_by_side
from calico.scripts.evaluation.report import TaskScore
from calico.scripts.training.agent import train
from calico.scripts.training.runs import refuse_ranks

LONGEST = 1000     # steps of a played episode


def main(argv: Sequence[str]) -> int:
    parser = console.make_parser("bench learning", __doc__)
    parser.add_argument("--a", default="", metavar="SETTINGS", help="key=value ... of one side (default: none)")
    parser.add_argument("--b", required=True, metavar="SETTINGS", help="key=value ... of the other side")
    parser.add_argument("--recipe", default="forty", help="its data and tasks, see `calico collect --recipe` (default forty)")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each training (default 5)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each side (default 3)")
    parser.add_argument("--episodes", type=int, default=10, help="played per task (default 10)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of actions (default 1)")
    parser.add_argument("--data", type=Path, default=Path("demos"), help="folder of the recipe's data; what lacks is collected")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--quick", action="store_true", help="one seed, half a minute of training, 2 episodes")
    console.add_common(parser, "--json")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.seeds, arguments.minutes, arguments.episodes = 1, 0.5, 2
    console.check_positive(arguments, "seeds", "episodes")
    if arguments.minutes <= 0:
        raise ValueError(f"--minutes {arguments.minutes:g} must be above 0")
    refuse_ranks("bench learning")
    folders = collect_recipe(arguments.recipe, arguments.data, os.cpu_count() or 1)
    tasks = [name for part in read_recipe(arguments.recipe).families.values() for name in part.episodes]
    played: dict[str, list[TaskScore]] = {"a": [], "b": []}
    for seed in range(arguments.seeds):
        for side, words in (("a", arguments.a), ("b", arguments.b)):
            played[side] += one_side(shlex.split(words), seed, folders, tasks, arguments.out / f"{side}-{seed}", arguments)
            console.note(f"{side}, seed {seed}: {describe(summary(played[side]))}")
    found: dict[str, Any] = {side: summary(scores) for side, scores in played.items()}
    found["ratio"] = found["b"]["interquartile_mean"] / found["a"]["interquartile_mean"]
    found |= {"tasks": len(tasks), "minutes": arguments.minutes, "seeds": arguments.seeds}
    rows = [(side, words or "defaults", describe(found[side])) for side, words in (("a", arguments.a), ("b", arguments.b))]
    console.print_result(found, arguments.json, ("side", "settings", "scores"), [*rows, ("b / a", "", f"{found['ratio']:.3f}")])
    return 0


def one_side(overrides: list[str], seed: int, folders: Sequence[Path], tasks: Sequence[str], out: Path,
             arguments: Any) -> list[TaskScore]:
    """Train and play."""
    settings = load_settings("generalist", [f"training.minutes={arguments.minutes}", f"training.seed={seed}", *overrides,
                                            f"out={out}"])
    sources = [SourceSettings(path=str(folder)) for folder in folders]
    run = train(replace(settings, data=replace(settings.data, sources=sources)))
    seeds = range(UNSEEN, UNSEEN + arguments.episodes)
    return play_side_by_side(run, tasks, seeds, SamplingConfig(temperature=arguments.temperature),
                             processes=os.cpu_count() or 1, num_envs=len(seeds), max_steps=LONGEST)


def summary(played: Sequence[TaskScore]) -> dict[str, Any]:
    """Figures over all tasks, the seeds' episodes of one task together; fractions of the expert's score."""
    episodes: dict[str, list[float]] = {}
    for score in played:
        of_expert = (normalise(one, score.random, score.expert) for one in score.returns)
        episodes.setdefault(score.task, []).extend(one / 100 for one in of_expert if one is not None)
    means = [sum(values) / len(values) for values in episodes.values()]
    middle = stratified_bootstrap(list(episodes.values()), interquartile_mean)
    return {"interquartile_mean": middle.value, "low": middle.low, "high": middle.high, "mean": sum(means) / len(means),
            "share_at_50": share_at([100 * mean for mean in means], 50),
            "of_expert": {task: sum(values) / len(values) for task, values in episodes.items()}}


def describe(found: dict[str, Any]) -> str:
    """One line."""
    return (f"interquartile mean {found['interquartile_mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}], mean "
            f"{found['mean']:.3f}, {100 * (found['share_at_50'] or 0):.0f} % of tasks at half of expert")
