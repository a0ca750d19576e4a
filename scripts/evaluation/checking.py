"""Everything of a data set read once, spread over processes, and what is wrong with it: the work of `calico check`.

Whatever `calico train` reads is checked as it trains on it; what only `calico pretrain`, `finetune` and `perceive` read, files
in class folders for instance, is decoded.
"""

import contextlib
import hashlib
import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from calico.datasets.documents import Caption, Dialogue, open_records
from calico.datasets.episodes import EpisodeReader
from calico.datasets.file_store import FileSource, FileStore
from calico.datasets.formats.hub import local
from calico.datasets.formats.tables import ParquetRecords
from calico.datasets.images import SUFFIXES as PICTURES
from calico.datasets.images import ImageStore
from calico.datasets.open_data import KEYED, first_record, holds_data, open_data
from calico.datasets.publish import file_sha256
from calico.datasets.reader import DocumentReader, Reader, SourceOptions, TextData
from calico.datasets.records import format_of
from calico.datasets.samples.flow import FlowPairs, names_flow
from calico.datasets.samples.labelled import (
    MANIFESTS,
    Labelled,
    array_key,
    check_clouds,
    check_pictures,
    class_folders,
    class_of,
    file_of,
    has_no_class,
    label_key,
    load_arrays,
    manifest_of,
    named_files,
    place_of,
    read_arrays,
)
from calico.datasets.samples.point_clouds import SUFFIXES as CLOUDS
from calico.datasets.samples.point_clouds import CloudStore
from calico.datasets.samples.video import FILE_KEYS as VIDEO_KEYS
from calico.datasets.samples.video import SUFFIXES as VIDEOS
from calico.datasets.samples.video import Format, Listed, inside, listed_videos, read_listed
from calico.datasets.sounds import SUFFIXES as SOUNDS
from calico.datasets.sounds import SoundStore
from calico.datasets.sources import document_parts, message_starts
from calico.datasets.splits import document_key
from calico.datasets.streams import stream
from calico.scripts.common import console
from calico.tokenizers.document import Image, Part, Sound, Special, Text, encode_document
from calico.tokenizers.patches import patch_grid
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.tokens import SOUND_RATE, SOUND_SAMPLES
from calico.tokenizers.vocabulary import Vocabulary, VocabularyConfig

CONTEXT = 512                        # tokens per row where a config names no other, see agent/backbones
LINES, CHARACTERS = 2000, 1 << 20    # that the text tokenizer is learnt from: it only measures lengths
ROWS = 8                             # that are drawn where no single document tells how many targets a row has
CHUNK = 64                           # items that a process reads at a time, fewer where there are few


@dataclass(frozen=True)
class Item:
    """What reading one document, episode or file told.

    Attributes:
        key: hash of its content; equal for duplicates.
        length: in tokens, or in steps, pixels, samples, points or characters, see Checked.unit.
        seen, targets: tokens that a row of the context holds of it, and how many of them are targets.
        has_target: whether there is one in a row that begins with it, or with one of its messages.
        label: its class, if it has one.
        why: why it cannot be read; "" where it can.
    """

    key: bytes = b""
    length: int = 0
    seen: int = 0
    targets: int = 0
    has_target: bool = True
    label: str | None = None
    why: str = ""


class Look(Protocol):
    """Reads item number `index`; ValueError says why it cannot be read. It travels to other processes."""

    def __call__(self, index: int) -> Item: ...

    def remarks(self) -> Counter[str]:
        """What was remarked so far, in this process."""
        ...


@dataclass(kw_only=True)
class Checked:
    """The report of one source.

    Attributes:
        items: what they are called: documents, texts, episodes, pictures, sounds, point clouds.
        count: how many there are.
        broken: why each of those that cannot be read cannot, with its name or place.
        duplicates: how many have the content of one before them.
        without_target: how many have nothing to learn in a row of the context; None where nothing is learnt from rows.
        targets_per_row: mean number of targets in a row of the context.
        truncated: share of them that is longer than the context.
        classes: class -> count.
        unit, lengths: shortest, median, longest.
        remarks: what is seen or heard otherwise than it lies in the file, each with a count.
        faults: what else is wrong with the source.
    """

    path: str
    format: str = ""
    items: str = "documents"
    count: int = 0
    broken: list[str] = field(default_factory=list)
    duplicates: int = 0
    without_target: int | None = None
    targets_per_row: float | None = None
    truncated: float | None = None
    classes: dict[str, int] = field(default_factory=dict)
    unit: str = "tokens"
    lengths: tuple[int, float, int] | None = None
    remarks: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> bool:
        """Whether something is wrong: broken items, or nothing to learn. Duplicates are not wrong."""
        return bool(self.broken or self.faults)


def check(path: str, *, context: int = CONTEXT, workers: int = 1, images: str | None = None, label: str = "label") -> Checked:
    """Read a data set once.

    Args:
        context: tokens per row.
        workers: processes.
        images: folder or zip of the pictures, see open_data.
        label: field of a manifest's records that has the class.
    Raises:
        ValueError: there is nothing of a known kind.
    """
    path = str(local(path))
    if not Path(path).exists():
        raise ValueError(f"{path} does not exist; give a file or folder of data")
    try:
        reader = open_data(path, images=images)
    except ValueError as error:
        return _check_files(Path(path), error, workers, label)
    report = Checked(path=path, format=reader.format, count=len(reader))
    classes = None
    if isinstance(reader, EpisodeReader):
        report.items, report.unit, report.format = "episodes", "steps", f"episodes of {reader.task['name']}"
    elif isinstance(reader, TextData):
        report.items, report.unit, classes = "texts", "characters", _labels(Path(path), label)
    options = SourceOptions(vocabulary=Vocabulary(VocabularyConfig()), text=learnt_text(reader))
    _fill(report, ReadItem(reader, options, context, label), workers, context)
    if not isinstance(reader, DocumentReader) and len(report.broken) < report.count:
        _draw_rows(report, reader, options, context)
    if classes is not None:
        report.classes = dict(sorted(classes.items()))
    if report.without_target and report.without_target == report.count - len(report.broken):
        report.faults.append(f"none of the {report.items} has a target in a row of {context} tokens, so nothing can be learnt")
    return report


# ---- one item ----------------------------------------------------------------------------------------------------------------

class ReadItem:
    """Looks at a reader's documents as rows of tokens, at texts and episodes as they are."""

    def __init__(self, reader: Reader[Any], options: SourceOptions, context: int, label: str) -> None:
        self.reader, self.options, self.context, self.label = reader, options, context, label

    def remarks(self) -> Counter[str]:
        return self.reader.remarks()

    def __call__(self, index: int) -> Item:
        item = self.reader[index]
        if not isinstance(self.reader, DocumentReader):
            key = item if isinstance(item, str) else _plain(vars(item))
            return Item(hashlib.sha256(key.encode() if isinstance(key, str) else key).digest(), len(item))
        parts = document_parts(item)
        lengths = part_lengths(parts, self.options.text)
        length = seen = sum(lengths)
        targets = sum(n for n, part in zip(lengths, parts, strict=True) if isinstance(part, Text | Special) and part.loss)
        found = targets > 0
        if length > self.context:       # which tokens a row holds matters: encode it, which takes as long as decoding a picture
            tokens = encode_document(parts, self.options.vocabulary, self.options.text)
            starts = message_starts(tokens, self.context, self.options.vocabulary).tolist() or [0]
            seen, targets = self.context, int(tokens.loss_mask[:self.context].sum())
            found = any(tokens.loss_mask[start:start + self.context].any() for start in starts)
        words = item.captions if isinstance(item, Caption) else item.messages if isinstance(item, Dialogue) else ""
        key = hashlib.sha256(f"{document_key(item)} {words}".encode()).digest()
        label = getattr(item, "extra", {}).get(self.label)
        return Item(key, length, seen, targets, found, str(label) if isinstance(label, str | int) else None)


def part_lengths(parts: Sequence[Part], text: TextTokenizer) -> list[int]:
    """How many tokens encode_document makes of each part."""
    lengths = []
    for part in parts:
        match part:
            case Image(pixels=pixels):
                rows, columns = patch_grid(*pixels.shape[:2])
                lengths.append(rows * columns)
            case Sound(samples=samples):
                lengths.append(-(-len(samples) // SOUND_SAMPLES))
            case Text(text=words):
                lengths.append(len(text.encode(words)))
            case _:
                lengths.append(1)
    return lengths


def _plain(values: Mapping[str, Any]) -> bytes:
    """The content of an episode, whatever its seed and info."""
    state = hashlib.sha256()
    for name in ("observations", "actions", "rewards"):
        leaves = values[name] if isinstance(values[name], Mapping) else {"": values[name]}
        for leaf in sorted(leaves):
            array = leaves[leaf]
            state.update(repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes())
    return state.digest()


class ReadFile:
    """Looks at named files of pictures, sounds or point clouds."""

    def __init__(self, store: FileStore, names: Sequence[str], classes: Sequence[str | None]) -> None:
        self.store, self.names, self.classes = store, names, classes

    def remarks(self) -> Counter[str]:
        return self.store.remarks

    def __call__(self, index: int) -> Item:
        values = self.store[self.names[index]]
        length = max(values.shape[:2]) if self.store.what == "image" else len(values)
        return Item(bytes.fromhex(array_key(values)), length, label=self.classes[index])


class ReadPair:
    """Looks at two pictures and the flow between them."""

    def __init__(self, pairs: FlowPairs) -> None:
        self.pairs = pairs

    def remarks(self) -> Counter[str]:
        return self.pairs.images.remarks + self.pairs.flows.remarks

    def __call__(self, index: int) -> Item:
        pair = self.pairs[index]
        if not np.isfinite(pair.flow).any():
            raise ValueError(f"{self.pairs.path}: {self.pairs.rows[index]['flow']} is unknown everywhere")
        key = "".join(array_key(values) for values in (pair.first, pair.second, pair.flow))
        return Item(hashlib.sha256(key.encode()).digest(), max(pair.flow.shape[:2]))


class ReadVideo:
    """Looks at videos with their sound, decoded whole."""

    FORM = Format((16, 16), 25, 320)      # as `calico perceive autoencode` has them, but for their size: less to keep

    def __init__(self, rows: Sequence[Listed]) -> None:
        self.rows, self.remarked = rows, Counter[str]()

    def remarks(self) -> Counter[str]:
        return Counter(self.remarked)

    def __call__(self, index: int) -> Item:
        row = self.rows[index]
        video = read_listed(row, self.FORM)
        for note in video.notes:
            self.remarked[note.removeprefix(video.name).lstrip(": ")] += 1
        files = [row.file, *([row.sound] if row.sound else [])]
        key = " ".join(file_sha256(inside(row.folder, name)) for name in files)
        return Item(hashlib.sha256(key.encode()).digest(), len(video.frames), label=row.label or None)


# ---- all of them -------------------------------------------------------------------------------------------------------------

def _fill(report: Checked, look: Look, workers: int, context: int) -> None:
    """Look at every item, and count."""
    items = [item for _, item in sorted(_look_at_all(report, look, workers), key=lambda pair: pair[0])]
    read = [item for item in items if not item.why]
    report.broken = [item.why for item in items if item.why]
    report.duplicates = len(read) - len({item.key for item in read})
    report.classes = dict(sorted(Counter(item.label for item in read if item.label is not None).items()))
    if read:
        lengths = np.array([item.length for item in read])
        report.lengths = int(lengths.min()), float(np.median(lengths)), int(lengths.max())
    if seen := sum(item.seen for item in read):
        report.without_target = sum(not item.has_target for item in read)
        report.targets_per_row = context * sum(item.targets for item in read) / seen
        report.truncated = float(np.mean([item.length > context for item in read]))


def _look_at_all(report: Checked, look: Look, workers: int) -> Iterator[tuple[int, Item]]:
    """(number, what was found) of every item, in any order."""
    size = max(1, min(CHUNK, report.count // (workers * 8)))
    chunks = [range(start, min(start + size, report.count)) for start in range(0, report.count, size)]
    with console.progress(f"check {report.path}", total=report.count, unit=report.items) as bar:
        for chunk, (items, remarks) in _spread(look, chunks, workers):
            report.remarks = dict(Counter(report.remarks) + remarks)
            yield from zip(chunk, items, strict=True)
            bar.advance(len(chunk))


_look: Look      # of a worker process
Found = tuple[list[Item], Counter[str]]


def _spread(look: Look, chunks: Sequence[range], workers: int) -> Iterator[tuple[range, Found]]:
    """What is found in each chunk, by so many processes."""
    if workers == 1 or len(chunks) == 1:
        yield from ((chunk, _look_at(look, chunk)) for chunk in chunks)
        return
    kind = multiprocessing.get_context("fork" if sys.platform == "linux" else None)     # its copy of the reader costs nothing
    with ProcessPoolExecutor(workers, kind, _begin, (look,)) as pool:
        waiting = {pool.submit(_look_at_chunk, chunk): chunk for chunk in chunks}
        try:
            for done in as_completed(waiting):
                yield waiting.pop(done), done.result()
        except BrokenProcessPool:
            raise ValueError("a process that read the data was ended from outside; if memory ran out, take fewer --workers"
                             ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(look: Look) -> None:
    global _look
    _look = look


def _look_at_chunk(chunk: range) -> Found:
    return _look_at(_look, chunk)


def _look_at(look: Look, chunk: range) -> Found:
    before, items = look.remarks(), list[Item]()
    for index in chunk:
        try:
            items.append(look(index))
        except (ValueError, OSError) as error:
            items.append(Item(why=console.one_line(error)))
    return items, look.remarks() - before


def learnt_text(reader: Reader[Any]) -> TextTokenizer:
    """A text tokenizer that is learnt from some of the reader's strings."""
    found, characters = list[str](), 0
    for text in islice(reader.texts(), LINES):
        found.append(text[:CHARACTERS])
        characters += len(text)
        if characters > CHARACTERS:
            break
    return TextTokenizer.train(found or ["calico"], VocabularyConfig().text)


def _draw_rows(report: Checked, reader: Reader[Any], options: SourceOptions, context: int) -> None:
    """Targets of sources that are read in windows: texts and episodes."""
    source = reader.source("data", np.arange(len(reader)), options)
    try:
        found = source.targets(context)
        report.without_target = round(found.without * found.total / found.looked_at) if found.looked_at else 0
        if report.without_target < report.count:
            rows = [source.sample(stream(0, "check", row), context) for row in range(ROWS)]
            report.targets_per_row = float(np.mean([row.loss_mask.sum() for row in rows]))
        if isinstance(reader, TextData):
            per_token = _characters_per_token(reader, options.text)
            report.truncated = float(np.mean(np.array([len(text) for text in reader.texts()]) > per_token * context))
    except ValueError as error:
        if not report.broken:
            report.faults.append(console.one_line(error))


def _labels(path: Path, label: str) -> Counter[str] | None:
    """The classes of a manifest of texts; None where its records have none."""
    if not path.is_file() or format_of(path) not in MANIFESTS:
        return None
    labels = []
    for record in open_records(path, "", lambda record: None):
        with contextlib.suppress(ValueError):
            labels.append(class_of(record, label))
    return Counter(labels) if labels else None


def _characters_per_token(reader: Reader[Any], text: TextTokenizer) -> float:
    sample = [words[:2000] for words in islice(reader.texts(), 8)]
    return sum(map(len, sample)) / max(1, sum(len(text.encode(words)) for words in sample))


# ---- files without words -----------------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[tuple[str, ...], Callable[[Path | FileSource], FileStore], str]] = {
    "pictures": (PICTURES, lambda place: ImageStore(place, cache_bytes=0), "pixels of the longer side, as trained on"),
    "sounds": (SOUNDS, lambda place: SoundStore(place, rate=SOUND_RATE, cache_bytes=0), f"samples at {SOUND_RATE} Hz"),
    "point clouds": (CLOUDS, CloudStore, "points"),
}
ARRAYS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "images": ("pictures", check_pictures), "points": ("point clouds", check_clouds)}


def _check_files(path: Path, error: ValueError, workers: int, label: str) -> Checked:
    """The report of pictures, sounds or point clouds, with or without classes.

    Raises:
        ValueError: `error`, which the reader of other data said, where there are none.
    """
    if path.suffix == ".npz":
        return _check_arrays(path)
    inside = _listed(path)
    if (found := _check_moving(path, inside, workers)) is not None:
        return found
    names, place, classes = _named(path, inside, label)
    kinds = Counter(kind for name in names for kind, (suffixes, _, _) in KINDS.items() if name.lower().endswith(suffixes))
    if isinstance(place, ParquetRecords):          # its files have no endings
        kinds["sounds" if "audio" in place[0] else "pictures"] += 1
    if not kinds:
        if _is_data(path) and "no known format" not in str(error):
            return Checked(path=str(path), faults=[console.one_line(error)])
        raise error
    kind = kinds.most_common(1)[0][0]
    _, open_store, unit = KINDS[kind]
    store = open_store(place)
    if classes is None:
        names = named_files(store)
        loose = any("/" not in name for name in names)
        classes = [None] * len(names) if loose else list(class_folders(store, names))
    where = "named by a manifest" if place != path else "in class folders" if classes[0] is not None else "in one place"
    report = Checked(path=str(path), format=f"{kind} {where}", items=kind, count=len(names), unit=unit)
    _fill(report, ReadFile(store, names, classes), workers, CONTEXT)
    if place == path:
        others = Counter(Path(name).suffix.lower() or "no ending" for name in store.names()
                         if not name.lower().endswith(store.suffixes))
        report.remarks |= {f"left out, of the kind {suffix}": times for suffix, times in others.most_common()}
    return report


def _listed(path: Path) -> Sequence[str] | None:
    """The files in a folder or a zip, none in a broken one; None for another path."""
    if not path.is_dir() and path.suffix.lower() != ".zip":
        return None
    try:
        return FileStore(path).names()
    except ValueError:
        return []


def _check_moving(path: Path, inside: Sequence[str] | None, workers: int) -> Checked | None:
    """The report of pairs with flow, or of videos; None where there are none."""
    look: Look
    first: dict[str, Any] = {}
    if path.is_dir():
        if not any(name.lower().endswith(VIDEOS) for name in inside or ()):
            return None
    else:
        with contextlib.suppress(ValueError):     # said by who reads it whole
            first = first_record(path) if format_of(path) in KEYED else {}
        file = next((first[key] for key in VIDEO_KEYS if key in first), "")
        if not names_flow(first) and not str(file).lower().endswith(VIDEOS):
            return None
    report = Checked(path=str(path))
    try:
        if names_flow(first):
            pairs = FlowPairs(path)
            report.items, report.format, report.count = "pairs", "pictures with flow between them", len(pairs)
            report.unit, look = "pixels of the longer side", ReadPair(pairs)
        else:
            rows = listed_videos(path)
            report.items, report.format, report.count = "videos", "videos with their sound", len(rows)
            report.unit, look = f"frames at {ReadVideo.FORM.fps:g} per second", ReadVideo(rows)
    except ValueError as error:
        return replace(report, faults=[console.one_line(error)])
    _fill(report, look, workers, CONTEXT)
    return report


def _is_data(path: Path) -> bool:
    """Whether data of a known kind lie there, however damaged."""
    if path.is_dir():
        return holds_data(path) or any(path.glob("_*.json"))
    return format_of(path) in (*KEYED, ".parquet", ".txt", ".zip")


def _named(path: Path, inside: Sequence[str] | None, label: str,
           ) -> tuple[Sequence[str], Path | FileSource, list[str | None] | None]:
    """The files that lie in a path or that its manifest names, where they lie, and their classes where a manifest says them."""
    manifest = manifest_of(path)
    if manifest is None or (path.is_dir() and has_no_class(manifest, label)):
        return inside or [], path, None
    try:
        records = open_records(manifest, "", lambda record: None)
        files = [str(file_of(record) or "") for record in records]
        labels = [record.get(label_key(record, label)) for record in records]
        return files, place_of(records, files), [None if value is None else str(value) for value in labels]
    except ValueError:
        return [], path, None


def _check_arrays(path: Path) -> Checked:
    """The report of a .npz file."""
    arrays = load_arrays(path)
    name = next((name for name in ARRAYS if name in arrays), None)
    if name is None:
        raise ValueError(f"{path} has none of the arrays {', '.join(ARRAYS)}; it has {', '.join(arrays) or 'none'}")
    kind, check_values = ARRAYS[name]
    report = Checked(path=str(path), format=f"{kind} in an array", items=kind, count=len(arrays[name]), unit="points")
    try:
        if "labels" in arrays:
            found = read_arrays(path, name, check_values)
        else:
            samples = check_values(arrays[name])
            found = Labelled(samples, np.zeros(len(samples), np.int64), ["", "none"], [array_key(sample) for sample in samples])
    except ValueError as error:
        report.faults.append(console.one_line(error))
        return report
    report.duplicates = len(found) - len(set(found.keys))
    if "labels" in arrays:
        report.classes = {found.classes[i]: int(times) for i, times in enumerate(np.bincount(found.labels)) if times}
    if kind == "pictures":
        report.unit = "pixels of the longer side"
    if len(found):          # of an array all are equally long
        longest = max(found.samples[0].shape[:2]) if kind == "pictures" else len(found.samples[0])
        report.lengths = longest, longest, longest
    return report
