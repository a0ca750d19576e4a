"""Log-mel features: where a tone lands, what silence is, and that they never depend on the format the network runs in."""

import pytest
import torch

from calico.agent.blocks import BANDS, FFT, FRAMES, SoundBlock, log_mel
from calico.agent.mel import mel_filters
from calico.tokenizers.sounds import encode_sound
from calico.tokenizers.tokens import SOUND_RATE, SOUND_SAMPLES

from ..tones import tone


def sounds(hertz: float) -> torch.Tensor:
    return torch.from_numpy(encode_sound(tone(hertz, 0.12))[0])


def test_each_frequency_is_in_some_band_and_none_is_empty() -> None:
    bands = mel_filters(SOUND_RATE, FFT, BANDS, torch.device("cpu"))
    assert (bands >= 0).all() and (bands.amax(0) > 0.2).all()          # 31 Hz apart, the lowest bands 45 Hz wide
    assert (bands.sum(1)[2:-2] > 0.1).all()


@pytest.mark.parametrize("hertz, other", [(300, 600), (1000, 2000), (3000, 6000)])
def test_a_tone_lands_in_a_band_of_its_own(hertz: float, other: float) -> None:
    low, high = (log_mel(sounds(h)).mean((0, 1)).argmax() for h in (hertz, other))
    assert low < high
    assert 1.5 < log_mel(sounds(hertz)).amax() < 2.1


def test_silence_is_the_floor_and_features_stay_fp32() -> None:
    silence = torch.zeros(2, SOUND_SAMPLES, dtype=torch.int16)
    assert log_mel(silence).shape == (2, FRAMES, BANDS)
    assert log_mel(silence).unique().numel() == 1 and -1.7 < float(log_mel(silence)[0, 0, 0]) < -1.5
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_mel(sounds(500)), log_mel(sounds(500)).float())
        inside = log_mel(sounds(500))
    assert torch.equal(inside, log_mel(sounds(500))) and inside.dtype == torch.float32
    assert SoundBlock(8).to(torch.bfloat16)(sounds(500)).dtype == torch.bfloat16
