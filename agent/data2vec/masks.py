"""Which places data2vec's student does not see. True means masked, which is where the loss counts.

    BlockMask       pictures, version 1: BEiT's blocks (2106.08254, algorithm 1)
    SpanMask        speech and text, version 1: wav2vec 2.0's spans (2006.11477, section 3.1)
    ExactBlockMask  version 2.0: small blocks, then single places until the share is exact; `inverse` draws blocks to keep
    RandomMask      version 2.0, text: single places

A mask is a pure function of (seed, step, sample, copy). At least one place of each sample is masked and at least one is not.
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
class BlockMask:
    """Rectangles of random size and shape until the share is reached or no more fits; two-dimensional grids."""

    share: float = 0.6125    # of the places: 120 of 196
    smallest: float = 0.08   # area of a rectangle as a share of the places: 16 of 196
    aspect: float = 0.3      # height / width is drawn between this and its inverse

    def __post_init__(self) -> None:
        check_share(self.share)

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
class SpanMask:
    """Spans that may overlap, so fewer places are masked than `share` says: 0.65 in spans of 10 masks 49 % of a long sound."""

    share: float = 0.65
    span: int = 10

    def __post_init__(self) -> None:
        check_share(self.share)

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
class ExactBlockMask:
    """Blocks of `block` places along each axis, centred anywhere, then single places until the share is exact (2212.07525)."""

    share: float = 0.8       # of the places that are masked
    block: int = 3
    adjust: float = 0.07     # share of places that is drawn in addition, because blocks overlap
    inverse: bool = True     # the blocks are what the student sees

    def __post_init__(self) -> None:
        check_share(self.share)

    def draw(self, rng: np.random.Generator, grid: tuple[int, ...]) -> np.ndarray:
        """bool, of the grid's shape."""
        size = math.prod(grid)
        share = 1 - self.share if self.inverse else self.share
        drawn = np.zeros(grid, bool)
        centres = rng.integers(grid, size=(int(size * (share + self.adjust) / self.block ** len(grid)), len(grid)))
        for centre in centres:
            drawn[tuple(slice(max(0, c - self.block // 2), c - self.block // 2 + self.block) for c in centre)] = True
        flat, wanted = drawn.reshape(-1), int(size * share)
        surplus = int(flat.sum()) - wanted
        flat[rng.choice(np.flatnonzero(flat == (surplus > 0)), abs(surplus), replace=False)] = surplus < 0
        return ~drawn if self.inverse else drawn


@dataclass(frozen=True, kw_only=True)
class RandomMask:
    """Single places; the share is exact."""

    share: float = 0.48

    def __post_init__(self) -> None:
        check_share(self.share)

    def draw(self, rng: np.random.Generator, grid: tuple[int, ...]) -> np.ndarray:
        """bool, of the grid's shape."""
        size = math.prod(grid)
        masked = np.ones(size, bool)
        masked[rng.choice(size, int(size * (1 - self.share)), replace=False)] = False
        return masked.reshape(grid)


# told apart in configs by their fields: the first one that has all that are given
Mask = RandomMask | SpanMask | ExactBlockMask | BlockMask


def draw_masks(mask: Mask, grid: tuple[int, ...], real: Tensor | None, samples: Sequence[int], key: tuple[int, int],
               copies: int = 1) -> Tensor:
    """Masks of a batch.

    Args:
        grid: places along each axis.
        real: bool (B, T), False at padding on the right, which is never masked; None: there is none.
        samples: what the B samples are called in the data set.
        key: seed and step.
        copies: masks per sample.
    Returns:
        bool (B * copies, T), a sample's copies in a row, on the CPU.
    Raises:
        ValueError: a sample has fewer than two places.
    """
    size = math.prod(grid)
    lengths = [size] * len(samples) if real is None else real.sum(1).tolist()
    if min(lengths) < 2:
        raise ValueError(f"a sample has {min(lengths)} places; masking needs one to see and one to predict: drop short samples")
    masks = np.zeros((len(samples) * copies, size), bool)
    for i in range(len(masks)):
        rng = stream(key[0], "mask", key[1], samples[i // copies], i % copies)
        length = lengths[i // copies]
        drawn = mask.draw(rng, grid if length == size else (length,)).reshape(-1)
        if drawn.all() or not drawn.any():
            drawn[rng.integers(length)] ^= True
        masks[i, :length] = drawn
    return torch.from_numpy(masks)


def kept_places(masked: Tensor, real: Tensor | None) -> Tensor:
    """The places that the student sees, ascending, as Encoder.encode wants them.

        masked  0 1 0 1      kept  0 2
                0 1 1 1             0 -1

    Args:
        masked: bool (B, T).
        real: bool (B, T) or None.
    Returns:
        int64 (B, K) with K of the row that sees most; -1 fills up the others.
    """
    seen = ~masked if real is None else ~masked & real
    counts = seen.sum(1)
    order = (~seen).int().argsort(dim=1, stable=True)[:, : int(counts.max())]
    return torch.where(torch.arange(order.shape[1], device=order.device) < counts[:, None], order, -1)


def check_share(share: float) -> None:
    """Raises ValueError where a mask would leave nothing to see or nothing to predict."""
    if not 0 < share < 1:
        lacking = "see" if share >= 1 else "predict"
        raise ValueError(f"mask share={share} leaves nothing to {lacking}; choose one between 0 and 1")
