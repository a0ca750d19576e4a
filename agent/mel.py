"""Filters from the bins of a Fourier transform to bands of equal width on the mel scale (O'Shaughnessy, 1987)."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=8)
def mel_filters(rate: int, window: int, bands: int, device: torch.device) -> Tensor:
    """Triangles between 0 Hz and rate / 2, float32 (window / 2 + 1, bands); mel(f) = 2595 log10(1 + f / 700).

    rate: samples per second; window: samples per transform. The tensor is cached: do not write into it.
    """
    with torch.inference_mode(False), torch.no_grad():     # it may be built in inference and then used in training
        highest = float(2595 * torch.log10(torch.tensor(1 + rate / 2 / 700)))
        corners = 700 * (10 ** (torch.linspace(0, highest, bands + 2) / 2595) - 1)        # Hz: left, middle and right of each
        frequencies = torch.linspace(0, rate / 2, window // 2 + 1)[:, None]
        rising = (frequencies - corners[:-2]) / (corners[1:-1] - corners[:-2])
        falling = (corners[2:] - frequencies) / (corners[2:] - corners[1:-1])
        return torch.minimum(rising, falling).clamp(min=0).to(device)
