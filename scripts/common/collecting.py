"""Recording: episodes of a task by its expert or another player, and pictures of worlds with captions and questions."""

import contextlib
import json
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calico.agent.run_lock import Share, run_lock
from calico.datasets.document_writers import CaptionWriter, DialogueWriter
from calico.datasets.documents import CaptionReader
from calico.datasets.episodes import EpisodeReader, EpisodeWriter
from calico.datasets.synthetic.captions import caption, picture_dialogue, told_dialogue
from calico.datasets.synthetic.small_talk import small_talk
from calico.envs import scores, workers
from calico.envs.experts import episodes_of, make_player, task_for
from calico.envs.registry import Task, make, recorded_task
from calico.envs.runner import EnvironmentFault
from calico.envs.sb3 import RUNS_CODE, runs_code
from calico.envs.scenes import Scene, scenes
from calico.scripts.common import console
from calico.scripts.common.sharding import folder_name, rank_and_size, share
from calico.tokenizers.episode import Episode
from calico.tokenizers.spaces import space_to_json

if TYPE_CHECKING:
    from calico.agent.agent import Agent

LOCK = ".lock"         # beside the data while somebody collects
PART_SECONDS = 60.0   # a kill costs what is in the unfinished file: at most a minute's work


def collect(task: Task, seeds: range, out: Path, *, noise: float = 0.0, noise_steps: int = 1, policy: str = "expert",
            keep: float | None = None, processes: int = 0, time_limit: float = 120.0, label: str | None = None,
            mix: float = 0.0, agent: "Agent | None" = None, max_steps: int | None = None) -> Path:
    """Record one task's episodes, those that the folder lacks; returns the folder.

    Args:
        label: a player that says at each step what is to be learnt, whatever `policy` does; see `rollout`.
        mix: share of the steps that this player takes itself.
        max_steps: episodes are cut after so many: the same hour shows more beginnings and goals.
        agent: plays, `policy` is its name and `task` in the view that it was trained with.
    Raises:
        ValueError: the task has no such player, no scores to keep a share of, or the folder holds episodes of another kind.
        EnvironmentFault: not one episode could be played to its end.
    """
    if runs_code(policy):
        console.note(f"{policy} {RUNS_CODE}")
    task, recorded = task_for(task, policy), episodes_of(task, policy)
    player = make_player(task, policy) if agent is None else agent.policy(task.name)
    teacher = None if label is None else make_player(task, label)
    played: dict[str, Any] = {"policy": policy, "noise": noise, "noise_steps": noise_steps, "keep": keep,
                              "max_steps": max_steps}
    if label is not None:
        played |= {"label": label, "mix": mix}
    if recorded is not None:
        if noise:
            raise ValueError(f"--noise {noise:g}: what is recorded in {policy} fits undisturbed games only")
        if seeds.start >= recorded:
            raise ValueError(f"{policy} holds {recorded} whole episodes of {task.name}, with seeds 0 to {recorded - 1}")
        if seeds.stop > recorded:
            console.note(f"{policy} holds {recorded} whole episodes of {task.name}")
            seeds = range(seeds.start, recorded)
    known = scores.reference(task.name)
    if keep is not None and known.normalise(0) is None:
        raise ValueError(f"--keep {keep:g}: {task.name} has no reference scores; run `calico score {task.name} --write` first")
    about = described(task, expert=task.expert if "expert" in (policy, label) else None, **played)
    folder, (rank, size) = out / folder_name(task.name), rank_and_size()
    with run_lock(folder, LOCK, Share(rank, size, f"{seeds.start}:{seeds.stop}")):
        done = seeds_there(folder, task, played)
        left_out = folder / "left-out.jsonl"
        done |= read_left_out(left_out)
        mine, faults = share(seeds), list[EnvironmentFault]()
        missing = [seed for seed in mine if seed not in done]
        with EpisodeWriter(folder, about, part_seconds=PART_SECONDS) as writer, \
                console.progress(f"collect {task.name}", len(mine), "episodes", start=len(mine) - len(missing)) as bar:
            given: Iterator[Episode | EnvironmentFault]
            if agent is None and teacher is None:
                given = workers.play(task, policy, missing, workers=processes, time_limit=time_limit, noise=noise,
                                     noise_steps=noise_steps, max_steps=max_steps)
            else:
                given = workers.play_here(task, player, missing, noise=noise, noise_steps=noise_steps, teacher=teacher, mix=mix,
                                          max_steps=max_steps)
            for episode in given:
                if isinstance(episode, EnvironmentFault):
                    faults.append(episode)
                    console.note(f"failed: {episode}")
                    leave_out(left_out, seed=episode.seed, fault=str(episode))
                    bar.advance()
                    continue
                worth = known.normalise(episode.score)
                if keep is not None and worth is not None and worth < keep:
                    leave_out(left_out, seed=episode.seed, score=episode.score, percent=worth)
                elif guesses := episode.info.get("guesses"):   # no demonstration: the expert itself did not know what to do
                    leave_out(left_out, seed=episode.seed, score=episode.score, guesses=guesses)
                else:
                    writer.append(episode)
                bar.advance(note=f"return {episode.score:g}")
        if dropped := len(read_left_out(left_out) & set(missing)):
            console.note(f"{task.name}: {dropped} of {len(missing)} episodes are left out, see {left_out}")
        if faults and len(faults) == len(missing):
            raise faults[0]
        return folder


def described(task: Task, **played: Any) -> dict[str, Any]:
    """What an EpisodeWriter is told: the task as it is seen, and how and by whom it was played."""
    env = make(task)
    env.close()
    return {"name": task.name, "observation_space": space_to_json(env.observation_space),
            "action_space": space_to_json(env.action_space), "environment": task.to_json(), **played}


def seeds_there(folder: Path, task: Task, played: dict[str, Any]) -> set[int]:
    """The seeds of the episodes that a folder holds already.

    Raises:
        ValueError: they are of another kind.
    """
    if not any(folder.glob("*.parquet")):
        return set()
    reader = EpisodeReader(folder)
    if (found := {key: reader.task.get(key) for key in played}) != played:
        raise ValueError(f"{folder} holds episodes of {found}, not of {played}; choose another --out, or the same settings")
    before = recorded_task(task.name, reader.task.get("environment", {})).view
    if before != task.view:
        raise ValueError(f"{folder} holds episodes in the view {dict(before)}, not in {dict(task.view)}; choose another "
                         "--out, or the same view (with or without --compact)")
    done = {int(seed) for seed in reader.seeds}
    if len(done) < len(reader):
        console.note(f"{folder} holds {len(reader) - len(done)} episodes twice: two processes of an earlier version collected "
                     "there at once; remove the folder, or they count double in training")
    return done


def read_left_out(path: Path) -> set[int]:
    """Seeds of played episodes: not to be played again, unlike those whose environment failed."""
    seeds = set()
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):   # a last line that a kill cut off
            entry = json.loads(line)
            if "score" in entry:
                seeds.add(int(entry["seed"]))
    return seeds


def leave_out(path: Path, **entry: Any) -> None:
    """Note that an episode was played and not kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(entry) + "\n")


def collect_scenes(world: str, seeds: range, out: Path, questions: int = 3) -> list[Path]:
    """Pictures of a world with captions, and dialogues about them (some told in words, without the picture).

    Pictures that are there already, in the data sets or from a collection that was stopped, are not drawn again. Of torchrun's
    ranks the first one draws all.
    """
    captions, dialogues = out / f"{world}-captions", out / f"{world}-dialogues"
    if rank_and_size()[0]:
        return []
    rng = np.random.default_rng((zlib.crc32(world.encode()), seeds.start))
    with run_lock(out, f".{world}{LOCK}"), contextlib.ExitStack() as stack:
        drawn = stack.enter_context(DrawnScenes(world, captions, out / f".{world}.unfinished"))
        caption_writer = stack.enter_context(CaptionWriter(captions))
        dialogue_writer = stack.enter_context(DialogueWriter(dialogues))
        bar = stack.enter_context(console.progress(f"collect {world} pictures", total=len(seeds), unit="pictures"))
        for number, (image, facts) in enumerate(drawn.scenes(seeds)):
            name = scene_name(seeds[number])
            caption_writer.append(image, caption(facts), name=name, facts=facts)
            dialogue_writer.append(picture_dialogue(facts, name, rng, questions), {name: image}, facts=facts)
            if number % 10 == 0:
                dialogue_writer.append(told_dialogue(facts, rng))
            bar.advance()
    shutil.rmtree(drawn.unfinished, ignore_errors=True)
    return [captions, dialogues]


def scenes_and_talk(worlds: Mapping[str, int], small_talk: bool, out: Path) -> list[Path]:
    """`collect_scenes` and `collect_small_talk` where their data sets are not there yet; returns the folders.

    Args:
        worlds: world -> pictures.
    """
    folders: list[Path] = []
    for world, pictures in worlds.items():
        pair = [out / f"{world}-captions", out / f"{world}-dialogues"]
        if not all(any(folder.glob("*.jsonl")) for folder in pair):
            collect_scenes(world, range(pictures), out)
        folders += pair
    if small_talk:
        folders.append(out / "small-talk")
        if not any(folders[-1].glob("*.jsonl")):
            collect_small_talk(out)
    return folders


def scene_name(seed: int) -> str:
    return f"{seed:07d}.png"


class DrawnScenes:
    """The pictures of a world: those that were drawn before are read, the others are drawn and kept.

    Args:
        finished: a data set of captions, if it is there.
        unfinished: a folder of such data sets, each of a minute's pictures; the last one is written when the context ends.
    """

    def __init__(self, world: str, finished: Path, unfinished: Path) -> None:
        self.world, self.unfinished = world, unfinished
        self.new: list[Scene] = []
        self.began = time.monotonic()
        self.there: dict[str, tuple[CaptionReader, int]] = {}
        for folder in (finished, *sorted(unfinished.glob("[!.]*"))):
            if (folder / CaptionWriter.manifest_name).exists():
                reader = CaptionReader(folder, max_side=None)
                self.there |= {name: (reader, number) for number, name in enumerate(reader.names)}

    def scenes(self, seeds: range) -> Iterator[tuple[np.ndarray, list[dict[str, str]]]]:
        """Picture and facts of each seed."""
        missing = scenes(self.world, [seed for seed in seeds if scene_name(seed) not in self.there])
        for seed in seeds:
            if found := self.there.get(scene_name(seed)):
                shown = found[0][found[1]]
                yield shown.image, shown.extra["facts"]
                continue
            scene = next(missing)
            self.new.append(scene)
            if time.monotonic() - self.began >= PART_SECONDS:
                self.keep()
            yield scene.image, scene.facts

    def keep(self) -> None:
        """Write what was drawn since the last time."""
        with CaptionWriter(self.unfinished / scene_name(self.new[0].seed)) as writer:
            for scene in self.new:
                writer.append(scene.image, caption(scene.facts), name=scene_name(scene.seed), facts=scene.facts)
        self.new, self.began = [], time.monotonic()

    def __enter__(self) -> "DrawnScenes":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is not None and self.new:
            self.keep()


def collect_small_talk(out: Path) -> Path:
    """Who the agent is and what its games are: a data set of their own, because among thousands of dialogues about pictures
    these would not be learnt."""
    path = out / "small-talk"
    with DialogueWriter(path) as writer:
        for messages in small_talk():
            writer.append(messages)
    return path
