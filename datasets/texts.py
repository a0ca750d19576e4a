"""Texts: .txt files, JSON Lines {"text": "..."}, CSV and Parquet files with a column `text` (or `content`), also larger than
memory.

Opening reads everything once, to check it and to know each document's length; afterwards a piece is read when it is
asked for, and the latest ones are kept. A .txt file of more than PIECE_BYTES counts as several documents, cut at line
ends; Parquet is read by row groups, so those should be some megabytes each. Compressed files are unpacked first, see
records.py.
"""

import hashlib
import sys
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .byte_cache import ByteCache
from .formats.dialogues import CONTENT, check_dropped
from .formats.row_groups import read_group
from .publish import file_sha256
from .reader import TextData
from .records import format_of, named, plain_file, read_json, require_text

TEXT_KEYS = ("text", "content")
ALONE = "of these records the text alone is learnt"
IN_FOLDERS = (".txt", ".jsonl", ".parquet")     # others may be anything: a folder's settings, tables of results
PIECE_BYTES = 1 << 22
CACHE_BYTES = 1 << 27   # per file


class TextReader(TextData):
    """Documents of .txt, .jsonl, .json, .csv and .parquet files.

    Args:
        paths: files, or a folder whose files of these kinds are taken in the order of their names.
    Attributes:
        characters: int64 (documents,), the length of each.
        fingerprint: SHA-256 over the files' digests.
    Raises:
        ValueError: no such file, not UTF-8, a malformed line or row, no documents.
    """

    def __init__(self, *paths: str | Path) -> None:
        files = [file for path in paths for file in text_files(Path(path))]
        self._files = [KINDS[format_of(file)](file) for file in files]
        self._ends = np.cumsum([len(file) for file in self._files])
        if not sum(map(len, self._files)):
            raise ValueError(f"no documents in {', '.join(map(str, paths)) or 'an empty list of paths'}")
        self.characters = np.concatenate([file.characters for file in self._files])
        self.format = "text, because of the ending " + ", ".join(sorted({format_of(file) for file in files}))
        self._fingerprint = hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def __len__(self) -> int:
        return len(self.characters)

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self))[index]
        file = int(np.searchsorted(self._ends, index, side="right"))
        return self._files[file][index - (int(self._ends[file - 1]) if file else 0)]


def text_files(path: Path) -> list[Path]:
    """The path itself, or the files of a folder that hold text."""
    if path.is_dir():
        return sorted(p for p in path.iterdir() if format_of(p) in IN_FOLDERS and not p.name.startswith((".", "_")))
    if format_of(path) not in KINDS or not path.is_file():
        raise ValueError(f"{path} is not a .txt, .jsonl or .parquet file, nor a folder of them")
    return [path]


class PlainText(Sequence[str]):
    """A .txt file as it is, line ends included."""

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, plain_file(path)
        with open(self._file, "rb") as file:
            begins = file.read(len(BOM_UTF8)) == BOM_UTF8      # a mark that editors write: no part of the text
        characters, self._offsets = [], [len(BOM_UTF8) * begins]
        for data in pieces(self._file, self._offsets[0]):
            characters.append(len(self._decode(data, self._offsets[-1])))
            self._offsets.append(self._offsets[-1] + len(data))
        self.characters = np.array(characters, np.int64)
        self._cache: ByteCache[int, str] = ByteCache(CACHE_BYTES, sys.getsizeof)

    def __len__(self) -> int:
        return len(self.characters)

    def __getitem__(self, index: Any) -> Any:
        return self._cache.get(index, lambda: self._piece(index))

    def _piece(self, index: int) -> str:
        start, stop = self._offsets[index:index + 2]
        with open(self._file, "rb") as file:
            file.seek(start)
            return self._decode(file.read(stop - start), start)

    def _decode(self, data: bytes, offset: int) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path} is not UTF-8: byte {offset + error.start} is {data[error.start]:#04x}; convert it "
                             "first") from error


def pieces(path: Path, start: int = 0) -> Iterator[bytes]:
    """A file from a byte on in pieces of about PIECE_BYTES that end with a line where lines are shorter than that; an empty
    one is one piece."""
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read(PIECE_BYTES) + file.readline(PIECE_BYTES)
        while True:
            for _ in range(3):                                       # the rest of a character of up to four bytes
                if (file.peek(1)[:1] or b"a")[0] & 0xC0 == 0x80:
                    data += file.read(1)
            yield data
            data = file.read(PIECE_BYTES) + file.readline(PIECE_BYTES)
            if not data:
                return


class LinesOfText(Sequence[str]):
    """The field `text` of a JSON Lines file, of a table or of a JSON list."""

    def __init__(self, path: Path) -> None:
        characters: list[int] = []

        def check(value: dict[str, Any]) -> None:
            text = require_text(text_of(value), "text")
            check_dropped(value, sorted(CONTENT & value.keys()), text, ALONE)
            characters.append(len(text))

        self._lines = read_json(path, check)
        self.characters = np.array(characters, np.int64)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: Any) -> Any:
        return text_of(self._lines[index])


def text_of(value: Mapping[str, Any]) -> Any:
    """The text of a record; None where it has none."""
    return value["text"] if "text" in value else value.get("content")


class ParquetText(Sequence[str]):
    """The column `text` of a Parquet file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cache: ByteCache[int, pa.LargeStringArray] = ByteCache(CACHE_BYTES, attrgetter("nbytes"))
        groups = self._open().metadata.num_row_groups
        lengths = [pc.utf8_length(self._group(group)).to_numpy() for group in range(groups)]
        self._ends = np.cumsum([len(rows) for rows in lengths])
        self.characters = np.concatenate([np.zeros(0, np.int64), *lengths])

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.path} is not a readable Parquet file: {' '.join(str(error).split())}") from error

    def _group(self, group: int) -> pa.LargeStringArray:
        """The texts of a row group, checked."""
        with self._open() as file:
            name = next((key for key in TEXT_KEYS if key in file.schema_arrow.names), None)
            if name is None:
                raise ValueError(f"{self.path} has no column 'text'; it has {', '.join(file.schema_arrow.names)}")
            others = sorted(CONTENT & set(file.schema_arrow.names))
            try:
                table = read_group(file, group, [name, *others])
                column = table[name]
                texts = column.cast(pa.large_string()).combine_chunks()
                texts.validate(full=True)
            except (pa.ArrowException, OSError, ValueError) as error:
                why = " ".join(str(error).split())
                raise ValueError(f"{self.path}, row group {group}: text cannot be read as strings ({why})") from error
        if texts.null_count:
            row = pc.index(texts.is_null(), True).as_py()
            raise ValueError(f"{self.path}, row {row} of row group {group}: text must be a string, got null")
        if others:
            for row, (value, text) in enumerate(zip(table.select(others).to_pylist(), texts.to_pylist(), strict=True)):
                with named(f"{self.path}, row {row} of row group {group}"):
                    check_dropped(value, others, text, ALONE)
        return texts

    def __len__(self) -> int:
        return len(self.characters)

    def __getitem__(self, index: Any) -> Any:
        group = int(np.searchsorted(self._ends, index, side="right"))
        texts = self._cache.get(group, lambda: self._group(group))
        return texts[index - (int(self._ends[group - 1]) if group else 0)].as_py()


KINDS: dict[str, type[PlainText] | type[LinesOfText] | type[ParquetText]] = {
    ".txt": PlainText, ".jsonl": LinesOfText, ".ndjson": LinesOfText, ".json": LinesOfText, ".csv": LinesOfText,
    ".tsv": LinesOfText, ".parquet": ParquetText}
