"""Samples without classes: every kind of place, and what is left out."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from calico.datasets.episodes import EpisodeWriter
from calico.datasets.images import ImageStore
from calico.datasets.samples import unlabelled
from calico.datasets.samples.unlabelled import Unlabelled, pieces_of, read_pieces, read_unlabelled
from calico.datasets.texts import TextReader
from calico.tokenizers.episode import Episode
from calico.tokenizers.spaces import space_to_json


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def read(*paths: Path, most_skipped: int = 0) -> Unlabelled:
    return read_unlabelled(paths, lambda path: ImageStore(path, max_side=8),
                           lambda pixels: "it is black" if not pixels.any() else None, most_skipped)


def reds(found: Unlabelled) -> list[int]:
    return [int(found.samples[i][0, 0, 0]) for i in range(len(found))]


@pytest.mark.parametrize("channels, seen", [(0, [0, 0, 0]), (2, [0, 1, 1]), (3, [0, 1, 2]), (4, [1, 2, 3])])
def test_what_an_agent_saw_are_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int,
                                        seen: list[int]) -> None:
    """Of three episodes, as many frames of each as fit, spread over its steps; the newest frames of a stack."""
    space = spaces.Dict(view=spaces.Box(0, 255, (16, 20, channels) if channels else (16, 20), np.uint8), x=spaces.Discrete(2))
    rng = np.random.default_rng(0)
    views = [rng.integers(0, 256, (steps + 1, *(space["view"].shape or ()))).astype(np.uint8) for steps in (4, 1, 3)]
    task = {"name": "test", "observation_space": space_to_json(space), "action_space": space_to_json(spaces.Discrete(2))}
    with EpisodeWriter(tmp_path / "data", task) as writer:
        for seed, view in enumerate(views):
            steps = len(view) - 1
            writer.append(Episode(task="test", seed=seed, observations={"view": view, "x": np.zeros(steps + 1, np.int64)},
                                  actions={"": np.zeros(steps, np.int64)}, demonstrated=np.ones(steps, bool),
                                  rewards=np.zeros(steps), terminated=True, truncated=False))
    expected = np.concatenate([view[:-1] for view in views])
    expected = np.stack([expected] * 3, -1) if not channels else expected[..., seen]
    found = read(tmp_path / "data")
    np.testing.assert_array_equal(np.stack(list(found.samples)), expected)
    monkeypatch.setattr(unlabelled, "FRAMES", 4)
    few = read(tmp_path / "data")
    np.testing.assert_array_equal(np.stack(list(few.samples)), expected[[0, 2, 4, 7]])
    task["observation_space"] = space_to_json(spaces.Discrete(2))
    with EpisodeWriter(tmp_path / "blind", task) as writer:
        writer.append(Episode(task="test", seed=0, observations={"": np.zeros(2, np.int64)}, rewards=np.zeros(1),
                              actions={"": np.zeros(1, np.int64)}, demonstrated=np.ones(1, bool), terminated=True,
                              truncated=False))
    with pytest.raises(ValueError, match=r"blind shows no pictures: its observations are Discrete\(2\)"):
        read(tmp_path / "blind")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, one of them deeper, and a file of another kind."""
    where = tmp_path / "pictures"
    (where / "deep" / "er").mkdir(parents=True)
    for name, value in (("a.png", 10), ("b.PNG", 20), ("deep/er/c.png", 30)):
        (where / name).write_bytes(png(value))
    (where / "notes.txt").write_text("not a picture")
    return where


def test_folder_zip_manifest_and_arrays_give_the_same_samples(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as file:
        for path in sorted(folder.rglob("*.*")):
            file.write(path, path.relative_to(folder))
    manifest = tmp_path / "pictures.jsonl"
    manifest.write_text("".join(json.dumps({key: name}) + "\n" for key, name in
                                (("file", "a.png"), ("image", "b.PNG"), ("file", "deep/er/c.png"))))
    arrays = np.zeros((3, 4, 4, 3), np.uint8)
    arrays[..., 0] = np.array([10, 20, 30])[:, None, None]
    np.savez(tmp_path / "arrays.npz", images=arrays)
    found = [read(path) for path in (folder, tmp_path / "packed.zip", manifest, tmp_path / "arrays.npz")]
    for one in found:
        assert reds(one) == [10, 20, 30] and not one.skipped
        assert one.keys == found[0].keys and one.fingerprint == found[0].fingerprint
    both = read(folder, manifest)
    assert reds(both) == [10, 20, 30, 10, 20, 30] and both.fingerprint != found[0].fingerprint
    assert reds(both.only([5, 0])) == [30, 10] and both.only([5, 0]).keys == [both.keys[5], both.keys[0]]


def test_what_cannot_be_used_is_named_and_left_out_up_to_a_limit(folder: Path) -> None:
    (folder / "broken.png").write_bytes(png(99)[:40])
    (folder / "dark.png").write_bytes(png(0))
    found = read(folder, most_skipped=2)
    assert reds(found) == [10, 20, 30]
    assert "'broken.png'" in found.skipped[0] and found.skipped[1] == "'dark.png': it is black"
    with pytest.raises(ValueError, match=r"2 of 5 samples cannot be used, the limit is 1: image 'broken.*'dark.png': it is"):
        read(folder, most_skipped=1)


def test_nothing_to_read_is_an_error(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no images"):
        read(tmp_path / "empty")
    with pytest.raises(ValueError, match="does not exist"):
        read(tmp_path / "none")
    for path in folder.rglob("*.[pP]*"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="3 of 3 samples cannot be used"):
        read(folder, most_skipped=100)


def test_texts_are_cut_into_pieces_of_like_length(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("abcdefghij", "x", "xyz")))
    found = read_pieces(TextReader(tmp_path), lambda text: np.frombuffer(text.encode(), np.uint8).astype(np.int32), 4)
    assert [bytes(piece.astype(np.uint8)).decode() for piece in found.samples] == ["abcd", "efg", "hij", "xyz"]
    assert found.keys[0] == found.keys[2] != found.keys[3] and found.skipped == ["text 1: 1 tokens are too few"]
    with pytest.raises(ValueError, match="none of 3 texts has two tokens"):
        read_pieces(TextReader(tmp_path), lambda text: np.zeros(1, np.int32), 4)


@pytest.mark.parametrize("length, longest, sizes", [(4, 4, [4]), (5, 4, [3, 2]), (9, 4, [3, 3, 3]), (1, 4, [1])])
def test_no_piece_is_a_stub(length: int, longest: int, sizes: list[int]) -> None:
    assert [len(piece) for piece in pieces_of(np.arange(length), longest)] == sizes
