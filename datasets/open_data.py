"""Open whatever a path holds: episodes, captions, dialogues or text."""

import json
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from .documents import CaptionReader, DialogueReader, open_records
from .episodes import EpisodeReader
from .formats.dialogues import is_dialogue
from .records import MAX_LINE_BYTES
from .shards import shards_of
from .texts import TextReader

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
    manifests = [path / name for name in ("captions.jsonl", "dialogues.jsonl") if (path / name).exists()]
    if len(manifests) > 1:
        raise ValueError(f"{path} holds both captions and dialogues; name one of {', '.join(map(str, manifests))}")
    if manifests:
        return open_file(manifests[0], images, max_side, max_seconds)
    if shards_of(path):
        return open_keyed(path, images, max_side, max_seconds)
    tables = sorted(path.glob("*.parquet"))
    if any(path.glob("*.txt")) or any(path.glob("*.jsonl")) or (tables and holds_text(tables[0])):
        return TextReader(path)
    if not tables and (inside := [str(folder) for folder in sorted(path.iterdir()) if holds_data(folder)]):
        raise ValueError(f"{path} holds the data sets {', '.join(inside)}; name one of them, or each as a source of its own")
    return EpisodeReader(path)


def holds_data(folder: Path) -> bool:
    """Whether a folder looks like one that can be opened."""
    return any(any(folder.glob(pattern)) for pattern in ("*.parquet", "*.jsonl", "*.txt", "*.tar"))


def holds_text(table: Path) -> bool:
    """Whether a Parquet file has a column of text and no timesteps; a damaged one is left to the reader of episodes."""
    try:
        names = pq.read_schema(table).names
    except (pa.ArrowException, OSError):
        return False
    return "text" in names and "timestep" not in names


def open_file(path: Path, images: str | Path | None, max_side: int | None, max_seconds: float) -> Data:
    """The reader for a file."""
    match path.suffix:
        case ".txt":
            return TextReader(path)
        case ".jsonl" | ".json" | ".tar":
            return open_keyed(path, images, max_side, max_seconds)
    return TextReader(path) if path.suffix == ".parquet" and holds_text(path) else EpisodeReader(path)


def open_keyed(path: Path, images: str | Path | None, max_side: int | None,
               max_seconds: float) -> CaptionReader | DialogueReader | TextReader:
    """The reader for JSON and shards, by the keys of the first record."""
    record = first_record(path)
    if is_dialogue(record):
        return DialogueReader(path, images, max_side=max_side, max_seconds=max_seconds)
    if "image" in record or path.suffix != ".jsonl":
        return CaptionReader(path, images, max_side=max_side)
    return TextReader(path)


def first_record(path: Path) -> dict[str, Any]:
    """The first record; empty where there is none."""
    if path.suffix != ".jsonl":
        records = open_records(shards_of(path)[0], "", lambda value: None)   # of a folder of shards the first one tells
        return records[0] if len(records) else {}
    with path.open("rb") as file:
        line = next((line for line in iter(lambda: file.readline(MAX_LINE_BYTES), b"") if line.strip()), b"")
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: the first line is not a JSON object ({error})") from None
