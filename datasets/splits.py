"""Held-out data: which episodes and documents are kept from training, decided by a hash of each one's key.

The side of a key never depends on what else is there: data that grow keep their split, and equal pictures under
different names fall on the same side. A long text is divided in itself: it keeps its beginning and gives away its end.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .documents import Caption, Dialogue, Document
from .reader import TextData

LONG = 10_000   # characters; a book is divided in itself, a review is not


def split(keys: Sequence[Any] | np.ndarray, held_out: float, salt: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Divide keys into those to train on and those to hold out.

    Args:
        keys: one per episode or document, with a short `str`: `reader.seeds`, or `document_key` of each document.
        held_out: fraction to hold out, between 0 and 1.
        salt: another salt, another split.
    Returns:
        two int64 arrays of indices, for `select` of the sources.
    Raises:
        ValueError: `held_out` is not between 0 and 1, or one of the two is empty.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out={held_out} is not between 0 and 1")
    held = is_held_out(keys, held_out, salt)
    if not held.any() or held.all():
        raise ValueError(f"held_out={held_out} of {len(keys)} keys leaves one side empty; give more data or another fraction")
    return np.flatnonzero(~held), np.flatnonzero(held)


def is_held_out(keys: Sequence[Any] | np.ndarray, held_out: float, salt: str = "") -> np.ndarray:
    """bool (keys,): a key's hash, taken as a number in [0, 1), is below `held_out`."""
    limit = int(held_out * 2**64)
    digests = [hashlib.sha256(f"{salt}:{key}".encode()).digest() for key in keys]
    return np.array([int.from_bytes(digest[:8], "big") < limit for digest in digests], bool)


def document_key(document: Document) -> str:
    """The same for documents with the same pictures and sounds, or the same text where there are none."""
    state = hashlib.sha256()
    match document:
        case Caption(image=image):
            state.update(repr(image.shape).encode() + image.tobytes())
        case Dialogue(images=images, sounds=sounds) if images or sounds:
            for shown in (images, sounds):
                for name in sorted(shown):
                    state.update(repr(shown[name].shape).encode() + shown[name].tobytes())
        case Dialogue(messages=messages):
            state.update(repr(messages).encode())
        case str():
            state.update(document.encode())
    return state.hexdigest()


@dataclass(frozen=True, eq=False)
class Excerpts(TextData):
    """Parts of texts, each a text of its own; read when they are asked for.

    Attributes:
        originals: the texts.
        spans: int64 (n, 3), number of the text, first character, last character + 1.
        characters: int64 (n,), the length of each.
        fingerprint: identifies texts and spans.
    """

    originals: Sequence[str] = field(repr=False)
    spans: np.ndarray

    @property
    def characters(self) -> np.ndarray:
        return self.spans[:, 2] - self.spans[:, 1]

    @property
    def fingerprint(self) -> str:
        own = getattr(self.originals, "fingerprint", "")
        return hashlib.sha256(f"{own} {self.spans.tolist()}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: Any) -> Any:
        text, start, stop = self.spans[index].tolist()
        return self.originals[text][start:stop]


def split_texts(texts: Sequence[str], held_out: float) -> tuple[Excerpts, Excerpts]:
    """Divide texts into those to train on and those to hold out.

    Texts of more than LONG characters end where their last `held_out` fraction begins, at the next line end; what follows is
    held out. Shorter ones stand whole on the side that `split` gives them.

    Raises:
        ValueError: as `split`.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out={held_out} is not between 0 and 1")
    spans: tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]] = ([], [])
    short = []
    for number, text in enumerate(texts):
        if len(text) <= LONG:
            short.append((number, document_key(text), len(text)))
            continue
        end = int(len(text) * (1 - held_out))
        end = text.find("\n", end, end + LONG) + 1 or end
        spans[0].append((number, 0, end))
        spans[1].append((number, end, len(text)))
    if short:
        sides = is_held_out([key for _, key, _ in short], held_out)
        for (number, _, length), held in zip(short, sides, strict=True):
            spans[int(held)].append((number, 0, length))
    if not all(spans):
        raise ValueError(f"held_out={held_out} of {len(texts)} texts leaves one side empty; give more data or another fraction")
    train, held = (Excerpts(texts, np.array(sorted(side), np.int64)) for side in spans)
    return train, held
