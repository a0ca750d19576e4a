"""Sounds as tokens: the waveform comes back, whatever its loudness."""

import numpy as np
import pytest

from calico.tokenizers.sounds import decode_sound, encode_sound
from calico.tokenizers.tokens import SOUND_RATE, SOUND_SAMPLES


@pytest.mark.parametrize("samples, tokens", [(640, 1), (641, 2), (1280, 2), (16_000, 25)])
def test_a_second_costs_25_tokens_and_comes_back(samples: int, tokens: int) -> None:
    sound = np.random.default_rng(samples).uniform(-0.1, 0.1, samples).astype(np.float32)
    stretches, moments = encode_sound(sound)
    assert stretches.shape == (tokens, SOUND_SAMPLES) and stretches.dtype == np.int16
    assert moments.tolist() == list(range(tokens))
    back = decode_sound(stretches)
    np.testing.assert_allclose(back[:samples], sound / np.abs(sound).max(), atol=1 / 2**15)
    assert not back[samples:].any()


def test_loudness_is_taken_out_and_silence_stays_silence() -> None:
    sound = np.sin(np.arange(SOUND_RATE // 10) * 0.1)
    np.testing.assert_array_equal(encode_sound(sound)[0], encode_sound(sound * 1e-3)[0])
    assert np.abs(encode_sound(sound)[0]).max() == 32767
    assert not encode_sound(np.zeros(1000, np.float32))[0].any()


@pytest.mark.parametrize("sound, error", [
    (np.zeros(639, np.float32), "639 samples at 16000 Hz is too short, at least 640 .40 ms. are needed"),
    (np.zeros(0, np.float32), "0 samples"),
    (np.zeros((1000, 2), np.float32), r"one channel, got float32 \(1000, 2\)"),
    (np.zeros(1000, np.int16), "got int16"),
    (np.full(1000, np.nan, np.float32), "finite"),
    (np.r_[np.zeros(999), np.inf], "finite"),
])
def test_what_is_no_sound_is_refused(sound: np.ndarray, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        encode_sound(sound)
