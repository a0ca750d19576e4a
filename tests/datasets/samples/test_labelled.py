"""Samples of classes: from folders, zips, arrays and JSON Lines; what is wrong is named before anything is trained."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from calico.datasets.images import encode_file
from calico.datasets.samples import labelled
from calico.datasets.samples.labelled import Labelled
from calico.datasets.samples.point_clouds import decode_cloud

from ..test_sounds import tone, wav

RNG = np.random.default_rng(0)
PICTURES = {f"{'cat' if i % 2 else 'dog'}/{i}.png": RNG.integers(256, size=(8, 8, 3), dtype=np.uint8) for i in range(10)}


def folder_of(files: dict[str, bytes], folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def zip_of(files: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def picture_files() -> dict[str, bytes]:
    return {name: encode_file(pixels) for name, pixels in PICTURES.items()}


def same(one: Labelled, other: Labelled) -> bool:
    return one.classes == other.classes and one.labels.tolist() == other.labels.tolist() and one.keys == other.keys


def test_a_folder_and_a_zip_of_class_folders_are_alike(tmp_path: Path) -> None:
    files = picture_files() | {"cat/.hidden.png": b"no picture", "notes.txt": b"not read", "__MACOSX/cat/1.png": b"not read"}
    one = labelled.read_pictures(folder_of(files, tmp_path / "p"), 64)
    other = labelled.read_pictures(zip_of({f"data/{name}": data for name, data in files.items()}, tmp_path / "p.zip"), 64)
    assert one.classes == ["cat", "dog"] and len(one) == 10 and same(one, other)
    names = sorted(PICTURES)
    assert [one.classes[i] for i in one.labels] == [name.split("/")[0] for name in names]
    assert all((one.samples[i] == PICTURES[name]).all() for i, name in enumerate(names))


def test_arrays_and_files_with_the_same_pixels_have_the_same_keys(tmp_path: Path) -> None:
    names = sorted(PICTURES)
    np.savez(tmp_path / "p.npz", images=np.stack([PICTURES[name] for name in names]), labels=[name[:3] for name in names])
    arrays = labelled.read_pictures(tmp_path / "p.npz", 64)
    assert same(arrays, labelled.read_pictures(folder_of(picture_files(), tmp_path / "p"), 64))


def test_grey_pictures_get_three_channels(tmp_path: Path) -> None:
    grey = RNG.integers(256, size=(6, 5, 4), dtype=np.uint8)
    np.savez(tmp_path / "g.npz", images=grey, labels=[3, 7, 3, 7, 3, 7])
    data = labelled.read_pictures(tmp_path / "g.npz", 64)
    assert data.classes == ["3", "7"] and data.samples[2].shape == (5, 4, 3) and (data.samples[2] == grey[2, :, :, None]).all()


@pytest.mark.parametrize("arrays, message", [
    ({"images": np.full((4, 2, 2), np.nan), "labels": np.arange(4)}, "4 of 4 pictures hold NaN"),
    ({"images": np.zeros((4, 2, 2)), "labels": np.arange(4)}, "pictures must be uint8 from 0 to 255, got float64"),
    ({"images": np.zeros((4, 2), np.uint8), "labels": np.arange(4)}, r"must be \(n, height, width\)"),
    ({"images": np.zeros((4, 2, 2), np.uint8), "labels": np.arange(3)}, r"labels in .* are int64 \(3,\)"),
    ({"images": np.zeros((4, 2, 2), np.uint8), "labels": np.zeros(4, int)}, "1 classes in 4 samples"),
    ({"images": np.zeros((4, 2, 2), np.uint8), "labels": np.arange(4), "classes": np.array(["a", "b"])}, "there are 2 classes"),
    ({"pictures": np.zeros(1)}, "has no array 'images'; it has pictures"),
    ({"images": np.array([{}], object), "labels": np.zeros(1, int)}, "not a readable .npz file of plain arrays"),
])
def test_wrong_arrays_are_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        labelled.read_pictures(tmp_path / "x.npz", 64)


def test_unreadable_files_are_named_with_their_number(tmp_path: Path) -> None:
    broken = {f"cat/broken{i}.png": b"junk" for i in range(5)}
    with pytest.raises(ValueError, match=r"5 of 15 images cannot be read: image 'cat/broken0.png' .*\.\.\. \(5 in all\)"):
        labelled.read_pictures(zip_of(picture_files() | broken, tmp_path / "p.zip"), 64)


def test_files_outside_class_folders_and_empty_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'loose.png' in .* lies in no class folder"):
        labelled.read_pictures(folder_of(picture_files() | {"loose.png": b""}, tmp_path / "p"), 64)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        labelled.read_pictures(tmp_path / "empty", 64)
    with pytest.raises(ValueError, match="neither a folder nor a .zip"):
        labelled.read_pictures(tmp_path / "nothing", 64)


def test_sounds_take_the_first_files_rate_and_say_what_was_resampled(tmp_path: Path) -> None:
    pytest.importorskip("av")
    files = {f"{i}.wav": wav(tone(300 + 10 * i, 0.1)) for i in range(4)} | {"4.wav": wav(tone(440, 0.1, 44100), 44100)}
    zip_of(files, tmp_path / "s.zip")
    manifest = tmp_path / "s.jsonl"
    manifest.write_text("".join(json.dumps({"file": name, "digit": i % 2}) + "\n" for i, name in enumerate(sorted(files))))
    data, rate = labelled.read_sounds(manifest, label="digit")
    assert rate == 8000 and data.classes == ["0", "1"] and data.remarks == ("resampled to 8000 Hz: 1 of 44100 Hz",)
    assert [len(s) for s in data.samples][:4] == [800] * 4
    again, rate = labelled.read_sounds(manifest, rate=4000, label="digit")
    assert rate == 4000 and len(again.samples[0]) == pytest.approx(400, abs=20)
    with pytest.raises(ValueError, match=r"s.jsonl, line 1: the field 'label' must name a class, got None; .*file, digit"):
        labelled.read_sounds(manifest)
    folders, _ = labelled.read_sounds(folder_of({f"{'a' if int(n[0]) % 2 else 'b'}/{n}": d for n, d in files.items()},
                                                tmp_path / "f"))
    assert folders.classes == ["a", "b"]


def test_clouds_come_from_arrays(tmp_path: Path) -> None:
    clouds = RNG.normal(size=(4, 10, 6)).astype(np.float16)
    np.savez(tmp_path / "c.npz", points=clouds, labels=[1, 0, 1, 0], classes=["gear", "bolt"])
    data = labelled.read_clouds(tmp_path / "c.npz")
    assert data.classes == ["gear", "bolt"] and data.labels.tolist() == [1, 0, 1, 0] and data.samples[0].dtype == np.float32
    clouds[2, 3] = np.inf
    np.savez(tmp_path / "c.npz", points=clouds, labels=[1, 0, 1, 0])
    with pytest.raises(ValueError, match="points in .*c.npz: cloud 2: 1 of 10 points are not finite"):
        labelled.read_clouds(tmp_path / "c.npz")


def test_texts_come_from_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "good", "label": "pos"}\n{"text": "bad", "label": "neg"}\n{"text": "good", "label": "pos"}\n')
    data = labelled.read_texts(path)
    assert data.samples == ["good", "bad", "good"] and data.classes == ["neg", "pos"] and data.labels.tolist() == [1, 0, 1]
    assert data.keys[0] == data.keys[2] != data.keys[1]
    with pytest.raises(ValueError, match="line 1: the field 'stars' must name a class"):
        labelled.read_texts(path, "stars")
    with pytest.raises(ValueError, match="is not a .jsonl, .* file"):
        labelled.read_texts(tmp_path / "t.csv")


def test_equal_samples_fall_on_the_same_side() -> None:
    keys = [str(i) for i in range(100)] * 2
    data = Labelled(list(range(200)), np.arange(200) % 2, ["a", "b"], keys)
    training, held_out = data.split(0.2)
    assert not {keys[i] for i in training} & {keys[i] for i in held_out} and 15 < len(held_out) < 70
    assert data.fingerprint != Labelled(list(range(200)), np.arange(200) % 2, ["a", "c"], keys).fingerprint


def encoded(kind: str, shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(out, kind)
    return out.getvalue()


def test_no_class_vanishes_for_its_format(tmp_path: Path) -> None:
    kinds = {"png": "PNG", "jfif": "JPEG", "bmp": "BMP", "gif": "GIF", "tif": "TIFF", "avif": "AVIF", "JP2": "JPEG2000"}
    files = {f"{name}/{i}.{name}": encoded(kind, 40 * i) for name, kind in kinds.items() for i in range(3)}
    data = labelled.read_pictures(zip_of(files, tmp_path / "p.zip"), 64)
    assert data.classes == sorted(kinds) and len(data) == 21 and not data.remarks
    others = files | {"gif/x.heic": b"?", "gif/y.heic": b"?", "gif/notes.txt": b"text", "top.heic": b"outside"}
    data = labelled.read_pictures(zip_of(others, tmp_path / "others.zip"), 64)
    assert len(data) == 21 and data.remarks == ("left out: 2 of .heic, such as 'gif/x.heic'",)
    with pytest.raises(ValueError, match="no image in heic can be read, such as 'heic/1.heic'; convert them to one of .png,"):
        labelled.read_pictures(zip_of(files | {"heic/1.heic": b"?"}, tmp_path / "lost.zip"), 64)
    with pytest.raises(ValueError, match=r"holds no images .*; it holds 2 of .heic, 1 of no ending"):
        labelled.read_pictures(zip_of({"a/1.heic": b"", "b/1.heic": b"", "c/1": b""}, tmp_path / "none.zip"), 64)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_pictures_may_come_from_a_manifest(tmp_path: Path, ending: str) -> None:
    folder_of({f"{i}.png": encoded("PNG", 40 * i) for i in range(4)}, tmp_path)
    rows = [{"file_name": f"{i}.png", "label": "odd" if i % 2 else "even"} for i in range(4)]
    (tmp_path / f"m.{ending}").write_text("\n".join(map(json.dumps, rows)) if ending == "jsonl" else
                                          "file_name,label\n" + "\n".join(",".join(row.values()) for row in rows))
    data = labelled.read_pictures(tmp_path / f"m.{ending}", 64)
    assert data.classes == ["even", "odd"] and data.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("first", [None, b"broken"])
def test_a_first_sound_that_is_missing_or_broken_is_named(tmp_path: Path, first: bytes | None) -> None:
    pytest.importorskip("av")
    files = {"a.wav": wav(tone(440))} | ({} if first is None else {"first.wav": first})
    (tmp_path / "s.jsonl").write_text("\n".join(json.dumps({"file": name, "label": name}) for name in ("first.wav", "a.wav")))
    for place in (zip_of(files, tmp_path / "s.zip"), None):
        if place is None:
            (tmp_path / "s.zip").unlink()
            folder_of(files, tmp_path / "s")
        with pytest.raises(ValueError, match=r"1 of 2 sounds cannot be read: sound 'first.wav' in .*mend or remove them"):
            labelled.read_sounds(tmp_path / "s.jsonl")


def test_clouds_with_numbers_before_points_are_turned(tmp_path: Path) -> None:
    clouds = np.random.default_rng(0).normal(size=(4, 50, 3)).astype(np.float32)
    for name, points in (("last", clouds), ("first", clouds.swapaxes(1, 2))):
        np.savez(tmp_path / f"{name}.npz", points=points, labels=np.arange(4) % 2)
    last, first = (labelled.read_clouds(tmp_path / f"{name}.npz") for name in ("last", "first"))
    assert same(last, first) and not last.remarks
    assert first.remarks == ("points of shape (4, 3, 50) were turned to (n, points, numbers per point)",)
    out = io.BytesIO()
    np.save(out, clouds[0].T)
    np.testing.assert_array_equal(decode_cloud(out.getvalue(), ".npy"), clouds[0])
    table = "50\n" + "\n".join(" ".join(map(repr, map(float, point))) for point in clouds[0])
    np.testing.assert_array_equal(decode_cloud(table.encode(), ".pts"), clouds[0])
    np.savez(tmp_path / "odd.npz", points=np.zeros((4, 12, 500)), labels=np.arange(4) % 2)
    with pytest.raises(ValueError, match="cloud 0: a point has 500 numbers, at most 32 are expected; are points and numbers "
                                         "exch"):
        labelled.read_clouds(tmp_path / "odd.npz")


def encoded_rows(table: dict[str, list[Any]], path: Path, classes: list[str] | None = None) -> Path:
    features = {"label": {"names": classes, "_type": "ClassLabel"}}
    about = {"huggingface": json.dumps({"info": {"features": features}})} if classes else None
    pq.write_table(pa.table(table).replace_schema_metadata(about), path)
    return path


def test_classes_come_from_parquet_as_datasets_writes_it(tmp_path: Path) -> None:
    rows = [{"bytes": encoded("png", shade), "path": f"{shade}.png"} for shade in (0, 1, 2)]
    path = encoded_rows({"image": rows, "label": [1, 0, 1]}, tmp_path / "train-00000-of-00001.parquet", ["dog", "cat"])
    found = labelled.read_pictures(path, 64)
    assert found.classes == ["cat", "dog"] and [found.classes[i] for i in found.labels] == ["cat", "dog", "cat"]
    assert same(found, labelled.read_pictures(tmp_path, 64))         # the folder that it lies in
    texts = labelled.read_texts(encoded_rows({"text": ["a", "b"], "label": [0, 1]}, tmp_path / "t.parquet", ["neg", "pos"]))
    assert texts.classes == ["neg", "pos"] and list(texts.samples) == ["a", "b"]
    with pytest.raises(ValueError, match="row 1: the field 'label' must name a class, got None; the record has text"):
        labelled.read_texts(encoded_rows({"text": ["a", "b"], "label": [0, -1]}, tmp_path / "u.parquet", ["neg", "pos"]))


@pytest.mark.parametrize(("key", "labels", "classes"), [
    ("label", ["cat", " cat ", "a dog"], ["a dog", "cat"]), ("labels", [0, 1, 0], ["0", "1"]),
    ("label", [1.0, 0.0, 1.0], ["0", "1"]),
])
def test_an_imagefolder_names_its_classes_in_its_metadata(tmp_path: Path, key: str, labels: list[Any],
                                                                  classes: list[str]) -> None:
    folder = folder_of({f"{i}.png": encoded("png", i) for i in range(3)}, tmp_path / "p")
    records = ({"file_name": f"{number}.png", key: label} for number, label in enumerate(labels))
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert labelled.read_pictures(folder, 64).classes == classes


def test_metadata_without_classes_leave_them_to_the_folders(tmp_path: Path) -> None:
    folder = folder_of(picture_files(), tmp_path / "p")
    expected = labelled.read_pictures(folder, 64)
    (folder / "metadata.csv").write_text("file_name,caption\ncat/1.png,a cat\n")
    assert same(labelled.read_pictures(folder, 64), expected)


def test_several_splits_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    """What is kept apart for testing was trained on."""
    files = {f"{part}/{name}": data for part in ("train", "test") for name, data in picture_files().items()}
    folder = folder_of(files, tmp_path)
    with pytest.raises(ValueError, match="holds the splits test, train; put each into a place of its own and name one"):
        labelled.read_pictures(folder, 64)
    assert labelled.read_pictures(folder / "train", 64).classes == ["cat", "dog"]


@pytest.mark.parametrize(("content", "label"), [
    ("sentence\tlabel\nhi\t1\nyo\t0\n", "label"), ("review;mood\nhi;1\nyo;0\n", "mood"),
    (",text,label\n0,hi,1\n1,yo,0\n", "label")])
def test_texts_come_from_tables_as_people_have_them(tmp_path: Path, content: str, label: str) -> None:
    path = tmp_path / ("t.tsv" if "\t" in content else "t.csv")
    path.write_text(content)
    found = labelled.read_texts(path, label)
    assert list(found.samples) == ["hi", "yo"] and [found.classes[i] for i in found.labels] == ["1", "0"]
    path.write_text("Title\tlabel\nhi\t1\n")
    with pytest.raises(ValueError, match="there is no field 'text'; the record has Title"):
        labelled.read_texts(path)


@pytest.mark.parametrize("key", ["filename", "image_path", "image_file_name", "path"])
def test_a_manifest_may_name_its_files_in_the_usual_ways(tmp_path: Path, key: str) -> None:
    folder_of({f"{i}.png": encoded("png", i) for i in range(2)}, tmp_path)
    (tmp_path / "m.csv").write_text(f"{key},fold,category\n0.png,1,dog\n1.png,1,cat\n")
    assert labelled.read_pictures(tmp_path / "m.csv", 64, label="category").classes == ["cat", "dog"]
    with pytest.raises(ValueError, match="row 1: the field 'label' must name a class, got None; the record has"):
        labelled.read_pictures(tmp_path / "m.csv", 64)
