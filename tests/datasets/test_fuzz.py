"""Every reader meets mutated valid files: it gives the right kind of value, or one line of ValueError."""

import gzip
import io
import json
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from calico.datasets.documents import Caption, Dialogue
from calico.datasets.formats.dialogues import DIALECTS, extra_of, is_dialogue, messages_of
from calico.datasets.images import decode_file
from calico.datasets.open_data import open_data
from calico.datasets.samples.point_clouds import decode_cloud
from calico.datasets.sources import document_parts
from calico.tokenizers.document import ROLES

NOISE = np.random.default_rng(0).integers(256, size=(12, 16, 3), dtype=np.uint8)


def picture(kind: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(NOISE).convert(mode).save(out, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}))
    return out.getvalue()


def sound() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((2, 2, 8000, 0, "NONE", ""))
        file.writeframes((NOISE.astype("<i2") * 90).tobytes() * 5)
    return out.getvalue()


def array(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def table(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, write_page_checksum=True)
    return out.getvalue()


CHAT = {"messages": [{"role": "user", "content": "hi <image>"}, {"role": "assistant", "content": "hello", "weight": 1}]}
RECORDS: list[dict[str, Any]] = [
    CHAT, {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}], "system": "be"},
    {"turns": ["a", "b"]}, {"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]]},
    {"prompt": "a", "completion": "b"}, {"question": "a", "choices": ["b", "c"], "answer": 1},
    {"question": "a", "context": "b", "answers": {"text": ["c"]}}, {"statement": "a", "answer": "true"},
    {"image": "a.png", "caption": "b"}, {"file_name": "a.png", "text": "b"}, {"text": "a"}, {"audio": "a.wav", "digit": 3}]
KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "TGA", "PCX", "QOI", "PPM", "AVIF", "JPEG2000")
PICTURES = [picture(kind) for kind in KINDS] + [
    picture("PNG", "P"), picture("PNG", "RGBA"), picture("TIFF", "CMYK"), picture("PNG", "I;16")]
FILES = {   # name -> valid content
    "a.jsonl": b"\n".join(json.dumps(record).encode() for record in RECORDS[:4]),
    "b.json": json.dumps(RECORDS[1:2] * 3).encode(), "c.csv": b'instruction,output\n"a, b",c\nd,e\n',
    "d.jsonl.gz": gzip.compress(json.dumps(CHAT).encode()), "e.parquet": table([CHAT, CHAT]),
    "f.parquet": table([{"image": {"bytes": PICTURES[0], "path": "a"}, "text": "b"}] * 2),
    "g.parquet": table([{"text": "a"}, {"text": "b"}]), "h.txt": "some text é".encode(),
    "i.json": json.dumps({"images": [{"id": 1, "file_name": "a.png"}],
                          "annotations": [{"image_id": 1, "caption": "b"}]}).encode(),
    "j.zst": b"x", "k.jsonl.zst": pa.compress(json.dumps(CHAT).encode(), codec="zstd", asbytes=True)}


INSERTED = (b"\0", b"\xff\xff\xff\xff", b'"', b"[", b"null", b"1e999", b"\xed\xa0\x80")
VALUE_KEYS = ("role", "content", "text", "type", "image", "label", "from", "value", "weight")


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """A valid file with bytes changed, cut out, doubled, or cut short."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(("change", "cut", "double", "short", "insert"))):
            case "change" if data:
                data[place] = draw(st.integers(0, 255))
            case "cut":
                del data[place:place + draw(st.integers(1, 8))]
            case "double":
                data[place:place] = data[place:place + draw(st.integers(1, 64))]
            case "short":
                del data[place:]
            case "insert":
                data[place:place] = draw(st.sampled_from(INSERTED))
    return bytes(data)


VALUES = st.recursive(st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=4) | st.just("a.png"),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                          st.sampled_from(VALUE_KEYS), inner, max_size=3), max_leaves=6)


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """A record of a known kind with some values replaced, left out or added."""
    record: dict[str, Any] = json.loads(json.dumps(draw(st.sampled_from(RECORDS))))
    for _ in range(draw(st.integers(0, 3))):
        inner: Any = record
        while isinstance(inner, dict | list) and inner and draw(st.booleans()):
            chosen = draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
            if not isinstance(inner[chosen], dict | list):
                inner[chosen] = draw(VALUES)
                break
            inner = inner[chosen]
        else:
            known = [key for dialect in DIALECTS for key in sorted(dialect.used)]
            record[draw(st.sampled_from([*known, "image", "images", "audio", "file"]))] = draw(VALUES)
    return record


def one_line(call: Callable[[], Any]) -> Any:
    """What a call gives; None where it raises one line of ValueError. Anything else fails."""
    try:
        return call()
    except ValueError as error:
        assert str(error) and "\n" not in str(error), repr(str(error))
    return None


def read_dialogue(record: dict[str, Any]) -> None:
    if not is_dialogue(record):
        return
    messages = one_line(lambda: messages_of(record))
    assert messages is None or (messages and all(message["role"] in ROLES for message in messages))
    extra_of(record)


def read_file(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    reader = one_line(lambda: open_data(folder / name))
    for index in range(0 if reader is None else min(len(reader), 3)):
        document = one_line(partial(reader.__getitem__, index))
        assert document is None or isinstance(document, str | Caption | Dialogue)
        if document is not None:
            one_line(partial(document_parts, document))


def read_picture(data: bytes) -> None:
    pixels = one_line(lambda: decode_file(data, 64))
    assert pixels is None or (pixels.dtype == np.uint8 and pixels.shape[2] == 3)


def read_sound(data: bytes) -> None:
    pytest.importorskip("av")
    from calico.datasets.sounds import decode_sound

    made = one_line(lambda: decode_sound(data, 16000))
    assert made is None or (made[0].dtype == np.float32 and np.abs(made[0]).max() <= 1)


def read_cloud(data: bytes, suffix: str) -> None:
    cloud = one_line(lambda: decode_cloud(data, suffix))
    assert cloud is None or (cloud.dtype == np.float32 and cloud.ndim == 2 and np.isfinite(cloud).all())


def fuzz(examples: int, folder: Path) -> None:
    """`examples` mutations for each kind of reader."""
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(PICTURES[0])
    quiet = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    clouds = {".npy": array(NOISE[..., 0].astype(np.float32)), ".xyz": b"1 2 3\n4 5 6\n"}

    @quiet
    @given(records())
    def dialogues(record: dict[str, Any]) -> None:
        read_dialogue(record)
        read_file(folder, "r.jsonl", json.dumps(record).encode())

    @quiet
    @given(st.sampled_from(sorted(FILES)).flatmap(lambda name: st.tuples(st.just(name), mutated(FILES[name]))))
    def files(case: tuple[str, bytes]) -> None:
        read_file(folder, *case)

    @quiet
    @given(st.sampled_from(PICTURES).flatmap(mutated))
    def pictures(data: bytes) -> None:
        read_picture(data)

    @quiet
    @given(mutated(sound()))
    def sounds(data: bytes) -> None:
        read_sound(data)

    @quiet
    @given(st.sampled_from(sorted(clouds)).flatmap(lambda suffix: st.tuples(mutated(clouds[suffix]), st.just(suffix))))
    def point_clouds(case: tuple[bytes, str]) -> None:
        read_cloud(*case)

    for test in (dialogues, files, pictures, sounds, point_clouds):
        test()


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    fuzz(120, tmp_path)


@pytest.mark.slow
def test_many_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    fuzz(20_000, tmp_path)
