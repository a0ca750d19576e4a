"""`calico import FORMAT PATH --out DIR`: episodes of other projects, written as Calico's own.

    calico import minari D4RL/door/human-v2 --out data                             # by its id, or its folder
    calico import jat jat-dataset/mujoco-hopper --task jat-hopper --out data       # a folder of Parquet files
    calico import d4rl hopper-medium-v2.hdf5 --task Hopper-v5 --out data           # data/Hopper-v5

With `--task` the name of something that `calico tasks` lists, the data must have that environment's spaces, and what is
trained on it can play it; with any other name, and without, the spaces are those of the data. What a format does not know
(seeds, the final observation, how an episode ended) is listed in the sidecar, see datasets/formats/importing.py. Episodes that
cannot be read, or whose actions are not finite, are left out, named and counted.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from calico.envs.registry import make, tasks
from calico.scripts.common import console
from calico.scripts.common.sharding import folder_name

FORMATS = ("minari", "jat", "d4rl")   # datasets/formats/FORMAT.py has `read_FORMAT`
NAMED = 5      # episodes that were left out; the others are counted


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("import", __doc__)
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("path", type=Path, help="a data set's folder or file; Minari's by its id, too")
    parser.add_argument("--task", metavar="NAME", help="what the episodes are of (default: what the data set says)")
    parser.add_argument("--out", type=Path, required=True, help="folder; the task gets one of its own in it")
    arguments = parser.parse_args(argv)

    from calico.datasets.episodes import EpisodeWriter

    read = getattr(import_module(f"calico.datasets.formats.{arguments.format}"), f"read_{arguments.format}")
    foreign = read(arguments.path.expanduser(), arguments.task, spaces_of(arguments.task))
    folder = arguments.out / folder_name(foreign.task["name"])
    if any(folder.glob("*.parquet")):
        raise ValueError(f"{folder} holds episodes already; choose another --out or --task, or remove it")
    if not foreign.total:
        raise ValueError(f"{arguments.path} holds no episode")
    skipped: list[str] = []
    with EpisodeWriter(folder, foreign.task) as writer, \
            console.progress(f"import {foreign.task['name']}", total=foreign.total, unit="episodes") as bar:
        for episode in foreign.usable(skipped):
            writer.append(episode)
            bar.advance(note=f"return {episode.score:g}")
    for why in skipped[:NAMED]:
        console.note(console.printable(f"left out: {why}"))
    if skipped:
        console.note(f"{len(skipped)} of {foreign.total} episodes were left out")
    console.wrote(folder)
    return 0


def spaces_of(name: str | None) -> tuple[Any, Any] | None:
    """The spaces of a task that can be played here; None for any other name."""
    if name not in {task.name for task in tasks()}:
        return None
    env = make(name)
    env.close()
    return env.observation_space, env.action_space


if __name__ == "__main__":
    raise SystemExit(main())
