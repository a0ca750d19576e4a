"""Import D4RL's HDF5 files (Fu et al., arXiv:2004.07219): one file per data set, all episodes one after another.

    observations (N, ...), actions (N, ...), rewards (N,)
    terminals, timeouts   bool (N,), True at an episode's last step: ended by its MDP, or by a limit
    next_observations     in some files; else the final observation of an episode is unknown, see importing.py
"""

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from ...tokenizers.budget import check_shape
from ...tokenizers.episode import Episode
from .hdf5 import check_inside, import_h5py
from .importing import ImportedEpisodes, Spaces, finite_range, fitted_episode, guessed_space, reading, task_values

NEEDED = ("observations", "actions", "rewards", "terminals", "timeouts")


def read_d4rl(path: Path, name: str | None = None, both: Spaces | None = None) -> ImportedEpisodes:
    """Open a D4RL file.

    Args:
        name: of the task; default: the file's name.
        both: spaces of observations and actions; default: guessed from the values.
    Raises:
        ValueError: no such file, not HDF5, a missing or misshapen array.
        ImportError: h5py is missing; the message says how to install it.
    """
    h5py = import_h5py()
    if not path.is_file():
        raise ValueError(f"{path} is no file; give a D4RL data set, such as hopper-medium-v2.hdf5")
    with reading(str(path)):
        file = h5py.File(path, "r")
        check_inside(file)
        found = {key: file[key] for key in (*NEEDED, "next_observations") if isinstance(file.get(key), h5py.Dataset)}
        if missing := [key for key in NEEDED if key not in found]:
            old = " (files of D4RL's version 0 may lack timeouts; take a later version)" if missing == ["timeouts"] else ""
            raise ValueError(f"{path} lacks {', '.join(missing)}{old}; it holds {', '.join(sorted(file)) or 'nothing'}")
        rows = len(found["rewards"])
        if wrong := [f"{key} {values.shape}" for key, values in found.items() if values.shape[:1] != (rows,)]:
            raise ValueError(f"{path}: {', '.join(wrong)} where rewards has {rows} rows")
        for key in ("terminals", "timeouts", "rewards"):
            check_shape(found[key].shape, found[key].dtype, key)
            check_marks(found[key], key)
        ends = episode_ends(np.asarray(found["terminals"][()], bool).reshape(rows), found["timeouts"][()].reshape(rows))
        if both is None:
            both = array_space(found["observations"]), array_space(found["actions"], acted=True)
    name = name or path.stem
    unknown = ["seed", *([] if "next_observations" in found else ["final_observation"])]
    readers = (partial(_episode, f"{path}, rows [{start}, {stop})", name, both, found, number, start, stop)
               for number, (start, stop) in enumerate(pairwise([0, *ends.tolist()])))
    task = task_values(name, both, format="d4rl", file=path.name, unknown=unknown)
    return ImportedEpisodes(task=task, readers=readers, total=len(ends))


def check_marks(values: Any, key: str) -> None:
    """Raise ValueError where the ends of episodes are not marked by 0 and 1: text and NaN would all count as True."""
    if key == "rewards":
        return
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{key} has dtype {values.dtype}; it marks ends of episodes by True and False, or 0 and 1")
    marks = values[()]
    if not np.isin(marks, (0, 1)).all():
        wrong = marks[~np.isin(marks, (0, 1))].flat[0]
        raise ValueError(f"{key} holds {wrong}; it marks ends of episodes by True and False, or 0 and 1")


def episode_ends(terminals: np.ndarray, timeouts: np.ndarray) -> np.ndarray:
    """Row after each episode's last one; rows after the last marked end are an episode that was cut off."""
    last = np.flatnonzero(terminals | timeouts.astype(bool)) + 1
    return last if not len(terminals) or (len(last) and last[-1] == len(terminals)) else np.append(last, len(terminals))


def array_space(values: Any, acted: bool = False) -> spaces.Space[Any]:
    """The space of an array (N, ...) of the file; only actions and whole numbers are worth reading for it."""
    if values.dtype.kind == "f" and not acted:
        return guessed_space(full_floats(np.zeros(0, values.dtype)).dtype, values.shape[1:], -np.inf, np.inf)
    check_shape(values.shape, values.dtype, values.name)
    array = full_floats(values[()])
    low, high = finite_range(array)
    return guessed_space(array.dtype, array.shape[1:], min(low, 0), max(high, 0))


def full_floats(values: np.ndarray) -> np.ndarray:
    """Half floats as float32: no space of ours has them."""
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _episode(where: str, name: str, both: Spaces, arrays: dict[str, Any], number: int, start: int, stop: int) -> Episode:
    with reading(where):
        for key, values in arrays.items():
            check_shape((stop - start, *values.shape[1:]), values.dtype, key)
        part = {key: full_floats(values[start:stop]) for key, values in arrays.items()}
        observations = part["observations"]
        if "next_observations" in part:
            observations = np.concatenate([observations, part["next_observations"][-1:]])
        terminated = bool(part["terminals"].reshape(-1)[-1])
        return fitted_episode(where, both, task=name, seed=number, observations={"": observations},
                              actions={"": part["actions"]}, rewards=part["rewards"].reshape(-1), terminated=terminated,
                              truncated=not terminated)
