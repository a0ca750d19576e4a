"""From decoded samples to a Perceiver's inputs: the same in training and in use, except for the augmentation.

    pictures   uint8 (height, width, 3), any size -> (B, 3, side, side), channels normalised
    sounds     float32 (samples,) at `rate` -> (B, samples) of one length
    clouds     float32 (M, 3 or 6) -> (B, points, 3 or 6), centred, the farthest point at distance 1
    texts      str -> ids int64 (B, longest) of bytes, and a mask, False at padding

In training the given generator draws the augmentation: a picture is shifted and flipped, a sound shifted in time, a cloud
rotated. Without a generator there is none.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Union

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .inputs import BYTE_OFFSET, MASK, PAD, encode_bytes, pad_bytes

FLIPPED = 0.25    # probability that a cloud's axis is flipped, in training
SPACES = [byte + BYTE_OFFSET for byte in b" \t\n\r"]
LENGTHS = 128     # texts are padded to a multiple of so many bytes: CPU kernels are compiled per shape


@dataclass(frozen=True, kw_only=True)
class PictureInput:
    """The centre square of a picture, scaled to `side` pixels."""

    side: int = 32
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)    # ImageNet's, as Hugging Face's image processor; of [0, 1]
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    shift: int = 4           # training: by at most so many pixels, the border repeated
    mirror: bool = True      # training: flipped left to right with probability 0.5
    light: float = 0.2       # training: contrast and brightness change by up to this fraction

    def __call__(self, samples: Sequence[np.ndarray], rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        """A batch: {"inputs": (B, 3, side, side)}."""
        pixels = np.stack([self.fit(sample) for sample in samples]).astype(np.float32) / 255
        if rng is not None:
            pixels = np.stack([self.augment(picture, rng) for picture in pixels])
        normed = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return {"inputs": torch.from_numpy(np.ascontiguousarray(normed.transpose(0, 3, 1, 2)))}

    @property
    def decode_side(self) -> int | None:
        """To how many pixels on the longer side a file may be shrunk when it is decoded; None: not at all."""
        return 2 * self.side

    def fit(self, picture: np.ndarray) -> np.ndarray:
        """uint8 (side, side, 3)."""
        if picture.shape[:2] == (self.side, self.side):
            return picture
        return np.asarray(ImageOps.fit(Image.fromarray(picture), (self.side, self.side), Image.Resampling.BICUBIC))

    def augment(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Shift, flip, contrast and brightness."""
        top, left = rng.integers(2 * self.shift + 1, size=2)
        margin = ((self.shift, self.shift), (self.shift, self.shift), (0, 0))
        shifted = np.pad(picture, margin, mode="edge")[top:top + self.side, left:left + self.side]
        if self.mirror and rng.random() < 0.5:
            shifted = shifted[:, ::-1]
        contrast, brightness = rng.uniform(-self.light, self.light, size=2)
        return (shifted - shifted.mean()) * np.float32(1 + contrast) + shifted.mean() * np.float32(1 + brightness)


@dataclass(frozen=True, kw_only=True)
class CroppedPictureInput(PictureInput):
    """A part of the centre square of a picture, with the same pixels as transformers' image processor."""

    crop: float | None = 0.875   # side of the part, as a fraction of the shorter side; None: all of the picture, made square
    resample: int = 3            # Pillow's number of the filter; 3: bicubic

    @property
    def decode_side(self) -> int | None:
        """None: a file that was shrunk first would give other pixels."""
        return None

    def fit(self, picture: np.ndarray) -> np.ndarray:
        """uint8 (side, side, 3)."""
        if self.crop is not None:
            height, width = picture.shape[:2]
            side = int(self.crop * min(height, width))
            top, left = (height - side) // 2, (width - side) // 2
            picture = picture[top:top + side, left:left + side]
        return np.asarray(Image.fromarray(picture).resize((self.side, self.side), Image.Resampling(self.resample)))


@dataclass(frozen=True, kw_only=True)
class SoundInput:
    """`samples` of a sound: a shorter one is padded with zeros at both ends, a longer one cropped to its middle."""

    rate: int = 16000
    samples: int = 16000
    loudness: float = 0.5        # training: scaled by a random factor of up to exp(this), or its inverse

    def __call__(self, samples: Sequence[np.ndarray], rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        """A batch: {"inputs": (B, samples)}."""
        rows = np.zeros((len(samples), self.samples), np.float32)
        for row, sound in zip(rows, samples, strict=True):
            spare = self.samples - len(sound)
            offset = spare // 2 if rng is None else int(rng.integers(min(spare, 0), max(spare, 0) + 1))
            kept = sound[max(0, -offset):][:self.samples]
            row[max(0, offset):max(0, offset) + len(kept)] = kept
            if rng is not None:
                row *= np.exp(rng.uniform(-self.loudness, self.loudness))
        return {"inputs": torch.from_numpy(rows)}


@dataclass(frozen=True, kw_only=True)
class CloudInput:
    """`points` of a cloud.

    turn: `none`: not rotated. `vertical`, `any`: in training rotated about the z axis, or about any. `axes`: always rotated to
    its principal axes, the longest first, each pointing to its longer tail; as that is uncertain, axes flip in training.
    """

    points: int = 1024
    dims: int = 6                # numbers per point that are used: 3 coordinates, or 6 with the normal
    turn: Literal["none", "vertical", "any", "axes"] = "axes"
    jitter: float = 0.01         # training: std of the noise on each coordinate

    def __call__(self, samples: Sequence[np.ndarray], rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        """A batch: {"inputs": (B, points, dims)}. Raises ValueError where a cloud has no normals and they are used."""
        return {"inputs": torch.from_numpy(np.stack([self.prepare(cloud, rng) for cloud in samples]))}

    def prepare(self, cloud: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        if cloud.shape[1] < self.dims:
            raise ValueError(f"a cloud has {cloud.shape[1]} numbers per point, this model reads {self.dims}: coordinates and "
                             "normals")
        cloud = cloud[self.choose(len(cloud), rng), :self.dims].astype(np.float32)
        xyz = cloud[:, :3] - cloud[:, :3].mean(axis=0)
        xyz /= max(float(np.linalg.norm(xyz, axis=1).max()), 1e-6)
        matrix = principal_axes(xyz, rng) if self.turn == "axes" else rotation(self.turn if rng is not None else "none", rng)
        if rng is not None:
            xyz = xyz + rng.normal(0, self.jitter, xyz.shape)
        return np.concatenate([xyz @ matrix.T, *([cloud[:, 3:] @ matrix.T] if self.dims == 6 else [])], 1).astype(np.float32)

    def choose(self, size: int, rng: np.random.Generator | None) -> np.ndarray:
        """Indices of the points: random in training, else evenly spaced in the file; repeated where there are too few."""
        if rng is not None:
            return rng.choice(size, self.points, replace=size < self.points)
        return np.linspace(0, size - 1, self.points).round().astype(int)


def principal_axes(xyz: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """The matrix (3, 3) that rotates (and perhaps reflects) a centred cloud to its principal axes, see CloudInput."""
    axes = np.linalg.eigh(xyz.T @ xyz)[1][:, ::-1].T                    # rows: the longest axis first
    signs = np.where(((xyz @ axes.T) ** 3).sum(axis=0) < 0, -1.0, 1.0)
    if rng is not None:
        signs *= np.where(rng.random(3) < FLIPPED, -1.0, 1.0)
    return axes * signs[:, None]


def rotation(turn: str, rng: np.random.Generator | None) -> np.ndarray:
    """A random rotation matrix, float32 (3, 3)."""
    if turn == "none" or rng is None:
        return np.eye(3, dtype=np.float32)
    if turn == "vertical":
        sine, cosine = np.sin(angle := rng.uniform(0, 2 * np.pi)), np.cos(angle)
        return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], np.float32)
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))                      # now uniform over rotations and reflections
    return (q * np.sign(np.linalg.det(q))).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class TextInput:
    """UTF-8 bytes between CLS and SEP, at most `positions` ids: of a longer text the beginning, in training a random span."""

    positions: int = 2048
    hidden: float = 0.0          # training: fraction of the words whose bytes are masked

    def __call__(self, samples: Sequence[str], rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        """A batch: {"inputs": ids (B, longest), "mask": bool (B, longest)}."""
        rows = [self.cut(text, rng) for text in samples]
        longest = min(-(-max(map(len, rows)) // LENGTHS) * LENGTHS, self.positions)
        ids, mask = pad_bytes([*rows, [PAD] * longest])
        if rng is not None and self.hidden:
            for row in ids:
                row[words_of(row.numpy(), self.hidden, rng)] = MASK
        return {"inputs": ids[:-1], "mask": mask[:-1]}

    def cut(self, text: str, rng: np.random.Generator | None) -> list[int]:
        """At most `positions` ids."""
        spare = len(text) + 2 - self.positions
        start = int(rng.integers(spare + 1)) if rng is not None and spare > 0 else 0
        return encode_bytes(text[start:start + self.positions])[:self.positions]

    def too_long(self, samples: Iterable[str]) -> int:
        """How many texts are cut."""
        return sum(len(text.encode()) + 2 > self.positions for text in samples)


def words_of(ids: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Positions int64 (n,) of the bytes of a random fraction of the words, at least one; white space separates words."""
    is_word = (ids >= BYTE_OFFSET) & ~np.isin(ids, SPACES)
    first = is_word & ~np.concatenate([[False], is_word[:-1]])
    number = np.where(is_word, first.cumsum(), 0)                       # of each byte's word, from 1; 0 between words
    words = int(first.sum())
    if not words:
        return np.zeros(0, np.int64)
    chosen = rng.choice(words, max(1, round(fraction * words)), replace=False) + 1
    return np.flatnonzero(np.isin(number, chosen))


SampleInput = Union[PictureInput, CroppedPictureInput, SoundInput, CloudInput, TextInput]  # noqa: UP007

