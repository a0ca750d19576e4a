"""Attention in blocks equals attention with a mask of all pairs, forward and backward, for CPUs and for GPUs."""

from collections.abc import Callable
from typing import Protocol

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from calico.agent.backbones.banded import band, banded_attention, block_of_gpu, blocks_at_once, blocks_in_turn, on_gpus


class Form(Protocol):
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, window: int, segment: Tensor | None, block: int) -> Tensor: ...


both_forms = pytest.mark.parametrize("form", [blocks_in_turn, blocks_at_once])


def by_mask(q: Tensor, k: Tensor, v: Tensor, window: int, segment: Tensor | None) -> Tensor:
    """The definition: a mask of all pairs of positions."""
    distance = torch.arange(q.shape[2])[:, None] - torch.arange(q.shape[2])
    seen = (distance >= 0) & (distance < window)
    if segment is not None:
        seen = seen & (segment[:, None, :, None] == segment[:, None, None, :])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


def inputs(seq: int, rows: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and a gradient of the result, (rows, 2 heads, seq, 8), laid out in memory as in the decoder."""
    torch.manual_seed(seed)
    q, k, v, given_gradient = (torch.randn(rows, seq, 2, 8).transpose(1, 2) for _ in range(4))
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), given_gradient


def some_segments(rows: int, seq: int, seed: int) -> Tensor:
    """Episodes of about ten tokens, the last row's end padding (-1), the first row's all of it."""
    segment = (torch.rand(rows, seq, generator=torch.Generator().manual_seed(seed)) < 0.1).cumsum(1)
    segment[-1, seq // 2 :] = -1
    segment[0] = -1
    return segment


def check_equal(form: Form, seq: int, window: int, block: int, seed: int, with_segments: bool) -> None:
    """The form's result and gradients are those of the definition."""
    q, k, v, gradient = inputs(seq, rows=3, seed=seed)
    segment = some_segments(3, seq, seed) if with_segments else None
    expected, found = by_mask(q, k, v, window, segment), form(q, k, v, window, segment, block)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    theirs = torch.autograd.grad(expected, (q, k, v), gradient)
    ours = torch.autograd.grad(found, (q, k, v), gradient)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@both_forms
@settings(max_examples=60, deadline=None)
@given(seq=st.integers(1, 70), window=st.integers(1, 80), block=st.integers(1, 24), seed=st.integers(0, 99),
       with_segments=st.booleans())
def test_any_window_block_and_length(form: Form, seq: int, window: int, block: int, seed: int, with_segments: bool) -> None:
    check_equal(form, seq, window, block, seed, with_segments)


@both_forms
@pytest.mark.parametrize("with_segments", [False, True])
@pytest.mark.parametrize("seq, window, block", [
    (64, 1, 16),      # each token sees itself alone
    (64, 16, 16), (64, 17, 16), (64, 18, 16),      # the window ends with a block, begins one more, and has two of its keys
    (65, 17, 16), (63, 17, 16),      # one token in the last block, and one missing in it
    (48, 48, 16), (48, 200, 16),     # window >= sequence
    (5, 3, 16),       # less than one block
])
def test_edges(form: Form, seq: int, window: int, block: int, with_segments: bool) -> None:
    check_equal(form, seq, window, block, 0, with_segments)


def test_the_band_is_the_one_written_down() -> None:
    inf = -torch.inf
    assert band(3, 2, 2, torch.empty(0)).tolist() == [[inf, 0, 0, inf, inf], [inf, inf, 0, 0, inf], [inf, inf, inf, 0, 0]]


@pytest.mark.parametrize("choose", [banded_attention, on_gpus])
@pytest.mark.parametrize("window", [1, 5, 65, 128, 256, 299, 300, 1000])
@pytest.mark.parametrize("with_segments", [False, True])
def test_with_the_blocks_that_it_chooses(choose: Callable[..., Tensor], window: int, with_segments: bool) -> None:
    """On a CPU also what a GPU takes."""
    def chosen(q: Tensor, k: Tensor, v: Tensor, window: int, segment: Tensor | None, block: int) -> Tensor:
        return choose(q, k, v, window, segment)

    check_equal(chosen, 300, window, 0, 0, with_segments)


def test_blocks_of_gpus_reach_the_window_in_few_blocks() -> None:
    """Two before the own one at most, a multiple of 8 keys: else torch's kernel copies the bias."""
    for window in range(1, 3000):
        block, before = block_of_gpu(window)
        assert block % 8 == 0 and before * block >= window - 1 and before <= 2
        assert (before + 1) * block <= max(1.5 * window + 192, 128)


class LargestTensor(TorchDispatchMode):
    """Keeps the largest number of elements of a result."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, Tensor):
                self.largest = max(self.largest, one.numel())
        return result


@both_forms
@pytest.mark.parametrize("with_segments", [False, True])
def test_no_tensor_grows_with_the_square_of_the_sequence(form: Form, with_segments: bool) -> None:
    """Forward and backward of a sequence of 4,096, without computing: with a mask of all pairs it would be 17 million."""
    with FakeTensorMode(), LargestTensor() as seen:
        q, k, v = (torch.empty(1, 2, 4096, 16, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
        segment = torch.zeros(1, 4096, dtype=torch.int32) if with_segments else None
        form(q, k, v, 256, segment, 128).sum().backward()
    assert q.grad is not None and q.grad.shape == q.shape
    assert seen.largest <= 4096 * 3 * 128


@pytest.mark.parametrize("with_segments", [False, True])
@pytest.mark.parametrize("seq, window, largest", [(16384, 256, 16384 * 384), (16384, 1, 16384 * 128), (512, 256, 512 * 512)])
def test_on_gpus_a_mask_of_all_pairs_is_made_only_where_blocks_would_be_as_large(with_segments: bool, seq: int, window: int,
                                                                                 largest: int) -> None:
    with FakeTensorMode(), LargestTensor() as seen:
        q = torch.empty(1, 2, seq, 16, dtype=torch.bfloat16, requires_grad=True)
        segment = torch.zeros(1, seq, dtype=torch.int32) if with_segments else None
        on_gpus(q, q, q, window, segment).sum().backward()
    assert seen.largest <= largest


def test_the_work_is_in_proportion_to_the_sequence() -> None:
    """Numbers that are computed and copied, forward and backward: twice the sequence takes at most 2.1 times as many. It was
    four times as many where the gradient of each block's keys was as long as the sequence."""
    class Elements(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and not func.is_view:
                self.count += result.numel()
            return result

    counts = []
    for seq in (1024, 2048):
        with FakeTensorMode(), Elements() as seen:
            q, k, v = (torch.empty(1, 1, seq, 16, requires_grad=True) for _ in range(3))
            banded_attention(q, k, v, 64).sum().backward()
        counts.append(seen.count)
    assert counts[1] <= 2.1 * counts[0]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("seq, window", [(1000, 1), (1000, 256), (1024, 200), (300, 256), (512, 512), (512, 600)])
@pytest.mark.parametrize("with_segments", [False, True])
def test_on_a_gpu(dtype: torch.dtype, tolerance: float, seq: int, window: int, with_segments: bool) -> None:
    """Each of its three branches, beside the definition on the CPU in fp32.

    In bf16 a result of 3 is rounded by 0.01, and a gradient that should be 0, as of the key of a query that sees itself alone,
    is the difference of two such.
    """
    q, k, v, gradient = (x.detach() for x in inputs(seq))
    segment = some_segments(2, seq, 0) if with_segments else None
    there = [x.to("cuda", dtype).requires_grad_() for x in (q, k, v)]
    here = [x.to(dtype).float().requires_grad_() for x in (q, k, v)]      # rounded alike
    found = banded_attention(there[0], there[1], there[2], window, None if segment is None else segment.cuda())
    expected = by_mask(here[0], here[1], here[2], window, segment)
    torch.testing.assert_close(found.float().cpu(), expected, atol=tolerance, rtol=tolerance)
    ours = torch.autograd.grad(found, there, gradient.to("cuda", dtype))
    theirs = torch.autograd.grad(expected, here, gradient.to(dtype).float())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.float().cpu(), other, atol=tolerance, rtol=tolerance)
