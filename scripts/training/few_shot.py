"""New tasks from few demonstrations: the work of `calico fewshot`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from calico.agent.agent import Agent
from calico.agent.sampling import SamplingConfig
from calico.datasets.episodes import EpisodeReader
from calico.datasets.publish import replace_file
from calico.envs.experts import make_expert
from calico.envs.runner import rollout
from calico.scripts.common import console, sources
from calico.scripts.common.collecting import collect
from calico.scripts.common.settings import RunSettings, SourceSettings, load_settings
from calico.scripts.evaluation.control import UNSEEN, conditions, demonstration, kept_results, play
from calico.scripts.evaluation.report import TaskScore
from calico.scripts.training.agent import initial_agent, train
from calico.scripts.training.improving import DEFAULTS, view_of
from calico.scripts.training.runs import refuse_ranks
from calico.tokenizers.episode import Episode
from calico.tokenizers.spaces import flatten, unflatten
from calico.tokenizers.tokens import Tokens

PROMPT_TOKENS = 256
SCRATCH = ("optimizer.learning_rate=3e-3",)     # random weights bear more than the small steps of DEFAULTS
DIFFERENT_WORDS = 1e6                           # squared distance of two observations whose texts differ


@dataclass(frozen=True)
class FewShotScore:
    """One point of a curve: a way to use some demonstrations, and what it scores.

    Attributes:
        known: RUN was trained on the task.
    """

    demonstrations: int
    way: str
    known: bool
    score: TaskScore


def measure(run: str, tasks: Sequence[str], out: Path, *, counts: Sequence[int], judged: int, max_steps: int | None = None,
            overrides: Sequence[str] = (), device: str = "cpu") -> list[FewShotScore]:
    """All points of all tasks, task by task.

    Raises:
        ValueError: a task without an expert, settings that cannot be.
    """
    refuse_ranks("fewshot")
    for name in tasks:
        make_expert(name)
    load_settings("tiny", [*DEFAULTS, *overrides])     # what is wrong with them shows before anything is played
    base, found = Agent.load(run, device), list[FewShotScore]()
    for name in tasks:
        known, folder = name in base.tasks, out / name.replace("/", "-")
        if known:
            console.note(f"{name}: {run} was trained on it, so it is no new task")
        for count in counts:
            data = collect(view_of(base, name), range(max(count, 1)), folder / f"{max(count, 1)}-demonstrations")
            settings = load_settings("tiny", [*DEFAULTS, *overrides, f"init={run}"])
            settings = replace(settings, data=replace(settings.data, sources=[SourceSettings(path=str(data))]))
            for way, score in _points(base, settings, name, folder, count, judged, max_steps, overrides, device):
                console.note(f"{name}, {count} demonstrations, {way}: {score.score:.2f} ± {score.interval:.2f}")
                found.append(FewShotScore(count, way, known, score))
        replace_file(out / "scores.json", json.dumps([asdict(point) for point in found], indent=1))
    return found


def _points(base: Agent, settings: RunSettings, name: str, folder: Path, count: int, judged: int, max_steps: int | None,
            overrides: Sequence[str], device: str) -> Iterator[tuple[str, TaskScore]]:
    """Every way that uses `count` demonstrations, which are the one source of `settings`, and its score."""
    seeds, data = range(UNSEEN, UNSEEN + judged), Path(settings.data.sources[0].path)

    def judge(agent: Agent, way: str, prompt: Tokens | None = None) -> TaskScore:
        sampling = SamplingConfig(temperature=base.temperature)
        about = conditions(agent, sampling) | {"max_steps": max_steps, "prompt": 0 if prompt is None else len(prompt)}
        kept = kept_results(folder / f"{count}-{way.replace(' ', '-')}" / "evaluation", name, about)
        return play(agent, name, seeds, sampling, max_steps=max_steps, prompt=prompt, results=kept)

    # RUN, and able to see the task where it did not know it
    shown = base if name in base.tasks else initial_agent(settings, sources.open_sources(settings), device, base)
    if not count:
        yield "zero-shot", judge(shown, "zero-shot")
        return
    try:
        prompted = judge(shown, "prompted", demonstration(shown, name, data, PROMPT_TOKENS))
    except ValueError as error:             # it has no memory, or no room
        console.note(f"not prompted: {error}")
    else:
        yield "prompted", prompted
    tuned = replace(settings, out=str(folder / f"{count}-fine-tuned"))
    yield "fine-tuned", judge(Agent.load(train(tuned, device), device), "fine-tuned")
    scratch = replace(settings, init="", out=str(folder / f"{count}-from-scratch"),
                      optimizer=load_settings("tiny", [*DEFAULTS, *SCRATCH, *overrides]).optimizer)
    yield "from scratch", judge(Agent.load(train(scratch, device), device), "from scratch")
    yield "nearest", nearest_score(base, name, EpisodeReader(data), seeds, max_steps)


def nearest_score(base: Agent, name: str, episodes: Sequence[Episode] | EpisodeReader, seeds: range,
                  max_steps: int | None = None) -> TaskScore:
    """What the nearest-neighbour baseline scores on these seeds."""
    task = view_of(base, name)
    faults: list[Any] = []
    played = rollout(task, NearestNeighbour(list(episodes)), seeds, record=False, max_steps=max_steps, on_fault=faults.append)
    return TaskScore.of(name, [episode.score for episode in played], failed=len(faults))


class NearestNeighbour:
    """A policy that does what the demonstrations did in the most similar observation.

    Similar: the squared distance of all numbers, each in units of its standard deviation over the demonstrations, is least;
    observations with other words come last.
    """

    def __init__(self, episodes: Sequence[Episode]) -> None:
        seen = [self._apart({name: leaf[step] for name, leaf in episode.observations.items()})
                for episode in episodes for step in range(len(episode))]
        self.numbers, self.words = np.stack([numbers for numbers, _ in seen]), [words for _, words in seen]
        spread = self.numbers.std(0)
        self.scale = 1 / np.where(spread > 1e-6, spread, 1)
        self.numbers *= self.scale
        taken = [episode.actions if episode.labels is None else episode.labels for episode in episodes]
        self.actions = [{name: leaf[step] for name, leaf in actions.items()}
                        for actions, episode in zip(taken, episodes, strict=True) for step in range(len(episode))]

    @staticmethod
    def _apart(leaves: Mapping[str, Any]) -> tuple[np.ndarray, tuple[str, ...]]:
        """The numbers of an observation, float32, and its words."""
        words = tuple(str(value) for value in leaves.values() if isinstance(value, str))
        numbers = [np.asarray(value, np.float32).ravel() for value in leaves.values() if not isinstance(value, str)]
        return np.concatenate(numbers) if numbers else np.zeros(0, np.float32), words

    def reset(self, row: int, seed: int, env: gym.Env) -> None:
        """See Policy."""
        self.spaces = env.observation_space, env.action_space

    def act(self, observations: Sequence[Any], rows: Sequence[int]) -> list[Any]:
        """See Policy."""
        return [self._nearest(observation) for observation in observations]

    def _nearest(self, observation: Any) -> Any:
        numbers, words = self._apart(flatten(self.spaces[0], observation))
        distance = ((self.numbers - numbers * self.scale) ** 2).sum(1)
        distance += DIFFERENT_WORDS * np.array([other != words for other in self.words])
        return unflatten(self.spaces[1], self.actions[int(distance.argmin())])


def report(found: Sequence[FewShotScore], as_json: bool) -> None:
    """A table of all points, or JSON."""
    if as_json:
        console.print_json([{"task": point.score.task, "demonstrations": point.demonstrations, "way": point.way,
                             "known": point.known, "score": point.score.score, "interval": point.score.interval,
                             "random": point.score.random, "expert": point.score.expert, "normalised": point.score.normalised}
                            for point in found])
        return
    console.print_table(("task", "demonstrations", "way", "return", "± 95 %", "of expert"), [
        (point.score.task, point.demonstrations, point.way, f"{point.score.score:.2f}", f"{point.score.interval:.2f}",
         None if point.score.normalised is None else f"{point.score.normalised:.0f} %") for point in found])
