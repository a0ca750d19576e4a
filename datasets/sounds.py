"""Sounds, alone or named ones in a folder or a zip: WAV, FLAC, Ogg, MP3, AAC and AIFF, as one channel.

The sound of a video counts too. Every reader of sounds goes through `read_sound`: channels, however many, are averaged without
gain, another sample rate than the wanted one is resampled, and what is louder than [-1, 1] is clipped, which the remark says.
"""

import io
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .file_store import FileSource, FileStore

SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".m4b", ".aac", ".aif", ".aiff", ".aifc", ".mka",
            ".weba")
# FFmpeg's names. Others are lists of files: with them a sound could read whatever lies beside the program.
FORMATS = "wav,flac,ogg,mp3,aac,aiff,mov,matroska,avi,mpegts,mpeg"
MAX_SECONDS = 600.0      # of one sound: a file of 100 kB can claim days of silence
MAX_BROKEN = 0.05        # of the packets of one sound
BLOCK = 1 << 16        # samples that are resampled together
CANCELLED = 0.1          # of the channels' loudness, below which what is left of them is remarked
LOUDEST = 16.0           # floats of up to so much were turned up too far; more is a file of whole numbers, say


def decode_sound(data: bytes, rate: int) -> tuple[np.ndarray, int]:
    """The samples and the file's own sample rate that `read_sound` gives."""
    samples, own, _ = read_sound(data, rate)
    return samples, own


def read_sound(data: bytes, rate: int) -> tuple[np.ndarray, int, str]:
    """Decode a sound file.

    Args:
        data: the file.
        rate: wanted, samples per second.
    Returns:
        float32 (samples,) in [-1, 1], the mean of all channels; the file's own sample rate; what a user should know, or "".
    Raises:
        ValueError: no such file, broken, without sound, longer than MAX_SECONDS; samples that are not finite, or so far outside
            of [-1, 1] that they are of another scale.
        ImportError: the extra `media` is not installed.
    """
    try:
        import av
    except ImportError:
        raise ImportError('sound files need PyAV; pip install "calico-agent[media]"') from None
    pieces: list[np.ndarray] = []
    length, own, current, loudest, loudest_channel, resampler = 0, 0, 0, 0.0, 0.0, None
    broken: list[Exception] = []
    try:
        with av.open(io.BytesIO(data), "r", options={"format_whitelist": FORMATS}) as container:
            first_stream(container.streams.audio, "there is no sound in it")
            for mono, peak, frequency in _blocks(container, broken):
                if not np.isfinite(mono).all():
                    raise ValueError(f"{int((~np.isfinite(mono)).sum())} of {len(mono)} samples from {length / rate:.1f} s on "
                                     "are not finite numbers")
                loudest, loudest_channel = max(loudest, float(np.abs(mono).max(initial=0))), max(loudest_channel, peak)
                if frequency != current:     # also where two files were joined
                    pieces += [made.to_ndarray()[0] for made in resampler.resample(None)] if resampler else []
                    current, own = frequency, own or frequency
                    resampler = None if current == rate else av.AudioResampler(format="fltp", layout="mono", rate=rate)
                if resampler is None:
                    pieces.append(mono)
                else:
                    given = av.AudioFrame.from_ndarray(mono[None], format="fltp", layout="mono")
                    given.sample_rate = current
                    pieces += [made.to_ndarray()[0] for made in resampler.resample(given)]
                length += len(mono) * rate // current
                if length > MAX_SECONDS * rate:
                    raise ValueError(f"it is longer than {MAX_SECONDS:.0f} seconds; cut it into parts")
            # what the filter still holds
            pieces += [made.to_ndarray()[0] for made in resampler.resample(None)] if resampler else []
        samples = np.concatenate(pieces or [np.zeros(0, np.float32)])
        if not len(samples):
            raise ValueError("no samples")
        if loudest > LOUDEST:
            raise ValueError(f"samples of up to {loudest:g} are of another scale than [-1, 1]; divide them first")
    except (av.FFmpegError, ValueError) as error:     # most of PyAV's errors are OSError or ValueError, too
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, av.ArgumentError):       # of a format that is not in the list above
            reason = "of a kind that is not read; convert it to WAV or FLAC"
        raise ValueError(f"not a readable sound ({reason})") from error
    remarks = [f"has {len(broken)} broken packets, which are left out"] * bool(broken)
    remarks += ["is louder than [-1, 1] and was clipped"] * (loudest > 1)      # the resampler's overshoot is not worth a word
    remarks += ["has channels that cancel each other out"] * (loudest < CANCELLED * loudest_channel)
    return np.clip(samples, -1, 1), own, " and ".join(remarks)


def first_stream(streams: Sequence[Any], missing: str) -> Any:
    """The first of a container's streams of a kind; `missing`: the words where there is none.

    Raises:
        ValueError: there is none, or FFmpeg has no decoder for it: PyAV gives such a stream without any attributes.
    """
    if not streams:
        raise ValueError(missing)
    if streams[0].codec_context is None:
        raise ValueError("FFmpeg has no decoder for what is in it")
    return streams[0]


def _blocks(container: Any, broken: list[Exception]) -> Iterator[tuple[np.ndarray, float, int]]:
    """The first sound as float32 (samples,) of about BLOCK samples, the peak of its channels, and its rate, which may change
    where files were joined.

    FFmpeg's own mixing weighs channels by where they stand, so that stereo becomes louder, and refuses numbers of channels that
    it has no name for. Packets that cannot be decoded are listed in `broken`, a few are no fault: the tags where two files were
    joined are such. The first one is raised where they are more than MAX_BROKEN of all.
    """
    packets, held, waiting, last = 0, 0, list[np.ndarray](), (0, 0, "")
    for packet in container.demux(audio=0):
        packets += 1
        try:
            frames = packet.decode()
        except ValueError as error:        # InvalidDataError is one
            broken.append(error)
            continue
        for frame in frames:
            form = frame.sample_rate, frame.layout.nb_channels, frame.format.name
            if waiting and (form != last or held > BLOCK):
                yield *_mean_of_channels(waiting, last[1]), last[0]
                waiting, held = [], 0
            waiting.append(frame.to_ndarray())
            held, last = held + frame.samples, form
    if waiting:
        yield *_mean_of_channels(waiting, last[1]), last[0]
    if len(broken) > MAX_BROKEN * packets:
        raise broken[0]


def _mean_of_channels(frames: list[np.ndarray], channels: int) -> tuple[np.ndarray, float]:
    """float32 (samples,) and the peak of the channels.

    Args:
        frames: each (channels, samples), or (1, samples * channels) with the channels in turns.
    """
    values = np.concatenate(frames, axis=1)
    if len(values) != channels:
        values = values.reshape(-1, channels).T
    match values.dtype.kind:
        case "u":
            values = (values.astype(np.float32) - 128) / 128
        case "i":
            whole = float(1 << (8 * values.itemsize - 1))
            values = np.divide(values, whole, dtype=np.float64 if values.itemsize > 2 else np.float32)
    if channels == 1:
        return values[0].astype(np.float32, copy=False), 0.0
    return values.mean(0, dtype=np.float64).astype(np.float32), float(np.abs(values).max(initial=0))


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
        path: as FileStore.
        rate: samples per second that each sound is resampled to.
        cache_bytes: memory for decoded sounds.
    Attributes:
        own_rates: sample rates of the files decoded so far, each with how many had it.
    """

    what = "sound"
    suffixes = SUFFIXES

    def __init__(self, path: str | Path | FileSource, *, rate: int, cache_bytes: int = 1 << 29) -> None:
        super().__init__(path, cache_bytes=cache_bytes)
        self.rate = rate
        self.own_rates: dict[int, int] = {}

    def decode(self, data: bytes, name: str) -> np.ndarray:
        samples, own, remark = read_sound(data, self.rate)
        self.own_rates[own] = self.own_rates.get(own, 0) + 1
        if remark:
            self.remarked[name] = remark
        return samples
