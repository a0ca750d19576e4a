"""Which positions are masked in the input of data2vec's student. True means masked: there the loss counts.

    BlockMask       pictures, version 1: BEiT's blocks (2106.08254, algorithm 1)
    SpanMask        speech and text, version 1: wav2vec 2.0's spans (2006.11477, section 3.1)
    ExactBlockMask  version 2.0: small blocks, then single positions until the fraction is exact; `inverse`: blocks to keep
    RandomMask      version 2.0, text: single positions

A mask is a pure function of (seed, step, sample, copy). Each sample has at least one masked and one unmasked position.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...datasets.streams import stream

TRIES = 10   # BEiT's, per block


@dataclass(frozen=True, kw_only=True)
class PartialMask:
    """What all masks have: `share`, the fraction of the positions that are masked."""

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            lacking = "see" if self.share >= 1 else "predict"
            raise ValueError(f"mask share={self.share} leaves nothing to {lacking}; choose one between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class BlockMask(PartialMask):
    """Rectangles of random size and shape until the fraction is reached or no more fit; two-dimensional grids."""

    share: float = 0.6125    # 120 of 196
    smallest: float = 0.08   # area of a rectangle as a fraction of the grid: 16 of 196
    aspect: float = 0.3      # height / width is drawn between this and its inverse

    def draw(self, rng: np.random.Generator, grid: tuple[int, ...]) -> np.ndarray:
        """bool (rows, columns)."""
        rows, columns = grid
        masked = np.zeros(grid, bool)
        wanted, smallest = int(self.share * masked.size), self.smallest * masked.size
        while (left := wanted - int(masked.sum())) > 0:
            for _ in range(TRIES):
                area = smallest + (left - smallest) * rng.random()
                shape = math.exp((2 * rng.random() - 1) * math.log(self.aspect))
                height, width = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
                if height >= rows or width >= columns:
                    continue
                top, first = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
                block = masked[top:top + height, first:first + width]
                if 0 < block.size - int(block.sum()) <= left:
                    block[:] = True
                    break
            else:
                return masked
        return masked


@dataclass(frozen=True, kw_only=True)
class SpanMask(PartialMask):
    """Spans that may overlap, so that less than `share` is masked: 0.65 in spans of 10 masks 49 % of a long sound."""

    share: float = 0.65
    span: int = 10

    def draw(self, rng: np.random.Generator, grid: tuple[int, ...]) -> np.ndarray:
        """bool (T,)."""
        (length,) = grid
        span = min(self.span, length)
        count = min(int(self.share * length / span + rng.random()), length - span + 1)
        starts = rng.choice(length - span + 1, count, replace=False)
        masked = np.zeros(length, bool)
        masked[(starts[:, None] + np.arange(span)).ravel()] = True
        return masked


@dataclass(frozen=True, kw_only=True)
class ExactBlockMask(PartialMask):
    """Blocks of `block` positions a side, centred anywhere, then single positions until the fraction is exact (2212.07525)."""

    share: float = 0.8
    block: int = 3
    adjust: float = 0.07     # fraction that is drawn in addition, because blocks overlap
    inverse: bool = True     # the blocks are the unmasked positions

    def draw(self, rng: np.random.Generator, grid: tuple[int, ...]) -> np.ndarray:
        """bool, of the grid's shape."""
        size = math.prod(grid)
        fraction = 1 - self.share if self.inverse else self.share
        drawn = np.zeros(grid, bool)
        centres = rng.integers(grid, size=(int(size * (fraction + self.adjust) / self.block ** len(grid)), len(grid)))
        for centre in centres:
            drawn[tuple(slice(max(0, c - self.block // 2), c - self.block // 2 + self.block) for c in centre)] = True
        flat, wanted = drawn.reshape(-1), int(size * fraction)
        surplus = int(flat.sum()) - wanted
        flat[rng.choice(np.flatnonzero(flat == (surplus > 0)), abs(surplus), replace=False)] = surplus < 0
        return ~drawn if self.inverse else drawn


@dataclass(frozen=True, kw_only=True)
class RandomMask(PartialMask):
    """Single positions; the fraction is exact."""

    share: float = 0.48

    def draw(self, rng: np.random.Generator, grid: tuple[int, ...]) -> np.ndarray:
        """bool, of the grid's shape."""
        size = math.prod(grid)
        masked = np.ones(size, bool)
        masked[rng.choice(size, int(size * (1 - self.share)), replace=False)] = False
        return masked.reshape(grid)


# configs name no class: the first one here that has all given fields
Mask = RandomMask | SpanMask | ExactBlockMask | BlockMask


def draw_masks(mask: Mask, grid: tuple[int, ...], real: Tensor | None, samples: Sequence[int], key: tuple[int, int],
               copies: int = 1) -> Tensor:
    """Masks of a batch.

    Args:
        grid: positions along each axis.
        real: bool (B, T), False at padding on the right, which is never masked; None: there is none.
        samples: index of each of the B samples in the data set.
        key: seed and step.
        copies: masks per sample.
    Returns:
        bool (B * copies, T), a sample's copies in a row, on the CPU.
    Raises:
        ValueError: a sample has fewer than two positions.
    """
    size = math.prod(grid)
    lengths = [size] * len(samples) if real is None else real.sum(1).tolist()
    if min(lengths) < 2:
        raise ValueError(f"a sample has {min(lengths)} positions; masking needs one to keep and one to predict: drop short "
                         "samples")
    masks = np.zeros((len(samples) * copies, size), bool)
    for i in range(len(masks)):
        rng = stream(key[0], "mask", key[1], samples[i // copies], i % copies)
        length = lengths[i // copies]
        drawn = mask.draw(rng, grid if length == size else (length,)).reshape(-1)
        if drawn.all() or not drawn.any():
            drawn[rng.integers(length)] ^= True
        masks[i, :length] = drawn
    return torch.from_numpy(masks)


def kept_positions(masked: Tensor, real: Tensor | None) -> Tensor:
    """Indices of the unmasked positions for Encoder.encode, ascending.

        masked  0 1 0 1      kept  0 2
                0 1 1 1             0 -1

    masked, real: bool (B, T). Returns int64 (B, K), K of the row with most; shorter rows are padded with -1.
    """
    unmasked = ~masked if real is None else ~masked & real
    counts = unmasked.sum(1)
    order = (~unmasked).int().argsort(dim=1, stable=True)[:, : int(counts.max())]
    return torch.where(torch.arange(order.shape[1], device=order.device) < counts[:, None], order, -1)
