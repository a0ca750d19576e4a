"""Episodes at rest: Parquet files that pandas, DuckDB and Hugging Face `datasets` open as they are, with sidecars.

    folder/part-00000.parquet     many episodes, one row per timestep
    folder/_part-00000.json       format version, task, package versions, columns, seeds, scores, SHA-256 of the part

An episode of T steps takes T + 1 rows: row t holds the observation before action t, that action and its reward. The
last row holds the final observation; its action, reward and `demonstrated` are null, and `terminated`/`truncated` tell
why it is the last. A row group never holds rows of two episodes; an episode of large frames takes several, so that a
window of it is read without the rest.

    column                            type
    observation, observation/<leaf>   number, fixed-size list, fixed-size binary or string: see columns.py
    action, action/<leaf>             the same
    label, label/<leaf>               the same, where actions were replaced: what the loss asks for, null where it is the action
    reward, demonstrated              double, bool
    terminated, truncated             bool, True at most in an episode's last row
    episode, seed, timestep           `episode` counts from 0 within its file

Sidecars start with "_" so that readers of whole folders (pandas, Spark) pass over them. A part counts once its sidecar
stands, which is written last: a killed writer leaves nothing that is half there. A part is compared with its SHA-256
when it is opened (a large one that has not changed since it was compared is believed, see formats/verified.py), and its pages
with their own checksums when they are read: damaged data is named and never used.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..tokenizers.episode import Episode
from ..tokenizers.spaces import space_from_json
from ..tokenizers.task import TaskCodec
from .byte_cache import UNLIMITED, ByteCache
from .columns import Column, action_name, column_array, is_label, label_array, leaf_columns, padded
from .formats.hub import local
from .formats.parquet_part import (
    FORMAT,
    PACKAGES,
    STEP_TYPES,
    Part,
    part_paths,
    plain_json,
    sidecar_digest,
    sidecar_path,
)
from .publish import (
    file_sha256,
    finish_publishing,
    flush,
    publish,
    publish_together,
    remove_leftovers,
    temporary_name,
    uninterrupted,
    versions,
    write_error,
)
from .reader import Reader, SourceOptions
from .sources import EpisodeSource, PromptConfig


class EpisodeWriter:
    """Write episodes of one task; use it as a context manager or call `close`.

    A folder gets a new part whenever the current one is full; several processes may write into one folder. A path that
    ends in .parquet is written as that one file, and an older one is replaced.

    Args:
        path: a folder (made if missing) or a .parquet file.
        task: plain JSON values that say where the episodes come from: at least `name`; put in the spaces (as
            `observation_space` and `action_space`), environment id, wrappers and view, expert, noise.
        part_bytes: start a new part once this much (uncompressed) is in the current one,
        part_seconds: or once it is this old; a process that is killed loses the part that it is writing.
        group_bytes: largest row group (uncompressed); longer episodes take several. 1 MiB: 85 frames of 64 x 64 RGB, and
            still all of a state task's episode. A row of 1,024 tokens needs 60 frames: with 4 MiB it read 2.4 times as
            much from the disk. Smaller ones save nothing more, and Parquet compresses pages of 1 MiB anyway.
    Raises:
        ValueError: `task` has no name or is not JSON; the path is a file of another kind.
    """

    def __init__(self, path: str | Path, task: Mapping[str, Any], *, part_bytes: int = 1 << 28,
                 part_seconds: float = math.inf, group_bytes: int = 1 << 20) -> None:
        self.path, self.task = Path(path), json.loads(plain_json(dict(task), "task"))
        if not isinstance(self.task.get("name"), str):
            raise ValueError(f"task needs the key 'name' (the registry's name of the task), got {sorted(self.task)}")
        self._single = self.path.suffix == ".parquet"
        if not self._single and self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is neither a folder nor a .parquet file; give a folder to write parts into")
        self._folder = self.path.parent if self._single else self.path
        self._part_bytes, self._part_seconds, self._group_bytes = part_bytes, part_seconds, group_bytes
        self._columns: dict[str, Column] = {}
        self._writer: pq.ParquetWriter | None = None
        self._temporary: Path | None = None
        self._closed = False
        self.parts: list[Path] = []      # finished so far

    def append(self, episode: Episode) -> None:
        """Write one episode to the current part.

        Raises:
            ValueError: another task, a leaf whose length, dtype or shape does not fit, the writer is closed.
            OSError: the disk is full; the unfinished part is dropped, finished parts stay.
        """
        if self._closed:
            raise ValueError(f"the writer of {self.path} is closed; make a new one to append more episodes")
        leaves = self._checked(episode)
        try:
            with uninterrupted():      # Ctrl-C between rows and their entry would make the whole part unreadable
                if self._writer is None:
                    self._start()
                self._write(episode, leaves)
                old = time.monotonic() - self._began >= self._part_seconds
                if (old or self._written >= self._part_bytes) and not self._single:
                    self._finish()
        except OSError as error:
            self._drop()
            raise write_error(self.path, error) from error

    def close(self) -> None:
        """Finish the current part; calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._writer is not None:
                with uninterrupted():
                    self._finish()
        except OSError as error:
            self._drop()
            raise write_error(self.path, error) from error

    def __enter__(self) -> "EpisodeWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        # Also after an error or Ctrl-C: the episodes that are complete are worth keeping.
        self.close()

    def _checked(self, episode: Episode) -> dict[str, np.ndarray]:
        if episode.task != self.task["name"]:
            raise ValueError(f"an episode of task {episode.task!r} was given to the writer of {self.task['name']!r} "
                             f"({self.path}); use one writer per task")
        steps, leaves = len(episode), leaf_columns(episode)
        for name, values in leaves.items():
            rows = steps + name.startswith("observation")
            if len(values) != rows:
                raise ValueError(f"{name} has {len(values)} rows in an episode of {steps} steps; expected {rows}")
        if episode.demonstrated.shape != (steps,):
            raise ValueError(f"demonstrated has shape {episode.demonstrated.shape} in an episode of {steps} steps")
        columns = {name: Column.of(name, values) for name, values in leaves.items()}
        for name in columns:
            if is_label(name) and columns[name] != columns.get(action_name(name)):
                action = action_name(name)
                raise ValueError(f"{name} is {columns[name]} in the episode with seed {episode.seed}, but {action} is "
                                 f"{columns.get(action)}; a label is an action")
        self._columns = self._columns or columns
        if columns != self._columns:
            name = next(n for n in sorted(columns | self._columns) if columns.get(n) != self._columns.get(n))
            raise ValueError(f"{name} is {columns.get(name)} in the episode with seed {episode.seed} but "
                             f"{self._columns.get(name)} in the episodes before it ({self.path})")
        return leaves

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._folder)
        if self._single:
            finish_publishing(self.path)
        self._temporary = temporary_name(self.path if self._single else self.path / "part.parquet")
        self._episodes: list[dict[str, Any]] = []
        self._written = 0
        self._began = time.monotonic()
        self._row_bytes = sum(c.width for c in self._columns.values()) + 32
        self._writer = pq.ParquetWriter(
            str(self._temporary), self._schema(), compression="zstd", write_page_checksum=True,
            use_dictionary=[n for n, c in self._columns.items() if c.dtype == "str"] + ["episode", "seed"],
            # Statistics of frames would put two whole frames per row group into the footer.
            write_statistics=["reward", "episode", "seed", "timestep"])

    def _schema(self) -> pa.Schema:
        kept = {name: column for name, column in self._columns.items() if column.size}
        fields = [pa.field(name, column.type, metadata={"dtype": column.dtype, "shape": json.dumps(column.shape)})
                  for name, column in kept.items()]
        fields += [pa.field(name, kind) for name, kind in STEP_TYPES.items()]
        described = {"format": self._format, "task": self.task}
        return pa.schema(fields, metadata={"calico": json.dumps(described)})

    def _write(self, episode: Episode, leaves: dict[str, np.ndarray]) -> None:
        assert self._writer is not None
        steps = len(episode)
        entry = {"length": steps, "seed": int(episode.seed), "score": episode.score,
                 "terminated": bool(episode.terminated), "truncated": bool(episode.truncated), "info": episode.info}
        entry = json.loads(plain_json(entry, f"info of the episode with seed {episode.seed}"))
        arrays = {n: label_array(c, leaves[n], leaves[action_name(n)], steps + 1) if is_label(n)
                  else column_array(c, leaves[n], steps + 1) for n, c in self._columns.items() if c.size}
        last = np.arange(steps + 1) == steps
        arrays |= {
            "reward": padded(episode.rewards.astype(np.float64), steps + 1, pa.float64()),
            "demonstrated": padded(episode.demonstrated.astype(bool), steps + 1, pa.bool_()),
            "terminated": pa.array(last & bool(episode.terminated)),
            "truncated": pa.array(last & bool(episode.truncated)),
            "episode": pa.array(np.full(steps + 1, len(self._episodes), np.int32)),
            "seed": pa.array(np.full(steps + 1, episode.seed, np.int64)),
            "timestep": pa.array(np.arange(steps + 1, dtype=np.int32)),
        }
        self._writer.write_table(pa.table(arrays, schema=self._schema()), row_group_size=self._rows_per_group)
        self._episodes.append(entry)
        self._written += self._row_bytes * (steps + 1)

    @property
    def _format(self) -> int:
        """The oldest version that can say it: a Calico that knows no labels would read the replaced actions as targets."""
        return FORMAT if any(map(is_label, self._columns)) else 1

    @property
    def _rows_per_group(self) -> int:
        return max(1, self._group_bytes // self._row_bytes)

    def _finish(self) -> None:
        assert self._writer is not None and self._temporary is not None
        self._writer.close()
        self._writer = None
        sidecar = {"format": self._format, "sha256": file_sha256(self._temporary), "rows_per_group": self._rows_per_group,
                   "columns": {n: {"dtype": c.dtype, "shape": list(c.shape)} for n, c in self._columns.items()},
                   "task": self.task, "versions": versions(PACKAGES), "episodes": self._episodes}
        # Both files are whole on the disk before either gets its name, so that little time lies between the names.
        written = temporary_name(sidecar_path(self.path) if self._single else self.path / "_part.json")
        try:
            written.write_text(plain_json({"digest": sidecar_digest(sidecar), **sidecar}, "task", indent=1))
            flush(written)
            flush(self._temporary)
            if self._single:
                path = self.path
                publish_together({self._temporary: path, written: sidecar_path(path)}, path)
            else:
                path = self._name()
                publish(written, sidecar_path(path))
        finally:
            written.unlink(missing_ok=True)
        self.parts.append(path)
        self._temporary = None

    def _name(self) -> Path:
        """Give the finished part its name."""
        assert self._temporary is not None
        number = next_part(self._folder)
        while True:
            path = self._folder / f"part-{number:05d}.parquet"
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))   # only one process gets the number
                break
            except FileExistsError:
                number += 1
        os.replace(self._temporary, path)
        return path

    def _drop(self) -> None:
        self._closed = True
        if self._writer is not None:
            with contextlib.suppress(OSError, pa.ArrowException):
                self._writer.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
        self._writer = self._temporary = None


def next_part(folder: Path) -> int:
    """One past the highest part number in the folder."""
    numbers = [int(m[1]) for name in os.listdir(folder) if (m := re.fullmatch(r"part-(\d+)\.parquet", name))]
    return max(numbers, default=-1) + 1


class EpisodeReader(Reader[Episode]):
    """Episodes of a folder or file that EpisodeWriter wrote; `reader[i]` reads one lazily.

    Opening hashes every part that this computer has not hashed since it changed (about a second per gigabyte, see
    formats/verified.py) and reads the sidecars; rows are read when asked for and the latest are kept. Threads should not
    share a reader; processes may (each opens the files for itself).

    Args:
        path: a folder of parts or one .parquet file.
        cache_bytes: how much of the latest row groups to keep in memory.
        in_memory: read everything now and keep it; forked loader workers then share it.
    Attributes:
        task: the `task` values that the writer was given.
        lengths, scores, seeds: arrays (episodes,), from the sidecars.
        fingerprint: SHA-256 over the parts' digests: two readers with the same one hold the same data.
    Raises:
        ValueError: no episodes there; a part that is damaged, of another task, of a newer format, or too large.
    """

    settings = frozenset({"memory"})
    task: dict[str, Any]

    def __init__(self, path: str | Path, *, cache_bytes: int = 1 << 28, in_memory: bool = False) -> None:
        self.path = local(path)
        self._parts = [Part(p) for p in part_paths(self.path)]
        self.task = self._parts[0].sidecar["task"]
        self._check_parts_agree()
        entries = [entry for part in self._parts for entry in part.sidecar["episodes"]]
        if not entries:
            raise ValueError(f"{self.path} holds no episode; was its writer stopped before the first one ended?")
        self._entries = entries
        self.lengths = np.concatenate([part.lengths for part in self._parts])
        self.scores = np.array([e["score"] for e in entries], np.float64)
        self.seeds = np.array([e["seed"] for e in entries], np.int64)
        digests = "".join(part.sidecar["sha256"] + part.sidecar["digest"] for part in self._parts)
        self._fingerprint = hashlib.sha256(digests.encode()).hexdigest()
        self._first = np.cumsum([0, *[len(part.lengths) for part in self._parts]])
        limit = UNLIMITED if in_memory else cache_bytes
        self._cache: ByteCache[tuple[int, int, int], dict[str, np.ndarray]] = ByteCache(limit, nbytes)
        if in_memory:
            for i in range(len(self)):
                self.window(i, 0, int(self.lengths[i]))

    def _check_parts_agree(self) -> None:
        first = self._parts[0]
        for part in self._parts[1:]:
            for key in ("name", "observation_space", "action_space"):
                if part.sidecar["task"].get(key) != self.task.get(key):
                    raise ValueError(f"{part.path} has task {key} {part.sidecar['task'].get(key)!r} but "
                                     f"{first.path.name} has {self.task.get(key)!r}; keep one task per folder")
            if without_labels(part.columns) != without_labels(first.columns):
                raise ValueError(f"{part.path} has other columns than {first.path.name}; keep one task per folder")

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        """Episode `index` (or a list of them for a slice)."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)} in {self.path}")
        index = int(index) % len(self)
        return self.window(index, 0, int(self.lengths[index]))

    def window(self, index: int, start: int, stop: int) -> Episode:
        """Steps [start, stop) of an episode, as an episode of its own; reads only the row groups that hold them.

        `terminated` and `truncated` are those of the episode where the window reaches its end, else False.
        """
        if not 0 <= start <= stop <= self.lengths[index]:
            raise ValueError(f"steps [{start}, {stop}) of an episode of {self.lengths[index]} steps")
        ends = stop == self.lengths[index]
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        part, episode = self._parts[number], int(index - self._first[number])
        first, last = start // part.rows_per_group, stop // part.rows_per_group
        groups = [self._group(number, episode, group) for group in range(first, last + 1)]
        start, stop = start - first * part.rows_per_group, stop - first * part.rows_per_group
        leaves: dict[str, dict[str, np.ndarray]] = {"observation": {}, "action": {}, "label": {}}
        for name in part.columns:
            side, _, leaf = name.partition("/")
            leaves[side][leaf] = cut(groups, name, start, stop + (side == "observation"))
        entry = self._entries[index]
        return Episode(task=self.task["name"], seed=entry["seed"], observations=leaves["observation"],
                       actions=leaves["action"], demonstrated=cut(groups, "demonstrated", start, stop),
                       rewards=cut(groups, "reward", start, stop), terminated=ends and entry["terminated"],
                       truncated=ends and entry["truncated"], info=entry["info"], labels=leaves["label"] or None)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def keys(self) -> np.ndarray:
        """The seeds: equal worlds stay together."""
        return self.seeds

    def texts(self, numbers: Iterable[int] | None = None) -> Iterator[str]:
        """Observed strings; missions stay the same in an episode, so the first ones are all."""
        wanted = range(len(self)) if numbers is None else numbers
        found = [texts for part in self._parts for texts in part.first_texts()]
        for index in wanted:
            yield from found[index]

    def codec(self, options: SourceOptions) -> TaskCodec:
        """How the task becomes tokens.

        Raises:
            ValueError: the data does not name its spaces, or one does not fit the vocabulary; the message names the data.
        """
        try:
            observation, action = (space_from_json(self.task[key]) for key in ("observation_space", "action_space"))
            return TaskCodec(observation, action, options.vocabulary, options.text, max_text_tokens=options.max_text_tokens,
                             observation_text_loss=options.observation_text_loss, numbers=options.numbers,
                             text_every=options.text_every, title=self.task["name"] if options.titles else "",
                             memory=options.memory)
        except KeyError as error:
            raise ValueError(f"{self.path} does not say what its {error.args[0]} is; collect it again") from None
        except ValueError as error:
            raise ValueError(f"{self.path}, task {self.task['name']}: {error}") from error

    def spec(self, options: SourceOptions) -> dict[str, Any]:
        """The codec, and what the task's data say besides the spaces."""
        about = {key: value for key, value in self.task.items() if key not in ("observation_space", "action_space")}
        return {"codec": self.codec(options).to_json(), "data": about}

    def source(self, name: str, numbers: np.ndarray, options: SourceOptions) -> EpisodeSource:
        """Windows of the episodes, or their steps in random order."""
        prompt = PromptConfig(probability=options.prompt_probability)
        return EpisodeSource(name, self, self.codec(options), prompt=prompt, select=numbers)

    def demonstrated(self, index: int) -> np.ndarray:
        """bool (steps,): `Episode.demonstrated` of an episode, nothing else read."""
        return self.demonstrated_in([index])[0]

    def demonstrated_in(self, numbers: Sequence[int]) -> list[np.ndarray]:
        """The same for many episodes, in one read of each part: one by one they take ten times as long."""
        found: dict[int, np.ndarray] = {}
        parts = np.searchsorted(self._first, np.asarray(numbers), side="right") - 1
        for part in np.unique(parts).tolist():
            mine = [number for number, where in zip(numbers, parts.tolist(), strict=True) if where == part]
            of_part = self._parts[part].demonstrated([int(number - self._first[part]) for number in mine])
            found |= dict(zip(mine, of_part, strict=True))
        return [found[number] for number in numbers]

    def _group(self, number: int, episode: int, group: int) -> dict[str, np.ndarray]:
        return self._cache.get((number, episode, group), lambda: self._parts[number].read(episode, group))


def without_labels(columns: Mapping[str, Column]) -> dict[str, Column]:
    """The columns that all parts of a folder share; labels are in those whose actions were disturbed."""
    return {name: column for name, column in columns.items() if not is_label(name)}


def cut(groups: list[dict[str, np.ndarray]], name: str, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of a column that is spread over groups."""
    if len(groups) == 1:
        return groups[0][name][start:stop]
    return np.concatenate([group[name] for group in groups])[start:stop]


def nbytes(values: dict[str, np.ndarray]) -> int:
    """Memory of a decoded row group."""
    return sum(array.nbytes for array in values.values())
