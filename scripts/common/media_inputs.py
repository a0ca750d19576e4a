"""Pictures and sounds from the command line, in the size of a run's training data, in batches."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from calico.agent import checkpoint
from calico.agent.agent import Agent, located
from calico.datasets.images import read_image
from calico.datasets.sounds import SUFFIXES, read_sound
from calico.scripts.common import console
from calico.tokenizers.tokens import SOUND_RATE, SOUND_SAMPLES

ROWS = 32                  # texts that are generated at once
SHOWN = "shown"            # a checkpoint's document: whether there were pictures among its captions and dialogues

Found = TypeVar("Found")


def load(run: str, files: Sequence[Path], max_side: int | None, device: str,
         read: Callable[[Path, int], np.ndarray] | None = None) -> tuple[Agent, list[np.ndarray]]:
    """A run's agent, and pictures in the size that it was trained on, or of at most `max_side` pixels.

    Args:
        read: reads a file; default `read_picture`.
    Raises:
        ValueError: see `Agent.load` and `read`; pictures for a network that never saw any with words.
    """
    saved = checkpoint.load(located(run), only=("model",))
    if any(not is_sound(path) for path in files):
        check_saw_pictures(saved)
    side = largest_side(saved) if max_side is None else max_side
    return Agent.from_checkpoint(saved, device), [(read or read_picture)(path, side) for path in files]


def load_agent(run: str, device: str) -> tuple[Agent, int]:
    """A run's agent, and the pixels on the longer side of the largest pictures that it was trained on."""
    saved = checkpoint.load(located(run), only=("model",))
    return Agent.from_checkpoint(saved, device), largest_side(saved)


def largest_side(saved: checkpoint.Checkpoint) -> int:
    """The pixels on the longer side of the largest pictures that a run was trained on."""
    sources = saved.documents.get("config", {}).get("data", {}).get("sources", [])
    return max((source.get("max_side", 64) for source in sources), default=64)


def check_saw_pictures(saved: checkpoint.Checkpoint) -> None:
    """Raise ValueError where the run was trained on no pictures with words: what it says about one would be noise."""
    learnt = saved.documents.get("mixture", {}).get("sources", {})       # networks that are given away do not say
    documents = [name for name, about in learnt.items() if "documents" in about]
    if learnt and not (documents and saved.documents.get(SHOWN, {}).get("pictures", True)):
        raise ValueError(f"{saved.path} never saw a picture with words: it was trained on {', '.join(sorted(learnt))}; name a "
                         "run with captioned pictures among its data.sources (`calico collect --scenes minigrid` draws some)")


def read_picture(path: Path, max_side: int = 64) -> np.ndarray:
    """uint8 (H, W, 3) of an image file.

    Raises:
        ValueError: not an image, or too large a one; names the file.
    """
    if max_side < 1:
        raise ValueError(f"--max-side {max_side} must be at least 1 pixel")
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give a PNG, JPEG or WebP image")
    try:
        pixels, remark = read_image(path.read_bytes(), max_side)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if remark:
        console.note(f"{path} {remark}")
    return pixels


def is_sound(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def read_shown(path: Path, max_side: int = 64) -> np.ndarray:
    """A picture as `read_picture` gives it, or a sound, float32 (samples,) at SOUND_RATE; the name says which.

    Raises:
        ValueError: neither, too large a picture, too short a sound; names the file.
    """
    if not is_sound(path):
        return read_picture(path, max_side)
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give a sound, such as a .wav, .flac, .ogg or .mp3 file")
    try:
        samples, own, remark = read_sound(path.read_bytes(), SOUND_RATE)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if len(samples) < SOUND_SAMPLES:
        raise ValueError(f"{path}: {1000 * len(samples) / SOUND_RATE:.0f} ms of sound are too short, at least "
                         f"{1000 * SOUND_SAMPLES // SOUND_RATE} are needed")
    if remark:
        console.note(f"{path} {remark}")
    if own != SOUND_RATE:
        console.note(f"{path}: resampled from {own} to {SOUND_RATE} Hz")
    return samples


def in_batches(answer: Callable[[Sequence[np.ndarray]], list[Found]], pictures: Sequence[np.ndarray],
               each: int = 1) -> list[Found]:
    """`answer`'s results for all pictures, `each` rows per picture; with a progress bar where there are several batches."""
    size = max(1, ROWS // each)
    if len(pictures) <= size:
        return answer(pictures)
    found: list[Found] = []
    with console.progress("look", total=len(pictures), unit="pictures") as bar:
        for start in range(0, len(pictures), size):
            found += answer(pictures[start : start + size])
            bar.update(len(found))
    return found
