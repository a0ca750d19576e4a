"""The vectors of patches, sounds and real numbers where there is no pre-trained encoder: a block for each.

What a block computes before its first weights is a fixed function, computed in fp32 whatever format the network runs in.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tokenizers.continuous import MU, M
from ..tokenizers.tokens import MAX_CHANNELS, PATCH_SIZE, SOUND_RATE, SOUND_SAMPLES, VECTOR_SIZE
from .mel import mel_filters

GROUPS = 32     # GroupNorm groups of the patch block, as in the paper's appendix; fewer where the block is narrower

WINDOW, HOP, FFT = 256, 128, 512      # samples; FFT: zeros behind the window, so that no low band falls between two bins
BANDS = 40
FRAMES = (SOUND_SAMPLES - WINDOW) // HOP + 1
FLOOR = 1e-4                          # power; full scale is about 4,000, so what is 76 dB below it counts as silence

WAVES = 6            # sines and cosines of 1, 2, 4, ..., 32 times pi times the value
PLAIN_WAVES = 7      # the same of 1/8, 1/4, ..., 8 times pi times the value before the mu-law
PLAIN_LIMIT = 8.0    # what is larger before the mu-law counts as this
FEATURES = 2 * WAVES + 2 + 2 * PLAIN_WAVES + 1
OUTPUT_SCALE = 0.1   # the first outputs are of the size of the table's rows, 0.02 to 0.05


class PatchBlock(nn.Module):
    """uint8 patches (n, MAX_CHANNELS, 16, 16) -> (n, width): a pre-activation ResNet block at half resolution."""

    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        side, groups = PATCH_SIZE // 2, min(GROUPS, inner // 2 or 1)
        self.stem = nn.Conv2d(MAX_CHANNELS, inner, 3, stride=2, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(groups, inner), nn.GroupNorm(groups, inner)
        self.conv1, self.conv2 = (nn.Conv2d(inner, inner, 3, padding=1) for _ in range(2))
        self.out = nn.Linear(inner * side * side, width)

    def forward(self, patches: Tensor, channels: Tensor) -> Tensor:
        """channels: uint8 (n,), how many of each patch's channels are real; the others stay exactly zero."""
        scale = 2 / (255 * PATCH_SIZE**0.5)                      # [0, 255] -> [-1, 1] / sqrt(16): Gato, section 2.1
        x = patches.to(self.stem.weight.dtype) * scale - 1 / PATCH_SIZE**0.5
        real = torch.arange(MAX_CHANNELS, device=x.device) < channels[:, None]
        x = self.stem(x * real[:, :, None, None])                # (n, inner, 8, 8)
        residual = self.conv1(F.gelu(self.norm1(x)))
        residual = self.conv2(F.gelu(self.norm2(residual)))
        return self.out((x + residual).flatten(1))               # (n, width)


class SoundBlock(nn.Module):
    """int16 sounds (n, SOUND_SAMPLES) -> (n, width): a log-mel spectrogram of 40 ms through two matrices.

    Four windows of 16 ms, each 8 ms after the one before, and 40 bands (mel.py).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(FRAMES * BANDS, 2 * width)
        self.out = nn.Linear(2 * width, width)

    def forward(self, sounds: Tensor) -> Tensor:
        """See above."""
        features = log_mel(sounds).flatten(1)
        return self.out(F.gelu(self.up(features.to(self.up.weight.dtype))))


def log_mel(sounds: Tensor) -> Tensor:
    """int16 (n, SOUND_SAMPLES) -> float32 (n, FRAMES, BANDS), about -1.6 (silence) to 2 (one tone at full scale)."""
    with torch.autocast(sounds.device.type, enabled=False):
        frames = sounds.float().unfold(1, WINDOW, HOP) / 2**15 * torch.hann_window(WINDOW, device=sounds.device)
        power = torch.fft.rfft(frames, FFT).abs().square()                     # (n, FRAMES, FFT / 2 + 1)
        return ((power @ mel_filters(SOUND_RATE, FFT, BANDS, power.device)).clamp(min=FLOOR).log() + 1) / 5


class VectorBlock(nn.Module):
    """float32 vectors (n, VECTOR_SIZE) -> (n, width): each number and sines and cosines of it through two matrices.

    The numbers come mu-lawed, in [-1, 1]. The sines let a matrix tell values apart that lie close together, as bins do; the
    value before the mu-law lets it take differences, as from a hand to its goal. Numbers of a task keep their places in the
    token, so no place is embedded; which token of the observation it is, the embedding adds.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(VECTOR_SIZE * FEATURES, width)
        self.out = nn.Linear(width, width)

    def forward(self, vectors: Tensor, numbers: Tensor) -> Tensor:
        """numbers: uint8 (n,), how many of each vector are real; what stands behind them does not matter."""
        features = waves(vectors, numbers).flatten(1)
        return self.out(F.gelu(self.up(features.to(self.up.weight.dtype)))) * OUTPUT_SCALE


def waves(vectors: Tensor, numbers: Tensor) -> Tensor:
    """float32 (n, VECTOR_SIZE) -> (n, VECTOR_SIZE, FEATURES).

    The mu-lawed value, its sines and cosines, 1 where it is real; the value itself, its sines and cosines.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        real = (torch.arange(VECTOR_SIZE, device=vectors.device) < numbers[:, None]).float()[..., None]
        values = vectors.float()[..., None] * real
        angles = values * (math.pi * 2.0 ** torch.arange(WAVES, device=vectors.device))
        plain = values.sign() * (values.abs() * math.log(MU * M + 1)).expm1() / MU
        slow = plain * (math.pi * 2.0 ** torch.arange(-3, PLAIN_WAVES - 3, device=vectors.device))
        return torch.cat([values, angles.sin(), angles.cos() * real, real,
                          plain.clamp(-PLAIN_LIMIT, PLAIN_LIMIT), slow.sin(), slow.cos() * real], dim=-1)
