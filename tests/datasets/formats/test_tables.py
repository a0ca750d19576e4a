"""Parquet files of the Hugging Face hub, tables of text, and compressed files hold the same records as JSON Lines."""

import base64
import bz2
import gzip
import json
import lzma
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calico.datasets.documents import CaptionReader, DialogueReader
from calico.datasets.images import encode_file
from calico.datasets.open_data import open_data
from calico.datasets.records import JsonLines
from calico.datasets.sounds import encode_wav
from calico.datasets.texts import TextReader

RED, BLUE = (encode_file(np.full((4, 6, 3), colour, np.uint8)) for colour in ([200, 0, 0], [0, 0, 200]))
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


PACKERS = {".gz": gzip.compress, ".zst": zstd, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("ending", PACKERS)
def test_every_text_format_may_be_compressed(tmp_path: Path, ending: str) -> None:
    pack = PACKERS[ending]
    (tmp_path / f"a.txt{ending}").write_bytes(pack(b"one text"))
    (tmp_path / f"b.jsonl{ending}").write_bytes(pack(b'{"text": "two"}\n\n{"text": "three"}'))
    (tmp_path / f"c.csv{ending}").write_bytes(pack(b"text,n\nfour,1\n"))
    (tmp_path / f"d.JSONL{ending.upper()}").write_bytes(pack(json.dumps({"messages": CHAT}).encode()))
    (tmp_path / f"e.json{ending}").write_bytes(pack(json.dumps([{"messages": CHAT}]).encode()))
    assert list(open_data(tmp_path / f"a.txt{ending}")) == ["one text"]
    assert list(open_data(tmp_path / f"b.jsonl{ending}")) == ["two", "three"]
    assert list(open_data(tmp_path / f"c.csv{ending}")) == ["four"]
    for name in (f"d.JSONL{ending.upper()}", f"e.json{ending}"):
        reader = open_data(tmp_path / name)
        assert isinstance(reader, DialogueReader) and reader[0].messages == CHAT
    (tmp_path / f"broken.jsonl{ending}").write_bytes(pack(b'{"text": "two"}' * 100)[:-6])
    with pytest.raises(ValueError, match=rf"broken.jsonl{ending} cannot be unpacked"):
        open_data(tmp_path / f"broken.jsonl{ending}")
    (tmp_path / f"line.jsonl{ending}").write_bytes(pack(b'{"text": "two"}\n{"text": 2}'))
    with pytest.raises(ValueError, match=rf"line.jsonl{ending}, line 2: text must be a string"):
        open_data(tmp_path / f"line.jsonl{ending}")


def test_pictures_of_a_compressed_manifest_lie_beside_it(tmp_path: Path) -> None:
    (tmp_path / "c_images").mkdir()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.png").write_bytes(RED)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(json.dumps({"image": "a.png", "caption": "red"}).encode()))
    assert open_data(tmp_path / "c.jsonl.gz")[0].captions == ("red",)


def test_a_table_of_text_holds_records(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes("\ufeffinstruction,input,output\r\n\"add, please\",,2\r\n\r\n\"two\nlines\",x,é\r\n".encode())
    reader = open_data(table)
    assert isinstance(reader, DialogueReader) and reader.format.startswith("dialogues, instruction and output (Alpaca, Dolly)")
    assert list(reader.texts()) == ["add, please", "2", "two\nlines", "\n\n", "x", "é"]
    tabs = tmp_path / "t.tsv"
    tabs.write_text("question\tanswer\nwhy?\tso\n")
    assert list(open_data(tabs).texts()) == ["why?", "so"]
    for content, message in (("a,b\n", r"t.csv: there is no row below the first one, a, b"), ("", "the first row must name"),
                             ("text,text\n1,2", "the first row must name the columns, each once; it is text, text"),
                             ("text,b\n1", "row 1 has 1 cells, the first row names 2"),
                             ('text\n"open', "t.csv: unexpected end of data"),
                             ("text,b\n,2\n", r"t.csv is of no known format: its first record has b")):
        table.write_text(content)
        with pytest.raises(ValueError, match=message):
            open_data(table)


def test_an_imagefolder_holds_captions(tmp_path: Path) -> None:
    for name, data in (("a.png", RED), ("b.png", BLUE)):
        (tmp_path / name).write_bytes(data)
    rows = [{"file_name": "a.png", "text": "a red one"}, {"file_name": "b.png", "text": "a blue one"}]
    for name in ("metadata.jsonl", "metadata.csv", "metadata.parquet"):
        match name.partition(".")[2]:
            case "jsonl":
                (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
            case "csv":
                (tmp_path / name).write_text("file_name,text\n" + "\n".join(",".join(row.values()) for row in rows))
            case _:
                pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
        reader = open_data(tmp_path)
        assert isinstance(reader, CaptionReader)
        assert [(c.name, c.captions, int(c.image[0, 0, 2])) for c in reader] == [
            ("a.png", ("a red one",), 0), ("b.png", ("a blue one",), 200)]
        assert "because its first record has 'file_name' and 'text'" in reader.format
        (tmp_path / name).unlink()


def test_pictures_inside_a_table(tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": RED, "path": "a.png"}, {"bytes": BLUE, "path": None}], "text": ["red", "blue"],
                      "caption_id": [1, None]})
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet", row_group_size=1)
    for path in (tmp_path, tmp_path / "train-00000-of-00001.parquet"):
        reader = open_data(path)
        assert isinstance(reader, CaptionReader)
        again = pickle.loads(pickle.dumps(reader))       # a loader's process gets a copy
        for each in (reader, again):
            assert [(c.captions, c.extra, c.image[0, 0].tolist()) for c in each] == [
                (("red",), {"caption_id": 1}, [200, 0, 0]), (("blue",), {}, [0, 0, 200])]
    pq.write_table(table.slice(0, 1), tmp_path / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="holds the splits test, train; put each into a folder of its own"):
        open_data(tmp_path)
    pq.write_table(pa.table({"image": [{"bytes": b"no picture", "path": None}], "text": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b.parquet, row 0: image '0/0' .*not a readable image"):
        open_data(tmp_path / "b.parquet")[0]


def test_chats_in_a_table(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": CHAT, "images": None},
        {"messages": [{"role": "user", "content": "<image>which?"}, {"role": "assistant", "content": "blue"}],
         "images": [{"bytes": BLUE, "path": None}]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "chat.parquet")
    reader = open_data(tmp_path / "chat.parquet")
    assert isinstance(reader, DialogueReader)
    assert reader[0].messages == CHAT and not reader[0].images
    ((name, pixels),) = reader[1].images.items()
    assert pixels[0, 0].tolist() == [0, 0, 200] and reader[1].messages[0]["content"][0] == {"type": "image", "image": name}
    pq.write_table(pa.table({"content": ["a", "b"]}), tmp_path / "text.parquet")
    assert list(open_data(tmp_path / "text.parquet")) == ["a", "b"]
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="other.parquet is of no known format: its first record has x. Dialogues have"):
        open_data(tmp_path / "other.parquet")


def test_a_picture_may_stand_in_its_url(tmp_path: Path) -> None:
    url = f"data:image/png;base64,{base64.b64encode(RED).decode()}"
    message = {"role": "user", "content": [
        {"type": "text", "text": "which?"}, {"type": "image_url", "image_url": {"url": url}}]}
    (tmp_path / "d.jsonl").write_text(json.dumps({"messages": [message, {"role": "assistant", "content": "red"}]}))
    (image,) = open_data(tmp_path / "d.jsonl")[0].images.values()
    assert image[0, 0].tolist() == [200, 0, 0]
    (tmp_path / "d.jsonl").write_text(json.dumps({"messages": [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.org/b.png"}}]}]}))
    with pytest.raises(ValueError, match="line 1: message 0 shows https://a.org/b.png, which lies on the web; download it"):
        open_data(tmp_path / "d.jsonl")


def test_what_is_no_data_set_is_named_for_what_it_is(tmp_path: Path) -> None:
    for name, what in (("a.gif", "a picture"), ("a.wav", "a sound"), ("a.zip", "a .zip file"), ("a", "a nameless kind of file"),
                       ("a.parquet.gz", "a .parquet file")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ValueError, match=rf"{name} is {what} by itself, no data set; give episodes"):
            open_data(tmp_path / name)


def test_a_folder_with_one_manifest_is_that_manifest(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": CHAT}))
    assert isinstance(open_data(tmp_path), DialogueReader)
    (tmp_path / "valid.jsonl").write_text(json.dumps({"messages": CHAT}))
    with pytest.raises(ValueError, match=r"several files that are not text alone; name one of .*train.jsonl, .*valid.jsonl"):
        open_data(tmp_path)
    assert len(TextReader(tmp_path / "x.txt" if (tmp_path / "x.txt").write_text("x") else tmp_path)) == 1


def test_the_same_compressed_file_is_unpacked_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}'))
    first = JsonLines(path, lambda value: None)
    second = JsonLines(path, lambda value: None)
    assert first._file == second._file and first[0] == {"text": "a"} and first.location(0) == f"{path}, line 1"


def test_no_byte_of_a_footer_ends_the_process(tmp_path: Path) -> None:
    """pyarrow's `RowGroupMetaData.column` would: some columns then describe themselves in a way that is impossible."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"text": "a"}, {"text": "b"}]), path)
    valid = path.read_bytes()
    footer = len(valid) - 8 - int.from_bytes(valid[-8:-4], "little")
    said = set[str]()
    for place in range(footer, len(valid) - 8):
        for value in (0, 6):
            path.write_bytes(valid[:place] + bytes([value]) + valid[place + 1:])
            try:
                rows = [TextReader(path)[row] for row in range(2)]
                assert all(isinstance(row, str) for row in rows)
            except (ValueError, IndexError) as error:       # IndexError: the footer has fewer rows
                assert "\n" not in str(error)
                said.add(str(error))
    assert any("Unencoded byte array data bytes does not support" in line for line in said)
    assert any("0 rows, the file's footer says 2" in line for line in said)


def test_pictures_as_bytes_alone_and_beside_the_table(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [RED, BLUE], "caption": ["red", "blue"]}), tmp_path / "plain.parquet")
    assert [c.image[0, 0].tolist() for c in CaptionReader(tmp_path / "plain.parquet")] == [[200, 0, 0], [0, 0, 200]]
    (tmp_path / "b.png").write_bytes(BLUE)
    mixed = [{"bytes": RED, "path": "r.png"}, {"bytes": None, "path": "b.png"}]
    pq.write_table(pa.table({"image": mixed, "caption": ["red", "blue"]}), tmp_path / "mixed.parquet")
    assert [c.image[0, 0].tolist() for c in CaptionReader(tmp_path / "mixed.parquet")] == [[200, 0, 0], [0, 0, 200]]


def test_a_sound_with_a_text_is_no_text(tmp_path: Path) -> None:
    """The columns of speech sets: the texts were learnt without their sounds."""
    sound = encode_wav(np.sin(np.arange(4000) / 9), 16000)
    pq.write_table(pa.table({"audio": [{"bytes": sound, "path": "a.wav"}], "text": ["HELLO"]}), tmp_path / "s.parquet")
    reader = open_data(tmp_path / "s.parquet")
    assert isinstance(reader, DialogueReader) and [len(samples) for samples in reader[0].sounds.values()] == [4000]
    assert reader[0].messages[1]["content"] == "HELLO"


def test_numbers_of_classes_are_read_as_their_names(tmp_path: Path) -> None:
    sound = {"bytes": encode_wav(np.sin(np.arange(4000) / 9), 16000), "path": "a.wav"}
    features = {"label": {"names": ["dog", "Cat_purr"], "_type": "ClassLabel"}, "audio": {"_type": "Audio"}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"audio": [sound, sound], "label": [1, 0]}).replace_schema_metadata(about)
    pq.write_table(table, tmp_path / "s.parquet")
    assert [dialogue.messages[1]["content"] for dialogue in DialogueReader(tmp_path / "s.parquet")] == ["cat purr", "dog"]
    pq.write_table(table.replace_schema_metadata({"huggingface": "[]"}), tmp_path / "plain.parquet")
    assert DialogueReader(tmp_path / "plain.parquet")[0].messages[1]["content"] == "1"
