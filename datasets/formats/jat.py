"""Import JAT's episodes (Gallouédec et al., arXiv:2402.09844): Parquet, one row per episode, one list per column.

    PATH/train-00000-of-00003-....parquet, PATH/test-....parquet     one folder per task, as in jat-project/jat-dataset

    continuous_observations, discrete_observations, image_observations, text_observations    those that the task has
    continuous_actions or discrete_actions, rewards

Lists hold a step's number, list of numbers, text, or picture (Hugging Face's Image: a struct of `bytes` and `path`). A
file holds as many observations as actions: the final one, how the episode ended and its seed are unknown, see importing.py.
Several columns of observations become a Dict space with the keys "continuous", "discrete", "image", "text".
"""

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from gymnasium import spaces
from PIL import Image

from ...tokenizers.episode import Episode
from ...tokenizers.spaces import AnyText
from ..images import FORMATS, MAX_PIXELS
from .importing import ImportedEpisodes, Spaces, finite_range, fitted_episode, guessed_space, reading, task_values
from .row_groups import check_repeats

OBSERVATIONS = ("continuous_observations", "discrete_observations", "image_observations", "text_observations")
ACTIONS = ("continuous_actions", "discrete_actions")


def read_jat(path: Path, name: str | None = None, both: Spaces | None = None) -> ImportedEpisodes:
    """Open one task's episodes.

    Args:
        path: the task's folder, or one of its files.
        name: of the task; default: the folder's name, or the file's.
        both: spaces of observations and actions; default: guessed from the values.
    Raises:
        ValueError: no Parquet there, columns that are not JAT's, files that differ in them.
    """
    files = parquet_files(path)
    columns = jat_columns(files)
    if both is None:
        both = join_spaces(files, columns[0]), join_spaces(files, columns[1])
    name = name or path.stem
    total = sum(pq.ParquetFile(file).metadata.num_rows for file in files)
    task = task_values(name, both, format="jat", files=[file.name for file in files],
                       unknown=["seed", "final_observation", "terminated"])
    rows = enumerate(rows_of(files, [*columns[0], *columns[1], "rewards"]))
    readers = (partial(_episode, f"{file}, row {row}", name, both, columns, number, file.name, values)
               for number, (file, row, values) in rows)
    return ImportedEpisodes(task=task, readers=readers, total=total)


def parquet_files(path: Path) -> list[Path]:
    """The file, or all of a task's folder, in the order of their names."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path} does not exist; give a task's folder of Parquet files")
    files = sorted(path.glob("*.parquet")) or sorted([*path.glob("train/*.parquet"), *path.glob("test/*.parquet")])
    if not files:
        inner = next((file.parent for file in sorted(path.glob("*/*.parquet"))), None)
        raise ValueError(f"{path} holds no .parquet file; give one task's folder{f', such as {inner}' if inner else ''}")
    return files


def jat_columns(files: list[Path]) -> tuple[list[str], list[str]]:
    """Columns of the observations and of the actions."""
    first: tuple[list[str], list[str]] | None = None
    for file in files:
        with reading(str(file)):
            names = pq.ParquetFile(file).schema_arrow.names
        found = [n for n in OBSERVATIONS if n in names], [n for n in ACTIONS if n in names]
        if not all(found) or "rewards" not in names:
            raise ValueError(f"{file} has the columns {', '.join(names)}; JAT's episodes have rewards, at least one of "
                             f"{', '.join(OBSERVATIONS)} and one of {', '.join(ACTIONS)}")
        if first and found != first:
            raise ValueError(f"{file} has {', '.join(sum(found, []))} but {files[0].name} has {', '.join(sum(first, []))}; "
                             f"give one task's folder")
        first = found
    assert first is not None
    return first


def leaf_name(column: str, columns: list[str]) -> str:
    """ "image" for image_observations among others, "" for the only column."""
    return column.partition("_")[0] if len(columns) > 1 else ""


def join_spaces(files: list[Path], columns: list[str]) -> spaces.Space[Any]:
    """The space of some columns, guessed from all their values."""
    parts = {leaf_name(column, columns): column_space(files, column) for column in columns}
    return spaces.Dict(parts) if len(columns) > 1 else parts[""]


def column_space(files: list[Path], column: str) -> spaces.Space[Any]:
    """The space of one column; of pictures, text and observed floats only the first episode is read for it."""
    low, high, first, wrong = 0.0, 0.0, None, None
    for file, row, values in rows_of(files, [column]):
        try:
            with reading(f"{file}, row {row}, {column}"):
                array = to_array(values[column].values)
        except ValueError as error:                      # it is left out, see importing.py
            wrong = wrong or error
            continue
        if not len(array):
            continue
        first = array if first is None else first
        if array.dtype == object or (array.dtype == np.uint8 and array.ndim > 2):
            break
        if column in OBSERVATIONS and array.dtype.kind == "f":
            low, high = -np.inf, np.inf
            break
        ends = finite_range(array)
        low, high = min(low, ends[0]), max(high, ends[1])
    if first is None and wrong is not None:
        raise wrong
    if first is None:
        raise ValueError(f"{files[0]} holds no episode")
    return AnyText() if first.dtype == object else guessed_space(first.dtype, first.shape[1:], low, high)


def is_list(kind: pa.DataType) -> bool:
    """Whether values of this type are lists, of whichever of Arrow's kinds."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def to_array(values: pa.Array) -> np.ndarray:
    """Nested lists as an array (len, ...); pictures as uint8 (len, height, width[, channels]), text as objects.

    Raises:
        ValueError: null values, lists or pictures of several sizes, a type that JAT does not have.
    """
    if values is None or values.null_count:
        raise ValueError("null instead of a list" if values is None else f"{values.null_count} null values")
    if is_list(values.type):
        inner = to_array(values.flatten())
        if len(values) and len(lengths := pc.unique(pc.list_value_length(values))) > 1:
            raise ValueError(f"lists of {len(lengths)} different lengths")
        return inner.reshape(len(values), len(inner) // max(len(values), 1), *inner.shape[1:])
    if pa.types.is_struct(values.type) and values.type.get_field_index("bytes") >= 0:
        return np.stack([picture(data) for data in values.field("bytes").to_pylist()])
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return np.array([*values.to_pylist(), None], object)[:-1]
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type):
        array = values.to_numpy(zero_copy_only=False)
        return array.astype(np.float32) if array.dtype == np.float16 else array      # no space of ours has half floats
    raise ValueError(f"values of type {values.type}")


def picture(data: bytes | None) -> np.ndarray:
    """uint8 (height, width[, channels]), the channels as they are: JAT keeps four grey frames as RGBA."""
    if data is None:
        raise ValueError("a picture that is kept elsewhere")
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, the limit is {MAX_PIXELS}")
        return np.asarray(image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB"))


def rows_of(files: list[Path], columns: list[str]) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """(file, row, column -> its list) for every episode, read one by one: an Atari episode takes a hundred megabytes."""
    for file in files:
        with reading(str(file)):
            row = 0
            opened = pq.ParquetFile(file)
            check_repeats(opened, columns)
            for batch in opened.iter_batches(batch_size=1, columns=columns):
                for values in zip(*(batch.column(column) for column in columns), strict=True):
                    yield file, row, dict(zip(columns, values, strict=True))
                    row += 1


def _episode(where: str, name: str, both: Spaces, columns: tuple[list[str], list[str]], number: int, file: str,
             values: dict[str, Any]) -> Episode:
    with reading(where):
        leaves = [{leaf_name(column, side): to_array(values[column].values) for column in side} for side in columns]
        return fitted_episode(where, both, task=name, seed=number, observations=leaves[0], actions=leaves[1],
                              rewards=to_array(values["rewards"].values), terminated=False, truncated=True, info={"file": file})
