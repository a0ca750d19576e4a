"""The tabs Perceiver and Encoders: runs that are found, what they answer, and neighbours."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calico.datasets.samples.moving_shapes import LABELS
from calico.scripts.perceive import main as perceive
from calico.scripts.web import encoders, found, perceivers
from calico.scripts.web.desk import Desk


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs of two steps, and things that are none."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "pictures" / "checkpoints").mkdir(parents=True)
    texts = folder / "reviews.txt"
    texts.write_text("\n".join(f"This is film number {number}. It is fine." for number in range(30)))
    small = ["training.steps=2", "batch_size=2"]
    assert perceive(["fill-mask", "train", str(texts), *small, "length=128", "--out", str(folder / "language")]) == 0
    assert perceive(["flow", "train", "textures", *small, "--out", str(folder / "deep" / "flow")]) == 0
    return folder


@pytest.mark.slow
def test_runs_are_found_and_answer(runs: Path, tmp_path: Path) -> None:
    (task, language), (other, flow) = sorted(found.perceivers(runs))
    assert (task, other) == ("fill-mask", "flow") and found.encoders(runs) == []
    answers = perceivers.filled(language, "This is a [MASK].")
    assert len(answers) == perceivers.TOP and all(text.startswith("This is a ") for text, _ in answers)
    assert [chance for _, chance in answers] == sorted((chance for _, chance in answers), reverse=True)
    files = []
    for number, picture in enumerate(perceivers.moved_pair()):
        files.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(picture).save(files[-1])
    shown, words = perceivers.motion(flow, *files)
    assert shown.shape == perceivers.moved_pair()[0].shape and shown.dtype == np.uint8 and "mean motion" in words
    with pytest.raises(ValueError, match=r"there is no \[MASK\] in the text"):
        perceivers.filled(language, "This is a film.")
    Image.new("RGB", (20, 20)).save(files[1])
    with pytest.raises(ValueError, match="pictures are 48x48 and 20x20 pixels|pictures are 64x64 and 20x20 pixels"):
        perceivers.motion(flow, *files)


@pytest.mark.slow
def test_a_made_clip_goes_through_the_latents(tmp_path: Path) -> None:
    small = ["training.steps=2", "batch_size=2", "side=16"]
    assert perceive(["autoencode", "train", "shapes", *small, "--out", str(tmp_path / "shapes")]) == 0
    assert found.perceivers(tmp_path) == [("autoencode", str(tmp_path / "shapes"))]
    shown = perceivers.reconstruction(str(tmp_path / "shapes"), 3)
    for pictures, sound in (shown.given, shown.made):
        assert pictures.shape == (16, 16, 16, 3) and pictures.dtype == np.uint8
        assert sound.shape == (5120,) and sound.dtype == np.int16
    assert np.abs(shown.given[1]).max() > 1000 and shown.rate == 8000
    assert set(shown.chances) == set(LABELS) and sum(shown.chances.values()) == pytest.approx(1, abs=1e-4)
    assert any(shown.words.startswith(label) for label in LABELS) and "dB" in shown.words


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "a" / "checkpoints" / "step_00000001").mkdir(parents=True)
    (tmp_path / "a" / "checkpoints" / "step_00000001" / "perceive.json").write_text("{broken")
    assert found.perceivers(tmp_path) == found.perceivers(tmp_path / "none") == [] == found.encoders(tmp_path)


def test_old_runs_are_found() -> None:
    old = Path(__file__).parents[2] / "fixtures"
    assert found.perceivers(old) and any(run.endswith("pretrained") for run in found.encoders(old))


def test_neighbours_of_a_lander_are_landers(desk: Desk) -> None:
    pictures, captions = encoders.pool()
    vectors = encoders.Vectors(desk, desk.run)
    assert np.linalg.norm(vectors.pool, axis=1) == pytest.approx(1.0, abs=1e-4)
    near = encoders.nearest(vectors, pictures[-1])
    assert len(near) == encoders.NEAREST and not any(np.array_equal(picture, pictures[-1]) for picture, _ in near)
    assert all("lander" in words for _, words in near) and "lander" in captions[-1]
    likeness = [float(words.split(":")[0]) for _, words in near]
    assert likeness == sorted(likeness, reverse=True)


def test_an_encoder_of_texts_sees_no_pictures(desk: Desk) -> None:
    with pytest.raises(ValueError):
        encoders.Vectors(desk, str(Path(__file__).parents[2] / "fixtures" / "old" / "agent"))
