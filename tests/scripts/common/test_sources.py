"""A config's sources become one mixture, wherever their pictures lie and however large they are."""

import json
from pathlib import Path

import numpy as np
import pytest

from calico.datasets.documents import CaptionReader
from calico.datasets.images import encode_file
from calico.envs.registry import get_task
from calico.scripts.common.collecting import collect
from calico.scripts.common.settings import SourceSettings, load_settings
from calico.scripts.common.sources import build_mixture, expanded, open_sources, strings, task_specs, text_tokenizer
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.tokens import Kind
from calico.tokenizers.vocabulary import Vocabulary

SETTINGS = ("vocabulary.text=300", "backbone.context=64", "data.batch_size=2")


def coco(folder: Path) -> Path:
    """A captions file, its one picture of 96 x 48 in a folder of another name."""
    (folder / "train2017").mkdir()
    (folder / "train2017" / "7.png").write_bytes(encode_file(np.zeros((48, 96, 3), np.uint8)))
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": [{"id": 7, "file_name": "7.png"}],
                                "annotations": [{"image_id": 7, "caption": "a black picture"}]}))
    return path


@pytest.mark.parametrize(("max_side", "patches"), [(96, 6 * 3), (64, 4 * 2), (16, 1)])
def test_pictures_cost_what_the_config_allows(tmp_path: Path, max_side: int, patches: int) -> None:
    source = f"{{path: {coco(tmp_path)}, images: {tmp_path}/train2017, max_side: {max_side}}}"
    settings = load_settings("tiny", [*SETTINGS, f"data.sources=[{source}]"])
    opened = open_sources(settings)
    assert isinstance(opened[0].data, CaptionReader)
    text = text_tokenizer(settings, opened)
    vocabulary = Vocabulary(settings.vocabulary)
    mixture = build_mixture(opened, settings, vocabulary, text)
    tokens = mixture.batch(0).tokens
    whole = tokens.segment[0] == 0
    assert (tokens.kind[0][whole] == Kind.PATCH).sum() == patches
    said = tokens.ids[0][whole & (tokens.kind[0] == Kind.TEXT)]
    assert text.decode(said - vocabulary.text_start) == "a black picture"


def test_a_side_of_no_pixels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x: max_side=0 must be at least 1 pixel"):
        load_settings("tiny", ["data.sources=[{path: x, max_side: 0}]"])


@pytest.mark.parametrize(("setting", "message"), [
    ("mirror: true", "no captioned pictures to mirror or crop"), ("crop: 0.5", "no captioned pictures to mirror or crop"),
    ("memory: false", "no episodes whose steps could do without memory")])
def test_settings_for_other_data_are_refused(tmp_path: Path, setting: str, message: str) -> None:
    (tmp_path / "t.txt").write_text("once upon a time")
    with pytest.raises(ValueError, match=f"t.txt has {message}; leave "):
        open_sources(load_settings("tiny", [f"data.sources=[{{path: {tmp_path}/t.txt, {setting}}}]"]))


def test_a_star_stands_for_every_folder_that_no_other_source_names(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / name).mkdir()
    listed = [SourceSettings(path=str(tmp_path / "b"), weight=3.0), SourceSettings(path=f"{tmp_path}/*", weight=0.5)]
    found = expanded(listed)
    assert [(Path(source.path).name, source.weight) for source in found] == [("b", 3.0), ("a", 0.5), ("c", 0.5)]
    with pytest.raises(ValueError, match="matches nothing here"):
        expanded([SourceSettings(path=f"{tmp_path}/x*")])


def test_numbers_alone_need_no_memory_unless_the_source_or_the_backbone_says_so(tmp_path: Path) -> None:
    """And a title stands before what is observed, as one piece."""
    collect(get_task("CartPole-v1"), range(2), tmp_path)
    path = tmp_path / "CartPole-v1"

    def codec(setting: str = "", *more: str) -> TaskCodec:
        settings = load_settings("tiny", [f"data.sources=[{{path: {path}{setting}}}]", *more])
        opened = open_sources(settings)
        vocabulary, text = Vocabulary(settings.vocabulary), text_tokenizer(settings, opened)
        return TaskCodec.from_json(task_specs(opened, settings, vocabulary, text)["CartPole-v1"]["codec"], vocabulary, text)

    assert not codec().memory and codec(", memory: true").memory and codec("", "backbone.segments=false").memory
    with pytest.raises(ValueError, match="memory=false needs a decoder with backbone.segments=true"):
        codec(", memory: false", "backbone=perceiver")
    plain, titled = codec(), codec("", "data.titles=true")
    assert titled.title == "CartPole-v1" and titled.tokens_per_step[1] == plain.tokens_per_step[1] + 1


def test_what_is_held_out_is_trained_on_nowhere(tmp_path: Path) -> None:
    """Neither its rows nor its words, and two lines with one picture stay together."""
    lines = []
    for n in range(40):
        (tmp_path / f"{n}.png").write_bytes(encode_file(np.full((16, 16, 3), n // 2, np.uint8)))
        lines.append(json.dumps({"image": f"{n}.png", "caption": f"picture{n}"}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    settings = load_settings("tiny", [*SETTINGS, f"data.sources=[{{path: {tmp_path}, images: {tmp_path}, held_out: 0.3}}]"])
    (source,) = open_sources(settings)
    train, held = ([document.captions[0] for document in side.documents()] for side in source.splits)
    assert sorted([*train, *held]) == sorted(f"picture{n}" for n in range(40)) and 2 <= len(held) <= 24
    assert all((f"picture{n}" in held) == (f"picture{n + 1}" in held) for n in range(0, 40, 2))
    assert sorted(strings([source])) == sorted(train)
    text = text_tokenizer(settings, [source])
    mixture = build_mixture([source], settings, Vocabulary(settings.vocabulary), text)
    values = {int(value) for step in range(20) for value in mixture.batch(step).tokens.patches[:, 0, 0, 0]}
    assert values == {int(caption.removeprefix("picture")) // 2 for caption in train}


@pytest.mark.parametrize("held_out", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(held_out: float) -> None:
    with pytest.raises(ValueError, match=f"x: held_out={held_out} must be a share"):
        load_settings("tiny", [f"data.sources=[{{path: x, held_out: {held_out}}}]"])


def test_too_few_to_hold_some_out_names_the_data(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("short")
    (source,) = open_sources(load_settings("tiny", [f"data.sources=[{{path: {tmp_path / 'one.txt'}, held_out: 0.2}}]"]))
    with pytest.raises(ValueError, match=r"one.txt: held_out=0.2 of 1 texts leaves one side empty"):
        _ = source.splits
