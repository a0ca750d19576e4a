"""`calico demo`: from nothing to a small generalist and its report, in about a quarter of an hour on two CPU cores.

    calico demo                  # what `make demo` runs; writes runs/demo/report.html and runs/demo/report.json
    calico demo --steps 400      # a quick look at the whole path; the scores will be poor

Collects demonstrations of twelve tasks from scripted experts, draws pictures of three worlds with true captions and
questions, trains one tiny model on all of it, then lets that one checkpoint play, caption, answer and chat. Stopped and
started again, it continues where it was.
"""

import platform
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from calico.agent.agent import Agent
from calico.agent.sampling import SamplingConfig
from calico.agent.talk import Speaker, ask
from calico.datasets.parts import versions
from calico.envs.registry import get_task
from calico.scripts import console
from calico.scripts.collect import collect, collect_scenes, folder_name
from calico.scripts.evaluate import judge_captions, judge_questions, unseen
from calico.scripts.report import Report, write_report
from calico.scripts.rollout import UNSEEN, film_of, play
from calico.scripts.settings import DataSettings, RunSettings, SourceSettings, load_settings
from calico.scripts.train import train


# task -> demonstrations, share of noisy actions in them, weight in the mixture. Noise shows how the expert recovers.
TASKS: dict[str, tuple[int, float, float]] = {
    "CartPole-v1": (30, 0.1, 0.7),
    "Acrobot-v1": (60, 0.1, 0.7),
    "Pendulum-v1": (80, 0.1, 1.0),
    "MountainCar-v0": (40, 0.1, 0.7),
    "MountainCarContinuous-v0": (40, 0.1, 0.7),
    "LunarLander-v3": (80, 0.05, 1.0),
    "LunarLanderContinuous-v3": (80, 0.05, 1.0),
    "BabyAI-GoToRedBallNoDists-v0": (1500, 0.05, 1.0),
    "BabyAI-GoToObj-v0": (1500, 0.05, 1.0),
    "BabyAI-GoToLocal-v0": (2500, 0.05, 1.5),
    "ALE/Freeway-v5": (4, 0.02, 0.7),
    "ALE/Breakout-v5": (12, 0.05, 2.0),
}
# world -> pictures, weight of their captions, weight of the dialogues about them
WORLDS: dict[str, tuple[int, float, float]] = {
    "minigrid": (12_000, 3.5, 2.5),
    "lander": (1500, 0.5, 0.5),
    "freeway": (600, 0.2, 0.2),
}
EPISODES = 20          # of each task, on seeds that no demonstration used
PICTURES = 100         # judged of each world
CHAT = ("hello", "who are you?", "what is lunar lander?", "thank you")


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Collect, train, judge, report."""
    parser = console.make_parser("demo", __doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--steps", type=int, help="training steps (default: as in configs/demo.yaml)")
    parser.add_argument("--episodes", type=int, default=EPISODES, help=f"judged per task (default {EPISODES})")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    overrides = [f"out={arguments.out}"] + ([f"training.steps={arguments.steps}"] if arguments.steps else [])
    settings = with_sources(load_settings("demo", overrides), make_data(arguments.out / "data"))
    collected = time.perf_counter()
    train(settings)
    trained = time.perf_counter()
    report = judge(Agent.load(arguments.out), settings, arguments.episodes)
    judged = time.perf_counter()
    phases = {"collecting": collected - started, "training": trained - collected, "judging": judged - trained}
    facts = {**report.facts, **{f"{phase} took": f"{seconds:.0f} s" for phase, seconds in phases.items()}}
    page = write_report(replace(report, facts=facts, seconds=time.perf_counter() - started,
                                peak_memory_bytes=peak_memory()), arguments.out)
    share = report.share_at(50)
    console.note(f"{sum((t.normalised or 0) >= 50 for t in report.tasks)} of {len(report.tasks)} tasks at half the expert's "
                 f"score or more ({share or 0:.0%}); captions right {report.caption_accuracy:.0%}, "
                 f"answers right {report.question_accuracy:.0%}")
    console.wrote(page, arguments.out / "report.json")
    return 0


def make_data(folder: Path) -> list[SourceSettings]:
    """Demonstrations and pictures, those that are not there yet; the mixture's sources."""
    sources = []
    for name, (episodes, noise, weight) in TASKS.items():
        path = collect(get_task(name), range(episodes), folder, noise=noise)
        sources.append(SourceSettings(path=str(path), weight=weight))
    for world, (pictures, caption_weight, dialogue_weight) in WORLDS.items():
        paths = [folder / f"{world}-captions", folder / f"{world}-dialogues"]
        if not all(path.exists() and any(path.glob("*.jsonl")) for path in paths):
            collect_scenes(world, range(pictures), folder)
        sources += [SourceSettings(path=str(path), weight=weight)
                    for path, weight in zip(paths, (caption_weight, dialogue_weight), strict=True)]
    return sources


def with_sources(settings: RunSettings, sources: list[SourceSettings]) -> RunSettings:
    """The settings with these sources."""
    data: DataSettings = replace(settings.data, sources=sources)
    return replace(settings, data=data)


def judge(agent: Agent, settings: RunSettings, episodes: int) -> Report:
    """Everything that the checkpoint can do, on seeds and pictures that it has not seen."""
    sampling = SamplingConfig(temperature=1.0)
    seeds = range(UNSEEN, UNSEEN + episodes)
    tasks = [play(agent, name, seeds, sampling, num_envs=episodes) for name in TASKS]
    with console.progress("film", total=len(TASKS), unit="tasks") as bar:
        films = []
        for name in TASKS:
            films.append(film_of(agent, name, UNSEEN, sampling, max_steps=300))
            bar.advance(note=name)
    speaker = Speaker(agent)
    captions = judge_captions(speaker, list(WORLDS), PICTURES)
    questions = judge_questions(speaker, list(WORLDS), PICTURES)
    backbone = agent.model.config.backbone
    return Report(
        title="One small network plays, captions and chats",
        parameters=agent.model.parameter_count(), tokens=int(agent.about.get("tokens", 0)),
        machine=f"{torch.get_num_threads()} threads, {platform.machine()}", tasks=tasks,
        curves=curves(Path(settings.out)), films=films,
        captions=captions.examples[:4] + captions.examples[PICTURES : PICTURES + 2] + captions.examples[-2:],
        caption_accuracy=captions.accuracy, captions_judged=len(captions.examples),
        questions=questions.examples[4:8] + questions.examples[PICTURES : PICTURES + 2] + questions.examples[-2:],
        question_accuracy=questions.accuracy, questions_judged=len(questions.examples),
        chats=[chat(speaker)], versions=versions(),
        facts={"backbone": f"decoder, width {backbone.width}, depth {backbone.depth}, context {backbone.context}",
               **{f"captions right, {world}": f"{share:.0%}" for world, share in captions.by_world.items()},
               **{f"answers right, {world}": f"{share:.0%}" for world, share in questions.by_world.items()}})


def chat(speaker: Speaker) -> list[dict[str, str]]:
    """A short conversation, the last turn about a picture."""
    messages: list[dict] = []
    turns = [ask(None, line) for line in CHAT] + [ask(unseen("minigrid", 1)[0].image, "what do you see?")]
    for turn in turns:
        messages.append(turn)
        messages.append({"role": "assistant", "content": speaker.replies([messages])[0]})
    return [{"role": m["role"], "content": m["content"] if isinstance(m["content"], str) else m["content"][-1]["text"]}
            for m in messages]


def curves(run: Path) -> dict[str, list[tuple[float, float]]]:
    """Source -> (tokens, loss), read back from TensorBoard."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tokens = {event.step: event.value for event in events.Scalars("tokens")}
    return {tag.removeprefix("loss/"): [(tokens[e.step], e.value) for e in events.Scalars(tag) if e.step in tokens]
            for tag in events.Tags()["scalars"] if tag.startswith("loss/")}


def peak_memory() -> int:
    """Bytes: the largest resident size that this process, and any of its workers, has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
