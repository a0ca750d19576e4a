"""All suites on one checkpoint: what there is to evaluate, the figures, and the report with films and a chat."""

import argparse
import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from calico.agent import checkpoint
from calico.agent.agent import SHIPPED, Agent, located
from calico.agent.sampling import SamplingConfig
from calico.agent.talk import TextGenerator, user_message
from calico.datasets.formats.hub import hub_name
from calico.datasets.formats.parquet_part import PACKAGES
from calico.datasets.publish import replace_file, versions
from calico.envs import scores
from calico.envs.scenes import WORLDS, scenes
from calico.envs.statistics import Estimate
from calico.scripts.common import console
from calico.scripts.common.config import config_from_json
from calico.scripts.common.settings import RunSettings, without_gone
from calico.scripts.common.sharding import rank_and_size
from calico.scripts.evaluation import data
from calico.scripts.evaluation.control import UNSEEN, aggregates, conditions, film_of, kept_results, play, report_scores
from calico.scripts.evaluation.pictures import evaluate_captions, evaluate_questions
from calico.scripts.evaluation.report import Report, TaskScore, format_number, write_report
from calico.scripts.evaluation.suites import Evaluator, Example, SuiteResult
from calico.scripts.evaluation.words import evaluate_chat, evaluate_text

Evaluated: TypeAlias = Mapping[str, Sequence[SuiteResult[Any]]]   # suite -> its result on each data set

EVALUATE: dict[str, Callable[[Evaluator, data.EvaluationSet, Evaluator | None], SuiteResult[Any]]] = {
    "captions": evaluate_captions, "vqa": evaluate_questions, "chat": evaluate_chat, "text": evaluate_text}
DRAWN = {"captions": data.drawn_captions, "vqa": data.drawn_questions}
SUMMARY = "summary.json"     # in the results' folder: what the latest evaluation found, for `calico card`
CHAT = ("hello", "who are you?", "what is lunar lander?", "thank you")


def evaluate(arguments: argparse.Namespace) -> int:
    """What `calico evaluate` does once its options are known; returns its exit code."""
    run, suites = Path(arguments.run), arguments.suite or ("control", *data.SUITES)
    device = console.chosen_device(arguments.device)
    agent, settings, packed = open_run(run, device)
    sampling = SamplingConfig(temperature=agent.temperature if arguments.temperature is None else arguments.temperature)
    against = open_run(Path(arguments.against), device) if arguments.against else None
    if against:
        check_held_out(settings, against[1], arguments.against)
    sets = material(settings, [suite for suite in suites if suite != "control"], arguments.data, arguments.limit,
                    arguments.worlds or (None if arguments.data else packed_worlds(packed)), arguments.pictures)
    for suite in arguments.suite or ():
        if suite in sets and not sets[suite]:
            raise ValueError(f"{run} has nothing for --suite {suite}: its config holds nothing of that kind out "
                             "(data.sources[].held_out). Name some with --data PATH")
    kept = results_folder(run)
    names = sorted(agent.tasks) if "control" in suites else []
    if not names and not any(sets.values()):
        raise ValueError(f"{run} has nothing to be judged on: no tasks, and no data held out. Name some with --data PATH")
    seeds = range(UNSEEN, UNSEEN + arguments.episodes)
    about = conditions(agent, sampling) | ({"max_steps": arguments.max_steps} if arguments.max_steps else {})
    results = [play(agent, task, seeds, sampling, num_envs=arguments.num_envs, isolate=arguments.isolate,
                    max_steps=arguments.max_steps,
                    results=kept_results(kept, task, about)) for task in names]
    rank, ranks = rank_and_size()
    if rank or (ranks > 1 and any(len(result.returns) < len(seeds) for result in results)):
        console.note(f"rank {rank} of {ranks} has played its share; run the command once more for the report")
        return 0
    evaluator = Evaluator(agent, kept)
    other = Evaluator(against[0], results_folder(Path(arguments.against))) if against else None
    evaluated = {suite: [EVALUATE[suite](evaluator, one, other) for one in found] for suite, found in sets.items() if found}
    found = summary(results, evaluated)
    replace_file(kept / SUMMARY, json.dumps(console.jsonable({**about, "episodes": arguments.episodes, **found}), indent=1))
    if arguments.json:
        console.print_json(found)
    else:
        print_summary(results, evaluated, found)
    if arguments.out:
        console.wrote(write_report(report_of(agent, run, results, evaluated, sampling, isolate=arguments.isolate),
                                   arguments.out))
    return 0


def open_run(run: Path, device: str) -> tuple[Agent, RunSettings, Sequence[str]]:
    """A run's agent, its config (defaults where the checkpoint has none), and of a network that was packed to be given away the
    names of its data; see card.py."""
    saved = checkpoint.load(located(run), only=("model",))
    config = saved.documents.get("config")
    settings = config_from_json(RunSettings, without_gone(config)) if config else RunSettings()
    sources = [data.found_again(source, saved.path) for source in settings.data.sources]
    settings = replace(settings, data=replace(settings.data, sources=sources))
    return Agent.from_checkpoint(saved, device), settings, saved.documents.get("sources", ())


def packed_worlds(names: Sequence[str]) -> list[str]:
    """The worlds of whose pictures there are captions among these data."""
    return [world for world in WORLDS if f"{world}-captions" in names]


def check_held_out(settings: RunSettings, other: RunSettings, name: str) -> None:
    """Raise ValueError where the other run was trained on what this one holds out."""
    theirs = {source.path: source for source in other.data.sources if source.weight}
    for source in settings.data.sources:
        their = theirs.get(source.path)
        if source.held_out and their and (their.held_out, their.max_side) != (source.held_out, source.max_side):
            raise ValueError(f"--against {name} was trained on part of what is held out of {source.path} here: it has "
                             f"held_out={their.held_out}, max_side={their.max_side}, this run held_out={source.held_out}, "
                             f"max_side={source.max_side}; train it with the same")


def material(settings: RunSettings, suites: Sequence[str], paths: Sequence[str], limit: int | None,
             worlds: Sequence[str] | None, pictures: int) -> dict[str, list[data.EvaluationSet]]:
    opened = data.open_here(settings, suites)
    sets = list(data.named_sets(paths, opened, limit) if paths else data.held_out_sets(opened, limit))
    found = {suite: [part for one in sets if (part := one.part(suite)).documents] for suite in suites}
    for suite in DRAWN.keys() & found.keys():
        # what is named with --data is evaluated alone, unless worlds are named, too
        found[suite] += [DRAWN[suite](world, pictures, opened)
                         for world in worlds or ([] if paths else data.trained_worlds(opened))]
    return found


def results_folder(run: Path) -> Path:
    """Where the results of a run, or of one of its checkpoints, are kept; those of a shipped one in the working directory."""
    if not run.exists() and (str(run) in SHIPPED or hub_name(run)):
        return Path("runs") / run / "evaluation"
    return next((path for path in (run, *run.parents) if (path / "checkpoints").is_dir()), run) / "evaluation"


def summary(results: Sequence[TaskScore], evaluated: Evaluated) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if results:
        found["share_at_50"] = scores.share_at([r.normalised for r in results], 50)
        found["aggregates"] = aggregates(results)
        found["tasks"] = {r.task: {"family": r.family, "score": r.score, "interval": r.interval, "random": r.random,
                                   "expert": r.expert, "normalised": r.normalised, "episodes": len(r.returns),
                                   "failed": r.failed} for r in results}
    for suite, ones in evaluated.items():
        found[suite] = {one.name: one.figures for one in ones}
    for name, suite in (("caption_accuracy", "captions"), ("question_accuracy", "vqa")):
        if (accuracy := share_right(examples_of(evaluated, suite))) is not None:
            found[name] = accuracy
    return found


def print_summary(results: list[TaskScore], evaluated: Evaluated, found: Mapping[str, Any]) -> None:
    if results:
        report_scores(results, as_json=False)
        console.print_table(("normalised", "tasks", "mean", "interquartile mean", "share at 50 %"), [
            (name, group["tasks"], Estimate(**group["mean"]), Estimate(**group["interquartile_mean"]), group["share_at_50"])
            for name, group in found["aggregates"].items()])
    for suite, ones in evaluated.items():
        who = list(dict.fromkeys(name for one in ones for figures in one.figures.values() for name in figures))
        console.print_table((suite, "measure", *who), [(one.name, measure, *(figures.get(name) for name in who))
                                                       for one in ones for measure, figures in one.figures.items()])


def report_of(agent: Agent, run: Path, tasks: Sequence[TaskScore], evaluated: Evaluated, sampling: SamplingConfig,
              title: str = "Calico", isolate: bool = False) -> Report:
    """What was evaluated, with films of the tasks (those that their environments survive), the training's curves and a chat."""
    films = []
    with console.progress("film", total=len(tasks), unit="tasks") as bar:
        for result in tasks:
            if film := film_of(agent, result.task, UNSEEN, sampling, max_steps=300, isolate=isolate):
                films.append(film)
            bar.advance(note=result.task)
    backbone = agent.model.config.backbone
    facts = {"backbone": f"{backbone.kind}, width {backbone.width}, depth {backbone.depth}, context {backbone.context}"}
    for name, group in aggregates(tasks).items():
        facts[f"interquartile mean, {name}"] = f"{Estimate(**group['interquartile_mean'])} % of expert ({group['tasks']} tasks)"
    for suite, ones in evaluated.items():
        facts |= {f"{suite}, {one.name}: {measure.replace('_', ' ')}": format_figures(figures)
                  for one in ones for measure, figures in one.figures.items()}
    threads, captions, questions = torch.get_num_threads(), examples_of(evaluated, "captions"), examples_of(evaluated, "vqa")
    return Report(
        title=title, parameters=agent.model.parameter_count(), tokens=int(agent.about.get("tokens", 0)),
        machine=f"{threads} thread{'s' * (threads != 1)}, {platform.machine()}", tasks=tasks, curves=curves(run), films=films,
        captions=sample(captions), caption_accuracy=share_right(captions), captions_judged=len(checked(captions)),
        questions=sample(questions), question_accuracy=share_right(questions), questions_judged=len(checked(questions)),
        chats=[chat(TextGenerator(agent))], versions=versions(PACKAGES), facts=facts)


def format_figures(figures: Mapping[str, float]) -> str:
    """The run's own figure, and in brackets those to compare it with."""
    others = ", ".join(f"{who.replace('_', ' ')} {format_number(value)}" for who, value in figures.items() if who != "model")
    return format_number(figures.get("model")) + (f" ({others})" if others else "")


def examples_of(evaluated: Evaluated, suite: str) -> list[Any]:
    return [example for one in evaluated.get(suite, ()) for example in one.examples]


def checked(examples: Iterable[Any]) -> list[Any]:
    """Those of which it is known whether they are right."""
    return [example for example in examples if example.right is not None]


def share_right(examples: Sequence[Any]) -> float | None:
    """Of those that were checked; None where none was."""
    found = checked(examples)
    return float(np.mean([example.right for example in found])) if found else None


def sample(examples: Sequence[Example], count: int = 8) -> list[Example]:
    """A few from end to end, so that every data set is among them; not chosen by whether they are right."""
    if not examples:
        return []
    return [examples[index] for index in np.linspace(0, len(examples) - 1, min(count, len(examples))).astype(int)]


def chat(speaker: TextGenerator) -> list[dict[str, Any]]:
    """A short conversation, the last turn about a picture, which stands under "image"."""
    messages: list[dict[str, Any]] = []
    (scene,) = scenes("minigrid", [data.UNSEEN_SCENES])
    turns = [*(user_message(None, line) for line in CHAT), user_message(scene.image, "what do you see?")]
    for turn in turns:
        messages.append(turn)
        messages.append({"role": "assistant", "content": speaker.replies([messages])[0]})
    return [{"role": m["role"], "content": m["content"]} if isinstance(m["content"], str) else
            {"role": m["role"], "content": m["content"][-1]["text"], **{key: entry[key] for entry in m["content"]
                                                                        for key in ("image",) if key in entry}}
            for m in messages]


def curves(run: Path) -> dict[str, list[tuple[float, float]]]:
    """Source -> (tokens, loss), read back from TensorBoard; empty where there is no log, as for an exported checkpoint."""
    if not (run / "tensorboard").is_dir():
        return {}
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tokens = {event.step: event.value for event in events.Scalars("tokens")}
    return {tag.removeprefix("loss/"): [(tokens[e.step], e.value) for e in events.Scalars(tag) if e.step in tokens]
            for tag in events.Tags()["scalars"] if tag.startswith("loss/")}
