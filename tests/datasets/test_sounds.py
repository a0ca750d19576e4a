"""Sounds: decoded to one channel at the wanted rate, and what is none is named."""

import io
import struct
import wave
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from calico.datasets.sounds import SoundStore, decode_sound, read_sound

pytestmark = pytest.mark.skipif(find_spec("av") is None, reason="needs the extra media")


def wav(samples: np.ndarray, rate: int = 8000) -> bytes:
    """A 16-bit WAV file of float (n,) or (n, channels) in [-1, 1]."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return out.getvalue()


def tone(hertz: float, seconds: float = 0.5, rate: int = 8000) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def test_a_sound_comes_back_as_it_was() -> None:
    samples = tone(440)
    made, own = decode_sound(wav(samples), 8000)
    assert own == 8000 and made.dtype == np.float32
    np.testing.assert_allclose(made, samples, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 16000, 22050])
def test_another_rate_is_resampled_and_keeps_its_pitch(rate: int) -> None:
    made, own = decode_sound(wav(tone(440, rate=44100), 44100), rate)
    assert own == 44100 and abs(len(made) - rate / 2) < rate * 0.01
    spectrum = np.abs(np.fft.rfft(made))
    assert np.argmax(spectrum) * rate / len(made) == pytest.approx(440, abs=5)


def test_channels_are_averaged() -> None:
    made, _ = decode_sound(wav(np.stack([tone(440), -tone(440)], axis=1)), 8000)
    assert np.abs(made).max() < 1e-3


@pytest.mark.parametrize("data", [b"", b"RIFF and nothing else", wav(tone(440))[:30], b"<html>" * 100])
def test_what_is_no_sound_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a readable sound"):
        decode_sound(data, 8000)


def test_a_list_of_files_is_no_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.wav").write_bytes(wav(tone(440)))
    for listed in (b"ffconcat version 1.0\nfile secret.wav\n", b"#EXTM3U\n#EXTINF:1,\nsecret.wav\n#EXT-X-ENDLIST\n"):
        with pytest.raises(ValueError, match="not a readable sound"):
            decode_sound(listed, 8000)


def test_a_very_long_sound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calico.datasets.sounds.MAX_SECONDS", 0.2)
    with pytest.raises(ValueError, match="longer than 0 seconds; cut it"):
        decode_sound(wav(tone(440)), 8000)


def test_a_store_counts_the_rates(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("a/1.wav", wav(tone(440)))
        archive.writestr("a/2.wav", wav(tone(440, rate=44100), 44100))
        archive.writestr("a/3.wav", b"nothing")
    store = SoundStore(tmp_path / "s.zip", rate=8000)
    assert store.names() == ["a/1.wav", "a/2.wav", "a/3.wav"]
    assert len(store["a/1.wav"]) == 4000 and abs(len(store["a/2.wav"]) - 4000) < 50
    assert store.own_rates == {8000: 1, 44100: 1}
    with pytest.raises(ValueError, match=r"sound 'a/3.wav' in .*s.zip: not a readable sound"):
        store["a/3.wav"]


def float_wav(samples: np.ndarray, rate: int = 8000) -> bytes:
    """A WAV file of float32 (n, channels)."""
    data = samples.astype("<f4").tobytes()
    head = struct.pack("<HHIIHH", 3, samples.shape[1], rate, rate * 4 * samples.shape[1], 4 * samples.shape[1], 32)
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack(
        "<I", len(data)) + data


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 8, 9, 60])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_channels_are_averaged_without_gain(channels: int, rate: int) -> None:
    """The same tone in every channel stays as loud as it is; in one of them alone it is that part of it."""
    all_of_them, own, remark = read_sound(wav(np.stack([tone(440)] * channels, axis=1)), rate)
    assert own == 8000 and remark == "" and np.abs(all_of_them[500:-500]).max() == pytest.approx(0.5, abs=0.01)
    one = np.zeros((4000, channels))
    one[:, -1] = tone(440)
    alone, _ = decode_sound(wav(one), rate)
    assert np.abs(alone[500:-500]).max() == pytest.approx(0.5 / channels, abs=0.005)


def test_what_is_too_loud_is_clipped_and_that_is_said(tmp_path: Path) -> None:
    samples, _, remark = read_sound(float_wav(3 * tone(440)[:, None]), 8000)
    assert np.abs(samples).max() == 1 and remark == "is louder than [-1, 1] and was clipped"
    (tmp_path / "loud.wav").write_bytes(float_wav(3 * tone(440)[:, None]))
    store = SoundStore(tmp_path, rate=8000)
    store["loud.wav"]
    assert store.remarks == {remark: 1}
    with pytest.raises(ValueError, match=r"samples of up to 16\d+.* are of another scale than \[-1, 1\]; divide them first"):
        decode_sound(float_wav(32767 * tone(440)[:, None]), 8000)
    with pytest.raises(ValueError, match="1 of 4000 samples from 0.0 s on are not finite"):
        decode_sound(float_wav(np.where(np.arange(4000) == 7, np.nan, tone(440))[:, None]), 8000)


def test_a_resampled_square_wave_stays_inside() -> None:
    """The filter overshoots by a fifth; that is no fault of the file."""
    samples, _, remark = read_sound(wav(np.sign(tone(300, rate=44100)), 44100), 16000)
    assert np.abs(samples).max() == 1 and remark == ""


def test_channels_that_cancel_are_remarked() -> None:
    """One of two wires exchanged: nothing is left, which was silent in both senses."""
    loud = tone(440)
    assert read_sound(wav(np.stack([loud, -loud], 1), 8000), 8000)[2] == "has channels that cancel each other out"
    assert read_sound(wav(np.stack([loud, loud], 1), 8000), 8000)[2] == ""
    assert read_sound(wav(np.zeros((800, 2)), 8000), 8000)[2] == ""


def test_a_sound_of_another_kind_is_named() -> None:
    """Sun's .au; FFmpeg said "Invalid argument"."""
    with pytest.raises(ValueError, match="of a kind that is not read; convert it to WAV or FLAC"):
        read_sound(b".snd" + struct.pack(">5I", 24, 1600, 3, 8000, 1) + bytes(1600), 8000)
