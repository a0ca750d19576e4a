"""The walk of docs/extending.md, "A data format": a format of another package is opened, divided and trained on."""

from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calico.agent.agent import Agent
from calico.datasets import open_data as table
from calico.datasets.open_data import FORMATS, Format, Found, Opening, open_data, register
from calico.datasets.publish import file_sha256
from calico.datasets.reader import DocumentReader, SourceOptions
from calico.scripts.common.settings import load_settings
from calico.scripts.common.sources import open_sources, strings
from calico.scripts.training.agent import train
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.tokens import Kind
from calico.tokenizers.vocabulary import Vocabulary, VocabularyConfig


class VerseReader(DocumentReader[str]):
    """Verses of a file, with an empty line between two."""

    def __init__(self, path: Path) -> None:
        self._path, self._verses = path, [verse for verse in path.read_text().split("\n\n") if verse.strip()]
        if not self._verses:
            raise ValueError(f"{path} holds no verse")

    def __len__(self) -> int:
        return len(self._verses)

    def __getitem__(self, index: Any) -> Any:
        return self._verses[index]

    @property
    def fingerprint(self) -> str:
        return file_sha256(self._path)

    def texts(self, numbers: Iterable[int] | None = None) -> Iterator[str]:
        return (self._verses[number] for number in (range(len(self)) if numbers is None else numbers))


def knows(found: Found) -> bool:
    return found.path.suffix == ".verse"


def open_verses(found: Found, opening: Opening) -> VerseReader:
    return VerseReader(found.path)


VERSES = Format("verses", knows, open_verses)


@pytest.fixture(autouse=True)
def the_table_is_put_back() -> Iterator[None]:
    before = list(FORMATS)
    yield
    FORMATS[:] = before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "all.verse"
    path.write_text("\n\n".join(f"roses are red {n}\nviolets are blue" for n in range(30)))
    return path


def test_a_registered_format_is_opened_divided_and_trained(path: Path, tmp_path: Path) -> None:
    register(VERSES)
    register(VERSES)                                            # again: not twice in the table
    assert [form.name for form in FORMATS].count("verses") == 1
    settings = load_settings("tiny", [
        f"data.sources=[{{path: {path}, held_out: 0.2}}]", "vocabulary.text=280", "backbone.context=64", "data.batch_size=2",
        "training.steps=1", "backbone.width=32", "backbone.depth=1", f"out={tmp_path / 'run'}"])
    (source,) = open_sources(settings)
    assert isinstance(source.data, VerseReader) and source.name == "all" and len(source.data) == 30
    train_split, held_out = source.splits
    assert len(train_split.numbers) + len(held_out.numbers) == 30 and 0 < len(held_out.numbers) < 15
    assert list(strings([source])) == list(train_split.documents())
    assert Agent.load(train(settings)).text.size <= 280
    with pytest.raises(ValueError, match="all.verse has no captioned pictures to mirror or crop; leave mirror and crop out"):
        open_sources(load_settings("tiny", [f"data.sources=[{{path: {path}, mirror: true}}]"]))


def test_an_installed_package_brings_its_formats(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EntryPoint, "load", lambda entry: VERSES)
    monkeypatch.setattr(table, "entry_points", lambda group: [EntryPoint("verses", "verses:VERSES", group)])
    table.register_installed.cache_clear()
    try:
        assert isinstance(open_data(path), VerseReader)
        assert FORMATS[0].name == "verses"
    finally:
        table.register_installed.cache_clear()


def test_a_registered_format_comes_before_the_houses_own(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    register(Format("verses", lambda found: found.path.suffix == ".txt", open_verses))
    assert list(open_data(tmp_path / "a.txt")) == ["one", "two"]
    text = TextTokenizer.train(["one two"], 270)
    options = SourceOptions(vocabulary=Vocabulary(VocabularyConfig(text=text.size)), text=text)
    source = open_data(tmp_path / "a.txt").source("verses", np.array([1]), options)
    row = source.sample(np.random.default_rng(0), 12)
    assert text.decode(row.ids[row.kind == Kind.TEXT] - options.vocabulary.text_start).startswith("two")
