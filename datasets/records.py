"""Records: the JSON objects of a manifest, each with the place in the file that an error names.

    .jsonl    one object per line; read again when asked for, so that only places are in memory
    .json     a list of objects, COCO captions or VQAv2 questions (see formats/coco.py); held in memory
    .tar      WebDataset shards, see shards.py
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from .formats.coco import coco_entries, vqa_entries
from .publish import file_sha256

MAX_LINE_BYTES = 1 << 24

Check: TypeAlias = Callable[[dict[str, Any]], None]   # raises ValueError with what is wrong with a record


class JsonLines(Sequence[dict[str, Any]]):
    """A JSON Lines file: every line checked once, then parsed again when asked for, so that only places are in memory.

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
        places, lines, place = [], [], 0
        with open(self.path, "rb") as file:
            number = 0
            while data := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(data) > MAX_LINE_BYTES:
                    raise ValueError(f"{self.path}, line {number}: longer than {MAX_LINE_BYTES} bytes")
                if data.strip():
                    check_record(parse(data, f"{self.path}, line {number}"), check, f"{self.path}, line {number}")
                    places.append(place)
                    lines.append(number)
                place += len(data)
        self._places, self.lines = np.array(places, np.int64), np.array(lines, np.int64)

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.lines)

    def __getitem__(self, index: Any) -> Any:
        """Object `index`."""
        with open(self.path, "rb") as file:
            file.seek(int(self._places[index]))
            return json.loads(file.readline())

    def place(self, index: int) -> str:
        """File and line of an object."""
        return f"{self.path}, line {self.lines[index]}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return file_sha256(self.path)


class JsonDocument(Sequence[dict[str, Any]]):
    """The records of one JSON document, held in memory: a list of objects, COCO captions or VQAv2 questions.

    Args and Raises: as JsonLines. The answers to VQAv2 questions are looked for beside them.
    """

    def __init__(self, path: str | Path, check: Check) -> None:
        self.path, self._files = Path(path), [Path(path)]
        self._entries = self._read()
        for place, value in self._entries:
            check_record(value, check, f"{self.path}, {place}")

    def _read(self) -> list[tuple[str, dict[str, Any]]]:
        """(place, record) of everything in the document."""
        content = parse(self.path.read_bytes(), str(self.path))
        try:
            match content:
                case list():
                    return [(f"entry {number}", value) for number, value in enumerate(content, 1)]
                case {"questions": _}:
                    answers = answers_beside(self.path)
                    self._files.append(answers)
                    return vqa_entries(content, parse(answers.read_bytes(), str(answers)))
                case {"images": _, "annotations": _}:
                    return coco_entries(content)
        except (KeyError, TypeError, AttributeError) as error:
            files = " with ".join(map(str, self._files))
            raise ValueError(f"{files} is not as COCO and VQAv2 write it: {type(error).__name__} {error}") from error
        raise ValueError(f"{self.path} is neither a list of objects, nor COCO captions (images, annotations), nor VQAv2 "
                         "questions")

    def __len__(self) -> int:
        """Number of records."""
        return len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        """Record `index`."""
        return self._entries[index][1]

    def place(self, index: int) -> str:
        """File and entry of a record."""
        return f"{self.path}, {self._entries[index][0]}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the files."""
        return " ".join(map(file_sha256, self._files))


def answers_beside(questions: Path) -> Path:
    """The annotations of a questions file, as VQAv2 and plainer sets name them.

    Raises:
        ValueError: there is none.
    """
    name = questions.name.replace("questions", "annotations")
    places = [questions.with_name(n) for n in (name.replace("OpenEnded_", ""), name) if n != questions.name]
    found = [place for place in places if place.is_file()]
    if not found:
        raise ValueError(f"{questions} holds questions but there is no {' or '.join(p.name for p in places) or 'annotations'} "
                         "beside it; put the answers there")
    return found[0]


def parse(data: bytes, place: str) -> Any:
    """A JSON document; `place` is named where it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: {str(error) or 'nested too deeply'}") from error


def check_record(value: Any, check: Check, place: str) -> None:
    """Raise ValueError, with the place, unless `value` is an object that passes `check`."""
    try:
        if not isinstance(value, dict):
            raise ValueError(f"expected an object {{...}}, got {type(value).__name__}")
        check(value)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def require_text(value: Any, what: str) -> str:
    """`value` if it is a string that UTF-8 can write.

    Raises:
        ValueError: another type; a lone surrogate, which JSON can spell and no tokenizer can encode.
    """
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a string, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds half of a surrogate pair, which is no character") from None
    return value
