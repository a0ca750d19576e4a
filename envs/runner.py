"""The environment runner: any policy, one task, many seeds, episodes out.

A plain list of environments in one process, stepped in turn, with one `policy.act` call per step for all active rows.
Each row resets by itself (Gymnasium's AutoresetMode.DISABLED semantics): a finished row takes the next seed, or leaves.
Episode i is always reset with seeds[i], so what happens in it does not depend on the number of rows or on the episodes
beside it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np

from ..tokenizers.episode import Episode
from ..tokenizers.spaces import flatten, is_text, leaf_spaces, stack_leaves
from . import registry
from .experts import Policy, action_sampler
from .registry import Task, get_task

OnStep = Callable[[int, int, int, gym.Env], None]   # (row, seed, steps done, environment)


class EnvironmentFault(ValueError):
    """An environment raised, hung or gave a value outside its spaces; the message names task, seed and step."""

    def __init__(self, task: str, seed: int, step: int, what: str) -> None:
        super().__init__(f"{task}, seed {seed}, step {step}: {what}")
        self.task, self.seed, self.step, self.what = task, seed, step, what

    def __reduce__(self) -> tuple[Any, ...]:   # an exception alone would be pickled with its message only
        return type(self), (self.task, self.seed, self.step, self.what)


OnFault = Callable[[EnvironmentFault], None]


def rollout(task: Task | str, policy: Policy, seeds: Iterable[int], *, num_envs: int = 16, noise: float = 0.0,
            noise_steps: int = 1, max_steps: int | None = None, on_step: OnStep | None = None,
            on_fault: OnFault | None = None, record: bool = True, render: bool = False,
            make: Callable[[Task, bool], gym.Env] = registry.make) -> Iterator[Episode]:
    """Play one episode per seed and yield each as it ends.

    Args:
        task: a Task or its name.
        policy: anything with `reset` and `act`, see experts.Policy.
        seeds: the episodes; each is played once, in this order as rows become free.
        num_envs: rows played side by side.
        noise: probability with which each action is replaced by a random one, drawn from a generator that depends on
            the episode's seed alone; `Episode.demonstrated` is False there.
        noise_steps: length of a stretch of noise, in which one random action is held: single random steps cancel out, a
            held one leads to states from which the expert must recover. `noise` stays the share of all steps.
        max_steps: cut episodes after this many steps (truncated).
        on_step: called after each reset (steps done = 0) and each step, e.g. a `Film`.
        on_fault: called with each EnvironmentFault in place of raising it; the environment is closed and replaced, its
            episode is not yielded, and play goes on.
        record: keep observations and actions. Without, episodes carry rewards and lengths only, for scoring.
        render: make the environments with rendering, so that `on_step` may call `env.render()`.
        make: how an environment is made.
    Raises:
        ValueError: an unknown task, or an action outside the action space.
        EnvironmentFault: an environment raised, or gave a NaN, a wrong shape, a wrong dtype or a value outside its
            space. The episode it happened in is not yielded. An environment that cannot be made raises always.
    """
    task = get_task(task) if isinstance(task, str) else task
    if num_envs < 1 or noise_steps < 1 or not 0 <= noise <= 1 or (max_steps is not None and max_steps < 1):
        raise ValueError(f"num_envs={num_envs}, noise_steps={noise_steps} and max_steps={max_steps} must be at least 1, "
                         f"noise={noise} in [0, 1]")

    waiting = deque(int(seed) for seed in seeds)
    rows = [_Row(index, task, lambda: make(task, render), record, (noise, noise_steps), max_steps, on_step)
            for index in range(min(num_envs, len(waiting)))]
    return _play(policy, waiting, rows, on_fault)


def _play(policy: Policy, waiting: deque[int], rows: list["_Row"], on_fault: OnFault | None) -> Iterator[Episode]:
    active = list(rows)

    @contextmanager
    def enduring(row: _Row) -> Iterator[None]:
        try:
            yield
        except EnvironmentFault as fault:
            if on_fault is None:
                raise
            row.close()
            on_fault(fault)

    def begin(row: _Row) -> None:
        """Start the next episode that does start; without one the row leaves."""
        while waiting:
            with enduring(row):
                row.reset(waiting.popleft(), policy)
                return
        active.remove(row)

    try:
        for row in rows:
            begin(row)
        while active:
            actions = policy.act([row.observation for row in active], [row.index for row in active])
            if len(actions) != len(active):
                raise ValueError(f"the policy gave {len(actions)} actions for {len(active)} observations")
            for row, action in zip(tuple(active), actions, strict=True):
                with enduring(row):
                    row.step(action)
                if row.env is not None and not row.over:
                    continue
                if row.env is not None:
                    yield row.episode()
                begin(row)
    finally:
        for row in rows:
            row.close()


@dataclass(eq=False)
class _Row:
    """One environment, made when it is first needed or a faulty one was closed, and the episode that is played in it."""

    index: int
    task: Task
    make: Callable[[], gym.Env]
    record: bool
    noise: tuple[float, int]   # share of the steps, length of a stretch
    max_steps: int | None
    on_step: OnStep | None

    env: Any = None
    seed: int = 0
    steps: int = 0
    noise_left: int = 0        # steps that the stretch under way still takes
    noise_action: Any = None
    observation: Any = None
    terminated: bool = False
    truncated: bool = False
    observations: list[dict[str, Any]] = field(default_factory=list)
    actions: list[dict[str, Any]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    demonstrated: list[bool] = field(default_factory=list)
    info: Mapping[str, Any] = field(default_factory=dict)

    def close(self) -> None:
        env, self.env = self.env, None
        if env is not None:
            with suppress(Exception):   # what is broken may not close either
                env.close()

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated

    def reset(self, seed: int, policy: Policy) -> None:
        self.seed, self.steps, self.noise_left, self.terminated, self.truncated = seed, 0, 0, False, False
        self.observations, self.actions, self.rewards, self.demonstrated = [], [], [], []
        if self.env is None:
            self.env = self.make()
            self.checks = {name: _leaf_check(space) for name, space in leaf_spaces(self.env.observation_space).items()}
        self.random = np.random.default_rng([seed, 3])   # 3: no other stream of this seed, see experts.action_sampler
        self.random_action = action_sampler(self.env.action_space, seed, stream=4)
        self.env.action_space.seed(seed)
        try:
            observation, self.info = self.env.reset(seed=seed)
        except Exception as error:
            raise self._fault(f"reset raised {type(error).__name__}: {error}") from error
        self._see(observation)
        policy.reset(self.index, seed, self.env)
        if self.on_step:
            self.on_step(self.index, seed, 0, self.env)

    def step(self, action: Any) -> None:
        share, stretch = self.noise
        if not self.noise_left and share and self.random.random() < share / (stretch - (stretch - 1) * share):
            self.noise_left, self.noise_action = stretch, self.random_action()
        demonstrated = not self.noise_left
        if self.noise_left:
            action, self.noise_left = self.noise_action, self.noise_left - 1
        if not self.env.action_space.contains(action):
            kind = type(action).__name__
            raise ValueError(f"{self.task.name}: the policy's action {action!r} of type {kind} is not in "
                             f"{self.env.action_space} (seed {self.seed}, step {self.steps})")
        self.steps += 1
        try:
            observation, reward, self.terminated, self.truncated, self.info = self.env.step(action)
        except Exception as error:
            raise self._fault(f"step raised {type(error).__name__}: {error}") from error
        if not isinstance(reward, SupportsFloat) or not np.isfinite(float(reward)):
            raise self._fault(f"the reward is {reward!r}")
        if self.record:
            leaves = flatten(self.env.action_space, action)
            self.actions.append({name: _copy(leaf) for name, leaf in leaves.items()})
        self.rewards.append(float(reward))
        self.demonstrated.append(demonstrated)
        self._see(observation)
        if self.steps == self.max_steps and not self.terminated:
            self.truncated = True
        if self.on_step:
            self.on_step(self.index, self.seed, self.steps, self.env)

    def _see(self, observation: Any) -> None:
        """Check an observation and keep a copy of it: some environments reuse their buffers."""
        try:
            leaves = flatten(self.env.observation_space, observation)
        except ValueError as error:
            raise self._fault(f"the observation does not fit {self.env.observation_space}: {error}") from error
        for name, leaf in leaves.items():
            if complaint := self.checks[name](leaf):
                raise self._fault(f"observation {name!r} {complaint}" if name else f"the observation {complaint}")
        self.observation = observation
        if self.record:
            self.observations.append({name: _copy(leaf) for name, leaf in leaves.items()})

    def episode(self) -> Episode:
        info = {key: value.item() if isinstance(value, np.generic) else value for key, value in self.info.items()
                if isinstance(value, (bool, int, float, str, np.number, np.bool_))}
        episode = Episode(
            task=self.task.name, seed=self.seed,
            observations=stack_leaves(self.observations), actions=stack_leaves(self.actions),
            demonstrated=np.array(self.demonstrated, bool), rewards=np.array(self.rewards, np.float64),
            terminated=bool(self.terminated), truncated=bool(self.truncated), info=info,
        )
        self.observations, self.actions = [], []   # the lists would double the memory of a long episode
        return episode

    def _fault(self, what: str) -> EnvironmentFault:
        return EnvironmentFault(self.task.name, self.seed, self.steps, what)


def _copy(leaf: Any) -> Any:
    return leaf if isinstance(leaf, str) else np.array(leaf)


def _leaf_check(space: gym.Space) -> Callable[[Any], str | None]:
    """A cheap test of one leaf that gives the complaint, or None.

    Float bounds are not enforced: several of Gymnasium's own environments leave theirs (the lander's speeds do).
    """
    if is_text(space):
        return lambda leaf: None if isinstance(leaf, str) else f"is a {type(leaf).__name__}, expected a string"
    shape, dtype = space.shape, np.dtype(space.dtype)
    any_byte = (isinstance(space, gym.spaces.Box) and dtype == np.uint8
                and bool((space.low == 0).all() and (space.high == 255).all()))
    bounded = dtype.kind != "f" and not any_byte

    def check(leaf: Any) -> str | None:
        if isinstance(leaf, str):
            return f"is the string {leaf!r}, expected {space}"
        if leaf.shape != shape:
            return f"has shape {leaf.shape}, expected {shape}"
        if leaf.dtype != dtype and leaf.dtype.kind != dtype.kind:
            return f"has dtype {leaf.dtype}, expected {dtype}"
        if dtype.kind == "f" and np.isnan(leaf).any():
            return f"holds {int(np.isnan(leaf).sum())} NaN of {leaf.size} values"
        if bounded and not space.contains(leaf.astype(dtype)):
            return f"is {leaf.tolist() if leaf.size < 9 else 'a value'}, outside {space}"
        return None

    return check


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
        frame: Any = env.render()
        if frame is None:
            raise ValueError("the environment gave no frame; call rollout(..., render=True)")
        self.frames[seed].append(np.array(frame, np.uint8))
