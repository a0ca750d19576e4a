"""Control: a run plays tasks, its scores beside their references, and films of it.

Episode i uses the same seed whatever the number of environments, so scores do not depend on it.
"""

import io
import multiprocessing
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calico.agent.agent import Agent
from calico.agent.policy import prompt_room
from calico.agent.sampling import SamplingConfig
from calico.datasets.episodes import EpisodeReader
from calico.datasets.publish import replace_file
from calico.envs.isolated import detach_process, isolated
from calico.envs.registry import get_task, make
from calico.envs.runner import EnvironmentFault, Film, rollout
from calico.envs.scores import FIRST_SEED, normalise, share_at
from calico.envs.statistics import interquartile_mean, stratified_bootstrap
from calico.scripts.common import console
from calico.scripts.common.as_trained import as_trained
from calico.scripts.common.film import MAX_FILM_SIDE, encode_mp4, film_episodes, fit, reel_gif
from calico.scripts.common.film import Film as Filmed
from calico.scripts.common.sharding import Results, folder_name, share
from calico.scripts.evaluation.report import TaskScore
from calico.tokenizers.spaces import space_from_json, space_to_json
from calico.tokenizers.tokens import Tokens

UNSEEN = FIRST_SEED   # of evaluations: demonstrations begin at 0


def play(agent: Agent, task: str, seeds: range, sampling: SamplingConfig, *, num_envs: int = 16,
         max_steps: int | None = None, prompt: Tokens | None = None, isolate: bool = False, spread: int = 0,
         results: Results | None = None, progress: bool = True) -> TaskScore:
    """Returns of one episode per seed, beside the task's references.

    Args:
        isolate: each environment in a process of its own, so that one that hangs or crashes can be given up.
        spread: share the environments out among so many processes, to step at the same time.
        results: what was played before, and where to keep what is played now; this rank then plays its share only.
        progress: show it.
    Raises:
        ValueError: the agent does not know the task, or knows it with other spaces than those that it has here.
        EnvironmentFault: not one episode could be played to its end.
    """
    seen = as_trained(agent, task)
    policy = agent.policy(task, sampling, prompt=prompt)
    found = {seed: known for seed in seeds if results and (known := results.get(seed))}
    missing = [seed for seed in (share(seeds) if results else seeds) if seed not in found]
    faults: list[EnvironmentFault] = []
    stream = None if progress else io.StringIO()
    with console.progress(f"play {task}", total=len(seeds), unit="episodes", start=len(found), stream=stream) as bar:

        def keep(seed: int, result: dict[str, Any], note: str = "") -> None:
            found[seed] = result
            if results:
                results.put(seed, result)
            bar.advance(note=note)

        def fail(fault: EnvironmentFault) -> None:
            console.note(f"failed: {fault}")
            faults.append(fault)
            keep(fault.seed, {"fault": str(fault)})

        where = isolated() if isolate else isolated(processes=spread) if spread else make
        for episode in rollout(seen, policy, missing, num_envs=num_envs, max_steps=max_steps, record=False, on_fault=fail,
                               make=where):
            keep(episode.seed, {"score": episode.score}, f"return {episode.score:g}")
    if faults and len(faults) == len(seeds):
        raise faults[0]
    returns = [found[seed]["score"] for seed in seeds if "score" in found.get(seed, {})]
    return TaskScore.of(task, returns, failed=sum("fault" in result for result in found.values()))


def conditions(agent: Agent, sampling: SamplingConfig) -> dict[str, Any]:
    """What all scores of an evaluation depend on, see `kept_results`."""
    return {"network": agent.fingerprint(), "sampling": asdict(sampling)}


def kept_results(folder: Path, task: str, about: dict[str, Any]) -> Results:
    """Where a task's episodes are kept; those of other weights, sampling or packages do not match and are played again."""
    return Results(folder, task, "agent", about | {"versions": get_task(task).versions()})


def play_side_by_side(run: Path, tasks: Sequence[str], seeds: range, sampling: SamplingConfig, *, processes: int,
                      **settings: Any) -> list[TaskScore]:
    """`play` of several tasks, each in a process of its own with one thread, in the order of `tasks`.

    On a CPU a small network gains less from a second thread than from a second task beside it, and environments step in one
    thread anyway. Measured: the demo's ten tasks in half the time on two cores.

    Args:
        run: what `Agent.load` loads.
        settings: of `play`.
    """
    longest_first = sorted(tasks, key=lambda task: get_task(task).episode_limit or 0, reverse=True)
    pool = multiprocessing.get_context("spawn").Pool(min(processes, len(tasks)), _init_worker, (run,))
    found: dict[str, TaskScore] = {}
    with console.progress("play", total=len(tasks), unit="tasks") as bar, pool:
        for score in pool.imap_unordered(_play_one, [(task, seeds, sampling, settings) for task in longest_first]):
            found[score.task] = score
            bar.advance(note=f"{score.task}: return {score.score:g}")
    return [found[task] for task in tasks]


_player: Agent   # of a process that plays for another


def _init_worker(run: Path) -> None:
    """Begin the life of a process that plays for another."""
    global _player
    detach_process()
    torch.set_num_threads(1)
    _player = Agent.load(run)


def _play_one(work: tuple[str, range, SamplingConfig, dict[str, Any]]) -> TaskScore:
    task, seeds, sampling, settings = work
    return play(_player, task, seeds, sampling, progress=False, **settings)


def demonstration(agent: Agent, task: str, path: Path, length: int) -> Tokens:
    """The first timesteps of the best episode in a data set (Gato, arXiv:2205.06175, section 2.4): as many whole ones as have
    at most `length` tokens and leave room for a step in the context of a model without a window.

    Raises:
        ValueError: the data is of another task, or of another view of it, or not even one timestep fits.
    """
    reader, codec = EpisodeReader(path), agent.codec(task)
    if reader.task["name"] != task:
        raise ValueError(f"--prompt {path} holds episodes of {reader.task['name']}, not of {task}")
    shown = reader.task.get("observation_space")
    if shown is not None and shown != space_to_json(codec.observation_space):
        raise ValueError(f"--prompt {path}: {task} looks like {space_from_json(shown)} there, the agent has learnt "
                         f"{codec.observation_space}; collect it again in the agent's view (with or without --compact)")
    tokens = codec.encode_episode(reader[int(reader.scores.argmax())])
    room = prompt_room(agent.model.config, codec)
    allowed = length if room is None else min(length, room)
    ends = np.append(np.flatnonzero(np.diff(tokens.timestep)) + 1, len(tokens))
    fitting = ends[ends <= allowed]
    if not len(fitting):
        raise ValueError(f"--prompt {path}: the first timestep of {task} has {ends[0]} tokens, and {allowed} may be shown; "
                         + ("raise --prompt-tokens" if length < ends[0] else "this model's context is too short for a prompt"))
    if allowed < min(length, len(tokens)):
        console.note(f"--prompt: {fitting[-1]} of {min(length, len(tokens))} tokens are shown, so that a step fits the model's "
                     f"context of {agent.model.config.backbone.limit}")
    return tokens[: fitting[-1]]


def film(agent: Agent, task: str, seeds: range, sampling: SamplingConfig, *, video: Path | None, gif: Path | None,
         prompt: Tokens | None = None, isolate: bool = False) -> None:
    """Write films of these episodes, played once more side by side, into the folders that are given; none if no episode
    could be played."""
    policy = agent.policy(task, sampling, prompt=prompt)
    try:
        reel = film_episodes(as_trained(agent, task), policy, seeds, make=isolated() if isolate else make)
    except EnvironmentFault:   # told already; the scores of hours of play are not lost for it
        console.note(f"no film of {task}")
        return
    if video:
        encode_mp4(reel.sheets(), video / f"{folder_name(task)}.mp4", reel.fps)
        console.wrote(video / f"{folder_name(task)}.mp4")
    if gif:
        replace_file(gif / f"{folder_name(task)}.gif", reel_gif(reel))
        console.wrote(gif / f"{folder_name(task)}.gif")


def film_of(agent: Agent, task: str, seed: int, sampling: SamplingConfig, *, max_steps: int = 600, every: int = 2,
            prompt: Tokens | None = None, isolate: bool = False) -> Filmed | None:
    """One episode with its frames, as large as a report shows them: a dozen films of full size are a gigabyte.

    None where its environment failed, which is told.
    """
    camera = Film(every=every)
    policy = agent.policy(task, sampling, prompt=prompt)
    played = list(rollout(as_trained(agent, task), policy, [seed], num_envs=1, max_steps=max_steps, on_step=camera,
                          record=False, render=True, on_fault=lambda fault: console.note(f"no film: {fault}"),
                          make=isolated() if isolate else make))
    if not played:
        return None
    (episode,) = played
    side = min(MAX_FILM_SIDE, max(camera.frames[seed][0].shape))
    limit = get_task(task).episode_limit
    cut = max_steps if episode.truncated and len(episode.rewards) == max_steps and limit != max_steps else 0
    return Filmed(task=task, frames=np.stack([fit(frame, side) for frame in camera.frames[seed]]), score=episode.score, cut=cut)


def report_scores(results: list[TaskScore], as_json: bool) -> None:
    """A table, or JSON."""
    if as_json:
        console.print_json([{"task": r.task, "family": r.family, "score": r.score, "episodes": len(r.returns),
                             "failed": r.failed, "returns": list(r.returns), "random": r.random, "expert": r.expert,
                             "normalised": r.normalised} for r in results])
        return
    rows = [(r.task, len(r.returns), r.failed, f"{r.score:.2f}", f"{r.interval:.2f}", r.random, r.expert,
             None if r.normalised is None else f"{r.normalised:.0f} %") for r in results]
    console.print_table(("task", "episodes", "failed", "return", "± 95 %", "random", "expert", "of expert"), rows)


def aggregates(results: Sequence[TaskScore]) -> dict[str, dict[str, Any]]:
    """Normalised scores of all scored tasks together and family by family: mean and interquartile mean with 95 % intervals,
    and the share of tasks at half the expert's score or more."""
    scored = [(r, [one for one in (normalise(x, r.random, r.expert) for x in r.returns) if one is not None]) for r in results]
    groups = {"all": scored} | {name: [pair for pair in scored if pair[0].family == name]
                                for name in dict.fromkeys(r.family for r in results)}
    found = {}
    for name, group in groups.items():
        if episodes := [values for _, values in group if values]:
            found[name] = {"tasks": len(episodes),
                           "mean": asdict(stratified_bootstrap(episodes, lambda means: means.mean(axis=-1))),
                           "interquartile_mean": asdict(stratified_bootstrap(episodes, interquartile_mean)),
                           "share_at_50": share_at([r.normalised for r, _ in group], 50)}
    return found
