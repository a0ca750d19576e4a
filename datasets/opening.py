"""Open whatever a path holds: episodes, captions, dialogues or text."""

import json
from pathlib import Path
from typing import TypeAlias

from .documents import MAX_LINE_BYTES, CaptionReader, DialogueReader, TextReader
from .episodes import EpisodeReader

Data: TypeAlias = EpisodeReader | CaptionReader | DialogueReader | TextReader


def open_data(path: str | Path) -> Data:
    """The reader for a file or folder, told by its name and, for JSON Lines, by the keys of the first line.

    Raises:
        ValueError: nothing there, or nothing that is known; what the reader says of damaged data.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a file or folder of episodes, captions, dialogues or text")
    if path.is_file():
        return open_lines(path) if path.suffix in (".jsonl", ".txt") else EpisodeReader(path)
    manifests = [path / name for name in ("captions.jsonl", "dialogues.jsonl") if (path / name).exists()]
    if len(manifests) > 1:
        raise ValueError(f"{path} holds both captions and dialogues; name one of {', '.join(map(str, manifests))}")
    if manifests:
        return open_lines(manifests[0])
    if any(path.glob("*.txt")) or any(path.glob("*.jsonl")):
        return TextReader(path)
    if not any(path.glob("*.parquet")) and (inside := [str(folder) for folder in sorted(path.iterdir()) if holds_data(folder)]):
        raise ValueError(f"{path} holds the data sets {', '.join(inside)}; name one of them, or each as a source of its own")
    return EpisodeReader(path)


def holds_data(folder: Path) -> bool:
    """Whether a folder looks like one that can be opened."""
    return any(any(folder.glob(pattern)) for pattern in ("*.parquet", "*.jsonl", "*.txt"))


def open_lines(path: Path) -> CaptionReader | DialogueReader | TextReader:
    """The reader for a document file."""
    if path.suffix == ".txt":
        return TextReader(path)
    with path.open("rb") as file:
        line = next((line for line in iter(lambda: file.readline(MAX_LINE_BYTES), b"") if line.strip()), b"")
    try:
        keys = set(json.loads(line))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: the first line is not a JSON object ({error})") from None
    if "messages" in keys:
        return DialogueReader(path)
    return CaptionReader(path) if "image" in keys else TextReader(path)
