"""Documents read as they were written; what is broken or hostile is an error that names file and line."""

import io
import itertools
import json
import multiprocessing
import os
import pickle
import shutil
import struct
import subprocess
import sys
import textwrap
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from calico.datasets import file_store
from calico.datasets.document_writers import CaptionWriter, DialogueWriter
from calico.datasets.documents import Caption, CaptionReader, DialogueReader
from calico.datasets.images import ImageStore, decode_file, encode_file
from calico.datasets.open_data import open_data
from calico.datasets.records import JsonLines
from calico.datasets.samples.video import Format, read_video
from calico.datasets.texts import TextReader

from ..tones import tone, write_tones, write_wav

RNG = np.random.default_rng(0)
PICTURES = {f"{i}.png": RNG.integers(0, 256, (8 + i, 20, 3), dtype=np.uint8) for i in range(4)}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": [{"type": "image", "image": "1.png"}, {"type": "text", "text": "what é\n?"},
                                 {"type": "image", "image": "0.png"}]},
    {"role": "assistant", "content": "a ball"},
]


def lines(path: Path, *values: object) -> Path:
    path.write_text("\n".join(v if isinstance(v, str) else json.dumps(v) for v in values))
    return path


def png_claiming(width: int, height: int) -> bytes:
    """A PNG file of a few bytes whose header claims any size."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(data)
    for reader in (TextReader, CaptionReader, DialogueReader):
        with pytest.raises(ValueError, match=r"x\.jsonl"):
            raise ValueError(f"x.jsonl read {len(reader(tmp_path / 'x.jsonl'))}")


# ---- images

def test_images_keep_their_pixels_and_shrink_in_proportion() -> None:
    for picture in PICTURES.values():
        assert (decode_file(encode_file(picture)) == picture).all()
    assert decode_file(encode_file(np.zeros((100, 400, 3), np.uint8)), 64).shape == (16, 64, 3)
    assert decode_file(encode_file(np.zeros((400, 3, 3), np.uint8)), 64).shape == (64, 1, 3)
    assert decode_file(encode_file(PICTURES["0.png"]), 64).shape == (8, 20, 3)
    with pytest.raises(ValueError, match="images are uint8 .* got float64"):
        encode_file(np.zeros((4, 4, 3)))


@pytest.mark.parametrize(("kind", "mode"), [
    *itertools.product(["PNG"], ["L", "P", "RGB", "RGBA", "LA", "1", "I;16"]),
    *itertools.product(["JPEG", "WEBP"], ["L", "RGB"]), ("WEBP", "RGBA"),
])
def test_all_sorts_of_files_become_rgb(kind: str, mode: str) -> None:
    out = io.BytesIO()
    Image.new(mode, (20, 10)).save(out, kind)
    pixels = decode_file(out.getvalue())
    assert pixels.shape == (10, 20, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == (255 if mode in ("RGBA", "LA") else 0)).all()   # transparent places are white


@pytest.mark.parametrize(("data", "message"), [
    (b"", "not a readable"), (b"GIF89a" + bytes(20), "not a readable"),
    (encode_file(PICTURES["0.png"])[:-30], "not a readable"), (png_claiming(0, 5), "not a readable"),
    (png_claiming(100_000, 100_000), "exceeds limit"), (png_claiming(12_000, 12_000), "12000 x 12000 pixels"),
    (png_claiming(4097, 4096), "4097 x 4096 pixels, the limit is 16777216"),
], ids=["empty", "gif", "truncated", "no width", "10 gigapixels", "144 megapixels", "just too large"])
def test_broken_images_and_bombs_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_file(data)


def test_other_formats_are_read() -> None:
    for kind in ("GIF", "BMP", "TIFF", "PPM", "AVIF", "TGA", "PCX", "JPEG2000", "QOI", "SGI"):
        out = io.BytesIO()
        Image.new("RGB", (16, 12)).save(out, kind)
        assert decode_file(out.getvalue()).shape == (12, 16, 3)
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "EPS")          # would run another program
    with pytest.raises(ValueError, match="not a readable image, such as PNG, JPEG or WebP .it is no image"):
        decode_file(out.getvalue())



def test_flipped_bits_never_crash() -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        out = io.BytesIO()
        Image.fromarray(PICTURES["3.png"]).save(out, kind)
        for _ in range(100):
            data = bytearray(out.getvalue())
            data[int(RNG.integers(len(data)))] ^= 1 << int(RNG.integers(8))
            try:
                assert decode_file(bytes(data)).dtype == np.uint8
            except ValueError as error:
                assert "not a readable" in str(error)


def test_names_are_keys_and_no_places(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret.png").write_bytes(encode_file(PICTURES["0.png"]))
    (tmp_path / "folder" / "a.png").write_bytes(encode_file(PICTURES["1.png"]))
    store = ImageStore(tmp_path / "folder")
    assert (store["a.png"] == PICTURES["1.png"]).all()
    for name in ("../secret.png", str(tmp_path / "secret.png"), "x/../../secret.png"):
        with pytest.raises(ValueError, match="lies outside"):
            store[name]
    (tmp_path / "folder" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match="lies outside"):
        store["link.png"]

    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("../../evil.png", encode_file(PICTURES["2.png"]))
        archive.writestr("/etc/evil.png", encode_file(PICTURES["3.png"]))
    before = sorted(tmp_path.rglob("*"))
    store = ImageStore(tmp_path / "pictures.zip")
    assert (store["../../evil.png"] == PICTURES["2.png"]).all()
    assert (store["/etc/evil.png"] == PICTURES["3.png"]).all()
    assert sorted(tmp_path.rglob("*")) == before
    assert not (tmp_path.parent.parent / "evil.png").exists()
    assert "evil.png" not in store


def test_damaged_and_oversized_zips_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.zip"
    path.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(ValueError, match="p.zip is not a readable zip file"):
        ImageStore(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", encode_file(PICTURES["0.png"]))
        archive.writestr("huge.png", bytes(3_000_000), zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="image 'a.png' in .*p.zip: Bad CRC-32"):
        ImageStore(path)["a.png"]
    monkeypatch.setattr(file_store, "MAX_FILE_BYTES", 1_000_000)
    with pytest.raises(ValueError, match="image 'huge.png' in .*p.zip: more than 1000000 bytes"):
        ImageStore(path)["huge.png"]
    monkeypatch.setattr(file_store, "MAX_MEMBERS", 1)
    with pytest.raises(ValueError, match="p.zip has 2 members, the limit is 1"):
        ImageStore(path)
    with pytest.raises(ValueError, match="neither a folder nor a .zip"):
        ImageStore(tmp_path / "nothing")


def read_all(store: ImageStore, queue: "multiprocessing.Queue[bool]") -> None:
    queue.put(all((store[name] == PICTURES[name]).all() for name in [*PICTURES] * 20))


def test_forked_and_pickled_readers_open_the_zip_for_themselves(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for name, picture in PICTURES.items():
            archive.writestr(name, encode_file(picture))
    store = ImageStore(tmp_path / "p.zip", cache_bytes=0)
    assert (store["0.png"] == PICTURES["0.png"]).all()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=read_all, args=(store, queue)) for _ in range(3)]
    for child in children:
        child.start()
    assert all(queue.get(timeout=60) for _ in children)
    for child in children:
        child.join()
    assert (pickle.loads(pickle.dumps(store))["3.png"] == PICTURES["3.png"]).all()


# ---- captions and dialogues

def test_captions_come_back_as_written(tmp_path: Path) -> None:
    facts = [{"kind": "ball", "colour": "red", "place": "top"}]
    with CaptionWriter(tmp_path) as writer:
        for name, picture in PICTURES.items():
            writer.append(picture, ["one é", "two\n"], name=name, facts=facts)
        writer.append(PICTURES["0.png"], "single")
        assert len(writer) == 5
    reader = CaptionReader(tmp_path)
    assert len(reader) == 5
    for caption, (name, picture) in zip(reader, PICTURES.items(), strict=False):
        assert (caption.name, caption.captions, caption.extra) == (name, ("one é", "two\n"), {"facts": facts})
        assert (caption.image == picture).all()
    assert (reader[4].name, reader[-1].captions, reader[4].extra) == ("000004.png", ("single",), {})
    assert sorted(os.listdir(tmp_path)) == ["captions.jsonl", "captions.zip"]
    first = [(tmp_path / name).read_bytes() for name in os.listdir(tmp_path)]
    fingerprint = reader.fingerprint
    with CaptionWriter(tmp_path) as writer:
        for caption in reader:
            writer.append(caption.image, caption.captions, name=caption.name, **caption.extra)
    assert [(tmp_path / name).read_bytes() for name in os.listdir(tmp_path)] == first   # equal data, equal bytes
    assert CaptionReader(tmp_path).fingerprint == fingerprint
    assert CaptionReader(tmp_path, max_side=16).fingerprint != fingerprint
    assert CaptionReader(tmp_path, max_side=16)[0].image.shape == (6, 16, 3)


def test_dialogues_come_back_as_written(tmp_path: Path) -> None:
    pictures = {name: PICTURES[name] for name in ("0.png", "1.png")}
    with DialogueWriter(tmp_path) as writer:
        writer.append(MESSAGES, pictures, source="test")
        writer.append(MESSAGES[:1])
        writer.append(MESSAGES, pictures)              # the same pictures are stored once
    reader = DialogueReader(tmp_path)
    assert reader[0].messages == reader[2].messages == MESSAGES
    assert reader[0].extra == {"source": "test"}
    assert reader[0].images.keys() == pictures.keys()
    assert all((reader[2].images[name] == pictures[name]).all() for name in pictures)
    assert reader[1].images == {}
    with zipfile.ZipFile(tmp_path / "dialogues.zip") as archive:
        assert len(archive.namelist()) == 2


def test_images_may_lie_in_a_folder_and_dialogues_need_none(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(encode_file(PICTURES["0.png"]))
    manifest = lines(tmp_path / "mine.jsonl", {"image": "a.png", "caption": "x", "id": 3})
    caption = CaptionReader(manifest)[0]
    assert isinstance(caption, Caption)
    assert (caption.captions, caption.extra) == (("x",), {"id": 3})
    assert (CaptionReader(manifest, tmp_path / "images")[0].image == PICTURES["0.png"]).all()
    (tmp_path / "images").rename(tmp_path / "other")
    with pytest.raises(ValueError, match="mine.jsonl names images, .* none of mine.zip, mine_images.zip, mine, images"):
        CaptionReader(manifest)
    assert len(DialogueReader(lines(tmp_path / "d.jsonl", {"messages": MESSAGES[:1]}))) == 1


@pytest.mark.parametrize(("line", "message"), [
    ({"caption": "x"}, "line 2: image must be a string"),
    ({"image": "0.png"}, "line 2: give either 'caption' or 'captions'"),
    ({"image": "0.png", "caption": "x", "captions": ["x"]}, "line 2: give either"),
    ({"image": "0.png", "captions": []}, "line 2: captions must be a list of at least one"),
    ({"image": "0.png", "captions": "abc"}, "line 2: captions must be a list"),
    ({"image": "0.png", "caption": None}, "line 2: caption must be a string"),
    ({"image": "9.png", "caption": "x"}, "line 2: image '9.png' is not in .*captions.zip"),
])
def test_wrong_captions_are_named(tmp_path: Path, line: object, message: str) -> None:
    with CaptionWriter(tmp_path) as writer:
        writer.append(PICTURES["0.png"], "x", name="0.png")
    lines(tmp_path / "captions.jsonl", {"image": "0.png", "caption": "good"}, line)
    with pytest.raises(ValueError, match=f"captions.jsonl, {message}"):
        CaptionReader(tmp_path)


def test_an_unreadable_image_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "good.png").write_bytes(encode_file(PICTURES["0.png"]))
    (tmp_path / "images" / "bad.png").write_bytes(encode_file(PICTURES["0.png"])[:60])
    (tmp_path / "images" / "bomb.png").write_bytes(png_claiming(12_000, 12_000))
    reader = CaptionReader(lines(tmp_path / "c.jsonl", {"image": "good.png", "caption": "x"},
                                 {"image": "bad.png", "caption": "x"}, {"image": "bomb.png", "caption": "x"}))
    assert reader[0].image.shape == (8, 20, 3)
    with pytest.raises(ValueError, match="c.jsonl, line 2: image 'bad.png' in .*images: not a readable"):
        reader[1]
    with pytest.raises(ValueError, match="c.jsonl, line 3: image 'bomb.png' .*12000 x 12000 pixels"):
        reader[2]
    with pytest.raises(ValueError, match="c.jsonl, line 1: image '../x.png' lies outside"):
        CaptionReader(lines(tmp_path / "c.jsonl", {"image": "../x.png", "caption": "x"}))


@pytest.mark.parametrize(("messages", "message"), [
    (None, "messages must be a list"), ([], "at least one message"), (["hi"], "message 0 must be an object"),
    ([{"role": "robot", "content": "hi"}], "message 0 must be an object whose role is one of user, assistant, system"),
    ([{"role": "user"}], "message 0: content must be a string or a list, got NoneType"),
    ([MESSAGES[0], {"role": "user", "content": [{"type": "video"}]}], "message 1: content entries .* got 'video'"),
    ([{"role": "user", "content": [{"type": "image"}]}], "message 0: image must be a string"),
    ([{"role": "user", "content": [{"type": "text", "text": 1}]}], "message 0: text must be a string"),
    (MESSAGES, "d.jsonl names images, but there is none"),
])
def test_wrong_dialogues_are_named(tmp_path: Path, messages: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        DialogueReader(lines(tmp_path / "d.jsonl", {"messages": MESSAGES[:1]}, {"messages": messages}))
    assert "d.jsonl" in str(caught.value)


# ---- sounds

@pytest.mark.parametrize("place", ["zip", "folder", "beside", "named"])
def test_sounds_are_found_and_resampled(tmp_path: Path, place: str) -> None:
    """In a zip, in a folder of the manifest's name, by a path from the manifest on, or where the caller says."""
    pytest.importorskip("av")
    manifest = write_tones(tmp_path, {"low": 200.0, "high": 2000.0}, rate=8000)
    where = None
    if place == "zip":
        with zipfile.ZipFile(tmp_path / "tones.zip", "w") as archive:
            for file in (tmp_path / "tones").iterdir():
                archive.write(file, file.name)
        shutil.rmtree(tmp_path / "tones")
    elif place == "beside":
        lines(manifest, {"file": "tones/low.wav", "label": "low"}, {"file": "tones/high.wav", "label": "high"})
    elif place == "named":
        where = (tmp_path / "tones").rename(tmp_path / "elsewhere")
    reader = DialogueReader(manifest, where)
    assert reader.has_sounds and reader.other_rates() == {8000: 2} and list(reader.texts())[1] == "low"
    for index, hertz in enumerate((200, 2000)):
        (samples,) = reader[index].sounds.values()
        assert samples.shape == (3200,) and samples.dtype == np.float32
        spectrum = np.abs(np.fft.rfft(samples))
        assert abs(int(spectrum.argmax()) * 16_000 / 3200 - hertz) < 10
    assert DialogueReader(manifest, where, max_seconds=0.1)[0].sounds.popitem()[1].shape == (1600,)
    assert DialogueReader(manifest, where, max_seconds=0.1).fingerprint != reader.fingerprint


def test_a_sound_that_can_not_be_used_is_named_with_its_line(tmp_path: Path) -> None:
    pytest.importorskip("av")
    write_tones(tmp_path, {"good": 300.0})
    write_wav(tmp_path / "tones" / "short.wav", np.ones(600))
    (tmp_path / "tones" / "words.wav").write_text("these are words")
    names = ("good.wav", "short.wav", "words.wav")
    manifest = lines(tmp_path / "tones.jsonl", *({"file": name, "label": "x"} for name in names))
    reader = DialogueReader(manifest)
    assert reader.other_rates() == {} and len(reader[0].sounds) == 1
    with pytest.raises(ValueError, match="tones.jsonl, line 2: sound 'short.wav' of 600 samples at 16000 Hz is too short"):
        reader[1]
    with pytest.raises(ValueError, match="tones.jsonl, line 3: sound 'words.wav' in .*tones: not a readable sound"):
        reader[2]
    with pytest.raises(ValueError, match="line 1: sound 'nothing.wav' is not in"):
        DialogueReader(lines(tmp_path / "tones.jsonl", {"file": "nothing.wav", "label": "x"}))


def test_sounds_come_back_as_written(tmp_path: Path) -> None:
    pytest.importorskip("av")
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "audio", "audio": "a.wav"}, {"type": "image", "image": "0.png"}]},
        {"role": "assistant", "content": "a bell"}]
    sound = tone(440.0)
    with DialogueWriter(tmp_path) as writer:
        writer.append(messages, {"0.png": PICTURES["0.png"]}, {"a.wav": sound})
        with pytest.raises(ValueError, match=r"the messages show \['a.wav'\] but the sounds given are \[\]"):
            writer.append(messages, {"0.png": PICTURES["0.png"]})
        with pytest.raises(ValueError, match=r"sounds are float .samples,. in \[-1, 1\], got float32 .3200,"):
            writer.append(messages, {"0.png": PICTURES["0.png"]}, {"a.wav": sound * 3})
    (found,) = DialogueReader(tmp_path)
    assert found.messages == messages and found.images.keys() == {"0.png"}
    np.testing.assert_allclose(found.sounds["a.wav"], sound, atol=1 / 2**15)


def test_writers_refuse_what_could_not_be_read(tmp_path: Path) -> None:
    with CaptionWriter(tmp_path) as captions:
        captions.append(PICTURES["0.png"], "x", name="a.png")
        with pytest.raises(ValueError, match="two different files are called 'a.png'"):
            captions.append(PICTURES["1.png"], "x", name="a.png")
        with pytest.raises(ValueError, match="needs at least one caption"):
            captions.append(PICTURES["0.png"], [])
        with pytest.raises(ValueError, match="half of a surrogate pair"):
            captions.append(PICTURES["0.png"], "\ud800")
        with pytest.raises(ValueError, match="images are uint8"):
            captions.append(np.zeros((4, 4), np.uint8), "x")
        with pytest.raises(ValueError, match="document 1 is not plain JSON"):
            captions.append(PICTURES["0.png"], "x", extra=object())
    assert len(CaptionReader(tmp_path)) == 1
    with DialogueWriter(tmp_path) as dialogues:
        with pytest.raises(ValueError, match=r"show \['0.png', '1.png'\] but the images given are \['0.png'\]"):
            dialogues.append(MESSAGES, {"0.png": PICTURES["0.png"]})
        with pytest.raises(ValueError, match="message 0 must be an object"):
            dialogues.append([{"role": "x", "content": ""}])


def test_an_error_leaves_the_older_pair_and_nothing_else(tmp_path: Path) -> None:
    with CaptionWriter(tmp_path) as writer:
        writer.append(PICTURES["0.png"], "old")
    with pytest.raises(KeyError), CaptionWriter(tmp_path) as writer:
        writer.append(PICTURES["1.png"], "new")
        raise KeyError("stop")
    assert CaptionReader(tmp_path)[0].captions == ("old",)
    assert sorted(os.listdir(tmp_path)) == ["captions.jsonl", "captions.zip"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with CaptionWriter(tmp_path) as writer:
        writer.append(PICTURES["0.png"], "old")
    code = textwrap.dedent("""
        import resource, sys
        import numpy as np
        from calico.datasets.document_writers import CaptionWriter
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with CaptionWriter(sys.argv[1]) as writer:
            for seed in range(100):
                writer.append(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8), "new")
    """)
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f"OSError: could not write {tmp_path}/captions.jsonl: File too large")
    assert CaptionReader(tmp_path)[0].captions == ("old",)
    assert sorted(os.listdir(tmp_path)) == ["captions.jsonl", "captions.zip"]


def test_lines_are_found_again(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", "", {"a": "é" * 50}, "", "  ", {"a": 2}, {"a": 3})
    found = JsonLines(path, lambda value: None)
    assert found.lines.tolist() == [2, 5, 6]
    assert [value["a"] for value in found] == ["é" * 50, 2, 3]
    assert found[-1] == {"a": 3}


def test_a_name_that_is_too_long_for_the_disk_is_missing(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "captions.jsonl").write_text(json.dumps({"image": "x" * 300, "caption": "b"}))
    with pytest.raises(ValueError, match="line 1: image 'xxx.*' is not in"):
        CaptionReader(tmp_path / "captions.jsonl")
    with pytest.raises(ValueError, match="is not a file; give a video"):
        read_video(tmp_path / ("x" * 300), Format())


def test_a_folder_of_pictures_with_a_text_beside_each_holds_captions(tmp_path: Path) -> None:
    """As diffusion models are trained: the texts were learnt alone, the pictures dropped."""
    for number, words in enumerate(("a cat", "a dog")):
        (tmp_path / f"{number}.PNG").write_bytes(encode_file(np.full((4, 6, 3), 50 * number, np.uint8)))
        (tmp_path / f"{number}.txt").write_bytes(f"\ufeff{words}\n".encode())
    reader = open_data(tmp_path)
    assert isinstance(reader, CaptionReader)
    assert [(caption.captions, caption.image.max()) for caption in reader] == [(("a cat",), 0), (("a dog",), 50)]
    before = reader.fingerprint
    (tmp_path / "1.txt").write_text("a hen")
    assert open_data(tmp_path).fingerprint != before
    (tmp_path / "1.txt").unlink()
    with pytest.raises(ValueError, match=r"a caption beside each, .* but '1.PNG' and 0 more stand alone; complete or remove"):
        open_data(tmp_path)
    (tmp_path / "0.txt").unlink()
    with pytest.raises(ValueError, match=r"holds pictures or sounds without words, such as '\d.PNG', which `calico pretrain`"):
        open_data(tmp_path)
