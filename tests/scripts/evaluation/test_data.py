"""What is judged is what was held out, what the user names, or what nobody has drawn before."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calico.datasets.documents import Caption, Dialogue, Document
from calico.datasets.images import encode_file
from calico.scripts.common.settings import DataSettings, RunSettings, SourceSettings
from calico.scripts.evaluation.data import (
    SUITES,
    EvaluationSet,
    drawn_questions,
    found_again,
    held_out_sets,
    named_sets,
    open_here,
    trained_worlds,
)

from ...conftest import SmallRun


def settings_of(*sources: SourceSettings) -> RunSettings:
    return RunSettings(data=DataSettings(sources=list(sources)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty pictures of 96 x 96 with captions, and thirty lines of text."""
    (tmp_path / "images").mkdir()
    lines = []
    for n in range(30):
        (tmp_path / "images" / f"{n}.png").write_bytes(encode_file(np.full((96, 96, 3), n, np.uint8)))
        lines.append(json.dumps({"image": f"{n}.png", "caption": f"picture {n}"}))
    (tmp_path / "seen.jsonl").write_text("\n".join(lines))
    (tmp_path / "lines.jsonl").write_text("\n".join(json.dumps({"text": f"line {n}"}) for n in range(30)))
    return tmp_path


def test_the_config_says_what_was_held_out(folder: Path) -> None:
    opened = open_here(settings_of(SourceSettings(path=str(folder / "seen.jsonl"), held_out=0.3),
                                   SourceSettings(path=str(folder / "lines.jsonl"))), SUITES)
    (found,) = held_out_sets(opened, None)
    train, held = opened[0].splits
    names = [[document.name for document in documents if isinstance(document, Caption)]
             for documents in (found.known, found.documents)]
    assert names == [[f"{n}.png" for n in side.numbers] for side in (train, held)] and found.name == "seen"
    (first,) = held_out_sets(opened, 2)
    assert len(first.documents) == 2 and first.fingerprint != found.fingerprint


def test_what_the_user_names_is_read_in_the_size_of_training(folder: Path) -> None:
    opened = open_here(settings_of(SourceSettings(path=str(folder / "seen.jsonl"), max_side=32)), SUITES)
    same, other = ([document.image.shape for document in found.documents if isinstance(document, Caption)]
                   for known in (opened, []) for found in named_sets([str(folder / "seen.jsonl")], known, 1))
    assert same == [(32, 32, 3)] and other == [(64, 64, 3)]


def test_each_document_has_one_suite() -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    shown = [{"type": "image", "image": "x"}, {"type": "text", "text": "what?"}]
    asked: list[dict[str, Any]] = [{"role": "user", "content": shown}]
    replied = [*asked, {"role": "assistant", "content": "nothing"}]
    documents: dict[str, Document] = {
        "captions": Caption(name="x", image=picture, captions=("a",)), "text": "words",
        "vqa": Dialogue(messages=replied, images={"x": picture}),
        "chat": Dialogue(messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}])}
    silent = Dialogue(messages=asked, images={"x": picture})
    data = EvaluationSet("all", [*documents.values(), silent], [silent], "x")
    for suite, document in documents.items():
        part = data.part(suite)
        assert len(part.documents) == 1 and part.documents[0] is document and not part.known


def test_data_that_are_gone_are_said_and_episodes_are_left_to_control(small_run: SmallRun, folder: Path,
                                                                      capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_of(SourceSettings(path="nowhere.txt"), SourceSettings(path=str(small_run.data / "CartPole-v1")),
                           SourceSettings(path=str(folder / "seen.jsonl")), SourceSettings(path=str(folder / "lines.jsonl")))
    assert [source.name for source in open_here(settings, SUITES)] == ["seen", "lines"]
    assert [source.name for source in open_here(settings, ["text"])] == ["lines"] and open_here(settings, []) == []
    assert "not judged: nowhere.txt does not exist" in capsys.readouterr().err


def test_worlds_are_those_of_the_run(small_run: SmallRun, folder: Path) -> None:
    opened = open_here(settings_of(*(SourceSettings(path=str(small_run.data / f"minigrid-{kind}"))
                                     for kind in ("captions", "dialogues"))), SUITES)
    assert trained_worlds(opened) == ["minigrid"] and trained_worlds([]) == []
    drawn = drawn_questions("minigrid", 4, opened)
    assert len(drawn.documents) == 4 and len(drawn.known) > 4
    for document in drawn.documents:
        assert isinstance(document, Dialogue) and [message["role"] for message in document.messages] == ["user", "assistant"]


def test_data_are_found_again_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "project" / "runs" / "demo"
    (tmp_path / "project" / "data" / "CartPole-v1").mkdir(parents=True)
    run.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    source = SourceSettings(path="data/CartPole-v1", images="data")
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = found_again(source, run)
    data = tmp_path / "project" / "data"
    assert found.path == str(data / "CartPole-v1") and found.images == str(data)
    gone = SourceSettings(path="data/gone")
    assert found_again(gone, run) == gone
    monkeypatch.chdir(tmp_path / "project")
    assert found_again(source, run) == source


def test_data_that_are_gone_say_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert open_here(settings_of(SourceSettings(path="nowhere/words.jsonl")), SUITES) == []
    assert "run the command where the run was trained, or name data by --data" in capsys.readouterr().err
