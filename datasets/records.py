"""Records: the objects of a manifest, each with the file and line that an error names.

    .jsonl         one object per line; read again when asked for, so that only offsets are in memory
    .csv, .tsv     one object per row, its keys are those of the first row; all values are texts. Where no comma divides the
                   first row of a .csv, semicolons or tabs do; a first column without a name, pandas' index, is left out
    .json          a list of objects, COCO captions or VQAv2 questions (see formats/coco.py), SQuAD; held in memory. JSON lines
                   under this name are read as such, and so is a list that is called .jsonl: see is_document
    .parquet       one object per row, see formats/tables.py
    .tar           WebDataset shards, see shards.py

Compressed files (.jsonl.gz, .csv.zst, .txt.bz2, ...) are unpacked once, into a file that is gone when the program ends.
"""

import atexit
import bz2
import codecs
import contextlib
import csv
import gzip
import json
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from ..tokenizers.budget import check_bytes, json_bytes
from .formats.coco import coco_entries, squad_entries, vqa_entries
from .publish import file_sha256

MAX_LINE_BYTES = 1 << 24
MAX_UNPACKED_BYTES = 1 << 36     # of one compressed file

Check: TypeAlias = Callable[[dict[str, Any]], object]   # raises ValueError with what is wrong with a record


def _zstd(path: Path) -> Any:
    return pa.input_stream(str(path), compression="zstd")


UNPACKERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".zst": _zstd, ".bz2": bz2.open, ".xz": lzma.open}
_unpacked: dict[tuple[str, int, int], Path] = {}     # of this process: (path, size, time) -> plain file


def format_of(path: Path) -> str:
    """The lower-case ending that tells a file's format: ".jsonl" for X.JSONL and x.jsonl.gz."""
    name = Path(path.name.lower())
    return Path(name.stem).suffix if name.suffix in UNPACKERS else name.suffix


def stem_of(path: Path) -> str:
    """The name without that ending."""
    return Path(path.stem).stem if path.suffix.lower() in UNPACKERS else path.stem


def plain_file(path: Path) -> Path:
    """The file itself, or what a compressed one or a table of text holds, in a temporary file: .csv as .jsonl.

    Raises:
        ValueError: it is broken, cut short or longer than MAX_UNPACKED_BYTES; a table with rows of several lengths.
    """
    unpack = UNPACKERS.get(path.suffix.lower())
    table = {".csv": ",", ".tsv": "\t"}.get(format_of(path))
    if unpack is None and table is None:
        return path
    status = path.stat()
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    if key not in _unpacked:
        if not _unpacked:
            _unpacked[("", 0, 0)] = folder = Path(tempfile.mkdtemp(prefix="calico-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        target = _unpacked[("", 0, 0)] / f"{len(_unpacked)}{format_of(path)}"
        if unpack is not None:
            try:
                with unpack(path) as packed, open(target, "wb") as out:
                    while data := packed.read(1 << 20):
                        out.write(data)
                        if out.tell() > MAX_UNPACKED_BYTES:
                            raise ValueError(f"more than {MAX_UNPACKED_BYTES} bytes")
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
                why = " ".join(str(error).split()) or type(error).__name__
                raise ValueError(f"{path} cannot be unpacked ({why})") from error
        if table is not None:
            target = _rows_as_lines(path, path if unpack is None else target, table)
        _unpacked[key] = target
    return _unpacked[key]


def _rows_as_lines(path: Path, file: Path, delimiter: str) -> Path:
    """A table of text as JSON Lines beside the unpacked ones: line n is row n below the header; an empty cell is left out."""
    target = _unpacked[("", 0, 0)] / f"{len(_unpacked)}.rows.jsonl"
    csv.field_size_limit(MAX_LINE_BYTES)
    try:
        with open(file, encoding="utf-8-sig", newline="") as text, open(target, "w", encoding="utf-8") as out:
            rows = csv.reader(text, delimiter=_delimiter(text.readline(), delimiter), strict=True)
            text.seek(0)
            header = [name.strip() for name in next(rows, [])]
            first = int(len(header) > 1 and not header[0])      # pandas writes its index so
            header = header[first:]
            if not header or len(set(header)) < len(header) or "" in header:
                raise ValueError(f"the first row must name the columns, each once; it is {', '.join(header) or 'empty'}")
            for number, row in enumerate(rows, 1):
                if row and len(row) != first + len(header):
                    raise ValueError(f"row {number} has {len(row)} cells, the first row names {first + len(header)} columns")
                cells = {key: cell for key, cell in zip(header, row[first:], strict=True) if cell} if row else {}
                out.write(json.dumps(cells) + "\n" if cells else "\n")
            if not out.tell():
                raise ValueError(f"there is no row below the first one, {', '.join(header)}")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {_not_utf8(error)}") from None
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from None
    return target


def _delimiter(header: str, delimiter: str) -> str:
    """What divides the first row: of a .csv semicolons or tabs, as spreadsheets write, where no comma does."""
    def columns(by: str) -> int:
        return len(next(csv.reader([header], delimiter=by), []))

    if delimiter != "," or columns(",") > 1:
        return delimiter
    return next((other for other in (";", "\t") if columns(other) > 1), delimiter)


def _not_utf8(error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    what = "UTF-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else f"not UTF-8 (there is a byte {byte:#04x})"
    return f"it is {what}; convert it to UTF-8, for instance by iconv"


def is_document(path: Path) -> bool:
    """Whether a file is one JSON document, and not one object per line: datasets' to_json writes lines that it calls .json, and
    other programs a list that they call .jsonl."""
    kind = format_of(path)
    if kind not in (".json", ".jsonl", ".ndjson"):
        return False
    with plain_file(path).open("rb") as file:
        lines = (line.removeprefix(codecs.BOM_UTF8) for line in iter(lambda: file.readline(MAX_LINE_BYTES), b""))
        filled = (line for line in lines if line.strip())
        first, second = next(filled, b""), next(filled, None)
    if second is None:
        return kind == ".json" or first.lstrip().startswith(b"[")
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return kind == ".json" or first.lstrip().startswith(b"[")
    return False


def read_json(path: Path, check: Check) -> "JsonLines | JsonDocument":
    """The records of a file of JSON, or of a table of text, whatever its name ends in."""
    return JsonDocument(path, check) if is_document(path) else JsonLines(path, check)


class JsonLines(Sequence[dict[str, Any]]):
    """A JSON Lines file, or a table of text: every line is checked once, and parsed again when asked for, so that only offsets
    are in memory.

    Args:
        path: the file; empty lines are passed over.
        check: called with each line's object; raises ValueError with what is wrong.
    Attributes:
        lines: line number of each object, counted from 1.
    Raises:
        ValueError: a line that is not a JSON object, too long or refused by `check`: names file and line.
    """

    def __init__(self, path: str | Path, check: Check) -> None:
        self.path = Path(path)
        self._file = plain_file(self.path)
        self._line = "row" if format_of(self.path) in (".csv", ".tsv") else "line"
        offsets, lines, offset, number = [], [], 0, 0
        with open(self._file, "rb") as file:
            try:
                for number, data in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                    if len(data) > MAX_LINE_BYTES:
                        raise ValueError(f"longer than {MAX_LINE_BYTES} bytes")
                    if data.strip():
                        check_record(parse(data), check)
                        offsets.append(offset)
                        lines.append(number)
                    offset += len(data)
            except ValueError as error:
                raise ValueError(f"{self.path}, {self._line} {number}: {error}") from error
        self._offsets, self.lines = np.array(offsets, np.int64), np.array(lines, np.int64)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: Any) -> Any:
        with open(self._file, "rb") as file:
            file.seek(int(self._offsets[index]))
            return json.loads(file.readline())

    def location(self, index: int) -> str:
        return f"{self.path}, {self._line} {self.lines[index]}"

    @property
    def fingerprint(self) -> str:
        return file_sha256(self.path)


def read_rows(path: Path, check: Check, hint: str = "") -> list[dict[str, Any]]:
    """All records of a file of JSON lines, of a list, or of a table of text; a ValueError where it cannot be opened."""
    try:
        return list(read_json(path, check))
    except OSError as error:
        raise ValueError(f"{path} cannot be read as JSON lines: {error}{hint}") from None


class JsonDocument(Sequence[dict[str, Any]]):
    """The records of one JSON document, held in memory: a list of objects, COCO captions, VQAv2 questions or SQuAD.

    Args and Raises: as JsonLines. The answers to VQAv2 questions are looked for beside them.
    """

    def __init__(self, path: str | Path, check: Check) -> None:
        self.path, self._files = Path(path), [Path(path)]
        self._entries = self._read()
        for position, value in self._entries:
            with named(f"{self.path}, {position}"):
                check_record(value, check)

    def _read(self) -> list[tuple[str, dict[str, Any]]]:
        """(position, record) of everything in the document."""
        with named(self.path):
            content = parse(read_document(plain_file(self.path)))
        try:
            match content:
                case list():
                    return [(f"entry {number}", value) for number, value in enumerate(content, 1)]
                case {"questions": _}:
                    answers = answers_beside(self.path)
                    self._files.append(answers)
                    with named(answers):
                        annotations = parse(read_document(answers))
                    return vqa_entries(content, annotations)
                case {"images": _, "annotations": _}:
                    return coco_entries(content)
                case {"data": [{"paragraphs": _}, *_]}:
                    return squad_entries(content)
        except ValueError as error:
            raise ValueError(f"{' with '.join(map(str, self._files))}: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            files = " with ".join(map(str, self._files))
            raise ValueError(f"{files} is not as COCO and VQAv2 write it: {type(error).__name__} {error}") from error
        keys = ", ".join(list(content)[:8]) if isinstance(content, dict) else ""
        has = f"it has {keys or 'nothing'}" if isinstance(content, dict) else f"it is {type(content).__name__}"
        raise ValueError(f"{self.path} is neither a list of objects, nor COCO captions (images, annotations), VQAv2 "
                         f"questions or SQuAD (data, paragraphs): {has}")

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        return self._entries[index][1]

    def location(self, index: int) -> str:
        return f"{self.path}, {self._entries[index][0]}"

    @property
    def fingerprint(self) -> str:
        return " ".join(map(file_sha256, self._files))


def read_document(path: Path) -> bytes:
    """A JSON document's bytes; ValueError where they, or what they become, take more memory than the limit."""
    check_bytes(path.stat().st_size, path.name)
    data = path.read_bytes()
    check_bytes(json_bytes(data), f"{path.name}, parsed,")
    return data


def answers_beside(questions: Path) -> Path:
    """The annotations of a questions file, as VQAv2 and plainer sets name them.

    Raises:
        ValueError: there is none.
    """
    name = questions.name.replace("questions", "annotations")
    paths = [questions.with_name(n) for n in (name.replace("OpenEnded_", ""), name) if n != questions.name]
    found = [path for path in paths if path.is_file()]
    if not found:
        raise ValueError(f"{questions} holds questions but there is no {' or '.join(p.name for p in paths) or 'annotations'} "
                         "beside it; put the answers there")
    return found[0]


@contextlib.contextmanager
def named(position: object) -> Iterator[None]:
    """Begin the message of a ValueError with the file and position that it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{position}: {error}") from error


def parse(data: bytes) -> Any:
    """A JSON document, or a ValueError."""
    try:
        if data[:1] == b"{" and data[1:2] != b"\0":      # UTF-8: json.loads takes twice as long to find that out
            return json.loads(data.decode("utf-8", "surrogatepass"))
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError(_not_utf8(error)) from None


def check_record(value: Any, check: Check) -> None:
    """Raise ValueError unless `value` is an object that passes `check`."""
    if not isinstance(value, dict):
        raise ValueError(f"expected an object {{...}}, got {type(value).__name__}")
    check(value)


def require_text(value: Any, what: str) -> str:
    """`value` if it is a string that UTF-8 can write.

    Raises:
        ValueError: another type; a lone surrogate, which JSON can spell and no tokenizer can encode.
    """
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a string, got {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{what} holds half of a surrogate pair, which is no character") from None
    return value
