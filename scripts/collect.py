"""`calico collect TASK... --episodes N --out DIR`: demonstrations from each task's expert, as Parquet episodes.

    calico collect CartPole-v1 ALE/Freeway-v5 --episodes 20 --out data       # seconds; data/CartPole-v1, data/ALE-Freeway-v5
    calico collect BabyAI-GoToLocal-v0 --episodes 1000 --noise 0.05 --out data
    calico collect --scenes minigrid lander --episodes 5000 --out data       # pictures with captions and questions

Episode i is always played with seed `--seed` + i. A folder that already holds the first episodes is continued, so a
collection that was stopped goes on where it was.
"""

import zlib
from pathlib import Path

import numpy as np

from calico.datasets.document_writers import CaptionWriter, DialogueWriter
from calico.datasets.episodes import EpisodeReader, EpisodeWriter
from calico.datasets.grounded import caption, picture_dialogue, small_talk, told_dialogue
from calico.envs.experts import RandomPolicy, make_expert
from calico.envs.registry import Task, get_task, make
from calico.envs.runner import rollout
from calico.envs.scenes import WORLDS, scenes
from calico.scripts import console
from calico.tokenizers.spaces import space_to_json


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
                        help="share of actions replaced by random ones; these are no training targets (default 0)")
    parser.add_argument("--noise-steps", type=int, default=1, help="hold each random action for so many steps (default 1)")
    parser.add_argument("--policy", choices=("expert", "random"), default="expert")
    parser.add_argument("--num-envs", type=int, default=8, help="environments side by side (default 8)")
    arguments = parser.parse_args(argv)
    if not arguments.tasks and not arguments.scenes:
        raise ValueError("name at least one task or --scenes WORLD; `calico tasks` lists what can be played")
    if arguments.episodes < 1:
        raise ValueError(f"--episodes {arguments.episodes} must be at least 1")
    if arguments.seed < 0:
        raise ValueError(f"--seed {arguments.seed} must be at least 0")
    tasks = [get_task(name) for name in arguments.tasks]             # all names are checked before the first episode
    for world in arguments.scenes:
        scenes(world, ())
    seeds = range(arguments.seed, arguments.seed + arguments.episodes)
    written = [collect(task, seeds, arguments.out, noise=arguments.noise, noise_steps=arguments.noise_steps,
                       policy=arguments.policy,
                       num_envs=arguments.num_envs) for task in tasks]
    for world in arguments.scenes:
        written += collect_scenes(world, seeds, arguments.out)
    console.wrote(*written)
    return 0


def folder_name(task: str) -> str:
    """"ALE/Pong-v5" -> "ALE-Pong-v5"."""
    return task.replace("/", "-")


def collect(task: Task, seeds: range, out: Path, *, noise: float = 0.0, noise_steps: int = 1, policy: str = "expert",
            num_envs: int = 8) -> Path:
    """Record one task's episodes, those that the folder lacks; returns the folder.

    Raises:
        ValueError: the task has no expert, or the folder holds episodes of another kind.
    """
    folder = out / folder_name(task.name)
    player = make_expert(task) if policy == "expert" else RandomPolicy()
    env = make(task)
    about = {"name": task.name, "observation_space": space_to_json(env.observation_space),
             "action_space": space_to_json(env.action_space), "environment": task.to_json(), "policy": policy,
             "expert": task.expert if policy == "expert" else None, "noise": noise, "noise_steps": noise_steps}
    env.close()
    done: set[int] = set()
    if any(folder.glob("*.parquet")):
        reader = EpisodeReader(folder)
        wanted = {"policy": policy, "noise": noise, "noise_steps": noise_steps}
        if (found := {key: reader.task.get(key) for key in wanted}) != wanted:
            raise ValueError(f"{folder} holds episodes of {found}, not of {wanted}; choose another --out, or the same settings")
        done = {int(seed) for seed in reader.seeds}
    missing = [seed for seed in seeds if seed not in done]
    with EpisodeWriter(folder, about) as writer, \
            console.progress(f"collect {task.name}", total=len(seeds), unit="episodes", start=len(seeds) - len(missing)) as bar:
        for episode in rollout(task, player, missing, num_envs=num_envs, noise=noise,
                               noise_steps=noise_steps):
            writer.append(episode)
            bar.advance(note=f"return {episode.score:g}")
    return folder


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
        for messages in small_talk():
            dialogue_writer.append(messages)
    return [captions, dialogues]
