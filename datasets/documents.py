"""Readers of text, captions and dialogues.

    text        .txt files, one document each, or JSON Lines {"text": "..."}
    captions    JSON Lines {"image": "0001.png", "caption": "..."} or {"image": ..., "captions": ["...", ...]}
    dialogues   JSON Lines {"messages": [{"role": "user", "content": "..."}, ...]}; content may be a list of
                {"type": "text", "text": "..."} and {"type": "image", "image": "0001.png"}

Images lie beside `name.jsonl` in `name.zip` or in a folder `name/` or `images/`. Further keys of a line are kept in
`extra`: the facts, for instance, that grounded.py checks a caption against. Every line is checked when a file is
opened; an error names the file and the line.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..tokenizers.document import ROLES
from .images import ImageStore
from .publish import file_sha256

MAX_LINE_BYTES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A picture and what may be said about it.

    Attributes:
        name: the image's name in its folder or zip.
        image: uint8 (height, width, 3).
        captions: at least one; each is right by itself.
        extra: what else stood in the line.
    """

    name: str
    image: np.ndarray
    captions: tuple[str, ...]
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """Messages and the pictures that they show.

    Attributes:
        messages: as in the file: role and content.
        images: name -> uint8 (height, width, 3) of each image that the messages name.
        extra: what else stood in the line.
    """

    messages: list[dict[str, Any]]
    images: dict[str, np.ndarray] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


Document: TypeAlias = str | Caption | Dialogue


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

    def __init__(self, path: str | Path, check: Callable[[dict[str, Any]], None]) -> None:
        self.path = Path(path)
        places, lines, place = [], [], 0
        with open(self.path, "rb") as file:
            number = 0
            while data := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(data) > MAX_LINE_BYTES:
                    raise ValueError(f"{self.path}, line {number}: longer than {MAX_LINE_BYTES} bytes")
                if data.strip():
                    self._check(data, number, check)
                    places.append(place)
                    lines.append(number)
                place += len(data)
        self._places, self.lines = np.array(places, np.int64), np.array(lines, np.int64)

    def _check(self, data: bytes, number: int, check: Callable[[dict[str, Any]], None]) -> None:
        try:
            value = json.loads(data)
            if not isinstance(value, dict):
                raise ValueError(f"expected an object {{...}}, got {type(value).__name__}")
            check(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.path}, line {number}: {str(error) or 'nested too deeply'}") from error

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.lines)

    def __getitem__(self, index: Any) -> Any:
        """Object `index`."""
        with open(self.path, "rb") as file:
            file.seek(int(self._places[index]))
            return json.loads(file.readline())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return file_sha256(self.path)


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


class TextReader(Sequence[str]):
    """Documents of .txt and .jsonl files (field `text`).

    .txt files are held in memory, JSON Lines are read when asked for.

    Args:
        paths: files, or a folder whose .txt and .jsonl files are taken in the order of their names.
    Attributes:
        characters: int64 (documents,), the length of each.
        fingerprint: SHA-256 over the files' digests.
    Raises:
        ValueError: no such file, not UTF-8, a malformed line, no documents.
    """

    def __init__(self, *paths: str | Path) -> None:
        files = [file for path in paths for file in text_files(Path(path))]
        self._texts: list[str | tuple[JsonLines, int]] = []
        characters: list[int] = []
        for file in files:
            if file.suffix == ".jsonl":
                lines = JsonLines(file, lambda value: characters.append(len(require_text(value.get("text"), "text"))))
                self._texts += [(lines, i) for i in range(len(lines))]
            else:
                text = read_text(file)
                self._texts.append(text)
                characters.append(len(text))
        if not self._texts:
            raise ValueError(f"no documents in {', '.join(map(str, paths)) or 'an empty list of paths'}")
        self.characters = np.array(characters, np.int64)
        self.fingerprint = hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()

    def __len__(self) -> int:
        """Number of documents."""
        return len(self._texts)

    def __getitem__(self, index: Any) -> Any:
        """Document `index`."""
        text = self._texts[index]
        return text if isinstance(text, str) else text[0][text[1]]["text"]


def text_files(path: Path) -> list[Path]:
    """The path itself, or the .txt and .jsonl files of a folder."""
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix in (".txt", ".jsonl") and not p.name.startswith("."))
    if path.suffix not in (".txt", ".jsonl") or not path.is_file():
        raise ValueError(f"{path} is not a .txt or .jsonl file, nor a folder of them")
    return [path]


def read_text(path: Path) -> str:
    """The whole file as it is, line ends included."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"{path} is not UTF-8: byte {error.start} is {byte:#04x}; convert it first") from error


class CaptionReader(Sequence[Caption]):
    """Captions of a JSON Lines file and their images.

    Args:
        path: the manifest, or a folder that holds captions.jsonl.
        images: folder or zip; by default what lies beside the manifest.
        max_side: see ImageStore.
    Raises:
        ValueError: a malformed line, an image that is not there (file and line), no captions. An image that cannot be
            decoded is an error when it is read, with the line too.
    """

    def __init__(self, path: str | Path, images: str | Path | None = None, *, max_side: int | None = 64) -> None:
        manifest = manifest_path(Path(path), "captions.jsonl")
        self._names: list[str] = []
        self._lines = JsonLines(manifest, self._check)
        if not self._names:
            raise ValueError(f"{manifest} holds no captions")
        self._store = ImageStore(images or images_beside(manifest), max_side=max_side)
        check_images(self._lines, [[name] for name in self._names], self._store)

    def _check(self, value: dict[str, Any]) -> None:
        self._names.append(require_text(value.get("image"), "image"))
        if ("caption" in value) == ("captions" in value):
            raise ValueError("give either 'caption' or 'captions'")
        captions = captions_of(value)
        if not isinstance(captions, list) or not captions:
            raise ValueError("captions must be a list of at least one string")
        for caption in captions:
            require_text(caption, "caption")

    def __len__(self) -> int:
        """Number of images."""
        return len(self._lines)

    def __getitem__(self, index: Any) -> Any:
        """Image `index` with its captions."""
        value = self._lines[index]
        extra = {k: v for k, v in value.items() if k not in ("image", "caption", "captions")}
        return Caption(name=value["image"], image=read_image(self._store, value["image"], self._lines, index),
                       captions=tuple(captions_of(value)), extra=extra)

    def texts(self) -> Iterator[str]:
        """Every caption, no image read: what a tokenizer is learnt from."""
        for value in self._lines:
            yield from captions_of(value)

    @property
    def fingerprint(self) -> str:
        """Identifies manifest, images and size."""
        return joint_fingerprint(self._lines, self._store, self._names)


def captions_of(value: Mapping[str, Any]) -> Any:
    """The captions of a line, one or several."""
    return value["captions"] if "captions" in value else [value["caption"]]


class DialogueReader(Sequence[Dialogue]):
    """Dialogues of a JSON Lines file and the images that they show.

    Args and Raises: as CaptionReader; in a folder the file is dialogues.jsonl. Images are needed only where shown.
    """

    def __init__(self, path: str | Path, images: str | Path | None = None, *, max_side: int | None = 64) -> None:
        manifest = manifest_path(Path(path), "dialogues.jsonl")
        self._names: list[list[str]] = []
        self._lines = JsonLines(manifest, lambda value: self._names.append(check_messages(value.get("messages"))))
        if not self._names:
            raise ValueError(f"{manifest} holds no dialogues")
        self._store: ImageStore | None = None
        if images is not None or any(self._names):
            self._store = ImageStore(images or images_beside(manifest), max_side=max_side)
            check_images(self._lines, self._names, self._store)

    def __len__(self) -> int:
        """Number of dialogues."""
        return len(self._lines)

    def __getitem__(self, index: Any) -> Any:
        """Dialogue `index` with its images."""
        value = self._lines[index]
        images = {name: read_image(self._store, name, self._lines, index) for name in self._names[index] if self._store}
        return Dialogue(messages=value.pop("messages"), images=images, extra=value)

    def texts(self) -> Iterator[str]:
        """What every message says, no image read: what a tokenizer is learnt from."""
        for value in self._lines:
            for message in value["messages"]:
                content = message["content"]
                entries = [{"type": "text", "text": content}] if isinstance(content, str) else content
                yield from (entry["text"] for entry in entries if entry["type"] == "text")

    @property
    def fingerprint(self) -> str:
        """Identifies manifest, images and size."""
        return joint_fingerprint(self._lines, self._store, [name for names in self._names for name in names])


def check_messages(messages: Any) -> list[str]:
    """The names of the images that the messages show.

    Raises:
        ValueError: not a list of messages as dialogue_parts takes them.
    """
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"messages must be a list of at least one message, got {type(messages).__name__}")
    names = []
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise ValueError(f"message {number} must be an object whose role is one of {', '.join(ROLES)}")
        content = message.get("content")
        entries = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(entries, list):
            raise ValueError(f"message {number}: content must be a string or a list, got {type(content).__name__}")
        for entry in entries:
            kind = entry.get("type") if isinstance(entry, dict) else None
            if kind == "text":
                require_text(entry.get("text"), f"message {number}: text")
            elif kind == "image":
                names.append(require_text(entry.get("image"), f"message {number}: image"))
            else:
                raise ValueError(f"message {number}: content entries have the type 'text' or 'image', got {kind!r}")
    return names


def manifest_path(path: Path, name: str) -> Path:
    """The manifest itself, or the one of that name in a folder."""
    manifest = path / name if path.is_dir() else path
    if not manifest.is_file():
        raise ValueError(f"{manifest} does not exist; give a .jsonl file or a folder that holds {name}")
    return manifest


def images_beside(manifest: Path) -> Path:
    """Where the images of `name.jsonl` lie: name.zip, name/ or images/."""
    places = [manifest.with_suffix(".zip"), manifest.with_suffix(""), manifest.parent / "images"]
    found = [place for place in places if place.exists()]
    if not found:
        raise ValueError(f"{manifest} names images, but there is none of {', '.join(p.name for p in places)} beside it")
    return found[0]


def check_images(lines: JsonLines, names: Sequence[Sequence[str]], store: ImageStore) -> None:
    """Each named image is there."""
    for line, wanted in zip(lines.lines, names, strict=True):
        for name in wanted:
            try:
                missing = name not in store
            except ValueError as error:
                raise ValueError(f"{lines.path}, line {line}: {error}") from None
            if missing:
                raise ValueError(f"{lines.path}, line {line}: image {name!r} is not in {store.path}")


def read_image(store: ImageStore, name: str, lines: JsonLines, index: int) -> np.ndarray:
    """The pixels; an error also names the line."""
    try:
        return store[name]
    except ValueError as error:
        raise ValueError(f"{lines.path}, line {lines.lines[index]}: {error}") from error


def joint_fingerprint(lines: JsonLines, store: ImageStore | None, names: Sequence[str]) -> str:
    """SHA-256 over manifest and images."""
    images = f"{store.fingerprint(names)} {store.max_side}" if store else ""
    return hashlib.sha256(f"{lines.fingerprint} {images}".encode()).hexdigest()
