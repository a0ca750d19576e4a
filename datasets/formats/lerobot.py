"""Export to LeRobot's layout v3.0 (github.com/huggingface/lerobot), which its LeRobotDataset opens as it is.

    DIR/<name>/data/chunk-000/file-000.parquet             one row per step, one row group per episode
    DIR/<name>/meta/episodes/chunk-000/file-000.parquet    one row per episode: its steps and where they are
    DIR/<name>/meta/tasks.parquet, info.json, stats.json   texts, features, normalisation
    DIR/<name>/meta/calico.json                            the writer's `task`, for who imports it again (lerobot_reader.py)

    leaf                                      feature
    observation, observation/<leaf>           observation.state, observation.<leaf>
    images (spaces.is_image)                  observation.image, observation.images.<leaf>: PNG files inside the Parquet
    text that is observed                     the step's task: LeRobot's policies take their instruction from there
    action, action/<leaf>                     action, action.<leaf>
    reward, end of the episode, demonstrated  next.reward, next.done, demonstrated

LeRobot keeps no final observation and counts in seconds, which Calico's steps do not have: `fps` is a number for its clock,
the environment's own frames per second where they are known. It does not tell terminated from truncated either: that, the seed
and `info` are columns of meta/episodes, calico/<name>, which LeRobot passes over.
"""

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from gymnasium import spaces
from PIL import Image

from ...tokenizers.episode import Episode
from ...tokenizers.spaces import is_image, is_text, leaf_spaces, space_from_json
from ..publish import plain_name, whole_folder
from .parquet_part import plain_json

FPS = 10                   # where nobody knows
FILE_BYTES = 100 << 20     # a new data file from here on (uncompressed); LeRobot's own limit is 100 MB
FILES_PER_CHUNK = 1000
OWN_FILE = "calico.json"   # in meta/
PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
COUNTERS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_lerobot(root: Path, task: Mapping[str, Any], episodes: Iterable[Episode], fps: int = FPS) -> Path:
    """Write episodes as `root / <name of the task, "/" as "-">`; it appears whole or not at all.

    Args:
        task: a reader's `task`, which holds the spaces.
        fps: steps per second of LeRobot's clock.
    Returns:
        The data set's folder, for `LeRobotDataset(name, root=folder)`.
    Raises:
        ValueError: it is there already, `task` has no spaces, an action is text.
    """
    folder = root / plain_name(task["name"])
    if folder.exists():
        raise ValueError(f"{folder} is there already; choose another --out, or remove it")
    if not {"observation_space", "action_space"} <= task.keys():
        raise ValueError(f"the episodes of {task['name']} come without their spaces, which tell pictures from states")
    layout = Layout(space_from_json(task["observation_space"]), space_from_json(task["action_space"]))
    with whole_folder(folder) as temporary:
        writer = _Writer(temporary, task["name"], layout, fps)
        for episode in episodes:
            writer.append(episode)
        writer.close()
        (temporary / "meta" / OWN_FILE).write_text(json.dumps({"task": json.loads(plain_json(dict(task), "task"))}, indent=1))
    return folder


class Layout:
    """Which leaf becomes which feature.

    Attributes:
        features: name -> what info.json says of it: dtype, shape, names.
        sources: feature -> ("observation" or "action", leaf).
        texts: observed leaves that are text.
    """

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.features: dict[str, dict[str, Any]] = {}
        self.sources: dict[str, tuple[str, str]] = {}
        self.texts: list[str] = []
        for side, space in (("observation", observation), ("action", action)):
            for leaf, part in leaf_spaces(space).items():
                if is_text(part):
                    if side == "action":
                        raise ValueError(f"the action {leaf!r} is text, which LeRobot's data sets do not know")
                    self.texts.append(leaf)
                elif part.shape is not None and 0 not in part.shape:   # no numbers at all: nothing to keep
                    self._add(side, leaf, part)
        for name, dtype in {"next.reward": "float32", "next.done": "bool", "demonstrated": "bool", **COUNTERS}.items():
            self.features[name] = {"dtype": dtype, "shape": [1], "names": None}

    def _add(self, side: str, leaf: str, space: spaces.Space[Any]) -> None:
        inner = leaf.replace("/", ".")
        described: dict[str, Any]
        if side == "observation" and is_image(space):
            assert space.shape is not None
            name = f"observation.images.{inner}" if leaf else "observation.image"
            described = {"dtype": "image", "shape": [*space.shape[:2], (*space.shape, 1)[2]],
                         "names": ["height", "width", "channels"]}
        else:
            name = f"{side}.{inner}" if leaf else {"observation": "observation.state", "action": "action"}[side]
            described = {"dtype": str(space.dtype), "shape": list(space.shape or (1,)), "names": None}
        self.features[name], self.sources[name] = described, (side, leaf)

    def schema(self) -> pa.Schema:
        """Arrow types: numbers as they are, arrays as nested lists, pictures as Hugging Face's Image."""
        def column(described: dict[str, Any]) -> pa.DataType:
            if described["dtype"] == "image":
                return PICTURE
            kind = pa.from_numpy_dtype(np.dtype(described["dtype"]))
            if described["shape"] == [1]:
                return kind
            for side in reversed(described["shape"]):
                kind = pa.list_(kind, side) if len(described["shape"]) == 1 else pa.list_(kind)
            return kind
        return pa.schema([(name, column(described)) for name, described in self.features.items()])


class Statistics:
    """Smallest, largest, mean and standard deviation of a feature, episode by episode (Chan et al., 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.low: Any = np.inf
        self.high: Any = -np.inf
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    def add(self, values: np.ndarray) -> None:
        """values (rows, ...)"""
        values = values.astype(np.float64)
        count, mean = len(values), values.mean(0)
        total, apart = self.count + count, mean - self.mean
        self.squares = self.squares + ((values - mean) ** 2).sum(0) + apart**2 * self.count * count / total
        self.mean = self.mean + apart * count / total
        self.low, self.high, self.count = np.minimum(self.low, values.min(0)), np.maximum(self.high, values.max(0)), total

    def to_json(self, shape: Sequence[int]) -> dict[str, Any]:
        """As stats.json has them: lists of the feature's shape."""
        found = {"min": self.low, "max": self.high, "mean": self.mean, "std": np.sqrt(self.squares / max(self.count, 1))}
        return {**{name: np.reshape(value, shape).tolist() for name, value in found.items()}, "count": [self.count]}


class _Writer:
    """The files of one data set, while they are being written."""

    def __init__(self, folder: Path, name: str, layout: Layout, fps: int) -> None:
        self.folder, self.name, self.layout, self.schema, self.fps = folder, name, layout, layout.schema(), fps
        self.tasks: dict[str, int] = {}
        self.rows: list[dict[str, Any]] = []          # of meta/episodes
        self.statistics = {name: Statistics() for name in layout.features}
        self.frames, self.files, self.written = 0, 0, 0
        self.file: pq.ParquetWriter | None = None

    def append(self, episode: Episode) -> None:
        steps, number = len(episode), len(self.rows)
        if not steps:
            raise ValueError(f"episode {number} (seed {episode.seed}) has no steps, which LeRobot cannot keep")
        told = [episode.observations[leaf][:steps] for leaf in self.layout.texts]
        texts = [" ".join(parts) for parts in zip(*told, strict=True)] or [self.name] * steps
        for text in texts:
            self.tasks.setdefault(text, len(self.tasks))
        frame = np.arange(steps)
        values = {
            "next.reward": episode.rewards.astype(np.float32), "next.done": frame == steps - 1,
            "demonstrated": episode.demonstrated, "timestamp": (frame / self.fps).astype(np.float32), "frame_index": frame,
            "episode_index": np.full(steps, number), "index": self.frames + frame,
            "task_index": np.array([self.tasks[text] for text in texts]),
        }
        for name, (side, leaf) in self.layout.sources.items():
            values[name] = (episode.observations if side == "observation" else episode.actions)[leaf][:steps]
        arrays = [self._column(name, values[name]) for name in self.schema.names]
        table = pa.Table.from_arrays(arrays, schema=self.schema)
        if self.file is None or self.written > FILE_BYTES:
            self._next_file()
        assert self.file is not None
        self.file.write_table(table, row_group_size=steps)
        self.written += table.nbytes
        chunk, file = divmod(self.files - 1, FILES_PER_CHUNK)
        self.rows.append({
            "episode_index": number, "tasks": list(dict.fromkeys(texts)), "length": steps, "data/chunk_index": chunk,
            "data/file_index": file, "dataset_from_index": self.frames, "dataset_to_index": self.frames + steps,
            "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0, "calico/seed": episode.seed,
            "calico/terminated": episode.terminated, "calico/truncated": episode.truncated,
            "calico/info": plain_json(episode.info, "info")})
        self.frames += steps

    def _column(self, name: str, values: np.ndarray) -> pa.Array:
        described = self.layout.features[name]
        if described["dtype"] == "image":
            # Of every pixel, channel by channel: LeRobot hands pictures out as (channels, height, width) in [0, 1].
            for start in range(0, len(values), 256):
                self.statistics[name].add(values[start : start + 256].reshape(-1, described["shape"][2]) / 255)
            return pa.array([{"bytes": png(frame), "path": None} for frame in values], PICTURE)
        self.statistics[name].add(values.reshape(len(values), *described["shape"]))
        rows = values.reshape(len(values)) if described["shape"] == [1] else values      # a column of numbers, not of lists
        return pa.array(rows.tolist(), self.schema.field(name).type)

    def _next_file(self) -> None:
        if self.file is not None:
            self.file.close()
        chunk, file = divmod(self.files, FILES_PER_CHUNK)
        path = self.folder / "data" / f"{PLACE.format(chunk_index=chunk, file_index=file)}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file, self.written, self.files = pq.ParquetWriter(str(path), self.schema), 0, self.files + 1

    def close(self) -> None:
        if self.file is None:
            raise ValueError("there is no episode to write")
        self.file.close()
        meta = self.folder / "meta"
        episodes = meta / "episodes" / f"{PLACE.format(chunk_index=0, file_index=0)}.parquet"
        episodes.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self.rows), episodes)
        pq.write_table(indexed_tasks(self.tasks), meta / "tasks.parquet")
        stats = {name: self.statistics[name].to_json((-1, 1, 1) if described["dtype"] == "image" else described["shape"])
                 for name, described in self.layout.features.items()}
        info = {
            "codebase_version": "v3.0", "robot_type": None, "fps": self.fps, "features": self.layout.features,
            "total_episodes": len(self.rows), "total_frames": self.frames, "total_tasks": len(self.tasks),
            "chunks_size": FILES_PER_CHUNK, "data_files_size_in_mb": math.ceil(FILE_BYTES / 1e6), "video_files_size_in_mb": 200,
            "splits": {"train": f"0:{len(self.rows)}"}, "data_path": f"data/{PLACE}.parquet", "video_path": None}
        for name, values in (("stats", stats), ("info", info)):
            (meta / f"{name}.json").write_text(json.dumps(values, indent=1, allow_nan=False))


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 (height, width[, channels]), up to four channels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def indexed_tasks(tasks: Mapping[str, int]) -> pa.Table:
    """A table that pandas reads with the texts as its index, as LeRobot expects."""
    index = {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    number = {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    described = {"index_columns": ["task"], "column_indexes": [], "columns": [number, index], "pandas_version": "2.0.0"}
    table = pa.table({"task_index": pa.array(tasks.values(), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(described)})
