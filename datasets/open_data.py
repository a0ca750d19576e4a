"""Open whatever a path holds: the table of formats, and how each is known by names and first records.

    open_data("data/CartPole-v1")                                    # the reader of the first format that knows the path
    register(Format("chess", lambda found: found.path.suffix == ".pgn", lambda found, how: GameReader(found.path)))

Another package's formats are found by its entry points of the group "calico.formats", each a `Format`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .documents import MANIFESTS, CaptionReader, DialogueReader, captioned_pictures, is_caption, open_records
from .episodes import EpisodeReader
from .file_store import files_below
from .formats.dialogues import is_dialogue
from .formats.hub import local
from .images import SUFFIXES as PICTURES
from .publish import finish_publishing
from .reader import Reader
from .records import MAX_LINE_BYTES, UNPACKERS, format_of, is_document, parse, plain_file
from .shards import shards_of
from .sounds import SUFFIXES as SOUNDS
from .texts import KINDS, TEXT_KEYS, TextReader, text_files

KEYED = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tar")    # files of records, see records.py


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How data are opened; see `open_data`."""

    images: str | Path | None = None
    max_side: int | None = 64
    max_seconds: float = 10.0


class Found:
    """A file or folder and what tells its format, read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def records(self) -> Path | None:
        """The file of JSON records, or the folder or file of shards; None where there is none.

        Raises:
            ValueError: a folder with two manifests.
        """
        if self.path.is_file():
            return self.path if format_of(self.path) in KEYED else None
        manifests = [self.path / name for name in MANIFESTS if (self.path / name).exists()]
        if len(manifests) > 1:
            raise ValueError(f"{self.path} holds both {' and '.join(manifest.stem for manifest in manifests)}; name one of "
                             f"{', '.join(map(str, manifests))}")
        if manifests or shards_of(self.path) or captioned_pictures(self.path):
            return manifests[0] if manifests else self.path
        files = [] if self.tables else text_files(self.path)
        keyed = next((file for file in files if format_of(file) == ".jsonl"), None)
        if keyed is None or is_text(first_record(keyed)):
            return None
        if len(files) > 1:
            raise ValueError(f"{self.path} holds several files that are not text alone; name one of "
                             f"{', '.join(map(str, files))}")
        return keyed

    @cached_property
    def record(self) -> dict[str, Any]:
        """The first record, or the columns of a Parquet file that is none of episodes; empty where there is none."""
        if self.records is not None and format_of(self.records) != ".parquet":
            return first_record(self.records)
        tables = self.tables if self.records is None else [self.records]
        names = columns_of(tables[0]) if tables else []
        return {} if "timestep" in names else dict.fromkeys(names)

    @cached_property
    def tables(self) -> list[Path]:
        if self.path.is_dir():
            return sorted(self.path.glob("*.parquet"))
        return [self.path] if self.path.suffix.lower() == ".parquet" else []


@dataclass(frozen=True)
class Format:
    """A format of training data.

    Attributes:
        name: of the format.
        knows: whether a file or folder is of it.
        open: makes the reader; a ValueError says what is wrong with the data.
    """

    name: str
    knows: Callable[[Found], bool]
    open: Callable[[Found, Opening], Reader[Any]]


def knows_texts(found: Found) -> bool:
    """Files of text, or a folder of them; records that have nothing else."""
    if found.record or found.records is not None:
        return is_text(found.record) and format_of(found.path) != ".tar"
    return format_of(found.path) == ".txt" if found.path.is_file() else not found.tables and bool(text_files(found.path))


def is_text(record: Mapping[str, Any]) -> bool:
    """Whether a record is a text and nothing else that is known."""
    return any(key in record for key in TEXT_KEYS) and not is_dialogue(record) and not is_caption(record)


def open_episodes(found: Found, opening: Opening) -> EpisodeReader:
    """Episodes, or a ValueError that says what the file or folder holds instead."""
    path, kind = found.path, format_of(found.path)
    if {"chosen", "rejected"} <= found.record.keys():
        raise ValueError(f"{path} holds preferences, of which nothing is learnt: its first record has "
                         f"{', '.join(found.record)}; keep what is chosen, as messages or as prompt and completion")
    if found.record:
        raise ValueError(f"{path} is of no known format: its first record has {', '.join(map(str, found.record))}. Dialogues "
                         f"have messages, conversations, turns, instruction and output, prompt and completion or question and "
                         "answer; captions image or file_name, and caption or text; texts have text")
    if found.records is not None:
        raise ValueError(f"{found.records} holds no captions, no dialogues and no texts: it is empty")
    if path.is_file() and (kind != ".parquet" or path.suffix.lower() in UNPACKERS):
        what = "a picture" if kind in PICTURES else "a sound" if kind in SOUNDS else f"a {kind or 'nameless kind of'} file"
        raise ValueError(f"{path} is {what} by itself, no data set; give episodes (.parquet), captions, dialogues or text "
                         f"({', '.join(sorted({*KINDS, '.tar'}))}; .gz and .zst of them), or a folder")
    if path.is_dir() and any(path.glob("*.arrow")):
        raise ValueError(f"{path} was written by datasets' save_to_disk (.arrow); write it with to_parquet or to_json")
    if path.is_dir() and not found.tables and (inside := [str(each) for each in sorted(path.iterdir()) if holds_data(each)]):
        raise ValueError(f"{path} holds the data sets {', '.join(inside)}; name one of them, or each as a source of its own")
    if path.is_dir() and not any(path.glob("*.parquet")) and (alone := without_words(path)):
        raise ValueError(f"{path} holds pictures or sounds without words, such as {alone!r}, which `calico pretrain`, `calico "
                         "finetune` and `calico perceive` read; captions stand in a metadata.jsonl, or as a .txt beside each")
    return EpisodeReader(path)


def without_words(folder: Path) -> str | None:
    """The first picture or sound in a folder or below; None where there is none."""
    return next((name for name in files_below(folder) if name.lower().endswith((*PICTURES, *SOUNDS))), None)


FORMATS = [   # the first that knows a path opens it
    Format("dialogues", lambda found: is_dialogue(found.record),
           lambda found, how: DialogueReader(found.records or found.path, how.images, max_side=how.max_side,
                                             max_seconds=how.max_seconds)),
    Format("captions", lambda found: is_caption(found.record),
           lambda found, how: CaptionReader(found.records or found.path, how.images, max_side=how.max_side)),
    Format("texts", knows_texts, lambda found, how: TextReader(found.records or found.path)),
    Format("episodes", lambda found: True, open_episodes),
]


def register(form: Format) -> None:
    """Put a format first in the table; one of the same name is replaced."""
    FORMATS[:] = [form, *(other for other in FORMATS if other.name != form.name)]


@cache
def register_installed() -> None:
    """The formats of other packages, once."""
    for entry in entry_points(group="calico.formats"):
        register(entry.load())


def open_data(path: str | Path, *, images: str | Path | None = None, max_side: int | None = 64,
              max_seconds: float = 10.0) -> Reader[Any]:
    """The reader for a file or folder, told by its name and by the keys of its first record or its columns.

    Args:
        path: the file or folder; or "owner/name[@revision]", a data set of the Hugging Face Hub.
        images: folder or zip of the images, where they do not lie beside their manifest.
        max_side: pixels on the longer side, to which larger images are shrunk; None keeps them.
        max_seconds: longer sounds are cut.
    Raises:
        ValueError: nothing there, or nothing that is known; what the reader says of damaged data.
    """
    found = Found(local(path))
    finish_publishing(found.path)
    if not found.path.exists():
        raise ValueError(f"{path} does not exist; give a file or folder of episodes, captions, dialogues or text")
    register_installed()
    form = next(form for form in FORMATS if form.knows(found))
    return form.open(found, Opening(images=images, max_side=max_side, max_seconds=max_seconds))


def holds_data(folder: Path) -> bool:
    """Whether a folder looks like one that can be opened."""
    return any(any(folder.glob(pattern)) for pattern in ("*.parquet", "*.jsonl", "*.txt", "*.tar"))


def columns_of(table: Path) -> list[str]:
    """The columns of a Parquet file; none of a damaged one, which is left to the reader of episodes."""
    try:
        return list(pq.read_schema(table).names)
    except (pa.ArrowException, OSError):
        return []


def first_record(path: Path) -> dict[str, Any]:
    """The first record; empty where there is none."""
    if path.is_dir() or format_of(path) == ".tar" or is_document(path):
        first = next(iter(shards_of(path)), path)          # of a folder of shards the first one tells
        records = open_records(first, "", lambda value: None)
        return records[0] if len(records) else {}
    with plain_file(path).open("rb") as file:
        line = next((line for line in iter(lambda: file.readline(MAX_LINE_BYTES), b"") if line.strip()), b"")
    if not line:
        return {}
    try:
        record = parse(line)
    except ValueError as error:
        raise ValueError(f"{path}: the first line is not a JSON object ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}: the first line is not a JSON object, but {type(record).__name__}; each line is {{...}}")
    return record
