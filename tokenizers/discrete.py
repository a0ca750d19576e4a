"""Discrete values <-> numbers in [0, n) (Gato, arXiv:2205.06175, section 2.1: integers are tokens as they are).

A space that starts at `low` is shifted to start at zero. A value too large for one token can be written with several,
most significant first; the paper has no such case.
"""

import numpy as np


def encode_discrete(values: np.ndarray, low: np.ndarray | int, count: np.ndarray | int) -> np.ndarray:
    """Shift integers to start at zero.

    Args:
        values: integers or booleans (..., n).
        low: smallest legal value, (n,) or one for all.
        count: how many legal values there are, (n,) or one for all.
    Returns:
        int64 (..., n) in [0, count).
    Raises:
        TypeError: `values` are not integers.
        ValueError: a value is outside [low, low + count).
    """
    if values.dtype.kind not in "iub":
        raise TypeError(f"discrete values must be integers, got {values.dtype}")
    shifted = values.astype(np.int64) - low
    outside = (shifted < 0) | (shifted >= count)
    if outside.any():
        at = tuple(int(i) for i in np.argwhere(outside)[0])
        first, size = (int(np.broadcast_to(x, values.shape)[at]) for x in (low, count))
        raise ValueError(f"value {values[at]} at index {at} is outside [{first}, {first + size})")
    return np.asarray(shifted, np.int64)


def decode_discrete(numbers: np.ndarray, low: np.ndarray | int) -> np.ndarray:
    """Inverse of `encode_discrete`: int64 (..., n)."""
    return np.asarray(numbers, np.int64) + low


def split_digits(numbers: np.ndarray, base: int, digits: int) -> np.ndarray:
    """Write each number (..., n) with `digits` digits to `base`, most significant first: (..., n, digits)."""
    if digits == 1:
        return numbers[..., None]
    powers = np.array([base**i for i in reversed(range(digits))], np.int64)
    return numbers[..., None] // powers % base


def join_digits(digits: np.ndarray, base: int) -> np.ndarray:
    """Inverse of `split_digits`: (..., n, digits) to (..., n)."""
    total = np.zeros(digits.shape[:-1], np.int64)
    for i in range(digits.shape[-1]):
        total = total * base + digits[..., i]
    return total
