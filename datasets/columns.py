"""Leaves of an episode as Parquet columns: NumPy arrays to Arrow and back, bit for bit.

    leaf, per timestep                     column
    number                                 the same number type
    array of numbers                       fixed-size list, row-major
    uint8 array of two or more axes        fixed-size binary: an image costs no list offsets and reads without copying
    str                                    string, read back as a dictionary
    array of no numbers, shape (..., 0)    no column; the sidecar's shape is enough
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..tokenizers.episode import Episode


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
        if not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError(f"shape {shape}")
        return Column(dtype, shape)


def leaf_columns(episode: Episode) -> dict[str, np.ndarray]:
    """Column name -> array of every observation and action leaf, sorted by name."""
    columns = {column_name("observation", leaf): np.asarray(v) for leaf, v in episode.observations.items()}
    columns |= {column_name("action", leaf): np.asarray(v) for leaf, v in episode.actions.items()}
    return dict(sorted(columns.items()))


def column_name(side: str, leaf: str) -> str:
    """`observation/image` for the leaf "image", `observation` for the only leaf of a plain space."""
    return f"{side}/{leaf}" if leaf else side


def padded(values: np.ndarray, rows: int, kind: pa.DataType) -> pa.Array:
    """A number column, null from the end of `values` to `rows`."""
    if len(values) == rows:
        return pa.array(values, kind)
    full = np.zeros(rows, values.dtype)
    full[: len(values)] = values
    return pa.array(full, kind, mask=np.arange(rows) >= len(values))


def column_array(column: Column, values: np.ndarray, rows: int) -> pa.Array:
    """A leaf as an Arrow column of `rows` rows, null where `values` has none (the action of the last row)."""
    if column.dtype == "str":
        return pa.array([*values.tolist(), *[None] * (rows - len(values))], pa.string())
    if not column.shape:
        return padded(values, rows, column.type)
    full = np.zeros((rows, column.size), column.dtype)
    full[: len(values)] = values.reshape(len(values), column.size)
    missing = np.arange(rows) >= len(values)
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
