"""Videos with their sound and a label: files in any format that FFmpeg reads, at one frame rate, one size and one sample rate.

Pictures stand upright as the file says (phones store them on their side), and pixels that are not square become so. They are
cut to the wanted proportions around their middle and resized; a moment shows the latest frame before it. The sound comes from
the file, where it may begin later than the pictures, else from a sound file of the same name beside it, else it is silence.
What was done is said.
"""

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..file_store import local_name
from ..images import MAX_PIXELS, centre_crop
from ..records import named, read_rows
from ..sounds import FORMATS as SOUND_FORMATS
from ..sounds import SUFFIXES as SOUND_SUFFIXES
from ..sounds import first_stream, read_sound
from ..streams import stream
from .labelled import LABEL_KEYS

SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".gif")
FORMATS = f"{SOUND_FORMATS},gif"   # no lists of files, see there
FILE_KEYS = ("file", "video", "file_name", "path")      # name a video in a manifest
MAX_SECONDS = 60.0             # of one video; what is longer is cut
MISSING = 1.0                  # seconds that may lack at the end: sound is often a little longer


@dataclass(frozen=True)
class Format:
    """How videos are read: size in rows and columns, frames per second, samples of sound per frame."""

    size: tuple[int, int] = (224, 224)
    fps: float = 25.0
    samples_per_frame: int = 1920

    @property
    def rate(self) -> int:
        """Samples per second."""
        return round(self.fps * self.samples_per_frame)


@dataclass(frozen=True)
class Video:
    """A whole video.

    Attributes:
        name: of the file.
        frames: uint8 (T, H, W, 3).
        sound: float32 (T * samples per frame,) in [-1, 1].
        label: what is to be seen; empty where nobody said.
        notes: what was done to the sound and the length.
    """

    name: str
    frames: np.ndarray
    sound: np.ndarray
    label: str = ""
    notes: tuple[str, ...] = ()


def read_video(path: Path | str, form: Format, *, sound: Path | str | None = None, label: str = "") -> Video:
    """Decode a video file.

    Args:
        sound: a file with the sound, in place of the video's own.
    Raises:
        ValueError: not a readable video, or not a readable sound; names the file.
        ImportError: the extra `media` is not installed.
    """
    path = Path(path)
    if not os.path.isfile(path):      # Path.is_file() raises OSError for a name that is too long
        raise ValueError(f"{path} is not a file; give a video")
    frames, has_sound, began, length = _read_frames(path, form)
    notes = [f"{path.name} {length}"] if length else []
    beside = [path.with_suffix(suffix) for suffix in SOUND_SUFFIXES if path.with_suffix(suffix).is_file()]
    source = Path(sound) if sound is not None else path if has_sound else beside[0] if beside else None
    samples = np.zeros(len(frames) * form.samples_per_frame, np.float32)
    if source is None:
        notes.append(f"{path.name} has no sound: silence takes its place")
    else:
        try:
            made, own, remark = read_sound(source.read_bytes(), form.rate)
        except (OSError, ValueError) as error:
            raise ValueError(f"{source}: {error}") from None
        late = _sound_begins(path) - began if source == path else 0.0
        if abs(late) > 0.5 / form.fps:       # less are samples that a codec begins with
            first = round(late * form.rate)
            made = np.concatenate([np.zeros(max(first, 0), np.float32), made[max(-first, 0):]])
            notes.append(f"{path.name}: its sound begins {abs(late):.2f} s {'after' if late > 0 else 'before'} its pictures")
        samples[:len(made)] = made[:len(samples)]
        if remark:
            notes.append(f"{path.name}: its sound {remark}")
        if source != path:
            notes.append(f"{path.name}: its sound is {source.name}")
        if own != form.rate:
            notes.append(f"{path.name}: sound resampled from {own} to {form.rate} samples per second")
    return Video(path.name, frames, samples, label, tuple(notes))


def _sound_begins(path: Path) -> float:
    """When the first sample of a video's sound is heard, seconds on the file's clock."""
    import av

    with av.open(str(path), options={"format_whitelist": FORMATS}) as container:
        for packet in container.demux(audio=0):
            with contextlib.suppress(av.FFmpegError):      # as in read_sound, a broken packet is passed over
                for frame in packet.decode():
                    return frame.time or 0.0
    return 0.0


def _read_frames(path: Path, form: Format) -> tuple[np.ndarray, bool, float, str]:
    """uint8 (T, H, W, 3), whether there is sound, when the first picture is shown, seconds on the file's clock, and what a user
    should know of the length, or ""."""
    try:
        import av
    except ImportError as error:
        raise ImportError('videos need PyAV; pip install "calico-agent[media]"') from error
    frames: list[np.ndarray] = []
    most, shown, aspect, began = round(MAX_SECONDS * form.fps), [None], 1.0, 0.0

    def show(frame: Any, until: float) -> None:
        while frame is not None and len(frames) < most and len(frames) / form.fps < until - 1e-6:
            frames.append(frames[-1] if frame is shown[0] else fitted_frame(frame, form.size, aspect))
            shown[0] = frame

    try:
        with av.open(str(path), options={"format_whitelist": FORMATS}) as container:
            stream = first_stream(container.streams.video, "there are no pictures in it")
            # the pictures' own length where it is known: sound may be longer; Matroska's counts from 0, not from the first one
            declared = (container.duration or 0) / 1e6
            if stream.duration and stream.time_base:
                declared = float(stream.duration * stream.time_base)
            if stream.width * stream.height > MAX_PIXELS:
                raise ValueError(f"its pictures have {stream.width} x {stream.height} pixels, the limit is {MAX_PIXELS}")
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}      # they may grow on the way
            aspect = float(stream.sample_aspect_ratio or 1)
            has_sound, step = bool(container.streams.audio), 1 / float(stream.average_rate or form.fps)
            latest, end = None, 0.0
            for frame in container.decode(video=0):
                if latest is None:
                    began = frame.time or 0.0
                now = end if frame.time is None else frame.time - began    # without times they follow at the stream's rate
                show(latest, now)
                if len(frames) == most:
                    return np.stack(frames), has_sound, began, f"is longer than {MAX_SECONDS:.0f} s: the rest is left out"
                latest, end = frame, now + step
            show(latest, end)
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"{path}: not a readable video ({getattr(error, 'strerror', None) or error})") from None
    if not frames:
        raise ValueError(f"{path}: not a readable video (no frames)")
    is_short = declared - began - end > MISSING
    short = f"ends after {end:.1f} s, its header says {declared:.1f} s: was it cut short?" if is_short else ""
    return np.stack(frames), has_sound, began, short


def fitted(picture: Image.Image, size: tuple[int, int], aspect: float = 1.0) -> np.ndarray:
    """The middle of a picture in the proportions of `size`, resized to it: uint8 (H, W, 3).

    Args:
        aspect: width of a pixel as it is meant to be seen, its height being 1.
    """
    height, width = size
    middle = Image.fromarray(centre_crop(np.asarray(picture.convert("RGB")), height * aspect, width))
    return np.asarray(middle.resize((width, height), Image.Resampling.BICUBIC))


def fitted_frame(frame: Any, size: tuple[int, int], aspect: float = 1.0) -> np.ndarray:
    """`fitted` of a decoded frame, which is turned and mirrored as its display matrix says.

    A pixel at (x, y) is shown at (a x + c y, b x + d y), see FFmpeg's libavutil/display.h.
    """
    picture = frame.to_image()
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return fitted(picture, size, aspect)
    a, b, _, c, d = np.sign(np.frombuffer(matrix, "<i4")[:5]).tolist()
    pixels = np.asarray(picture)
    if a and d and not b and not c:
        pixels = pixels[::d, ::a]
    elif b and c and not a and not d:
        pixels, aspect = pixels.swapaxes(0, 1)[::b, ::c], 1 / aspect
    return fitted(Image.fromarray(np.ascontiguousarray(pixels)), size, aspect)     # a slanted picture stays as it is


# ---- many of them ----------------------------------------------------------------------------------------------------------

def read_videos(source: Path | str, form: Format) -> list[Video]:
    """The videos of a folder (a folder below it names the label) or of a manifest: JSON lines with one of FILE_KEYS, and
    perhaps `label` and `sound`, files beside it.

    Raises:
        ValueError: nothing there, or a file that cannot be read; names it.
    """
    return [read_listed(row, form) for row in listed_videos(source)]


@dataclass(frozen=True)
class Listed:
    """A video that is named: a file of `folder`, perhaps with a file of sound, and what is to be seen."""

    folder: Path
    file: str
    sound: str = ""
    label: str = ""


def listed_videos(source: Path | str) -> list[Listed]:
    """What `read_videos` reads, by name; raises ValueError where nothing is there, or a line of a manifest is wrong."""
    source = Path(source)
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
        rows = [Listed(source, path.relative_to(source).as_posix(), label=path.parent.name * (path.parent != source))
                for path in files]
    else:
        rows = [Listed(source.parent, _file(row), row.get("sound") or "", _label(row))
                for row in read_rows(source, _check_row, "; give a folder of videos or a manifest")]
    if not rows:
        raise ValueError(f"{source} has no videos; there must be files ending in {', '.join(SUFFIXES)}")
    return rows


def read_listed(row: Listed, form: Format) -> Video:
    """`read_video` of a listed one."""
    sound = inside(row.folder, row.sound) if row.sound else None
    return read_video(inside(row.folder, row.file), form, sound=sound, label=row.label)


def inside(folder: Path, name: str | Path) -> Path:
    """The file that a manifest names; ValueError where it lies outside of the manifest's folder."""
    with named(repr(str(name))):         # one on the web; one with NUL in it
        path = folder / local_name(str(name))
        os.path.realpath(path)
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ValueError(f"{str(name)!r} lies outside of {folder}; give names inside the folder")
    return path


def _check_row(row: dict[str, Any]) -> None:
    if not isinstance(_file(row), str) or not isinstance(row.get("sound") or "", str):
        raise ValueError('no "file"; each line is {"file": FILE, "label": TEXT} and perhaps "sound", another file')
    if isinstance(row.get("label"), list | dict):
        raise ValueError(f"label must be a text or a number, got {row['label']!r}")


def _file(row: dict[str, Any]) -> Any:
    return next((row[key] for key in FILE_KEYS if key in row), None)


def _label(row: dict[str, Any]) -> str:
    """What is to be seen; "" where nobody said: a class may be called 0."""
    label = next((row[key] for key in LABEL_KEYS if row.get(key) is not None), "")
    return str(label)


class Clips:
    """Clips of videos; the last fifth of each video is kept apart and measured."""

    def __init__(self, videos: Sequence[Video], frames: int, samples_per_frame: int, patch: int, seed: int = 0,
                 video_patch: int = 1) -> None:
        """
        Args:
            frames: of a clip; a video needs as many for each of its two parts.
            patch, video_patch: samples of sound, and pixels, that are decoded together.
        Raises:
            ValueError: a video is too short.
        """
        self.videos, self.frames, self.per_frame = videos, frames, samples_per_frame
        self.patch, self.video_patch, self.seed = patch, video_patch, seed
        self.labels = sorted({video.label for video in videos})
        for video in videos:
            if len(video.frames) < 2 * frames:
                raise ValueError(f"{video.name} has {len(video.frames)} frames; {2 * frames} at least are needed, a clip of "
                                 f"{frames} to learn from and one to measure")

    def batch(self, step: int, count: int, points: int = 512) -> dict[str, np.ndarray]:
        """Random clips, a pure function of the seed and the step; see perceiver_losses.autoencoding_loss.

        Args:
            points: patches of the video, and of the sound, that are decoded.
        """
        rng = stream(self.seed, "clips", step)
        chosen = [(video, int(rng.integers(self.border(video) - self.frames + 1)))
                  for video in (self.videos[i] for i in rng.integers(len(self.videos), size=count))]
        form = Format(size=self.videos[0].frames.shape[1:3], samples_per_frame=self.per_frame)
        return self.stack(chosen) | drawn_points(rng, form, self.frames, self.patch, self.video_patch, points)

    def held_out(self) -> dict[str, np.ndarray]:
        return self.stack([(video, len(video.frames) - self.frames) for video in self.videos])

    def border(self, video: Video) -> int:
        """The frame from which on a video is kept apart."""
        return len(video.frames) - max(self.frames, len(video.frames) // 5)

    def stack(self, chosen: Sequence[tuple[Video, int]]) -> dict[str, np.ndarray]:
        return stacked(chosen, self.labels, self.frames, self.per_frame)


def stacked(chosen: Sequence[tuple[Video, int]], labels: Sequence[str], frames: int, samples_per_frame: int,
            ) -> dict[str, np.ndarray]:
    """Clips from given frames on: image float32 (B, T, 3, H, W) in [0, 1], audio (B, samples), label int64 (B,)."""
    parts = [clip(video, start, frames, samples_per_frame) for video, start in chosen]
    return {"image": np.stack([image for image, _ in parts]), "audio": np.stack([sound for _, sound in parts]),
            "label": np.array([labels.index(video.label) for video, _ in chosen])}


def drawn_points(rng: np.random.Generator, form: Format, frames: int, patch: int, video_patch: int, points: int,
                 ) -> dict[str, np.ndarray]:
    """What a step decodes, int64 indices of patches of the video ("pixels") and of the sound ("patches").

    Of more than `points` so many are drawn, with replacement; else all are taken.
    """
    counts = {"pixels": frames * math.prod(form.size) // video_patch, "patches": frames * form.samples_per_frame // patch}
    return {name: rng.integers(count, size=points) if points < count else np.arange(count) for name, count in counts.items()}


def clip(video: Video, start: int, frames: int, samples_per_frame: int) -> tuple[np.ndarray, np.ndarray]:
    """`frames` frames from `start` on: image float32 (T, 3, H, W) in [0, 1] and sound (samples,); zeros beyond the end."""
    shown = video.frames[start:start + frames].transpose(0, 3, 1, 2)
    image = np.zeros((frames, *shown.shape[1:]), np.float32)
    np.divide(shown, 255, out=image[:len(shown)], dtype=np.float32)
    sound = np.zeros(frames * samples_per_frame, np.float32)
    heard = video.sound[start * samples_per_frame:(start + len(shown)) * samples_per_frame]
    sound[:len(heard)] = heard
    return image, sound
