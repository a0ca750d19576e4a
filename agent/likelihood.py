"""Log-likelihoods of given texts under a model: for ranking captions, and for perplexity and bits per byte."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..tokenizers.tokens import Tokens
from .generate import begin, pieces, read
from .model import Model

TARGETS = 2048   # scored at once: bounds the memory of their logits over the whole vocabulary


@dataclass(frozen=True)
class Likelihood:
    """Of one continuation.

    Attributes:
        total: log-likelihood, in nats, summed over the targets.
        count: number of targets.
    """

    total: float
    count: int

    @property
    def mean(self) -> float:
        """Per target, to compare texts of different length."""
        return self.total / max(1, self.count)


def likelihoods(model: Model, documents: Sequence[tuple[Tokens, Sequence[Tokens]]], pad: int, *, rows: int = 32,
                on_done: Callable[[int], None] | None = None) -> list[list[Likelihood]]:
    """Score several continuations of each context; a context is read once and its cache rows are repeated.

    Targets are the tokens of a continuation whose `loss_mask` is True, each predicted from all tokens before it over the whole
    vocabulary, as in training: for a whole dialogue after an empty context these are the assistant's turns. The first token of
    a text, which nothing predicts, is no target. The log-softmax is in fp32 for weights of any dtype.

    Args:
        model: in evaluation mode; see policy.for_acting.
        documents: (context (seq,), its continuations (seq,)); a context may be empty.
        rows: continuations per batch; those of one document are never divided.
        on_done: called after each batch with the number of its documents, for a progress bar.
    Returns:
        per document, one Likelihood per continuation, in the order given.
    Raises:
        ValueError: a document is longer than the model can read.
    """
    lengths = [len(context) + max(map(len, continuations), default=0) for context, continuations in documents]
    limit = model.config.backbone.limit
    if limit is not None and max(lengths, default=0) > limit:
        raise ValueError(f"a document of {max(lengths)} tokens is longer than the model's context of {limit}; cut it into "
                         "parts")
    found: list[list[Likelihood]] = [[] for _ in documents]
    batch: list[int] = []
    order = sorted(range(len(documents)), key=lambda index: lengths[index])          # rows of a batch about equally long
    for number, index in enumerate(order, 1):
        batch.append(index)
        following = documents[order[number]][1] if number < len(order) else None
        if following is not None and sum(len(documents[i][1]) for i in batch) + len(following) <= rows:
            continue
        for i, scored in zip(batch, score(model, [documents[i] for i in batch], pad), strict=True):
            found[i] = scored
        if on_done is not None:
            on_done(len(batch))
        batch = []
    return found


@torch.inference_mode()
def score(model: Model, documents: Sequence[tuple[Tokens, Sequence[Tokens]]], pad: int) -> list[list[Likelihood]]:
    """One batch of `likelihoods`."""
    contexts, continuations = [context for context, _ in documents], [text for _, texts in documents for text in texts]
    owners = [number for number, (_, texts) in enumerate(documents) for _ in texts]
    reading = begin(model, len(contexts), max(map(len, [*contexts, *continuations])))
    reading = read(model, contexts, pad, reading)
    if owners != list(range(len(contexts))):
        reading = reading.select(owners)
    device = reading.last.device
    unread = torch.tensor([len(contexts[owner]) == 0 for owner in owners], device=device)
    totals, counts = torch.zeros(2, len(owners), dtype=torch.float64, device=device)
    last, table = reading.last, model.embedding.table.weight.float()
    for ids, loss_mask, hidden, after in pieces(model, continuations, reading, pad, targets=True):
        targets = loss_mask.clone()                                                  # (rows, n); False at padding
        targets[:, 0] &= ~unread
        unread = torch.zeros_like(unread)
        before = torch.cat([last[:, None], hidden[:, :-1]], dim=1)                   # predicts the token at the same index
        row, _ = targets.nonzero(as_tuple=True)
        nats = [F.cross_entropy(F.linear(states, table), chosen, reduction="none") for states, chosen in zip(
            before[targets].split(TARGETS), ids[targets].long().split(TARGETS), strict=True)]
        totals.index_add_(0, row, -torch.cat(nats).double())
        counts += targets.sum(dim=1)
        last = after.last
    scored = [Likelihood(total, int(count)) for total, count in zip(totals.tolist(), counts.tolist(), strict=True)]
    return [[scored[row] for row, owner in enumerate(owners) if owner == number] for number in range(len(documents))]
