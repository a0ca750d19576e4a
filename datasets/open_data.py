"""Open whatever a path holds: episodes, captions, dialogues or text."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from .documents import MANIFESTS, CaptionReader, DialogueReader, is_caption, open_records
from .episodes import EpisodeReader
from .formats.dialogues import is_dialogue
from .images import SUFFIXES as PICTURES
from .records import MAX_LINE_BYTES, UNPACKERS, format_of, plain_file
from .shards import shards_of
from .sounds import SUFFIXES as SOUNDS
from .texts import KINDS, TEXT_KEYS, TextReader, text_files

Data: TypeAlias = EpisodeReader | CaptionReader | DialogueReader | TextReader


def open_data(path: str | Path, *, images: str | Path | None = None, max_side: int | None = 64,
              max_seconds: float = 10.0) -> Data:
    """The reader for a file or folder, told by its name and by the keys of its first record or its columns.

    Args:
        images: folder or zip of the images, where they do not lie beside their manifest.
        max_side: pixels on the longer side, to which larger images are shrunk; None keeps them.
        max_seconds: longer sounds are cut.
    Raises:
        ValueError: nothing there, or nothing that is known; what the reader says of damaged data.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a file or folder of episodes, captions, dialogues or text")
    if path.is_file():
        return open_file(path, images, max_side, max_seconds)
    manifests = [path / name for name in MANIFESTS if (path / name).exists()]
    if len(manifests) > 1:
        raise ValueError(f"{path} holds both {' and '.join(manifest.stem for manifest in manifests)}; name one of "
                         f"{', '.join(map(str, manifests))}")
    if manifests:
        return open_file(manifests[0], images, max_side, max_seconds)
    if shards_of(path):
        return open_keyed(path, images, max_side, max_seconds)
    tables = sorted(path.glob("*.parquet"))
    if tables and columns_of(tables[0]) and not is_episodes(columns_of(tables[0])):
        return open_table(path, tables[0], images, max_side, max_seconds)
    files = [] if tables else text_files(path)
    keyed = [file for file in files if format_of(file) == ".jsonl"]
    if keyed and not is_text(first_record(keyed[0])):
        if len(files) > 1:
            raise ValueError(f"{path} holds several files that are not text alone; name one of {', '.join(map(str, files))}")
        return open_file(keyed[0], images, max_side, max_seconds)
    if files:
        return TextReader(path)
    if not tables and (inside := [str(folder) for folder in sorted(path.iterdir()) if holds_data(folder)]):
        raise ValueError(f"{path} holds the data sets {', '.join(inside)}; name one of them, or each as a source of its own")
    return EpisodeReader(path)


def holds_data(folder: Path) -> bool:
    """Whether a folder looks like one that can be opened."""
    return any(any(folder.glob(pattern)) for pattern in ("*.parquet", "*.jsonl", "*.txt", "*.tar"))


def columns_of(table: Path) -> list[str]:
    """The columns of a Parquet file; none of a damaged one, which is left to the reader of episodes."""
    try:
        return list(pq.read_schema(table).names)
    except (pa.ArrowException, OSError):
        return []


def is_episodes(columns: list[str]) -> bool:
    """Whether a Parquet file's rows are steps."""
    return "timestep" in columns


def open_file(path: Path, images: str | Path | None, max_side: int | None, max_seconds: float) -> Data:
    """The reader for a file."""
    match format_of(path):
        case ".txt":
            return TextReader(path)
        case ".parquet" if path.suffix.lower() not in UNPACKERS:
            return open_table(path, path, images, max_side, max_seconds)
        case ".jsonl" | ".ndjson" | ".json" | ".tar" | ".csv" | ".tsv":
            return open_keyed(path, images, max_side, max_seconds)
    kind = format_of(path)
    what = "a picture" if kind in PICTURES else "a sound" if kind in SOUNDS else f"a {kind or 'nameless kind of'} file"
    raise ValueError(f"{path} is {what} by itself, no data set; give episodes (.parquet), captions, dialogues or text "
                     f"({', '.join(sorted({*KINDS, '.tar'}))}; .gz and .zst of them), or a folder")


def open_table(path: Path, table: Path, images: str | Path | None, max_side: int | None, max_seconds: float) -> Data:
    """The reader for a Parquet file, or a folder of them whose first is `table`, by its columns."""
    columns = dict.fromkeys(columns_of(table))
    if not columns or is_episodes(list(columns)):
        return EpisodeReader(path)
    return chosen_reader(path, columns, images, max_side, max_seconds)


def open_keyed(path: Path, images: str | Path | None, max_side: int | None,
               max_seconds: float) -> CaptionReader | DialogueReader | TextReader:
    """The reader for JSON, tables of text and shards, by the keys of the first record."""
    return chosen_reader(path, first_record(path), images, max_side, max_seconds)


def chosen_reader(path: Path, record: Mapping[str, Any], images: str | Path | None, max_side: int | None,
                  max_seconds: float) -> CaptionReader | DialogueReader | TextReader:
    """The reader for records with these keys.

    Raises:
        ValueError: keys of no format; the message lists them.
    """
    if is_dialogue(record):
        return DialogueReader(path, images, max_side=max_side, max_seconds=max_seconds)
    if is_caption(record):
        return CaptionReader(path, images, max_side=max_side)
    if is_text(record) and path.suffix != ".tar":
        return TextReader(path)
    if not record:
        raise ValueError(f"{path} holds no captions, no dialogues and no texts: it is empty")
    raise ValueError(f"{path} is of no known format: its first record has {', '.join(map(str, record)) or 'nothing'}. Dialogues have "
                     "messages, conversations, turns, instruction and output, prompt and completion or question and answer; "
                     "captions image or file_name, and caption or text; texts have text")


def is_text(record: Mapping[str, Any]) -> bool:
    """Whether a record is a text and nothing else that is known."""
    return any(key in record for key in TEXT_KEYS) and not is_dialogue(record) and not is_caption(record)


def first_record(path: Path) -> dict[str, Any]:
    """The first record; empty where there is none."""
    if format_of(path) in (".json", ".tar") or path.is_dir():
        records = open_records(shards_of(path)[0], "", lambda value: None)   # of a folder of shards the first one tells
        return records[0] if len(records) else {}
    with plain_file(path).open("rb") as file:
        line = next((line for line in iter(lambda: file.readline(MAX_LINE_BYTES), b"") if line.strip()), b"")
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: the first line is not a JSON object ({error})") from None
