"""What the stream makes of sound without a pre-trained encoder: each 40 ms as a small log-mel picture, through two matrices.

Four windows of 16 ms, each 8 ms after the one before, 40 bands as wide as the ear's (the mel scale of O'Shaughnessy, 1987,
2595 log10(1 + f / 700)). The features are a fixed function, computed in fp32 whatever format the network runs in.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tokenizers.tokens import SOUND_RATE, SOUND_SAMPLES

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
        return ((power @ mel_bands().to(power.device)).clamp(min=FLOOR).log() + 1) / 5


@cache
def mel_bands() -> Tensor:
    """Triangles over the frequencies, float32 (FFT / 2 + 1, BANDS)."""
    def hertz(mel: Tensor) -> Tensor:
        return 700 * (10 ** (mel / 2595) - 1)

    highest = 2595 * torch.log10(torch.tensor(1 + SOUND_RATE / 2 / 700))
    edges = hertz(torch.linspace(0, float(highest), BANDS + 2))                # each band's left, middle and right
    frequencies = torch.linspace(0, SOUND_RATE / 2, FFT // 2 + 1)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)
