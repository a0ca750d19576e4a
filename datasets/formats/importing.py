"""Episodes of other projects: what every importer gives, and how their values are fitted to spaces.

An importer is a function (path, name, spaces) -> ImportedEpisodes, one file per format: minari.py, jat.py, d4rl.py. An episode
that cannot be read is an error of its own: the others can be imported without it. What a format does not hold is listed in
`task["source"]["unknown"]`:

    unknown             what is written instead
    seed                the episode's number within the source, from 0
    final_observation   the last observation once more: nothing is predicted from it, and the last reward is kept
    terminated          False, and `truncated` is True: nothing claims that the world ended
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from ...tokenizers.episode import Episode
from ...tokenizers.leaves import integer_bounds
from ...tokenizers.spaces import is_text, leaf_spaces, space_to_json

Spaces = tuple[spaces.Space[Any], spaces.Space[Any]]   # of observations and of actions
COUNTED = spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary


@dataclass(frozen=True, kw_only=True)
class ImportedEpisodes:
    """Episodes of another project, as EpisodeWriter takes them.

    Attributes:
        task: the writer's `task`: `name`, the spaces, and under `source` where the episodes come from.
        readers: of each episode a function that reads it; can be gone through once.
        total: how many there are.
    """

    task: dict[str, Any]
    readers: Iterator[Callable[[], Episode]]
    total: int

    @property
    def episodes(self) -> Iterator[Episode]:
        """The episodes; the first that cannot be read ends them with a ValueError."""
        return (read() for read in self.readers)

    def usable(self, skipped: list[str]) -> Iterator[Episode]:
        """The episodes that can be read; why the others cannot goes to `skipped`.

        Raises:
            ValueError: none can.
        """
        found = 0
        for read in self.readers:
            try:
                episode = read()
            except ValueError as error:
                skipped.append(str(error))
            else:
                found += 1
                yield episode
        if skipped and not found:
            raise ValueError(f"none of the {len(skipped)} episodes can be imported; the first: {skipped[0]}")


def task_values(name: str, both: Spaces, **source: Any) -> dict[str, Any]:
    """The writer's `task` for episodes that came from elsewhere."""
    return {"name": name, "observation_space": space_to_json(both[0]), "action_space": space_to_json(both[1]), "source": source}


def fitted_episode(where: str, both: Spaces, *, task: str, seed: int, observations: Mapping[str, Any],
                   actions: Mapping[str, Any], rewards: Any, terminated: bool, truncated: bool,
                   demonstrated: np.ndarray | None = None, info: Mapping[str, Any] | None = None) -> Episode:
    """An Episode whose leaves have the spaces' names, shapes and dtypes.

    Args:
        where: file and row, for errors.
        observations: leaf name -> (T + 1, ...); or (T, ...), then the last one is repeated.
        actions: leaf name -> (T, ...).
        rewards: (T,).
    Raises:
        ValueError: a leaf is missing or one too many; a length, shape or dtype that does not fit; NaN; a value outside a
            counted space. The message begins with `where`.
    """
    rewards = np.asarray(rewards, np.float64)
    if rewards.ndim != 1 or not len(rewards):
        raise ValueError(f"{where}: rewards have shape {rewards.shape}; expected (steps,) with at least one step")
    if not np.isfinite(rewards).all():
        raise ValueError(f"{where}: the reward of step {int(np.argmin(np.isfinite(rewards)))} is not finite")
    steps = len(rewards)
    seen = fitted_leaves(f"{where}, observation", both[0], observations)
    if all(len(values) == steps for values in seen.values()):
        seen = {name: np.concatenate([values, values[-1:]]) for name, values in seen.items()}
    done = fitted_leaves(f"{where}, action", both[1], actions)
    for name, values in done.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"{where}, action{f' {name!r}' if name else ''} holds {int((~np.isfinite(values)).sum())} "
                             f"infinite of {values.size} values")
    for side, leaves, rows in (("observation", seen, steps + 1), ("action", done, steps)):
        for name, values in leaves.items():
            if len(values) != rows:
                raise ValueError(f"{where}, {side}{f' {name!r}' if name else ''} has {len(values)} rows for {steps} rewards; "
                                 f"expected {rows}")
    chosen = np.ones(steps, bool) if demonstrated is None else np.asarray(demonstrated, bool)
    return Episode(task=task, seed=seed, observations=seen, actions=done, demonstrated=chosen, rewards=rewards,
                   terminated=terminated, truncated=truncated, info=dict(info or {}))


def fitted_leaves(where: str, space: spaces.Space[Any], leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays (rows, *shape) with the dtypes of a space's leaves; text becomes an object array of str."""
    wanted = leaf_spaces(space)
    if leaves.keys() != wanted.keys():
        raise ValueError(f"{where} has the leaves {sorted(leaves)}, its space has {sorted(wanted)}; import it under another "
                         f"task name to take the spaces from the data")
    return {name: _fitted(f"{where} {name!r}" if name else where, part, leaves[name]) for name, part in wanted.items()}


def _fitted(where: str, space: spaces.Space[Any], values: Any) -> np.ndarray:
    if is_text(space):
        texts = np.array([*values, None], object)[:-1]                 # the None keeps an empty list an object array
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{where} must be text, got {type(next(t for t in texts if not isinstance(t, str))).__name__}")
        return np.array([*map(str, texts), None], object)[:-1]         # plain str, not NumPy's
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{where} has dtype {array.dtype}, expected {space}")
    if array.shape[1:] != space.shape:
        raise ValueError(f"{where} has the shape {array.shape[1:]} per step, expected {space.shape}: {space}; import it under "
                         f"another task name to take the spaces from the data")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise ValueError(f"{where} holds {int(np.isnan(array).sum())} NaN of {array.size} values")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(space.dtype)
    if cast.dtype.kind != "f" and not np.array_equal(cast, array):
        wrong = array[cast != array][0]
        raise ValueError(f"{where} holds {wrong}, which is no {space.dtype} as {space} has it")
    if isinstance(space, COUNTED):
        low, high = integer_bounds(space)
        flat = cast.reshape(len(cast), -1).astype(np.int64)
        if (outside := (flat < low) | (flat > high)).any():
            raise ValueError(f"{where} holds {flat[outside][0]}, which is outside {space}")
    return cast


def guessed_space(dtype: np.dtype[Any], shape: Sequence[int], low: float, high: float) -> spaces.Space[Any]:
    """The space of values that come without one.

    Args:
        low, high: smallest and largest of the finite ones, see `finite_range`. Floats within [-1, 1] get these bounds, the
        usual ones of actions,
            others none; whole numbers count from 0, or from `low` if that is negative; uint8 of several axes is 0..255.
    """
    shape = tuple(shape)
    if dtype.kind == "f":
        bound = 1.0 if low >= -1 and high <= 1 else np.inf
        return spaces.Box(-bound, bound, shape, dtype=dtype.type)
    if dtype == np.uint8 and len(shape) >= 2:
        return spaces.Box(0, 255, shape, dtype=np.uint8)
    if dtype.kind == "b":
        return spaces.MultiBinary(shape) if shape else spaces.Discrete(2)
    start = min(int(low), 0)
    count = int(high) - start + 1
    if shape:
        return spaces.MultiDiscrete(np.full(shape, count), start=np.full(shape, start))
    return spaces.Discrete(count, start=start)


def finite_range(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest finite value, 0 where there is none: an infinite one is left out with its episode."""
    finite = values[np.isfinite(values)]
    return (finite.min(), finite.max()) if finite.size else (0.0, 0.0)


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn whatever a library says about a file it cannot read into one ValueError that names file and row."""
    try:
        yield
    except Exception as error:   # h5py, Arrow and Minari raise nearly everything: OSError, KeyError, AssertionError, ...
        if isinstance(error, ImportError) or (isinstance(error, ValueError) and str(error).startswith(where)):
            raise
        reason = " ".join(str(error).split()) or "no reason given"
        raise ValueError(f"{where} cannot be read ({type(error).__name__}: {reason})") from error
