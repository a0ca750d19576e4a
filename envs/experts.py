"""Policies: the protocol that the runner knows, and the ones that need no training.

A policy is anything with `reset` and `act`. Learned policies live in agent/; here are the random one and the scripted
experts, whose controllers stand in the families' files.
"""

import copy
import functools
import hashlib
import itertools
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from .families import own
from .families.atari_planner import planning_player
from .networks import npz_player
from .recordings import recorded_task, recording, replay
from .registry import OWN, Controller, Start, Task, family, get_task, nearest
from .sb3 import hub_player, sb3_player

BLOCK = 32   # random actions drawn at once


class FallbackAction(int):
    """A random action of an expert that found no plan: the runner counts them, as `Episode.info["guesses"]`."""


class Policy(Protocol):
    """What the runner asks of anything that plays."""

    def reset(self, row: int, seed: int, env: gym.Env) -> None:
        """Row `row` starts a new episode in `env`, which was just reset with `seed`.

        Learned policies use the seed for their sampling and ignore `env`; scripted experts look into it.
        """
        ...

    def act(self, observations: Sequence[Any], rows: Sequence[int]) -> list[Any]:
        """One action for each given row; observations are in the same order as `rows`."""
        ...


class RowPolicy:
    """A policy made of one controller per row: `start(env, seed)` gives the function observation -> action."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.controllers: dict[int, Controller] = {}

    def reset(self, row: int, seed: int, env: gym.Env) -> None:
        self.controllers[row] = self.start(env, seed)

    def act(self, observations: Sequence[Any], rows: Sequence[int]) -> list[Any]:
        return [self.controllers[row](observation) for observation, row in zip(observations, rows, strict=True)]


class RandomPolicy:
    """Uniform actions from the action space; an episode's actions depend on its seed alone."""

    def __init__(self) -> None:
        self.samplers: dict[int, Callable[[], Any]] = {}

    def reset(self, row: int, seed: int, env: gym.Env) -> None:
        self.samplers[row] = action_sampler(env.action_space, seed, stream=1)

    def act(self, observations: Sequence[Any], rows: Sequence[int]) -> list[Any]:
        return [self.samplers[row]() for row in rows]


def action_sampler(space: gym.Space, seed: int, stream: int) -> Callable[[], Any]:
    """A function that draws uniform actions from (seed, stream) alone; streams are independent of each other.

    Numbers are drawn in blocks, and whole ones by Python's generator, which starts four times as fast as NumPy's: for an
    episode of twenty steps both count.
    """
    match space:
        case gym.spaces.Discrete():
            numbers = range(int(space.start), int(space.start + space.n))
            return _in_blocks(functools.partial(random.Random(f"{seed} {stream}").choices, numbers, k=BLOCK))
        case gym.spaces.Box(low=low, high=high, dtype=dtype) if dtype.kind == "f" and space.is_bounded("both"):
            rng = np.random.default_rng([seed, stream])
            return _in_blocks(lambda: rng.uniform(low, high, (BLOCK, *low.shape)).astype(dtype))
    space = copy.deepcopy(space)
    space.seed(int(np.random.SeedSequence([seed, stream]).generate_state(1)[0]))
    return space.sample


def _in_blocks(draw: Callable[[], Iterable[Any]]) -> Callable[[], Any]:
    return itertools.chain.from_iterable(draw() for _ in itertools.count()).__next__


def make_expert(task: Task | str) -> RowPolicy:
    """The scripted expert of a task.

    Raises:
        ValueError: the task has none.
    """
    task = get_task(task) if isinstance(task, str) else task
    if task.expert is None and task.family == OWN:
        raise ValueError(f"{task.name} has no expert that Calico knows; give one of your own (--policy my_module:expert), a "
                         "file, or train one (--train-expert)")
    if task.expert is None:
        with_one = [t.name for t in family(task.family).tasks if t.expert]
        raise ValueError(f"{task.name} has no scripted expert; in its family these have one: "
                         f"{', '.join(with_one[:8]) or 'none'}{' ...' if len(with_one) > 8 else ''}")
    return RowPolicy(family(task.family).experts[task.expert])


def expert_version(task: Task) -> str:
    """Digest of the files that a task's expert is written in: one that was changed since may score otherwise.

    Experts that come with a package are in `Task.versions`.
    """
    return code_version(family(task.family).experts[task.expert or ""])


def code_version(start: Any) -> str:
    """Digest of the files that a player is written in."""
    found: dict[str, bytes] = {}
    waiting = [getattr(start, "func", start).__module__]
    while waiting:
        name = waiting.pop()
        if not found or (name not in found and name.startswith(f"{__package__}.families.")):
            module = sys.modules[name]
            found[name] = Path(str(module.__file__)).read_bytes()
            waiting += [getattr(value, "__module__", None) or getattr(value, "__name__", "") for value in vars(module).values()]
    return hashlib.sha256(b"".join(found[name] for name in sorted(found))).hexdigest()[:12]


MADE_FROM: dict[str, tuple[str, Callable[[Task, str], Start]]] = {   # how the spec goes on, what makes the player
    "npz": ("FILE", npz_player), "sb3": ("FILE.zip", sb3_player), "hf": ("OWNER/NAME[/FILE]", hub_player),
    "replay": ("FILE", replay), "iw": ("FRAMES", planning_player),
}
PLAYERS = "expert, random, " + ", ".join(f"{kind}:{rest}" for kind, (rest, _) in MADE_FROM.items()) + ", MODULE:NAME"


def make_player(task: Task, spec: str) -> Policy:
    """A policy by its name.

    Args:
        task: what it will play; for a replay, the task that `task_for` gives.
        spec: "expert" for the task's scripted expert, "random" for uniform actions, or from a file: "npz:FILE" (see
            networks.py), "sb3:FILE.zip" and "hf:OWNER/NAME[/FILE]" (see sb3.py), "replay:FILE" (see recordings.py);
            "iw:FRAMES" plans in any Atari game (see families/atari_planner.py); "MODULE:NAME" is one of your own, see
            `player_of`.
    Raises:
        ValueError: an unknown name, the task has no expert, or the player does not fit it.
    """
    kind, _, where = spec.partition(":")
    if spec == "expert":
        return make_expert(task)
    if spec == "random":
        return RandomPolicy()
    if kind in MADE_FROM and where:
        return RowPolicy(MADE_FROM[kind][1](task, where))
    near = nearest(kind, ("expert", "random", *MADE_FROM))
    if not own.ADDRESS.fullmatch(spec):
        raise ValueError(f"unknown policy {spec!r}{near}; there are: {PLAYERS}")
    try:
        given = own.object_at(spec)
    except ValueError as error:
        raise ValueError(f"unknown policy {spec!r}{near}: {error}; there are: {PLAYERS}") from error
    return player_of(spec, given)


def player_of(name: str, given: Any) -> Policy:
    """A player of somebody else's: a Policy, a class of them, or a function (env, seed) -> controller, as experts are.

    Raises:
        ValueError: something else.
    """
    if hasattr(given, "act") and hasattr(given, "reset"):
        return given() if isinstance(given, type) else given
    if not callable(given) or isinstance(given, type):
        kind = "class" if isinstance(given, type) else type(given).__name__
        raise ValueError(f"{name} is a {kind}; expected a function (env, seed) -> (observation -> action), or "
                         "what has `reset` and `act`")

    def start(env: gym.Env, seed: int) -> Controller:
        controller = given(env, seed)
        if not callable(controller):
            raise ValueError(f"{name}(env, seed) gave a {type(controller).__name__}; expected a function observation -> action")
        return controller

    return RowPolicy(start)


def task_for(task: Task, spec: str) -> Task:
    """The task as this player plays it: a recording brings its own settings, all others leave it as it is."""
    kind, _, where = spec.partition(":")
    return recorded_task(task, where) if kind == "replay" else task


def episodes_of(task: Task, spec: str) -> int | None:
    """How many episodes a player has, with seeds from 0; None: one for every seed."""
    kind, _, where = spec.partition(":")
    return len(recording(task, where).episodes) if kind == "replay" else None
