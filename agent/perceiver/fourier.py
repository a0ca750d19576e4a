"""Fourier features of positions, which Perceiver IO (arXiv:2107.14795) appends to the values."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def fourier(positions: Tensor, bands: int, resolution: Sequence[int]) -> Tensor:
    """positions (..., dims) in [-1, 1] -> (..., dims * (2 * bands + 1)): positions, all sines, all cosines.

    The frequencies of a dimension run evenly from 1 to half its resolution, its Nyquist frequency. The order of operations is
    that of the released models: at their highest frequencies the rounding of single precision changes outputs visibly.
    """
    frequencies = torch.stack([torch.linspace(1.0, size / 2, bands, device=positions.device) for size in resolution])
    angles = math.pi * (positions[..., None] * frequencies).flatten(-2)      # (..., dims * bands)
    return torch.cat([positions, angles.sin(), angles.cos()], dim=-1)


@lru_cache(maxsize=8)   # few: the features of a full-size flow model take 190 MB
def fourier_grid(shape: tuple[int, ...], bands: int, resolution: tuple[int, ...], device: torch.device) -> Tensor:
    """Fourier features of every cell of a grid, both ends of [-1, 1] included: (cells, channels). Do not write into it."""
    with torch.inference_mode(False), torch.no_grad():    # it may be built in inference and then used in training
        axes = [torch.linspace(-1.0, 1.0, size, device=device) for size in shape]
        cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        return fourier(cells.flatten(0, -2), bands, resolution)


def fourier_cells(cells: Tensor, shape: Sequence[int], bands: int, resolution: Sequence[int]) -> Tensor:
    """Fourier features of some cells of a grid, given by flat index (n,) -> (n, channels).

    -1 + 2 i / n is not the grid of `fourier_grid`, but the released models were trained with it.
    """
    indices = torch.stack(torch.unravel_index(cells, tuple(shape)), dim=1)
    return fourier(-1 + 2 * indices / torch.tensor(tuple(shape), device=cells.device), bands, resolution)


def fourier_channels(dims: int, bands: int) -> int:
    """Width of `fourier`'s output."""
    return dims * (2 * bands + 1)
