"""Named images in a folder or a zip file, opened with limits: what comes from outside may be broken or hostile.

Members of a zip are read as a stream and never extracted; their names are keys, so "../x.png" names a picture and no
place on the disk. PNG, JPEG and WEBP only, at most 16 million pixels: a file of 17 kB can claim a gigabyte.
"""

import contextlib
import hashlib
import io
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .byte_cache import ByteCache
from .publish import file_sha256

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 1 << 24
MAX_FILE_BYTES = 1 << 26       # one compressed image
MAX_MEMBERS = 1_000_000        # in a zip; its list of members is held in memory


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
        raise ValueError(f"not a readable PNG, JPEG or WEBP image ({str(error) or type(error).__name__})") from error


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


class ImageStore:
    """Named images; the latest ones are kept decoded.

    Args:
        path: a folder or a .zip file.
        max_side: larger images are shrunk to this many pixels on their longer side; None keeps them. The default
            costs 16 patches for a square picture.
        cache_bytes: memory for decoded images.
    Raises:
        ValueError: the path is neither; the zip is broken or has more than MAX_MEMBERS members.
    """

    def __init__(self, path: str | Path, *, max_side: int | None = 64, cache_bytes: int = 1 << 27) -> None:
        self.path, self.max_side = Path(path), max_side
        self._cache: ByteCache[str, np.ndarray] = ByteCache(cache_bytes, attrgetter("nbytes"))
        self._zip: zipfile.ZipFile | None = None
        self._process = 0
        self._names: frozenset[str] | None = None
        if self.path.is_file():
            self._names = frozenset(self._open().namelist())
        elif not self.path.is_dir():
            raise ValueError(f"{self.path} is neither a folder nor a .zip file of images")

    def __contains__(self, name: str) -> bool:
        """Whether there is such an image; it may still turn out to be broken."""
        return name in self._names if self._names is not None else self._file(name).is_file()

    def __getitem__(self, name: str) -> np.ndarray:
        """uint8 (height, width, 3), read-only.

        Raises:
            ValueError: missing, unreadable, too large: names the place and the image.
        """
        return self._cache.get(name, lambda: self._decode(name))

    def _decode(self, name: str) -> np.ndarray:
        try:
            pixels = decode_file(self._read(name), self.max_side)
        # RuntimeError: an encrypted member; KeyError: no such member; the others: a damaged one.
        except (OSError, ValueError, KeyError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"image {name!r} in {self.path}: {error or type(error).__name__}") from error
        pixels.flags.writeable = False       # shared through the cache
        return pixels

    def fingerprint(self, names: Sequence[str]) -> str:
        """Identifies the images: a zip by its SHA-256, a folder by the names and sizes of the files that are used."""
        if self._names is not None:
            return file_sha256(self.path)
        sizes = sorted((name, self._file(name).stat().st_size) for name in set(names))
        return hashlib.sha256(repr(sizes).encode()).hexdigest()

    def _read(self, name: str) -> bytes:
        with self._stream(name) as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
        return data

    @contextlib.contextmanager
    def _stream(self, name: str) -> Iterator[Any]:
        with self._open().open(name) if self._names is not None else open(self._file(name), "rb") as stream:
            yield stream

    def _file(self, name: str) -> Path:
        file = (self.path / name).resolve()
        if not file.is_relative_to(self.path.resolve()):
            raise ValueError(f"image {name!r} lies outside {self.path}; give names inside the folder")
        return file

    def _open(self) -> zipfile.ZipFile:
        # Forked workers would share the file's position, so each process opens the zip for itself.
        if self._zip is None or self._process != os.getpid():
            try:
                self._zip = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
                raise ValueError(f"{self.path} is not a readable zip file: {error}") from error
            self._process = os.getpid()
            if len(self._zip.filelist) > MAX_MEMBERS:
                raise ValueError(f"{self.path} has {len(self._zip.filelist)} members, the limit is {MAX_MEMBERS}; "
                                 f"use a folder")
        return self._zip

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None}
