"""What a file holds -> what a Perceiver reads: each sample the same way in training and in use, but for the augmentation.

    pictures   uint8 (height, width, 3), any size -> (B, 3, side, side), channels normalised
    sounds     float32 (samples,) at `rate` -> (B, samples) of one length
    clouds     float32 (M, 3 or 6) -> (B, points, 3 or 6), centred, the farthest point at distance 1
    texts      str -> ids int64 (B, longest) of bytes, and a mask, True at bytes that are there

In training a sample is a view, drawn from the generator that is given: a picture moved and mirrored, a sound moved in time, a
cloud turned. Without a generator there is one view, always the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Union

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..crops import centre_square
from .inputs import BYTE_OFFSET, MASK, PAD, encode_bytes, pad_bytes

FLIPPED = 0.25    # of a cloud's axes, in training
SPACES = [byte + BYTE_OFFSET for byte in b" \t\n\r"]
LENGTHS = 128     # texts are padded to a multiple of so many bytes: CPU kernels are compiled per shape


@dataclass(frozen=True, kw_only=True)
class PictureInput:
    """The centre square of a picture, scaled to `side` pixels."""

    side: int = 32
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)    # ImageNet's, as Hugging Face's image processor; of [0, 1]
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    shift: int = 4           # training: at most so many pixels, the border repeated
    mirror: bool = True      # training: left and right exchanged half of the time
    light: float = 0.2       # training: contrast and brightness change by up to this share

    def __call__(self, samples: Sequence[np.ndarray], rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        """A batch: {"inputs": (B, 3, side, side)}."""
        pixels = np.stack([self.fit(sample) for sample in samples]).astype(np.float32) / 255
        if rng is not None:
            pixels = np.stack([self.view(picture, rng) for picture in pixels])
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

    def view(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A picture moved, mirrored and in another light."""
        top, left = rng.integers(2 * self.shift + 1, size=2)
        margin = ((self.shift, self.shift), (self.shift, self.shift), (0, 0))
        moved = np.pad(picture, margin, mode="edge")[top:top + self.side, left:left + self.side]
        if self.mirror and rng.random() < 0.5:
            moved = moved[:, ::-1]
        contrast, brightness = rng.uniform(-self.light, self.light, size=2)
        return (moved - moved.mean()) * np.float32(1 + contrast) + moved.mean() * np.float32(1 + brightness)


@dataclass(frozen=True, kw_only=True)
class CroppedPictureInput(PictureInput):
    """Of a picture of any size a part of its centre square, to the pixel as transformers' image processor prepares it."""

    crop: float | None = 0.875   # side of the part, as a fraction of the shorter side; None: all of the picture, made square
    resample: int = 3            # Pillow's number of the filter; 3: bicubic

    @property
    def decode_side(self) -> int | None:
        """None: a file that was shrunk before would give other pixels."""
        return None

    def fit(self, picture: np.ndarray) -> np.ndarray:
        """uint8 (side, side, 3)."""
        if self.crop is not None:
            picture = centre_square(picture, int(self.crop * min(picture.shape[:2])))
        return np.asarray(Image.fromarray(picture).resize((self.side, self.side), Image.Resampling(self.resample)))


@dataclass(frozen=True, kw_only=True)
class SoundInput:
    """`samples` of a sound: what is shorter gets silence around it, of what is longer the middle."""

    rate: int = 16000
    samples: int = 16000
    loudness: float = 0.5        # training: louder or softer by a factor of up to exp(this)

    def __call__(self, samples: Sequence[np.ndarray], rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        """A batch: {"inputs": (B, samples)}."""
        rows = np.zeros((len(samples), self.samples), np.float32)
        for row, sound in zip(rows, samples, strict=True):
            room = self.samples - len(sound)
            at = room // 2 if rng is None else int(rng.integers(min(room, 0), max(room, 0) + 1))
            kept = sound[max(0, -at):][:self.samples]
            row[max(0, at):max(0, at) + len(kept)] = kept
            if rng is not None:
                row *= np.exp(rng.uniform(-self.loudness, self.loudness))
        return {"inputs": torch.from_numpy(rows)}


@dataclass(frozen=True, kw_only=True)
class CloudInput:
    """`points` of a cloud.

    turn: `none`: as it comes. `vertical`, `any`: in training turned about the z axis, or about any. `axes`: always turned to
    its principal axes, the longest first, each pointing to its longer tail; that is unsure, so in training it may be the other.
    """

    points: int = 1024
    dims: int = 6                # numbers per point that are used: 3 coordinates, or 6 with the normal
    turn: Literal["none", "vertical", "any", "axes"] = "axes"
    jitter: float = 0.01         # training: deviation of each coordinate

    def __call__(self, samples: Sequence[np.ndarray], rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        """A batch: {"inputs": (B, points, dims)}.

        Raises:
            ValueError: a cloud without normals where they are used.
        """
        return {"inputs": torch.from_numpy(np.stack([self.view(cloud, rng) for cloud in samples]))}

    def view(self, cloud: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """float32 (points, dims)."""
        if cloud.shape[1] < self.dims:
            raise ValueError(f"a cloud has {cloud.shape[1]} numbers per point, this model reads {self.dims}: coordinates and "
                             "normals")
        cloud = cloud[self.choose(len(cloud), rng), :self.dims].astype(np.float32)
        place = cloud[:, :3] - cloud[:, :3].mean(axis=0)
        place /= max(float(np.linalg.norm(place, axis=1).max()), 1e-6)
        turned = principal_axes(place, rng) if self.turn == "axes" else rotation(self.turn if rng is not None else "none", rng)
        if rng is not None:
            place = place + rng.normal(0, self.jitter, place.shape)
        return np.concatenate([place @ turned.T, *([cloud[:, 3:] @ turned.T] if self.dims == 6 else [])], 1).astype(np.float32)

    def choose(self, size: int, rng: np.random.Generator | None) -> np.ndarray:
        """Indices of the points: drawn, or evenly spread over the file's order; repeated where there are too few."""
        if rng is not None:
            return rng.choice(size, self.points, replace=size < self.points)
        return np.linspace(0, size - 1, self.points).round().astype(int)


def principal_axes(place: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """The matrix (3, 3) that turns (and perhaps mirrors) a centred cloud to its principal axes, see CloudInput."""
    axes = np.linalg.eigh(place.T @ place)[1][:, ::-1].T                # rows: the longest axis first
    signs = np.where(((place @ axes.T) ** 3).sum(axis=0) < 0, -1.0, 1.0)
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
    """UTF-8 bytes between CLS and SEP, at most `positions` ids: of a longer text the beginning, in training any stretch."""

    positions: int = 2048
    hidden: float = 0.0          # training: share of the words whose bytes are masked

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


def words_of(ids: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Places int64 (n,) of the bytes of a share of the words, at least of one; words are runs without white space."""
    is_word = (ids >= BYTE_OFFSET) & ~np.isin(ids, SPACES)
    first = is_word & ~np.concatenate([[False], is_word[:-1]])
    number = np.where(is_word, first.cumsum(), 0)                       # of each byte's word, from 1; 0 between words
    words = int(first.sum())
    if not words:
        return np.zeros(0, np.int64)
    chosen = rng.choice(words, max(1, round(share * words)), replace=False) + 1
    return np.flatnonzero(np.isin(number, chosen))


SampleInput = Union[PictureInput, CroppedPictureInput, SoundInput, CloudInput, TextInput]  # noqa: UP007

