"""A part of a batch that several processes share: random numbers and modules as in one process that has the whole batch.

What is drawn for each row or each picture patch (stochastic depth, patch positions) is drawn for the whole batch from the
generator that all processes seed alike, and each takes what belongs to its rows: so the number of processes changes no sample.

    with part_of_batch({ROWS: Span(8, 4, 16), Kind.PATCH: Span(120, 64, 256)}):
        rand((4, 2), device, of=ROWS)        # rows 8 to 11 of torch.rand(16, 2)
        added_up(x.sum(0))                   # over all 16 rows
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = "rows"


class Span(NamedTuple):
    """What this process has of something that the whole batch has `total` of: `here`, after `before` of other processes."""

    before: int
    here: int
    total: int

    def times(self, size: int) -> "Span":
        """The same of something that has so many here: equally many for each."""
        if not self.here:
            assert not size, (size, self)
            return self           # what others have is drawn all the same
        assert size % self.here == 0, (size, self)
        copies = size // self.here
        return Span(copies * self.before, size, copies * self.total)


class Mean(NamedTuple):
    """A mean as total and count, so that the means of several batches can be joined."""

    total: Any     # float or 0-d tensor
    count: Any

    @property
    def value(self) -> float:
        return float(self.total.detach() if isinstance(self.total, Tensor) else self.total) / float(self.count)


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
    """`torch.rand(shape)`, where dimension `dim` counts the rows of the batch or its tokens of a kind (`of`), or so many copies
    of each in a row."""
    span = (_part.get() or {}).get(of)
    if span is None:
        return torch.rand(*shape, device=device)
    span = span.times(shape[dim])
    whole = [*shape[:dim], span.total, *shape[dim + 1:]]
    return torch.rand(*whole, device=device).narrow(dim, span.before, span.here)


def randn_like(x: Tensor) -> Tensor:
    """`torch.randn` of a tensor's shape, dtype and device; its first dimension counts rows, or copies of each in a row."""
    if (span := rows_here()) is None:
        return torch.randn(x.shape, device=x.device, dtype=x.dtype)
    span = span.times(len(x))
    return torch.randn(span.total, *x.shape[1:], device=x.device, dtype=x.dtype).narrow(0, span.before, span.here)


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """`F.dropout`; the first dimension of x counts rows, or copies of each in a row."""
    if not (training and probability) or (span := rows_here()) is None:
        return F.dropout(x, probability, training)
    span = span.times(len(x))
    factors = F.dropout(x.new_ones(span.total, *x.shape[1:]), probability)       # 0 or 1 / (1 - probability)
    return x * factors.narrow(0, span.before, span.here)


def rows_here() -> Span | None:
    """What this process has of the batch's rows; None where it has all."""
    return (_part.get() or {}).get(ROWS)


def added_up(x: Tensor) -> Tensor:
    """The sum over all processes that have a part of this batch, with gradient; x itself where this one has all."""
    return x if rows_here() is None else _AddedUp.apply(x)


class _AddedUp(torch.autograd.Function):
    """What each process gives counts in the sum of every one, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _AddedUp.forward(ctx, gradient)


class BatchNorm2d(nn.BatchNorm2d):
    """PyTorch's, over the rows of all processes that have a part of the batch; its SyncBatchNorm knows CUDA only."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        if not self.training or rows_here() is None:
            return super().forward(x)
        values, dims = x.float(), (0, 2, 3)
        count = added_up(values.new_tensor(float(values.numel() // values.shape[1])))
        mean = added_up(values.sum(dims)) / count
        centred = values - mean[:, None, None]
        variance = added_up(centred.square().sum(dims)) / count
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        normal = centred * (variance + self.eps).rsqrt()[:, None, None]
        return (normal * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def row_counts(batch: Mapping[str, Tensor]) -> dict[Any, int]:
    """For Trainer, where the first tensor of a batch has all rows."""
    return {ROWS: len(next(iter(batch.values())))}


def own_rows(batch: Mapping[str, Tensor], rows: slice, shared: Collection[str] = ()) -> dict[str, Tensor]:
    """The rows of a batch that are this process's; tensors in `shared` have no rows."""
    return {name: tensor if name in shared else tensor[rows] for name, tensor in batch.items()}


def is_elsewhere(of: Any) -> bool:
    """Whether other processes have tokens of a kind in this batch."""
    span = (_part.get() or {}).get(of)
    return span is not None and span.total > span.here
