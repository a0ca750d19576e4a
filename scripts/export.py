"""`calico export FORMAT DATA --out DIR`: Calico's episodes for other projects.

    calico export minari data/CartPole-v1 --out datasets     # datasets/CartPole-v1/expert-v0
    MINARI_DATASETS_PATH=datasets python -c "import minari; print(minari.load_dataset('CartPole-v1/expert-v0'))"
    calico export lerobot data/FetchPickAndPlace-v4 --out datasets     # layout v3.0: LeRobotDataset(name, root=folder)
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from calico.scripts.common import console

FORMATS = ("minari", "lerobot")   # datasets/formats/FORMAT.py has `write_FORMAT`


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("export", __doc__)
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("data", type=Path, help="a folder of episodes, or one of its files")
    parser.add_argument("--out", type=Path, required=True, help="folder of data sets; this one gets a folder of its own in it")
    arguments = parser.parse_args(argv)

    from calico.datasets.episodes import EpisodeReader
    from calico.tokenizers.episode import Episode

    write = getattr(import_module(f"calico.datasets.formats.{arguments.format}"), f"write_{arguments.format}")
    reader = EpisodeReader(arguments.data)
    with console.progress(f"export {reader.task['name']}", total=len(reader), unit="episodes") as bar:
        def counted() -> Iterator[Episode]:
            for episode in reader:
                yield episode
                bar.advance()

        folder = write(arguments.out, reader.task, counted())
    console.wrote(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
