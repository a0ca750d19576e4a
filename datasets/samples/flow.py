"""Optical flow: files of true flow and pairs of pictures, and pairs made here whose flow is known exactly.

Flow says where each pixel of a first picture is in a second one: float32 (height, width, 2), pixels to the right, then down.
It is NaN where the truth is not known.

Made pairs are in the manner of FlyingChairs (arXiv:1504.06852) and AutoFlow (2104.14544): a background and shapes before it,
each with a texture and a motion of its own, a shift, turn, zoom and shear about its centre. Every layer is sampled twice from
the same texture at exact coordinates, so the flow is true to the last digit, also below a pixel.
"""

import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..file_store import FileStore
from ..images import ImageStore
from ..records import JsonLines

FLO_MAGIC = 202021.25        # Middlebury's, reads "PIEH"
UNKNOWN = 1e9                # Middlebury: flow beyond this is unknown
MAX_SIDE = 1 << 14


# ---- files -----------------------------------------------------------------------------------------------------------------

def decode_flow(data: bytes) -> np.ndarray:
    """Flow of a file: .flo (Middlebury), .npz with `flow` and perhaps `valid`, or a PNG of 16 bits (KITTI).

    Returns:
        float32 (H, W, 2), NaN where the file says that the flow is unknown.
    Raises:
        ValueError: not such a file, broken or cut short.
        ImportError: a PNG, and the extra `media` is not installed.
    """
    for magic, decode in ((np.float32(FLO_MAGIC).tobytes(), _decode_flo), (b"PK", _decode_npz), (b"\x89PNG", _decode_kitti)):
        if data.startswith(magic):
            flow, known = decode(data)
            break
    else:
        raise ValueError("not a file of flow: neither .flo, nor .npz, nor KITTI's .png")
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


def _decode_npz(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(io.BytesIO(data)) as arrays:
            flow = arrays["flow"].astype(np.float32)
            return flow, arrays["valid"].astype(bool) if "valid" in arrays else np.ones(flow.shape[:2], bool)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"no .npz file with an array `flow` ({error})") from None


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
        raise ValueError(f"{path} is not a file; give flow as .flo, .npz or KITTI's .png")
    try:
        return decode_flow(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_flo(path: Path | str, flow: np.ndarray) -> None:
    """Write flow (H, W, 2) as Middlebury's .flo: the number 202021.25, width, height, then u and v of each pixel."""
    height, width, _ = flow.shape
    Path(path).write_bytes(np.float32(FLO_MAGIC).tobytes() + np.array([width, height], "<i4").tobytes()
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
    place = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(wheel) - 1)
    below = place.astype(int)
    share = (place - below)[..., None]
    colour = (1 - share) * wheel[below] + share * wheel[(below + 1) % len(wheel)]
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
        place = archive if archive.is_file() else self.path.parent
        self.images, self.flows = ImageStore(place, max_side=None, cache_bytes=0), _Flows(place, cache_bytes=0)
        try:
            self.rows = list(JsonLines(self.path, _check_row))
        except OSError as error:
            raise ValueError(f"{self.path} cannot be read as JSON lines: {error}") from None
        if not self.rows:
            raise ValueError(f'{self.path} has no lines; each is {{"img0": FILE, "img1": FILE, "flow": FILE}}')

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[FlowPair]:
        """Raises ValueError where files are missing or broken, or their sizes differ."""
        for row in self.rows:
            first, second, flow = self.images[row["img0"]], self.images[row["img1"]], self.flows[row["flow"]]
            if not first.shape[:2] == second.shape[:2] == flow.shape[:2]:
                sizes = ", ".join(f"{part.shape[1]}x{part.shape[0]}" for part in (first, second, flow))
                raise ValueError(f"{self.path}: {row['img0']}, {row['img1']} and {row['flow']} are of different sizes: {sizes}")
            yield FlowPair(str(row.get("id", row["img0"])), first, second, flow)


def _check_row(row: dict[str, Any]) -> None:
    if missing := [key for key in ("flow", "img0", "img1") if not isinstance(row.get(key), str)]:
        raise ValueError(f'{", ".join(missing)} missing; each line is {{"img0": FILE, "img1": FILE, "flow": FILE}}')


# ---- pairs made here -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class MotionConfig:
    """What is in a made pair and how it moves."""

    size: tuple[int, int] = (48, 64)    # rows, columns
    shapes: int = 4                     # before the background, at most
    reach: float = 10.0                 # pixels: the longest shift of a layer; short ones are more frequent
    noise: float = 0.03                 # of the second picture's values and the first's, in [-1, 1], at most

    def __post_init__(self) -> None:
        if min(self.size) < 2 or self.shapes < 0 or self.reach < 0:
            raise ValueError(f"size={self.size} must be at least 2x2 pixels, shapes={self.shapes} and reach={self.reach} "
                             "not negative")


class MovingPictures:
    """Batches of moving layers, a pure function of the seed and the step.

    Args:
        bank: uint8 (n, 3, side, side), what the layers show: see `textures` and `squares`.
    """

    def __init__(self, bank: Tensor, config: MotionConfig, seed: int = 0) -> None:
        self.bank, self.config, self.seed = bank, config, seed

    def batch(self, step: int, count: int) -> dict[str, Tensor]:
        """`count` pairs, each also reversed: frames float32 (2 * count, 2, 3, H, W) in [-1, 1], flow (2 * count, H, W, 2).

        Perceiver IO (arXiv:2107.14795), appendix on flow: its training did not start without the reversed pairs.
        """
        rng = np.random.default_rng((self.seed, step))
        layers = [self._layer(rng, count, shape) for shape in range(self.config.shapes + 1)]
        rows, columns = (torch.arange(side) - (side - 1) / 2 for side in self.config.size)
        pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).expand(count, -1, -1, -1)   # (B, H, W, x y)
        shown = [self._paint(layers, pixels, second) for second in (False, True)]
        frames = torch.stack([frame for frame, _ in shown], dim=1)                         # (B, 2, 3, H, W)
        frames = self._expose(rng, frames)
        return {"frames": torch.cat([frames, frames.flip(1)]), "flow": torch.cat([flow for _, flow in shown])}

    def _layer(self, rng: np.random.Generator, count: int, shape: int) -> "_Layer":
        """The background (shape 0) or one shape of each of `count` pictures."""
        rows, columns = self.config.size

        def uniform(low: float, high: float, *more: int) -> Tensor:
            return torch.from_numpy(rng.uniform(low, high, (count, *more))).float()

        length, angle = self.config.reach * uniform(0, 1) ** 3, uniform(0, 2 * np.pi)
        shift = torch.stack([length * angle.cos(), length * angle.sin()], dim=-1)
        calm = (uniform(0, 1) < 0.5).float()                    # half of the layers are shifted and nothing more
        turn, zoom, shear = (calm * torch.from_numpy(rng.normal(0, 0.06, count)).float() for _ in range(3))
        motion = torch.stack([1 + zoom, shear - turn, shear + turn, 1 + zoom], dim=-1).view(count, 2, 2)
        centre = torch.stack([uniform(-0.5, 0.5) * columns, uniform(-0.5, 0.5) * rows], dim=-1) * (shape > 0)
        look, scale = uniform(0, 2 * np.pi), uniform(0.5, 1.2)
        turned = torch.stack([look.cos(), -look.sin(), look.sin(), look.cos()], dim=-1).view(count, 2, 2)
        side = self.bank.shape[-1]
        outline = None
        if shape:
            radius = uniform(0.08, 0.35) * min(rows, columns)
            radius = torch.where(uniform(0, 1) < 0.8, radius, torch.zeros(()))     # a fifth of the shapes is not there
            outline = _Outline(radius, uniform(0.6, 1.6), uniform(0, 2 * np.pi), uniform(-0.25, 0.25, 4),
                               uniform(0, 2 * np.pi, 4))
        texture = self.bank[rng.integers(len(self.bank), size=count)].float() / 127.5 - 1
        return _Layer(texture, scale[:, None, None] * turned, uniform(-0.25, 0.25, 2) * side, centre, motion, shift, outline)

    def _paint(self, layers: Sequence["_Layer"], pixels: Tensor, second: bool) -> tuple[Tensor, Tensor]:
        """One picture (B, 3, H, W) and the flow (B, H, W, 2) from it to the other."""
        picture, flow = layers[0].texture.new_zeros(()), pixels.new_zeros(())
        for layer in layers:
            there = layer.back(pixels) if second else pixels        # where it was in the first picture
            cover = layer.cover(there)[:, None]                     # (B, 1, H, W)
            picture = cover * layer.show(there) + (1 - cover) * picture
            flow = torch.where(cover[:, 0, ..., None] > 0.5, there - pixels if second else layer.forth(pixels) - pixels, flow)
        return picture, flow

    def _expose(self, rng: np.random.Generator, frames: Tensor) -> Tensor:
        """Contrast, brightness and noise; nearly the same light in both pictures."""
        shape = (len(frames), 1, 3, 1, 1)
        contrast, light = rng.uniform(0.6, 1.3, shape), rng.uniform(-0.2, 0.2, shape)
        drift = rng.uniform(-0.04, 0.04, (len(frames), 2, 1, 1, 1))
        noise = rng.standard_normal(frames.shape, np.float32) * rng.uniform(0, self.config.noise, (len(frames), 1, 1, 1, 1))
        return (frames * torch.from_numpy(contrast) + torch.from_numpy(light + drift + noise)).float().clamp(-1, 1)


@dataclass(frozen=True)
class _Outline:
    """A round shape with waves: radius (B,) pixels, stretch and tilt (B,), waves (B, 4) and their phases."""

    radius: Tensor
    stretch: Tensor
    tilt: Tensor
    waves: Tensor
    phases: Tensor

    def cover(self, from_centre: Tensor) -> Tensor:
        """(B, H, W, 2) -> (B, H, W): 1 inside, 0 outside, a ramp of a pixel between."""
        x, y = from_centre.unbind(-1)
        cos, sin, stretch = (t[:, None, None] for t in (self.tilt.cos(), self.tilt.sin(), self.stretch))
        x, y = (x * cos + y * sin) * stretch, (y * cos - x * sin) / stretch
        orders = torch.arange(2, 6)
        angles = torch.atan2(y, x)[..., None] * orders + self.phases[:, None, None]
        edge = self.radius[:, None, None] * (1 + (self.waves[:, None, None] * angles.cos()).sum(-1))
        return (edge - torch.hypot(x, y) + 0.5).clamp(0, 1) * (self.radius[:, None, None] > 0)


@dataclass(frozen=True)
class _Layer:
    """A layer of each picture: p moves to motion (p - centre) + centre + shift, and shows the texture at look p + offset."""

    texture: Tensor                # (B, 3, side, side) in [-1, 1]
    look: Tensor                   # (B, 2, 2)
    offset: Tensor                 # (B, 2) texels
    centre: Tensor                 # (B, 2) pixels
    motion: Tensor                 # (B, 2, 2)
    shift: Tensor                  # (B, 2) pixels
    outline: _Outline | None       # None: everywhere

    def forth(self, p: Tensor) -> Tensor:
        """Where the points (B, H, W, 2) of the first picture are in the second."""
        return _turned(self.motion, p - _each(self.centre)) + _each(self.centre + self.shift)

    def back(self, p: Tensor) -> Tensor:
        """The way back."""
        return _turned(torch.linalg.inv(self.motion), p - _each(self.centre + self.shift)) + _each(self.centre)

    def cover(self, p: Tensor) -> Tensor:
        """(B, H, W) in [0, 1]."""
        return p.new_ones(p.shape[:-1]) if self.outline is None else self.outline.cover(p - _each(self.centre))

    def show(self, p: Tensor) -> Tensor:
        """(B, 3, H, W); beyond its border a texture goes on as in a mirror."""
        texels = _turned(self.look, p) + _each(self.offset)
        return F.grid_sample(self.texture, 2 * texels / self.texture.shape[-1], padding_mode="reflection", align_corners=False)


def _each(vectors: Tensor) -> Tensor:
    return vectors[:, None, None]


def _turned(matrices: Tensor, p: Tensor) -> Tensor:
    return torch.einsum("bij,bhwj->bhwi", matrices, p)


def textures(count: int, side: int = 128, seed: int = 0) -> Tensor:
    """Pictures of nothing, uint8 (count, 3, side, side): noise of all sizes, half of it cut into patches with hard edges."""
    rng = np.random.default_rng((seed, 0x7E87))
    made = torch.zeros(count, 3, side, side)
    size = 4
    while size <= side:
        noise = torch.from_numpy(rng.standard_normal((count, 3, size, size), np.float32))
        weight = torch.from_numpy(rng.uniform(0, 1, (count, 1, 1, 1))).float() * (4 / size) ** 0.5
        made += weight * F.interpolate(noise, (side, side), mode="bicubic", align_corners=False)
        size *= 2
    levels = torch.from_numpy(rng.uniform(1, 4, (count // 2, 1, 1, 1))).float()
    made[:count // 2] = (made[:count // 2] * levels).round() / levels
    made = made / made.std(dim=(1, 2, 3), keepdim=True)
    return ((made * 0.4).clamp(-1, 1) * 127.5 + 127.5).to(torch.uint8)


def squares(store: ImageStore, names: Sequence[str], side: int = 128) -> Tensor:
    """Pictures of a store, their middle squares resized: uint8 (n, 3, side, side)."""
    made = torch.empty(len(names), 3, side, side, dtype=torch.uint8)
    for number, name in enumerate(names):
        picture = torch.from_numpy(store[name].copy()).permute(2, 0, 1)
        edge = min(picture.shape[1:])
        top, left = (picture.shape[1] - edge) // 2, (picture.shape[2] - edge) // 2
        square = picture[None, :, top:top + edge, left:left + edge].float()
        made[number] = F.interpolate(square, (side, side), mode="bilinear", antialias=True)[0].round().to(torch.uint8)
    return made
