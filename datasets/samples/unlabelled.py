"""Samples without classes, for learning from pictures, sounds and texts alone.

    pictures/ or pictures.zip     every picture in it and in the folders below; sounds/ likewise
    sounds.jsonl                  {"file": ...} (or one of labelled.FILE_KEYS), also .csv; files in a folder or zip beside it
    digits.npz                    images (n, H, W) or (n, H, W, 3) uint8
    data/ALE-Pong-v5              episodes, see episodes.py: what was seen, FRAMES pictures spread over all of them
    reviews.jsonl, books/, x.txt  texts, see texts.py; cut into pieces of so many tokens

Opening decodes every file once. What cannot be read or used is counted, named and left out, up to a limit: a thousandth of a
crawl is always broken, but when half of it is, something else is wrong.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...tokenizers.spaces import is_image, leaf_spaces, space_from_json
from ..documents import open_records
from ..episodes import EpisodeReader
from ..file_store import FileSource, FileStore
from ..records import require_text
from ..texts import TextReader
from .labelled import (
    IN_FOLDERS,
    Chosen,
    ProgressCallback,
    array_key,
    check_pictures,
    file_of,
    load_arrays,
    manifest_of,
    named_files,
    place_of,
    some_of,
)

FRAMES = 10_000   # of one data set of episodes

Problem = Callable[[Any], str | None]   # why a sample is of no use; None where it is


@dataclass(frozen=True)
class Unlabelled:
    """Samples.

    Attributes:
        samples: picture uint8 (H, W, 3); sound float32 (samples,); text int32 ids (n,).
        keys: of each, SHA-256 of its content, or of the text that it is a piece of; see splits.is_held_out.
        skipped: what was left out, with the reason.
    """

    samples: Sequence[Any]
    keys: list[str]
    skipped: list[str]

    def __len__(self) -> int:
        return len(self.samples)

    def only(self, numbers: Iterable[int]) -> "Unlabelled":
        chosen = [int(i) for i in numbers]
        return replace(self, samples=Chosen([(self.samples, i) for i in chosen]), keys=[self.keys[i] for i in chosen])

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("".join(self.keys).encode()).hexdigest()


def read_unlabelled(paths: Sequence[Path], open_store: Callable[[Path | FileSource], FileStore], problem: Problem,
                    most_skipped: int, count: ProgressCallback = iter) -> Unlabelled:
    """Pictures or sounds.

    Args:
        open_store: makes the store of a folder or zip.
        problem: tells what is of no use.
        most_skipped: how many samples may be left out.
    Raises:
        ValueError: nothing there, or more left out than that.
    """
    entries = [entry for path in paths for entry in entries_in(path, open_store)]
    kept, keys, skipped = [], [], []
    for container, key in count(entries):
        try:
            sample = container[key]
            reason = problem(sample)
        except ValueError as error:
            reason = str(error)
        else:
            reason = reason and f"{key!r}: {reason}"
        if reason is None:
            kept.append((container, key))
            keys.append(array_key(sample))
        else:
            skipped.append(reason)
    if len(skipped) > most_skipped or not kept:
        raise ValueError(f"{len(skipped)} of {len(entries)} samples cannot be used, the limit is {most_skipped}: "
                         f"{some_of(skipped)}; mend or remove them, or raise data.most_skipped")
    return Unlabelled(Chosen(kept), keys, skipped)


def entries_in(path: Path, open_store: Callable[[Path | FileSource], FileStore]) -> list[tuple[Any, Any]]:
    """What a path holds, as (container, key) of each sample. Raises ValueError where it holds nothing."""
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a folder, a .zip or a .jsonl manifest")
    if path.suffix == ".npz":
        images = check_pictures(load_arrays(path, ("images",))["images"])
        return [(images, i) for i in range(len(images))]
    if path.is_dir() and any(path.glob("_*.json")) and open_store(path).what == "image":      # sidecars
        frames = frames_of(EpisodeReader(path))
        return [(frames, i) for i in range(len(frames))]
    manifest = manifest_of(path)
    if manifest is not None and manifest.name not in IN_FOLDERS:      # which need not name all that lie there
        records = open_records(manifest, "", lambda record: require_text(file_of(record), "file"))
        names = [str(file_of(record)) for record in records]
        store = open_store(place_of(records, names))
        if not names:
            raise ValueError(f"{path} holds no {store.what}s")
    else:
        store = open_store(path)
        names = named_files(store)
    return [(store, name) for name in names]


def frames_of(reader: EpisodeReader) -> np.ndarray:
    """Observed pictures of episodes, uint8 (n, H, W, 3): of stacked frames the newest three, of fewer the last one repeated.

    Raises:
        ValueError: the task shows no picture.
    """
    spaces = leaf_spaces(space_from_json(reader.task["observation_space"]))
    name = next((name for name, space in spaces.items() if is_image(space)), None)
    if name is None:
        raise ValueError(f"{reader.path} shows no pictures: its observations are {', '.join(map(str, spaces.values()))}")
    ends = np.cumsum(reader.lengths)
    chosen = np.linspace(0, ends[-1] - 1, min(FRAMES, int(ends[-1]))).astype(int)
    frames = []
    for number, stop in enumerate(ends.tolist()):
        start = stop - int(reader.lengths[number])
        steps = chosen[(chosen >= start) & (chosen < stop)] - start
        if len(steps):
            frames.append(reader[number].observations[name][steps])
    pixels = np.concatenate(frames)
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    last = pixels.shape[-1]
    return np.ascontiguousarray(pixels[..., [max(last - 3, 0) + min(channel, last - 1) for channel in range(3)]])


def read_pieces(texts: TextReader, encode: Callable[[str], np.ndarray], longest: int,
                count: ProgressCallback = iter) -> Unlabelled:
    """Texts as token ids, cut into pieces of at most `longest` tokens; what is left with fewer than two is left out.

    Raises:
        ValueError: nothing is left.
    """
    samples, keys, skipped = [], [], []
    for number in count(range(len(texts))):
        text = texts[number]
        ids = encode(text)
        pieces = [piece for piece in pieces_of(ids, longest) if len(piece) > 1]
        samples += pieces
        keys += [hashlib.sha256(text.encode()).hexdigest()] * len(pieces)
        if not pieces:
            skipped.append(f"text {number}: {len(ids)} tokens are too few")
    if not samples:
        raise ValueError(f"none of {len(texts)} texts has two tokens; give longer ones")
    return Unlabelled(samples, keys, skipped)


def pieces_of(ids: np.ndarray, longest: int) -> list[np.ndarray]:
    """Parts of about equal length."""
    return np.array_split(ids, max(1, -(-len(ids) // longest)))
