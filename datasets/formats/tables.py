"""Parquet files whose rows are captions or dialogues, as the Hugging Face hub serves them.

    image: {bytes, path}, text or caption(s)              captioned pictures
    messages or conversations: list<{role, content}>      chats; with image or images: {bytes, path} about pictures
    any other columns that dialogues.py knows

A file inside a row (a struct of `bytes` and `path`, or bytes alone) is named "ROW/NUMBER" in the record; ParquetRecords.file
reads it. Without bytes its path is the name of a file beside the table. Numbers of classes are read as the names that Hugging
Face's `datasets` writes into the file's schema (ClassLabel). Row groups are read whole and the latest ones are kept.
"""

import contextlib
import json
import re
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..byte_cache import ByteCache
from ..file_store import FileStore
from ..publish import file_sha256
from ..records import Check, check_record, named
from .row_groups import read_group

CACHE_BYTES = 1 << 28
INSIDE = re.compile(r"\d+/\d+")
SPLITS = {"train", "test", "validation", "val", "dev"}


class ParquetRecords(Sequence[dict[str, Any]]):
    """The rows of a Parquet file, or of the files of a folder; every one is checked once, then read again when asked for.

    Args and Raises: as JsonLines; a folder that holds files of several splits (train-..., test-...).
    """

    def __init__(self, path: str | Path, check: Check) -> None:
        self.path = Path(path)
        self._cache: ByteCache[int, pa.Table] = ByteCache(CACHE_BYTES, attrgetter("nbytes"))
        self.files = sorted(self.path.glob("*.parquet")) if self.path.is_dir() else [self.path]
        if len(splits := sorted({file.name.partition("-")[0] for file in self.files} & SPLITS)) > 1:
            raise ValueError(f"{self.path} holds the splits {', '.join(splits)}; put each into a folder of its own and name "
                             f"one")
        self._groups: list[tuple[Path, int]] = []       # file, and row group in it
        self._beside = FileStore(self.path if self.path.is_dir() else self.path.parent)
        self._classes: dict[str, list[str]] = {}        # column -> names of its numbers
        lengths = []
        for name in self.files:
            try:
                with pq.ParquetFile(name) as file:
                    self._classes |= class_names(file.schema_arrow)
                    lengths += [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{name} is not a readable Parquet file: {' '.join(str(error).split())}") from error
            self._groups += [(name, group) for group in range(len(lengths) - len(self._groups))]
        self._ends = np.cumsum(lengths)
        self.has_files = False       # whether any row holds one
        for index in range(len(self)):
            files: list[bytes] = []
            row = _named(self._row(index), index, files)
            with named(self.location(index)):
                check_record(row, check)
            self.has_files |= bool(files)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: Any) -> Any:
        """Row `index`: values that are null are left out, files inside it are named."""
        return _named(self._row(index), index, [])

    def has_file(self, name: str) -> bool:
        """Whether it is a file inside a row, which only records name, or one beside the table."""
        return INSIDE.fullmatch(name) is not None or name in self._beside

    def file(self, name: str) -> bytes:
        """The file inside a row that has this name, or the one beside the table."""
        if INSIDE.fullmatch(name) is None:
            return self._beside.read(name)
        row, _, number = name.partition("/")
        files: list[bytes] = []
        _named(self._row(int(row)), int(row), files)
        return files[int(number)]

    def _row(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        group = int(np.searchsorted(self._ends, index, side="right"))
        table = self._cache.get(group, lambda: self._group(group))
        row: dict[str, Any] = table.slice(index - (int(self._ends[group - 1]) if group else 0), 1).to_pylist()[0]
        for name, names in self._classes.items():
            if isinstance(number := row.get(name), int):
                row[name] = names[number] if 0 <= number < len(names) else None      # -1: nobody has said
        return row

    def _group(self, group: int) -> pa.Table:
        path, number = self._groups[group]
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                table = read_group(file, number)
            table.validate(full=True)
            return table
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"{path}, row group {number}: cannot be read ({' '.join(str(error).split())})") from error

    def location(self, index: int) -> str:
        return f"{self.path}, row {index}"

    @property
    def fingerprint(self) -> str:
        return " ".join(map(file_sha256, self.files))


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Column -> names of the classes that its numbers stand for, as `datasets` keeps them in a file's schema."""
    found: dict[str, list[str]] = {}
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):      # written by some other program
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        for name, feature in features.items():
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list):
                found[name] = list(map(str, feature["names"]))
    return found


def _named(value: Any, row: int, files: list[bytes]) -> Any:
    """A row without its null values; files inside it are replaced by their names and put into `files`."""
    match value:
        case {"bytes": bytes(data)} | bytes(data):
            files.append(data)
            return f"{row}/{len(files) - 1}"
        case {"bytes": None, "path": str(path)}:
            return path
        case dict():
            return {key: _named(inner, row, files) for key, inner in value.items() if inner is not None}
        case list():
            return [_named(inner, row, files) for inner in value]
    return value
