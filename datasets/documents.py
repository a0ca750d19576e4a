"""Readers of captions and dialogues; texts.py reads plain text.

    captions    {"image": "0001.png", "caption": "..."} or {"image": ..., "captions": ["...", ...]}; Hugging Face's imagefolder
                writes {"file_name": "0001.png", "text": "..."} into metadata.jsonl, .csv or .parquet: see CAPTION_KEYS
    dialogues   {"messages": [{"role": "user", "content": "..."}, ...]} and the other dialects of formats/dialogues.py,
                questions about a picture or a sound among them

Such objects are the lines of a .jsonl file, the rows of a .csv or Parquet file, the entries of a .json list, the samples of
WebDataset shards; COCO captions, VQAv2 questions and SQuAD are read as well (records.py, formats/tables.py, formats/coco.py,
shards.py). A folder of 0001.png and 0001.txt holds captions, too. Images lie beside `name.jsonl` in `name.zip`,
`name_images.zip`, in a folder `name/` or `images/`, or in the manifest's own folder; sounds too. A name may also be a URL that
holds the file itself (data:image/png;base64,...). Further keys of a record are kept in `extra`: the facts, for instance, that
synthetic/captions.py checks a caption against. Every record is checked when a file is opened; an error names the file and the
line.
"""

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..tokenizers.document import ROLES
from ..tokenizers.tokens import SOUND_RATE, SOUND_SAMPLES
from .file_store import INLINE, FileStore, local_name
from .formats.dialogues import dialect_of, extra_of, messages_of
from .formats.tables import ParquetRecords
from .images import SUFFIXES as PICTURES
from .images import ImageStore
from .publish import finish_publishing
from .reader import DocumentReader
from .records import Check, JsonDocument, JsonLines, format_of, named, read_json, require_text, stem_of
from .shards import ShardRecords, shards_of
from .sounds import SoundStore

IMAGE_KEYS = ("image", "file_name", "image_file_name", "image_path", "filename")
CAPTION_KEYS = ("caption", "captions", "text", "texts", "description")
MANIFESTS = ("captions.jsonl", "dialogues.jsonl", "metadata.jsonl", "metadata.csv", "metadata.parquet")   # of a folder


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
    """Messages, the pictures that they show and the sounds that they play.

    Attributes:
        messages: as in the file: role and content.
        images: name -> uint8 (height, width, 3) of each image that the messages name.
        sounds: name -> float32 (samples,) at SOUND_RATE, likewise.
        extra: what else stood in the line.
    """

    messages: list[dict[str, Any]]
    images: dict[str, np.ndarray] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    sounds: dict[str, np.ndarray] = field(default_factory=dict)


Document: TypeAlias = str | Caption | Dialogue
Records: TypeAlias = "JsonLines | JsonDocument | ParquetRecords | ShardRecords | PairRecords"


class CaptionReader(DocumentReader[Caption]):
    """Captions and their images.

    Args:
        path: the manifest (.jsonl, .json, .tar), or a folder that holds captions.jsonl or shards.
        images: folder or zip; by default what lies beside the manifest; shards hold their own.
        max_side: see ImageStore.
    Raises:
        ValueError: a malformed line, an image that is not there (file and line), no captions. An image that cannot be
            decoded is an error when it is read, with the line too.
    """

    settings = frozenset({"mirror", "crop"})

    def __init__(self, path: str | Path, images: str | Path | None = None, *, max_side: int | None = 64) -> None:
        self._names: list[str] = []
        self._records = open_records(Path(path), "captions.jsonl", self._check)
        if not self._names:
            raise ValueError(f"{self._records.path} holds no captions")
        self._store = open_images(self._records, images, max_side, self._names)
        check_files(self._records, [[name] for name in self._names], self._store)
        image, caption = caption_keys(self._records[0])
        self.format = f"captioned pictures, because its first record has {image!r} and {caption!r}"

    def _check(self, value: dict[str, Any]) -> None:
        image, key = caption_keys(value)
        self._names.append(require_text(value.get(image), image))
        captions = captions_of(value)
        if not isinstance(captions, list) or not captions:
            raise ValueError(f"{key} must be a list of at least one string")
        for caption in captions:
            require_text(caption, key.removesuffix("s"))

    @property
    def names(self) -> list[str]:
        """Of the images."""
        return list(self._names)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        """Image `index` with its captions."""
        value = self._records[index]
        image, caption = caption_keys(value)
        extra = {k: v for k, v in value.items() if k not in (image, caption)}
        return Caption(name=value[image], image=read_file(self._store, value[image], self._records, index),
                       captions=tuple(captions_of(value)), extra=extra)

    def texts(self, numbers: Iterable[int] | None = None) -> Iterator[str]:
        """Every caption (of these images), no image read: what a tokenizer is learnt from."""
        for number in range(len(self)) if numbers is None else numbers:
            yield from captions_of(self._records[number])

    def remarks(self) -> Counter[str]:
        """Of the pictures read so far."""
        return self._store.remarks

    @property
    def fingerprint(self) -> str:
        return joint_fingerprint(self._records, self._store, self._names)


def is_caption(value: Mapping[str, Any]) -> bool:
    """Whether a record names a picture."""
    return any(key in value for key in IMAGE_KEYS)


def caption_keys(value: Mapping[str, Any]) -> tuple[str, str]:
    """The keys of a record's picture and captions.

    Raises:
        ValueError: no caption, or several that might be it.
    """
    return _caption_keys(tuple(value))


@lru_cache(maxsize=256)      # the records of a file have much the same keys
def _caption_keys(value: tuple[str, ...]) -> tuple[str, str]:
    found = [key for key in CAPTION_KEYS if key in value]
    if len(found) != 1:
        raise ValueError("give either 'caption' or 'captions'" + (f", not {' and '.join(found)}" if found else
                         f" (or text, description); it has {', '.join(map(str, value))}"
                         + "; classes alone are read by `calico finetune` and `calico perceive`" * ("label" in value)))
    return next((key for key in IMAGE_KEYS if key in value), "image"), found[0]


def captions_of(value: Mapping[str, Any]) -> Any:
    """The captions of a record, one or several."""
    _, key = caption_keys(value)
    return [value[key]] if key == "caption" or (isinstance(value[key], str) and not key.endswith("s")) else value[key]


class DialogueReader(DocumentReader[Dialogue]):
    """Dialogues, the images that they show and the sounds that they play.

    Args:
        path, images, max_side: as CaptionReader; in a folder the file is dialogues.jsonl. Images are needed only where shown;
            sounds are looked for in the same place.
        max_seconds: longer sounds are cut; a second costs 25 tokens.
    Raises:
        ValueError: as CaptionReader; sounds in shards. A sound that is broken or too short is an error when it is read.
    """

    def __init__(self, path: str | Path, images: str | Path | None = None, *, max_side: int | None = 64,
                 max_seconds: float = 10.0) -> None:
        self._shown: list[Shown] = []
        self._records = open_records(Path(path), "dialogues.jsonl",
                                     lambda value: self._shown.append(check_messages(messages_of(value))))
        if not self._shown:
            raise ValueError(f"{self._records.path} holds no dialogues")
        self._store: ImageStore | None = None
        self._sounds: SoundStore | None = None
        self._longest = int(max_seconds * SOUND_RATE)
        if any(shown.sounds for shown in self._shown):
            self._sounds = open_sounds(self._records, images, next(shown.sounds[0] for shown in self._shown if shown.sounds))
            check_files(self._records, [shown.sounds for shown in self._shown], self._sounds)
        if any(shown.images for shown in self._shown) or (images is not None and self._sounds is None):
            self._store = open_images(self._records, images, max_side, [name for shown in self._shown for name in shown.images])
            check_files(self._records, [shown.images for shown in self._shown], self._store)
        first = self._records[0]
        if (dialect := dialect_of(first)) is not None:
            keys = ", ".join(sorted(dialect.used & first.keys()))
            self.format = f"dialogues, {dialect.name}, because its first record has {keys}"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        """Dialogue `index` with its images and sounds."""
        value, shown = self._records[index], self._shown[index]
        images = {name: read_file(self._store, name, self._records, index) for name in shown.images if self._store}
        return Dialogue(messages=messages_of(value), images=images, extra=extra_of(value),
                        sounds={name: self._sound(name, index) for name in shown.sounds})

    def _sound(self, name: str, index: int) -> np.ndarray:
        """float32 (samples,), long enough for a token."""
        assert self._sounds is not None
        samples = read_file(self._sounds, name, self._records, index)
        if len(samples) < SOUND_SAMPLES:
            raise ValueError(f"{self._records.location(index)}: sound {name!r} of {len(samples)} samples at {SOUND_RATE} Hz is "
                             f"too short, at least {SOUND_SAMPLES} are needed; leave it out")
        return samples[:self._longest]

    @property
    def has_pictures(self) -> bool:
        return any(shown.images for shown in self._shown)

    @property
    def has_sounds(self) -> bool:
        return self._sounds is not None

    def other_rates(self, probed: int = 100) -> dict[int, int]:
        """Sample rates other than SOUND_RATE, which are resampled, among so many sounds spread over the dialogues."""
        names = [name for shown in self._shown for name in shown.sounds]
        if self._sounds is not None:
            for position in np.linspace(0, len(names) - 1, min(probed, len(names))).astype(int):
                with contextlib.suppress(ValueError):            # it is told with its line when it is needed
                    self._sounds[names[position]]
        return {} if self._sounds is None else {own: n for own, n in self._sounds.own_rates.items() if own != SOUND_RATE}

    def texts(self, numbers: Iterable[int] | None = None) -> Iterator[str]:
        """What every message (of these dialogues) says, no image read: what a tokenizer is learnt from."""
        for number in range(len(self)) if numbers is None else numbers:
            for message in messages_of(self._records[number]):
                content = message["content"]
                entries = [{"type": "text", "text": content}] if isinstance(content, str) else content
                yield from (entry["text"] for entry in entries if entry["type"] == "text")

    def remarks(self) -> Counter[str]:
        """Of the pictures and sounds read so far."""
        return sum((store.remarks for store in (self._store, self._sounds) if store), Counter())

    @property
    def fingerprint(self) -> str:
        found = joint_fingerprint(self._records, self._store, [name for shown in self._shown for name in shown.images])
        if self._sounds is None:
            return found
        sounds = self._sounds.fingerprint([name for shown in self._shown for name in shown.sounds])
        return hashlib.sha256(f"{found} {sounds} {self._longest}".encode()).hexdigest()


class Shown(NamedTuple):
    """Names of what messages show and play."""

    images: list[str]
    sounds: list[str]


def check_messages(messages: Any) -> Shown:
    """The names of the images that the messages show and of the sounds that they play.

    Raises:
        ValueError: not a list of messages as dialogue_parts takes them.
    """
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"messages must be a list of at least one message, got {type(messages).__name__}")
    shown = Shown([], [])
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise ValueError(f"message {number} must be an object whose role is one of {', '.join(ROLES)}")
        content = message.get("content")
        if isinstance(content, str):
            if not content.isascii():                # most are, and need no message to be prepared
                require_text(content, f"message {number}: text")
            continue
        if not isinstance(content, list):
            raise ValueError(f"message {number}: content must be a string or a list, got {type(content).__name__}")
        for entry in content:
            kind = entry.get("type") if isinstance(entry, dict) else None
            if kind not in ("text", "image", "audio"):
                raise ValueError(f"message {number}: content entries have the type 'text', 'image' or 'audio', got {kind!r}")
            text = require_text(entry.get(kind), f"message {number}: {kind}")
            if kind != "text":
                (shown.images if kind == "image" else shown.sounds).append(text)
    return shown


def open_records(path: Path, name: str, check: Check) -> Records:
    """The records of a manifest, of shards, or of the manifest called `name` in a folder.

    Raises:
        ValueError: there is none, or a record is refused by `check`.
    """
    finish_publishing(path)
    if path.suffix == ".tar" or (path.is_dir() and not (path / name).is_file() and shards_of(path)):
        return ShardRecords(path, check)
    if format_of(path) == ".parquet" or (path.is_dir() and not (path / name).is_file() and any(path.glob("*.parquet"))):
        return ParquetRecords(path, check)
    if path.is_dir() and not (path / name).is_file() and captioned_pictures(path):
        return PairRecords(path, check)
    manifest = path / name if path.is_dir() else path
    if not manifest.is_file():
        raise ValueError(f"{manifest} does not exist; give a .jsonl, .json, .csv, .parquet or .tar file, or a folder that "
                         f"holds {name}")
    return read_json(manifest, check)


def captioned_pictures(folder: Path) -> list[str]:
    """The pictures of a folder where each has its caption beside it, and no other text lies there: 0001.png and 0001.txt.

    Raises:
        ValueError: only some have one.
    """
    files = [entry.name for entry in os.scandir(folder) if not entry.name.startswith((".", "_")) and entry.is_file()]
    texts = {Path(name).stem for name in files if name.lower().endswith(".txt")}
    pictures = sorted(name for name in files if name.lower().endswith(PICTURES))
    both = texts & {Path(name).stem for name in pictures}
    if not both:
        return []
    if lost := [name for name in pictures if Path(name).stem not in texts] or [f"{stem}.txt" for stem in sorted(texts - both)]:
        raise ValueError(f"{folder} holds pictures with a caption beside each, 0001.png and 0001.txt, but {lost[0]!r} and "
                         f"{len(lost) - 1} more stand alone; complete or remove them")
    return pictures


class PairRecords(Sequence[dict[str, Any]]):
    """The pictures of a folder, each with what the text of its name says.

    Args and Raises: as JsonLines.
    """

    def __init__(self, path: Path, check: Check) -> None:
        self.path = path
        self._names = captioned_pictures(path)
        for index in range(len(self)):
            with named(self.location(index)):
                check(self[index])

    def __len__(self) -> int:
        return len(self._names)

    def _text(self, index: int) -> Path:
        name = self.path / self._names[index]
        return next(path for suffix in (".txt", ".TXT") if (path := name.with_suffix(suffix)).is_file())

    def __getitem__(self, index: Any) -> Any:
        try:
            return {"image": self._names[index], "caption": self._text(index).read_text("utf-8-sig").strip()}
        except UnicodeDecodeError as error:
            raise ValueError(f"{self._text(index)} is not UTF-8 (byte {error.start}); convert it first") from None

    def location(self, index: int) -> str:
        return f"{self.path}, {self._names[index]}"

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr([self[index] for index in range(len(self))]).encode()).hexdigest()


def open_images(records: Records, images: str | Path | None, max_side: int | None, names: Sequence[str] = ()) -> ImageStore:
    """Where the pictures of the records are; `names` are those that they name."""
    if isinstance(records, ShardRecords) or (isinstance(records, ParquetRecords) and records.has_files):
        return ImageStore(records, max_side=max_side)
    return ImageStore(images or images_beside(records.path, names), max_side=max_side)


def images_beside(manifest: Path, names: Sequence[str] = ()) -> Path:
    """Where the images of `name.jsonl` lie: name.zip, name_images.zip, name/ or images/, or beside it where the first of
    `names` does."""
    paths = paths_beside(manifest)
    folder = manifest if manifest.is_dir() else manifest.parent
    found = [path for path in paths if path.exists()]
    first = names[0] if names else ""
    with named(manifest):
        is_beside = bool(first) and not first.startswith(INLINE) and os.path.isfile(folder / local_name(first))
    if is_beside or (not found and first.startswith(INLINE)):
        return folder
    if not found:
        raise ValueError(f"{manifest} names images, but there is none of {', '.join(p.name for p in paths)} beside it"
                         + f", and no {first[:80]!r}" * bool(first))
    return found[0]


def paths_beside(manifest: Path) -> list[Path]:
    """Where the files that `name.jsonl` names may lie."""
    stem = manifest.with_name(stem_of(manifest))
    return [stem.with_name(f"{stem.name}.zip"), stem.with_name(f"{stem.name}_images.zip"), stem, manifest.parent / "images"]


def open_sounds(records: Records, folder: str | Path | None, name: str) -> SoundStore:
    """Where the sounds of the records are: in `folder`, or where the one called `name` lies."""
    if isinstance(records, ShardRecords):
        raise ValueError(f"{records.path} plays sounds, which are not read from shards; give a .jsonl file and the sounds "
                         "beside it")
    if isinstance(records, ParquetRecords) and records.has_files:
        return SoundStore(records, rate=SOUND_RATE)
    manifest = records.path
    paths = [Path(folder)] if folder else [path for path in (*paths_beside(manifest), manifest.parent) if path.exists()]
    stores = [SoundStore(path, rate=SOUND_RATE) for path in paths]
    return next((store for store in stores if name in store), stores[-1])   # where it is in none, check_files says so


def check_files(records: Records, names: Sequence[Sequence[str]], store: FileStore) -> None:
    index = 0
    try:
        for index, wanted in enumerate(names):   # noqa: B007  for the message below
            for name in wanted:
                if name not in store:
                    raise ValueError(f"{store.what} {name!r} is not in {store.path}")
    except ValueError as error:
        raise ValueError(f"{records.location(index)}: {error}") from error


def read_file(store: FileStore, name: str, records: Records, index: int) -> np.ndarray:
    """The pixels or samples; an error also names the record's file and line."""
    with named(records.location(index)):
        return store[name]


def joint_fingerprint(records: Records, store: ImageStore | None, names: Sequence[str]) -> str:
    """SHA-256 over manifest and images."""
    images = f"{store.fingerprint(names)} {store.max_side}" if store else ""
    return hashlib.sha256(f"{records.fingerprint} {images}".encode()).hexdigest()
