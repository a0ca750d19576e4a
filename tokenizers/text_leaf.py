"""TextLeaf: how the strings of one text space become ids and back; the other kinds of leaves are in leaves.py.

The paper (Gato, arXiv:2205.06175) only observes text. To act with it, a fixed number of places is set aside, and the
unused ones hold `end`: then every action of a task has the same length, and rows of a batch stay in step.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from .text import TextTokenizer
from .tokens import Kind
from .vocabulary import Vocabulary

CACHED_TEXTS = 4096   # missions repeat at every step of an episode


class TextLeaf:
    """Strings.

    Attributes:
        tokens: largest number of tokens per step; exactly this many when acted.
        least: smallest number of tokens per step when observed.
    """

    kind = Kind.TEXT

    def __init__(self, label: str, space: spaces.Space[Any], vocabulary: Vocabulary, text: TextTokenizer | None,
                 max_tokens: int) -> None:
        if text is None:
            raise ValueError(f"{label} is text but there is no TextTokenizer; train or load one")
        self.label, self.text = label, text
        self.start, self.end = vocabulary.text_start, vocabulary.end
        self.charset: frozenset[str] | None = None
        self.min_length, self.max_length = 0, None
        self.tokens = max_tokens
        if isinstance(space, spaces.Text):
            self.charset = frozenset(space.character_set)
            self.min_length, self.max_length = space.min_length, space.max_length
            widest = max((len(character.encode()) for character in self.charset), default=1)
            self.tokens = min(max_tokens, widest * space.max_length)   # a piece holds at least one byte
        self.least = min(1, self.min_length)
        self._cache: dict[str, np.ndarray] = {}

    def encode(self, value: Any) -> np.ndarray:
        """One string to ids (pieces,).

        Raises:
            ValueError: no string, not in the space, or too long.
        """
        ids = self._cache.get(value) if isinstance(value, str) else None
        if ids is not None:
            return ids
        if not isinstance(value, str):
            raise ValueError(f"{self.label} must be a str, got {type(value).__name__}")
        self._check(value)
        try:
            ids = self.text.encode(value) + np.int32(self.start)
        except ValueError as error:
            raise ValueError(f"{self.label}: {error}") from None
        if len(ids) > self.tokens:
            raise ValueError(f"{self.label} has {len(ids)} tokens, more than max_text_tokens={self.tokens}: "
                             f"{value[:60]!r}; raise max_text_tokens")
        if len(self._cache) >= CACHED_TEXTS:
            self._cache.clear()
        self._cache[value] = ids
        return ids

    def _check(self, value: str) -> None:
        if self.charset is not None and not self.charset.issuperset(value):
            strange = sorted(set(value) - self.charset)
            raise ValueError(f"{self.label}: {value[:60]!r} holds {strange}, not in the space's charset")
        if self.max_length is not None and not self.min_length <= len(value) <= self.max_length:
            raise ValueError(f"{self.label}: {value[:60]!r} has {len(value)} characters, not {self.min_length} to "
                             f"{self.max_length}")

    def encode_rows(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Strings (steps,) to ids (steps, most), and bool (steps, most) where they are real; None if everywhere."""
        if values.ndim != 1:
            raise ValueError(f"{self.label} must be one string per step, got an array of shape {values.shape}")
        rows = [self.encode(value) for value in values.tolist()]
        if not rows:
            return np.zeros((0, 0), np.int32), None
        first = rows[0]
        if all(row is first for row in rows):
            return np.broadcast_to(first, (len(rows), len(first))), None
        lengths = np.array([len(row) for row in rows])
        if (lengths == lengths[0]).all():
            return np.stack(rows), None
        real = np.arange(lengths.max()) < lengths[:, None]
        ids = np.zeros(real.shape, np.int32)
        ids[real] = np.concatenate(rows)
        return ids, real

    def encode_budget(self, values: np.ndarray) -> np.ndarray:
        """Strings (steps,) to ids (steps, tokens): pieces, then `end` up to the budget."""
        ids, real = self.encode_rows(values)
        out = np.full((len(ids), self.tokens), self.end, np.int32)
        out[:, : ids.shape[1]] = ids if real is None else np.where(real, ids, self.end)
        return out

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """ids (steps, tokens) to strings (steps,): cut at the first end and made to fit the space."""
        strings = np.empty(len(ids), dtype=object)
        for i, row in enumerate(ids):
            ends = np.flatnonzero(row == self.end)
            pieces = row[: ends[0]] if len(ends) else row
            try:
                strings[i] = self._fit(self.text.decode(pieces - self.start))
            except ValueError as error:
                raise ValueError(f"{self.label}: {error}; sample within action_mask") from None
        return strings

    def _fit(self, value: str) -> str:
        """Drop characters outside the charset, cut to the longest length, fill up to the shortest."""
        if self.charset is None:
            return value
        kept = "".join(character for character in value if character in self.charset)[: self.max_length]
        return kept.ljust(self.min_length, min(self.charset, default=" "))

    def legal(self, size: int) -> np.ndarray:
        """bool (tokens, size): pieces of the charset's characters, and `end`, but not first where text is required."""
        charset = self.charset
        allowed = np.zeros(size, np.bool_)
        some = None if charset is None else {byte for character in charset for byte in character.encode()}
        for i in range(self.text.size):
            piece = self.text.piece_bytes(i)
            if len(piece) == 1:
                allowed[self.start + i] = some is None or piece[0] in some
            elif piece:
                allowed[self.start + i] = charset is None or charset.issuperset(piece.decode("utf-8", errors="replace"))
        legal = np.tile(allowed, (self.tokens, 1))
        legal[:, self.end] = True
        if self.min_length and allowed.any():
            legal[:1, self.end] = False
        return legal

    def describe(self, token: int, place: int) -> str:
        """What id `token` says."""
        return "end" if token == self.end else repr(self.text.piece(token - self.start))
