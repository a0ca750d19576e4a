"""The vector of a sound token where there is no pre-trained encoder: a log-mel spectrogram of 40 ms through two matrices.

Four windows of 16 ms, each 8 ms after the one before, and 40 bands (mel.py). The features are a fixed function,
computed in fp32 whatever format the network runs in.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tokenizers.tokens import SOUND_RATE, SOUND_SAMPLES
from .mel import mel_filters

WINDOW, HOP, FFT = 256, 128, 512      # samples; FFT: zeros behind the window, so that no low band falls between two bins
BANDS = 40
FRAMES = (SOUND_SAMPLES - WINDOW) // HOP + 1
FLOOR = 1e-4                          # power; full scale is about 4,000, so what is 76 dB below it counts as silence


class SoundBlock(nn.Module):
    """int16 sounds (n, SOUND_SAMPLES) -> (n, width)."""

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
