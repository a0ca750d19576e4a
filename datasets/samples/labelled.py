"""Samples with one class each, for classification: pictures, sounds, point clouds and texts.

    pictures/ or pictures.zip    <class>/<file>: the folder that a file lies in names its class
    pictures.jsonl               {"file": ..., "label": ...}, also .json, .csv; the files in pictures.zip or pictures/ beside it
    pictures/metadata.csv        likewise, as Hugging Face's imagefolder; also .jsonl, .parquet
    train.parquet, train/*.parquet    {"image": {"bytes": ...}, "label": ...}, as `datasets` writes them
    digits.npz                   images (n, H, W) or (n, H, W, 3) uint8, labels (n,), and perhaps classes: their names
    sounds.jsonl                 likewise, see FILE_KEYS
    sounds/ or sounds.zip        <class>/<file>, as with pictures
    clouds.npz                   points (n, M, D) or (n, D, M), the first three of D are coordinates; labels (n,)
    clouds/ or clouds.zip        <class>/<file>: .npy, .xyz, .off, .ply, .stl, .obj
    reviews.jsonl                {"text": ..., "label": ...}, also .json, .csv, .parquet; see TEXT_KEYS

Opening decodes every file once: what cannot be read is named before hours of training, and not by the step that meets it. Files
of other kinds are counted; a class that has nothing else is an error.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...tokenizers.budget import check_npz
from ..documents import Records, images_beside, open_records
from ..file_store import FileSource, FileStore
from ..formats.tables import SPLITS, ParquetRecords
from ..images import ImageStore
from ..records import format_of, named, require_text
from ..sounds import SoundStore, decode_sound
from ..splits import split
from .point_clouds import CloudStore, channels_last, check_cloud

MAX_NAMED = 3        # faulty files that an error names
FILE_KEYS = ("image", "audio", "file", "file_name", "filename", "image_file_name", "audio_file_name", "image_path",
             "audio_path", "path")   # name a record's file
TEXT_KEYS = ("text", "content", "sentence", "review")
LABEL_KEYS = ("label", "labels")     # where no other field is asked for
MANIFESTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
IN_FOLDERS = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
BESIDE = (".txt", ".md", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".html", ".db", ".ini", ".pdf")   # no samples
MAX_RATE = 16000     # samples per second, where no rate is asked for: enough for speech, and a third of a CD's work

ProgressCallback = Callable[[Iterable[Any]], Iterable[Any]]   # passes a list through and shows progress


@dataclass(frozen=True)
class Labelled:
    """Samples, and the class of each.

    Attributes:
        samples: text str; picture uint8 (H, W, 3); sound float32 (samples,); cloud float32 (M, D).
        labels: int64 (n,), indices into `classes`.
        classes: names in alphabetical order, or in the file's own.
        keys: of each sample, SHA-256 of its content: equal samples fall on the same side of a split.
        remarks: what a user should know about the reading, such as sounds that were resampled.
    """

    samples: Sequence[Any] | np.ndarray
    labels: np.ndarray
    classes: list[str]
    keys: list[str]
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ValueError(f"{len(self.classes)} classes in {len(self.labels)} samples ({', '.join(self.classes)}); at least "
                             "two are needed to tell them apart")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr([self.keys, self.labels.tolist(), self.classes]).encode()).hexdigest()

    def split(self, held_out: float) -> tuple[np.ndarray, np.ndarray]:
        """Indices to train on and to hold out; see splits.split."""
        return split(self.keys, held_out)


class Chosen(Sequence[Any]):
    """Samples of several containers, read when they are asked for; `entries` are the container and key of each."""

    def __init__(self, entries: Sequence[tuple[Any, Any]]) -> None:
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: Any) -> Any:
        container, key = self.entries[index]
        return container[key]


def read_pictures(path: Path, max_side: int, count: ProgressCallback = iter, label: str = "label") -> Labelled:
    """Pictures of classes; larger ones are shrunk to `max_side` pixels.

    Args:
        label: field of a manifest's records that has the class.
    Raises:
        ValueError: nothing of the kind, files that cannot be read, fewer than two classes.
    """
    if path.suffix == ".npz":
        return read_arrays(path, "images", check_pictures)
    listed = listed_files(path, lambda folder: ImageStore(folder, max_side=max_side, cache_bytes=1 << 30), label)
    return label_files(listed, count)


def read_sounds(path: Path, rate: int | None = None, label: str = "label",
                count: ProgressCallback = iter) -> tuple[Labelled, int]:
    """Sounds and their sample rate.

    Args:
        rate: samples per second; what has another rate is resampled. None: the first file's that can be read, at most MAX_RATE.
        label: field of a manifest's records that has the class.
    Raises:
        ValueError: as read_pictures.
    """
    listed = listed_files(path, lambda folder: SoundStore(folder, rate=rate or MAX_RATE), label)
    store = listed.store
    assert isinstance(store, SoundStore)
    if rate is None:
        for name in listed.names:
            with contextlib.suppress(ValueError, OSError, LookupError, RuntimeError):     # label_files names what is wrong
                store.rate = min(decode_sound(store.read(name), MAX_RATE)[1], MAX_RATE)
                break
    found = label_files(listed, count)
    others = {own: times for own, times in store.own_rates.items() if own != store.rate}
    rates = ", ".join(f"{times} of {own} Hz" for own, times in sorted(others.items()))
    resampled = (f"resampled to {store.rate} Hz: {rates}",) if others else ()
    return replace(found, remarks=(*found.remarks, *resampled)), store.rate


def read_clouds(path: Path, count: ProgressCallback = iter) -> Labelled:
    """Point clouds of classes.

    Raises:
        ValueError: as read_pictures.
    """
    if path.suffix == ".npz":
        return read_arrays(path, "points", check_clouds)
    return label_files(listed_files(path, CloudStore, "label"), count)


def read_texts(path: Path, label: str = "label") -> Labelled:
    """Texts of a manifest, and the class of each in the field `label`.

    Raises:
        ValueError: another kind of file, a record without these, fewer than two classes.
    """
    if manifest_of(path) is None:
        raise ValueError(f'{path} is not a {", ".join(MANIFESTS)} file; texts come as lines of {{"text": ..., "{label}": ...}}')
    records = list(open_records(path, "", lambda record: check_entry(record, text_of(record), label)))
    labels, classes = number([class_of(record, label) for record in records])
    texts = [record[text_of(record)] for record in records]
    return Labelled(texts, labels, classes, [hashlib.sha256(text.encode()).hexdigest() for text in texts])


def check_entry(record: dict[str, Any], content: str, label: str) -> None:
    """Raise ValueError unless a record has a text in the field `content`, and a class."""
    if content not in record:
        raise ValueError(f"there is no field {content!r}; the record has {', '.join(map(str, record))}; rename the one that is "
                         "meant")
    require_text(record[content], content)
    class_of(record, label)


def check_listed(record: dict[str, Any], label: str) -> None:
    """Raise ValueError unless a record names a file and a class."""
    if file_of(record) is None:
        raise ValueError(f"no file under one of {', '.join(FILE_KEYS)}; the record has {', '.join(map(str, record))}")
    require_text(file_of(record), "file")
    class_of(record, label)


def text_of(record: dict[str, Any]) -> str:
    """The field that holds a record's text."""
    return next((key for key in TEXT_KEYS if key in record), TEXT_KEYS[0])


def class_of(record: dict[str, Any], label: str) -> str:
    """The class that a record names: text, spaces around it left out, or a whole number.

    Raises:
        ValueError: there is none; the message lists the record's fields.
    """
    key = label_key(record, label)
    value = record.get(key)
    if isinstance(value, float) and value.is_integer():     # pandas writes 3.0 where some rows have no class
        value = int(value)
    if isinstance(value, str):
        value = value.strip()
    if not isinstance(value, str | int) or value == "":
        raise ValueError(f"the field {key!r} must name a class, got {value!r}; the record has {', '.join(record)} "
                         "(choose with --label, or label=FIELD)")
    return str(value)


def label_key(record: dict[str, Any], label: str) -> str:
    """The field that names the class: `label`, or "labels" where no other one is asked for."""
    return next((key for key in LABEL_KEYS if key in record), label) if label == LABEL_KEYS[0] else label


def number(names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Class names -> int64 indices, and the different names in alphabetical order."""
    classes = sorted(set(names))
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index[name] for name in names], np.int64), classes


# ---- files -----------------------------------------------------------------------------------------------------------------

class Listed(NamedTuple):
    """Files, their classes, and what was left out."""

    store: FileStore
    names: list[str]
    classes: list[str]
    remarks: tuple[str, ...] = ()


def manifest_of(path: Path) -> Path | None:
    """The manifest that a path is, or that it holds where it is a folder; None: it is none.

    A folder of Parquet files is one, too.
    """
    if path.is_dir():
        held = next((path / name for name in IN_FOLDERS if (path / name).is_file()), None)
        return held or (path if any(path.glob("*.parquet")) else None)
    return path if path.is_file() and format_of(path) in MANIFESTS else None


def place_of(records: Records, names: Sequence[str]) -> Path | FileSource:
    """Where the files that a manifest names are: in it, or beside it."""
    if isinstance(records, ParquetRecords) and records.has_files:
        return records
    return images_beside(records.path, names)


def listed_files(path: Path, open_store: Callable[[Path | FileSource], FileStore], label: str) -> "Listed":
    """The files of a manifest, or of a folder or zip of class folders.

    Raises:
        ValueError: there are none, a record without a file or class, a file in no class folder.
    """
    manifest = manifest_of(path)
    if manifest is not None and not (path.is_dir() and has_no_class(manifest, label)):
        records = open_records(manifest, "", lambda record: check_listed(record, label))
        names = [str(file_of(record)) for record in records]
        return Listed(open_store(place_of(records, names)), names, [class_of(record, label) for record in records])
    store = open_store(path)
    names = named_files(store)
    return Listed(store, names, class_folders(store, names), left_out(store, names))


def has_no_class(manifest: Path, label: str) -> bool:
    """Whether the metadata of a folder tell no class, which the folders in it may tell."""
    if manifest.name not in IN_FOLDERS or not any(entry.is_dir() for entry in manifest.parent.iterdir()):
        return False
    first = next(iter(open_records(manifest, "", lambda record: None)), {})
    return label_key(first, label) not in first


def class_folders(store: FileStore, names: Sequence[str]) -> list[str]:
    """The folder that each file lies in.

    Raises:
        ValueError: one lies in none; there are several splits (train/<class>/<file>, test/<class>/<file>).
    """
    tops = {name.split("/")[0] for name in names if name.count("/") >= 2}
    if len(tops) > 1 and tops <= SPLITS and all(name.count("/") >= 2 for name in names):
        raise ValueError(f"{store.path} holds the splits {', '.join(sorted(tops))}; put each into a place of its own "
                         "and name one")
    if loose := [name for name in names if "/" not in name]:
        raise ValueError(f"{loose[0]!r} in {store.path} lies in no class folder; sort the {store.what}s as <class>/<file>")
    return [name.split("/")[-2] for name in names]


def file_of(record: dict[str, Any]) -> Any:
    """The file that a manifest's record names; None where it names none."""
    return next((record[key] for key in FILE_KEYS if key in record), None)


def named_files(store: FileStore) -> list[str]:
    """The files of the store's kinds.

    Raises:
        ValueError: there are none.
    """
    names = [name for name in store.names() if name.lower().endswith(store.suffixes)]
    if not names:
        others = Counter(Path(name).suffix.lower() or "no ending" for name in store.names())
        held = f"; it holds {', '.join(f'{times} of {kind}' for kind, times in others.most_common(4))}" if others else ""
        raise ValueError(f"{store.path} holds no {store.what}s ({', '.join(store.suffixes)}){held}")
    return names


def left_out(store: FileStore, names: Sequence[str]) -> tuple[str, ...]:
    """What to say of the files in class folders that are of other kinds.

    Raises:
        ValueError: a class has nothing but such files.
    """
    taken = set(names)
    others = [name for name in store.names() if name not in taken and "/" in name and not name.lower().endswith(BESIDE)]
    if lost := sorted({name.rpartition("/")[0] for name in others} - {name.rpartition("/")[0] for name in names}):
        example = next(name for name in others if name.startswith(f"{lost[0]}/"))
        raise ValueError(f"{store.path}: no {store.what} in {', '.join(lost[:MAX_NAMED])} can be read, such as {example!r}; "
                         f"convert them to one of {', '.join(store.suffixes[:6])}, or remove the folders")
    kinds = Counter(Path(name).suffix.lower() or "no ending" for name in others)
    counted = ", ".join(f"{times} of {kind}" for kind, times in kinds.most_common())
    return (f"left out: {counted}, such as {others[0]!r}",) if others else ()


def label_files(listed: Listed, count: ProgressCallback) -> Labelled:
    """Decode each once, for its key and to know that it can be."""
    store, names, classes, others = listed
    keys, faults = [], list[str]()
    for name in count(names):
        try:
            keys.append(array_key(store[name]))
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError(f"{len(faults)} of {len(names)} {store.what}s cannot be read: {some_of(faults)}; mend or remove them")
    labels, known = number(classes)
    remarks = (f"{times} of {len(names)} {store.what}s: {remark}" for remark, times in store.remarks.items())
    return Labelled(Chosen([(store, name) for name in names]), labels, known, keys, (*others, *remarks))


def some_of(faults: Sequence[str]) -> str:
    """The first MAX_NAMED faults, and how many there are."""
    return "; ".join(faults[:MAX_NAMED]) + (f" ... ({len(faults)} in all)" if len(faults) > MAX_NAMED else "")


def array_key(values: np.ndarray) -> str:
    """SHA-256 of an array's shape and content."""
    return hashlib.sha256(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes()).hexdigest()


# ---- arrays ----------------------------------------------------------------------------------------------------------------

def read_arrays(path: Path, name: str, check: Callable[[np.ndarray], np.ndarray]) -> Labelled:
    """`name` and labels of a .npz file; no pickled array is read.

    Raises:
        ValueError: they are missing, of other shapes or kinds.
    """
    arrays = load_arrays(path, (name, "labels"))
    with named(f"{name} in {path}"):
        samples = check(arrays[name])
    labels = arrays["labels"]
    if labels.shape != (len(samples),) or labels.dtype.kind not in "iuU":
        raise ValueError(f"labels in {path} are {labels.dtype} {labels.shape}; a whole number or a name for each of the "
                         f"{len(samples)} {name} was expected")
    if "classes" in arrays and labels.dtype.kind != "U":
        classes = [str(entry) for entry in arrays["classes"]]
        if len(labels) and (labels.min() < 0 or labels.max() >= len(classes)):
            raise ValueError(f"labels in {path} run from {labels.min()} to {labels.max()}, there are {len(classes)} classes")
        numbers = labels.astype(np.int64)
    elif labels.dtype.kind == "U":
        numbers, classes = number([str(entry) for entry in labels])
    else:
        values, numbers = np.unique(labels, return_inverse=True)
        classes = [str(value) for value in values]
    turned = samples.ndim == 3 and samples.shape != arrays[name].shape
    remarks = (f"{name} of shape {arrays[name].shape} were turned to (n, points, numbers per point)",) if turned else ()
    return Labelled(samples, numbers, classes, [array_key(sample) for sample in samples], remarks)


def load_arrays(path: Path, needed: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of a .npz file.

    Raises:
        ValueError: it is none, or lacks one that is needed.
    """
    try:
        check_npz(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:    # NumPy raises OSError, EOFError, zipfile's and zlib's errors and more
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is not a readable .npz file of plain arrays ({why})") from error
    if missing := [name for name in needed if name not in arrays]:
        raise ValueError(f"{path} has no array {missing[0]!r}; it has {', '.join(arrays) or 'none'}")
    return arrays


def check_pictures(images: np.ndarray) -> np.ndarray:
    """uint8 (n, H, W, 3); grey ones get three equal channels, without taking more memory.

    Raises:
        ValueError: other numbers or shapes.
    """
    if images.dtype.kind == "f" and (faults := int(np.isnan(images).any(axis=tuple(range(1, images.ndim))).sum())):
        raise ValueError(f"{faults} of {len(images)} pictures hold NaN; mend or remove them")
    if images.dtype != np.uint8:
        raise ValueError(f"pictures must be uint8 from 0 to 255, got {images.dtype}; scale and convert them")
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim == 3:
        images = np.broadcast_to(images[..., None], (*images.shape, 3))
    if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
        raise ValueError(f"pictures must be (n, height, width) or (n, height, width, 3), got {images.shape}")
    return images


def check_clouds(points: np.ndarray) -> np.ndarray:
    """float32 (n, M, D).

    Raises:
        ValueError: another shape, NaN or infinite coordinates.
    """
    if points.ndim != 3:
        raise ValueError(f"point clouds must be (n, points, numbers per point), got {points.shape}")
    points = channels_last(points)
    for i, cloud in enumerate(points):
        with named(f"cloud {i}"):
            check_cloud(cloud)
    return points.astype(np.float32)

