"""Sounds, alone or named ones in a folder or a zip: WAV, FLAC, Ogg, MP3, AAC and AIFF, as one channel.

The sound of a video counts too. Channels are averaged, and another sample rate than the wanted one is resampled.
"""

import io
import wave
from pathlib import Path

import numpy as np

from .file_store import FileStore

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".aif", ".aiff")
# FFmpeg's names. Others are lists of files: with them a sound could read whatever lies beside the program.
FORMATS = "wav,flac,ogg,mp3,aac,aiff,mov,matroska,avi,mpegts,mpeg"
MAX_SECONDS = 600.0      # of one sound: a file of 100 kB can claim days of silence


def decode_sound(data: bytes, rate: int) -> tuple[np.ndarray, int]:
    """Decode a sound file.

    Args:
        data: the file.
        rate: wanted, samples per second.
    Returns:
        float32 (samples,) in [-1, 1], and the file's own sample rate.
    Raises:
        ValueError: no such file, broken, without sound, longer than MAX_SECONDS; samples that are not finite.
        ImportError: the extra `media` is not installed.
    """
    try:
        import av
    except ImportError:
        raise ImportError('sound files need PyAV; pip install "calico-agent[media]"') from None
    pieces, length = [], 0
    try:
        with av.open(io.BytesIO(data), "r", options={"format_whitelist": FORMATS}) as container:
            if not container.streams.audio:
                raise ValueError("there is no sound in it")
            own = int(container.streams.audio[0].rate)
            resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
            for frame in container.decode(audio=0):
                for made in resampler.resample(frame):
                    pieces.append(made.to_ndarray()[0])
                    length += len(pieces[-1])
                if length > MAX_SECONDS * rate:
                    raise ValueError(f"it is longer than {MAX_SECONDS:.0f} seconds; cut it into parts")
            pieces += [made.to_ndarray()[0] for made in resampler.resample(None)]    # what the filter still holds
    except (av.FFmpegError, ValueError) as error:     # most of PyAV's errors are OSError or ValueError, too
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(f"not a readable sound ({reason})") from error
    samples = np.concatenate(pieces or [np.zeros(0, np.float32)]).astype(np.float32, copy=False)
    if not len(samples):
        raise ValueError("not a readable sound (no samples)")
    if not np.isfinite(samples).all():
        raise ValueError(f"{int((~np.isfinite(samples)).sum())} of {len(samples)} samples are not finite numbers")
    return samples, own


def encode_wav(samples: np.ndarray, rate: int) -> bytes:
    """A WAV file of float (samples,) in [-1, 1], 16 bits; `decode_sound` gives the same back, rounded.

    Raises:
        ValueError: another dtype or shape, samples outside.
    """
    if samples.dtype.kind != "f" or samples.ndim != 1 or not (np.abs(samples) <= 1).all():
        raise ValueError(f"sounds are float (samples,) in [-1, 1], got {samples.dtype} {samples.shape}")
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return out.getvalue()


class SoundStore(FileStore):
    """Named sounds; the latest ones are kept decoded.

    Args:
        path: a folder or a .zip file.
        rate: samples per second that each sound is resampled to.
        cache_bytes: memory for decoded sounds.
    Attributes:
        own_rates: sample rates of the files decoded so far, each with how many had it.
    """

    what = "sound"
    suffixes = SUFFIXES

    def __init__(self, path: str | Path, *, rate: int, cache_bytes: int = 1 << 29) -> None:
        super().__init__(path, cache_bytes=cache_bytes)
        self.rate = rate
        self.own_rates: dict[int, int] = {}

    def decode(self, data: bytes, name: str) -> np.ndarray:
        """float32 (samples,)."""
        samples, own = decode_sound(data, self.rate)
        self.own_rates[own] = self.own_rates.get(own, 0) + 1
        return samples
