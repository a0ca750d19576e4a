"""Leaves: how the values of one plain Gymnasium space become ids, for many steps at once, and back.

Rules (Gato, arXiv:2205.06175, section 2.1, completed where the paper is silent):
- images (see spaces.is_image) become patches when observed;
- MultiBinary, Discrete, MultiDiscrete and integer Boxes of few enough values become discrete tokens, exactly;
- other observed numbers become mu-law bins. Where both bounds are known and go beyond the +-256 at which the mu-law ends, the
  bounds are mapped to [-1, 1] instead;
- other acted numbers: finite bounds are mapped to [-1, 1], because actions are not mu-lawed in the paper; without bounds the
  mu-law is all there is;
- observed text takes as many tokens as it has pieces, acted text always the same number, filled up with `end`.
"""

from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces

from .continuous import M, decode_bins, encode_bins, inverse_mu_law, mu_law
from .discrete import decode_discrete, encode_discrete, join_digits, split_digits
from .patches import encode_image, patch_grid
from .spaces import is_image, is_text
from .text import TextTokenizer
from .tokens import Kind
from .vocabulary import Vocabulary

UNBOUNDED = float(np.finfo(np.float32).max)   # old environments write "no bound" as the largest float32
TOLERANCE = 1e-3                              # how far outside its bounds, in ranges, a value may lie: rounding, not a mistake
CACHED_TEXTS = 4096                           # missions repeat at every step of an episode


class DiscreteLeaf:
    """Integers with known bounds.

    Attributes:
        label: how errors name the leaf.
        tokens: number of tokens per step.
    """

    kind = Kind.DISCRETE

    def __init__(self, label: str, space: spaces.Space[Any], vocabulary: Vocabulary, acted: bool) -> None:
        low, high = integer_bounds(space)
        self.label, self.dtype, self.shape = label, space.dtype, space.shape or ()
        self.base, self.start = vocabulary.config.discrete, vocabulary.discrete_start
        self.low, self.high = low, high                                # (n,) each, int64
        largest = max((h - l + 1 for l, h in zip(low.tolist(), high.tolist(), strict=True)), default=1)
        self.digits = 1
        while 1 < self.base and self.base**self.digits < largest:
            self.digits += 1
        if largest > self.base and (acted or self.base == 1):          # an observation takes several tokens per value
            raise ValueError(f"{label} space {space} needs {largest} ids but the vocabulary has {self.base} for discrete values; "
                             f"set vocabulary.discrete={largest}")
        self.tokens = len(low) * self.digits

    def encode(self, values: np.ndarray) -> np.ndarray:
        """values (steps, *shape) to ids (steps, tokens)."""
        values = check_shape(self.label, values, self.shape)
        try:
            numbers = encode_discrete(values.reshape(len(values), len(self.low)), self.low, self.high - self.low + 1)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.label}: {error}") from None
        return split_digits(numbers, self.base, self.digits).reshape(len(values), self.tokens) + self.start

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Inverse of `encode`: values (steps, *shape) of the space's dtype."""
        numbers = join_digits((ids - self.start).reshape(len(ids), -1, self.digits), self.base)
        wrong = (numbers < 0) | (numbers > self.high - self.low)
        if wrong.any():
            raise ValueError(f"{self.label}: id {ids[wrong.any(axis=1)][0].tolist()} means no value of this leaf; "
                             "sample within action_mask")
        return decode_discrete(numbers, self.low).astype(self.dtype).reshape(len(ids), *self.shape)

    def legal(self, size: int) -> np.ndarray:
        """bool (tokens, size): which ids may stand at each place; with one digit per value."""
        ids = np.arange(size) - self.start
        return (ids >= 0) & (ids <= (self.high - self.low)[:, None])

    def describe(self, token: int, place: int) -> str:
        """What id `token` at `place` of this leaf says."""
        if self.digits > 1:
            return f"digit {token - self.start}"
        return str(token - self.start + int(self.low[place]))


class ContinuousLeaf:
    """Numbers in bins: by their bounds (`linear`) or by the mu-law, each element by itself.

    Attributes:
        linear: bool (tokens,), elements whose bounds [low, high] are mapped to [-1, 1].
    """

    kind = Kind.CONTINUOUS

    def __init__(self, label: str, space: spaces.Box, vocabulary: Vocabulary, acted: bool) -> None:
        self.label, self.dtype, self.shape = label, space.dtype, space.shape
        self.bins, self.start = vocabulary.config.continuous, vocabulary.continuous_start
        self.bounds = space.low.reshape(-1), space.high.reshape(-1)    # in the space's dtype
        self.low, self.high = (bound.astype(np.float64) for bound in self.bounds)
        limit = UNBOUNDED
        if self.dtype.kind in "iu" and self.dtype.itemsize >= 4:
            limit = float(np.iinfo(self.dtype).max - 2)                # Gymnasium writes an infinite integer bound like this
        largest = np.maximum(np.abs(self.low), np.abs(self.high))
        self.linear = largest < limit
        if not acted:
            self.linear &= largest > M
        self.any_linear, self.all_linear = bool(self.linear.any()), bool(self.linear.all())
        with np.errstate(invalid="ignore", over="ignore"):
            self.range = np.where(self.linear, self.high - self.low, 0.0)
        self.scale = np.divide(2.0, self.range, out=np.zeros_like(self.range), where=self.range > 1e-300)
        self.tokens = len(self.low)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """values (steps, *shape) to ids (steps, tokens)."""
        values = check_shape(self.label, values, self.shape)
        if values.dtype.kind not in "fiu" or (self.dtype.kind != "f" and values.dtype.kind == "f"):
            raise ValueError(f"{self.label} must be {self.dtype}, got {values.dtype}")
        flat = values.reshape(len(values), self.tokens)
        if self.all_linear and self.tokens:
            unit = self._to_unit(flat)
        else:
            unit = mu_law(flat)
            if self.any_linear:
                unit = np.where(self.linear, self._to_unit(flat), unit)
        try:
            return encode_bins(unit, self.bins) + np.int32(self.start)
        except ValueError as error:
            raise ValueError(f"{self.label}: {error}") from None

    def _to_unit(self, flat: np.ndarray) -> np.ndarray:
        """Map the bounds of the linear elements to [-1, 1].

        Raises:
            ValueError: a value lies outside its bounds by more than rounding explains.
        """
        with np.errstate(invalid="ignore"):                            # infinity times a range of zero
            unit = (flat - self.low) * self.scale - 1 if self.all_linear else (
                np.where(self.linear, flat - np.where(self.linear, self.low, 0.0), 0.0) * self.scale - 1)
        slack = 1 + 2 * TOLERANCE
        if (np.abs(unit) > slack).any():
            step, place = (int(i) for i in np.argwhere(np.abs(unit) > slack)[0])
            raise ValueError(f"{self.label}: value {flat[step, place]} at index {place} is outside "
                             f"[{self.low[place]:g}, {self.high[place]:g}]; correct the space or clip the value")
        return unit

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Bin centres (steps, *shape), inside the space and of its dtype."""
        wrong = (ids < self.start) | (ids >= self.start + self.bins)
        if wrong.any():
            raise ValueError(f"{self.label}: id {ids[wrong][0]} is not a continuous value, which are "
                             f"[{self.start}, {self.start + self.bins}); sample within action_mask")
        real = self._real(decode_bins(ids - self.start, self.bins))
        return self._cast(real).reshape(len(ids), *self.shape)

    def _real(self, unit: np.ndarray) -> np.ndarray:
        """[-1, 1] back to values, float64 (steps, tokens)."""
        if not self.any_linear:
            return inverse_mu_law(unit)
        linear = np.where(self.linear, self.low, 0.0) + (unit + 1) * 0.5 * self.range
        return linear if self.all_linear else np.where(self.linear, linear, inverse_mu_law(unit))

    def _cast(self, real: np.ndarray) -> np.ndarray:
        """To the space's dtype, clipped into it after rounding: a float32 may round to above its bound."""
        low, high = self.bounds
        if self.dtype.kind == "f":
            return np.clip(real.astype(self.dtype), low, high)
        inside = np.clip(np.rint(real), self.low, self.high)
        with np.errstate(invalid="ignore"):                            # 2**63 as a float has no int64, and is replaced
            cast = inside.astype(self.dtype)
        return np.where(inside >= self.high, high, np.where(inside <= self.low, low, cast))

    def legal(self, size: int) -> np.ndarray:
        """bool (tokens, size): which ids may stand at each place."""
        ids = np.arange(size)
        return np.tile((ids >= self.start) & (ids < self.start + self.bins), (self.tokens, 1))

    def describe(self, token: int, place: int) -> str:
        """What id `token` at `place` of this leaf says: the centre of its bin."""
        unit = np.full((1, self.tokens), decode_bins(np.array(token - self.start), self.bins))
        return f"{self._real(unit)[0, place]:.4g}"


class ImageLeaf:
    """Images; only observed."""

    kind = Kind.PATCH

    def __init__(self, label: str, space: spaces.Box) -> None:
        self.label, self.shape = label, space.shape
        rows, columns = patch_grid(*space.shape[:2])
        self.tokens = rows * columns
        self.channels = (*space.shape, 1)[2]

    def encode(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """values (steps, H, W[, C]) to patches (steps, tokens, MAX_CHANNELS, 16, 16) and intervals (tokens, 4)."""
        values = check_shape(self.label, values, self.shape)
        if values.dtype != np.uint8:
            raise ValueError(f"{self.label} must be a uint8 image, got {values.dtype}; scale it to 0..255")
        return encode_image(values.reshape(len(values), *self.shape[:2], self.channels))


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
            raise ValueError(f"{self.label} has {len(ids)} tokens, more than max_text_tokens={self.tokens}: {value[:60]!r}; raise "
                             "max_text_tokens")
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
        """bool (tokens, size): pieces made of the charset's characters, and `end` unless the text would be too short."""
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


Leaf: TypeAlias = DiscreteLeaf | ContinuousLeaf | ImageLeaf | TextLeaf


def make_leaf(role: str, name: str, space: spaces.Space[Any], vocabulary: Vocabulary, text: TextTokenizer | None,
              max_text_tokens: int) -> Leaf:
    """Choose how a space is written; `role` is "observation" or "action"."""
    label = f"{role} {name!r}" if name else role
    acted = role == "action"
    if is_text(space):
        return TextLeaf(label, space, vocabulary, text, max_text_tokens)
    if not isinstance(space, spaces.Box):
        return DiscreteLeaf(label, space, vocabulary, acted)
    if is_image(space) and not acted:
        return ImageLeaf(label, space)
    if space.dtype.kind == "b" or (space.dtype.kind in "iu" and _count(space) <= vocabulary.config.discrete):
        return DiscreteLeaf(label, space, vocabulary, acted)
    return ContinuousLeaf(label, space, vocabulary, acted)


def _count(space: spaces.Box) -> int:
    """Most integers that one element of an integer Box can be."""
    return max((int(h) - int(l) + 1 for l, h in zip(space.low.flat, space.high.flat, strict=True)), default=1)


def integer_bounds(space: spaces.Space[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of each element, int64 (n,) each."""
    match space:
        case spaces.Discrete():
            low, high = np.array([int(space.start)]), np.array([int(space.start) + int(space.n) - 1])
        case spaces.MultiDiscrete():
            low = space.start.astype(np.int64)
            high = low + space.nvec.astype(np.int64) - 1
        case spaces.MultiBinary():
            low, high = np.zeros(space.shape, np.int64), np.ones(space.shape, np.int64)
        case spaces.Box():
            low, high = space.low, space.high
        case _:
            raise TypeError(f"{space} has no integer bounds")
    return low.reshape(-1).astype(np.int64), high.reshape(-1).astype(np.int64)


def check_shape(label: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`values` if it is (steps, *shape), else ValueError."""
    if values.shape[1:] != shape:
        raise ValueError(f"{label} must have the shape {shape}, got {values.shape[1:]}")
    return values
