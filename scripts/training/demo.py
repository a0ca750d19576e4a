"""What `calico demo` collects, trains and evaluates."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from calico.agent.agent import SHIPPED, Agent
from calico.agent.sampling import SamplingConfig
from calico.datasets.publish import replace_file
from calico.envs import task_table
from calico.envs.registry import get_task
from calico.scripts.common import console
from calico.scripts.common.collecting import collect, scenes_and_talk
from calico.scripts.common.film import FILM_FPS, encode_gif, side_by_side
from calico.scripts.common.memory import watched_memory
from calico.scripts.common.settings import RunSettings, SourceSettings
from calico.scripts.common.shipped import DEFAULT_RUN
from calico.scripts.evaluation.all_suites import report_of, results_folder
from calico.scripts.evaluation.control import UNSEEN, film_of, play_side_by_side
from calico.scripts.evaluation.data import drawn_captions, drawn_questions
from calico.scripts.evaluation.pictures import evaluate_captions, evaluate_questions
from calico.scripts.evaluation.report import Report, write_report
from calico.scripts.evaluation.suites import Evaluator, SuiteResult
from calico.scripts.training.agent import train
from calico.scripts.training.runs import refuse_ranks

# task -> demonstrations, fraction of noisy actions in them, weight in the mixture. Noise shows how the expert recovers; in
# the state tasks a random action is held for NOISE_STEPS, or it would cancel out before there is anything to recover from.
NOISE_STEPS = 8
STATE_TASKS: dict[str, tuple[int, float, float]] = {   # the observation is the whole state: steps stand alone
    "CartPole-v1": (40, 0.2, 0.5),
    "Acrobot-v1": (60, 0.2, 0.4),
    "Pendulum-v1": (150, 0.3, 1.2),
    "MountainCar-v0": (80, 0.3, 0.6),
    "MountainCarContinuous-v0": (50, 0.2, 0.4),
    "LunarLanderContinuous-v3": (200, 0.3, 1.6),
}
PIXEL_TASKS: dict[str, tuple[int, float, float]] = {
    "BabyAI-GoToRedBallNoDists-v0": (1000, 0.1, 0.7),
    "BabyAI-GoToObj-v0": (1000, 0.1, 0.8),
    "ALE/Freeway-v5": (3, 0.02, 0.8),
    "ALE/Breakout-v5": (6, 0.1, 0.3),
}
TASKS = STATE_TASKS | PIXEL_TASKS
# world -> pictures, weight of their captions, weight of the dialogues about them
WORLDS: dict[str, tuple[int, float, float]] = {
    "minigrid": (10_000, 2.2, 6.2),
    "freeway": (400, 0.6, 1.2),
}
SMALL_TALK_WEIGHT = 0.15
LONGEST = 2100         # steps of an evaluated episode: Breakout without a ball would go on for 27,000
PICTURES = 100         # evaluated of each world
SAMPLING = SamplingConfig(temperature=1.0)
TITLE = "One small network plays, captions and chats"
# What the shipped network is filmed in, where the world is installed.
SHOWN = ("CartPole-v1", "LunarLander-v3", "BabyAI-GoToLocal-v0", "MiniGrid-DoorKey-5x5-v0", "Sokoban-6x6-1", "ALE/Freeway-v5",
         "Acrobot-v1", "MountainCar-v0", "Meta-World/door-open-v3", "PandaReach-v3", "dm_control/cheetah-run", "FetchPush-v4",
         "MiniWorld-OneRoom-v0", "VizdoomBasic-v1", "HalfCheetah-v5")
SHOWN_STEPS = 240      # of each film


def demo(settings: RunSettings, episodes: int) -> tuple[Path, ...]:
    """Collect, train, evaluate; returns the files of the report."""
    refuse_ranks("demo")
    out, started = Path(settings.out), time.perf_counter()
    if DEFAULT_RUN in SHIPPED:
        console.note(f"the network that comes with Calico, at play: {film_shipped(out)}")
    with watched_memory() as peak:
        settings = replace(settings, data=replace(settings.data, sources=make_data(out / "data")))
        collected = time.perf_counter()
        train(settings)
        trained = time.perf_counter()
        report = evaluate(out, episodes)
        judged = time.perf_counter()
    phases = {"collecting": collected - started, "training": trained - collected, "judging": judged - trained}
    facts = {**report.facts, **{f"{phase} took": f"{seconds:.0f} s" for phase, seconds in phases.items()}}
    replace_file(out / "films.gif", encode_gif(side_by_side(report.films), FILM_FPS))
    page = write_report(replace(report, facts=facts, seconds=time.perf_counter() - started,
                                peak_memory_bytes=peak()), out)
    fraction = report.share_at(50)
    console.note(f"{sum((t.normalised or 0) >= 50 for t in report.tasks)} of {len(report.tasks)} tasks at half the expert's "
                 f"score or more ({fraction or 0:.0%}); captions right {report.caption_accuracy:.0%}, "
                 f"answers right {report.question_accuracy:.0%}")
    return page, out / "report.json", out / "films.gif"


def film_shipped(out: Path) -> Path:
    """A GIF of the shipped network in a dozen worlds; about half a minute."""
    path = out / "shipped.gif"
    if path.exists():
        return path
    agent, films = Agent.load(DEFAULT_RUN), []
    names = [name for name in SHOWN if name in agent.tasks and not task_table.missing_module(get_task(name).family)]
    with console.progress("film", total=len(names), unit="tasks") as bar:
        sampling = SamplingConfig(temperature=agent.temperature)
        for name in names:
            if film := film_of(agent, name, UNSEEN, sampling, max_steps=SHOWN_STEPS):
                films.append(film)
            bar.advance(note=name)
    out.mkdir(parents=True, exist_ok=True)
    replace_file(path, encode_gif(side_by_side(films), FILM_FPS))
    return path


def evaluate(run: Path, episodes: int) -> Report:
    agent, seeds = Agent.load(run), range(UNSEEN, UNSEEN + episodes)
    tasks = play_side_by_side(run, list(TASKS), seeds, SAMPLING, processes=os.cpu_count() or 1, num_envs=episodes,
                              max_steps=LONGEST)
    words = Evaluator(agent, results_folder(run))
    pictures: dict[str, list[SuiteResult[Any]]] = {
        "captions": [evaluate_captions(words, drawn_captions(world, PICTURES), ablate=False) for world in WORLDS],
        "vqa": [evaluate_questions(words, drawn_questions(world, PICTURES), ablate=False) for world in WORLDS]}
    return report_of(agent, run, tasks, pictures, SAMPLING, title=TITLE)


def make_data(folder: Path) -> list[SourceSettings]:
    """Demonstrations and pictures, those that are not there yet; the mixture's sources."""
    sources = []
    for name, (episodes, noise, weight) in TASKS.items():
        path = collect(get_task(name), range(episodes), folder, noise=noise, processes=os.cpu_count() or 1,
                       noise_steps=NOISE_STEPS if name in STATE_TASKS else 1)
        sources.append(SourceSettings(path=str(path), weight=weight))
    weights = [weight for _, *both in WORLDS.values() for weight in both] + [SMALL_TALK_WEIGHT]
    folders = scenes_and_talk({world: pictures for world, (pictures, *_) in WORLDS.items()}, True, folder)
    return sources + [SourceSettings(path=str(path), weight=weight) for path, weight in zip(folders, weights, strict=True)]
