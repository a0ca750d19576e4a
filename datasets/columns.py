"""Leaves of an episode as Parquet columns: NumPy arrays to Arrow and back, bit for bit.

    leaf, per timestep                     column
    number                                 the same number type
    array of numbers                       fixed-size list, row-major
    uint8 array of two or more axes        fixed-size binary: an image costs no list offsets and reads without copying
    str                                    string, read back as a dictionary
    array of no numbers, shape (..., 0)    no column; the sidecar's shape is enough
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..tokenizers.episode import Episode

MOST = 1 << 40     # numbers per timestep that a sidecar may claim; what is read is bounded more tightly


@dataclass(frozen=True)
class Column:
    """How one leaf is stored: its NumPy dtype ("str" for text) and its shape per timestep."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers per timestep."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def width(self) -> int:
        """Bytes per timestep in memory; text counts as a reference."""
        return 8 if self.dtype == "str" else self.size * np.dtype(self.dtype).itemsize

    @property
    def is_binary(self) -> bool:
        """Images and the like are kept as raw bytes: lists of numbers are slow to read."""
        return self.dtype == "uint8" and len(self.shape) >= 2

    @property
    def type(self) -> pa.DataType:
        """The Arrow type of the column."""
        if self.dtype == "str":
            return pa.string()
        if self.is_binary:
            return pa.binary(self.size)
        number = pa.from_numpy_dtype(np.dtype(self.dtype))
        return pa.list_(number, self.size) if self.shape else number

    @staticmethod
    def of(name: str, values: np.ndarray) -> "Column":
        """The column for an array (timesteps, ...).

        Raises:
            ValueError: its dtype cannot be stored.
        """
        if values.dtype == object or values.dtype.kind == "U":
            return Column("str", ())
        if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
            raise ValueError(f"{name} has dtype {values.dtype}; episodes hold bool, integer, float and str leaves")
        return Column(str(values.dtype), values.shape[1:])

    @staticmethod
    def from_json(value: Any) -> "Column":
        """The inverse of `{"dtype": ..., "shape": [...]}`.

        Raises:
            ValueError: not a column.
        """
        dtype, shape = value["dtype"], tuple(value["shape"])
        if dtype != "str" and (np.dtype(dtype).kind not in "biuf" or np.dtype(dtype).itemsize > 8):
            raise ValueError(f"dtype {dtype!r}")
        if not all(isinstance(n, int) and n >= 0 for n in shape) or math.prod(shape) > MOST:
            raise ValueError(f"shape {shape}")
        return Column(dtype, shape)


def leaf_columns(episode: Episode) -> dict[str, np.ndarray]:
    """Column name -> array of every observation, action and label leaf, sorted by name."""
    columns = {column_name("observation", leaf): np.asarray(v) for leaf, v in episode.observations.items()}
    columns |= {column_name("action", leaf): np.asarray(v) for leaf, v in episode.actions.items()}
    columns |= {column_name("label", leaf): np.asarray(v) for leaf, v in (episode.labels or {}).items()}
    return dict(sorted(columns.items()))


def column_name(side: str, leaf: str) -> str:
    """`observation/image` for the leaf "image", `observation` for the only leaf of a plain space."""
    return f"{side}/{leaf}" if leaf else side


def is_label(column: str) -> bool:
    """Whether a column holds labels: what the loss asks for in place of an action."""
    return column.partition("/")[0] == "label"


def action_name(column: str) -> str:
    """The column of the actions that a column of labels belongs to."""
    return "action" + column.removeprefix("label")


def padded(values: np.ndarray, rows: int, kind: pa.DataType) -> pa.Array:
    """A number column, null from the end of `values` to `rows`."""
    if len(values) == rows:
        return pa.array(values, kind)
    full = np.zeros(rows, values.dtype)
    full[: len(values)] = values
    return pa.array(full, kind, mask=np.arange(rows) >= len(values))


def column_array(column: Column, values: np.ndarray, rows: int, kept: np.ndarray | None = None) -> pa.Array:
    """A leaf as an Arrow column of `rows` rows, null where `values` has none (the action of the last row).

    Args:
        kept: bool (len(values),), False: null as well.
    """
    missing = np.arange(rows) >= len(values)
    if kept is not None:
        missing[: len(values)] |= ~kept
    if column.dtype == "str":
        return pa.array([*values.tolist(), *[None] * (rows - len(values))], pa.string(), mask=missing)
    full = np.zeros((rows, column.size), column.dtype)
    full[: len(values)] = values.reshape(len(values), column.size)
    if not column.shape:
        return pa.array(full.reshape(-1), column.type, mask=missing)
    if column.is_binary:
        valid = pa.py_buffer(np.packbits(~missing, bitorder="little"))
        return pa.Array.from_buffers(column.type, rows, [valid, pa.py_buffer(full)], int(missing.sum()))
    return pa.FixedSizeListArray.from_arrays(pa.array(full.reshape(-1)), column.size, mask=pa.array(missing))


def column_values(column: Column, values: pa.ChunkedArray | None, rows: int) -> np.ndarray:
    """The first `rows` rows of a column as an array (rows, ...); the inverse of `column_array`."""
    if values is None:
        return np.zeros((rows, *column.shape), column.dtype)
    array = (values.combine_chunks() if values.num_chunks != 1 else values.chunk(0))
    if array[rows:].null_count != len(array) - rows or array[:rows].null_count:
        raise ValueError("null values where there must be none, or none where they must be")
    array = array[:rows]
    if column.dtype == "str":
        words = np.array([*array.dictionary.to_pylist(), None], object)   # the None keeps an empty list an object array
        return words[array.indices.to_numpy(zero_copy_only=False).astype(np.int64)]
    if column.is_binary:
        data = np.frombuffer(array.buffers()[1], np.uint8) if rows else np.zeros(0, np.uint8)
        return data[array.offset * column.size: (array.offset + rows) * column.size].reshape(rows, *column.shape)
    if column.shape:
        array = array.flatten()
        if array.null_count:
            raise ValueError("null values inside a list")
    return array.to_numpy(zero_copy_only=False).reshape(rows, *column.shape)


def label_array(column: Column, labels: np.ndarray, actions: np.ndarray, rows: int) -> pa.Array:
    """Labels (steps, ...) as a column: null where one is the action itself, which `actions` says already."""
    return column_array(column, labels, rows, kept=~same_rows(labels, actions))


def label_values(column: Column, values: pa.ChunkedArray | None, actions: np.ndarray) -> np.ndarray:
    """The inverse of `label_array`: labels (steps, ...), `actions` where the column is null."""
    if values is None:
        return actions
    array = values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
    own = array.is_valid().to_numpy(zero_copy_only=False)
    if own[len(actions):].any():
        raise ValueError("a label after the last action")
    if not own.any():
        return actions
    labels = actions.copy()
    labels[own[: len(actions)]] = column_values(column, pa.chunked_array([array.drop_null()]), int(own.sum()))
    return labels


def same_rows(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """bool (rows,): where two arrays (rows, ...) of one dtype hold the same bytes, or the same strings."""
    if one.dtype == object:
        return np.array([left == right for left, right in zip(one, other, strict=True)], bool)
    return np.array([left.tobytes() == right.tobytes() for left, right in zip(one, other, strict=True)], bool)
