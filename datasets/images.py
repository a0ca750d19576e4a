"""Images as they are meant to be seen, alone or named ones in a folder or a zip: what Pillow decodes, up to MAX_PIXELS.

A file of 17 kB can claim a gigabyte. Every reader of pictures goes through `read_image`:

    orientation       as EXIF says: what a phone took on its side stands upright
    palette, CMYK, Lab, YCbCr, one bit    RGB
    16 bits, floats   scaled to 8 bits: 65535, or 1.0, is white; of a TIFF what its tags say (4095 of 12 bits, white as 0).
                      Where all numbers fit 12, 10 or 8 bits, 4095, 1023 or 255 is white, which the remark says: cameras
                      store their bits so, and the picture would be as good as black
    transparency      on white
    colour profile    converted to sRGB, grey ones too; one that is broken counts for nothing
    several pictures  the first one (GIF, WebP, APNG, TIFF), which the remark says
"""

import contextlib
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from .file_store import FileSource, FileStore

# Without those that run other programs (EPS, WMF), that only name a file's kind (MPEG, HDF5), or that take any bytes.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "PCX", "ICO", "QOI",
           "SGI", "DDS", "PSD")
SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
            ".avif", ".jp2", ".j2k", ".jpx", ".jpf", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".pcx", ".ico", ".qoi",
            ".sgi", ".dds", ".psd")
MAX_PIXELS = 1 << 24
EIGHT_BITS = ("L", "RGB", "RGBA")    # modes that are shrunk as they are; others become one of them first
ORIENTATION = 0x0112                 # EXIF's tag
UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
           5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
           8: Image.Transpose.ROTATE_90}
BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE = 258, 262, 281     # TIFF's tags
FEWER_BITS = (8, 10, 12)             # of cameras, in files of 16
SHALLOW = 16                         # the upper 8 bits of 16 are less where only 12 are used
SRGB = re.compile("(?i)sRGB(?!.*linear)")     # begins the names of its profiles
HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")    # of a phone, at byte 4
_SRGB = ImageCms.createProfile("sRGB")


def decode_file(data: bytes, max_side: int | None = None) -> np.ndarray:
    """The pixels that `read_image` gives."""
    return read_image(data, max_side)[0]


def read_image(data: bytes, max_side: int | None = None) -> tuple[np.ndarray, str]:
    """Decode an image file, see the top of this file.

    Args:
        data: the file.
        max_side: shrink what is larger, keeping the proportions.
    Returns:
        uint8 (height, width, 3) RGB, and what a user should know of it, or "".
    Raises:
        ValueError: not such a file, broken or truncated, more than MAX_PIXELS; numbers that are no brightness.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")    # on large images from 89 million pixels on, see below, and on odd metadata
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels, the limit is {MAX_PIXELS}")
                is_deep = image.mode in ("RGB", "RGBA") and any(";16" in str(tile) for tile in image.tile)
                pixels = _seen(image, max_side)
                if is_deep and pixels.max(initial=0) < SHALLOW:
                    return pixels, "has 16 bits for each colour and uses fewer: it is seen nearly black; scale its numbers"
                return pixels, _remark(image)
    except Exception as error:   # Pillow's decoders raise OSError, SyntaxError, struct.error, zlib.error and more
        # Pillow names its own buffer, <_io.BytesIO object at ...>, where nothing in it is an image
        why = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            why = "it is HEIC; save it as JPEG" if data[4:12] in HEIC else "it is empty" if not data else "it is no image"
        raise ValueError(f"not a readable image, such as PNG, JPEG or WebP ({' '.join(why.split())})") from error


def pixels_of(data: bytes) -> int:
    """How many pixels an image file declares; 0 where it is none. Nothing is decoded."""
    with contextlib.suppress(Exception), warnings.catch_warnings():     # see read_image, which says what is wrong with it
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.width * image.height
    return 0


def seen(image: Image.Image, max_side: int | None = None) -> np.ndarray:
    """An open picture as `read_image` gives it: uint8 (height, width, 3).

    Raises:
        ValueError: it is broken, or its numbers are no brightness.
    """
    try:
        return _seen(image.copy(), max_side)       # a copy: shrinking changes the picture itself
    except Exception as error:                     # as above
        raise ValueError(f"not a readable picture ({' '.join(str(error).split())})") from error


def _seen(image: Any, max_side: int | None) -> np.ndarray:
    """uint8 (height, width, 3) of an open file."""
    if image.format != "JPEG":               # that one is decoded at a smaller size where it is shrunk
        image.load()                         # PNG's EXIF may come last; TIFF's turns the picture
    orientation = 1
    with contextlib.suppress(Exception):     # broken EXIF raises as many kinds of errors as broken pictures; it turns nothing
        orientation = image.getexif().get(ORIENTATION, 1)
    # a colour that stands for transparency would be mixed with its neighbours where the picture is shrunk
    plain = image.mode == "RGBA" or (image.mode in EIGHT_BITS and not image.has_transparency_data)
    shown = image if plain else _eight_bits(image, getattr(image, "tag_v2", {}))
    if max_side is not None and max(shown.size) > max_side:
        shown.thumbnail((max_side, max_side))
    if profile := image.info.get("icc_profile"):
        shown = _in_srgb(shown, profile, is_grey=image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I"))
    if orientation in UPRIGHT:
        shown = shown.transpose(UPRIGHT[orientation])
    if shown.has_transparency_data:
        shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown.convert("RGBA"))
    return np.asarray(shown.convert("RGB"))


def _eight_bits(image: Any, tags: Mapping[int, Any]) -> Image.Image:
    """A picture of any mode as L, RGB or RGBA.

    Args:
        tags: of a TIFF file.
    Raises:
        ValueError: numbers that are not within 0 and white.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if image.mode == "F":
            white = 1.0 if np.isfinite(values).all() and values.max(initial=0) <= 1 else 255.0
        else:
            white = _white(values.max(initial=0), tags)[0]
        if not np.isfinite(values).all() or values.min(initial=0) < 0 or values.max(initial=0) > white:
            raise ValueError(f"its numbers run from {values.min()} to {values.max()}; save it with 8 or 16 bits")
        grey = np.rint(values * (255 / white)).astype(np.uint8)
        # Pillow turns TIFF's "white is 0" over for 8 bits only
        return Image.fromarray(255 - grey if image.mode.startswith("I;") and tags.get(PHOTOMETRIC) == 0 else grey)
    if image.mode == "LAB":
        lab = ImageCms.buildTransform(ImageCms.createProfile("LAB"), _SRGB, "LAB", "RGB")
        return ImageCms.applyTransform(image, lab) or image
    if image.mode == "CMYK" and "icc_profile" in image.info:
        return image.copy()                  # its profile knows the inks better than a formula
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _white(largest: int, tags: Mapping[int, Any]) -> tuple[float, bool]:
    """The number that is white in a grey picture of 16 bits, and whether it was told by the picture's largest number alone."""
    white = (1 << tags.get(BITS_PER_SAMPLE, (16,))[0]) - 1
    if 0 < (said := tags.get(MAX_SAMPLE, (0,))[0]) < white:      # 12 bits of a camera in 16 of a file
        return float(said if largest <= said else white), False
    fewer = next((bits for bits in FEWER_BITS if 0 < largest < 1 << bits), None)
    if fewer is None or MAX_SAMPLE in tags or white != 65535:
        return float(white), False
    return float((1 << fewer) - 1), True


def _in_srgb(image: Image.Image, profile: bytes, is_grey: bool) -> Image.Image:
    """The picture in sRGB's colours; as it is where the profile is broken, or of another kind of colours.

    Args:
        is_grey: the file holds grey alone; a grey picture's profile says how bright it is.
    """
    with contextlib.suppress(Exception):     # lcms raises OSError, ValueError and errors of its own
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if SRGB.match(ImageCms.getProfileDescription(source) or ""):
            return image
        alpha = image.getchannel("A") if image.mode == "RGBA" else None
        grey = is_grey and source.profile.xcolor_space.strip() == "GRAY"
        plain = image.convert("L" if grey else "RGB") if alpha or grey else image
        shown = ImageCms.profileToProfile(plain, source, _SRGB, outputMode="RGB")
        if shown is not None and alpha is not None:
            shown.putalpha(alpha)
        return shown or image
    return image


def _remark(image: Any) -> str:
    with contextlib.suppress(Exception):     # a broken second picture does not make the first one worse
        if image.format != "MPO" and getattr(image, "is_animated", False):    # a phone's MPO: depth or a preview beside it
            return "holds several pictures, the first one is used"
        if image.mode.startswith("I"):
            white, guessed = _white(image.getextrema()[1], getattr(image, "tag_v2", {}))
            return f"has 16 bits and uses fewer: {white:.0f} is shown as white" if guessed else ""
    return ""


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
        least: smallest side of the part, as a fraction of the image's, 0 to 1.
    """
    height, width = pixels.shape[:2]
    fraction = rng.uniform(least, 1)
    left, top = rng.uniform(0, 1 - fraction, 2) * (width, height)
    box = (left, top, left + fraction * width, top + fraction * height)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC, box))


def centre_crop(pixels: np.ndarray, height: float, width: float) -> np.ndarray:
    """The largest middle part (h, w, channels) of an image (H, W, channels) with the proportions height : width."""
    scale = min(pixels.shape[0] / height, pixels.shape[1] / width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (pixels.shape[0] - rows) // 2, (pixels.shape[1] - columns) // 2
    return pixels[top:top + rows, left:left + columns]


class ImageStore(FileStore):
    """Named images; the latest ones are kept decoded.

    Args:
        path: as FileStore.
        max_side: larger images are shrunk to this many pixels on their longer side; None keeps them. The default
            costs 16 patches for a square picture.
        cache_bytes: memory for decoded images.
    """

    what = "image"
    suffixes = SUFFIXES

    def __init__(self, path: str | Path | FileSource, *, max_side: int | None = 64, cache_bytes: int = 1 << 27) -> None:
        super().__init__(path, cache_bytes=cache_bytes)
        self.max_side = max_side

    def decode(self, data: bytes, name: str) -> np.ndarray:
        pixels, remark = read_image(data, self.max_side)
        if remark:
            self.remarked[name] = remark
        return pixels
