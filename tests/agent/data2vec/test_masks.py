"""data2vec's masks: how much, in what shapes, reproducible."""

from typing import Any

import numpy as np
import pytest
import torch

from calico.agent.data2vec.masks import BlockMask, ExactBlockMask, Mask, RandomMask, SpanMask, draw_masks, kept_positions

ALL: list[tuple[Mask, tuple[int, ...]]] = [
    (BlockMask(), (14, 14)), (SpanMask(), (200,)), (ExactBlockMask(), (14, 14)), (RandomMask(), (200,)),
    (ExactBlockMask(share=0.5, block=5, adjust=0.05, inverse=False), (200,)),
]


def shares(mask: Mask, grid: tuple[int, ...], rows: int = 200) -> np.ndarray:
    return draw_masks(mask, grid, None, range(rows), (0, 0)).float().mean(1).numpy()


@pytest.mark.parametrize(("mask", "grid"), ALL)
def test_a_mask_is_a_function_of_seed_step_sample_and_copy(mask: Mask, grid: tuple[int, ...]) -> None:
    drawn = draw_masks(mask, grid, None, [7, 8], (0, 5), copies=2)
    assert torch.equal(drawn, draw_masks(mask, grid, None, [7, 8], (0, 5), copies=2))
    assert torch.equal(drawn[2:], draw_masks(mask, grid, None, [8], (0, 5), copies=2))   # whatever else is in the batch
    others = [draw_masks(mask, grid, None, [7], key)[0] for key in ((1, 5), (0, 6))]
    assert len({tuple(row.tolist()) for row in [*drawn, *others]}) == 6


def test_shares_are_the_published_ones() -> None:
    assert shares(BlockMask(), (14, 14)).max() <= 120 / 196
    assert shares(BlockMask(), (14, 14)).mean() > 0.57                     # or less, where no block fits any more
    assert shares(SpanMask(), (1000,)).mean() == pytest.approx(0.49, abs=0.01)
    assert set(shares(RandomMask(), (200,))) == {np.float32(0.48)}
    assert set(shares(ExactBlockMask(), (14, 14))) == {np.float32(157 / 196)}     # 39 kept
    assert set(shares(ExactBlockMask(share=0.5, block=5, adjust=0.05, inverse=False), (200,))) == {np.float32(0.5)}


def test_inverse_blocks_keep_neighbours_together() -> None:
    def neighbours(mask: Mask) -> float:
        """Fraction of kept positions whose right neighbour is kept as well."""
        kept = ~draw_masks(mask, (14, 14), None, range(50), (0, 0)).reshape(50, 14, 14)
        return float((kept[:, :, :-1] & kept[:, :, 1:]).sum() / kept[:, :, :-1].sum())

    assert neighbours(ExactBlockMask()) > 0.5 > 0.25 > neighbours(RandomMask(share=0.8))


def test_spans_are_whole() -> None:
    masked = SpanMask(share=0.2, span=10).draw(np.random.default_rng(0), (300,))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], masked.astype(int), [0]])))
    assert (edges[1::2] - edges[::2]).min() >= 10


@pytest.mark.parametrize("mask", [
    SpanMask(), SpanMask(share=0.01), SpanMask(share=0.99), RandomMask(), ExactBlockMask(block=5)])
def test_padding_is_never_masked_and_something_is_left_on_both_sides(mask: Mask) -> None:
    real = torch.arange(30) < torch.tensor([[30], [2], [11]])
    masked = draw_masks(mask, (30,), real, [0, 1, 2], (0, 0), copies=4)
    real = real.repeat_interleave(4, 0)
    assert not (masked & ~real).any()
    assert (masked.sum(1) >= 1).all()
    assert (masked.sum(1) < real.sum(1)).all()


def test_kept_positions_are_what_is_neither_masked_nor_padding() -> None:
    masked = torch.tensor([[0, 1, 0, 1, 0], [0, 1, 1, 1, 0]], dtype=torch.bool)
    assert kept_positions(masked, None).tolist() == [[0, 2, 4], [0, 4, -1]]
    real = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 0]], dtype=torch.bool)
    assert kept_positions(masked, real).tolist() == [[0, 2], [0, -1]]


@pytest.mark.parametrize("kind", [BlockMask, SpanMask, ExactBlockMask, RandomMask])
@pytest.mark.parametrize(("share", "message"), [(1.0, "leaves nothing to see"), (0.0, "leaves nothing to predict")])
def test_a_share_that_leaves_nothing_is_refused(kind: Any, share: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(share=share)


def test_a_sample_of_one_place_is_refused() -> None:
    with pytest.raises(ValueError, match="a sample has 1 positions"):
        draw_masks(RandomMask(), (4,), torch.tensor([[True, False, False, False]]), [0], (0, 0))
