"""Rounds of play, correction and training: the work of `calico improve`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from calico.agent.agent import Agent
from calico.agent.sampling import SamplingConfig
from calico.datasets.publish import replace_file
from calico.envs.experts import make_expert
from calico.scripts.common import console
from calico.scripts.common.as_trained import view_of
from calico.scripts.common.collecting import collect
from calico.scripts.common.settings import SourceSettings, load_settings
from calico.scripts.evaluation.control import UNSEEN, conditions, kept_results, play
from calico.scripts.evaluation.report import TaskScore
from calico.scripts.training.agent import train
from calico.scripts.training.runs import refuse_ranks

SHOWN = "expert"                 # folder of the data that the experts recorded before the first round
NOISE, NOISE_STEPS = 0.1, 2      # in it
# A network that can play something already is changed carefully; what was recorded is seen a few times.
DEFAULTS = ("training.steps=600", "optimizer.learning_rate=1e-3", "optimizer.warmup_steps=20", "optimizer.final_share=0.05",
            "data.batch_size=32", "training.ema=0.99", "data.prompt_probability=0")


def improve(run: str, tasks: Sequence[str], out: Path, *, rounds: int, episodes: int, mix: float, judged: int,
            overrides: Sequence[str] = (), device: str = "cpu") -> list[list[TaskScore]]:
    """Scores of the tasks before the first round and after each; a task that the run does not know has none before.

    Raises:
        ValueError: a task without an expert, settings that cannot be.
    """
    refuse_ranks("improve")
    for name in tasks:
        make_expert(name)
    load_settings("tiny", [*DEFAULTS, *overrides])     # what is wrong with them shows before anything is played
    agent, found = Agent.load(run, device), list[list[TaskScore]]()
    found.append(judge(agent, [name for name in tasks if name in agent.tasks], out / "round-0", judged))
    folders: list[Path] = []
    for name in tasks:
        folders.append(collect(view_of(agent, name), range(episodes), out / "data" / SHOWN, noise=NOISE,
                               noise_steps=NOISE_STEPS))
    for number in range(1, rounds + 1):
        first = number * episodes                     # no seed is played twice
        for name in tasks:
            if name in agent.tasks:
                data = out / "data" / f"round-{number}"
                folders.append(collect(view_of(agent, name), range(first, first + episodes), data, agent=agent, label="expert",
                                       policy=f"round-{number - 1}", mix=mix * 0.5 ** (number - 1)))
        run = str(learn(run, folders, out / f"round-{number}", overrides, device))
        agent = Agent.load(run, device)
        found.append(judge(agent, tasks, out / f"round-{number}", judged))
        for score in found[-1]:
            console.note(f"round {number}, {score.task}: return {score.score:.2f} ± {score.interval:.2f}")
    replace_file(out / "scores.json", json.dumps([[asdict(score) for score in scores] for scores in found], indent=1))
    return found


def learn(run: str, folders: Sequence[Path], out: Path, overrides: Sequence[str], device: str) -> Path:
    """A round's training, from the weights of the one before, on all that was recorded so far."""
    settings = load_settings("tiny", [*DEFAULTS, *overrides, f"init={run}", f"out={out}"])
    sources = [SourceSettings(path=str(folder)) for folder in folders]
    return train(replace(settings, data=replace(settings.data, sources=sources)), device)


def judge(agent: Agent, tasks: Sequence[str], folder: Path, episodes: int) -> list[TaskScore]:
    """Scores over unseen seeds; what was played before is kept."""
    sampling, seeds = SamplingConfig(temperature=agent.temperature), range(UNSEEN, UNSEEN + episodes)
    about = conditions(agent, sampling)
    return [play(agent, name, seeds, sampling, results=kept_results(folder / "evaluation", name, about)) for name in tasks]


def report(rounds: Sequence[Sequence[TaskScore]], as_json: bool) -> None:
    """A table of each round's scores, or JSON."""
    if as_json:
        console.print_json([{"round": number, "task": score.task, "score": score.score, "interval": score.interval,
                             "random": score.random, "expert": score.expert, "normalised": score.normalised}
                            for number, scores in enumerate(rounds) for score in scores])
        return
    console.print_table(("round", "task", "return", "± 95 %", "random", "expert", "of expert"), [
        (number, score.task, f"{score.score:.2f}", f"{score.interval:.2f}", score.random, score.expert,
         None if score.normalised is None else f"{score.normalised:.0f} %")
        for number, scores in enumerate(rounds) for score in scores])


