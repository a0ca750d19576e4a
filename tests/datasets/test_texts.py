"""Text of any size comes back as it was written; what is broken is named."""

import json
import pickle
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calico.datasets import records, texts
from calico.datasets.texts import TextReader


def lines(path: Path, *values: object) -> Path:
    path.write_text("\n".join(v if isinstance(v, str) else json.dumps(v) for v in values))
    return path


def test_texts_come_from_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes("two\r\nlines é ▁ \0".encode())
    lines(tmp_path / "a.jsonl", {"text": "one", "source": 3}, "", {"text": ""}, {"text": "x" * 1000})
    (tmp_path / "ignored.md").write_text("no")
    reader = TextReader(tmp_path)
    assert list(reader) == ["one", "", "x" * 1000, "two\r\nlines é ▁ \0"]
    assert reader.characters.tolist() == [3, 0, 1000, 16]
    assert list(TextReader(tmp_path / "b.txt", tmp_path / "a.jsonl")) == [reader[3], *list(reader)[:3]]
    before = reader.fingerprint
    lines(tmp_path / "a.jsonl", {"text": "on"}, {"text": "e"})
    assert TextReader(tmp_path).fingerprint != before


@pytest.mark.parametrize(("line", "message"), [
    ('{"text": "a"', "line 3: .*delimiter"), ("[1]", "line 3: expected an object .* got list"),
    ("{}", "line 3: text must be a string"), ('{"text": 7}', "line 3: text must be a string, got int"),
    ('{"text": "\\ud800"}', "line 3: text holds half of a surrogate"),
    ("[" * 100_000, "line 3: "), ('{"text": "\\x"}', "line 3: .*escape"), ("nonsense", "line 3: Expecting value"),
])
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = lines(tmp_path / "t.jsonl", {"text": "a"}, "", line, {"text": "b"})
    with pytest.raises(ValueError, match=f"t.jsonl, {message}"):
        TextReader(path)


def test_wrong_text_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.txt is not UTF-8: byte 3 is 0xe9"):
        TextReader(tmp_path)
    with pytest.raises(ValueError, match="is not a .txt, .jsonl or .parquet file"):
        TextReader(tmp_path / "none.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no documents in .*empty"):
        TextReader(tmp_path / "empty")
    with pytest.raises(ValueError, match="no documents in an empty list"):
        TextReader()
    path = lines(tmp_path / "t.jsonl", {"text": "a" * 100})
    monkeypatch.setattr(records, "MAX_LINE_BYTES", 64)
    with pytest.raises(ValueError, match="t.jsonl, line 1: longer than 64 bytes"):
        TextReader(path)




def parquet(path: Path, column: pa.Array, name: str = "text", rows_per_group: int = 2) -> Path:
    pq.write_table(pa.table({name: column}), path, row_group_size=rows_per_group, write_page_checksum=True)
    return path


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_column_of_text_is_read_by_row_groups(tmp_path: Path, kind: pa.DataType) -> None:
    said = ["one", "", "é ▁\n", "four", "five"]
    reader = TextReader(parquet(tmp_path / "t.parquet", pa.array(said).cast(kind)))
    assert list(reader) == said
    assert reader[-1] == "five"
    assert reader.characters.tolist() == [len(text) for text in said]


@pytest.mark.parametrize(("column", "name", "message"), [
    (["a", "b", "c", None], "text", "row 1 of row group 1: text must be a string, got null"),
    (["a"], "body", "has no column 'text'; it has body"), ([[1]], "text", "row group 0: text cannot be read as strings"),
])
def test_a_wrong_column_is_named(tmp_path: Path, column: list[object], name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"t.parquet.* {message}"):
        TextReader(parquet(tmp_path / "t.parquet", pa.array(column), name))


def test_damaged_tables_are_named(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", pa.array(["some text to damage" * 9]))
    data = bytearray(path.read_bytes())
    data[data.index(b"damage")] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="t.parquet, row group 0: text cannot be read"):
        TextReader(path)
    path.write_bytes(b"PAR1 and nothing")
    with pytest.raises(ValueError, match="t.parquet is not a readable Parquet file"):
        TextReader(path)


@pytest.mark.parametrize("text", ["a line\n" * 40, "é" * 300, "\U0001f431" * 99, "x" * 64 + "\r\n", "no end", ""])
def test_a_long_file_comes_in_pieces_that_join_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(texts, "PIECE_BYTES", 31)
    (tmp_path / "long.txt").write_bytes(text.encode())
    reader = TextReader(tmp_path / "long.txt")
    assert "".join(reader) == text
    assert max(len(piece.encode()) for piece in reader) <= 2 * 31 + 3
    assert reader.characters.tolist() == [len(piece) for piece in reader]
    if "\n" in text[:31]:
        assert all(piece.endswith("\n") for piece in reader)


def test_a_wrong_byte_of_a_later_piece_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "PIECE_BYTES", 16)
    (tmp_path / "x.txt").write_bytes(b"abc\n" * 20 + b"\xff")
    with pytest.raises(ValueError, match="x.txt is not UTF-8: byte 80 is 0xff"):
        TextReader(tmp_path / "x.txt")


def test_only_what_is_asked_for_is_in_memory(tmp_path: Path) -> None:
    """64 MiB of text are opened with a few pieces in memory."""
    line = "The quick brown fox jumps over the lazy dog.\n" * 1000
    with open(tmp_path / "big.txt", "w") as file:
        for _ in range(1500):
            file.write(line)
    tracemalloc.start()
    reader = TextReader(tmp_path / "big.txt")
    opened = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(reader.characters) == 1500 * len(line)
    assert len(reader) == 17
    assert opened < 5 * texts.PIECE_BYTES


def test_readers_travel_to_workers(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("plain")
    lines(tmp_path / "b.jsonl", {"text": "line"})
    parquet(tmp_path / "c.parquet", pa.array(["row"]))
    reader = TextReader(tmp_path)
    assert list(reader) == ["plain", "line", "row"]         # what was read lies in the caches
    assert list(pickle.loads(pickle.dumps(reader))) == ["plain", "line", "row"]


def test_the_mark_of_utf_8_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffa cat\n".encode())
    texts = TextReader(tmp_path / "a.txt")
    assert list(texts) == ["a cat\n"] and texts.characters.tolist() == [6]


def test_a_text_beside_a_prompt_is_refused(tmp_path: Path) -> None:
    """The answer would be learnt as a text, the question dropped."""
    record = {"prompt": "who?", "text": "Ada"}
    message = "the field 'prompt' would be dropped: of these records the text alone is learnt"
    with pytest.raises(ValueError, match=f"line 1: {message}"):
        TextReader(lines(tmp_path / "a.jsonl", record))
    pq.write_table(pa.table({key: ["", value] for key, value in record.items()}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=f"row 1 of row group 0: {message}"):
        TextReader(tmp_path / "a.parquet")
    formatted = {"input": "who?", "output": "Ada", "text": "Q: who? A: Ada", "label": 3}
    assert list(TextReader(lines(tmp_path / "b.jsonl", formatted))) == ["Q: who? A: Ada"]
