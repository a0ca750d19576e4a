"""A part of a batch that several processes share: random numbers and modules as in one process that has the whole batch.

What is drawn for each row or each picture patch (stochastic depth, patch positions) is drawn for the whole batch from the
generator that all processes seed alike, and each takes what belongs to its rows: so the number of processes changes no sample.

    with part_of_batch({ROWS: Span(8, 4, 16), Kind.PATCH: Span(120, 64, 256)}):
        rand((4, 2), device, of=ROWS)        # rows 8 to 11 of torch.rand(16, 2)
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROWS = "rows"


class Span(NamedTuple):
    """What this process has of something that the whole batch has `total` of: `here`, after `before` of other processes."""

    before: int
    here: int
    total: int


_part: ContextVar[Mapping[Any, Span] | None] = ContextVar("part", default=None)


@contextmanager
def part_of_batch(part: Mapping[Any, Span]) -> Iterator[None]:
    """In this block the model sees a part of a batch: ROWS, or a kind of token -> what this process has of it."""
    token = _part.set(part)
    try:
        yield
    finally:
        _part.reset(token)


def rand(shape: Sequence[int], device: torch.device, *, of: Any, dim: int = 0) -> Tensor:
    """`torch.rand(shape)`, where dimension `dim` counts the rows of the batch or its tokens of a kind (`of`)."""
    span = (_part.get() or {}).get(of)
    if span is None:
        return torch.rand(*shape, device=device)
    assert shape[dim] == span.here, (shape, dim, span)
    whole = [*shape[:dim], span.total, *shape[dim + 1:]]
    return torch.rand(*whole, device=device).narrow(dim, span.before, span.here)


def is_elsewhere(of: Any) -> bool:
    """Whether other processes have tokens of a kind in this batch."""
    span = (_part.get() or {}).get(of)
    return span is not None and span.total > span.here
