"""A network that plays one task, in the manners of Gymnasium and Stable-Baselines3.

    policy = agent.policy("CartPole-v1")
    action, state = policy.predict(observation)                                 # a loop over gym.make
    actions, state = policy.predict(observations, state, episode_start=ended)   # gym.vector, VecEnv, evaluate_policy

Most tasks are played with memory: what was seen and done since the episode began. `episode_start` says where an episode
begins, as for Stable-Baselines3's recurrent policies. Who passes `state` on may also begin one with state=None; who does not
leaves the memory to the policy and may begin one with `policy.reset()`.
"""

import copy
import itertools
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array

from calico.agent.policy import AgentPolicy
from calico.envs.checks import complaint
from calico.envs.registry import get_task
from calico.tokenizers.spaces import is_text

NUMBERS = gym.spaces.Box | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary     # values are arrays, also as lists


@dataclass(eq=False)
class Memory:
    """The `state` of `predict`: what was seen and done so far, for each row. It changes in place as play goes on.

    Attributes:
        steps: how many were played of each row's episode.
    """

    playing: AgentPolicy
    steps: list[int] = field(default_factory=list)


class Policy:
    """Plays one task, one environment or many at once. Made by `agent.policy(task)`.

    Attributes:
        task: its name.
        observation_space, action_space: what it was trained on.
    """

    def __init__(self, playing: AgentPolicy, task: str) -> None:
        self.task, self.playing = task, playing
        self.observation_space, self.action_space = playing.codec.observation_space, playing.codec.action_space
        self.longest: int | None = None                # steps of an episode, as far as is known here
        with suppress(ValueError, ImportError):        # a task of a package that is not installed is played all the same
            self.longest = get_task(task).episode_limit
        self.complaint = complaint(self.observation_space)
        self.seeds = itertools.count()                 # of episodes: what is drawn in one does not depend on the others
        self.own: Memory | None = None
        self.passed_on = False                         # the caller gave a state last time

    def reset(self) -> None:
        """Forget: the next `predict` begins an episode in every row."""
        self.own, self.passed_on = None, False

    def predict(self, observation: Any, state: Memory | None = None, episode_start: Any = None,
                deterministic: bool = False) -> tuple[Any, Memory]:
        """The action for an observation, or one for each of several.

        Args:
            observation: one, as the environment returned it, or several: stacked as `gym.vector` and Stable-Baselines3's
                VecEnv do, or as a list.
            state: what the call before gave back; None: begin, or go on with the policy's own memory, see above.
            episode_start: bool, or (n,): True where the observation is the first of an episode.
            deterministic: take the likeliest action in place of drawing one.
        Returns:
            the action, or n of them as `gym.vector` takes them, and the state.
        Raises:
            ValueError: an observation that does not fit what the network was trained on, or another number of them than
                before in the middle of an episode.
        """
        observations, several = split(self.observation_space, observation)
        for one in observations:
            if said := self.complaint(one):
                raise ValueError(f"{self.task}: {said}. The agent sees this task through calico.make: take env = "
                                 f"agent.make({self.task!r}) in place of gym.make, or prepare observations as it does")
        starts = _starts(episode_start, len(observations))
        memory = self._memory(state, starts)
        for row, begins in enumerate(starts):
            if begins:
                memory.playing.reset(row, next(self.seeds))
                memory.steps[row] = 0
            memory.steps[row] += 1
        self._warn_of_missed_start(memory)
        drawn = self.playing.sampling
        memory.playing.sampling = replace(drawn, temperature=0.0) if deterministic else drawn
        actions = memory.playing.act(observations, list(range(len(observations))))
        self.own, self.passed_on = memory, state is not None
        return (join(self.action_space, actions) if several else actions[0]), memory

    def _memory(self, state: Memory | None, starts: np.ndarray) -> Memory:
        """The memory that this call goes on with; rows of a new one start."""
        going = state if state is not None else None if self.passed_on else self.own
        if going is None or (starts.all() and (state is None or len(going.steps) != len(starts))):
            starts[:] = True
            return Memory(beside(self.playing), [0] * len(starts))
        if len(going.steps) != len(starts):
            raise ValueError(f"{self.task}: {len(starts)} observations come after {len(going.steps)} in the middle of an "
                             "episode; call policy.reset(), or pass state=None or episode_start for a new one")
        return going

    def _warn_of_missed_start(self, memory: Memory) -> None:
        if self.longest is not None and memory.playing.codec.memory and max(memory.steps) == self.longest + 1:
            warnings.warn(f"{self.task} ends after {self.longest} steps, and this is one more: say where an episode begins, by "
                          "policy.reset() after env.reset(), or by episode_start", stacklevel=3)


def beside(policy: AgentPolicy) -> AgentPolicy:
    """Another player with the same weights, which has seen nothing yet."""
    other = copy.copy(policy)
    other.rows, other.placed = {}, []
    other.cache = policy.model.backbone.new_cache(0, policy.chunk, policy.model.embedding.table.weight.dtype)
    return other


def _starts(episode_start: Any, rows: int) -> np.ndarray:
    """bool (rows,), a copy."""
    starts = np.zeros(rows, bool) if episode_start is None else np.array(episode_start, bool).reshape(-1)
    if len(starts) != rows:
        raise ValueError(f"episode_start holds {len(starts)} values for {rows} observations; give one for each")
    return starts


# ---- one observation or several


def split(space: gym.Space[Any], observation: Any) -> tuple[list[Any], bool]:
    """The observations one by one, and whether several were given.

    Raises:
        ValueError: there are none.
    """
    if isinstance(observation, list) and not isinstance(space, NUMBERS):
        found = list(observation)
    elif (rows := stacked_rows(space, observation)) is None:
        return [observation], False
    else:
        found = [_row(space, observation, row) for row in range(rows)]
    if not found:
        raise ValueError("no observation is given; give at least one")
    return found, True


def stacked_rows(space: gym.Space[Any], observation: Any) -> int | None:
    """How many observations are stacked; None: it is a single one, or does not fit."""
    if isinstance(space, gym.spaces.Dict):
        parts = [(part, observation[key]) for key, part in space.spaces.items() if key in observation] if isinstance(
            observation, Mapping) else []
        return stacked_rows(*parts[0]) if parts else None
    if isinstance(space, gym.spaces.Tuple):
        fits = isinstance(observation, Sequence) and len(observation) == len(space.spaces) > 0
        return stacked_rows(space.spaces[0], observation[0]) if fits else None
    dimensions = 0 if is_text(space) else len(space.shape or ())           # of a single one
    return len(observation) if np.ndim(observation) == dimensions + 1 else None


def _row(space: gym.Space[Any], observation: Any, row: int) -> Any:
    if isinstance(space, gym.spaces.Dict):
        return {key: _row(part, observation[key], row) for key, part in space.spaces.items() if key in observation}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(_row(part, value, row) for part, value in zip(space.spaces, observation, strict=True))
    return np.asarray(observation[row]) if isinstance(space, NUMBERS) else observation[row]


def join(space: gym.Space[Any], actions: Sequence[Any]) -> Any:
    """Actions stacked, as `gym.vector` takes them."""
    empty: Any = create_empty_array(space, len(actions))
    return concatenate(space, actions, empty)
