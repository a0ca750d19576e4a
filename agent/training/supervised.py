"""A training loop for any model that has a loss: exact resume, a limit in minutes, averaged weights, held-out figures.

    def loss(model, batch):                               # a scalar with gradient, and what else the log should show
        logits = model(batch["images"])
        return F.cross_entropy(logits.float(), batch["labels"]), {"accuracy": ...}

    def batch_of(step):                                   # a pure function of the step; CPU tensors, the loop moves them
        rows, rng = shuffled(len(images), 64, step, seed), np.random.default_rng((seed, step))
        return {"images": ..., "labels": ...}

    with run_lock(run):
        trainer = Supervised(model, loss, OptimizerConfig(learning_rate=1e-3), SupervisedConfig(steps=2000, ema=0.999))
        if checkpoint.checkpoints(run):
            trainer.restore(checkpoint.load(run))
        trainer.run(batch_of, run, {"config": ...}, {}, evaluate=lambda model: {"accuracy": ...}, on_report=bar)
    trainer.final                                         # the model to use: averaged weights where there is an average

As in trainer.py, everything random in a step is drawn from a seed made of (seed, step): stopped and resumed equals not
stopped, bit for bit. With a limit in minutes the schedule follows the clock, and no two runs are the same.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from .. import checkpoint
from ..hardware import Precision, autocast, keep_freed_memory, return_freed_memory
from .optimizer import OptimizerConfig, build_optimizer, learning_rate
from .optimizer_state import flatten_optimizer, restore_optimizer
from .trainer import interruptible

Net = TypeVar("Net", bound=nn.Module)
Batch = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig:
    """Length, format and rhythm of a run."""

    steps: int = 1000
    minutes: float = 0.0          # above 0: the run ends after so many at the latest, the learning rate annealed by then
    precision: Precision = "auto"
    seed: int = 0
    ema: float = 0.0              # above 0: weights are averaged with this decay, and the average is what is saved and used
    log_every: int = 20
    evaluate_every: int = 200
    save_every: int = 200

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "evaluate_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.minutes < 0 or not 0 <= self.ema < 1:
            raise ValueError(f"minutes={self.minutes} must not be negative, and ema={self.ema} must be in [0, 1)")


@dataclass(frozen=True)
class Progress:
    """The log of the steps since the last one.

    Attributes:
        step, steps: done, and to be expected in all (fewer than asked for where the clock ends the run).
        loss, numbers: means over the stretch.
        evaluation: the latest held-out figures; empty before the first.
        steps_per_second, learning_rate, gradient_norm: of the stretch, or its last step.
    """

    step: int
    steps: int
    loss: float
    numbers: Mapping[str, float]
    evaluation: Mapping[str, float]
    steps_per_second: float
    learning_rate: float
    gradient_norm: float


@dataclass
class _Stretch:
    """Sums since the last report."""

    losses: list[float] = field(default_factory=list)
    numbers: dict[str, list[float]] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)


class Supervised(Generic[Net]):
    """One model, its optimiser and the step it has reached."""

    def __init__(self, model: Net, loss: Callable[[Net, Batch], tuple[Tensor, Mapping[str, Any]]], optimizer: OptimizerConfig,
                 config: SupervisedConfig, after_step: Callable[[], None] = lambda: None) -> None:
        """after_step: called when the weights have changed, such as data2vec's `update_teacher`."""
        keep_freed_memory()
        self.model, self.loss, self.optimizer_config, self.config, self.after_step = model, loss, optimizer, config, after_step
        self.device = next(model.parameters()).device
        self.optimizer = build_optimizer(model, optimizer)
        self.mean = copy.deepcopy(model).requires_grad_(False) if config.ema else None
        self.step, self.seconds, self.core_seconds = 0, 0.0, 0.0    # core_seconds: of work; the clock also counts waiting
        self.evaluation: Mapping[str, float] = {}

    @property
    def final(self) -> Net:
        """The model to use, in evaluation mode."""
        return (self.model if self.mean is None else self.mean).eval()

    @property
    def steps(self) -> int:
        """Steps that the run will have: as asked for, or what its pace so far lets the clock allow."""
        share = self.seconds / (60 * self.config.minutes) if self.config.minutes else 0.0
        return min(self.config.steps, math.ceil(self.step / share)) if share else self.config.steps

    @property
    def ended(self) -> bool:
        """Whether the steps are done or the time is up."""
        return self.step >= self.config.steps or 0 < 60 * self.config.minutes <= self.seconds

    def train_step(self, batch: Batch) -> tuple[float, dict[str, float], float]:
        """One optimiser step.

        Returns:
            loss, the other numbers, and the gradient norm before clipping.
        Raises:
            FloatingPointError: loss or gradient is not finite; the weights are as before the step.
        """
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.optimizer_config, self.step, self.steps)
        self.model.train()
        with autocast(self.device, self.config.precision):
            loss, numbers = self.loss(self.model, {name: tensor.to(self.device) for name, tensor in batch.items()})
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.optimizer_config.clip or math.inf))
        value = float(loss.detach())
        if not math.isfinite(norm) or not math.isfinite(value):
            self.optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(f"loss {value} and gradient {norm} of step {self.step} are not both finite; the "
                                     "weights are untouched. Lower the learning rate or look at the data of this step")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.average()
        self.after_step()
        return value, {name: float(number) for name, number in numbers.items()}, norm

    @torch.no_grad()
    def average(self) -> None:
        """Move the mean towards the weights, quickly at first: the first weights are random."""
        if self.mean is None:
            return
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.mean.parameters()), list(self.model.parameters()), 1 - decay)
        for mean, now in zip(self.mean.buffers(), self.model.buffers(), strict=True):
            mean.copy_(now)

    def save(self, run: Path, documents: Mapping[str, Any], files: Mapping[str, bytes]) -> Path:
        """Checkpoint of everything that the next step depends on; "model" has the weights to use."""
        state = {"step": self.step, "seconds": self.seconds, "core_seconds": self.core_seconds,
                 "evaluation": dict(self.evaluation)}
        tensors = {"model": self.final.state_dict(), "optimizer": flatten_optimizer(self.optimizer, self.model)}
        if self.mean is not None:
            tensors["training"] = self.model.state_dict()
        return checkpoint.save(run, self.step, tensors=tensors, documents={**documents, "state": state}, files=files)

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Continue where `saved` stopped.

        Raises:
            ValueError: it was saved by a run with another `ema` choice.
        """
        if ("training" in saved.tensors) != (self.mean is not None):
            raise ValueError(f"{saved.path} was trained {'with' if 'training' in saved.tensors else 'without'} averaged "
                             "weights; continue it in the same way or start a new run")
        self.model.load_state_dict(saved.tensors.get("training", saved.tensors["model"]))
        if self.mean is not None:
            self.mean.load_state_dict(saved.tensors["model"])
        restore_optimizer(self.optimizer, self.model, saved.tensors["optimizer"])
        state = saved.documents["state"]
        self.step, self.evaluation = state["step"], state["evaluation"]
        self.seconds, self.core_seconds = state["seconds"], state["core_seconds"]

    def run(self, batch_of: Callable[[int], Batch], run: Path, documents: Mapping[str, Any], files: Mapping[str, bytes], *,
            evaluate: Callable[[Net], Mapping[str, float]] = lambda model: {},
            on_report: Callable[[Progress], None] = lambda progress: None) -> None:
        """Train to the end; TensorBoard in `run`/tensorboard, checkpoints in `run`/checkpoints.

        Args:
            batch_of: the batch of a step.
            documents, files: go into the checkpoints as they are.
            evaluate: held-out figures of `final`, every `evaluate_every` steps and at the end; runs without gradient.
            on_report: called every `log_every` steps, after evaluations and at the end.
        Raises:
            KeyboardInterrupt: on Ctrl-C or SIGTERM, after the step under way has been finished and saved.
        """
        config = self.config
        stretch, clock, work = _Stretch(), time.perf_counter() - self.seconds, time.process_time() - self.core_seconds
        with interruptible() as interrupted, SummaryWriter(str(run / "tensorboard"), purge_step=self.step + 1) as writer:
            while not self.ended:
                loss, numbers, norm = self.train_step(batch_of(self.step))
                stretch.losses.append(loss)
                for name, number in numbers.items():
                    stretch.numbers.setdefault(name, []).append(number)
                self.seconds, self.core_seconds = time.perf_counter() - clock, time.process_time() - work
                last, stopped = self.ended, interrupted.is_set()
                if self.step % config.evaluate_every == 0 or last:
                    with torch.inference_mode(), autocast(self.device, config.precision):
                        self.evaluation = evaluate(self.final)
                if self.step % config.log_every == 0 or self.step % config.evaluate_every == 0 or last:
                    progress = self.report(stretch, norm)
                    log(writer, progress)
                    on_report(progress)
                    stretch = _Stretch()
                if self.step % config.save_every == 0 or last or stopped:
                    self.save(run, documents, files)
                    return_freed_memory()
                if stopped and not last:
                    raise KeyboardInterrupt

    def report(self, stretch: _Stretch, norm: float) -> Progress:
        """Means of a stretch of steps."""
        return Progress(
            self.step, self.steps, sum(stretch.losses) / len(stretch.losses),
            {name: sum(values) / len(values) for name, values in stretch.numbers.items()}, self.evaluation,
            len(stretch.losses) / (time.perf_counter() - stretch.began), self.optimizer.param_groups[0]["lr"], norm)


def log(writer: SummaryWriter, progress: Progress) -> None:
    """Write a report to TensorBoard."""
    scalars = {"loss/train": progress.loss, "speed/steps_per_second": progress.steps_per_second,
               "optimizer/learning_rate": progress.learning_rate, "optimizer/gradient_norm": progress.gradient_norm}
    scalars |= {f"train/{name}": number for name, number in progress.numbers.items()}
    scalars |= {f"held_out/{name}": number for name, number in progress.evaluation.items()}
    for name, value in scalars.items():
        writer.add_scalar(name, value, progress.step)
    writer.flush()


def shuffled(count: int, size: int, step: int, seed: int) -> np.ndarray:
    """Rows of a step's batch, int64 (size,): every row once per epoch, in another order each time; a pure function."""
    places = np.arange(step * size, (step + 1) * size)
    return np.array([_order(count, int(place) // count, seed)[place % count] for place in places])


@lru_cache(maxsize=2)
def _order(count: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)
