"""Pictures are read as they are meant to be seen."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from calico.datasets.images import ImageStore, centre_crop, decode_file, read_image

# a red corner top left, green top right, blue bottom left
SCENE = np.zeros((24, 40, 3), np.uint8)
SCENE[:12, :20], SCENE[:12, 20:], SCENE[12:, :20] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
TRANSPOSED = {1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
              5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
              8: Image.Transpose.ROTATE_270}   # how a camera with this orientation stores an upright scene


def file(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_upright(kind: str, orientation: int) -> None:
    stored = Image.fromarray(SCENE)
    if (turn := TRANSPOSED[orientation]) is not None:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file(stored, kind, exif=exif, **({"quality": 95} if kind in ("JPEG", "WEBP", "AVIF") else {}))
    pixels = decode_file(data)
    assert pixels.shape == SCENE.shape
    assert np.abs(pixels[4:8, 4:16].astype(int) - SCENE[4:8, 4:16]).mean() < 20
    assert np.abs(pixels[16:20, 4:16].astype(int) - SCENE[16:20, 4:16]).mean() < 20
    assert decode_file(data, 20).shape == (12, 20, 3)


def test_broken_metadata_turns_nothing() -> None:
    assert decode_file(file(Image.fromarray(SCENE), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\xff broken")).shape == SCENE.shape
    broken = decode_file(file(Image.fromarray(SCENE), "PNG", icc_profile=b"no profile"))
    np.testing.assert_array_equal(broken, SCENE)


@pytest.mark.parametrize(("kind", "bits", "dtype"), [("PNG", 16, np.uint16), ("TIFF", 16, np.uint16), ("TIFF", 32, np.float32)])
def test_deep_greys_are_scaled(kind: str, bits: int, dtype: type) -> None:
    levels = np.arange(256, dtype=np.float64).reshape(16, 16)
    deep = (levels * 257).astype(dtype) if dtype is np.uint16 else (levels / 255).astype(dtype)
    np.testing.assert_array_equal(decode_file(file(Image.fromarray(deep), kind))[..., 0], levels.astype(np.uint8))


def test_numbers_that_are_no_brightness_are_refused() -> None:
    for row in ([-1, 2], [np.nan, 0], [0, 1e6]):
        wrong = np.array([row], np.float32)
        with pytest.raises(ValueError, match="its numbers run from .*; save it with 8 or 16 bits"):
            decode_file(file(Image.fromarray(wrong), "TIFF"))


def test_a_palette_is_shrunk_by_its_colours_and_not_by_its_numbers() -> None:
    """Numbers 0 and 2 in turns; their mean, number 1, would be green."""
    image = Image.fromarray((np.indices((16, 16)).sum(0) % 2 * 2).astype(np.uint8), "P")
    image.putpalette([200, 0, 0, 0, 255, 0, 0, 0, 200])
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        small = decode_file(file(image, kind), 4)
        assert small.shape == (4, 4, 3) and np.abs(small.astype(int) - (100, 0, 100)).max() < 30, kind


def test_transparent_places_are_white() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (decode_file(file(image, "PNG")) == 255).all()
    palette = Image.new("P", (4, 4))
    palette.putpalette([9, 9, 9])
    assert (decode_file(file(palette, "GIF", transparency=0)) == 255).all()


def test_of_several_pictures_the_first_is_seen_and_that_is_said(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = file(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        pixels, remark = read_image(data)
        assert (pixels == (255, 0, 0)).all() and remark == "holds several pictures, the first one is used", kind
        (tmp_path / f"{kind}.{kind.lower()}").write_bytes(data)
    assert read_image(file(frames[0], "GIF"))[1] == ""
    assert read_image(file(frames[0], "MPO", save_all=True, append_images=frames[1:]))[1] == ""     # a phone's depth map
    store = ImageStore(tmp_path)
    for name in store.names():
        store[name]
    assert store.remarks == {"holds several pictures, the first one is used": 4}


def test_colours_of_a_profile_become_srgb() -> None:
    """With the primaries of red and blue exchanged, red is blue."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = srgb.replace(b"rXYZ", b"....").replace(b"bXYZ", b"rXYZ").replace(b"....", b"bXYZ").replace(
        "sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    for mode, colour in (("RGB", (250, 0, 0)), ("RGBA", (250, 0, 0, 255))):
        red = Image.new(mode, (4, 4), colour)
        assert (decode_file(file(red, "PNG", icc_profile=srgb)) == (250, 0, 0)).all()
        assert np.abs(decode_file(file(red, "PNG", icc_profile=exchanged)).astype(int) - (0, 0, 250)).max() < 6


def icc_profile(name: str, gamma: float, colours: str) -> bytes:
    """A profile of a gamma, version 2 of the format: of "GRAY", or of "RGB " with sRGB's primaries."""
    def numbers(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(gamma * 256), 0)
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name.encode() + bytes(79 - len(name) % 4),
            b"wtpt": numbers(0.9642, 1, 0.8249)}
    if colours == "GRAY":
        tags |= {b"kTRC": curve}
    else:
        tags |= {b"rXYZ": numbers(0.4361, 0.2225, 0.0139), b"gXYZ": numbers(0.3851, 0.7169, 0.0971),
                 b"bXYZ": numbers(0.1431, 0.0606, 0.7141), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    table, body = struct.pack(">I", len(tags)), b""
    for tag, data in tags.items():
        table += tag + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4sI4s4s4s", 128 + len(table + body), b"none", 0x02100000, b"mntr", colours.encode(), b"XYZ ")
    header += struct.pack(">6H4s", 2000, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + numbers(0.9642, 1, 0.8249)[8:]
    return header.ljust(128, b"\0") + table + body


@pytest.mark.parametrize(("mode", "name", "colours"), [("L", "Dot gain", "GRAY"), ("LA", "a", "GRAY"), ("I;16", "a", "GRAY"),
                                                       ("RGB", "Linear sRGB", "RGB "), ("RGBA", "not sRGB", "RGB ")])
def test_brightness_follows_the_profile_of_grey_and_of_linear_pictures(mode: str, name: str, colours: str) -> None:
    """Half of the light, which is 188 of sRGB's 255: a grey picture's profile was passed over, and any named after sRGB."""
    half: Any = {"L": 128, "LA": (128, 255), "I;16": 128 * 257, "RGB": (128,) * 3, "RGBA": (128, 128, 128, 255)}[mode]
    data = file(Image.new(mode, (4, 4), half), "PNG", icc_profile=icc_profile(name, 1.0, colours))
    assert np.abs(decode_file(data).astype(int) - 188).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_colour_that_is_transparent_leaves_no_rim_where_the_picture_is_shrunk(mode: str) -> None:
    squares = Image.fromarray(np.where(np.indices((64, 64)).sum(0) // 16 % 2, 255, 0).astype(np.uint8)).convert(mode)
    black = 0 if mode == "L" else (0, 0, 0)
    assert (decode_file(file(squares, "PNG", transparency=black), 20) == 255).all()     # white, and white through the black


@pytest.mark.parametrize(("data", "message"), [(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC; save it as JPEG"),
                                               (b"", "it is empty"), (b"<html>", "it is no image")])
def test_what_a_file_is_instead_of_a_picture_is_said(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_file(data)


def test_inks_become_rgb() -> None:
    assert np.abs(decode_file(file(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG")).astype(int) - (0, 255, 255)).max() < 3


def test_the_middle_has_the_wanted_proportions() -> None:
    pixels = np.arange(24 * 40).reshape(24, 40, 1)
    square = centre_crop(pixels, 1, 1)
    assert square.shape == (24, 24, 1) and square[0, 0, 0] == 8
    assert centre_crop(pixels, 10, 40).shape == (10, 40, 1)
    assert centre_crop(pixels, 48, 80) is not None and centre_crop(pixels, 48, 80).shape == (24, 40, 1)


def tiff_of_16_bits(values: np.ndarray, **tags: int) -> bytes:
    """A grey TIFF file of 16 bits, uncompressed."""
    out = io.BytesIO()
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        info[{"photometric": 262, "largest": 281}[name]] = value
    Image.fromarray(values.astype(np.uint16)).save(out, "TIFF", tiffinfo=info)
    return out.getvalue()


@pytest.mark.parametrize("values, tags, meant", [
    ([0, 32768, 65535], {}, [0, 128, 255]),
    ([0, 2048, 4095], {"largest": 4095}, [0, 128, 255]),
    ([0, 2048, 5000], {"largest": 4095}, [0, 8, 19]),              # the tag is wrong: its numbers are larger
    ([65535, 32768, 0], {"photometric": 0}, [0, 127, 255]),
    ([4095, 2048, 0], {"photometric": 0, "largest": 4095}, [0, 127, 255])])
def test_a_tiff_of_16_bits_is_seen_as_its_tags_say(values: list[int], tags: dict[str, int], meant: list[int]) -> None:
    pixels = decode_file(tiff_of_16_bits(np.array([values]), **tags))
    assert pixels[0].tolist() == [[grey] * 3 for grey in meant]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("values, meant, white", [
    ([0, 2048, 4095], [0, 128, 255], 4095),       # twelve bits of a camera in sixteen of a file
    ([0, 512, 1000], [0, 128, 249], 1023),
    ([0, 100, 255], [0, 100, 255], 255),
    ([0, 2048, 4096], [0, 8, 16], 0),
    ([0, 0, 0], [0, 0, 0], 0)])
def test_sixteen_bits_that_use_fewer_are_not_black(form: str, values: list[int], meant: list[int], white: int) -> None:
    pixels, remark = read_image(file(Image.fromarray(np.array([values], np.uint16)), form))
    assert pixels[0].tolist() == [[grey] * 3 for grey in meant]
    assert remark == (f"has 16 bits and uses fewer: {white} is shown as white" if white else "")


def test_colours_of_12_bits_in_16_are_remarked() -> None:
    """Pillow keeps the upper 8 bits of each colour: the picture is nearly black."""
    numbers = np.linspace(0, 4095, 12).astype(">u2").reshape(2, 2, 3)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    for scale, remark in ((1, "has 16 bits for each colour and uses fewer: it is seen nearly black"), (16, "")):
        rows = b"".join(b"\0" + row.tobytes() for row in (numbers * scale).astype(">u2"))
        header = struct.pack(">2I5B", 2, 2, 16, 2, 0, 0, 0)
        chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        assert read_image(b"\x89PNG\r\n\x1a\n" + chunks)[1].partition(";")[0] == remark
