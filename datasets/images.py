"""Images, alone or named ones in a folder or a zip: PNG, JPEG and WEBP only, at most 16 million pixels.

A file of 17 kB can claim a gigabyte.
"""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from .file_store import FileStore

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 1 << 24


def decode_file(data: bytes, max_side: int | None = None) -> np.ndarray:
    """Decode an image file.

    Args:
        data: a PNG, JPEG or WEBP file; of an animation the first picture.
        max_side: shrink what is larger, keeping the proportions.
    Returns:
        uint8 (height, width, 3) RGB; transparent places are white.
    Raises:
        ValueError: not such a file, broken or truncated, more than MAX_PIXELS.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")    # Pillow warns about large images from 89 million pixels on; see below
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, the limit is {MAX_PIXELS}")
            if max_side is not None and max(image.size) > max_side:
                image.thumbnail((max_side, max_side))
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
            return np.asarray(image.convert("RGB"))
    except Exception as error:   # Pillow's decoders raise OSError, SyntaxError, struct.error, zlib.error and more
        # Pillow names its own buffer, <_io.BytesIO object at ...>, where nothing in it is an image
        why = "it is no image" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
        raise ValueError(f"not a readable PNG, JPEG or WEBP image ({why})") from error


def encode_file(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 (height, width, 3); `decode_file` gives the same pixels back.

    Raises:
        ValueError: another dtype or shape.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"images are uint8 (height, width, 3), got {pixels.dtype} {pixels.shape}")
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def random_crop(pixels: np.ndarray, least: float, rng: np.random.Generator) -> np.ndarray:
    """A random part of an image, enlarged to the image's size.

    Args:
        pixels: uint8 (height, width, 3).
        least: the part's smallest share of the sides, 0 to 1.
    """
    height, width = pixels.shape[:2]
    share = rng.uniform(least, 1)
    left, top = rng.uniform(0, 1 - share, 2) * (width, height)
    box = (left, top, left + share * width, top + share * height)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC, box))


class ImageStore(FileStore):
    """Named images; the latest ones are kept decoded.

    Args:
        path: a folder or a .zip file.
        max_side: larger images are shrunk to this many pixels on their longer side; None keeps them. The default
            costs 16 patches for a square picture.
        cache_bytes: memory for decoded images.
    """

    what = "image"
    suffixes = (".png", ".jpg", ".jpeg", ".webp")

    def __init__(self, path: str | Path, *, max_side: int | None = 64, cache_bytes: int = 1 << 27) -> None:
        super().__init__(path, cache_bytes=cache_bytes)
        self.max_side = max_side

    def decode(self, data: bytes, name: str) -> np.ndarray:
        """uint8 (height, width, 3)."""
        return decode_file(data, self.max_side)
