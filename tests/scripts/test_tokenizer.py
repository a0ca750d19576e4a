"""`calico tokenizer train`: any text comes back, the same text gives the same file, wrong input is one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calico.scripts.common import sources
from calico.scripts.main import main
from calico.tokenizers.text import TextTokenizer

from ..conftest import SmallRun


def test_pieces_are_learnt_from_everything_that_holds_text(small_run: SmallRun, tmp_path: Path,
                                                           answered: Callable[..., Any]) -> None:
    (tmp_path / "a.txt").write_text("the unmistakable word\n" * 50)
    data = [small_run.data / name for name in ("minigrid-captions", "minigrid-dialogues", "BabyAI-GoToLocal-v0")]
    words = ("tokenizer", "train", tmp_path / "a.txt", *data, "--vocab", 400, "--out")
    found = answered(*words, tmp_path / "made" / "one.model")
    text = TextTokenizer.load(tmp_path / "made" / "one.model")
    assert found["pieces"] == text.size <= 400
    assert found["bytes_per_token"] > 2
    assert len(text.encode("unmistakable")) <= 3              # of the file,
    assert len(text.encode("the red ball")) <= 6              # and of the captions
    for strange in ("naïve 猫\u2581\t \U0001f431\x00", "<end><|user|></s>", "\u0301\ufb01"):
        assert text.decode(text.encode(strange)) == strange
    answered(*words, tmp_path / "two.model")
    assert (tmp_path / "two.model").read_bytes() == (tmp_path / "made" / "one.model").read_bytes()
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["one.model"]


def test_what_was_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("hello there\n" * 9)
    assert main(["tokenizer", "train", f"{tmp_path}/a.txt", "--vocab", "300", "--out", f"{tmp_path}/a.model"]) == 0
    out, err = capsys.readouterr()
    assert "pieces from 1 texts" in out
    assert f"wrote {tmp_path}/a.model (" in err
    monkeypatch.chdir(tmp_path)
    assert main(["tokenizer", "train", "a.txt", "--vocab", "300"]) == 0
    assert "wrote tokenizer.model (" in capsys.readouterr().err
    assert Path("tokenizer.model").read_bytes() == Path("a.model").read_bytes()


def test_wrong_input_is_one_line(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "empty.txt").write_text("\n")
    def train(name: str, *words: object) -> str:
        return refused("tokenizer", "train", tmp_path / name, "--out", tmp_path / "a.model", *words)

    assert "--vocab 100: vocab_size=100 leaves no room" in train("a.txt", "--vocab", 100)
    assert "there is no text to train a tokenizer from" in train("empty.txt")
    assert "none.txt does not exist" in train("none.txt")
    assert not (tmp_path / "a.model").exists()


def test_texts_larger_than_memory_are_read_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "TEXT_CHARACTERS", 10)
    assert list(sources.limited(iter(["aaaa", "bbbb", "cccc", "dddd"]))) == ["aaaa", "bbbb", "cccc"]
    monkeypatch.setattr(sources, "TEXT_LINES", 2)
    assert list(sources.limited(iter(["a", "b", "c"]))) == ["a", "b"]
