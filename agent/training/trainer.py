"""The training loop: batches in, a trained model and its checkpoints out.

Everything random in a step (stochastic depth, patch positions) is drawn from a seed made of (seed, step), and the batch is a
pure function of the step too: a run that is stopped and resumed gives the same losses, bit for bit, as one that was not.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from .. import checkpoint
from ..backbones.decoder import Decoder
from ..hardware import Precision, autocast, keep_freed_memory, return_freed_memory
from ..loss import target_losses, trained_targets
from ..model import Model
from .optimizer import OptimizerConfig, build_optimizer, learning_rate
from .optimizer_state import flatten_optimizer, restore_optimizer


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length, format and rhythm of a run."""

    steps: int = 1000            # optimiser steps
    accumulate: int = 1          # batches per step; on a CPU a larger batch is faster than accumulating
    precision: Precision = "auto"
    compile: bool = False        # torch.compile: 1.2 to 1.4 times faster after 20 to 45 seconds; needs a C++ compiler
    seed: int = 0
    log_every: int = 10          # steps per line of the log
    save_every: int = 500        # steps per checkpoint

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name}={getattr(self, name)} must be at least 1")


class Batch(Protocol):
    """What the loop needs of a batch: Tokens (batch, seq) as NumPy arrays and the source of each row, int (batch,)."""

    @property
    def tokens(self) -> Any: ...

    @property
    def source(self) -> Any: ...


@dataclass(frozen=True)
class Report:
    """The log of the steps since the last report.

    Attributes:
        step: optimiser steps done.
        tokens: tokens seen since the first step.
        loss: mean over the targets, in nats.
        losses, shares: per source, mean loss (where it had targets) and share of the tokens.
        tokens_per_second, learning_rate, gradient_norm: of the last stretch, or its last step.
    """

    step: int
    tokens: int
    loss: float
    losses: dict[str, float]
    shares: dict[str, float]
    tokens_per_second: float
    learning_rate: float
    gradient_norm: float


class Trainer:
    """One model, its optimiser and the step it has reached."""

    def __init__(self, model: Model, optimizer: OptimizerConfig, config: TrainingConfig, sources: list[str]) -> None:
        """sources: names in the order of the numbers in `Batch.source`."""
        keep_freed_memory()
        self.model, self.config, self.optimizer_config, self.sources = model, config, optimizer, sources
        self.device = next(model.parameters()).device
        self.optimizer = build_optimizer(model, optimizer)
        self.step, self.tokens = 0, 0
        if config.compile:
            if not isinstance(model.backbone, Decoder):
                raise ValueError(f"training.compile=true works with the backbone decoder, not {model.config.backbone.kind}")
            model.backbone.compile_blocks()

    def train_step(self, batches: list[Batch]) -> tuple[Tensor, Tensor, float]:
        """One optimiser step over `accumulate` batches.

        Returns:
            losses and counts of targets per source, float (n_sources,) each, and the gradient norm before clipping.
        Raises:
            FloatingPointError: loss or gradient is not finite; the weights are as before the step.
        """
        config, device = self.config, self.device
        torch.manual_seed(config.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.optimizer_config, self.step, config.steps)
        self.model.train()
        sums, counts = torch.zeros(2, len(self.sources), device=device).unbind()
        read = [batch.tokens.to_torch(device) for batch in batches]
        targets = [trained_targets(self.model, tokens) for tokens in read]
        total = max(1, sum(int(drawn.sum()) for drawn in targets))
        for batch, tokens, drawn in zip(batches, read, targets, strict=True):
            source = torch.as_tensor(batch.source, device=device)
            with autocast(device, config.precision):
                losses, rows = target_losses(self.model, tokens, drawn)
            (losses.sum() / total).backward()
            sums.index_add_(0, source[rows], losses.detach())
            counts.index_add_(0, source[rows], torch.ones_like(losses))
            self.tokens += tokens.ids.numel()
        if not sums.isfinite().all():
            self.refuse("loss", [self.sources[i] for i in (~sums.isfinite()).nonzero()[:, 0].tolist()])
        clip = self.optimizer_config.clip or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip))
        if not math.isfinite(norm):
            self.refuse("gradient", [self.sources[i] for i in counts.nonzero()[:, 0].tolist()])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return sums, counts, norm

    def refuse(self, what: str, sources: list[str]) -> None:
        """Stop before a step that would ruin every weight."""
        self.optimizer.zero_grad(set_to_none=True)
        raise FloatingPointError(f"the {what} of step {self.step} is not finite (sources: {', '.join(sources)}); the weights "
                                 "are untouched. Lower optimizer.learning_rate or look at the data of this step")

    def save(self, run: Path, documents: Mapping[str, Any], files: Mapping[str, bytes]) -> Path:
        """Checkpoint of everything that the next step depends on; documents and files go in as they are."""
        state = {"step": self.step, "tokens": self.tokens}
        tensors = {"model": self.model.state_dict(),
                   "optimizer": flatten_optimizer(self.optimizer, self.model)}
        return checkpoint.save(run, self.step, tensors=tensors, documents={**documents, "state": state}, files=files)

    def restore(self, saved: "checkpoint.Checkpoint") -> None:
        """Continue where `saved` stopped."""
        self.model.load_state_dict(saved.tensors["model"])
        restore_optimizer(self.optimizer, self.model, saved.tensors["optimizer"])
        self.step, self.tokens = saved.documents["state"]["step"], saved.documents["state"]["tokens"]

    def run(self, batches: Iterator[Batch], run: Path, documents: Mapping[str, Any], files: Mapping[str, bytes],
            on_report: Callable[[Report], None] = lambda report: None) -> None:
        """Train to the last step; TensorBoard in `run`/tensorboard, checkpoints in `run`/checkpoints.

        Args:
            batches: starts with the first batch of the trainer's current step.
            documents, files: see `save`.
            on_report: called every `log_every` steps and after the last one.
        Raises:
            KeyboardInterrupt: on Ctrl-C or SIGTERM, after the step under way has been finished and saved.
        """
        config = self.config
        writer = SummaryWriter(str(run / "tensorboard"), purge_step=self.step + 1)
        sums, counts, row_tokens = torch.zeros(3, len(self.sources), dtype=torch.float64).unbind()
        started, tokens_before = time.perf_counter(), self.tokens
        with interruptible() as interrupted, writer:
            while self.step < config.steps:
                stretch = [next(batches) for _ in range(config.accumulate)]
                step_sums, step_counts, norm = self.train_step(stretch)
                sums += step_sums.cpu()
                counts += step_counts.cpu()
                for batch in stretch:
                    row_tokens += torch.bincount(torch.as_tensor(batch.source).long(), minlength=len(self.sources))
                last = self.step == config.steps
                if self.step % config.log_every == 0 or last:
                    now = time.perf_counter()
                    report = self.report(sums, counts, row_tokens, (self.tokens - tokens_before) / (now - started), norm)
                    log(writer, report)
                    on_report(report)
                    for total in (sums, counts, row_tokens):
                        total.zero_()
                    started, tokens_before = time.perf_counter(), self.tokens
                if self.step % config.save_every == 0 or last or interrupted.is_set():
                    self.save(run, documents, files)
                    return_freed_memory()
                if interrupted.is_set() and not last:
                    raise KeyboardInterrupt

    def report(self, sums: Tensor, counts: Tensor, rows: Tensor, tokens_per_second: float, norm: float) -> Report:
        """Means of a stretch of steps; see Report."""
        per_source = {name: float(s / c) for name, s, c in zip(self.sources, sums, counts, strict=True) if c}
        shares = {name: float(r / rows.sum()) for name, r in zip(self.sources, rows, strict=True)}
        return Report(self.step, self.tokens, float(sums.sum() / counts.sum().clamp(min=1)), per_source, shares,
                      tokens_per_second, self.optimizer.param_groups[0]["lr"], norm)


def log(writer: SummaryWriter, report: Report) -> None:
    """Write a report to TensorBoard."""
    scalars = {"loss/all": report.loss, "speed/tokens_per_second": report.tokens_per_second, "tokens": report.tokens,
               "optimizer/learning_rate": report.learning_rate, "optimizer/gradient_norm": report.gradient_norm}
    scalars |= {f"loss/{name}": loss for name, loss in report.losses.items()}
    scalars |= {f"share/{name}": share for name, share in report.shares.items()}
    for name, value in scalars.items():
        writer.add_scalar(name, value, report.step)
    writer.flush()


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Within this context Ctrl-C and SIGTERM set the event instead of stopping the program in the middle of a step."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():   # Python delivers signals to the main thread only
        yield asked
        return
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
