"""Import and export Minari data sets (minari.farama.org), HDF5 or Arrow, through the package's own storage classes.

    DIR/<namespace>/<name>-v0/data/metadata.json    spaces, environment, total steps
    DIR/<namespace>/<name>-v0/data/main_data.hdf5   or one Arrow file per episode

Minari keeps the final observation and tells `terminations` from `truncations`, so its episodes are complete but for the
seed, which older data sets lack. Exporting adds what only an Episode has, and importing reads it back: `demonstrated` as a
step info, `info` as episode metadata, the writer's `task` in metadata.json. Pictures are written as they are; Minari's
default, JPEG, would change them. Minari's own way to create data sets needs jax; its storage classes do not.
"""

import copy
import errno
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ...tokenizers.episode import Episode
from ...tokenizers.spaces import AnyText, flatten, is_text, join, space_from_json
from ..publish import whole_folder
from ..records import require_text
from .hdf5 import check_episodes, import_h5py
from .importing import ImportedEpisodes, Spaces, fitted_episode, reading, task_values
from .parquet_part import plain_json

SPARE = 16 << 20             # bytes that stay free on the disk
TASK_KEY = "calico_task"     # in metadata.json
INFO_KEY = "calico_info"     # in an episode's metadata
DATASET_ID = re.compile(r"(?:[\w-]+/)*[\w-]+-v\d+")      # Minari's own form: namespaces, name, version
MARK_KEY = "demonstrated"    # in the step infos; entry t + 1 is of action t, as Minari's infos begin with that of the reset


def read_minari(path: Path, name: str | None = None, both: Spaces | None = None) -> ImportedEpisodes:
    """Open a local Minari data set.

    Args:
        path: its folder, or the folder `data` in it; or its id, such as D4RL/door/human-v2, of one that is on this machine or
            can be downloaded.
        name: of the task; default: what Calico exported it with, else the id of its environment, else its own id.
        both: spaces of observations and actions; default: those of the data set.
    Raises:
        ValueError: no data set there, one that Minari cannot read.
        ImportError: Minari, or a package that it needs for this format, is missing; the message says what to install.
    """
    minari = import_minari()
    path = path if path.exists() else downloaded(minari, path)
    folder = path if (path / "metadata.json").exists() else path / "data"
    if not (folder / "metadata.json").exists():
        raise ValueError(f"{path} is no Minari data set (no data/metadata.json); give its folder, such as "
                         f"~/.minari/datasets/D4RL/door/human-v2")
    with reading(str(path)), warnings.catch_warnings():
        # Without them Minari would make the environment that the data set names, and so run whatever code that names.
        if missing := {"observation_space", "action_space"} - json.loads((folder / "metadata.json").read_text()).keys():
            raise ValueError(f"its metadata.json has no {' and no '.join(sorted(missing))}")
        for file in sorted(folder.glob("*.hdf5")):
            with import_h5py().File(file, "r") as opened:
                check_episodes(opened)
        warnings.simplefilter("ignore")   # its environment's version may be out of date, which data does not mind
        data = minari.MinariDataset(folder)
        exported = json.loads(data.storage.metadata.get(TASK_KEY, "{}"))
        own = (space_from_json(exported["observation_space"]), space_from_json(exported["action_space"])) if exported else None
        spec, known = data.env_spec, require_text(exported["name"], f"name in {TASK_KEY}") if exported else None
        if own and name in (None, known) and both is None:
            task, both = exported, own
        else:
            both = both or (data.observation_space, data.action_space)
            about = {key: value for key in ("algorithm_name", "code_permalink", "minari_version")
                     if (value := data.storage.metadata.get(key))}
            task = task_values(name or known or (spec.id if spec else data.id), both, format="minari", id=data.id,
                               environment=spec.id if spec else None, **about)
        readers = (partial(_episode, f"{path}, episode {number}", data, task["name"], both, number)
                   for number in map(int, data.episode_indices))
        return ImportedEpisodes(task=task, readers=readers, total=int(data.total_episodes))


def downloaded(minari: Any, path: Path) -> Path:
    """The folder of the data set whose id is written in place of a path, downloaded if need be; the path where it is no id.

    Raises:
        ValueError: it is on no server, or cannot be reached.
    """
    name = path.as_posix()
    if not DATASET_ID.fullmatch(name):
        return path
    folder = Path(minari.storage.get_dataset_path(name))
    if not folder.exists():
        try:
            minari.download_dataset(name)
        except Exception as error:    # its servers' clients raise errors of their own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"there is no folder {name} here, and the Minari data set of that id cannot be downloaded: "
                             f"{reason}") from error
    return folder


def import_minari() -> Any:
    """The package; importing it is slow, so only who needs it does.

    Raises:
        ImportError: it is missing.
    """
    try:
        import minari
    except ImportError as error:
        raise ImportError('Minari data sets need the package minari; run: pip install "calico-agent[data]"') from error
    return minari


def _episode(where: str, data: Any, name: str, both: Spaces, number: int) -> Episode:
    with reading(where):
        # One at a time: Arrow would want the same column types in all of them, and float rewards may be whole in one.
        (values,) = data.storage.get_episodes([number])
        (about,) = data.storage.get_episode_metadata([number])
        steps, infos = len(values["rewards"]), values["infos"] or {}
        if about.get("total_steps", steps) != steps:
            raise ValueError(f"{steps} rewards, its metadata says {about['total_steps']} steps")
        marks = infos[MARK_KEY][1:] if MARK_KEY in infos else None
        seed = about.get("seed")
        return fitted_episode(where, both, task=name, seed=number if seed is None else int(seed),
                              observations=flatten(data.observation_space, values["observations"]),
                              actions=flatten(data.action_space, values["actions"]), rewards=values["rewards"],
                              terminated=bool(values["terminations"][-1]), truncated=bool(values["truncations"][-1]),
                              demonstrated=marks, info=json.loads(about.get(INFO_KEY, "{}")))


def minari_id(task: Mapping[str, Any]) -> str:
    """ "ALE/Pong-v5/expert-v0": Minari's custom is environment, then who played, then the data set's version."""
    clean = re.sub(r"[^-\w/]", "-", f"{task['name']}/{task.get('policy') or 'episodes'}")
    return "/".join(part for part in clean.split("/") if part) + "-v0"     # a leading slash would lead out of the root


def write_minari(root: Path, task: Mapping[str, Any], episodes: Iterable[Episode]) -> Path:
    """Write episodes as a Minari data set (HDF5) that `minari.load_dataset` finds with MINARI_DATASETS_PATH=root.

    Args:
        root: folder of data sets; this one goes to `root / minari_id(task)`.
        task: a reader's `task`, which holds the spaces.
    Returns:
        The data set's folder. It appears whole or not at all.
    Raises:
        ValueError: it is there already, `task` has no spaces, an episode has no steps.
    """
    minari = import_minari()
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage
    from minari.serialization import serialize_space

    folder = root.absolute() / minari_id(task)      # Minari refuses to write to a relative path
    if folder.exists():
        raise ValueError(f"{folder} is there already; choose another --out, or remove it")
    if not {"observation_space", "action_space"} <= task.keys():
        raise ValueError(f"the episodes of {task['name']} come without their spaces, which a Minari data set must have")
    observation, action = space_from_json(task["observation_space"]), space_from_json(task["action_space"])
    texts, infos = Texts(), list[dict[str, str]]()

    def buffers() -> Iterator[Any]:
        for number, episode in enumerate(episodes):
            if not len(episode):
                raise ValueError(f"episode {number} (seed {episode.seed}) has no steps, which Minari cannot keep")
            texts.see(episode)
            check_room(root, episode)
            infos.append({INFO_KEY: plain_json(episode.info, "info")})
            last = np.arange(len(episode)) == len(episode) - 1
            yield EpisodeBuffer(
                id=number, seed=episode.seed, observations=columns(observation, episode.observations),
                actions=columns(action, episode.actions), rewards=episode.rewards, terminations=last & episode.terminated,
                truncations=last & episode.truncated, infos={MARK_KEY: np.append(True, episode.demonstrated)})

    with whole_folder(folder) as temporary:
        data = temporary / "data"
        data.mkdir()
        declared = [texts.declared(space) for space in (observation, action)]
        storage = MinariStorage.new(data, *declared, data_format="hdf5", jpeg_encoding=False)
        storage.update_episodes(buffers())
        storage.update_episode_metadata(infos)
        metadata = json.loads((data / "metadata.json").read_text())
        for key, space in (("observation_space", observation), ("action_space", action)):
            metadata[key] = serialize_space(texts.declared(space))     # now that all texts are known
        metadata |= {"dataset_id": minari_id(task), "minari_version": minari.__version__, TASK_KEY: plain_json(task, "task"),
                     **({"env_spec": spec} if (spec := env_spec(task)) else {}),
                     "algorithm_name": str(task.get("expert") or task.get("policy") or "unknown")}
        (data / "metadata.json").write_text(json.dumps(metadata))
    return folder


def env_spec(task: Mapping[str, Any]) -> str | None:
    """Gymnasium's specification of the environment as JSON, with which Minari makes it again; None where `gym.make` would show
    something else than the data do, or knows no such environment."""
    environment = task.get("environment", {})
    if any(value is not None for value in environment.get("view", {}).values()) or task["name"] not in gym.registry:
        return None
    spec = copy.deepcopy(gym.spec(task["name"]))
    spec.kwargs.update(environment.get("kwargs", {}))
    try:
        return spec.to_json()
    except ValueError:          # made by a function that no JSON can name
        return None


def check_room(root: Path, episode: Episode) -> None:
    """Raise OSError where the disk has no room for an episode: HDF5 would end the process with a segmentation fault."""
    leaves = (*episode.observations.values(), *episode.actions.values())
    if shutil.disk_usage(root).free < 2 * sum(values.nbytes for values in leaves) + SPARE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def columns(space: spaces.Space[Any], leaves: Mapping[str, np.ndarray], name: str = "") -> Any:
    """Leaves as Minari holds an episode: Dict and Tuple spaces as dict and tuple, of arrays or lists of str (rows, ...)."""
    if isinstance(space, spaces.Dict):
        return {key: columns(part, leaves, join(name, key)) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(columns(part, leaves, join(name, str(index))) for index, part in enumerate(space.spaces))
    return leaves[name].tolist() if is_text(space) else leaves[name]


class Texts:
    """What characters and lengths the texts have: Minari knows only Text spaces, which must declare both."""

    def __init__(self) -> None:
        self.characters: set[str] = set()
        self.longest = 1

    def see(self, episode: Episode) -> None:
        """Take note of an episode's texts.

        Raises:
            ValueError: one of them cannot be written.
        """
        for values in [*episode.observations.values(), *episode.actions.values()]:
            if values.dtype == object:
                for text in set(values):
                    if "\0" in text:
                        raise ValueError(f"a text of the episode with seed {episode.seed} holds the character NUL, which HDF5 "
                                         f"cannot keep: {text[:40]!r}")
                    self.characters |= set(text)
                    self.longest = max(self.longest, len(text))

    def declared(self, space: spaces.Space[Any]) -> spaces.Space[Any]:
        """The space with a Text that holds all that was seen in place of each AnyText."""
        if isinstance(space, spaces.Dict):
            return spaces.Dict({key: self.declared(part) for key, part in space.spaces.items()})
        if isinstance(space, spaces.Tuple):
            return spaces.Tuple([self.declared(part) for part in space.spaces])
        if isinstance(space, AnyText):
            return spaces.Text(self.longest, min_length=0, charset="".join(sorted(self.characters)) or " ")
        return space
