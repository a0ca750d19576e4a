"""JSON documents hold the same records as JSON Lines: lists, COCO captions, VQAv2 questions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calico.datasets.documents import CaptionReader, DialogueReader
from calico.datasets.images import encode_file
from calico.datasets.open_data import open_data

COCO: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "seven.png"}, {"id": 8, "file_name": "eight.png"}, {"id": 9, "file_name": "nine.png"}],
    "annotations": [{"image_id": 8, "id": 1, "caption": "a dog"}, {"image_id": 7, "id": 2, "caption": "a cat"},
                    {"image_id": 8, "id": 3, "caption": "the dog"}]}
QUESTIONS: dict[str, Any] = {"data_subtype": "val2014", "questions": [
    {"image_id": 42, "question": "what is it?", "question_id": 420},
    {"image_id": 42, "question": "is it?", "question_id": 421}]}
ANSWERS: dict[str, Any] = {"annotations": [
    {"question_id": 421, "image_id": 42, "answers": [{"answer": "yes", "answer_id": 1}]},
    {"question_id": 420, "image_id": 42, "answers": [{"answer": a} for a in ("cat", "dog", "dog")]}]}
NAMES = "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"


def pictures(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for shade, name in enumerate(names):
        (folder / name).write_bytes(encode_file(np.full((4, 6, 3), shade, np.uint8)))
    return folder


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_coco_captions_are_gathered_by_image(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "eight.png", "seven.png")
    reader = open_data(write(tmp_path / "captions_val.json", COCO))
    assert isinstance(reader, CaptionReader)
    assert [(c.name, c.captions, c.extra) for c in reader] == [
        ("eight.png", ("a dog", "the dog"), {"image_id": 8}), ("seven.png", ("a cat",), {"image_id": 7})]
    assert [int(c.image[0, 0, 0]) for c in reader] == [0, 1]
    assert list(reader.texts()) == ["a dog", "the dog", "a cat"]
    elsewhere = pictures(tmp_path / "train2017", "eight.png", "seven.png")
    assert len(open_data(tmp_path / "captions_val.json", images=elsewhere)) == 2


@pytest.mark.parametrize(("change", "message"), [
    ({"annotations": [{"image_id": 5, "caption": "a bird"}]}, "1 images with captions are not among its images, such as the "
                                                              "id 5"),
    ({"annotations": [{"image_id": 9, "caption": "a bird"}]}, "image id 9: image 'nine.png' is not in .*images"),
    ({"annotations": [{"image_id": 8, "caption": 1}]}, "image id 8: caption must be a string"),
    ({"annotations": [{"image_id": 8, "bbox": [1, 2, 3, 4]}]}, "is not as COCO and VQAv2 write it: KeyError 'caption'"),
    ({"annotations": []}, "holds no captions"), ({"images": 5}, "is not as COCO .* TypeError"),
])
def test_wrong_coco_files_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    pictures(tmp_path / "images", "eight.png", "seven.png")
    with pytest.raises(ValueError, match=f"c.json.* ?{message}"):
        open_data(write(tmp_path / "c.json", COCO | change))


def test_vqa_questions_find_their_answers_and_images(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "COCO_val2014_000000000042.jpg")
    write(tmp_path / NAMES[1], ANSWERS)
    reader = open_data(write(tmp_path / NAMES[0], QUESTIONS))
    assert isinstance(reader, DialogueReader)
    assert [d.messages[1]["content"] for d in reader] == ["dog", "yes"]
    assert reader[0].messages[0]["content"] == [{"type": "image", "image": "COCO_val2014_000000000042.jpg"},
                                                {"type": "text", "text": "what is it?"}]
    assert reader[0].extra == {"answers": ["cat", "dog", "dog"], "question_id": 420}
    assert reader[0].images["COCO_val2014_000000000042.jpg"].shape == (4, 6, 3)
    before = reader.fingerprint
    write(tmp_path / NAMES[1], json.dumps(ANSWERS).replace("cat", "cow"))
    assert open_data(tmp_path / NAMES[0]).fingerprint != before


def test_questions_without_answers_are_named(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "COCO_val2014_000000000042.jpg")
    path = write(tmp_path / NAMES[0], QUESTIONS)
    with pytest.raises(ValueError, match=f"there is no {NAMES[1]} or .*annotations.json beside it; put the answers there"):
        open_data(path)
    write(tmp_path / NAMES[1], {"annotations": ANSWERS["annotations"][:1]})
    with pytest.raises(ValueError, match="questions.json, question id 420: answers must be a list of at least one string"):
        open_data(path)
    write(tmp_path / NAMES[1], '{"annotations":\n [}')
    with pytest.raises(ValueError, match="annotations.json: Expecting value: line 2 column 3"):
        open_data(path)


def test_a_list_is_read_like_lines(tmp_path: Path) -> None:
    told = [{"instruction": "Add.", "input": "1 and 1", "output": "2"}, {"instruction": "Greet.", "input": "", "output": "Hi"}]
    reader = open_data(write(tmp_path / "alpaca.json", told))
    assert isinstance(reader, DialogueReader)
    assert [[m["role"] for m in d.messages] for d in reader] == [["user", "assistant"]] * 2
    assert list(reader.texts()) == ["Add.", "\n\n", "1 and 1", "2", "Greet.", "Hi"]
    with pytest.raises(ValueError, match=r"alpaca.json, entry 2: expected an object \{...\}, got str"):
        open_data(write(tmp_path / "alpaca.json", [told[0], "x"]))


@pytest.mark.parametrize(("content", "message"), [
    ("{", "x.json: Expecting property name"), ("3", "is neither a list of objects, nor COCO captions"),
    ("[" * 100_000, "x.json: "), ("[]", "x.json holds no captions"), ('{"a": 1}', "is neither a list"),
])
def test_other_json_is_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_data(write(tmp_path / "x.json", content))


CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hé"}, {"role": "assistant", "content": "yo"}]}
LINES = f"{json.dumps(CHAT)}\n{json.dumps(CHAT)}\n"


@pytest.mark.parametrize(("name", "content"), [
    ("lines.json", LINES), ("blank.json", f"\n{LINES}\n"), ("list.jsonl", json.dumps([CHAT, CHAT])),
    ("pretty.jsonl", json.dumps([CHAT, CHAT], indent=1)), ("mark.json", f"\ufeff{LINES}"),
])
def test_content_tells_lines_from_a_list(tmp_path: Path, name: str, content: str) -> None:
    """`datasets` writes lines that it calls .json; a list called .jsonl was refused as "dictionary update sequence"."""
    (tmp_path / name).write_text(content, "utf-8")
    assert [dialogue.messages for dialogue in open_data(tmp_path / name)] == [CHAT["messages"]] * 2


@pytest.mark.parametrize(("name", "content", "message"), [
    ("utf16.jsonl", LINES.encode("utf-16"), "utf16.jsonl: the first line is not a JSON object .it is UTF-16; convert it to"),
    ("latin.json", json.dumps([CHAT], ensure_ascii=False).encode("latin-1"), "it is not UTF-8 .there is a byte 0xe9"),
    ("latin.csv", "text\né\n".encode("latin-1"), "latin.csv: it is not UTF-8 .there is a byte 0xe9"),
    ("words.jsonl", b'"a"\n"b"\n', "words.jsonl: the first line is not a JSON object, but str; each line is"),
    ("empty.jsonl", b"\n", "empty.jsonl holds no captions, no dialogues and no texts: it is empty"),
    ("one.json", json.dumps(CHAT).encode(), "one.json is neither a list .*: it has messages"),
    ("pairs.jsonl", b'{"chosen": "a", "rejected": "b"}\n', "pairs.jsonl holds preferences, of which nothing is learnt"),
])
def test_what_a_file_is_instead_is_said(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_data(tmp_path / name)


@pytest.mark.parametrize("content", ["question;answer\nwho?;Ada, Bo\n", '"question";"answer"\n"who?";"Ada, Bo"\n',
                                     "question\tanswer\nwho?\tAda, Bo\n", ',question,answer\n0,who?,"Ada, Bo"\n',
                                     'question, answer\nwho?,"Ada, Bo"\n', '\ufeffquestion,answer\r\nwho?,"Ada, Bo"\r\n'])
def test_a_table_of_text_is_read_as_spreadsheets_and_pandas_write_it(tmp_path: Path, content: str) -> None:
    """Semicolons and tabs in a .csv; a first column without a name, which is pandas' index."""
    (tmp_path / "t.csv").write_text(content, "utf-8")
    assert [message["content"] for message in open_data(tmp_path / "t.csv")[0].messages][1] == "Ada, Bo"


def test_names_of_pictures_may_be_addresses_of_files(tmp_path: Path) -> None:
    pictures(tmp_path / "my pictures", "a.png")
    address = (tmp_path / "my pictures" / "a.png").as_uri()
    assert "%20" in address
    content = [{"type": "image_url", "image_url": {"url": address}}]
    write(tmp_path / "d.jsonl", {"messages": [{"role": "user", "content": content}]})
    assert DialogueReader(tmp_path / "d.jsonl")[0].images[address].shape == (4, 6, 3)
    write(tmp_path / "c.jsonl", {"image": "https://a.org/a.png", "caption": "a"})
    with pytest.raises(ValueError, match="c.jsonl: https://a.org/a.png lies on the web; download it and name the file"):
        CaptionReader(tmp_path / "c.jsonl")
    write(tmp_path / "lost.jsonl", {"image": "lost.png", "caption": "a"})
    with pytest.raises(ValueError, match="none of lost.zip, .* beside it, and no 'lost.png'"):
        CaptionReader(tmp_path / "lost.jsonl")
