"""Batches for the encoders, from decoded pictures, sounds and texts; and the mean vector of each sample.

    pictures   uint8 (height, width, 3), any size -> float (B, 3, side, side) in [-1, 1]
    sounds     float32 (samples,) at the encoder's sample rate -> (B, longest), zero mean, unit variance; lengths (B,)
    texts      str, or ids int (n,) -> ids (B, longest): SentencePiece's + 1, then padding, which is 0

In training the samples are augmented: a random crop of the picture, perhaps flipped; a random span of the text, in which tokens
may be masked; a random span of the sound at a random speed. All randomness is from the given generator, so a batch is a pure
function of the step. Without a generator: the centre square of a picture, the beginning of a sound or text that is too long.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...tokenizers.text import TextTokenizer
from .encoders import Encoder, SpeechEncoder, TextEncoder, TextEncoderConfig, VisionEncoder, standardize

PAD, OFFSET = 0, 1   # ids of our own text encoders: SentencePiece's begin after the padding
AREA = (0.35, 1.0)   # of a random crop, as a fraction of the picture
ASPECT = 4 / 3       # its largest width / height; the smallest is the inverse
SPEED = (0.9, 1.1)   # of a training sound, as in Ko et al. (Interspeech 2015)


def text_vocabulary(text: TextTokenizer) -> dict[str, int]:
    """Fields of a TextEncoderConfig that follow from the tokenizer: its ids, padding before them and [MASK] after."""
    return {"vocab_size": text.size + OFFSET + 1, "pad": PAD, "mask": text.size + OFFSET}


class Inputs:
    """Makes an encoder's batches."""

    def __init__(self, encoder: Encoder, text: TextTokenizer | None = None, seconds: float = 10.0, hidden: float = 0.0) -> None:
        """
        Args:
            text: for a text encoder.
            seconds: longest span of a sound.
            hidden: fraction of a text's tokens that become [MASK] in training.
        Raises:
            ValueError: a text encoder without a tokenizer whose vocabulary fits.
        """
        self.encoder, self.text, self.seconds, self.hidden = encoder, text, seconds, hidden
        if isinstance(encoder, TextEncoder):
            config: TextEncoderConfig = encoder.config
            if text is None or text_vocabulary(text) != {name: getattr(config, name) for name in ("vocab_size", "pad", "mask")}:
                raise ValueError("this text encoder was not pre-trained here, so its tokenizer is not known; give a run of "
                                 "`calico pretrain`")

    def __call__(self, items: Sequence[Any], rng: np.random.Generator | None = None) -> tuple[Tensor, ...]:
        """A batch for `encoder.features`; rng: draws the augmentation in training."""
        match self.encoder:
            case VisionEncoder():
                side = self.encoder.config.image_size
                return (torch.stack([picture(item, side, rng) for item in items]),)
            case SpeechEncoder():
                config = self.encoder.config
                return sounds(items, config.samples(2), int(self.seconds * config.sample_rate), rng)
            case TextEncoder():
                ids = self.texts(items, self.encoder.config.max_length, rng)
                if rng is not None and self.hidden:
                    chosen = torch.from_numpy(rng.random(ids.shape) < self.hidden) & (ids != PAD)
                    ids = torch.where(chosen, self.encoder.config.mask, ids)
                return (ids,)
        raise TypeError(f"no inputs are known for {type(self.encoder).__name__}")

    def texts(self, items: Sequence[str | np.ndarray], longest: int, rng: np.random.Generator | None) -> Tensor:
        """int64 (B, at most `longest`)."""
        assert self.text is not None
        encoded = (self.text.encode(item) if isinstance(item, str) else item for item in items)
        rows = [random_span(row + OFFSET, longest, rng) for row in encoded]
        ids = pad_sequence([torch.from_numpy(row.astype(np.int64)) for row in rows], batch_first=True, padding_value=PAD)
        return F.pad(ids, (0, 0 if ids.shape[1] else 1), value=PAD)      # also where all texts are empty, one column

    def problem(self, item: Any, positions: int = 2) -> str | None:
        """Why a sample gives fewer positions; None where it does not. Pre-training needs one to keep and one to predict."""
        match self.encoder:
            case SpeechEncoder() if len(item) < (needed := self.encoder.config.samples(positions)):
                return f"{len(item)} samples of sound are too short, at least {needed} are needed"
            case TextEncoder() if self.text is not None and len(self.text.encode(item[:64])) < positions:
                return f"the text {item!r} is too short"
        return None


def picture(pixels: np.ndarray, side: int, rng: np.random.Generator | None) -> Tensor:
    """uint8 (height, width, 3) -> float (3, side, side) in [-1, 1]."""
    chosen = centre_square(pixels) if rng is None else random_crop(pixels, rng)
    if rng is not None and rng.random() < 0.5:
        chosen = chosen[:, ::-1]
    x = torch.from_numpy(np.array(chosen, np.float32)).permute(2, 0, 1) / 127.5 - 1
    if x.shape[1:] == (side, side):
        return x
    return F.interpolate(x[None], (side, side), mode="bilinear", antialias=True, align_corners=False)[0]


def centre_square(picture: np.ndarray) -> np.ndarray:
    """The largest square around the centre."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top:top + side, left:left + side]


def random_crop(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A rectangle of random area, aspect and position."""
    height, width = picture.shape[:2]
    area = height * width * rng.uniform(*AREA)
    aspect = math.exp(rng.uniform(-1, 1) * math.log(ASPECT))
    rows, columns = (max(1, round(math.sqrt(size))) for size in (area / aspect, area * aspect))
    rows, columns = min(height, rows), min(width, columns)
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    return picture[top:top + rows, left:left + columns]


def sounds(items: Sequence[np.ndarray], shortest: int, longest: int, rng: np.random.Generator | None) -> tuple[Tensor, Tensor]:
    """Waveforms (B, samples), standardised, and lengths (B,); shortest: samples that a faster sound keeps."""
    played = items if rng is None else [resampled(item, min(rng.uniform(*SPEED), len(item) / shortest)) for item in items]
    rows = [random_span(item, longest, rng) for item in played]
    lengths = torch.tensor([len(row) for row in rows])
    waveforms = pad_sequence([torch.from_numpy(np.array(row, np.float32)) for row in rows], batch_first=True)
    return standardize(waveforms, lengths), lengths


def resampled(samples: np.ndarray, speed: float) -> np.ndarray:
    """A sound at another speed and pitch; speed above 1: faster and higher."""
    times = np.linspace(0, len(samples) - 1, max(1, round(len(samples) / speed)))
    return np.interp(times, np.arange(len(samples)), samples).astype(np.float32)


def random_span(values: np.ndarray, longest: int, rng: np.random.Generator | None) -> np.ndarray:
    """At most `longest` of the values: a random span, or the beginning without a generator."""
    first = 0 if rng is None or len(values) <= longest else int(rng.integers(len(values) - longest + 1))
    return values[first:first + longest]


def pooled(encoder: Encoder, inputs: tuple[Tensor, ...]) -> Tensor:
    """Mean of the encoder's output over the positions that are not padding, (B, width); with gradient."""
    features = encoder.features(*inputs)
    hidden = encoder.encode(features).hidden[:, encoder.prefix:]
    if features.real is None:
        return hidden.mean(1)
    weight = features.real.to(hidden.dtype)
    return (hidden * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
