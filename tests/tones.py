"""Sound files for tests."""

import json
from pathlib import Path

import numpy as np

from calico.datasets.sounds import encode_wav


def tone(hertz: float, seconds: float = 0.2, rate: int = 16_000, loudness: float = 0.5) -> np.ndarray:
    """A sine, float32 (samples,)."""
    return (loudness * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    """float (samples,) in [-1, 1] as 16 bits."""
    path.write_bytes(encode_wav(samples, rate))
    return path


def write_tones(folder: Path, hertz: dict[str, float], rate: int = 16_000, seconds: float = 0.2) -> Path:
    """tones.jsonl and tones/: one tone per label. Returns the manifest."""
    (folder / "tones").mkdir(parents=True)
    for label, frequency in hertz.items():
        write_wav(folder / "tones" / f"{label}.wav", tone(frequency, seconds, rate), rate)
    manifest = folder / "tones.jsonl"
    manifest.write_text("".join(json.dumps({"file": f"{label}.wav", "label": label}) + "\n" for label in hertz))
    return manifest
