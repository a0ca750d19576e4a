"""Scripted policies in parallel: worker processes that each play some of the seeds.

An expert looks into its environment, so both live in one process; what travels back is the finished episode. A worker
that hangs, is killed or dies of a native crash costs the one episode that it was playing: it is named, the process is
replaced, and the other seeds go on. (Learned policies act for many environments at once: see `rollout` and `isolated.py`.)
"""

import multiprocessing as mp
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import gymnasium as gym

from ..tokenizers.episode import Episode
from .experts import Policy, make_player
from .isolated import detach_process, end, how_it_ended
from .registry import Task
from .runner import EnvironmentFault, rollout

MAX_CHUNK = 32   # seeds handed to a worker at once
AHEAD = 4            # chunks per worker that may be finished before an earlier one is: bounds what waits in memory


def play(task: Task, player: str, seeds: Sequence[int], *, workers: int, time_limit: float = 120.0,
         **settings: Any) -> Iterator[Episode | EnvironmentFault]:
    """Play one episode per seed, yielded in the order of the seeds; a fault stands in place of its episode.

    Args:
        task: what is played.
        player: how it is played, see `experts.make_player`.
        workers: processes; 0 plays in this one, where a hanging environment hangs all.
        time_limit: seconds that making an environment, a reset or a step may take.
        settings: of `rollout` (noise, noise_steps, max_steps, record), plain values.
    Raises:
        ValueError: wrong settings, and what `rollout` raises for reasons other than a faulty environment.
    """
    if workers < 0 or time_limit <= 0:
        raise ValueError(f"workers={workers} must be at least 0 and time_limit={time_limit} above 0")
    if not workers:
        yield from _play_here(task, player, seeds, settings)
        return
    length = min(MAX_CHUNK, max(1, len(seeds) // (AHEAD * workers)))
    chunks = [_Chunk(number, list(seeds[start : start + length])) for number, start in
              enumerate(range(0, len(seeds), length))]
    waiting, finished = deque(chunks), 0
    staff = [_Worker((task, player, settings), time_limit) for _ in range(min(workers, len(chunks)))]
    try:
        while finished < len(chunks):
            for worker in staff:
                if worker.chunk is None and waiting and waiting[0].number < finished + AHEAD * workers:
                    worker.take(waiting.popleft())
            wait([worker.connection for worker in staff if worker.chunk], timeout=0.5)
            for worker in staff:
                worker.listen()
            while finished < len(chunks) and chunks[finished].results:
                chunk = chunks[finished]
                yield chunk.results.popleft()
                chunk.given += 1
                finished += chunk.given == chunk.length
    finally:
        for worker in staff:
            worker.stop()


@dataclass(eq=False)
class _Chunk:
    """A few seeds, and what became of them so far."""

    number: int
    seeds: list[int]             # not yet played
    results: deque[Episode | EnvironmentFault] = field(default_factory=deque)
    given: int = 0

    def __post_init__(self) -> None:
        self.length = len(self.seeds)

    def add(self, result: Episode | EnvironmentFault) -> None:
        self.seeds.pop(0)
        self.results.append(result)


class _Worker:
    """A process that plays one chunk after another, started again when it fails."""

    def __init__(self, work: tuple[Task, str, dict[str, Any]], time_limit: float) -> None:
        self.work, self.time_limit = work, time_limit
        self.chunk: _Chunk | None = None
        self.start()

    def start(self) -> None:
        context = mp.get_context("spawn")   # a forked copy of a process with threads and GL contexts may lock up
        self.connection, theirs = context.Pipe()
        self.steps: Synchronized[int] = context.Value("q", 0)      # of the episode that is being played
        self.alive: Synchronized[float] = context.Value("d", 0.0)  # when it last moved
        self.process = context.Process(target=_work, args=(theirs, self.steps, self.alive, *self.work), daemon=True)
        self.process.start()
        theirs.close()

    def take(self, chunk: _Chunk) -> None:
        self.chunk = chunk
        self.alive.value = time.monotonic()
        with suppress(OSError):   # it is dead already: `listen` finds out
            self.connection.send(chunk.seeds)

    def listen(self) -> None:
        """Take what has been played; replace a process that is dead or hangs.

        Raises:
            what the process reports and is no fault of an episode, such as an environment that cannot be made.
        """
        while self.chunk:
            try:
                result = self.connection.recv() if self.connection.poll() else None
            except (EOFError, OSError):   # of the pipe: an error of the environment arrives as a value
                self.replace(how_it_ended(self.process))
                return
            if result is None:
                break
            if isinstance(result, Exception) and not isinstance(result, EnvironmentFault):
                raise result
            self.chunk.add(result)
            if not self.chunk.seeds:
                self.chunk = None
        if self.chunk and time.monotonic() - self.alive.value > self.time_limit:
            self.replace(f"it hung for more than {self.time_limit:g} s and was killed")

    def replace(self, what: str) -> None:
        """The episode that was being played is lost; a new process plays the rest of the chunk."""
        chunk, self.chunk = self.chunk, None
        steps = self.steps.value
        self.stop()
        self.start()
        if chunk:
            chunk.add(EnvironmentFault(self.work[0].name, chunk.seeds[0], steps, what))
            if chunk.seeds:
                self.take(chunk)

    def stop(self) -> None:
        end(self.process)
        self.connection.close()


def _work(connection: Connection, steps: "Synchronized[int]", alive: "Synchronized[float]", task: Task, player: str,
          settings: dict[str, Any]) -> None:
    """The life of a worker process: seeds in, episodes and faults out."""
    detach_process()

    def moved(row: int, seed: int, done: int, env: gym.Env) -> None:
        steps.value, alive.value = done, time.monotonic()

    with suppress(EOFError, BrokenPipeError, ConnectionResetError):   # nobody is there any more
        while True:
            results = _play_here(task, player, connection.recv(), settings | {"on_step": moved})
            while True:
                try:
                    result: Episode | Exception | None = next(results, None)
                except Exception as error:   # noqa: BLE001  whatever it is, it belongs to the process that asked
                    result = _plain(error)
                if result is None:
                    break
                connection.send(result)


def _plain(error: Exception) -> Exception:
    """An exception that can travel: its message, as the kind of error that a command reports in one line."""
    kinds: tuple[type[Exception], ...] = (EnvironmentFault, ImportError, ValueError, OSError)
    kind: Callable[..., Exception] = next((k for k in kinds if isinstance(error, k)), RuntimeError)
    return error if isinstance(error, EnvironmentFault) else kind(str(error) if kind is not RuntimeError else repr(error))


def _play_here(task: Task, player: str, seeds: Sequence[int], settings: dict[str, Any]) -> Iterator[Episode | EnvironmentFault]:
    """In this process, one environment: results in the order of the seeds."""
    yield from play_here(task, make_player(task, player), seeds, num_envs=1, **settings)   # a wrong player shows when asked


def play_here(task: Task, policy: Policy, seeds: Sequence[int], **settings: Any) -> Iterator[Episode | EnvironmentFault]:
    """`rollout` in this process, with each fault before the next episode that ends. A network plays fastest so, with many
    environments side by side."""
    faults: deque[EnvironmentFault] = deque()
    for episode in rollout(task, policy, seeds, on_fault=faults.append, **settings):
        while faults:
            yield faults.popleft()
        yield episode
    yield from faults
