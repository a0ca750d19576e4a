"""Short clips made on the fly: a shape that moves before a drifting pattern, and a tone that follows what is seen.

Twelve classes, a shape and a motion each. What is heard belongs to what is seen: the pitch rises by an octave from the bottom
to the top of the picture, the loudness from left to right and with the size, the shape gives the tone its harmonics and the
motion its rhythm. So the class, and a part of the picture, can be told from the sound alone, and the other way round.
A clip is a pure function of the seed and its number; colours, pattern, place, size, speed and moment are drawn.
"""

from dataclasses import dataclass

import numpy as np

from ..streams import stream
from .video import Format, Video, drawn_points, stacked

SHAPES = {"disc": (1.0,), "square": (1.0, 0.0, 0.6), "triangle": (1.0, 0.7)}       # strength of each harmonic of its tone
MOTIONS = {"sliding": 0.0, "bouncing": 5.0, "circling": 10.0, "pulsing": 20.0}      # beats per second; 0: a steady tone
LABELS = tuple(sorted(f"{motion} {shape}" for motion in MOTIONS for shape in SHAPES))
PITCH = 330.0             # Hz at half height
OCTAVES = 1.0             # from the bottom to the top
LOUDNESS = 0.45           # largest amplitude of a shape of middle size in the middle; the peak stays below 1
RHYTHM = 0.8              # depth of the beats
STRIPES = 0.25            # contrast of the shape's own stripes


def moving_shape(seed: int, number: int, form: Format, frames: int) -> Video:
    """One clip of `frames` frames: the number-th of a seed, of any of the classes with the same probability.

    Harmonics that the sample rate cannot hold are left out.
    """
    rng = stream(seed, "moving shapes", number)
    label = LABELS[int(rng.integers(len(LABELS)))]
    motion, shape = label.split()
    rate = form.rate
    turns, start = rng.uniform(1.2, 2.2), rng.uniform(0, 2 * np.pi)                # rounds per second, and where it begins
    centre, reach, size = rng.uniform(-0.2, 0.2, 2), rng.uniform(0.4, 0.6), rng.uniform(0.3, 0.42)
    look = _Look.drawn(rng)

    def path(seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """To the right and up, in [-1, 1], and the size."""
        angle = 2 * np.pi * turns * seconds + start
        right = centre[0] + reach * np.cos(angle) * (motion in ("sliding", "circling"))
        up = centre[1] + reach * np.sin(angle) * (motion in ("bouncing", "circling"))
        return right, up, size * (1 + 0.45 * np.sin(angle) * (motion == "pulsing"))

    shown = look.painted(shape, *path(np.arange(frames) / form.fps), form.size)
    seconds = np.arange(frames * form.samples_per_frame) / rate
    right, up, sizes = path(seconds)
    hertz = PITCH * 2 ** (OCTAVES / 2 * up)
    phase = 2 * np.pi * (np.cumsum(hertz) / rate + rng.uniform())
    harmonics = np.arange(1, 1 + len(SHAPES[shape]))[:, None]
    strengths = np.array(SHAPES[shape])[:, None] / np.linalg.norm(SHAPES[shape]) * (harmonics * hertz.max() < rate / 2)
    tone = (strengths * np.sin(harmonics * phase)).sum(axis=0)
    beats = np.cos(2 * np.pi * MOTIONS[motion] * seconds + rng.uniform(0, 2 * np.pi)) if MOTIONS[motion] else 1
    loudness = LOUDNESS * (1 + 0.4 * right) * sizes / 0.36 * (1 - RHYTHM * (0.5 - 0.5 * beats))
    return Video(f"{label} {number}", shown, np.clip(loudness * tone, -1, 1).astype(np.float32), label)


@dataclass(frozen=True)
class _Look:
    """The colours and patterns of a clip: float32; colours (3,) in [0, 1]."""

    dark: np.ndarray
    less_dark: np.ndarray
    bright: np.ndarray
    waves: np.ndarray        # of the background: radians per unit to the right and up
    drift: float             # and per frame
    stripes: np.ndarray      # of the shape: the same
    angle: float             # of the shape

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "_Look":
        ways = rng.uniform(0, 2 * np.pi, 2)
        lengths = rng.uniform([2.0, 9.0], [5.0, 14.0])
        waves, stripes = np.stack([lengths * np.cos(ways), lengths * np.sin(ways)], axis=1).astype(np.float32)
        ranges = (0, 0.25), (0.2, 0.5), (0.6, 1)
        dark, less_dark, bright = (rng.uniform(low, high, 3).astype(np.float32) for low, high in ranges)
        drift, angle = float(rng.uniform(0.1, 0.4)), float(rng.uniform(-0.3, 0.3))
        return cls(dark, less_dark, bright, waves, drift, stripes, angle)

    def painted(self, shape: str, right: np.ndarray, up: np.ndarray, sizes: np.ndarray, picture: tuple[int, int],
                ) -> np.ndarray:
        """uint8 (T, H, W, 3)."""
        rows, columns = picture
        # the shorter side runs from -1 to 1
        scale = min(picture) / 2
        y = -(np.arange(rows, dtype=np.float32) + 0.5 - rows / 2)[:, None] / scale
        x = (np.arange(columns, dtype=np.float32) + 0.5 - columns / 2)[None] / scale
        time = np.arange(len(right), dtype=np.float32)[:, None, None]
        right, up, sizes = (part.astype(np.float32)[:, None, None] for part in (right, up, sizes))
        wave = 0.5 + 0.5 * np.sin(self.waves[0] * x + self.waves[1] * y + self.drift * time)              # (T, H, W)
        x, y = x - right, y - up                                                                          # from its middle
        striped = 1 - STRIPES * (0.5 + 0.5 * np.sin(self.stripes[0] * x + self.stripes[1] * y))
        sine, cosine = np.sin(self.angle), np.cos(self.angle)
        inside = sizes * INRADIUS[shape] - distance(shape, cosine * x + sine * y, cosine * y - sine * x)
        covered = np.clip(0.5 + inside * scale, 0, 1)                                     # an edge is one pixel wide
        behind = 1 - covered
        shares = np.stack([behind * (1 - wave), behind * wave, covered * striped], axis=-1)
        colours = 255 * np.stack([self.dark, self.less_dark, self.bright])                # (3, 3)
        return (shares.reshape(-1, 3) @ colours + 0.5).astype(np.uint8).reshape(*shares.shape)


INRADIUS = {"disc": 1.0, "square": 0.85, "triangle": 0.72}      # of size 1: about equal areas


def distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How far from its middle the outline lies that goes through (x, y), in inradii of that outline."""
    if shape == "disc":
        return np.hypot(x, y)
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y))
    return np.maximum(np.sqrt(0.75) * np.abs(x) + 0.5 * y, -y)


class MovingShapes:
    """Batches of made clips; the clips to measure have another seed. The same methods as video.Clips."""

    HELD_OUT = 96           # clips that are measured, the same for every seed
    HELD_OUT_SEED = 1 << 32

    def __init__(self, form: Format, frames: int, patch: int, seed: int = 0, video_patch: int = 1) -> None:
        """
        Args:
            patch, video_patch: samples of sound, and pixels, that are decoded together.
        Raises:
            ValueError: the seed is that of the clips to measure.
        """
        if seed >= self.HELD_OUT_SEED:
            raise ValueError(f"seed {seed} came; made clips take seeds below {self.HELD_OUT_SEED}, those from there on are "
                             "measured")
        self.form, self.frames, self.seed, self.labels = form, frames, seed, list(LABELS)
        self.patch, self.video_patch = patch, video_patch

    def batch(self, step: int, count: int, points: int = 512) -> dict[str, np.ndarray]:
        """As video.Clips.batch: clips step * count and so on, so that none is seen twice."""
        made = self.stack([self.clip(self.seed, step * count + row) for row in range(count)])
        rng = stream(self.seed, "points of moving shapes", step)
        return made | drawn_points(rng, self.form, self.frames, self.patch, self.video_patch, points)

    def held_out(self) -> dict[str, np.ndarray]:
        return self.stack([self.clip(self.HELD_OUT_SEED, number) for number in range(self.HELD_OUT)])

    def clip(self, seed: int, number: int) -> Video:
        return moving_shape(seed, number, self.form, self.frames)

    def stack(self, clips: list[Video]) -> dict[str, np.ndarray]:
        return stacked([(clip, 0) for clip in clips], self.labels, self.frames, self.form.samples_per_frame)
