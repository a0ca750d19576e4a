"""The contract that an environment keeps: what `calico check my_module:MyEnv-v0` looks at, and tests/envs/test_contract.py.

An environment that breaks it may be played all the same; but its episodes could not be repeated from their seeds, or would be
lost to faults after hours.
"""

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from ..tokenizers.spaces import flatten
from ..tokenizers.task import TaskCodec
from ..tokenizers.vocabulary import Vocabulary
from . import workers
from .checks import complaint
from .experts import action_sampler, make_player
from .interfaces import any_text, describe_spaces
from .registry import Task, make
from .runner import EnvironmentFault, rollout

STEPS = 100            # of an episode that is compared step by step
LONGEST = 10_000       # steps after which an episode that has no limit is given up
SEEDS = (0, 1, 2)


@dataclass(kw_only=True)
class Contract:
    """What was found of one environment.

    Attributes:
        faults: what breaks the contract.
        remarks: what does not, and should be known.
        observation, action: what it shows and takes, in words; tokens_per_step: [least, most].
        returns: "random", and the player that was named, -> the mean return of SEEDS.
        lengths: the same of the episodes' steps.
        steps_per_second: of random play.
    """

    task: str
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    observation: str = ""
    action: str = ""
    tokens_per_step: Sequence[int] = ()
    returns: dict[str, float] = field(default_factory=dict)
    lengths: dict[str, float] = field(default_factory=dict)
    steps_per_second: float | None = None


def check(task: Task, player: str | None = None, *, elsewhere: bool = True) -> Contract:
    """Play a task in every way that Calico does, and note what does not hold.

    Args:
        player: who plays besides random actions, see experts.make_player; None: the task's expert, if it has one.
        elsewhere: make it in another process, too, as `calico collect` does.
    Raises:
        ValueError: no such player.
        MissingPackage: a package is not installed.
    """
    found = Contract(task=task.name)
    player = player or (None if task.expert is None else "expert")
    players = ["random", *([player] if player else [])]
    for name in players:
        make_player(task, name)                  # what is misspelt is told before anything is played
    try:
        first, second = make(task), make(task)
    except (ImportError, KeyboardInterrupt):
        raise
    except Exception as error:   # whatever a foreign environment raises is a finding
        found.faults.append(f"it cannot be made: {type(error).__name__}: {error}")
        return found
    try:
        if not _spaces(found, first) or not _step_by_step(found, first, second):
            return found
    finally:
        first.close()
        second.close()
    _frames(found, task)
    for name in players:
        _episodes(found, task, name)
    if elsewhere and not found.faults:
        _in_another_process(found, task, players[-1])
    return found


def _spaces(found: Contract, env: gym.Env) -> bool:
    """Whether both spaces have tokens."""
    try:
        about = describe_spaces(env.observation_space, env.action_space, (env.observation_space, env.action_space))
    except (ValueError, TypeError) as error:
        found.faults.append(f"its spaces have no tokens: {error}")
        return False
    found.observation, found.action, found.tokens_per_step = about["observation"], about["action"], about["tokens_per_step"]
    return True


def _step_by_step(found: Contract, first: gym.Env, second: gym.Env) -> bool:
    """Whether the same seed and actions give the same episode: again, and in another environment that steps in turn."""
    traces: dict[str, list[Any]] = {}
    for name, env, seed in (("first", first, 0), ("again", first, 0), ("other", first, 1)):
        traces[name] = _trace(found, [env], [seed])[0]
        if found.faults:
            return False
    beside, _ = _trace(found, [second, first], [0, 1])
    for name, trace in (("again", traces["again"]), ("beside", beside)):
        if (step := first_difference(traces["first"], trace)) is not None:
            how = "a second time" if name == "again" else "beside another environment in the same process"
            found.faults.append(f"seed 0 with the same actions goes otherwise {how}, from step {step} on; take every random "
                                "number from self.np_random, and keep nothing in the module or the class")
            return False
    if first_difference(traces["first"], traces["other"]) is None:
        found.remarks.append(f"seeds 0 and 1 give the same {len(traces['first']) - 1} steps: nothing in it is random")
    return not found.faults


def _trace(found: Contract, envs: list[gym.Env], seeds: list[int]) -> list[list[Any]]:
    """(leaves of the observation, reward, terminated, truncated) of each step, with actions that depend on nothing."""
    samplers = [action_sampler(env.action_space, 0, stream=5) for env in envs]
    traces: list[list[Any]] = [[] for _ in envs]
    try:
        for env, seed, trace in zip(envs, seeds, traces, strict=True):
            observation, info = env.reset(seed=seed)
            if not isinstance(info, dict):
                raise ValueError(f"reset gave {type(info).__name__} as info, expected a dict")
            trace.append((_leaves(found, env, observation, "reset"), 0.0, False, False))
        for number in range(1, STEPS + 1):
            for env, sampler, trace in zip(envs, samplers, traces, strict=True):
                if trace[-1][2] or trace[-1][3]:
                    continue
                observation, reward, terminated, truncated, _ = env.step(sampler())
                if not isinstance(terminated, bool | np.bool_) or not isinstance(truncated, bool | np.bool_):
                    raise ValueError(f"step {number} gave terminated={terminated!r} and truncated={truncated!r}, expected "
                                     "bools")
                if not math.isfinite(float(reward)):
                    raise ValueError(f"the reward of step {number} is {reward}")
                trace.append((_leaves(found, env, observation, f"step {number}"), float(reward), terminated, truncated))
    except Exception as error:   # noqa: BLE001  whatever a foreign environment raises is a finding
        found.faults.append(str(error) if isinstance(error, ValueError) else f"it raises {type(error).__name__}: {error}")
    return traces


def _leaves(found: Contract, env: gym.Env, observation: Any, when: str) -> dict[str, Any]:
    if said := complaint(env.observation_space)(observation):
        raise ValueError(f"{when}: {said}")
    leaves = flatten(env.observation_space, observation)
    return {name: leaf if isinstance(leaf, str) else np.array(leaf) for name, leaf in leaves.items()}


def first_difference(one: list[Any], other: list[Any]) -> int | None:
    """The first step at which two traces differ; None: they are the same."""
    for step, ((seen, *rest), (shown, *more)) in enumerate(zip(one, other, strict=False)):
        if rest != more or any(not np.array_equal(seen[name], shown[name]) for name in seen):
            return step
    return None if len(one) == len(other) else min(len(one), len(other))


def _frames(found: Contract, task: Task) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")          # Gymnasium's, of render modes that there are not
        try:
            env = make(task, render=True)
            env.reset(seed=0)
            frame: Any = env.render()
            env.close()
        except Exception as error:   # noqa: BLE001  as above
            found.remarks.append(f"it cannot be filmed: {type(error).__name__}: {error}")
            return
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        shown = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        found.remarks.append(f"it cannot be filmed: render() gives {shown}, expected uint8 (height, width, 3); list "
                             "'rgb_array' in metadata['render_modes']")


def _episodes(found: Contract, task: Task, name: str) -> None:
    """Whole episodes, whose actions must survive their tokens."""
    began, steps, returns, lengths = time.perf_counter(), 0, list[float](), list[int]()
    try:
        for episode in rollout(task, make_player(task, name), SEEDS, num_envs=1, max_steps=task.episode_limit or LONGEST):
            returns.append(episode.score)
            lengths.append(len(episode))
            steps += len(episode)
            if episode.truncated and len(episode) == LONGEST and task.episode_limit is None:
                found.remarks.append(f"an episode of {name} did not end within {LONGEST:,} steps; give max_episode_steps")
                break
    except EnvironmentFault as fault:
        found.faults.append(f"{name}: {fault}")
        return
    except ValueError as error:                  # an action outside the space, among others
        found.faults.append(f"{name}: {error}")
        return
    found.returns[name], found.lengths[name] = float(np.mean(returns)), float(np.mean(lengths))
    if name == "random":
        found.steps_per_second = steps / (time.perf_counter() - began)
        env = make(task)
        _actions_survive_tokens(found, env)
        env.close()
    elif found.returns[name] <= found.returns.get("random", -math.inf):
        found.remarks.append(f"{name} is no better than random play: {found.returns[name]:.4g} against "
                             f"{found.returns['random']:.4g}")


def _actions_survive_tokens(found: Contract, env: gym.Env) -> None:
    codec = TaskCodec(env.observation_space, env.action_space, Vocabulary(), any_text())
    draw = action_sampler(env.action_space, 1, stream=5)
    for action in [draw() for _ in range(16)]:
        (back,) = codec.decode_actions(codec.encode_actions([action]))
        if not env.action_space.contains(back):
            found.faults.append(f"the action {action} comes back from its tokens as {back}, outside {env.action_space}")
            return


def _in_another_process(found: Contract, task: Task, name: str) -> None:
    try:
        (played,) = workers.play(task, name, [0], workers=1, max_steps=STEPS)
    except Exception as error:   # noqa: BLE001  as above
        found.faults.append(f"it cannot be played in another process: {type(error).__name__}: {error}")
        return
    if isinstance(played, EnvironmentFault):
        found.faults.append(f"in another process: {played}")
