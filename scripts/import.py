"""`calico import FORMAT PATH --out DIR`: episodes of other projects, written as Calico's own.

    calico import minari D4RL/door/human-v2 --out data                             # by its id, or its folder
    calico import jat jat-dataset/mujoco-hopper --task jat-hopper --out data       # a folder of Parquet files
    calico import d4rl hopper-medium-v2.hdf5 --task Hopper-v5 --out data           # data/Hopper-v5

With `--task` the name of something that `calico tasks` lists, the data must have that environment's spaces, and what is
trained on it can play it; with any other name, and without, the spaces are those of the data. What a format does not know
(seeds, the final observation, how an episode ended) is listed in the sidecar, see datasets/formats/importing.py. Episodes that
cannot be read, or whose actions are not finite, are left out, named and counted. The data set appears when it is whole; an
import that was stopped is completed by the same command.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from calico.envs.registry import make, tasks
from calico.scripts.common import console

FORMATS = ("minari", "jat", "d4rl")   # datasets/formats/FORMAT.py has `read_FORMAT`


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("import", __doc__)
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("path", type=Path, help="a data set's folder or file; Minari's by its id, too")
    parser.add_argument("--task", metavar="NAME", help="what the episodes are of (default: what the data set says)")
    parser.add_argument("--out", type=Path, required=True, help="folder; the task gets one of its own in it")
    arguments = parser.parse_args(argv)

    from calico.scripts.common.importing import import_episodes  # late: what it loads takes a second

    read = getattr(import_module(f"calico.datasets.formats.{arguments.format}"), f"read_{arguments.format}")
    foreign = read(arguments.path.expanduser(), arguments.task, spaces_of(arguments.task))
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
