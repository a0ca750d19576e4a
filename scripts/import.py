"""`calico import FORMAT PATH --out DIR`: episodes of other projects, written as Calico's own.

    calico import minari D4RL/door/human-v2 --out data                             # by its id, or its folder
    calico import jat jat-dataset/mujoco-hopper --task jat-hopper --out data       # a folder of Parquet files
    calico import d4rl hopper-medium-v2.hdf5 --task Hopper-v5 --out data           # data/Hopper-v5
    calico import lerobot lerobot/pusht --size 64 --out data                       # a folder, or owner/name of the Hub

With `--task` the name of something that `calico tasks` lists, the data must have that environment's spaces, and what is
trained on it can play it; with any other name, and without, the spaces are those of the data. What a format does not know
(seeds, the final observation, how an episode ended) is listed in the sidecar, see datasets/formats/importing.py. Episodes that
cannot be read, or whose actions are not finite, are left out, named and counted. The data set appears when it is whole; an
import that was stopped is completed by the same command.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from calico.datasets.formats.hub import hub_name
from calico.envs.registry import make, tasks
from calico.scripts.common import console

FORMATS = {"minari": "minari", "jat": "jat", "d4rl": "d4rl", "lerobot": "lerobot_reader"}   # file with `read_FORMAT`


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("import", __doc__)
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("path", type=Path, help="a data set's folder or file, Minari's id, or LeRobot's owner/name of the Hub")
    parser.add_argument("--task", metavar="NAME", help="what the episodes are of (default: what the data set says)")
    parser.add_argument("--size", type=int, metavar="N",
                        help="pixels on each side of LeRobot's pictures, cut around their middle (default: as they are)")
    parser.add_argument("--out", type=Path, required=True, help="folder; the task gets one of its own in it")
    arguments = parser.parse_args(argv)
    console.check_positive(arguments, "size")
    if arguments.size and arguments.format != "lerobot":
        raise ValueError(f"--size {arguments.size} is for lerobot; the pictures of {arguments.format} stay as they are")

    from calico.scripts.common.importing import import_episodes  # late: what it loads takes a second

    read = getattr(import_module(f"calico.datasets.formats.{FORMATS[arguments.format]}"), f"read_{arguments.format}")
    path = arguments.path.expanduser()
    settings = {"size": arguments.size} if arguments.size else {}
    if arguments.format == "lerobot" and (name := hub_name(path)):
        from calico.datasets.formats.hub import hub_folder

        path = hub_folder(*name, kind="dataset")
        settings["hub"] = "@".join(part for part in name if part)
    foreign = read(path, arguments.task, spaces_of(arguments.task), **settings)
    if not foreign.total:
        raise ValueError(f"{arguments.path} holds no episode")
    console.wrote(import_episodes(foreign, arguments.out))
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
