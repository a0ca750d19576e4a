"""Batches for the encoders: shapes, ranges, views that follow from the generator, and vectors that ignore padding."""

from typing import Any

import numpy as np
import pytest
import torch

from calico.agent.data2vec import encoders
from calico.agent.data2vec.batches import Inputs, picture, pooled, text_vocabulary
from calico.tokenizers.text import TextTokenizer

SMALL: dict[str, Any] = {"width": 32, "depth": 1, "heads": 2, "feedforward": 48}


def vision() -> Inputs:
    config = encoders.VisionEncoderConfig(**SMALL, image_size=8, patch_size=4, layer_scale=1.0)
    return Inputs(encoders.VisionEncoder(config).eval())


def speech() -> Inputs:
    config = encoders.SpeechEncoderConfig(**SMALL, sample_rate=1000, conv_channels=(8, 8), conv_kernels=(10, 3),
                                          conv_strides=(5, 2), position_layers=1, position_groups=2)
    return Inputs(encoders.SpeechEncoder(config).eval(), seconds=0.5)


def text() -> Inputs:
    tokenizer = TextTokenizer.train(["a good film", "a bad film"] * 20, 270)
    config = encoders.TextEncoderConfig(**SMALL, max_length=6, **text_vocabulary(tokenizer))
    return Inputs(encoders.TextEncoder(config).eval(), tokenizer)


def test_a_picture_of_the_right_size_stays_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    x = picture(pixels, 8, None)
    assert x.shape == (3, 8, 8) and x.dtype == torch.float32
    np.testing.assert_allclose((x.permute(1, 2, 0).numpy() + 1) * 127.5, pixels, atol=1e-3)


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (5, 5), (1, 9)])
def test_other_pictures_give_their_middle_square_or_a_crop(shape: tuple[int, int]) -> None:
    pixels = np.zeros((*shape, 3), np.uint8)
    rows, columns = shape
    side = min(shape)
    pixels[(rows - side) // 2:(rows + side) // 2 + 1, (columns - side) // 2:(columns + side) // 2 + 1] = 255
    assert float(picture(pixels, 8, None).mean()) > 0.99
    view = picture(pixels, 8, np.random.default_rng(0))
    assert view.shape == (3, 8, 8) and float(view.abs().max()) <= 1.001
    torch.testing.assert_close(view, picture(pixels, 8, np.random.default_rng(0)))


def test_views_differ_and_half_of_them_are_mirrored() -> None:
    pixels = np.tile(np.arange(8, dtype=np.uint8)[None, :, None] * 30, (8, 1, 3))     # brighter to the right
    rng = np.random.default_rng(0)
    slopes = [float((x[..., -1] - x[..., 0]).mean()) for x in (picture(pixels, 8, rng) for _ in range(60))]
    assert 15 < sum(slope < 0 for slope in slopes) < 45
    assert len({round(slope, 4) for slope in slopes}) > 5


def test_sounds_are_cut_padded_and_standardised() -> None:
    inputs = speech()
    waveforms, lengths = inputs([np.ones(100, np.float32) * 3 + np.arange(100) % 2, np.random.randn(2000)])
    assert lengths.tolist() == [100, 500]                       # half a second at 1000 Hz
    assert not waveforms[0, 100:].any()
    assert float(waveforms[0, :100].mean()) == pytest.approx(0, abs=1e-5)
    assert float(waveforms[1].std()) == pytest.approx(1, abs=0.01)
    long = np.arange(2000, dtype=np.float32)
    starts = [float(inputs([long], np.random.default_rng(seed))[0][0, 0]) for seed in range(4)]
    assert np.ptp(starts) < 1e-4                                # standardised: a straight line looks the same anywhere
    assert inputs.problem(long) is None
    assert "too short" in str(inputs.problem(long[:15]))


def test_sounds_in_training_are_played_faster_and_slower_but_stay_long_enough() -> None:
    inputs = speech()
    assert isinstance(inputs.encoder, encoders.SpeechEncoder)
    sound, shortest = np.sin(np.arange(300) / 5).astype(np.float32), inputs.encoder.config.samples(2)
    waveforms, lengths = inputs([sound] * 40 + [sound[:shortest]] * 20, np.random.default_rng(0))
    assert 273 <= lengths[:40].min() < 280 and 325 < lengths[:40].max() <= 333
    assert lengths[40:].min() == shortest and lengths[40:].max() > shortest
    for row, length in zip(waveforms[:40], lengths[:40].tolist(), strict=True):   # as many waves, each longer or shorter
        assert abs(int((row[:length - 1] * row[1:length] < 0).sum()) - 19) <= 1
    assert inputs([sound])[1].tolist() == [300]


def test_texts_are_ids_behind_the_padding() -> None:
    inputs = text()
    assert inputs.text is not None
    (ids,) = inputs(["a good film and more of it than fits", "a", np.array([4, 5])])
    assert ids.shape == (3, 6) and ids[1, 1:].eq(0).all() and ids[2].tolist() == [5, 6, 0, 0, 0, 0]
    assert ids[0].tolist() == (inputs.text.encode("a good film and more of it than fits")[:6] + 1).tolist()
    assert isinstance(inputs.encoder, encoders.TextEncoder)
    assert inputs.encoder.config.mask == inputs.text.size + 1 == inputs.encoder.config.vocab_size - 1
    assert inputs.problem("a good film") is None and "too short" in str(inputs.problem("a"))


def test_hidden_pieces_are_a_share_of_the_real_ones_in_views_only() -> None:
    plain = text()
    hiding = Inputs(plain.encoder, plain.text, hidden=0.3)
    texts = ["a bad", "a"] * 400          # that fit: longer ones are seen in stretches
    assert isinstance(plain.encoder, encoders.TextEncoder)
    mask, (whole,), (view,) = plain.encoder.config.mask, hiding(texts), hiding(texts, np.random.default_rng(0))
    assert torch.equal(whole, plain(texts)[0]) and torch.equal(view, hiding(texts, np.random.default_rng(0))[0])
    assert torch.equal((view == 0), (whole == 0)) and torch.equal(view[view != mask], whole[view != mask])
    assert abs(float((view == mask).sum() / (whole != 0).sum()) - 0.3) < 0.05


def test_a_text_encoder_needs_its_own_tokenizer() -> None:
    inputs = text()
    with pytest.raises(ValueError, match="its tokenizer is not known"):
        Inputs(inputs.encoder)


@pytest.mark.parametrize("make, samples", [
    (vision, [np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 200, np.uint8)]),
    (text, ["a good film", "bad"])])
@torch.no_grad()
def test_a_samples_vector_does_not_depend_on_its_neighbours(make: Any, samples: list[Any]) -> None:
    inputs = make()
    together = pooled(inputs.encoder, inputs(samples))
    assert together.shape == (2, 32)
    for i, sample in enumerate(samples):
        torch.testing.assert_close(pooled(inputs.encoder, inputs([sample]))[0], together[i], atol=1e-5, rtol=0)
