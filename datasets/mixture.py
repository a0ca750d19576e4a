"""Mixture: many sources, one stream of batches whose order is a pure function of (seed, step).

Which source fills which row, and with what, comes from streams named by seed, step and row (streams.py). So there is
nothing to save but the step: a run that stops and resumes sees the same batches, for any number of loader workers, and
rows can be shared among machines. `state` identifies data, weights and settings; resuming with others is refused.

Every row has a target: one that has none, because its pictures fill it or its dialogues have no reply, is drawn again.

    mixture = Mixture([EpisodeSource(...), DocumentSource(...)], {"CartPole-v1": 3, "captions": 1},
                      vocabulary=vocabulary, context=1024, batch_size=32, seed=0)
    for batch in loader(mixture, 0, 1000, workers=2):
        ...
"""

import contextlib
import copy
import ctypes
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from ..tokenizers.tokens import BESIDE, DTYPES, MODALITIES, Tokens
from ..tokenizers.vocabulary import Vocabulary
from .publish import digest
from .sources import DocumentSource, Source
from .streams import stream

OLD_FORMAT = 1     # of `state`: generators seeded by (seed, step) and (seed, step, row), which are one stream in row 0
STATE_FORMAT = 2
CONTENT = ("data", "documents", "episodes", "texts")    # of a source's state: changes where its data are mended or grow
ATTEMPTS = 100     # to draw a row that has a target
POLL = 5           # seconds after which who waits for a worker looks whether it lives
LONGEST_WAIT = 600.0     # seconds that a batch may take
CREWS = 3          # of workers that may fail one after another


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        tokens: Tokens (rows, context) with NumPy arrays.
        source: int64 (rows,), the number of each row's source in `Mixture.names`.
        skipped: what was passed over, see `Mixture.skipped`: all so far, or what is new since the last batch of this process.
    """

    tokens: Tokens
    source: np.ndarray
    skipped: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


class Mixture:
    """Batches drawn from weighted sources.

    The rows of each batch are shared out by the weights: of `batch_size` rows a source with share w gets
    floor(w * batch_size) or one more, in the mean exactly w.

    Args:
        sources: at least one, with different names.
        weights: name -> weight, zero or more, in any unit; every source needs one. None: all the same.
        vocabulary: names the id of padding.
        context: tokens per row.
        batch_size: rows.
        seed: a non-negative integer.
    Attributes:
        names: the sources' names in the order given.
        shares: float64 (sources,), adding up to 1.
        remarks: one line for each source of which some documents or episodes have no target.
        skipped: documents that could not be read so far, source -> number -> why. Together with `state` and a step it says
            what comes next: a document that was passed over once is passed over to the end, also after resuming.
    Raises:
        ValueError: no sources, two of one name, a weight for an unknown source or none for a known one, weights that
            are negative, not finite or all zero; a source that cannot fill a row, or has no targets in one.
    """

    def __init__(self, sources: Sequence[Source], weights: Mapping[str, float] | None = None, *, vocabulary: Vocabulary,
                 context: int, batch_size: int, seed: int = 0) -> None:
        for name, value, least in [("context", context, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)]:
            if value < least:
                raise ValueError(f"{name}={value} is too small; give at least {least}")
        if not sources:
            raise ValueError("the mixture has no sources; give it at least one")
        self.sources, self.vocabulary = list(sources), vocabulary
        self.context, self.batch_size, self.seed, self.format = context, batch_size, seed, STATE_FORMAT
        self.names = [source.name for source in sources]
        self.weights = checked_weights(self.names, weights)
        total = math.fsum(self.weights.values())
        self.shares = np.array([self.weights[name] / total for name in self.names])
        self._ends = np.cumsum(self.shares)
        self._ends[np.flatnonzero(self.shares)[-1]:] = 1.0   # rounding must not leave a gap at the end
        self.remarks: list[str] = []
        self.skipped: dict[str, dict[int, str]] = {s.name: s.skipped for s in sources if isinstance(s, DocumentSource)}
        for row, share in enumerate(self.shares):            # what is wrong shows now, not in the middle of a run
            if share:
                self._check_targets(self.sources[row])
                self._row(0, row, row)

    def _check_targets(self, source: Source) -> None:
        found = source.targets(self.context)
        if found.without and found.without == found.looked_at:
            raise ValueError(f"source {source.name!r} has nothing to learn: {found.describe(self.context)}")
        if found.without:
            self.remarks.append(f"source {source.name!r}: {found.describe(self.context)}")

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """Batch number `step`; with `rows` only those of its rows, for machines that share a batch."""
        source = self._sources_of(step)
        chosen = range(self.batch_size)[rows]
        sequences = [self._row(step, row, int(source[row])) for row in chosen]
        return Batch(Tokens.stack(sequences, self.vocabulary.pad, self.context), source[rows], self.skipped)

    def most_bytes(self, rows: slice = slice(None)) -> int:
        """Upper bound of a batch's memory: every token a patch or a stretch of sound."""
        per_token = sum(np.dtype(kind).itemsize for name, kind in DTYPES.items() if name not in BESIDE)
        beside = max(modality.row_bytes for modality in MODALITIES.values())
        return len(range(self.batch_size)[rows]) * self.context * (per_token + beside)

    def _sources_of(self, step: int) -> np.ndarray:
        """Which source fills each row: one random offset for evenly spaced points, then shuffled."""
        rng = self._stream("sources", step)
        points = (rng.random() + np.arange(self.batch_size)) / self.batch_size
        return rng.permutation(np.searchsorted(self._ends, points, side="right"))

    def _row(self, step: int, row: int, number: int) -> Tokens:
        source = self.sources[number]
        for attempt in range(ATTEMPTS):
            tokens = source.sample(self._stream("row", step, row, attempt), self.context)
            if not 0 < len(tokens) <= self.context:
                raise ValueError(f"source {source.name!r} gave {len(tokens)} tokens for a row of {self.context}")
            if tokens.loss_mask.any() or self.format == OLD_FORMAT:
                return tokens
        raise ValueError(f"source {source.name!r}: {ATTEMPTS} rows of {self.context} tokens were drawn for step {step}, "
                         "none has a target; raise backbone.context, shorten its prompts or leave out what has no target")

    def _stream(self, purpose: str, *numbers: int) -> np.random.Generator:
        if self.format == OLD_FORMAT:   # step, and the row where there is one
            return np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, *numbers[:2]))))
        return stream(self.seed, purpose, *numbers)

    def state(self) -> dict[str, Any]:
        """Plain JSON that identifies the stream: together with a step it says what comes next."""
        sources = {s.name: {"weight": self.weights[s.name], **s.describe()} for s in self.sources}
        return {"format": self.format, "seed": self.seed, "context": self.context, "batch_size": self.batch_size,
                "vocabulary": self.vocabulary.to_json(), "order": self.names, "sources": sources}

    def fingerprint(self) -> str:
        """SHA-256 of `state`, 64 hexadecimal digits."""
        return digest(self.state())

    def skip(self, found: Mapping[str, Mapping[Any, str]]) -> None:
        """Pass over documents that another process, or the run that is resumed, could not read.

        Raises:
            ValueError: too many of a source.
        """
        for source in self.sources:
            if isinstance(source, DocumentSource) and found.get(source.name):
                source.skip({int(number): why for number, why in found[source.name].items()})

    def check_state(self, state: Mapping[str, Any], data_changed: bool = False) -> list[dict[str, str]]:
        """Compare with the `state` of the run that is to be resumed, and draw in the order in which that run began.

        Args:
            data_changed: the data of a source may be others: mended, or more of them.
        Returns:
            {source, before, after} of each source with other data, the last two are fingerprints.
        Raises:
            ValueError: data, weights or settings differ: names the first difference.
        """
        self.format = OLD_FORMAT if state.get("format") == OLD_FORMAT else STATE_FORMAT
        new, old = json.loads(json.dumps(self.state())), json.loads(json.dumps(state))
        advice = "restore them, or start a new run from its weights"
        changes = []
        for part in old.get("sources", {}).values():
            if part.pop("shuffle_steps", False):     # of versions up to November 2026, which laid steps into one sequence
                raise ValueError("this run shuffled steps (shuffle_steps=true), which this version does otherwise; start a new "
                                 "run from its weights")
        for name in self.names if old.get("order") == self.names else []:
            before, after = (side["sources"][name] for side in (old, new))
            held, there = ({key: part.get(key) for key in CONTENT} for part in (before, after))
            if difference := first_difference(there, held, f"sources.{name}"):
                if not data_changed:
                    raise ValueError(f"the data are not those of the run that is resumed: {difference}; {advice}, or accept "
                                     "the change with --data-changed")
                changes.append({"source": name, "before": str(before.get("data")), "after": str(after.get("data"))})
            for part in (before, after):
                for key in CONTENT:
                    part.pop(key, None)
        if difference := first_difference(new, old):
            raise ValueError(f"the data are not those of the run that is resumed: {difference}; {advice}")
        return changes


def checked_weights(names: Sequence[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """The weight of each source, or ValueError."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two sources are called {name!r}; give each a name of its own")
    weights = dict.fromkeys(names, 1.0) if weights is None else weights
    for name, weight in weights.items():
        if name not in names:
            raise ValueError(f"weight for the unknown source {name!r}; there are {', '.join(names)}")
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"the weight of source {name!r} is {weight}; give a number of zero or more")
    for name in names:
        if name not in weights:
            raise ValueError(f"source {name!r} has no weight; give it one, 0 to leave it out")
    if not any(weights.values()):
        raise ValueError(f"all weights are zero ({', '.join(names)}); give one of them more")
    return {name: float(weights[name]) for name in names}


def first_difference(new: Any, old: Any, path: str = "") -> str | None:
    """Where two trees of plain values differ, in words."""
    if isinstance(new, dict) and isinstance(old, dict):
        for key in sorted(new.keys() | old.keys()):
            found = first_difference(new.get(key), old.get(key), f"{path}.{key}" if path else str(key))
            if found:
                return found
        return None
    if new == old:
        return None
    now, before = json.dumps(new), json.dumps(old)
    same = len(os.path.commonprefix([now, before]))
    return f"{path} is {short(now, same)} but was {short(before, same)}"


def short(text: str, around: int = 0) -> str:
    """At most some 60 characters of a text, the one at `around` among them."""
    start = 0 if len(text) <= 60 or around < 50 else min(around - 20, len(text) - 54)
    end = len(text) if len(text) - start <= 57 else start + 54
    return ("..." if start else "") + text[start:end] + ("..." if end < len(text) else "")


def loader(mixture: Mixture, start_step: int, stop_step: int, workers: int = 0, *, rows: slice = slice(None),
           prefetch: int = 4) -> Iterator[Batch]:
    """Batches start_step, ..., stop_step - 1 in order, made ahead of time by `workers` processes.

    The batches are the same for any number of workers; with 0 they are made when asked for. They travel in shared
    memory where there is plenty, else through pipes (containers often have 64 MB, and a full one kills the process).

    Args:
        rows: see `Mixture.batch`.
        prefetch: batches that each worker makes ahead.
    """
    if workers == 0:
        return (mixture.batch(step, rows) for step in range(start_step, stop_step))
    shared = shared_memory_free() > 2 * mixture.most_bytes(rows) * (workers * prefetch + 2)
    return _from_workers(_Steps(mixture, start_step, stop_step, rows, shared), workers, prefetch)


def shared_memory_free() -> int:
    """Bytes that processes can still share; 0 where that is not known."""
    try:
        free = os.statvfs("/dev/shm")
    except (OSError, AttributeError):
        return 0
    return free.f_bavail * free.f_frsize


def _from_workers(steps: "_Steps", workers: int, prefetch: int) -> Iterator[Batch]:
    """Batches from worker processes. A batch is a function of its number, so that crews whose processes die, or give no batch
    for LONGEST_WAIT, are replaced and nothing changes.

    Raises:
        ChildProcessError: CREWS of them one after another gave not one batch.
    """
    given, failures = 0, 0
    while given < len(steps):
        try:
            for batch in _one_crew(steps.following(given), workers, prefetch):
                yield batch
                given, failures = given + 1, 0
        except ChildProcessError as error:
            failures += 1
            if failures == CREWS:
                raise ChildProcessError(f"the data workers failed {CREWS} times at step {steps.start + given}: {error}; the "
                                        "memory may be full: lower data.workers, or set it to 0") from None
            warnings.warn(f"the data workers failed at step {steps.start + given} ({error}) and are started again",
                          stacklevel=2)


def _one_crew(steps: "_Steps", workers: int, prefetch: int) -> Iterator[Batch]:
    from torch.utils.data import DataLoader  # only workers need torch

    # fork: workers share the episodes in memory instead of copying them. They touch no accelerator.
    context: Any = None
    if sys.platform == "linux":
        context = copy.copy(multiprocessing.get_context("fork"))       # the one of this process serves others, too
        context.Event = Flag
    dataset: Any = steps
    in_main = threading.current_thread() is threading.main_thread()
    on_death = signal.getsignal(signal.SIGCHLD)
    batches: Any = iter(DataLoader(dataset, batch_size=None, num_workers=workers, prefetch_factor=prefetch, collate_fn=_same,
                                   worker_init_fn=_one_thread, multiprocessing_context=context, timeout=POLL))
    if in_main:     # PyTorch's raises wherever the program is, in the middle of an optimiser's step too; here each wait looks
        signal.signal(signal.SIGCHLD, on_death if on_death is not None else signal.SIG_DFL)
    crew = list(batches._workers)
    with _watched(crew) as watch:
        while True:
            try:
                with watch:
                    made = next(batches)
            except StopIteration:
                return
            # Of DataLoader itself, or of a batch whose worker died while it was handed over: errors of the data come as values.
            except (RuntimeError, OSError, EOFError) as error:
                if watch.fired:
                    raise ChildProcessError(f"no batch came for {LONGEST_WAIT:g} s") from error
                if dead := [worker for worker in crew if not worker.is_alive()]:
                    raise ChildProcessError(_death(dead[0].exitcode)) from error
                if "timed out" not in str(error):
                    raise ChildProcessError((str(error) or type(error).__name__).splitlines()[0]) from error
                continue
            if isinstance(made, Exception):
                raise made
            tokens, source, skipped = made
            yield Batch(tokens.map(np.asarray), source, skipped)


class Flag:
    """An event of several processes without a lock: whether it is set is one byte that all see.

    The workers of a DataLoader look at an event before each batch, and multiprocessing's takes a lock for it; a worker that is
    killed with the lock in its hand leaves all others, the training itself too, waiting for ever.
    """

    def __init__(self) -> None:
        self._value = multiprocessing.RawValue(ctypes.c_bool, False)

    def is_set(self) -> bool:
        return bool(self._value.value)

    def set(self) -> None:
        self._value.value = True


class _Watch:
    """Kills worker processes from which nothing comes for LONGEST_WAIT; entered around each wait for a batch.

    DataLoader's own time limit is not enough: what a batch holds is fetched from the worker that made it, and where that has
    stopped since, the fetching never ends.
    """

    def __init__(self, crew: Sequence[Any]) -> None:
        self.crew, self.fired = crew, False
        self.since: float | None = None        # since when the wait under way lasts; waits without a batch count together
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> None:
        self.since = self.since or time.monotonic()

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        if error is None:
            self.since = None

    def _look(self) -> None:
        while not self.ended.wait(POLL):
            since = self.since
            if since is not None and time.monotonic() - since > LONGEST_WAIT:
                self.fired = True
                self.kill()
                return

    def kill(self) -> None:
        for worker in self.crew:      # one that was stopped hears nothing less, and Python would wait for it at its end
            worker.kill()


@contextlib.contextmanager
def _watched(crew: Sequence[Any]) -> Iterator[_Watch]:
    """The watch over a crew, which does not outlive the block."""
    watch = _Watch(crew)
    watch.thread.start()
    try:
        yield watch
    finally:
        watch.ended.set()
        watch.kill()


def _death(code: int | None) -> str:
    return f"one died of {signal.Signals(-code).name}" if code and code < 0 else f"one ended with exit code {code}"


def prefetched(mixture: Mixture, start_step: int, stop_step: int, workers: int = 0, *,
               rows: slice = slice(None)) -> Callable[[int], Batch]:
    """`loader` as a function of the step, for steps asked for in order.

    Raises:
        ValueError: (the function) another step than the next.
    """
    batches = iter(zip(range(start_step, stop_step), loader(mixture, start_step, stop_step, workers, rows=rows),
                       strict=True))

    def batch(step: int) -> Batch:
        found, made = next(batches, (None, None))
        if made is None or found != step:
            raise ValueError(f"step {step} was asked for, the next one is {found} of [{start_step}, {stop_step})")
        if made.skipped is not mixture.skipped:      # a worker process has its own copy of the mixture
            mixture.skip(made.skipped)
        return made

    return batch


class _Steps:
    """The batches as a map from index to (tokens, source), which is what DataLoader wants.

    Tensors travel in shared memory and are not copied, arrays through a pipe.
    """

    def __init__(self, mixture: Mixture, start: int, stop: int, rows: slice, shared: bool) -> None:
        self.mixture, self.start, self.stop, self.rows, self.shared = mixture, start, stop, rows, shared
        self._told = {name: 0 for name in mixture.skipped}     # of what was passed over, in this process

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def following(self, given: int) -> "_Steps":
        """Those after the first `given`."""
        return _Steps(self.mixture, self.start + given, self.stop, self.rows, self.shared)

    def __getitem__(self, index: int) -> tuple[Tokens, np.ndarray, Mapping[str, Mapping[int, str]]] | Exception:
        try:
            batch = self.mixture.batch(self.start + index, self.rows)
        except (ValueError, OSError) as error:     # as a value: DataLoader would put its traceback into the message
            return error
        news = {name: dict(islice(found.items(), self._told[name], None)) for name, found in batch.skipped.items()}
        self._told = {name: len(found) for name, found in batch.skipped.items()}
        return batch.tokens.to_torch() if self.shared else batch.tokens, batch.source, news


def _same(batch: Any) -> Any:
    return batch


def _one_thread(worker: int) -> None:
    import torch

    torch.set_num_threads(1)   # workers share the cores; each with its own thread pool would slow all of them
