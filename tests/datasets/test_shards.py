"""WebDataset shards: pictures and words read where they lie, nothing extracted, damage named."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calico.datasets.documents import CaptionReader, DialogueReader
from calico.datasets.images import encode_file
from calico.datasets.open_data import open_data

from .test_documents import png_claiming

PICTURE = np.random.default_rng(0).integers(0, 256, (8, 20, 3), dtype=np.uint8)
PNG = encode_file(PICTURE)


def shard(path: Path, members: dict[str, bytes | str]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_sample_is_the_members_of_one_key(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", {
        "0001.png": PNG, "0001.txt": "a cat\n", "0001.json": json.dumps({"url": "x", "caption": "another"}),
        "a/b.c/0002.json": json.dumps({"captions": ["one", "two"]}), "a/b.c/0002.JPG": PNG,
        "../../evil.png": PNG, "../../evil.txt": "é"})
    reader = open_data(path)
    assert isinstance(reader, CaptionReader)
    assert [(c.name, c.captions, c.extra) for c in reader] == [
        ("s.tar/0001.png", ("a cat",), {"url": "x"}), ("s.tar/a/b.c/0002.jpg", ("one", "two"), {}),
        ("s.tar/../../evil.png", ("é",), {})]
    assert all((c.image == PICTURE).all() for c in reader)
    assert os.listdir(tmp_path) == ["s.tar"]           # nothing was extracted
    assert list(pickle.loads(pickle.dumps(reader)).texts()) == ["a cat", "one", "two", "é"]   # as for a worker
    assert CaptionReader(path, max_side=10)[0].image.shape == (4, 10, 3)


def test_what_is_to_be_known_of_a_picture_in_a_shard_is_counted(tmp_path: Path) -> None:
    frames, out = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)], io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    reader = CaptionReader(shard(tmp_path / "s.tar", {"1.webp": out.getvalue(), "1.txt": "a cat"}))
    assert (reader[0].image == PICTURE).all()
    assert dict(reader._store.remarks) == {"holds several pictures, the first one is used": 1}


def test_a_folder_of_shards_is_one_data_set(tmp_path: Path) -> None:
    for number in range(3):
        shard(tmp_path / f"{number}.tar", {"same.png": encode_file(PICTURE + number), "same.txt": f"shard {number}"})
    reader = open_data(tmp_path)
    assert isinstance(reader, CaptionReader)
    assert [c.captions for c in reader] == [("shard 0",), ("shard 1",), ("shard 2",)]
    assert all((c.image == PICTURE + n).all() for n, c in enumerate(reader))
    before = reader.fingerprint
    shard(tmp_path / "2.tar", {"same.png": PNG, "same.txt": "changed"})
    assert open_data(tmp_path).fingerprint != before


def test_the_first_picture_of_an_animation_in_a_shard_is_used_and_said(tmp_path: Path) -> None:
    out = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(out, "PNG", save_all=True, append_images=frames[1:])
    reader = open_data(shard(tmp_path / "s.tar", {"1.png": out.getvalue(), "1.txt": "a"}))
    assert (reader[0].image == (255, 0, 0)).all() and reader[0].image.shape == (8, 8, 3)
    assert reader.remarks() == {"holds several pictures, the first one is used": 1}


def test_questions_may_stand_in_shards(tmp_path: Path) -> None:
    reader = open_data(shard(tmp_path / "q.tar", {"1.png": PNG, "1.json": '{"question": "what?", "answer": "noise"}'}))
    assert isinstance(reader, DialogueReader)
    assert reader[0].messages[0]["content"][0] == {"type": "image", "image": "q.tar/1.png"}
    assert (reader[0].images["q.tar/1.png"] == PICTURE).all()


@pytest.mark.parametrize(("members", "message"), [
    ({"1.png": PNG, "1.txt": "a", "2.txt": "lost"}, "s.tar, sample 2: image must be a string"),
    ({"1.png": PNG}, "s.tar, sample 1: give either 'caption' or 'captions'"),
    ({"1.png": PNG, "1.txt": b"\xff"}, "s.tar, sample 1: the .txt is not UTF-8: byte 0 is 0xff"),
    ({"1.png": PNG, "1.json": "{"}, "s.tar, sample 1: Expecting property name"),
    ({"1.png": PNG, "1.json": "[]"}, "s.tar, sample 1: the .json must hold an object"),
    ({"1.png": PNG, "1.PNG": PNG, "1.txt": "a"}, "s.tar, sample 1: two members are called .png"),
    ({}, "s.tar holds no captions"),
])
def test_wrong_samples_are_named(tmp_path: Path, members: dict[str, bytes | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_data(shard(tmp_path / "s.tar", members))


def test_broken_pictures_and_bombs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_data(shard(tmp_path / "s.tar", {"1.png": PNG[:50], "1.txt": "a", "2.png": png_claiming(12_000, 12_000),
                                                  "2.txt": "b", "3.png": PNG, "3.txt": "c"}))
    with pytest.raises(ValueError, match="s.tar, sample 1: image 's.tar/1.png' in .*s.tar: not a readable"):
        reader[0]
    with pytest.raises(ValueError, match="sample 2: .*12000 x 12000 pixels"):
        reader[1]
    monkeypatch.setattr("calico.datasets.shards.MAX_FILE_BYTES", 100)
    with pytest.raises(ValueError, match="sample 3: .*the limit is 100"):
        reader[2]


def test_links_and_damage_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("1.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ValueError, match="s.tar: member '1.txt' is not a plain file"):
        open_data(path)
    whole = shard(path, {"1.png": PNG, "1.txt": "a", "2.png": PNG, "2.txt": "b", "3.png": PNG, "3.txt": "c"}).read_bytes()
    path.write_bytes(whole[:700])
    with pytest.raises(ValueError, match="s.tar is not a readable .tar file"):
        open_data(path)
    damaged = bytearray(whole)
    damaged[whole.index(b"2.png")] ^= 1                # a header's checksum no longer fits
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="s.tar is damaged: what stands at byte .* is no header"):
        open_data(path)
    path.write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(ValueError, match="s.tar is not a readable .tar file .*unpack a compressed one first"):
        open_data(path)
    path.write_bytes(whole)
    monkeypatch.setattr("calico.datasets.shards.MAX_MEMBERS", 4)
    with pytest.raises(ValueError, match="has more than 4 members"):
        open_data(path)


def test_pictures_of_any_kind_and_hidden_members(tmp_path: Path) -> None:
    """A GIF's sample was taken for words alone; macOS's tar writes a hidden member beside each, which doubled the samples."""
    out = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(out, "GIF")
    shard(tmp_path / "a.tar", {"._0.gif": b"junk", "0.gif": out.getvalue(), "0.txt": "a cat", ".DS_Store": b"junk"})
    (caption,) = CaptionReader(tmp_path / "a.tar")
    assert caption.captions == ("a cat",) and caption.image.shape == (4, 6, 3) and caption.image[0, 0].tolist() == [255, 0, 0]
