"""Samples become batches: one view in use, drawn views in training, each a pure function of its generator."""

from typing import Any

import numpy as np
import pytest
import torch

from calico.agent.perceiver.inputs import CLS, PAD, SEP, decode_bytes
from calico.agent.perceiver.samples import CloudInput, PictureInput, SampleInput, SoundInput, TextInput, rotation

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(256, size=shape, dtype=np.uint8) for shape in ((32, 32, 3), (20, 50, 3), (64, 48, 3))]
SOUNDS = [RNG.normal(size=n).astype(np.float32) for n in (100, 400, 2000)]
CLOUDS = [RNG.normal(size=(n, 6)).astype(np.float32) for n in (50, 700)]
TEXTS = ["short", "a much longer text " * 20]


@pytest.mark.parametrize("fit, samples, shape", [
    (PictureInput(side=16), PICTURES, (3, 3, 16, 16)),
    (SoundInput(samples=500), SOUNDS, (3, 500)),
    (CloudInput(points=64), CLOUDS, (2, 64, 6)),
    (CloudInput(points=64, dims=3, turn="vertical"), CLOUDS, (2, 64, 3)),
    (TextInput(positions=200), TEXTS, (2, 200)),
])
def test_views_are_drawn_in_training_only(fit: SampleInput, samples: Any, shape: tuple[int, ...]) -> None:
    plain, again = fit(samples), fit(samples)
    assert plain["inputs"].shape == shape and torch.equal(plain["inputs"], again["inputs"])
    one, same, other = (fit(samples, np.random.default_rng(seed))["inputs"] for seed in (1, 1, 2))
    assert one.shape == shape and torch.equal(one, same) and not torch.equal(one, other)
    assert one.dtype == plain["inputs"].dtype == (torch.int64 if isinstance(fit, TextInput) else torch.float32)


def test_a_picture_is_normalised_and_its_middle_kept() -> None:
    fit = PictureInput(side=4, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, 2:6] = 255
    assert torch.equal(fit([picture])["inputs"], torch.ones(1, 3, 4, 4))
    exact = RNG.integers(256, size=(4, 4, 3), dtype=np.uint8)
    torch.testing.assert_close(fit([exact])["inputs"][0], torch.from_numpy(exact).movedim(2, 0) / 127.5 - 1)


def test_mirroring_can_be_left_out() -> None:
    picture = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)

    def views(mirror: bool) -> set[bytes]:
        fit = PictureInput(side=8, shift=0, light=0.0, mirror=mirror)
        return {fit([picture], np.random.default_rng(i))["inputs"].numpy().round(3).tobytes() for i in range(20)}

    assert len(views(False)) == 1 and len(views(True)) == 2


def test_a_sound_is_centred_and_a_long_one_cut() -> None:
    fit = SoundInput(samples=10)
    short, long = np.ones(4, np.float32), np.arange(20, dtype=np.float32)
    assert fit([short, long])["inputs"].tolist() == [[0, 0, 0, 1, 1, 1, 1, 0, 0, 0], list(range(5, 15))]
    moved = [SoundInput(samples=10, loudness=0.0)([short, long], np.random.default_rng(i))["inputs"] for i in range(50)]
    assert {int(m[0].nonzero()[0]) for m in moved} == set(range(7))             # wherever it fits
    assert {int(m[1, 0]) for m in moved} == set(range(11)) and all((m[1].diff() == 1).all() for m in moved)


def test_a_cloud_is_centred_scaled_and_turned_with_its_normals() -> None:
    cloud = np.concatenate([CLOUDS[1][:, :3] * 7 + 3, CLOUDS[1][:, :3]], axis=1)
    plain = CloudInput(points=700, turn="none")([cloud])["inputs"][0]
    assert plain[:, :3].mean(dim=0).abs().max() < 1e-5 and plain[:, :3].norm(dim=1).max() == pytest.approx(1, abs=1e-5)
    fit = CloudInput(points=700, jitter=0.0, turn="any")
    turned = fit([cloud], np.random.default_rng(0))["inputs"][0]
    angles = torch.nn.functional.cosine_similarity(turned[:, :3], turned[:, 3:] - turned[:, 3:].mean(dim=0))
    assert angles.min() > 0.999                                                # normals turn as places do
    with pytest.raises(ValueError, match="3 numbers per point, this model reads 6"):
        fit([cloud[:, :3]])


def test_a_cloud_turned_to_its_axes_does_not_know_how_it_lay() -> None:
    cloud = RNG.normal(size=(300, 6)).astype(np.float32) ** 2 * [3, 2, 1, 1, 1, 1]
    fit = CloudInput(points=300)
    upright = fit([cloud])["inputs"][0]
    spread = upright[:, :3].square().mean(dim=0)
    assert spread[0] > spread[1] > spread[2] and (upright[:, :3] ** 3).sum(dim=0).min() > 0
    for i in range(3):
        turned = rotation("any", np.random.default_rng(i))
        lying = np.concatenate([cloud[:, :3] @ turned.T, cloud[:, 3:] @ turned.T], axis=1)
        torch.testing.assert_close(fit([lying])["inputs"][0], upright, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("turn", ["none", "vertical", "any"])
def test_rotations_are_rotations(turn: str) -> None:
    made = [rotation(turn, np.random.default_rng(i)) for i in range(20)]
    for matrix in made:
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-5)
        assert np.linalg.det(matrix) == pytest.approx(1, abs=1e-5)
    upright = [np.allclose(matrix[2], [0, 0, 1]) for matrix in made]
    assert all(upright) if turn != "any" else not any(upright)


def test_texts_are_padded_cut_and_counted() -> None:
    fit = TextInput(positions=200)
    hidden = TextInput(positions=200, hidden=0.5)(["one two three four"], np.random.default_rng(0))["inputs"][0]
    assert sum(word in decode_bytes(hidden.tolist()) for word in ("one", "two", "three", "four")) == 2
    batch = fit(["häh", "x" * 500])
    ids, mask = batch["inputs"], batch["mask"]
    assert mask.sum(dim=1).tolist() == [6, 200] and (ids[0, 6:] == PAD).all()
    assert ids[0, 0] == CLS and ids[0, 5] == SEP and decode_bytes(ids[0].tolist()) == "häh"
    assert fit(["x"])["inputs"].shape == (1, 128)                              # few different lengths
    assert fit.too_long(["x" * 198, "x" * 199, "ä" * 100]) == 2
    digits = "".join(f"{i:04d}" for i in range(100))
    starts = {decode_bytes(fit([digits], np.random.default_rng(i))["inputs"][0].tolist())[:8] for i in range(20)}
    assert len(starts) > 5 and decode_bytes(fit([digits])["inputs"][0].tolist()).startswith("00000001")
