"""Sounds <-> tokens: the waveform itself, 640 samples (40 ms) a token.

Gato has no sound. As with image patches, a token carries what was there and the network decides what it makes of it: a small
block, or a pre-trained speech encoder (agent/front_end.py). Loudness is taken out, because microphones differ in it: a sound's
loudest sample is the largest that 16 bits hold.
"""

import numpy as np

from .tokens import SOUND_RATE, SOUND_SAMPLES

LARGEST = np.iinfo(np.int16).max


def encode_sound(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a sound into blocks; the last one is filled up with silence.

    Args:
        samples: float (samples,), one channel at SOUND_RATE, in any unit.
    Returns:
        int16 (n, SOUND_SAMPLES), and their positions int32 (n,): 0, 1, ...
    Raises:
        ValueError: another shape or dtype, samples that are not finite, a sound shorter than one token.
    """
    if samples.dtype.kind != "f" or samples.ndim != 1:
        raise ValueError(f"sounds are float (samples,) of one channel, got {samples.dtype} {samples.shape}")
    if len(samples) < SOUND_SAMPLES:
        raise ValueError(f"a sound of {len(samples)} samples at {SOUND_RATE} Hz is too short, at least {SOUND_SAMPLES} "
                         f"({1000 * SOUND_SAMPLES // SOUND_RATE} ms) are needed")
    largest = float(np.abs(samples).max())
    if not np.isfinite(largest):
        raise ValueError("a sound's samples must be finite numbers")
    blocks = np.zeros((-(-len(samples) // SOUND_SAMPLES), SOUND_SAMPLES), np.int16)
    blocks.reshape(-1)[:len(samples)] = np.rint(samples * (LARGEST / largest)) if largest else 0
    return blocks, np.arange(len(blocks), dtype=np.int32)


def decode_sound(blocks: np.ndarray) -> np.ndarray:
    """Inverse of `encode_sound` but for loudness and the silence at the end: float32 (n * SOUND_SAMPLES,) in [-1, 1]."""
    return blocks.reshape(-1).astype(np.float32) / LARGEST
