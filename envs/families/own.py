"""Environments that Calico does not bring: any id of Gymnasium's registry, and those of modules of your own.

    FrozenLake-v1                     Gymnasium's, or one that an imported package has registered
    my_module:MyEnv-v0          imports my_module, which registers MyEnv-v0, or holds a FAMILY with a task of that name

A module is looked for where Python finds packages, then in the current folder. With a `FAMILY` in it, a `Family` as those
beside this file, it says as much of its tasks as they do: views, experts, longest episodes, scores. Without one a task is what
`gym.make` gives.

View: `side` shrinks pictures to so many pixels on their longer side; None leaves them, 64 in the compact view.
"""

import importlib
import os
import re
import sys
from dataclasses import replace
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from ...tokenizers.spaces import is_image
from ..registry import OWN, Family, MissingPackage, Task, nearest

ADDRESS = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*):(.+)")   # module:what


def module_of(name: str) -> Any:
    """Import a module, the current folder included.

    Raises:
        ValueError: there is none, or it raises.
    """
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)   # last: a file here must not take the place of a package
    try:
        return importlib.import_module(name)
    except MissingPackage:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ValueError(f"there is no module {name!r}, neither installed nor in {here}; run the command in its folder, or "
                             "install it") from error
        raise ValueError(f"the module {name!r} cannot be imported: {type(error).__name__}: {error}") from error


def object_at(address: str) -> Any:
    """What "module:name" means.

    Raises:
        ValueError: no such address.
    """
    found = ADDRESS.fullmatch(address)
    if not found:
        raise ValueError(f"{address!r} is no MODULE:NAME, such as my_module:expert")
    module = module_of(found[1])
    if not hasattr(module, found[2]):
        names = [name for name in vars(module) if not name.startswith("_")]
        raise ValueError(f"the module {found[1]!r} ({getattr(module, '__file__', None)}) has no {found[2]!r}"
                         f"{nearest(found[2], names)}")
    return getattr(module, found[2])


@cache
def family_at(address: str) -> Family:
    """The family at "module:FAMILY"; its tasks are called "module:name".

    Raises:
        ValueError: there is none.
    """
    given = object_at(address)
    if not isinstance(given, Family):
        raise ValueError(f"{address} is a {type(given).__name__}, expected a calico.envs.registry.Family")
    prefix = f"{address.partition(':')[0]}:"
    return replace(given, tasks=tuple(replace(task, name=prefix + task.name, family=address) for task in given.tasks),
                   make=lambda task, render: given.make(replace(task, name=task.name.removeprefix(prefix)), render),
                   scores={prefix + name: values for name, values in given.scores.items()})


def find(name: str) -> Task | None:
    """The task of this name, where Calico has none of it; None: there is none either.

    Raises:
        ValueError: the name has a module in it that cannot be imported, or that does not know the rest.
    """
    address = ADDRESS.fullmatch(name)
    if address is None:
        return task_of(name) if name in gym.registry else None
    module, what = address[1], address[2]
    has_family = isinstance(getattr(module_of(module), "FAMILY", None), Family)
    tasks = {task.name: task for task in family_at(f"{module}:FAMILY").tasks} if has_family else {}
    if name in tasks:
        return tasks[name]
    if what in gym.registry:
        return task_of(name)
    known = [*(task.removeprefix(f"{module}:") for task in tasks), *gym.registry]
    raise ValueError(f"the module {module!r} registers no {what!r}{nearest(what, known)}; call gymnasium.register in it, or "
                     "give it a FAMILY")


def task_of(name: str) -> Task:
    """The record of an environment of Gymnasium's registry."""
    spec = gym.spec(bare(name))
    from_gymnasium = str(spec.entry_point).startswith("gymnasium.")
    return Task(name=name, family=OWN, view={"side": None}, compact_view={"side": 64}, episode_limit=spec.max_episode_steps,
                solved_at=spec.reward_threshold, licence="MIT" if from_gymnasium else "not told")


def bare(name: str) -> str:
    """"my_module:MyEnv-v0" -> "MyEnv-v0"."""
    address = ADDRESS.fullmatch(name)
    return address[2] if address else name


def _make(task: Task, render: bool) -> gym.Env:
    if address := ADDRESS.fullmatch(task.name):
        module_of(address[1])   # in a worker process nobody has imported it yet
    mode: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}       # not every environment has the argument
    try:
        env = gym.make(bare(task.name), disable_env_checker=True, **mode, **task.kwargs)
    except gym.error.DependencyNotInstalled as error:
        raise MissingPackage(f"{task.name} needs a package that is missing here: {error}; pip install it") from error
    side = task.view.get("side")
    return Smaller(env, side) if side else env


class Smaller(gym.ObservationWrapper[Any, Any, Any]):
    """Pictures shrunk to `side` pixels on their longer side, each pixel the mean of those that it covers."""

    def __init__(self, env: gym.Env, side: int) -> None:
        super().__init__(env)
        self.side = side
        self.observation_space = self._space(env.observation_space)

    def observation(self, observation: Any) -> Any:
        return self._shrunk(self.env.observation_space, observation)

    def _space(self, space: gym.Space[Any]) -> gym.Space[Any]:
        if isinstance(space, gym.spaces.Dict):
            return gym.spaces.Dict({key: self._space(part) for key, part in space.spaces.items()})
        if not is_image(space):
            return space
        height, width = self._size(space)
        return gym.spaces.Box(0, 255, (height, width, *(space.shape or ())[2:]), np.uint8)

    def _shrunk(self, space: gym.Space[Any], observation: Any) -> Any:
        if isinstance(space, gym.spaces.Dict):
            return {key: self._shrunk(part, observation[key]) for key, part in space.spaces.items()}
        if not is_image(space):
            return observation
        height, width = self._size(space)
        pixels = np.asarray(observation).reshape(*observation.shape[:2], -1)
        channels = [Image.fromarray(channel).resize((width, height), Image.Resampling.BOX)
                    for channel in np.moveaxis(pixels, -1, 0)]
        return np.stack([np.asarray(channel) for channel in channels], -1).reshape(height, width, *observation.shape[2:])

    def _size(self, space: gym.Space[Any]) -> tuple[int, int]:
        height, width = (space.shape or ())[:2]
        scale = min(1.0, self.side / max(height, width))
        return max(16, round(height * scale)), max(16, round(width * scale))   # 16: pictures are read in patches of that


FAMILY = Family(title="Gymnasium's and your own", tasks=(), make=_make)
