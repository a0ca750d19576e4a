"""Videos: frames at the wanted moments and size, sound from where it is, clips that keep their side of the split."""

import json
import struct
import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calico.datasets.samples.video import Clips, Format, Video, clip, fitted, listed_videos, read_video, read_videos

FORM = Format(size=(8, 8), fps=10, samples_per_frame=80)


def write_video(path: Path, greys: Sequence[int], fps: int = 10, size: tuple[int, int] = (16, 32)) -> None:
    """Grey pictures, nearly without loss; the two sides are black."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps, options={"qscale:v": "1"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for grey in greys:
            pixels = np.full((*size, 3), grey, np.uint8)
            pixels[:, :size[1] // 8] = pixels[:, -(size[1] // 8):] = 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def write_wav(path: Path, seconds: float, rate: int = 800) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((8000 * np.sin(np.arange(int(seconds * rate)) / 3)).astype("<i2").tobytes())


def greys_of(video: Video) -> list[int]:
    return [round(float(frame.mean())) for frame in video.frames]


def test_frames_are_those_of_each_moment(tmp_path: Path) -> None:
    """At the video's own rate each frame comes once; at half of it, every second; at twice, twice."""
    greys = [40, 80, 120, 160, 200, 240]
    write_video(tmp_path / "a.mp4", greys)
    for fps, expected in ((10, greys), (5, greys[::2]), (20, [grey for grey in greys for _ in range(2)])):
        video = read_video(tmp_path / "a.mp4", Format(size=(8, 8), fps=fps, samples_per_frame=80))
        assert video.frames.shape == (len(expected), 8, 8, 3)
        assert np.abs(np.subtract(greys_of(video), expected)).max() <= 8


def test_a_list_of_files_is_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one, a video could show whatever lies beside the program."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "secret.mp4", [90] * 6)
    (tmp_path / "a.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(ValueError, match="a.mp4"):
        read_video(tmp_path / "a.mp4", FORM)


def test_the_middle_is_cut_out() -> None:
    picture = np.zeros((10, 30, 3), np.uint8)
    picture[:, 10:20] = 250
    assert (fitted(Image.fromarray(picture), (5, 5)) == 250).all()
    assert fitted(Image.fromarray(picture), (4, 12)).shape == (4, 12, 3)


def test_silence_takes_the_place_of_sound_and_that_is_said(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [90] * 12)
    video = read_video(tmp_path / "a.mp4", FORM)
    assert video.sound.shape == (12 * 80,) and not video.sound.any()
    assert video.notes == ("a.mp4 has no sound: silence takes its place",)


def test_sound_beside_the_video_is_resampled_cut_and_said(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [90] * 12)
    write_wav(tmp_path / "a.wav", 3.0, rate=1600)
    video = read_video(tmp_path / "a.mp4", FORM)
    assert video.sound.shape == (960,) and video.sound.std() > 0.1
    assert video.notes == ("a.mp4: its sound is a.wav", "a.mp4: sound resampled from 1600 to 800 samples per second")
    write_wav(tmp_path / "short.wav", 0.5)
    named = read_video(tmp_path / "a.mp4", FORM, sound=tmp_path / "short.wav")
    assert named.sound[:400].any() and not named.sound[400:].any()


def test_a_long_video_is_cut_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", [90] * 12)
    monkeypatch.setattr("calico.datasets.samples.video.MAX_SECONDS", 0.5)
    video = read_video(tmp_path / "a.mp4", FORM)
    assert len(video.frames) == 5 and "longer than 0 s: the rest is left out" in video.notes[0]


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"nothing" * 50)
    write_wav(tmp_path / "b.mp4", 0.2)
    for name, message in (("a.mp4", "a.mp4: not a readable video"), ("b.mp4", "there are no pictures in it"),
                          ("c.mp4", "c.mp4 is not a file")):
        with pytest.raises(ValueError, match=message):
            read_video(tmp_path / name, FORM)
    write_video(tmp_path / "d.mp4", [90] * 3)
    with pytest.raises(ValueError, match="a.mp4: not a readable sound"):
        read_video(tmp_path / "d.mp4", FORM, sound=tmp_path / "a.mp4")


def test_folders_name_labels_and_manifests_give_them(tmp_path: Path) -> None:
    for label in ("cats", "dogs"):
        (tmp_path / "videos" / label).mkdir(parents=True)
        write_video(tmp_path / "videos" / label / "one.mp4", [90] * 4)
    assert [video.label for video in read_videos(tmp_path / "videos", FORM)] == ["cats", "dogs"]
    write_wav(tmp_path / "videos" / "s.wav", 0.4)
    rows = [{"file": "cats/one.mp4", "label": "a cat", "sound": "s.wav"}, {"file": "dogs/one.mp4"}]
    manifest = tmp_path / "videos" / "all.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    first, second = read_videos(manifest, FORM)
    assert first.label == "a cat" and first.sound.any() and second.label == "" and not second.sound.any()
    manifest.write_text('{"label": "x"}\n')
    with pytest.raises(ValueError, match='line 1: no "file"'):
        read_videos(manifest, FORM)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no videos"):
        read_videos(tmp_path / "empty", FORM)


# ---- clips

def counted(name: str, length: int, label: str = "") -> Video:
    """Each frame shows its number, and so do its samples."""
    frames = np.broadcast_to(np.arange(length, dtype=np.uint8)[:, None, None, None], (length, 4, 4, 3)).copy()
    return Video(name, frames, np.repeat(np.arange(length, dtype=np.float32) / 255, 8), label)


def test_clips_are_a_function_of_the_step_and_never_held_out() -> None:
    videos = [counted("a", 30, "x"), counted("b", 50, "y")]
    clips = Clips(videos, frames=4, samples_per_frame=8, patch=4, seed=1)
    assert [clips.border(video) for video in videos] == [24, 40]
    for step in range(20):
        batch = clips.batch(step, 8, points=16)
        numbers = (batch["image"][:, :, 0, 0, 0] * 255).round()
        limits = np.array([[24], [40]])[batch["label"]]
        assert (numbers < limits).all() and (np.diff(numbers, axis=1) == 1).all()
        np.testing.assert_allclose(batch["audio"].reshape(8, 4, 8)[..., 0], batch["image"][:, :, 0, 0, 0])
        assert batch["pixels"].shape == (16,) and batch["pixels"].max() < 64 and batch["patches"].shape == (8,)
    again = clips.batch(19, 8, points=16)
    assert all(np.array_equal(batch[name], again[name]) for name in batch)
    held_out = clips.held_out()
    assert (held_out["image"][:, 0, 0, 0, 0] * 255).round().tolist() == [26, 46] and held_out["label"].tolist() == [0, 1]


def test_a_clip_beyond_the_end_is_filled_up() -> None:
    image, sound = clip(counted("a", 6), 4, 4, 8)
    assert image.shape == (4, 3, 4, 4) and sound.shape == (32,) and image.dtype == sound.dtype == np.float32
    assert (image[1] == 5 / 255).all() and not image[2:].any() and not sound[16:].any()


def test_a_video_that_is_too_short_is_named() -> None:
    with pytest.raises(ValueError, match="a has 7 frames; 8 at least are needed"):
        Clips([counted("a", 7)], frames=4, samples_per_frame=8, patch=4)


@pytest.mark.parametrize(("line", "message"), [
    ({"file": None}, 'line 1: no "file"'), ({"file": 3}, 'line 1: no "file"'),
    ({"file": "a.mp4", "sound": 3}, 'line 1: no "file"'),
    (["a.mp4"], "entry 1: expected an object")])
def test_a_line_without_a_file_is_named(tmp_path: Path, line: object, message: str) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps(line))
    with pytest.raises(ValueError, match=message):
        read_videos(tmp_path / "m.jsonl", FORM)


def test_a_manifest_is_read_as_all_others(tmp_path: Path) -> None:
    """U+2028 ends no line, and a mark of the byte order is no part of the first one."""
    write_video(tmp_path / "a.mp4", [90] * 4)
    (tmp_path / "m.jsonl").write_bytes('\ufeff{"file": "a.mp4", "label": "a\u2028cat"}\r\n'.encode())
    assert [video.label for video in read_videos(tmp_path / "m.jsonl", FORM)] == ["a\u2028cat"]


def test_a_form_without_a_decoder_is_named(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(data.replace(b"V_MPEG4/ISO/ASP", b"V_NOBODY'S/FORM"))
    with pytest.raises(ValueError, match=r"a\.mkv: not a readable video \(FFmpeg has no decoder for what is in it\)"):
        read_video(tmp_path / "a.mkv", Format((16, 16), 10.0, 80))


TURNS = {"as it is": (1, 0, 0, 1), "quarter right": (0, 1, -1, 0), "half": (-1, 0, 0, -1), "quarter left": (0, -1, 1, 0),
         "mirrored": (-1, 0, 0, 1), "mirrored and turned": (0, 1, 1, 0)}


@pytest.mark.parametrize("turn", TURNS)
def test_a_phones_video_stands_upright(tmp_path: Path, turn: str) -> None:
    """The file's header says how it is shown (ISO 14496-12, tkhd); what is stored is white at the left end of the top."""
    a, b, c, d = TURNS[turn]
    av = pytest.importorskip("av")
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:16, :32] = 255
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, options={"qscale:v": "1"})
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode(None))
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    start = data.index(b"tkhd") + 44
    data[start:start + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(data)
    # (x, y) from the middle of the picture, to the right and down, is shown at (a x + c y, b x + d y)
    shown = np.zeros((2, 2), int)
    x, y = a * -1 + c * -1, b * -1 + d * -1
    shown[(y + 1) // 2, (x + 1) // 2] = 255
    size = (32, 64) if a else (64, 32)
    frame = read_video(tmp_path / "a.mp4", Format(size=size, fps=10, samples_per_frame=80)).frames[0]
    quarters = frame.reshape(2, size[0] // 2, 2, size[1] // 2, 3).mean((1, 3, 4))
    assert np.abs(quarters - shown).max() < 12, quarters


def test_pixels_that_are_not_square_become_so(tmp_path: Path) -> None:
    """Old television's are narrower than high: a circle was an egg. 36 x 32 pixels, each 16:9 wide, are shown as 64 x 32."""
    av = pytest.importorskip("av")
    stored = np.full((32, 36, 3), 255, np.uint8)
    stored[:, 9:27] = 0                          # shown from 16 to 48 of 64: as wide as high
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, options={"qscale:v": "1"})
        stream.height, stream.width, stream.pix_fmt = 32, 36, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(16, 9)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode(None))
    wide = read_video(tmp_path / "a.mp4", Format(size=(32, 64), fps=10, samples_per_frame=80)).frames[0].mean(2)
    assert [int((row < 128).sum()) for row in wide[::10]] == [32] * 4
    assert read_video(tmp_path / "a.mp4", Format(size=(16, 16), fps=10, samples_per_frame=80)).frames[0].mean() < 20


def test_sound_that_begins_late_is_heard_late(tmp_path: Path) -> None:
    """Half a second after the pictures: it was heard with them."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        pictures, sound = container.add_stream("mpeg4", rate=10), container.add_stream("pcm_s16le", rate=8000)
        pictures.height, pictures.width, pictures.pix_fmt, sound.layout = 16, 32, "yuv420p", "mono"
        for _ in range(15):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8), format="rgb24")))
        samples = av.AudioFrame.from_ndarray(np.full((1, 8000), 16384, np.int16), format="s16", layout="mono")
        samples.sample_rate, samples.pts, samples.time_base = 8000, 4000, Fraction(1, 8000)
        container.mux(sound.encode(samples))
        container.mux([*pictures.encode(None), *sound.encode(None)])
    video = read_video(tmp_path / "a.mkv", Format(size=(8, 8), fps=10, samples_per_frame=800))
    assert video.sound[:4000].tolist() == [0] * 4000 and np.allclose(video.sound[4000:12000], 0.5)
    assert "a.mkv: its sound begins 0.50 s after its pictures" in video.notes


@pytest.mark.parametrize(("record", "label"), [
    ({"file": "a.mp4", "label": 0}, "0"), ({"file": "a.mp4", "label": None}, ""),
    ({"file_name": "a.mp4", "labels": "swim"}, "swim"), ({"video": "a.mp4", "label": False}, "False"),
])
def test_a_manifest_of_videos_keeps_the_class_0(tmp_path: Path, record: dict[str, object], label: str) -> None:
    """Class 0 was no class. Lists of JSON are read, too."""
    for name, content in (("m.jsonl", json.dumps(record)), ("m.json", json.dumps([record]))):
        (tmp_path / name).write_text(content)
        assert [(row.file, row.label) for row in listed_videos(tmp_path / name)] == [("a.mp4", label)]


@pytest.mark.parametrize(("name", "message"), [("https://a.org/a.mp4", "lies on the web"), ("a\0.mp4", "'a.x00.mp4': ")])
def test_names_that_are_no_files_are_said(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({"file": name}))
    with pytest.raises(ValueError, match=message):
        read_videos(tmp_path / "m.jsonl", FORM)
