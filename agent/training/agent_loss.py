"""The agent's loss for the training loop: next-token cross-entropy over all targets of a step, kept apart by source; with a
teacher also cross-entropy with its probabilities of the actions."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from ...tokenizers.tokens import ACTION, CONTENTS
from ..loss import label_losses, target_logits, trained_targets
from ..model import Model
from .batch_part import ROWS, Mean
from .distillation import Teacher
from .trainer import PER_SOURCE, SHARE, LossFunction


class Batch(Protocol):
    """What the loss needs of a batch: Tokens (batch, seq) as NumPy arrays and the source of each row, int (batch,)."""

    @property
    def tokens(self) -> Any: ...

    @property
    def source(self) -> Any: ...


def counts_of(batch: Batch) -> dict[Any, int]:
    """What a batch holds of all that random numbers are drawn for: rows, and tokens of each kind that has contents."""
    return {ROWS: len(batch.source)} | {kind: len(getattr(batch.tokens, names[0])) for kind, names in sorted(CONTENTS.items())}


def agent_loss(sources: Sequence[str], teacher: Teacher | None = None) -> LossFunction[Model]:
    """The loss of batches whose rows come from these sources, in the order of the numbers in `Batch.source`.

    Its numbers: "tokens", and per source "loss/<source>" (mean over its targets, in nats) and "share/<source>" (of the rows).

    Args:
        teacher: whose probabilities of actions are learnt, see distillation.py. "loss/<source>" stays the cross-entropy with
            the data; the number "distillation" is the mean divergence from the teacher at action targets, in nats.
    """
    def loss(model: Model, batch: Batch) -> tuple[Mean, Mapping[str, Any]]:
        device = next(model.parameters()).device
        tokens, source = batch.tokens.to_torch(device), torch.as_tensor(batch.source, device=device).long()
        logits, rows, places = target_logits(model, tokens, trained_targets(model, tokens))
        losses = label_losses(logits, tokens, rows, places)
        total = losses.sum()
        sums, counts = torch.zeros(2, len(sources), device=device).unbind()
        sums.index_add_(0, source[rows], losses.detach())
        counts.index_add_(0, source[rows], torch.ones_like(losses))
        filled = torch.bincount(source, minlength=len(sources)).to(sums.dtype)
        numbers: dict[str, Any] = {"tokens": tokens.ids.numel()}
        if teacher is not None:
            weight, (taught, distance) = teacher.config.weight, teacher.losses(logits, tokens, source, rows, places)
            acts = tokens.position[rows, places + 1] == ACTION
            total = total + weight * (taught.sum() - losses[acts].sum())
            numbers["distillation"] = Mean(distance.sum(), len(distance))
        # one transfer for all: three small ones per source would cost more than the loss where there are hundreds
        for name, of_source, count, rows_of in zip(sources, *torch.stack([sums, counts, filled]).tolist(), strict=True):
            numbers[PER_SOURCE + name] = Mean(of_source, count)
            numbers[SHARE + name] = Mean(rows_of, len(source))
        return Mean(total, len(losses)), numbers
    return loss
