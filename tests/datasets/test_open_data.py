"""A path says by itself what it holds."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calico.datasets.document_writers import CaptionWriter, DialogueWriter
from calico.datasets.documents import CaptionReader, DialogueReader
from calico.datasets.episodes import EpisodeReader, EpisodeWriter
from calico.datasets.open_data import open_data
from calico.datasets.texts import TextReader
from calico.tokenizers.episode import Episode

SHARED = Path(os.environ.get("CALICO_SHARED_DATA", "../shared/data"))
IMAGE = np.zeros((16, 16, 3), np.uint8)
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image", "image": "a"}, {"type": "text", "text": "what?"}]},
    {"role": "assistant", "content": "a ball"}]


def write_all(folder: Path) -> None:
    with EpisodeWriter(folder / "episodes", {"name": "test"}) as episodes:
        episodes.append(Episode(task="test", seed=1, observations={"": np.zeros(3)}, actions={"": np.zeros(2)},
                                demonstrated=np.ones(2, bool), rewards=np.zeros(2), terminated=True, truncated=False))
    with CaptionWriter(folder / "captions") as captions:
        captions.append(IMAGE, ["a red ball", "a ball"])
    with DialogueWriter(folder / "dialogues") as dialogues:
        dialogues.append(MESSAGES, {"a": IMAGE})
    pq.write_table(pa.table({"text": ["a", "b"]}), folder / "said.parquet")
    (folder / "tables").mkdir()
    pq.write_table(pa.table({"text": ["a", "b"]}), folder / "tables" / "x.parquet")
    (folder / "text").mkdir()
    (folder / "text" / "a.txt").write_text("hello")
    (folder / "text" / "b.jsonl").write_text('\n{"text": "there"}\n')


@pytest.mark.parametrize(("name", "kind"), [
    ("episodes", EpisodeReader), ("episodes/part-00000.parquet", EpisodeReader), ("captions", CaptionReader),
    ("captions/captions.jsonl", CaptionReader), ("dialogues", DialogueReader),
    ("dialogues/dialogues.jsonl", DialogueReader), ("text", TextReader), ("text/a.txt", TextReader),
    ("text/b.jsonl", TextReader), ("said.parquet", TextReader), ("tables", TextReader),
])
def test_each_path_gets_its_reader(tmp_path: Path, name: str, kind: type) -> None:
    write_all(tmp_path)
    assert type(open_data(tmp_path / name)) is kind


def test_texts_are_all_that_is_said(tmp_path: Path) -> None:
    write_all(tmp_path)
    assert list(CaptionReader(tmp_path / "captions").texts()) == ["a red ball", "a ball"]
    assert list(DialogueReader(tmp_path / "dialogues").texts()) == ["what?", "a ball"]


def test_a_folder_of_data_sets_names_them(tmp_path: Path) -> None:
    write_all(tmp_path)
    (tmp_path / "said.parquet").unlink()
    with pytest.raises(ValueError, match=r"the data sets .*/captions, .*/dialogues, .*/episodes, .*/tables, .*/text; name one"):
        open_data(tmp_path)


def test_what_holds_nothing_or_two_things_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere does not exist; give a file or folder"):
        open_data(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no episodes"):
        open_data(tmp_path)
    for line, message in (("not JSON", "the first line is not a JSON object"), ("[" * 100_000, "nested too deeply")):
        (tmp_path / "x.jsonl").write_text(line)
        with pytest.raises(ValueError, match=f"x.jsonl: {message}"):
            open_data(tmp_path / "x.jsonl")
    (tmp_path / "captions.jsonl").write_text(json.dumps({"image": "a", "caption": "b"}))
    (tmp_path / "dialogues.jsonl").write_text(json.dumps({"messages": MESSAGES}))
    with pytest.raises(ValueError, match="holds both captions and dialogues; name one of"):
        open_data(tmp_path)


@pytest.mark.shared
@pytest.mark.parametrize(("name", "kind", "count"), [
    ("captions/flickr8k.jsonl", CaptionReader, 3183), ("captions/coco_mini.jsonl", CaptionReader, 79),
    ("vqa/nlvr.jsonl", DialogueReader, 989), ("dialogue/sgd.jsonl", DialogueReader, 3200),
    ("dialogue/topical_chat.jsonl", DialogueReader, 1078), ("dialogue/gsm8k.jsonl", DialogueReader, 7473),
    ("dialogue/alpaca_1k.jsonl", DialogueReader, 811), ("dialogue/chatterbot_en.jsonl", DialogueReader, 1643),
    ("text/tinyshakespeare.txt", TextReader, 1), ("text/wikitext2_valid.txt", TextReader, 1),
    ("text/ag_news.jsonl", TextReader, 6100),
])
def test_well_known_sets_open_as_they_are(name: str, kind: type, count: int) -> None:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"no {path}; set CALICO_SHARED_DATA")
    reader = open_data(path)
    assert type(reader) is kind
    assert len(reader) == count
    last = reader[count - 1]
    assert getattr(last, "captions", None) or getattr(last, "messages", None) or isinstance(last, str)
