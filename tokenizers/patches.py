"""Images -> 16 x 16 patches in raster order (Gato, arXiv:2205.06175, section 2.1 and appendix, "Image position").

What differs from the paper, where image sides are multiples of 16: any size works. The bottom and right edges are
padded with zeros. Patches always have MAX_CHANNELS planes, those that an image lacks being zero.
"""

from functools import lru_cache

import numpy as np

from .tokens import MAX_CHANNELS, PATCH_SIZE, POSITION_BINS


def patch_grid(height: int, width: int) -> tuple[int, int]:
    """How many rows and columns of patches cover an image."""
    return -(-height // PATCH_SIZE), -(-width // PATCH_SIZE)


@lru_cache(maxsize=256)
def patch_intervals(height: int, width: int) -> np.ndarray:
    """Where each patch lies in its image, in 1/128 of the sides: uint8 (n, 4), read-only.

    Columns: row start, row stop, column start, column stop; stops are exclusive and at least one above the start. A 32
    x 32 image has [[0, 64, 0, 64], [0, 64, 64, 128], [64, 128, 0, 64], [64, 128, 64, 128]].
    """
    rows, columns = patch_grid(height, width)
    intervals = np.zeros((rows, columns, 4), np.uint8)
    intervals[..., 0:2] = _quantise(rows)[:, None]
    intervals[..., 2:4] = _quantise(columns)[None, :]
    flat = intervals.reshape(-1, 4)
    flat.flags.writeable = False     # shared by all callers through the cache
    return flat


def _quantise(count: int) -> np.ndarray:
    """(count, 2): [i * 128 // count, (i + 1) * 128 // count), at least one wide."""
    index = np.arange(count)
    start = index * POSITION_BINS // count
    return np.stack([start, np.maximum((index + 1) * POSITION_BINS // count, start + 1)], axis=1)


def encode_image(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut images into patches.

    Args:
        images: uint8 (N, H, W, C), C from 1 to MAX_CHANNELS; H and W at least 1.
    Returns:
        patches uint8 (N, n, MAX_CHANNELS, 16, 16) and their intervals uint8 (n, 4), see `patch_intervals`.
    Raises:
        ValueError: another dtype or shape.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] > MAX_CHANNELS or 0 in images.shape[1:]:
        raise ValueError(f"images must be uint8 (N, H, W, C) with 1 to {MAX_CHANNELS} channels and no empty side, got "
                         f"{images.dtype} {images.shape}")
    number, height, width, channels = images.shape
    rows, columns = patch_grid(height, width)
    if height % PATCH_SIZE or width % PATCH_SIZE:
        padded = np.zeros((number, rows * PATCH_SIZE, columns * PATCH_SIZE, channels), np.uint8)
        padded[:, :height, :width] = images
        images = padded
    tiles = images.reshape(number, rows, PATCH_SIZE, columns, PATCH_SIZE, channels)
    fill = np.empty if channels == MAX_CHANNELS else np.zeros
    patches = fill((number, rows, columns, MAX_CHANNELS, PATCH_SIZE, PATCH_SIZE), np.uint8)
    patches[:, :, :, :channels] = tiles.transpose(0, 1, 3, 5, 2, 4)
    return patches.reshape(number, rows * columns, MAX_CHANNELS, PATCH_SIZE, PATCH_SIZE), patch_intervals(height, width)
