"""The training loop, for any model that has a loss: the agent, the Perceiver's tasks, data2vec and its fine-tuned encoders.

    def loss(model, batch):                               # a scalar with gradient, and numbers for the log
        logits = model(batch["images"])
        return F.cross_entropy(logits.float(), batch["labels"]), {"accuracy": ...}

    def batch_of(number):                                 # a pure function of the number; the loop moves tensors to the device
        rows, rng = shuffled(len(images), 64, number, seed), stream(seed, "views", number)
        return {"images": ..., "labels": ...}

    with run_lock(run):
        trainer = Trainer(model, loss, OptimizerConfig(learning_rate=1e-3), TrainingConfig(steps=2000, ema=0.999))
        if checkpoint.checkpoints(run):
            trainer.restore(checkpoint.load(run))
        trainer.run(batch_of, run, {"config": ...}, {}, evaluate=lambda model: {"accuracy": ...}, on_report=bar)
    trainer.final                                         # the model to use, with averaged weights if `ema` is set

Everything random in a step (dropout, stochastic depth, patch positions) is drawn from a seed made of (seed, step), and the
batch is a pure function of its number: a stopped and resumed run gives the same losses, bit for bit, as an uninterrupted one.
With a limit in minutes the learning rate depends on the clock, and no two runs are the same.
"""

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from ...datasets.publish import write_error
from .. import checkpoint
from ..backbones.decoder import Decoder
from ..config_json import at_least
from ..hardware import Precision, autocast, keep_freed_memory, peak_flops, return_freed_memory
from .batch_part import Mean, Span, part_of_batch
from .optimizer import OptimizerConfig, build_optimizer, learning_rate
from .optimizer_state import named_state, restore_optimizer
from .profiling import profiled
from .ranks import (
    ALONE,
    Ranks,
    Shard,
    answered,
    chosen_shard,
    load_whole,
    local,
    put_away,
    replicated,
    sending,
    shard_model,
    whole,
)
from .saving import Saver
from .spikes import Spikes, highest

Net = TypeVar("Net", bound=nn.Module)
Batch = Mapping[str, Tensor]     # what most losses take; the loop itself passes on whatever `batch_of` gives
LONGEST_WAIT = 20.0              # seconds from Ctrl-C or SIGTERM to the end, where the next batch does not come
MOST_COUNTS = 16                 # of what random numbers are drawn for: rows, and kinds of tokens
PER_SOURCE, SHARE = "loss/", "share/"    # numbers named "loss/<source>": that source's loss; "share/<source>": its fraction


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length and number format of a run, and how often it reports, evaluates and saves."""

    steps: int = 1000            # optimiser steps
    minutes: float = 0.0         # above 0: the run ends after so many minutes at the latest, with the learning rate decayed
    accumulate: int = 1          # batches per step; on a CPU a larger batch is faster than accumulating
    precision: Precision = "auto"
    compile: bool = False        # torch.compile of an agent's decoder: 1.2 to 1.4 times faster after 20 to 45 seconds
    recompute: bool = False      # a decoder's blocks are computed again for the gradient: a third slower, far less memory
    shard: Shard = "auto"        # under torchrun: ddp, each rank has the whole model; fsdp, a part of each block of a decoder;
                                 # auto: fsdp where weights, gradients and AdamW's averages would fill half a card
    peak_tflops: float = 0.0     # of the device in bf16, for the share of it that is used (MFU) in the log; 0: looked up
    seed: int = 0
    ema: float = 0.0             # above 0: weights are averaged with this decay, and the average is what is saved and used
    log_every: int = 10          # steps per line of the log
    evaluate_every: int = 200    # steps per measurement of held-out data
    save_every: int = 500        # steps per checkpoint
    async_save: bool = False     # checkpoints are copied to memory and written while training goes on

    def __post_init__(self) -> None:
        at_least(self, "training.", steps=1, accumulate=1, log_every=1, evaluate_every=1, save_every=1, minutes=0,
                 peak_tflops=0)
        if not 0 <= self.ema < 1:
            raise ValueError(f"training.ema={self.ema} must be in [0, 1)")


# The loss of a batch: a scalar with gradient (batches count the same), or a Mean over targets; and numbers for the log, each a
# scalar or a Mean. The number "tokens" is added up over the run.
LossFunction = Callable[[Net, Any], tuple[Tensor | Mean, Mapping[str, Any]]]


@dataclass(frozen=True)
class TrainingReport:
    """The log of the steps since the last report, the interval.

    Attributes:
        step, steps: done, and expected in all (fewer than configured where the clock ends the run).
        loss, numbers: means over the interval; numbers without a single count are left out.
        evaluation: the latest held-out figures; empty before the first.
        played: the latest scores in play, task -> per cent of expert; empty before the first.
        tokens: read since the first step; 0 where the loss counts none.
        steps_per_second, tokens_per_second: of the interval.
        mfu: share of the devices' peak that the model's matrix products took (recomputed ones do not count, PaLM, 2204.02311,
            appendix B); None where the peak or the model's count is not known.
        learning_rate, gradient_norm: of its last step.
        skipped: steps of the interval that were left out, in words: number, norm, and the sources with the highest losses.
    """

    step: int
    steps: int
    loss: float
    numbers: Mapping[str, float]
    evaluation: Mapping[str, float]
    played: Mapping[str, float]
    tokens: int
    steps_per_second: float
    tokens_per_second: float
    mfu: float | None
    learning_rate: float
    gradient_norm: float
    skipped: Sequence[str] = ()


@dataclass
class Sums:
    """Loss and numbers, added up over batches or steps, on the CPU."""

    loss: Mean = Mean(0.0, 0.0)
    numbers: dict[str, Mean] = field(default_factory=dict)

    def add(self, loss: Mean, numbers: Mapping[str, Any]) -> None:
        """One more batch or step."""
        self.loss = joined(self.loss, loss)
        for name, number in numbers.items():
            self.numbers[name] = joined(self.numbers.get(name, Mean(0.0, 0.0)), as_mean(number))

    def sources(self, prefix: str, holds: Callable[[Mean], bool]) -> str:
        """Words for an error: the sources whose number under `prefix` fulfils `holds`; empty where the loss names none."""
        found = [name.removeprefix(prefix) for name, mean in self.numbers.items() if name.startswith(prefix) and holds(mean)]
        return f" (sources: {', '.join(found)})" if found else ""


def as_mean(number: Any) -> Mean:
    """A scalar is the mean of one."""
    return number if isinstance(number, Mean) else Mean(number, 1)


def joined(one: Mean, other: Mean) -> Mean:
    """The mean over both."""
    return Mean(one.total + float(other.total), one.count + float(other.count))


class Trainer(Generic[Net]):
    """One model, its optimiser and the step it has reached."""

    def __init__(self, model: Net, loss: LossFunction[Net], optimizer: OptimizerConfig, config: TrainingConfig,
                 after_step: Callable[[], None] = lambda: None, *, ranks: Ranks = ALONE,
                 flops_of: Callable[[float], float] | None = None,
                 counts: Callable[[Any], Mapping[Any, int]] = lambda batch: {}) -> None:
        """
        Args:
            after_step: called when the weights have changed, such as data2vec's `update_teacher`.
            flops_of: matrix products of a training step per token, from the share of the tokens that are targets.
            ranks: the processes that train together; each is given its rows of every batch, and trains the same weights.
            counts: what a batch holds of all that random numbers are drawn for, see batch_part.py.
        Raises:
            ValueError: the model cannot be compiled, recomputed or sharded.
        """
        keep_freed_memory()
        self.model, self.loss, self.optimizer_config, self.config, self.after_step = model, loss, optimizer, config, after_step
        self.ranks, self.counts, self.flops_of = ranks, counts, flops_of
        self.device = next(model.parameters()).device
        self.mean = copy.deepcopy(model).requires_grad_(False) if config.ema else None
        if config.recompute:
            recompute_blocks(model)
        self.shard = chosen_shard(model, config.shard, ranks)
        self.shared: nn.Module | None = None       # what forward passes go through under DDP
        if config.compile:
            compile_model(model)
        if ranks.together and self.shard == "fsdp":
            for each in filter(None, (model, self.mean)):
                shard_model(each, ranks)
        elif ranks.together:
            self.shared = replicated(model, loss)
        self.optimizer, self.spikes = build_optimizer(model, optimizer), Spikes(optimizer.skip_spikes)
        self.skipped: list[str] = []                         # since the last report
        self.saver = Saver(ranks, config.async_save)
        self.all_written = False                             # whether every rank has written its part of a checkpoint
        self.step, self.tokens = 0, 0
        self.seconds, self.core_seconds = 0.0, 0.0           # core_seconds: CPU time, which does not count waiting
        self.evaluation: Mapping[str, float] = {}
        self.played: Mapping[str, float] = {}
        self.asked_to_stop: Callable[[], bool] = lambda: False
        self.stopped = False                                 # whether any rank was asked to stop

    @property
    def final(self) -> Net:
        """The model to use, in evaluation mode."""
        return (self.model if self.mean is None else self.mean).eval()

    @property
    def steps(self) -> int:
        """Steps that the run will have: as configured, or fewer where the time limit comes first at the speed so far."""
        passed = self.seconds / (60 * self.config.minutes) if self.config.minutes else 0.0
        return min(self.config.steps, math.ceil(self.step / passed)) if passed else self.config.steps

    @property
    def ended(self) -> bool:
        """Whether the steps are done or the time is up."""
        return self.step >= self.config.steps or 0 < 60 * self.config.minutes <= self.seconds

    def train_step(self, batches: Sequence[Any], parts: Sequence[Mapping[Any, Span]] | None = None) -> tuple[Sums, float]:
        """One optimiser step over `accumulate` batches.

        Args:
            parts: what `exchange` gave for them; None: it is called.
        Returns:
            loss and numbers, and the gradient norm before clipping.
        Raises:
            FloatingPointError: loss or gradient is not finite; the weights are as before the step.
            ValueError: there is no target in any of the batches; the weights are as before the step.
        """
        if parts is None:
            parts, _ = self.exchange(batches)
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.optimizer_config, self.step, self.steps)
        self.model.train()
        alone = len(batches) == 1 and not self.ranks.together
        losses, numbers = zip(*(self.backward(batch, alone, part, sends=part is parts[-1])
                                for batch, part in zip(batches, parts, strict=True)), strict=True)
        sums = Sums()
        for loss, more in zip(losses, numbers, strict=True):
            sums.add(loss, more)
        if self.ranks.together:
            self.stopped = self.asked_to_stop()
            sums, self.stopped = self.over_ranks(sums)
        self.check_loss(sums)
        if not alone:       # the gradient is that of the sum, which the ranks have averaged
            factor = self.ranks.size / sums.loss.count
            torch._foreach_mul_([local(p.grad) for p in self.model.parameters() if p.grad is not None], factor)
        norm = float(whole(nn.utils.clip_grad_norm_(self.model.parameters(), self.optimizer_config.clip or math.inf)))
        if not math.isfinite(norm):
            self.refuse("gradient", sums.sources(PER_SOURCE, lambda loss: loss.count > 0))
        if spike := self.spikes.sees(norm):
            losses = {name.removeprefix(PER_SOURCE): mean.value for name, mean in sums.numbers.items()
                      if name.startswith(PER_SOURCE) and mean.count}
            self.skipped.append(f"step {self.step} was left out, its gradient norm is {norm:.3g}"
                                + (f"; highest losses: {highest(losses)}" if losses else ""))
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if "tokens" in sums.numbers:
            self.tokens += int(sums.numbers.pop("tokens").total)
        if not spike:
            self.average()
            self.after_step()
        return sums, norm

    def backward(self, batch: Any, alone: bool, part: Mapping[Any, Span], sends: bool) -> tuple[Mean, Mapping[str, Any]]:
        """Loss and numbers of one batch; adds the gradient of its mean if it is the only one of the step, else of its sum.

        part: of the whole batch, see `exchange`; sends: the ranks add up the gradients of the step, this batch being its last.
        """
        if isinstance(batch, Mapping):
            batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        with answered(), part_of_batch(part), sending(self.shared or self.model, sends):
            with autocast(self.device, self.config.precision):
                given, numbers = self.loss(self.model, batch) if self.shared is None else self.shared(batch)
            loss = as_mean(given)
            (loss.total / max(1, loss.count) if alone else loss.total).backward()
        return Mean(loss.total.detach(), loss.count), numbers

    def exchange(self, batches: Sequence[Any], failed: bool = False) -> tuple[list[Mapping[Any, Span]], list[int]]:
        """What this rank has of each of the step's batches; and the ranks that have none because their data failed."""
        counted = [self.counts(batch) for batch in batches]
        if not self.ranks.together:
            return [{}] * len(batches), [0] * failed
        names = list(counted[0]) if counted else []
        width = 1 + self.config.accumulate * MOST_COUNTS
        mine = [float(failed), *(count[name] for count in counted for name in names)]
        everyone = self.ranks.gather(mine + [0.0] * (width - len(mine)))
        broken = [rank for rank, theirs in enumerate(everyone) if theirs[0]]
        parts: list[Mapping[Any, Span]] = []
        for number in range(len(batches)):
            columns = [[int(theirs[1 + number * len(names) + at]) for theirs in everyone] for at in range(len(names))]
            parts.append({name: Span(sum(column[:self.ranks.rank]), column[self.ranks.rank], sum(column))
                          for name, column in zip(names, columns, strict=True)})
        return parts, broken

    def over_ranks(self, sums: Sums) -> tuple[Sums, bool]:
        """Loss and numbers of all ranks, and whether one of them was asked to stop; also sets `all_written`."""
        names = sorted(sums.numbers)
        listed = [sums.loss, *(sums.numbers[name] for name in names)]
        told = float(self.stopped), float(self.saver.is_written)
        stops, written, *totals = self.ranks.total([*told, *(float(number) for mean in listed for number in mean)])
        self.all_written = written == self.ranks.size
        loss, *numbers = (Mean(total, count) for total, count in zip(totals[::2], totals[1::2], strict=True))
        return Sums(loss, dict(zip(names, numbers, strict=True))), stops > 0

    def check_loss(self, sums: Sums) -> None:
        """Stop before a step that would ruin the weights, or that learns nothing."""
        if not sums.loss.count:
            self.optimizer.zero_grad(set_to_none=True)
            where = sums.sources(SHARE, lambda rows: rows.total > 0)
            raise ValueError(f"step {self.step} has no target in any row{where} and would learn nothing; lengthen the context, "
                             "or look at the data")
        if not math.isfinite(sums.loss.total):
            self.refuse("loss", sums.sources(PER_SOURCE, lambda loss: not math.isfinite(loss.total)))

    def refuse(self, what: str, sources: str) -> None:
        """Stop before a step that would ruin every weight."""
        self.optimizer.zero_grad(set_to_none=True)
        broken = [name for name, parameter in self.model.named_parameters() if not local(parameter).isfinite().all()]
        state = (f"{len(broken)} of its tensors are not finite since an earlier step, the last checkpoint is sound"
                 if broken else "the weights are untouched")
        raise FloatingPointError(f"the {what} of step {self.step} is not finite{sources}; {state}. Lower "
                                 "optimizer.learning_rate or look at the data of this step")

    @torch.no_grad()
    def average(self) -> None:
        """Update the mean of the weights, quickly at first, because the first weights are random."""
        if self.mean is None:
            return
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_([local(mean) for mean in self.mean.parameters()],
                             [local(now) for now in self.model.parameters()], 1 - decay)
        for mean, now in zip(self.mean.buffers(), self.model.buffers(), strict=True):
            mean.copy_(now)

    def save(self, run: Path, documents: Mapping[str, Any], files: Mapping[str, bytes], *, wait: bool = True) -> Path:
        """A checkpoint of everything that the next step depends on; "model" has the weights of `final`. Every rank must call
        this; the first one writes, and of a sharded model each its part.

        wait: until it is the run's latest; else it becomes that while training goes on, see saving.py.
        """
        state = {"step": self.step, "tokens": self.tokens, "seconds": self.seconds, "core_seconds": self.core_seconds,
                 "evaluation": dict(self.evaluation), "norms": list(self.spikes.norms)}
        tensors = {"model": self.final.state_dict(), "optimizer": named_state(self.optimizer, self.model)}
        if self.mean is not None:
            tensors["training"] = self.model.state_dict()
        self.saver.begin(run, self.step, tensors, {**documents, "state": state}, files)
        if wait or not self.config.async_save:
            self.saver.finish()
        return checkpoint.folder_of(run, self.step)

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Continue where `saved` stopped. Raises ValueError where one of the two has averaged weights and the other has not."""
        averaged = "training" in saved.tensors.keys() | saved.sharded
        if averaged != (self.mean is not None):
            raise ValueError(f"{saved.path} was trained {'with' if averaged else 'without'} averaged weights; continue it in "
                             "the same way or start a new run")
        tensors: Mapping[str, Mapping[str, Tensor]] = saved.tensors
        if not saved.sharded <= tensors.keys():
            tensors = self.own_parts(saved)
        load_whole(self.model, tensors.get("training", tensors["model"]))
        if self.mean is not None:
            load_whole(self.mean, tensors["model"])
        restore_optimizer(self.optimizer, self.model, tensors["optimizer"])
        state = {"tokens": 0, "seconds": 0.0, "core_seconds": 0.0, "evaluation": {}, "norms": []} | saved.documents["state"]
        self.step, self.tokens, self.evaluation = state["step"], state["tokens"], state["evaluation"]
        self.seconds, self.core_seconds = state["seconds"], state["core_seconds"]
        self.spikes.restore(state["norms"])

    def own_parts(self, saved: checkpoint.Checkpoint) -> dict[str, dict[str, Tensor]]:
        """What this rank has of a checkpoint that ranks wrote in parts, as many as there were: whole tensors where its own are.

        Raises:
            ValueError: the checkpoint is of another model.
        """
        weights, parameters = self.model.state_dict(), dict(self.model.named_parameters())

        def like(stem: str, name: str) -> Tensor | None:
            """This rank's own tensor of that name."""
            return parameters.get(name.rpartition("/")[0]) if stem == "optimizer" else weights.get(name)

        return checkpoint.read_parts(saved, like)

    def run(self, batch_of: Callable[[int], Any], run: Path, documents: Mapping[str, Any], files: Mapping[str, bytes], *,
            evaluate: Callable[[Net], Mapping[str, float]] | None = None,
            play: Callable[[Net], Mapping[str, float]] | None = None, play_every: int = 0,
            on_report: Callable[[TrainingReport], None] = lambda report: None, profile: int = 0) -> None:
        """Train to the end; TensorBoard in `run`/tensorboard, checkpoints in `run`/checkpoints.

        Args:
            batch_of: batch number -> batch; step s takes numbers s * accumulate, s * accumulate + 1, ...
            documents, files: saved in every checkpoint.
            evaluate: held-out figures of `final`, every `evaluate_every` steps and at the end; runs without gradient.
            play: scores of `final` in play, every `play_every` steps; 0: never.
            on_report: called every `log_every` steps, after evaluations and at the end.
            profile: so many steps are recorded in `run`/profile.json, see profiling.py.
        Raises:
            KeyboardInterrupt: on Ctrl-C or SIGTERM of any rank, after the step under way has been finished and saved.
            LostRank: another rank died.
            Whatever `batch_of` raises, after the steps that are done have been saved; ValueError where it raised in another
            rank.
        """
        config, saved = self.config, self.step
        interval = _Interval(self.step, self.tokens)
        clock, work = time.perf_counter() - self.seconds, time.process_time() - self.core_seconds
        trace = profiled(profile if self.ranks.is_first else 0, run / "profile.json", self.device)
        with interruptible() as interrupted, self.writer(run) as writer, trace as recorded, self.saver.no_thread_left():
            self.asked_to_stop = interrupted.is_set
            while not self.ended:
                first, failed = self.step * config.accumulate, None
                batches: list[Any] = []
                try:
                    with interrupted.waiting():
                        batches = [batch_of(number) for number in range(first, first + config.accumulate)]
                except BaseException as error:
                    failed = error
                parts, broken = self.exchange([] if failed else batches, failed is not None)
                if broken:
                    if self.step > saved:      # hours of training are not lost for data that cannot be read any more
                        self.save(run, documents, files)
                    self.saver.finish()
                    raise failed or ValueError(f"rank {broken[0]} got no batch for step {self.step}; its own message says why")
                try:
                    sums, norm = self.train_step(batches, parts) if self.ranks.together else self.train_step(batches)
                except FloatingPointError:     # every rank raises it in the same step
                    self.saver.finish()
                    raise
                if self.all_written if self.saver.in_parts else self.saver.is_written:
                    self.saver.finish()
                interval.sums.add(sums.loss, sums.numbers)
                recorded()
                self.seconds, self.core_seconds = time.perf_counter() - clock, time.process_time() - work
                if self.ranks.together and config.minutes:       # one clock, or the ranks would end in different steps
                    self.seconds = self.ranks.gather([self.seconds])[0][0]
                last = self.ended
                if measured := evaluate is not None and (self.step % config.evaluate_every == 0 or last):
                    self.evaluation = self.evaluated(evaluate)
                if play is not None and play_every and self.step % play_every == 0:
                    self.played, measured = play(self.final) if self.ranks.is_first else {}, True
                if self.step % config.log_every == 0 or measured or last:
                    report = self.report(interval, norm)
                    try:
                        if writer is not None:
                            log(writer, report)
                    except OSError as error:      # the figures of a full disk; TensorBoard's thread does not say where
                        raise write_error(run / "tensorboard", error) from error
                    on_report(report)
                    interval = _Interval(self.step, self.tokens)
                # read once: a later signal is handled in the next step
                stopped = self.stopped if self.ranks.together else interrupted.is_set()
                if self.step % config.save_every == 0 or last or stopped:
                    self.save(run, documents, files, wait=last or stopped)
                    saved = self.step
                    return_freed_memory()
                if stopped and not last:
                    raise KeyboardInterrupt

    def evaluated(self, evaluate: Callable[[Net], Mapping[str, float]]) -> Mapping[str, float]:
        """Held-out figures; every rank measures the same, for a sharded model needs all of them."""
        sharded = self.ranks.together and self.shard == "fsdp"
        # FSDP's all-gather cannot write into tensors that were made in inference mode.
        with torch.no_grad() if sharded else torch.inference_mode(), autocast(self.device, self.config.precision):
            found = evaluate(self.final)
        if sharded:
            put_away(self.final)
        return found

    @contextmanager
    def writer(self, run: Path) -> Iterator[SummaryWriter | None]:
        """TensorBoard's, of the rank that writes."""
        if not self.ranks.is_first:
            yield None
            return
        with SummaryWriter(str(run / "tensorboard"), purge_step=self.step + 1) as writer:
            yield writer

    def report(self, interval: "_Interval", norm: float) -> TrainingReport:
        """The report of the steps since the last one."""
        seconds, sums = time.perf_counter() - interval.began, interval.sums
        tokens, peak = self.tokens - interval.tokens, self.config.peak_tflops * 1e12 or peak_flops(self.device)
        used = None
        if self.flops_of and peak and tokens:
            used = tokens * self.flops_of(sums.loss.count / tokens) / seconds / (peak * self.ranks.size)
        skipped, self.skipped = self.skipped, []
        return TrainingReport(
            self.step, self.steps, sums.loss.value, {name: mean.value for name, mean in sums.numbers.items() if mean.count},
            self.evaluation, self.played, self.tokens, (self.step - interval.step) / seconds,
            tokens / seconds, used, self.optimizer.param_groups[0]["lr"], norm, skipped)


@dataclass
class _Interval:
    """Sums since the last report, which was at `step` and `tokens`."""

    step: int
    tokens: int
    sums: Sums = field(default_factory=Sums)
    began: float = field(default_factory=time.perf_counter)


def compile_model(model: nn.Module) -> None:
    """torch.compile in place, block by block, of an agent's decoder. Raises ValueError for other models: their shapes change
    from batch to batch, so compiling would take longer than it saves."""
    backbone = getattr(model, "backbone", model)
    if not isinstance(backbone, Decoder):
        kind = getattr(getattr(backbone, "config", None), "kind", type(model).__name__)
        raise ValueError(f"training.compile=true works with the backbone decoder, not {kind}")
    backbone.compile_blocks()


def recompute_blocks(model: nn.Module) -> None:
    """Activation checkpointing of an agent's decoder. Raises ValueError for other models."""
    backbone = getattr(model, "backbone", model)
    if not isinstance(backbone, Decoder):
        kind = getattr(getattr(backbone, "config", None), "kind", type(model).__name__)
        raise ValueError(f"training.recompute=true works with the backbone decoder, not {kind}")
    for block in backbone.blocks:
        block.recomputed = True


def log(writer: SummaryWriter, report: TrainingReport) -> None:
    """Write a report to TensorBoard."""
    has_sources = any(name.startswith(PER_SOURCE) for name in report.numbers)
    scalars = {"loss/all" if has_sources else "loss/train": report.loss,
               "optimizer/learning_rate": report.learning_rate, "optimizer/gradient_norm": report.gradient_norm}
    scalars |= ({"speed/tokens_per_second": report.tokens_per_second, "tokens": report.tokens} if report.tokens
                else {"speed/steps_per_second": report.steps_per_second})
    scalars |= {} if report.mfu is None else {"speed/mfu": report.mfu}
    scalars |= {name if "/" in name else f"train/{name}": number for name, number in report.numbers.items()}
    scalars |= {f"held_out/{name}": number for name, number in report.evaluation.items()}
    scalars |= {f"play/{name}": number for name, number in report.played.items()}
    for name, value in scalars.items():
        writer.add_scalar(name, value, report.step)
    for text in report.skipped:
        writer.add_text("skipped", text, report.step)
    writer.flush()


class Interrupted(threading.Event):
    """Set by Ctrl-C and SIGTERM, see `interruptible`."""

    is_waiting = False

    def ask(self) -> None:
        """A signal came: the step under way is finished, but a batch that does not come is not waited for for ever."""
        again = self.is_set()
        self.set()
        if self.is_waiting:
            if again:
                raise KeyboardInterrupt
            signal.setitimer(signal.ITIMER_REAL, LONGEST_WAIT)

    def give_up(self) -> None:
        """LONGEST_WAIT has passed."""
        if self.is_waiting:
            raise KeyboardInterrupt

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for data and may be left at any moment: LONGEST_WAIT after the first signal, or at the second."""
        self.is_waiting = True
        try:
            yield
        finally:
            self.is_waiting = False
            if self.is_set():
                signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def interruptible() -> Iterator[Interrupted]:
    """Within this context Ctrl-C and SIGTERM set the event instead of stopping the program in the middle of a step."""
    asked = Interrupted()
    if threading.current_thread() is not threading.main_thread():   # Python delivers signals to the main thread only
        yield asked
        return
    before = {number: signal.signal(number, lambda *_: asked.ask()) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, lambda *_: asked.give_up())
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
