"""Made clips: the same for the same seed, never those that are measured, and the class can be heard and seen."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from calico.datasets.samples.moving_shapes import LABELS, MOTIONS, SHAPES, MovingShapes, moving_shape
from calico.datasets.samples.video import Format, Video

FORM = Format(size=(24, 24), samples_per_frame=320)
FRAMES = 16


def made(seed: int, count: int) -> list[Video]:
    return [moving_shape(seed, number, FORM, FRAMES) for number in range(count)]


def test_a_clip_is_a_function_of_its_seed_and_number() -> None:
    chosen = ((3, 5), (3, 5), (3, 6), (4, 5))
    first, again, other, seeded = (moving_shape(seed, number, FORM, FRAMES) for seed, number in chosen)
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.sound, again.sound)
    assert first.label == again.label
    for another in (other, seeded):
        assert (first.frames != another.frames).any() and (first.sound != another.sound).any()
    assert first.frames.shape == (FRAMES, 24, 24, 3) and first.frames.dtype == np.uint8
    assert first.sound.shape == (FRAMES * 320,) and first.sound.dtype == np.float32 and 0.1 < np.abs(first.sound).max() <= 1


def test_frames_follow_the_size_that_is_asked_for() -> None:
    """Rows and columns are not exchanged, and a larger picture shows the same."""
    wide = moving_shape(0, 0, Format(size=(16, 32), samples_per_frame=32), 4)
    assert wide.frames.shape == (4, 16, 32, 3)
    small, large = (moving_shape(0, 1, Format(size=(side, side)), 2).frames.astype(float) for side in (24, 48))
    assert np.abs(large.reshape(2, 24, 2, 24, 2, 3).mean(axis=(2, 4)) - small).mean() < 2     # of 255


def test_every_class_comes_as_often() -> None:
    tiny = Format(size=(4, 4), samples_per_frame=16)
    clips = [moving_shape(1, number, tiny, 1) for number in range(600)]
    counts = np.array([sum(clip.label == label for clip in clips) for label in LABELS])
    assert len(LABELS) == len(SHAPES) * len(MOTIONS) == 12 and counts.sum() == 600
    assert (counts > 25).all()       # of 50


def test_batches_are_new_and_apart_from_what_is_measured() -> None:
    data = MovingShapes(FORM, FRAMES, 16, seed=2)
    batches = [data.batch(step, 4, points=10) for step in (0, 1, 0)]
    np.testing.assert_array_equal(batches[0]["image"], batches[2]["image"])
    assert batches[0]["image"].shape == (4, FRAMES, 3, 24, 24) and batches[0]["pixels"].shape == (10,)
    assert batches[0]["patches"].max() < FRAMES * 320 // 16 and batches[0]["pixels"].max() < FRAMES * 24 * 24
    data.HELD_OUT = 8
    kept, other = data.held_out(), MovingShapes(FORM, FRAMES, 16, seed=7)
    other.HELD_OUT = 8
    np.testing.assert_array_equal(kept["audio"], other.held_out()["audio"])        # whatever was trained with
    sounds = np.concatenate([kept["audio"], batches[0]["audio"], batches[1]["audio"]])
    assert len(np.unique(sounds, axis=0)) == 16
    assert [data.labels[i] for i in kept["label"]] == [clip.label for clip in made(data.HELD_OUT_SEED, 8)]
    with pytest.raises(ValueError, match="seeds below"):
        MovingShapes(FORM, FRAMES, 16, seed=1 << 32)


def heard(clip: Video) -> np.ndarray:
    """The tone's harmonics, and the spectrum of the loudness."""
    windows = clip.sound.reshape(-1, 640)
    spectrum = np.abs(np.fft.rfft(windows * np.hanning(640), n=2560)) ** 2                # (windows, 1281)
    first = 30 + spectrum[:, 30:240].argmax(axis=1)                                       # 94 to 750 Hz
    harmonics = [np.median([spectrum[row, k * f - 6:k * f + 7].sum() / spectrum[row].sum() for row, f in enumerate(first)])
                 for k in (1, 2, 3)]
    loudness = np.sqrt((clip.sound.reshape(-1, 64) ** 2).mean(axis=1))                    # 125 per second
    rhythm = np.abs(np.fft.rfft(loudness / loudness.mean() - 1))[2:20]
    return np.concatenate([4 * np.array(harmonics), rhythm / np.linalg.norm(rhythm).clip(20)])


def seen(clip: Video) -> np.ndarray:
    """Where the bright shape is and how large, as spreads over time; and its outline."""
    bright = clip.frames.min(axis=-1) >= 100
    area: list[float] = []
    width: list[float] = []
    height: list[float] = []
    rows: list[float] = []
    columns: list[float] = []
    for frame in bright:
        row, column = np.nonzero(frame)
        if not len(row):
            continue
        area.append(math.sqrt(len(row)))
        rows.append(row.mean())
        columns.append(column.mean())
        width.append(len(row) / (np.ptp(row) + 1) / (np.ptp(column) + 1))                 # how much of its box it fills
        height.append((row.mean() - row.min()) / (np.ptp(row) + 1))                       # low where it is broad at the top
    return np.array([np.std(rows), np.std(columns), np.std(area), 20 * np.median(width), 20 * np.median(height)])


@pytest.mark.parametrize("features", [heard, seen])
def test_the_class_is_that_of_the_nearest_mean(features: Callable[[Video], np.ndarray]) -> None:
    """From the sound alone and from the pictures alone; chance is one in twelve."""
    form = Format(size=(32, 32), samples_per_frame=320)
    rows = [(features(clip), clip.label) for clip in (moving_shape(5, number, form, FRAMES) for number in range(240))]
    learned, asked = rows[:160], rows[160:]
    means = np.stack([np.mean([row for row, label in learned if label == each], axis=0) for each in LABELS])
    found = [LABELS[int(np.square(means - row).sum(axis=1).argmin())] for row, _ in asked]
    assert np.mean([guess == label for guess, (_, label) in zip(found, asked, strict=True)]) > 0.5
