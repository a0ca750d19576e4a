"""The environment runner: any policy, one task, many seeds, episodes out.

A plain list of environments in one process, stepped in turn, with one `policy.act` call per step for all active rows.
Each row resets by itself (Gymnasium's AutoresetMode.DISABLED semantics): a finished row takes the next seed, or leaves.
Episode i is always reset with seeds[i], so what happens in it does not depend on the number of rows or on the episodes
beside it.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from ..tokenizers.episode import Episode
from ..tokenizers.spaces import flatten, stack_leaves
from . import registry
from .checks import all_fit, complaint
from .experts import FallbackAction, Policy, action_sampler
from .isolated import Isolated
from .isolated import begin as begin_step
from .registry import Task, get_task

OnStep = Callable[[int, int, int, gym.Env], None]   # (row, seed, steps done, environment)


class EnvironmentFault(ValueError):
    """An environment raised, hung or gave a value outside its spaces; the message names task, seed and step."""

    def __init__(self, task: str, seed: int, step: int, what: str) -> None:
        super().__init__(f"{task}, seed {seed}, step {step}: {what}")
        self.task, self.seed, self.step, self.what = task, seed, step, what

    def __reduce__(self) -> tuple[Any, ...]:   # an exception alone would be pickled with its message only
        return type(self), (self.task, self.seed, self.step, self.what)


class RenderError(Exception):
    """An environment could not draw its frame; the runner makes an EnvironmentFault of it."""


OnFault = Callable[[EnvironmentFault], None]


def rollout(task: Task | str, policy: Policy, seeds: Iterable[int], *, num_envs: int = 16, noise: float = 0.0,
            noise_steps: int = 1, teacher: Policy | None = None, mix: float = 0.0, max_steps: int | None = None,
            on_step: OnStep | None = None, on_fault: OnFault | None = None, record: bool = True, render: bool = False,
            make: Callable[[Task, bool], gym.Env] = registry.make) -> Iterator[Episode]:
    """Play one episode per seed and yield each as it ends.

    Args:
        task: a Task or its name.
        policy: anything with `reset` and `act`, see experts.Policy.
        seeds: the episodes; each is played once, in this order as rows become free.
        num_envs: rows played side by side.
        noise: probability with which each action is replaced by a random one, drawn from a generator that depends on
            the episode's seed alone; `Episode.demonstrated` is False there, and `Episode.labels` holds what the policy chose.
        noise_steps: length of a stretch of noise, in which one random action is held: single random steps cancel out, a
            held one leads to states from which the expert must recover. `noise` stays the share of all steps.
        teacher: is asked at every step what it would do: `Episode.labels` holds that, whatever was done (DAgger, Ross et al.,
            arXiv:1011.0686).
        mix: probability with which a step is the teacher's in place of the policy's.
        max_steps: cut episodes after this many steps (truncated).
        on_step: called after each reset (steps done = 0) and each step, e.g. a `Film`.
        on_fault: called with each EnvironmentFault in place of raising it; the environment is closed and replaced, its
            episode is not yielded, and play goes on.
        record: keep observations and actions. Without, episodes carry rewards and lengths only, for scoring.
        render: make the environments with rendering, so that `on_step` may call `env.render()`.
        make: how an environment is made.
    Raises:
        ValueError: an unknown task, or an action outside the action space.
        EnvironmentFault: an environment raised (also while a `Film` draws it), or gave a NaN, a wrong shape, a wrong dtype or a
            value outside its space. The episode it happened in is not yielded. An environment that cannot be made raises
            always.
    """
    task = get_task(task) if isinstance(task, str) else task
    if teacher is not None and noise:
        raise ValueError(f"noise={noise} and a teacher exclude each other: the policy's own mistakes are what it corrects")
    if not 0 <= mix <= 1:
        raise ValueError(f"mix={mix} must be in [0, 1]")
    if num_envs < 1 or noise_steps < 1 or not 0 <= noise <= 1 or (max_steps is not None and max_steps < 1):
        raise ValueError(f"num_envs={num_envs}, noise_steps={noise_steps} and max_steps={max_steps} must be at least 1, "
                         f"noise={noise} in [0, 1]")

    waiting = deque(int(seed) for seed in seeds)
    rows = [_Row(index, task, lambda: make(task, render), record, (noise, noise_steps), teacher, mix, max_steps, on_step)
            for index in range(min(num_envs, len(waiting)))]
    return _play(policy, teacher, waiting, rows, on_fault)


def _play(policy: Policy, teacher: Policy | None, waiting: deque[int], rows: list["_Row"],
          on_fault: OnFault | None) -> Iterator[Episode]:
    active = list(rows)

    def fail(row: _Row, fault: EnvironmentFault) -> None:
        if on_fault is None:
            raise fault
        row.close()
        on_fault(fault)

    def begin(row: _Row) -> None:
        """Start the next episode that does start; without one the row leaves."""
        while waiting:
            try:
                row.reset(waiting.popleft(), policy)
                return
            except EnvironmentFault as fault:
                fail(row, fault)
        active.remove(row)

    try:
        for row in rows:
            begin(row)
        if active:
            legal = all_fit(active[0].env.action_space, bounds=True)
            sound = all_fit(active[0].env.observation_space, bounds=False)
            noting, noisy = active[0].record or active[0].on_step, active[0].noise[0]
            elsewhere = isinstance(active[0].env, Isolated)
        changed, observations, indices = True, [], []
        while active:
            if changed:
                observations, indices = [row.observation for row in active], [row.index for row in active]
            actions = policy.act(observations, indices)
            if len(actions) != len(active):
                raise ValueError(f"the policy gave {len(actions)} actions for {len(active)} observations")
            if not legal(actions):
                for row, action in zip(active, actions, strict=True):
                    row.check_action(action)
            if teacher is not None:
                said = teacher.act(observations, indices)
                if not legal(said):
                    for row, label in zip(active, said, strict=True):
                        row.check_action(label)
                actions = [row.corrected(action, label) for row, action, label in zip(active, actions, said, strict=True)]
            if noisy:
                actions = [row.disturbed(action) for row, action in zip(active, actions, strict=True)]
            if elsewhere:
                begin_step([row.env for row in active], actions)
            changed = False
            for row, action in zip(active, actions, strict=True):
                try:
                    changed = row.step(action) or changed
                except EnvironmentFault as fault:
                    fail(row, fault)
                    changed = True
            observations = [row.observation for row in active]
            if not sound(observations):
                changed = True
                for row in active:
                    try:
                        row.check_observation()
                    except EnvironmentFault as fault:
                        fail(row, fault)
            if noting:
                for row in active:
                    try:
                        row.note()
                    except EnvironmentFault as fault:
                        fail(row, fault)
                        changed = True
            if changed:
                for row in [row for row in active if row.terminated or row.truncated or row.env is None]:
                    if row.env is not None:
                        yield row.episode()
                    begin(row)
    finally:
        for row in rows:
            row.close()


@dataclass(eq=False, slots=True)
class _Row:
    """One environment, made when it is first needed or a faulty one was closed, and the episode that is played in it."""

    index: int
    task: Task
    make: Callable[[], gym.Env]
    record: bool
    noise: tuple[float, int]   # share of the steps, length of a stretch
    teacher: Policy | None
    mix: float
    max_steps: int | None
    on_step: OnStep | None

    env: Any = None
    complaint: Callable[[Any], str | None] = field(init=False)
    random: np.random.Generator = field(init=False)
    random_action: Callable[[], Any] = field(init=False)
    seed: int = 0
    steps: int = 0
    noise_left: int = 0        # steps that the stretch under way still takes
    noise_action: Any = None
    action: Any = None         # the last one that was executed
    label: Any = None          # what the policy had chosen in its place
    observation: Any = None
    terminated: bool = False
    truncated: bool = False
    observations: list[dict[str, Any]] = field(default_factory=list)
    actions: list[dict[str, Any]] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    demonstrated: list[bool] = field(default_factory=list)
    guesses: int = 0
    info: Mapping[str, Any] = field(default_factory=dict)

    def close(self) -> None:
        env, self.env = self.env, None
        if env is not None:
            with suppress(Exception):   # what is broken may not close either
                env.close()

    def reset(self, seed: int, policy: Policy | None) -> None:
        self.seed, self.steps, self.noise_left, self.guesses, self.terminated, self.truncated = seed, 0, 0, 0, False, False
        self.observations, self.actions, self.labels, self.rewards, self.demonstrated = [], [], [], [], []
        if self.env is None:
            self.env = self.make()
            self.complaint = complaint(self.env.observation_space)
        if self.labelled:
            self.random = np.random.default_rng([seed, 3])   # 3: no other stream of this seed, see experts.action_sampler
        if self.noise[0]:
            self.random_action = action_sampler(self.env.action_space, seed, stream=4)
        try:
            self.observation, self.info = self.env.reset(seed=seed)
        except Exception as error:
            raise self._fault(f"reset raised {type(error).__name__}: {error}") from error
        self.check_observation()
        if policy is not None:
            policy.reset(self.index, seed, self.env)
        if self.teacher is not None:
            self.teacher.reset(self.index, seed, self.env)
        self.note()

    def step(self, action: Any) -> bool:
        """Move, and tell whether the episode has ended; what came of it is not yet checked."""
        self.action = action
        self.steps += 1
        try:
            self.observation, reward, self.terminated, self.truncated, self.info = self.env.step(action)
            reward = float(reward)
        except Exception as error:
            raise self._fault(f"step raised {type(error).__name__}: {error}") from error
        if not math.isfinite(reward):
            raise self._fault(f"the reward is {reward}")
        self.rewards.append(reward)
        if self.steps == self.max_steps and not self.terminated:
            self.truncated = True
        return self.terminated or self.truncated

    def disturbed(self, action: Any) -> Any:
        """The action, or a random one that is held for a while."""
        share, stretch = self.noise
        if not self.noise_left and self.random.random() < share / (stretch - (stretch - 1) * share):
            self.noise_left, self.noise_action = stretch, self.random_action()
        self.demonstrated.append(not self.noise_left)
        self.label = action
        if self.noise_left:
            action, self.noise_left = self.noise_action, self.noise_left - 1
        return action

    def corrected(self, action: Any, label: Any) -> Any:
        """The action, or now and then the teacher's, which is the label in any case."""
        self.label = label
        self.demonstrated.append(bool(self.random.random() < self.mix))
        return label if self.demonstrated[-1] else action

    @property
    def labelled(self) -> bool:
        """Whether what is executed may differ from what is to be learnt."""
        return self.noise[0] > 0 or self.teacher is not None

    def note(self) -> None:
        """Keep copies of a sound step, for some environments reuse their buffers, and show it."""
        if self.env is None:
            return
        if self.record:
            if self.steps:
                chosen = self.label if self.labelled else self.action
                self.actions.append(_copies(self.env.action_space, self.action))
                if self.labelled:
                    self.labels.append(_copies(self.env.action_space, chosen))
                self.guesses += isinstance(chosen, FallbackAction)
            self.observations.append(_copies(self.env.observation_space, self.observation))
        if self.on_step:
            try:
                self.on_step(self.index, self.seed, self.steps, self.env)
            except RenderError as error:
                raise self._fault(str(error)) from error

    def check_action(self, action: Any) -> None:
        if not self.env.action_space.contains(action):
            kind = type(action).__name__
            raise ValueError(f"{self.task.name}: the policy's action {action!r} of type {kind} is not in "
                             f"{self.env.action_space} (seed {self.seed}, step {self.steps})")

    def check_observation(self) -> None:
        if self.env is not None and (said := self.complaint(self.observation)):
            raise self._fault(said)

    def episode(self) -> Episode:
        given = self.info if isinstance(self.info, Mapping) else {}
        info = {key: as_plain(value) for key, value in given.items() if isinstance(key, str) and is_plain(value)}
        info |= {"guesses": self.guesses} if self.guesses else {}
        episode = Episode(
            task=self.task.name, seed=self.seed,
            observations=stack_leaves(self.observations), actions=stack_leaves(self.actions),
            demonstrated=np.array(self.demonstrated, bool) if self.labelled else np.ones(self.steps, bool),
            rewards=np.array(self.rewards, np.float64),
            terminated=bool(self.terminated), truncated=bool(self.truncated), info=info,
            labels=stack_leaves(self.labels) if self.labels else None,
        )
        self.observations, self.actions, self.labels = [], [], []   # the lists would double the memory of a long episode
        return episode

    def _fault(self, what: str) -> EnvironmentFault:
        return EnvironmentFault(self.task.name, self.seed, self.steps, what)


class Recorder:
    """One environment whose actions come one by one from outside, such as a person's, recorded as `rollout` does."""

    def __init__(self, task: Task, *, render: bool = False) -> None:
        """Raises ValueError and MissingPackage as `registry.make` does."""
        self._row = _Row(0, task, lambda: registry.make(task, render), True, (0.0, 1), None, 0.0, None, None)

    def reset(self, seed: int) -> None:
        """Begin an episode, and forget the one under way. Raises EnvironmentFault as `rollout` does."""
        self._row.reset(seed, None)

    def step(self, action: Any) -> bool:
        """Act, and tell whether the episode has ended. Raises ValueError for an action that is none, and EnvironmentFault."""
        self._row.check_action(action)
        ended = self._row.step(action)
        self._row.check_observation()
        self._row.note()
        return ended

    def episode(self) -> Episode:
        """What was recorded since `reset`, once the episode has ended."""
        return self._row.episode()

    @property
    def score(self) -> float:
        """The return so far."""
        return float(sum(self._row.rewards))

    @property
    def env(self) -> gym.Env:
        """The environment, to look at it; there is one from the first `reset` on."""
        return self._row.env

    def close(self) -> None:
        self._row.close()


def is_plain(value: Any) -> bool:
    """Whether JSON can write a value as it is: a text, a truth value, a finite real number."""
    if isinstance(value, float | np.floating):
        return math.isfinite(value)
    return isinstance(value, bool | int | str | np.integer | np.bool_)


def as_plain(value: Any) -> Any:
    """A plain value as Python's own; NumPy's long double has none but float."""
    return float(value) if isinstance(value, np.floating) else value.item() if isinstance(value, np.generic) else value


def _copies(space: gym.Space, value: Any) -> dict[str, Any]:
    return {name: leaf if isinstance(leaf, str) else np.array(leaf) for name, leaf in flatten(space, value).items()}


class Film:
    """An `on_step` that keeps rendered frames: seed -> list of uint8 (height, width, 3). Needs `render=True`.

    Args:
        every: keep each n-th step's frame; the first one is always kept.
        limit: frames kept per episode at most.
    """

    def __init__(self, every: int = 1, limit: int = 2000) -> None:
        self.every, self.limit = every, limit
        self.frames: dict[int, list[np.ndarray]] = {}

    def __call__(self, row: int, seed: int, steps: int, env: gym.Env) -> None:
        """See OnStep."""
        if steps == 0:
            self.frames[seed] = []
        if steps % self.every or len(self.frames[seed]) >= self.limit:
            return
        try:
            frame: Any = env.render()
        except Exception as error:
            raise RenderError(f"render raised {type(error).__name__}: {error}") from error
        if frame is None:
            raise ValueError("the environment gave no frame; call rollout(..., render=True)")
        self.frames[seed].append(np.array(frame, np.uint8))
