"""One .parquet file of episodes and its sidecar: what the sidecar holds, and every check before a row is believed.

The layout is described in ../episodes.py.
"""

import contextlib
import json
import os
import resource
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..columns import Column, action_name, column_values, is_label, label_values
from ..publish import digest, finish_publishing
from .verified import verified_sha256

FORMAT = 2                     # version of the layout; readers take every version up to their own. 2: labels
MAX_GROUP_BYTES = 1 << 30      # a row group that would need more memory than this is refused before it is read
MAX_SIDECAR_BYTES = 1 << 28
FIELDS: dict[str, type] = {"sha256": str, "columns": dict, "task": dict, "episodes": list, "rows_per_group": int}
ENTRY: dict[str, Any] = {"length": int, "seed": int, "score": (int, float), "terminated": bool, "truncated": bool, "info": dict}
MAX_SEED = 1 << 63
PACKAGES = ("calico-agent", "gymnasium", "ale-py", "minigrid", "mujoco", "numpy", "pyarrow")
STEP_TYPES = {"reward": pa.float64(), "demonstrated": pa.bool_(), "terminated": pa.bool_(), "truncated": pa.bool_(),
              "episode": pa.int32(), "seed": pa.int64(), "timestep": pa.int32()}


def sidecar_path(path: Path) -> Path:
    """`_part-00000.json` for `part-00000.parquet`."""
    return path.with_name(f"_{path.stem}.json")


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read and check one sidecar.

    Raises:
        ValueError: missing, not JSON, changed since it was written, of a newer format.
    """
    if not path.exists():
        raise ValueError(f"{path} is missing; each .parquet file needs the sidecar that was written with it")
    if path.stat().st_size > MAX_SIDECAR_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; sidecars have at most {MAX_SIDECAR_BYTES}")
    try:
        sidecar = json.loads(path.read_bytes())
        version, written = sidecar["format"], sidecar["digest"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not a sidecar of episodes: {str(error) or type(error).__name__}") from error
    if not isinstance(version, int) or version > FORMAT:
        raise ValueError(f"{path} has format version {version}, this Calico reads up to {FORMAT}; upgrade it: "
                         f"pip install --upgrade calico-agent")
    if written != sidecar_digest(sidecar):
        raise ValueError(f"{path} does not match its own digest: it was damaged or edited after it was written")
    return sidecar


def check_fields(sidecar: Mapping[str, Any]) -> None:
    """Raise ValueError where something is missing or of another type: anybody can compute a digest."""
    for key, kind in FIELDS.items():
        if not isinstance(sidecar.get(key), kind):
            raise ValueError(f"{key} is {sidecar.get(key)!r:.60}, expected {kind.__name__}")
    if not isinstance(sidecar["task"].get("name"), str):
        raise ValueError(f"the task's name is {sidecar['task'].get('name')!r:.60}")
    for number, entry in enumerate(sidecar["episodes"]):
        if not isinstance(entry, dict):
            raise ValueError(f"episode {number} is {entry!r:.60}")
        for key, kinds in ENTRY.items():
            if not isinstance(entry.get(key), kinds):
                raise ValueError(f"{key} of episode {number} is {entry.get(key)!r:.60}")
        if not -MAX_SEED <= entry["seed"] < MAX_SEED:
            raise ValueError(f"seed of episode {number} is {entry['seed']}")


class Part:
    """One opened .parquet file with its sidecar; see EpisodeReader.

    Attributes:
        path, sidecar: the file, and the values of its sidecar.
        columns: column name -> Column of every leaf.
        lengths: int64 (episodes,), steps per episode.
        rows_per_group: rows in each row group but an episode's last.
        first_group: int64 (episodes + 1,), where each episode's row groups begin.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: pq.ParquetFile | None = None
        self._process = 0
        side = sidecar_path(path)
        self.sidecar = read_sidecar(side)
        with damage(side, "sidecar"):
            check_fields(self.sidecar)
        if not path.exists():
            raise ValueError(f"{path} is missing, its sidecar {side.name} is there; copy both or neither")
        if verified_sha256(path) != self.sidecar["sha256"]:
            raise ValueError(f"{path} does not match its SHA-256 in {side.name}: it was damaged or changed after "
                             f"it was written; restore it from a copy or collect it again")
        with damage(side, "sidecar"):
            self.columns = {name: Column.from_json(value) for name, value in self.sidecar["columns"].items()}
            self.rows_per_group = int(self.sidecar["rows_per_group"])
            self.lengths = np.array([e["length"] for e in self.sidecar["episodes"]], np.int64)
            if self.rows_per_group < 1 or (self.lengths < 0).any():
                raise ValueError("a length or rows_per_group that cannot be")
            groups = -(-(self.lengths + 1) // self.rows_per_group)
            self.first_group = np.concatenate([[0], np.cumsum(groups)]).astype(np.int64)
        self._check_columns()
        self._check_row_groups()

    def _check_columns(self) -> None:
        expected = {n: c.type for n, c in self.columns.items() if c.size} | STEP_TYPES
        with damage(self.path, "footer"):
            found = {f.name: f.type.value_type if pa.types.is_dictionary(f.type) else f.type
                     for f in self._open().schema_arrow}
        for name in sorted(expected | found):
            if expected.get(name) != found.get(name):
                raise ValueError(f"{self.path}: column {name!r} is {found.get(name, 'missing')}, expected "
                                 f"{expected.get(name, 'no such column')}; was it written by another program?")

    def _check_row_groups(self) -> None:
        with damage(self.path, "footer"):
            footer = self._open().metadata
        expected, width = int(self.first_group[-1]), sum(c.width for c in self.columns.values()) + 32
        if footer.num_row_groups != expected:
            raise ValueError(f"{self.path} has {footer.num_row_groups} row groups, its sidecar lists {expected}")
        for episode, length in enumerate(self.lengths.tolist()):
            for group in range(int(self.first_group[episode]), int(self.first_group[episode + 1])):
                rows = self.rows_of(length, group - int(self.first_group[episode]))
                entry = footer.row_group(group)
                if entry.num_rows != rows:
                    raise ValueError(f"{self.path}, row group {group} has {entry.num_rows} rows, "
                                     f"its sidecar says {rows}")
                # Repeated values compress without bound and the file's own sizes can lie: rows x width cannot.
                if max(rows * width, entry.total_byte_size) > MAX_GROUP_BYTES:
                    raise ValueError(f"{self.path}, row group {group}: {rows} rows of {width} bytes exceed the limit "
                                     f"of {MAX_GROUP_BYTES >> 20} MiB; refused before reading")

    def rows_of(self, length: int, group: int) -> int:
        """Rows in the `group`-th row group of an episode of `length` steps."""
        return min(self.rows_per_group, length + 1 - group * self.rows_per_group)

    def _open(self) -> pq.ParquetFile:
        # A handle is not shared with forked loader workers; each opens its own.
        if self._file is None or self._process != os.getpid():
            make_room(self)
            # Text comes as a dictionary: a mission repeated on each row takes no memory, however long it is.
            text = [name for name, column in self.columns.items() if column.dtype == "str"]
            self._file = pq.ParquetFile(self.path, page_checksum_verification=True, read_dictionary=text)
            self._process = os.getpid()
        return self._file

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._file is not None and self._process == os.getpid():
            self._file.close(force=True)
        self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def read(self, episode: int, group: int) -> dict[str, np.ndarray]:
        """Leaves, `reward` and `demonstrated` of an episode's `group`-th row group; actions and labels end before its last row.

        Raises:
            ValueError: damaged, with the file and row group.
        """
        length, number = int(self.lengths[episode]), int(self.first_group[episode]) + group
        rows = self.rows_of(length, group)
        steps = min(rows, length - group * self.rows_per_group)
        columns = self.columns | {"reward": Column("float64", ()), "demonstrated": Column("bool", ())}
        with damage(self.path, f"row group {number}"):
            names = [name for name, column in columns.items() if column.size]
            table = self._open().read_row_group(number, columns=names, use_threads=False)
            table.validate(full=True)   # Arrow itself trusts the offsets of what it reads
            found = {name: column_values(column, table[name] if column.size else None,
                                         rows if name.startswith("observation") else steps)
                     for name, column in columns.items() if not is_label(name)}
            return found | {name: label_values(column, table[name] if column.size else None, found[action_name(name)])
                            for name, column in columns.items() if is_label(name)}

    def first_texts(self) -> list[list[str]]:
        """Per episode the strings observed first, in the order of their columns; nothing else is read.

        Raises:
            ValueError: damaged, with the file.
        """
        columns = {name: c for name, c in self.columns.items() if c.dtype == "str" and name.startswith("observation")}
        if not columns:
            return [[] for _ in self.lengths]
        first = np.concatenate([[0], np.cumsum(self.lengths + 1)])[:-1]         # row at which each episode begins
        with damage(self.path, "observed texts"):
            table = self._open().read(columns=list(columns), use_threads=False)
            table.validate(full=True)
            found = [table[name].take(pa.array(first)).to_pylist() for name in columns]
            if any(not isinstance(text, str) for texts in found for text in texts):
                raise ValueError("a text is missing")
        return [list(texts) for texts in zip(*found, strict=True)]

    def demonstrated(self, episodes: Sequence[int]) -> list[np.ndarray]:
        """bool (steps,) for each of these episodes: that column, in one read. Hundreds of small reads would take longer than
        all else that is done when data are opened.

        Raises:
            ValueError: damaged, with the file and row groups.
        """
        groups = [group for episode in episodes for group in range(*self.first_group[episode:episode + 2].tolist())]
        with damage(self.path, f"row groups {min(groups, default=0)} to {max(groups, default=0)}"):
            table = self._open().read_row_groups(groups, columns=["demonstrated"], use_threads=False)
            table.validate(full=True)
            found, start = [], 0
            for steps in self.lengths[np.asarray(episodes, np.int64)].tolist():
                found.append(column_values(Column("bool", ()), table["demonstrated"].slice(start, steps + 1), steps))
                start += steps + 1
            return found


# Parts of this process whose files are open, in the order of opening: hundreds of data sets have more files than many systems
# let a process hold open (1,024), so the oldest are closed and opened again when they are read.
_OPEN: OrderedDict[int, weakref.ReferenceType[Part]] = OrderedDict()
_open_in = 0             # the process that the list is of


def make_room(part: Part) -> None:
    """Note that a part's file will be opened; close the oldest ones beyond half of what the process may hold."""
    global _open_in
    if _open_in != os.getpid():
        _OPEN.clear()
        _open_in = os.getpid()
    most = max(8, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    while len(_OPEN) >= most:
        _, oldest = _OPEN.popitem(last=False)
        if (other := oldest()) is not None and other is not part:
            other.close()
    _OPEN[id(part)] = weakref.ref(part)


@contextlib.contextmanager
def damage(path: Path, where: str) -> Iterator[None]:
    """Turn whatever Arrow says about broken data into one ValueError that names the file and the place."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}, {where}: cannot be read ({reason}); it is damaged or not one of Calico's") from error


def plain_json(value: Any, what: str, indent: int | None = None) -> str:
    """JSON text of plain values; NumPy scalars and arrays become numbers and lists.

    Raises:
        ValueError: something has no JSON form (also NaN and infinity, which JSON does not know).
    """
    def convert(item: Any) -> Any:
        if isinstance(item, np.generic | np.ndarray):
            return item.tolist()
        raise TypeError(f"{type(item).__name__} has no JSON form")

    try:
        return json.dumps(value, allow_nan=False, default=convert, indent=indent)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must hold plain JSON values: {error}") from error


def sidecar_digest(sidecar: Mapping[str, Any]) -> str:
    """SHA-256 of a sidecar's values, whatever its layout as text; the key `digest` is left out."""
    return digest({key: value for key, value in sidecar.items() if key != "digest"})


def part_paths(folder: Path) -> list[Path]:
    """The finished parts of a folder in order of their names, or the one file.

    Raises:
        ValueError: nothing there.
    """
    finish_publishing(folder)
    if folder.is_dir():
        sidecars = sorted(folder.glob("_*.json"))
        parts = [p.with_name(p.stem[1:] + ".parquet") for p in sidecars]
        unfinished = sorted(set(folder.glob("[!._]*.parquet")) - set(parts))
        for path in unfinished:
            # Its writer was killed between the two renames, or a copy left the sidecar behind: not silently.
            warnings.warn(f"{path} is not counted: it has no sidecar {sidecar_path(path).name}", stacklevel=3)
        if not parts:
            raise ValueError(f"{folder} holds no episodes (no .parquet file with its sidecar); collect some first")
        return parts
    if not folder.exists():
        raise ValueError(f"{folder} does not exist; give a folder of episodes or one .parquet file")
    return [folder]
