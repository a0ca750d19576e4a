"""Optical flow: files of true flow, pairs of pictures with them, and the picture that shows flow.

Flow says where each pixel of a first picture is in a second one: float32 (height, width, 2), pixels to the right, then down.
It is NaN where the truth is not known.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...tokenizers.budget import check_npz
from ..file_store import FileStore
from ..images import ImageStore
from ..publish import replace_file
from ..records import named, read_rows

FLO_MAGIC = 202021.25        # Middlebury's, reads "PIEH"
UNKNOWN = 1e9                # Middlebury: flow beyond this is unknown
MAX_SIDE = 1 << 14


# ---- files -----------------------------------------------------------------------------------------------------------------

def decode_flow(data: bytes) -> np.ndarray:
    """Flow of a file: .flo (Middlebury), .pfm (FlyingThings3D), .npz with `flow` and perhaps `valid`, or a PNG of 16 bits
    (KITTI).

    Returns:
        float32 (H, W, 2), NaN where the file says that the flow is unknown.
    Raises:
        ValueError: not such a file, broken or cut short.
        ImportError: a PNG, and the extra `media` is not installed.
    """
    for magic, decode in ((np.float32(FLO_MAGIC).tobytes(), _decode_flo), (b"PF", _decode_pfm), (b"PK", _decode_npz),
                          (b"\x89PNG", _decode_kitti)):
        if data.startswith(magic):
            flow, known = decode(data)
            break
    else:
        raise ValueError("not a file of flow: neither .flo, nor .pfm, nor .npz, nor KITTI's .png")
    if flow.ndim != 3 or flow.shape[2] != 2 or known.shape != flow.shape[:2] or 0 in flow.shape:
        raise ValueError(f"flow of shape {flow.shape} and a mask of {known.shape}; (H, W, 2) and (H, W) were expected")
    known = known & (np.abs(flow) < UNKNOWN).all(axis=2)
    return np.where(known[..., None], flow, np.nan).astype(np.float32)


def _decode_flo(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    width, height = (int(side) for side in np.frombuffer(data[4:12], "<i4")) if len(data) >= 12 else (0, 0)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ValueError(f"a .flo file of {width} x {height} pixels; sides from 1 to {MAX_SIDE} can be read")
    if len(data) < 12 + 8 * width * height:
        raise ValueError(f"cut short: {width} x {height} pixels of flow take {12 + 8 * width * height:,} bytes, "
                         f"it has {len(data):,}")
    flow = np.frombuffer(data, "<f4", 2 * width * height, offset=12).reshape(height, width, 2)
    return flow, np.ones((height, width), bool)


def _decode_pfm(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Three float32 per pixel, the third unused, from the bottom row to the top; a scale below 0 says little-endian."""
    head = re.match(rb"PF\s+(\d{1,6})\s+(\d{1,6})\s+(-?[\d.]+(?:e[+-]?\d+)?)\s", data)
    width, height = (int(head[1]), int(head[2])) if head else (0, 0)
    if head is None or not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ValueError(f"a .pfm file of {width} x {height} pixels; sides from 1 to {MAX_SIDE} can be read")
    if len(data) < head.end() + 12 * width * height:
        raise ValueError(f"cut short: {width} x {height} pixels take {head.end() + 12 * width * height:,} bytes, it has "
                         f"{len(data):,}")
    order = "<f4" if head[3].startswith(b"-") else ">f4"
    pixels = np.frombuffer(data, order, 3 * width * height, offset=head.end()).reshape(height, width, 3)[::-1]
    return pixels[..., :2], np.isfinite(pixels[..., :2]).all(axis=2)


def _decode_npz(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    try:
        check_npz(io.BytesIO(data))
        with np.load(io.BytesIO(data)) as arrays:
            flow = arrays["flow"].astype(np.float32)
            return flow, arrays["valid"].astype(bool) if "valid" in arrays else np.ones(flow.shape[:2], bool)
    except Exception as error:    # NumPy's and zipfile's: BadZipFile, NotImplementedError, zlib.error, TokenError and more
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"no .npz file with an array `flow` ({why})") from None


def _decode_kitti(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """u and v stand as 64 u + 2^15 in red and green of 16 bits each, blue says whether they are known."""
    try:
        import av  # Pillow cuts 16 bits of three colours down to 8
    except ImportError as error:
        raise ImportError('KITTI\'s PNG files of flow need PyAV; pip install "calico-agent[media]"') from error
    try:
        with av.open(io.BytesIO(data), "r", format="png_pipe") as container:
            frame = next(container.decode(video=0))
        if frame.format.name not in ("rgb48be", "rgb48le"):
            raise ValueError(f"its pixels are {frame.format.name}; red, green and blue of 16 bits each were expected")
        pixels = frame.to_ndarray().astype(np.float32)
    except (av.FFmpegError, StopIteration, ValueError) as error:
        raise ValueError(f"not KITTI's PNG of flow ({error})") from None
    return (pixels[..., :2] - (1 << 15)) / 64, pixels[..., 2] > 0


def read_flow(path: Path | str) -> np.ndarray:
    """`decode_flow` of a file on the disk; ValueError names it."""
    if not Path(path).is_file():
        raise ValueError(f"{path} is not a file; give flow as .flo, .pfm, .npz or KITTI's .png")
    with named(path):
        return decode_flow(Path(path).read_bytes())


def write_flo(path: Path | str, flow: np.ndarray) -> None:
    """Write flow (H, W, 2) as Middlebury's .flo: the number 202021.25, width, height, then u and v of each pixel."""
    height, width, _ = flow.shape
    replace_file(Path(path), np.float32(FLO_MAGIC).tobytes() + np.array([width, height], "<i4").tobytes()
                 + np.ascontiguousarray(flow, "<f4").tobytes())


def flow_picture(flow: np.ndarray, largest: float | None = None) -> np.ndarray:
    """The usual picture of flow: direction as hue on Middlebury's wheel of 55 colours, length as saturation.

    Baker et al., A Database and Evaluation Methodology for Optical Flow (2011).

    Args:
        flow: (H, W, 2); what is not finite becomes black.
        largest: pixels of full colour, longer flow is darkened; None: the longest here.
    Returns:
        uint8 (H, W, 3).
    """
    known = np.isfinite(flow).all(axis=2)
    u, v = np.where(known, flow[..., 0], 0.0), np.where(known, flow[..., 1], 0.0)
    length = np.hypot(u, v)
    length = length / max(largest if largest is not None else length.max(), 1e-6)
    wheel = _wheel()
    position = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(wheel) - 1)
    below = position.astype(int)
    fraction = (position - below)[..., None]
    colour = (1 - fraction) * wheel[below] + fraction * wheel[(below + 1) % len(wheel)]
    inside = length[..., None] <= 1
    colour = np.where(inside, 1 - length[..., None] * (1 - colour), 0.75 * colour)
    return (255 * colour * known[..., None]).astype(np.uint8)


def _wheel() -> np.ndarray:
    """(55, 3) in [0, 1]: red, yellow, green, cyan, blue, magenta, in steps as the eye tells them apart."""
    corners = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], float)
    steps = (15, 6, 4, 11, 13, 6)
    return np.concatenate([start + (stop - start) * np.arange(n)[:, None] / n
                           for start, stop, n in zip(corners[:-1], corners[1:], steps, strict=True)])


# ---- pairs with truth ------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class FlowPair:
    """Two pictures uint8 (H, W, 3), and flow float32 (H, W, 2) from the first to the second, NaN where it is unknown."""

    name: str
    first: np.ndarray
    second: np.ndarray
    flow: np.ndarray


class _Flows(FileStore):
    what = "flow"

    def decode(self, data: bytes, name: str) -> np.ndarray:
        return decode_flow(data)


class FlowPairs:
    """Pairs that a manifest names: JSON lines with `img0`, `img1`, `flow` and perhaps `id`.

    The files lie beside the manifest, or in a zip of the manifest's name beside it.
    """

    def __init__(self, manifest: Path | str) -> None:
        """Raises ValueError where the manifest cannot be read or lacks a key."""
        self.path = Path(manifest)
        archive = self.path.with_suffix(".zip")
        holder = archive if archive.is_file() else self.path.parent
        self.images, self.flows = ImageStore(holder, max_side=None, cache_bytes=0), _Flows(holder, cache_bytes=0)
        self.rows = read_rows(self.path, _check_row)
        if not self.rows:
            raise ValueError(f'{self.path} has no lines; each is {{"img0": FILE, "img1": FILE, "flow": FILE}}')

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[FlowPair]:
        """Raises ValueError where files are missing or broken, or their sizes differ."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> FlowPair:
        """Raises as `__iter__`."""
        row = self.rows[index]
        first, second, flow = self.images[row["img0"]], self.images[row["img1"]], self.flows[row["flow"]]
        if not first.shape[:2] == second.shape[:2] == flow.shape[:2]:
            sizes = ", ".join(f"{part.shape[1]}x{part.shape[0]}" for part in (first, second, flow))
            raise ValueError(f"{self.path}: {row['img0']}, {row['img1']} and {row['flow']} are of different sizes: {sizes}")
        return FlowPair(str(row.get("id", row["img0"])), first, second, flow)


def names_flow(record: dict[str, Any]) -> bool:
    """Whether a manifest's record is a pair with flow."""
    return {"flow", "img0", "img1"} <= record.keys()


def _check_row(row: dict[str, Any]) -> None:
    if missing := [key for key in ("flow", "img0", "img1") if not isinstance(row.get(key), str)]:
        raise ValueError(f'{", ".join(missing)} missing; each line is {{"img0": FILE, "img1": FILE, "flow": FILE}}')
