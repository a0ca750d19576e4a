"""`calico collect TASK... --episodes N --out DIR`: demonstrations from each task's expert, as Parquet episodes.

    calico collect CartPole-v1 ALE/Freeway-v5 --episodes 20 --out data       # seconds; data/CartPole-v1, data/ALE-Freeway-v5
    calico collect BabyAI-GoToLocal-v0 --episodes 1000 --noise 0.05 --out data
    calico collect Acrobot-v1 --episodes 500 --keep 80 --workers 8 --out data    # only what is worth 80 % of the expert
    calico collect BabyAI-GoToLocal-v0 --compact --episodes 1000 --out data  # a board costs one patch in place of sixteen
    calico collect HalfCheetah-v5 --policy npz:cheetah.npz --out data        # a player from a file: npz:, sb3:, hf:, replay:
    calico collect CartPole-v1 --train-expert --episodes 100 --out data      # train one first: minutes here, hours elsewhere
    calico collect --scenes minigrid lander --episodes 5000 --out data       # pictures with captions and questions
    torchrun --nproc-per-node 4 -m calico.scripts.collect CartPole-v1 --episodes 9999 --out data   # each rank its share

Episode i is always played with seed `--seed` + i. A folder that already holds some of the episodes is completed, so a
collection that was stopped goes on where it was. Episodes that are left out, because of their return, because the expert
found no plan in them (an accident of `--noise` can make a task impossible) or because their environment failed, are listed
with the reason in `left-out.jsonl` beside the data.
"""

import contextlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from calico.datasets.document_writers import CaptionWriter, DialogueWriter
from calico.datasets.episodes import EpisodeReader, EpisodeWriter
from calico.datasets.synthetic_captions import caption, picture_dialogue, small_talk, told_dialogue
from calico.envs import scores, workers
from calico.envs.experts import PLAYERS, episodes_of, make_player, task_for
from calico.envs.registry import Task, get_task, make, recorded_task
from calico.envs.runner import EnvironmentFault
from calico.envs.sb3 import RUNS_CODE, runs_code
from calico.envs.scenes import WORLDS, scenes
from calico.scripts.common import console
from calico.scripts.common.expert_training import TRAIN_STEPS, train_expert
from calico.scripts.common.sharding import folder_name, share
from calico.tokenizers.spaces import space_to_json

PART_SECONDS = 60.0   # a kill costs what is in the unfinished file: at most a minute's work


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, collect, report."""
    parser = console.make_parser("collect", __doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="names from `calico tasks`")
    parser.add_argument("--scenes", nargs="+", default=[], metavar="WORLD", help=f"pictures of {', '.join(WORLDS)}")
    parser.add_argument("--episodes", type=int, default=10, help="per task, or pictures per world (default 10)")
    parser.add_argument("--out", type=Path, required=True, help="folder; each task gets one of its own in it")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode (default 0)")
    parser.add_argument("--noise", type=float, default=0.0,
                        help="share of actions replaced by random ones; training asks for the expert's there (default 0)")
    parser.add_argument("--noise-steps", type=int, default=1, help="hold each random action for so many steps (default 1)")
    parser.add_argument("--compact", action="store_true",
                        help="see the tasks in the views that cost fewest tokens: MiniGrid's and Sokoban's boards as one patch")
    parser.add_argument("--policy", default="expert", metavar="P", help=f"who plays: {PLAYERS} (default expert)")
    parser.add_argument("--train-expert", action="store_true",
                        help="train a network with Stable-Baselines3 (in OUT/experts, unless it is there) and let it play")
    parser.add_argument("--train-steps", type=int, default=TRAIN_STEPS, help=f"steps of its training (default {TRAIN_STEPS:,})")
    parser.add_argument("--keep", type=float, metavar="PERCENT",
                        help="leave out episodes below this share of the expert's score (Gato: 80); 0 is random play")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1,
                        help="processes side by side (default: one per core; 0 plays in this one)")
    parser.add_argument("--time-limit", type=float, default=120.0, help="seconds a step or a reset may take (default 120)")
    arguments = parser.parse_args(argv)
    if not arguments.tasks and not arguments.scenes:
        raise ValueError("name at least one task or --scenes WORLD; `calico tasks` lists what can be played")
    if arguments.episodes < 1:
        raise ValueError(f"--episodes {arguments.episodes} must be at least 1")
    if arguments.train_expert and arguments.policy != "expert":
        raise ValueError(f"--train-expert and --policy {arguments.policy} exclude each other")
    if arguments.seed < 0:
        raise ValueError(f"--seed {arguments.seed} must be at least 0")
    tasks = [get_task(name) for name in arguments.tasks]             # all names are checked before the first episode
    tasks = [task.compact() for task in tasks] if arguments.compact else tasks
    for world in arguments.scenes:
        scenes(world, ())
    seeds = range(arguments.seed, arguments.seed + arguments.episodes)
    written = []
    for task in tasks:
        policy = train_expert(task, arguments.out, arguments.train_steps) if arguments.train_expert else arguments.policy
        written.append(collect(task, seeds, arguments.out, noise=arguments.noise, noise_steps=arguments.noise_steps,
                               policy=policy, keep=arguments.keep, processes=arguments.workers,
                               time_limit=arguments.time_limit))
    for world in arguments.scenes:
        written += collect_scenes(world, seeds, arguments.out)
    console.wrote(*written)
    return 0


def collect(task: Task, seeds: range, out: Path, *, noise: float = 0.0, noise_steps: int = 1, policy: str = "expert",
            keep: float | None = None, processes: int = 0, time_limit: float = 120.0) -> Path:
    """Record one task's episodes, those that the folder lacks; returns the folder.

    Raises:
        ValueError: the task has no such player, no scores to keep a share of, or the folder holds episodes of another kind.
        EnvironmentFault: not one episode could be played to its end.
    """
    folder = out / folder_name(task.name)
    if runs_code(policy):
        console.note(f"{policy} {RUNS_CODE}")
    task, recorded = task_for(task, policy), episodes_of(task, policy)
    make_player(task, policy)
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
    env = make(task)
    about = {"name": task.name, "observation_space": space_to_json(env.observation_space),
             "action_space": space_to_json(env.action_space), "environment": task.to_json(), "policy": policy,
             "expert": task.expert if policy == "expert" else None, "noise": noise, "noise_steps": noise_steps, "keep": keep}
    env.close()
    done: set[int] = set()
    if any(folder.glob("*.parquet")):
        reader = EpisodeReader(folder)
        wanted = {"policy": policy, "noise": noise, "noise_steps": noise_steps, "keep": keep}
        if (found := {key: reader.task.get(key) for key in wanted}) != wanted:
            raise ValueError(f"{folder} holds episodes of {found}, not of {wanted}; choose another --out, or the same settings")
        before = recorded_task(task.name, reader.task.get("environment", {})).view
        if before != task.view:
            raise ValueError(f"{folder} holds episodes in the view {dict(before)}, not in {dict(task.view)}; choose another "
                             "--out, or the same view (with or without --compact)")
        done = {int(seed) for seed in reader.seeds}
    left_out = folder / "left-out.jsonl"
    done |= read_left_out(left_out)
    mine, faults = share(seeds), list[EnvironmentFault]()
    missing = [seed for seed in mine if seed not in done]
    with EpisodeWriter(folder, about, part_seconds=PART_SECONDS) as writer, \
            console.progress(f"collect {task.name}", total=len(mine), unit="episodes", start=len(mine) - len(missing)) as bar:
        for episode in workers.play(task, policy, missing, workers=processes, time_limit=time_limit, noise=noise,
                                    noise_steps=noise_steps):
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
    """Pictures of a world with captions, and dialogues about them (some told in words, without the picture)."""
    captions, dialogues = out / f"{world}-captions", out / f"{world}-dialogues"
    rng = np.random.default_rng((zlib.crc32(world.encode()), seeds.start))
    with CaptionWriter(captions) as caption_writer, DialogueWriter(dialogues) as dialogue_writer, \
            console.progress(f"collect {world} pictures", total=len(seeds), unit="pictures") as bar:
        for number, scene in enumerate(scenes(world, seeds)):
            name = f"{seeds[number]:07d}.png"
            caption_writer.append(scene.image, caption(scene.facts), name=name, facts=scene.facts)
            dialogue_writer.append(picture_dialogue(scene.facts, name, rng, questions), {name: scene.image}, facts=scene.facts)
            if number % 10 == 0:
                dialogue_writer.append(told_dialogue(scene.facts, rng))
            bar.advance()
    return [captions, dialogues]


def collect_small_talk(out: Path) -> Path:
    """Who the agent is and what its games are: a few dialogues, a data set of their own, because among thousands about
    pictures they would not be learnt."""
    path = out / "small-talk"
    with DialogueWriter(path) as writer:
        for messages in small_talk():
            writer.append(messages)
    return path


if __name__ == "__main__":
    raise SystemExit(main())
