"""A config's sources become one mixture, wherever their pictures lie and however large they are."""

import json
from pathlib import Path

import numpy as np
import pytest

from calico.datasets.documents import CaptionReader
from calico.datasets.images import encode_file
from calico.scripts.settings import load_settings
from calico.scripts.sources import build_mixture, open_sources, text_tokenizer
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
