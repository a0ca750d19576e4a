"""Pairs of pictures made on the fly whose optical flow is known exactly, for `calico perceive flow train`.

In the manner of FlyingChairs (arXiv:1504.06852) and AutoFlow (2104.14544): a background and shapes before it, each with a
texture and a motion of its own, a shift, turn, zoom and shear about its centre. Every layer is sampled twice from the same
texture at exact coordinates, so the flow is true to the last digit, also below a pixel. Flow is as in datasets/samples/flow.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from calico.datasets.images import ImageStore
from calico.datasets.streams import stream


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
        rng = stream(self.seed, "motion", step)
        layers = [self._layer(rng, count, shape) for shape in range(self.config.shapes + 1)]
        rows, columns = (torch.arange(side) - (side - 1) / 2 for side in self.config.size)
        pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).expand(count, -1, -1, -1)   # (B, H, W, x y)
        painted = [self._paint(layers, pixels, second) for second in (False, True)]
        frames = torch.stack([frame for frame, _ in painted], dim=1)                         # (B, 2, 3, H, W)
        frames = self._expose(rng, frames)
        return {"frames": torch.cat([frames, frames.flip(1)]), "flow": torch.cat([flow for _, flow in painted])}

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
    """A round shape with waves: radius (B,) pixels, aspect and tilt (B,), waves (B, 4) and their phases."""

    radius: Tensor
    aspect: Tensor
    tilt: Tensor
    waves: Tensor
    phases: Tensor

    def cover(self, from_centre: Tensor) -> Tensor:
        """(B, H, W, 2) -> (B, H, W): 1 inside, 0 outside, a ramp of a pixel between."""
        x, y = from_centre.unbind(-1)
        cos, sin, aspect = (t[:, None, None] for t in (self.tilt.cos(), self.tilt.sin(), self.aspect))
        x, y = (x * cos + y * sin) * aspect, (y * cos - x * sin) / aspect
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
    rng = stream(seed, "textures")
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
