"""Held-out data: which episodes and documents are kept from training, decided by a hash of each one's key.

The side of a key never depends on what else is there: data that grow keep their split, and equal pictures under
different names fall on the same side.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from .documents import Caption, Dialogue, Document


def split(keys: Sequence[Any] | np.ndarray, held_out: float, salt: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Divide keys into those to train on and those to hold out.

    Args:
        keys: one per episode or document, with a short `str`: `reader.seeds`, or `document_key` of each document.
        held_out: share to hold out, between 0 and 1.
        salt: another salt, another split.
    Returns:
        two int64 arrays of indices, for `select` of the sources.
    Raises:
        ValueError: `held_out` is no share, or one of the sides is empty.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out={held_out} is not between 0 and 1")
    limit = int(held_out * 2**64)
    digests = [hashlib.sha256(f"{salt}:{key}".encode()).digest() for key in keys]
    held = np.array([int.from_bytes(digest[:8], "big") < limit for digest in digests], bool)
    if not held.any() or held.all():
        raise ValueError(f"held_out={held_out} of {len(keys)} keys leaves one side empty; give more data or another "
                         f"share")
    return np.flatnonzero(~held), np.flatnonzero(held)


def document_key(document: Document) -> str:
    """The same for documents with the same pictures, or the same text where there are none."""
    state = hashlib.sha256()
    match document:
        case Caption(image=image):
            state.update(repr(image.shape).encode() + image.tobytes())
        case Dialogue(images=images) if images:
            for name in sorted(images):
                state.update(repr(images[name].shape).encode() + images[name].tobytes())
        case Dialogue(messages=messages):
            state.update(repr(messages).encode())
        case str():
            state.update(document.encode())
    return state.hexdigest()
