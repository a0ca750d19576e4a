"""Parts of pictures, uint8 (height, width, 3): the centre square for use, a random rectangle for training."""

import math

import numpy as np

AREA = (0.35, 1.0)   # of a random crop, as a fraction of the picture
ASPECT = 4 / 3       # its largest width / height; the smallest is the inverse


def centre_square(picture: np.ndarray, side: int | None = None) -> np.ndarray:
    """The square of `side` pixels around the centre; None: as large as fits."""
    height, width = picture.shape[:2]
    side = min(height, width) if side is None else side
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top:top + side, left:left + side]


def random_crop(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A rectangle of random area, aspect and position."""
    height, width = picture.shape[:2]
    area = height * width * rng.uniform(*AREA)
    aspect = math.exp(rng.uniform(-1, 1) * math.log(ASPECT))
    rows, columns = (max(1, round(math.sqrt(size))) for size in (area / aspect, area * aspect))
    rows, columns = min(height, rows), min(width, columns)
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    return picture[top:top + rows, left:left + columns]
