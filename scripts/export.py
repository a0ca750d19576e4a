"""`calico export FORMAT DATA --out DIR`: Calico's episodes for other projects.

    calico export minari data/CartPole-v1 --out datasets     # datasets/CartPole-v1/expert-v0
    MINARI_DATASETS_PATH=datasets python -c "import minari; print(minari.load_dataset('CartPole-v1/expert-v0'))"
    calico export lerobot data/FetchPickAndPlace-v4 --out datasets     # layout v3.0: LeRobotDataset(name, root=folder)
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from calico.scripts.common import console

FORMATS = ("minari", "lerobot")   # datasets/formats/FORMAT.py has `write_FORMAT`


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("export", __doc__)
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("data", type=Path, help="a folder of episodes, or one of its files")
    parser.add_argument("--out", type=Path, required=True, help="folder of data sets; this one gets a folder of its own in it")
    parser.add_argument("--fps", type=int, metavar="N",
                        help="of LeRobot's clock (default: that of imported data, else the environment's, else 10)")
    arguments = parser.parse_args(argv)
    console.check_positive(arguments, "fps")
    if arguments.fps and arguments.format != "lerobot":
        raise ValueError(f"--fps {arguments.fps} is for lerobot; {arguments.format} counts in steps")

    from calico.datasets.episodes import EpisodeReader
    from calico.tokenizers.episode import Episode

    write = getattr(import_module(f"calico.datasets.formats.{arguments.format}"), f"write_{arguments.format}")
    reader = EpisodeReader(arguments.data)
    settings = {"fps": fps} if arguments.format == "lerobot" and (fps := arguments.fps or own_fps(reader.task)) else {}
    with console.progress(f"export {reader.task['name']}", total=len(reader), unit="episodes") as bar:
        def counted() -> Iterator[Episode]:
            for episode in reader:
                yield episode
                bar.advance()

        folder = write(arguments.out, reader.task, counted(), **settings)
    console.wrote(folder)
    return 0


def own_fps(task: Mapping[str, Any]) -> int | None:
    """The frames per second that the episodes were imported with, else those of the environment that they are of; None where it
    cannot be made here, or says nothing."""
    from calico.envs.registry import make, recorded_task

    if fps := task.get("source", {}).get("fps"):
        return round(fps)
    with suppress(ValueError, ImportError):
        env = make(recorded_task(task["name"], task.get("environment", {})))
        env.close()
        fps = env.metadata.get("render_fps")
        return round(fps) if fps else None
    return None


if __name__ == "__main__":
    raise SystemExit(main())
