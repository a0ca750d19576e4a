"""Leaves: how the values of one plain Gymnasium space become ids, for many steps at once, and back.

Rules (Gato, arXiv:2205.06175, section 2.1, completed where the paper is silent):
- images (see spaces.is_image) become patches when observed;
- MultiBinary, Discrete, MultiDiscrete and integer Boxes of few enough values become discrete tokens, exactly;
- other observed numbers become mu-law bins. Where both bounds are known and go beyond the +-256 at which the mu-law
  ends, the bounds are mapped to [-1, 1] instead;
- other acted numbers: finite bounds are mapped to [-1, 1], because actions are not mu-lawed in the paper; without
  bounds the mu-law is all there is;
- with numbers="vector" observed numbers are not put into bins: 32 at a time are one token, see VectorLeaf;
- observed text takes as many tokens as it has pieces, acted text always the same number, filled up with `end`.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces

from .continuous import M, decode_bins, encode_bins, inverse_mu_law, mu_law
from .discrete import decode_discrete, encode_discrete, join_digits, split_digits
from .patches import encode_image, patch_grid
from .spaces import is_image, is_text
from .text import TextTokenizer
from .text_leaf import TextLeaf
from .tokens import VECTOR_SIZE, Kind
from .vocabulary import Vocabulary

UNBOUNDED = float(np.finfo(np.float32).max)   # old environments write "no bound" as the largest float32
TOLERANCE = 1e-3                              # in ranges: this far outside its bounds a value is rounded, not mistaken


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
        largest = max((last - first + 1 for first, last in zip(low.tolist(), high.tolist(), strict=True)), default=1)
        self.digits = 1
        while self.base > 1 and self.base**self.digits < largest:
            self.digits += 1
        if largest > self.base and (acted or self.base == 1):          # an observation takes several tokens per value
            raise ValueError(f"{label} space {space} needs {largest} ids but the vocabulary has {self.base} "
                             f"for discrete values; set vocabulary.discrete={largest}")
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
        numbers = join_digits((ids - self.start).reshape(len(ids), len(self.low), self.digits), self.base)
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
        if self.dtype.kind in "iu" and self.dtype.itemsize >= 4:       # Gymnasium writes an infinite integer bound so
            limit = float(np.iinfo(str(self.dtype)).max - 2)
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
        unit = self.to_unit(values)
        try:
            return encode_bins(unit, self.bins) + np.int32(self.start)
        except ValueError as error:
            raise ValueError(f"{self.label}: {error}") from None

    def to_unit(self, values: np.ndarray) -> np.ndarray:
        """values (steps, *shape) to about [-1, 1], float (steps, tokens): their bounds, or the mu-law."""
        values = check_shape(self.label, values, self.shape)
        if values.dtype.kind not in "fiu" or (self.dtype.kind != "f" and values.dtype.kind == "f"):
            raise ValueError(f"{self.label} must be {self.dtype}, got {values.dtype}")
        # One dtype and one memory layout, so that a value always gets the same bin, recorded or just seen.
        with np.errstate(over="ignore"):
            dtype = self.dtype if self.dtype.kind == "f" else np.float64
            flat = np.ascontiguousarray(values.reshape(len(values), self.tokens), dtype)
        if self.all_linear and self.tokens:
            unit = self._to_unit(flat)
        else:
            unit = mu_law(flat)
            if self.any_linear:
                unit = np.where(self.linear, self._to_unit(flat), unit)
        return unit

    def _to_unit(self, flat: np.ndarray) -> np.ndarray:
        """Map the bounds of the linear elements to [-1, 1].

        Raises:
            ValueError: a value lies outside its bounds by more than rounding explains.
        """
        slack = TOLERANCE * self.range
        outside = self.linear & ((flat < self.low - slack) | (flat > self.high + slack))
        if outside.any():
            step, place = (int(i) for i in np.argwhere(outside)[0])
            raise ValueError(f"{self.label}: value {flat[step, place]} at index {place} is outside "
                             f"[{self.low[place]:g}, {self.high[place]:g}]; correct the space or clip the value")
        if self.all_linear:
            return (flat - self.low) * self.scale - 1
        return np.where(self.linear, flat - np.where(self.linear, self.low, 0.0), 0.0) * self.scale - 1

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Bin centres (steps, *shape), inside the space and of its dtype."""
        wrong = (ids < self.start) | (ids >= self.start + self.bins)
        if wrong.any():
            raise ValueError(f"{self.label}: id {ids[wrong][0]} is not a continuous value, which are "
                             f"[{self.start}, {self.start + self.bins}); sample within action_mask")
        return self.from_unit(decode_bins(ids - self.start, self.bins))

    def from_unit(self, unit: np.ndarray) -> np.ndarray:
        """Inverse of `to_unit`: values (steps, *shape), inside the space and of its dtype."""
        return self._cast(self._real(unit)).reshape(len(unit), *self.shape)

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


class VectorLeaf:
    """All real numbers of an observation, VECTOR_SIZE to a token; only observed. No bins: values keep a float32's precision.

    Attributes:
        tokens: number of vectors per step.
        numbers: uint8 (tokens,), how many numbers of each are real.
    """

    kind = Kind.VECTOR

    def __init__(self, leaves: Mapping[str, ContinuousLeaf]) -> None:
        self.leaves = leaves
        self.ends = np.cumsum([leaf.tokens for leaf in leaves.values()])
        count = int(self.ends[-1])
        self.tokens = -(-count // VECTOR_SIZE)
        self.numbers = np.minimum(count - VECTOR_SIZE * np.arange(self.tokens), VECTOR_SIZE).astype(np.uint8)

    def encode(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Leaf name -> values (steps, *shape) to float32 (steps, tokens, VECTOR_SIZE) in [-1, 1], zero behind the last number.

        Raises:
            ValueError: a value is NaN or lies outside its space.
        """
        units = []
        for name, leaf in self.leaves.items():
            unit = leaf.to_unit(observations[name])
            if (missing := np.isnan(unit)).any():
                raise ValueError(f"{leaf.label}: {int(missing.sum())} of {missing.size} values are NaN, which no vector can "
                                 "hold; fill or drop them first")
            units.append(np.clip(unit, -1, 1))
        steps = len(units[0])
        vectors = np.zeros((steps, self.tokens * VECTOR_SIZE), np.float32)
        np.concatenate(units, axis=1, out=vectors[:, : self.ends[-1]], casting="same_kind")
        return vectors.reshape(steps, self.tokens, VECTOR_SIZE)

    def decode(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """Inverse of `encode` up to rounding: leaf name -> values (steps, *shape)."""
        flat = vectors.reshape(len(vectors), -1)[:, : self.ends[-1]].astype(np.float64)
        parts = np.split(flat, self.ends[:-1], axis=1)
        return {name: leaf.from_unit(part) for (name, leaf), part in zip(self.leaves.items(), parts, strict=True)}


class ImageLeaf:
    """Images; only observed."""

    kind = Kind.PATCH

    def __init__(self, label: str, space: spaces.Box) -> None:
        self.label, self.shape = label, space.shape
        self.grid = patch_grid(*space.shape[:2])
        self.tokens = self.grid[0] * self.grid[1]
        self.channels = (*space.shape, 1)[2]

    def encode(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """values (steps, H, W[, C]) to patches (steps, tokens, MAX_CHANNELS, 16, 16) and intervals (tokens, 4)."""
        values = check_shape(self.label, values, self.shape)
        if values.dtype != np.uint8:
            raise ValueError(f"{self.label} must be a uint8 image, got {values.dtype}; scale it to 0..255")
        return encode_image(values.reshape(len(values), *self.shape[:2], self.channels))


ActedLeaf: TypeAlias = DiscreteLeaf | ContinuousLeaf | TextLeaf
ObservedLeaf: TypeAlias = ActedLeaf | ImageLeaf


def observed_leaf(label: str, space: spaces.Space[Any], vocabulary: Vocabulary, text: TextTokenizer | None,
                  max_text_tokens: int) -> ObservedLeaf:
    """Choose how an observed space is written."""
    if isinstance(space, spaces.Box) and is_image(space):
        return ImageLeaf(label, space)
    return _leaf(label, space, vocabulary, text, max_text_tokens, acted=False)


def acted_leaf(label: str, space: spaces.Space[Any], vocabulary: Vocabulary, text: TextTokenizer | None,
               max_text_tokens: int) -> ActedLeaf:
    """Choose how a space of actions is written."""
    return _leaf(label, space, vocabulary, text, max_text_tokens, acted=True)


def _leaf(label: str, space: spaces.Space[Any], vocabulary: Vocabulary, text: TextTokenizer | None,
          max_text_tokens: int, acted: bool) -> ActedLeaf:
    if is_text(space):
        return TextLeaf(label, space, vocabulary, text, max_text_tokens)
    if isinstance(space, spaces.Box) and not _is_countable(space, vocabulary.config.discrete):
        return ContinuousLeaf(label, space, vocabulary, acted)
    return DiscreteLeaf(label, space, vocabulary, acted)


def _is_countable(space: spaces.Box, most: int) -> bool:
    """Whether no element of the Box can be more than `most` integers."""
    if space.dtype.kind == "f":
        return False
    bounds = zip(space.low.flat, space.high.flat, strict=True)
    return space.dtype.kind == "b" or all(int(high) - int(low) < most for low, high in bounds)


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
        raise ValueError(f"{label} must have the shape {shape}, got {values.shape[1:]}; what was recorded with another view or "
                         "version of the task must be recorded again")
    return values
