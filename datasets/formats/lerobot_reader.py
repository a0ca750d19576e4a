"""Import data sets in LeRobot's layout v3.0 (github.com/huggingface/lerobot); lerobot.py says what lies where, and writes it.

    DIR/meta/info.json                                    features, frames per second, patterns of the paths below
    DIR/meta/episodes/chunk-000/file-000.parquet          where each episode's rows and pictures are
    DIR/data/chunk-000/file-000.parquet                   one row per step
    DIR/videos/<feature>/chunk-000/file-000.mp4           the pictures of many episodes, one after another

    feature                                     leaf
    observation.state, observation.<name>       state, <name>
    observation.image, observation.images.<name>    image, <name>: files inside the Parquet, or frames of a video
    the step's task, where there are several    task: text
    action, action.<name>                       action, action/<name>
    next.reward, next.success                   the rewards (0 where there are none), info["success"] of the last step

A data set with one observation, or one action, has no Dict around it. Pictures are fitted to `size`, or to the spaces that are
given. Actions get the bounds that they keep to, and a twentieth more: their bins are spread over what they use. The final
observation, the seed and how an episode ended are unknown, see importing.py, but where Calico wrote the data set itself.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from gymnasium import spaces
from PIL import Image

from ...tokenizers.budget import check_shape
from ...tokenizers.episode import Episode
from ...tokenizers.spaces import AnyText, is_image, is_text, leaf_spaces, space_from_json
from ..images import FORMATS as PICTURES
from ..images import MAX_PIXELS, seen
from ..records import require_text
from ..samples.video import FORMATS as VIDEOS
from ..samples.video import fitted
from ..sounds import first_stream
from .importing import ImportedEpisodes, Spaces, fitted_episode, guessed_space, reading, task_values
from .jat import to_array
from .lerobot import OWN_FILE, Layout
from .row_groups import read_group

TEXT = "task"            # leaf of the instruction
MARGIN = 0.05            # beyond the smallest and the largest action, of their distance
# str.format would fill in more than these, a billion spaces for instance.
PATTERN = re.compile(r"(?:[^{}]|\{video_key\}|\{(?:chunk|file)_index(?::0?\dd)?\})*")
NEEDED = ("episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index")


def read_lerobot(path: Path, name: str | None = None, both: Spaces | None = None, *,
                 size: int | None = None, hub: str | None = None) -> ImportedEpisodes:
    """Open a data set.

    Args:
        path: its folder.
        name: of the task; default: what Calico exported it with, else that on the Hub, else the folder's name.
        both: spaces of observations and actions; default: those that Calico exported it with, else those of its features.
        size: pixels on each side of a picture, which is cut around its middle; default: as it is.
        hub: owner/name[@revision] where the folder came from.
    Raises:
        ValueError: no such data set, one of another version, features that no space can hold.
        ImportError: PyAV is missing, and pictures are videos.
    """
    data = _DataSet.open(path)
    own = data.own_task()
    if own and both is None and size is None and name in (None, own["name"]):
        task, both = own, (space_from_json(own["observation_space"]), space_from_json(own["action_space"]))
        layout = Layout(*both)
        sources, texts = layout.sources, layout.texts
    elif both is not None:
        layout = Layout(*both)
        sources, texts = layout.sources, layout.texts
        task = _task(data, name, both, hub)
    else:
        sources = data.sources()
        both, texts = data.both_spaces(sources, size)
        task = _task(data, name, both, hub)
    if missing := sources.keys() - data.features.keys():
        raise ValueError(f"{path} has no feature {', '.join(sorted(missing))}, which the spaces ask for; it has "
                         f"{', '.join(sorted(data.features))}; import it under another task name to take its own")
    if len(texts) > 1:
        raise ValueError(f"{path}: LeRobot has one text per step, the spaces want {len(texts)}: {', '.join(texts)}")
    if any(data.features[feature]["dtype"] == "video" for feature in sources):
        _import_av()
    reader = _Reader(data, task["name"], both, sources, texts)
    readers = (partial(reader.episode, number) for number in range(len(data.episodes)))
    return ImportedEpisodes(task=task, readers=readers, total=len(data.episodes))


def _task(data: "_DataSet", name: str | None, both: Spaces, hub: str | None) -> dict[str, Any]:
    own = hub.partition("@")[0].rpartition("/")[2] if hub else data.folder.resolve().name
    unknown = ["seed", "final_observation", "terminated", *([] if "next.reward" in data.features else ["reward"])]
    return task_values(name or own, both, format="lerobot", fps=data.fps, unknown=unknown, **({"hub": hub} if hub else {}))


@dataclass(frozen=True, kw_only=True)
class _DataSet:
    """What meta/ says.

    Attributes:
        features: name -> dtype, shape, names.
        episodes: rows of meta/episodes, in their order.
        tasks: task_index -> text.
        starts: (chunk, file) of data/ -> the `index` of its first row.
    """

    folder: Path
    fps: float
    features: dict[str, dict[str, Any]]
    episodes: list[dict[str, Any]]
    tasks: dict[int, str]
    patterns: dict[str, str]
    starts: dict[tuple[int, int], int] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> "_DataSet":
        """Read meta/ and check it."""
        about = folder / "meta" / "info.json"
        if not about.is_file():
            raise ValueError(f"{folder} is no LeRobot data set (no meta/info.json); give its folder, or owner/name of the Hub")
        with reading(str(folder / "meta")):
            info = json.loads(about.read_text(encoding="utf-8"))
            version = require_text(info["codebase_version"], "codebase_version")
            if not version.startswith("v3."):
                raise ValueError(f"its layout is {version}, v3.0 is read; lerobot.datasets.v30.convert_dataset_v21_to_v30 of "
                                 "LeRobot converts it")
            fps, features = float(info["fps"]), dict(info["features"])
            if not 0 < fps < 1e6:
                raise ValueError(f"fps is {fps:g}; it must be more than 0")
            for feature, described in features.items():
                shape = described["shape"]
                if not isinstance(shape, list) or not all(isinstance(side, int) and side >= 0 for side in shape):
                    raise ValueError(f"feature {feature} has the shape {shape!r}, a list of whole numbers is expected")
                check_shape(shape, np.float64, f"feature {feature}")
                require_text(described["dtype"], f"dtype of {feature}")
            episodes = sorted(_rows_below(folder / "meta" / "episodes"), key=lambda row: int(row["episode_index"]))
            if missing := [key for key in NEEDED for row in episodes[:1] if key not in row]:
                raise ValueError(f"meta/episodes has no {' and no '.join(missing)}")
            starts: dict[tuple[int, int], int] = {}
            for row in episodes:
                place = row["data/chunk_index"], row["data/file_index"]
                starts[place] = min(starts.get(place, row["dataset_from_index"]), row["dataset_from_index"])
            patterns = {key: str(info.get(key) or "") for key in ("data_path", "video_path")}
            for key, pattern in patterns.items():
                if not PATTERN.fullmatch(pattern):
                    raise ValueError(f"{key} is {pattern[:80]!r}; text with {{video_key}}, {{chunk_index:03d}} and "
                                     "{file_index:03d} is expected")
            return cls(folder=folder, fps=fps, features=features, episodes=episodes, tasks=_tasks(folder), patterns=patterns,
                       starts=starts)

    def own_task(self) -> dict[str, Any] | None:
        """The writer's `task` where Calico exported the data set."""
        path = self.folder / "meta" / OWN_FILE
        if not path.is_file():
            return None
        with reading(str(path)):
            task: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["task"]
            require_text(task["name"], "name")
            return task

    def file(self, pattern: str, chunk: int, file: int, feature: str = "") -> Path:
        """A file of data/ or videos/; ValueError where its name leads out of the data set."""
        name = self.patterns[pattern].format(video_key=feature, chunk_index=chunk, file_index=file)
        path = self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()) and not path.is_symlink():   # the Hub's cache links files
            raise ValueError(f"{pattern} {name!r} lies outside of {self.folder}")
        return path

    def sources(self) -> dict[str, tuple[str, str]]:
        """feature -> ("observation" or "action", leaf), of all that can be observed or done."""
        found: dict[str, tuple[str, str]] = {}
        for side in ("observation", "action"):
            names = [name for name in sorted(self.features) if name == side or name.startswith(f"{side}.")]
            short = [name.removeprefix(f"{side}.").removeprefix("images.") for name in names]
            for name, leaf in zip(names, short, strict=True):
                if short.count(leaf) > 1 or "/" in leaf or leaf == TEXT:
                    leaf = name.removeprefix(f"{side}.").replace("/", ".")
                found[name] = side, leaf
            if not names:
                raise ValueError(f"{self.folder} has no feature {side} and no {side}.<name>; it has "
                                 f"{', '.join(sorted(self.features))}")
        return found

    def both_spaces(self, sources: dict[str, tuple[str, str]], size: int | None) -> tuple[Spaces, list[str]]:
        """The spaces of the features, and the leaf of the text if there is one; a leaf that stands alone becomes ""."""
        parts: dict[str, dict[str, spaces.Space[Any]]] = {"observation": {}, "action": {}}
        for name, (side, leaf) in sources.items():
            parts[side][leaf] = self._space(name, side, size)
        texts = [TEXT] if len(self.tasks) > 1 else []
        parts["observation"].update({leaf: AnyText() for leaf in texts})
        for side, leaves in parts.items():
            if len(leaves) == 1:
                for name in [name for name, (where, _) in sources.items() if where == side]:
                    sources[name] = side, ""
        made = [next(iter(leaves.values())) if len(leaves) == 1 else spaces.Dict(leaves) for leaves in parts.values()]
        return (made[0], made[1]), texts

    def _space(self, name: str, side: str, size: int | None) -> spaces.Space[Any]:
        described = self.features[name]
        shape = tuple(described["shape"])
        if described["dtype"] in ("image", "video"):
            height, width, channels = picture_shape(shape, described.get("names"))
            return spaces.Box(0, 255, (size or height, size or width, channels if size is None else 3), np.uint8)
        if described["dtype"] == "string":
            return AnyText()
        try:
            dtype = np.dtype(described["dtype"])
        except TypeError:
            raise ValueError(f"feature {name} has the dtype {described['dtype']!r}, which is none of numbers, pictures and "
                             "texts") from None
        dtype = np.dtype(np.float32) if dtype == np.float16 else dtype
        if side == "observation" and dtype.kind == "f":
            return spaces.Box(-np.inf, np.inf, shape, dtype.type)
        low, high = self._range(name, shape)
        if dtype.kind == "f" and (low < -1).any() | (high > 1).any():
            spread = MARGIN * np.maximum(high - low, 1e-6)
            return spaces.Box((low - spread).astype(dtype), (high + spread).astype(dtype), shape, dtype.type)
        return guessed_space(dtype, shape if shape != (1,) or dtype.kind == "f" else (), float(low.min(initial=0)),
                             float(high.max(initial=0)))

    def _range(self, name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest finite value of each element of a feature, over all rows: (*shape) twice."""
        low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
        for chunk, file in self.starts:
            path = self.file("data_path", chunk, file)
            with reading(str(path)):
                opened = pq.ParquetFile(path)
                for group in range(opened.metadata.num_row_groups):
                    values = numbers(read_group(opened, group, [name]), name, shape).astype(np.float64)
                    inside = np.isfinite(values)
                    low = np.minimum(low, np.where(inside, values, np.inf).min(0, initial=np.inf))
                    high = np.maximum(high, np.where(inside, values, -np.inf).max(0, initial=-np.inf))
        empty = low > high
        return np.where(empty, 0.0, low), np.where(empty, 0.0, high)


def _rows_below(folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of all Parquet files, without their statistics."""
    files = sorted(folder.glob("*/*.parquet"))
    if not files:
        raise ValueError(f"{folder.name}/ holds no chunk-000/file-000.parquet")
    for path in files:
        file = pq.ParquetFile(path)
        names = [name for name in file.schema_arrow.names if not name.startswith("stats/")]
        for group in range(file.metadata.num_row_groups):
            yield from read_group(file, group, names).to_pylist()


def _tasks(folder: Path) -> dict[int, str]:
    """task_index -> text: a table of pandas, whose index is the text."""
    file = pq.ParquetFile(folder / "meta" / "tasks.parquet")
    found: dict[int, str] = {}
    for group in range(file.metadata.num_row_groups):
        table = read_group(file, group)
        (texts,) = [name for name in table.column_names if name != "task_index"]
        found |= dict(zip(table["task_index"].to_pylist(), map(str, table[texts].to_pylist()), strict=True))
    return found


def picture_shape(shape: Sequence[int], names: Any) -> tuple[int, int, int]:
    """(height, width, channels) of a picture, which LeRobot may describe with its channels first.

    Raises:
        ValueError: it has no three sides, or no one, three or four channels.
    """
    first = isinstance(names, list) and names[:1] in (["channels"], ["channel"], ["c"])
    if len(shape) == 3 and (first or (names is None and shape[0] in (1, 3) and shape[2] > 4)):
        shape = (shape[1], shape[2], shape[0])
    if len(shape) != 3 or not 1 <= shape[2] <= 4:
        raise ValueError(f"pictures of the shape {list(shape)}; expected height, width and up to four channels")
    return shape[0], shape[1], shape[2]


def numbers(table: pa.Table, name: str, shape: Sequence[int]) -> np.ndarray:
    """A column as an array (rows, *shape)."""
    if name not in table.column_names:
        raise ValueError(f"there is no column {name}")
    values = to_array(table[name].combine_chunks())
    return values.reshape(len(values), *shape) if values.dtype != object else values


class _Reader:
    """Episodes of one data set, one after another; the row group of the last one is kept for the next."""

    def __init__(self, data: _DataSet, name: str, both: Spaces, sources: Mapping[str, tuple[str, str]],
                 texts: Sequence[str]) -> None:
        self.data, self.name, self.both, self.sources, self.texts = data, name, both, sources, texts
        self.leaves = {"observation": leaf_spaces(both[0]), "action": leaf_spaces(both[1])}
        self._kept: tuple[tuple[int, int, int], pa.Table] | None = None

    def episode(self, number: int) -> Episode:
        """The episode at a place of meta/episodes.

        Raises:
            ValueError: it cannot be read; names the data set and the episode.
        """
        about = self.data.episodes[number]
        where = f"{self.data.folder}, episode {about['episode_index']}"
        with reading(where):
            rows, steps = self._rows(about), int(about["length"])
            if len(rows) != steps or set(rows["episode_index"].to_pylist()) - {about["episode_index"]}:
                raise ValueError(f"{len(rows)} rows, of which some may be another episode's; meta/episodes says {steps} steps")
            values: dict[str, dict[str, Any]] = {"observation": {}, "action": {}}
            for feature, (side, leaf) in self.sources.items():
                values[side][leaf] = self._values(feature, self.leaves[side][leaf], rows, about)
            told = [self.data.tasks[index] for index in rows["task_index"].to_pylist()]
            for leaf in self.texts:
                values["observation"][leaf] = told
            features = self.data.features
            rewards = numbers(rows, "next.reward", ()) if "next.reward" in features else np.zeros(steps)
            info = {"success": bool(numbers(rows, "next.success", ())[-1])} if "next.success" in features else {}
            own = json.loads(about["calico/info"]) if about.get("calico/info") else {}
            seed = about.get("calico/seed")
            marks = numbers(rows, "demonstrated", ()) if "demonstrated" in features else None
            return fitted_episode(
                where, self.both, task=self.name, seed=number if seed is None else int(seed),
                observations=values["observation"], actions=values["action"], rewards=rewards, demonstrated=marks,
                terminated=bool(about.get("calico/terminated", False)), truncated=bool(about.get("calico/truncated", True)),
                info={**info, **own})

    def _rows(self, about: Mapping[str, Any]) -> pa.Table:
        """An episode's rows of data/."""
        place = about["data/chunk_index"], about["data/file_index"]
        path = self.data.file("data_path", *place)
        start = about["dataset_from_index"] - self.data.starts[place]
        stop, parts, first = start + about["length"], [], 0
        with reading(str(path)):
            file = pq.ParquetFile(path)
            columns = [name for name in (*self.sources, "next.reward", "next.success", "demonstrated", "episode_index",
                                         "task_index") if name in file.schema_arrow.names]
            for group in range(file.metadata.num_row_groups):
                last = first + file.metadata.row_group(group).num_rows
                if first < stop and last > start:
                    key = (*place, group)
                    if self._kept is None or self._kept[0] != key:
                        self._kept = key, read_group(file, group, columns)
                    parts.append(self._kept[1].slice(max(start - first, 0), min(stop, last) - max(start, first)))
                first = last
            if not parts:
                raise ValueError(f"it has {first} rows; the episode's begin at {start}")
            return pa.concat_tables(parts)

    def _values(self, feature: str, space: spaces.Space[Any], rows: pa.Table, about: Mapping[str, Any]) -> Any:
        described = self.data.features[feature]
        if described["dtype"] not in ("image", "video"):
            return numbers(rows, feature, () if is_text(space) else space.shape or ())
        assert space.shape is not None
        check_shape((len(rows), *space.shape), np.uint8, f"{feature} of {len(rows)} steps")
        if not is_image(space):
            raise ValueError(f"{feature} is a picture, the space that it is meant for is {space}")
        if described["dtype"] == "video":
            place = f"videos/{feature}"
            path = self.data.file("video_path", about[f"{place}/chunk_index"], about[f"{place}/file_index"], feature)
            return video_frames(path, float(about[f"{place}/from_timestamp"]), len(rows), self.data.fps, space.shape)
        return np.stack([as_shaped(one["bytes"], space.shape) for one in rows[feature].to_pylist()])


def as_shaped(data: bytes | None, shape: tuple[int, ...]) -> np.ndarray:
    """A picture's file as uint8 of a space's shape, resized where it has another."""
    if data is None:
        raise ValueError("a picture that is kept elsewhere")
    with Image.open(io.BytesIO(data), formats=PICTURES) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"a picture of {image.width} x {image.height} pixels, the limit is {MAX_PIXELS}")
        if image.mode in ("L", "LA", "RGB", "RGBA"):
            pixels = np.asarray(image)
            if pixels.size == np.prod(shape) and pixels.shape[:2] == shape[:2]:
                return pixels.reshape(shape)
        return _resized(Image.fromarray(seen(image)), shape)      # 16 bits, for instance, or transparent


def _resized(picture: Image.Image, shape: tuple[int, ...]) -> np.ndarray:
    made = fitted(picture, (shape[0], shape[1]))
    if (*shape, 1)[2] == 1:
        made = np.asarray(Image.fromarray(made).convert("L")).reshape(shape)
    if made.shape != shape:
        raise ValueError(f"pictures of the shape {shape}, which is neither grey nor colour")
    return made


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError('pictures that are videos need PyAV; run: pip install "calico-agent[media]"') from error
    return av


def video_frames(path: Path, start: float, count: int, fps: float, shape: tuple[int, ...]) -> np.ndarray:
    """Frames of a video at start, start + 1 / fps, ... seconds, the nearest to each.

    Returns:
        uint8 (count, *shape).
    Raises:
        ValueError: no readable video; no picture within half a frame of a time.
    """
    av, frames = _import_av(), np.empty((count, *shape), np.uint8)
    wanted, taken = start + np.arange(count) / fps, 0
    try:
        with av.open(str(path), options={"format_whitelist": VIDEOS}) as container:
            stream = first_stream(container.streams.video, "there are no pictures in it")
            if stream.width * stream.height > MAX_PIXELS:
                raise ValueError(f"its pictures have {stream.width} x {stream.height} pixels, the limit is {MAX_PIXELS}")
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            if start > 0:
                container.seek(int(start / stream.time_base), stream=stream)      # to the key frame before it
            before: Any = None

            def show(frame: Any, until: float) -> int:
                """How many wanted times are taken when `frame` is shown until a time."""
                done = taken
                pixels = None
                while done < count and wanted[done] < until:
                    if abs(frame.time - wanted[done]) > 0.5 / fps + 1e-6:
                        raise ValueError(f"no picture at {wanted[done]:.3f} s; the nearest is at {frame.time:.3f} s")
                    if pixels is None:
                        pixels = _shaped(frame, shape)
                    frames[done] = pixels
                    done += 1
                return done

            for frame in container.decode(video=0):
                if frame.time is None:
                    continue
                if before is not None:
                    taken = show(before, (before.time + frame.time) / 2)
                before = frame
                if taken == count:
                    return frames
            if before is not None:
                taken = show(before, np.inf)
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"{path}: not a readable video ({getattr(error, 'strerror', None) or error})") from None
    if taken < count:
        raise ValueError(f"{path}: not a readable video (no frames)")
    return frames


def _shaped(frame: Any, shape: tuple[int, ...]) -> np.ndarray:
    if (frame.height, frame.width) == shape[:2] and shape[2:] == (3,):
        pixels: np.ndarray = frame.to_ndarray(format="rgb24")
        return pixels
    return _resized(frame.to_image(), shape)
