"""The agent's loss for the training loop: next-token cross-entropy over all targets of a step, kept apart by source."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from ...tokenizers.tokens import CONTENTS
from ..loss import target_losses, trained_targets
from ..model import Model
from .batch_part import ROWS, Mean
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


def agent_loss(sources: Sequence[str]) -> LossFunction[Model]:
    """The loss of batches whose rows come from these sources, in the order of the numbers in `Batch.source`.

    Its numbers: "tokens", and per source "loss/<source>" (mean over its targets, in nats) and "share/<source>" (of the rows).
    """
    def loss(model: Model, batch: Batch) -> tuple[Mean, Mapping[str, Any]]:
        device = next(model.parameters()).device
        tokens, source = batch.tokens.to_torch(device), torch.as_tensor(batch.source, device=device).long()
        losses, rows = target_losses(model, tokens, trained_targets(model, tokens))
        sums, counts = torch.zeros(2, len(sources), device=device).unbind()
        sums.index_add_(0, source[rows], losses.detach())
        counts.index_add_(0, source[rows], torch.ones_like(losses))
        filled = torch.bincount(source, minlength=len(sources)).to(sums.dtype)
        numbers: dict[str, Any] = {"tokens": tokens.ids.numel()}
        # one transfer for all: three small ones per source would cost more than the loss where there are hundreds
        for name, total, count, rows_of in zip(sources, *torch.stack([sums, counts, filled]).tolist(), strict=True):
            numbers[PER_SOURCE + name] = Mean(total, count)
            numbers[SHARE + name] = Mean(rows_of, len(source))
        return Mean(losses.sum(), len(losses)), numbers
    return loss
