"""What a Perceiver reads: bytes, positions, blocks, and the order of every channel."""

import math
from typing import Any

import pytest
import torch

from calico.agent.mel import mel_filters
from calico.agent.perceiver.fourier import fourier, fourier_cells, fourier_grid
from calico.agent.perceiver.inputs import (
    MASK,
    AudioConfig,
    ImageConfig,
    LabelConfig,
    LearnedPixels,
    Mel,
    MelConfig,
    Mixture,
    MixtureConfig,
    PatchesConfig,
    PointsConfig,
    ReaderConfig,
    Text,
    TextConfig,
    build_reader,
    decode_bytes,
    depth_to_space,
    encode_bytes,
    hashes,
    pad_bytes,
    pad_same,
    space_to_depth,
)

CPU = torch.device("cpu")


def test_bytes_are_shifted_by_six_and_come_back() -> None:
    ids = encode_bytes("Aé")
    assert ids == [4, 65 + 6, 0xC3 + 6, 0xA9 + 6, 5]
    assert encode_bytes("A", cls_sep=False) == [71]
    assert decode_bytes([*ids, MASK]) == "Aé"
    assert decode_bytes([0xC3 + 6]) == "\ufffd"


def test_bytes_are_those_of_transformers() -> None:
    tokenizer = pytest.importorskip("transformers").PerceiverTokenizer()
    for text in ("This is an incomplete sentence where some words are missing.", "naïve \u2603"):
        assert encode_bytes(text) == tokenizer(text)["input_ids"]


def test_texts_of_several_lengths_are_padded_on_the_right() -> None:
    ids, mask = pad_bytes([[7, 8, 9], [10]])
    assert ids.tolist() == [[7, 8, 9], [10, 0, 0]]
    assert mask.tolist() == [[True] * 3, [True, False, False]]


def test_fourier_features_are_positions_then_sines_then_cosines() -> None:
    made = fourier(torch.tensor([[0.5, -0.25]]), bands=2, resolution=(4, 12))      # frequencies 1, 2 and 1, 6
    angles = [math.pi * a for a in (0.5, 1.0, -0.25, -1.5)]
    expected = [0.5, -0.25, *map(math.sin, angles), *map(math.cos, angles)]
    torch.testing.assert_close(made, torch.tensor([expected]))


def test_a_grid_has_both_ends_and_chosen_cells_have_not() -> None:
    assert fourier_grid((2, 3), 1, (2, 2), CPU)[:, :2].tolist() == [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]]
    chosen = fourier_cells(torch.tensor([5, 0]), (2, 4), 1, (2, 2))
    assert chosen[:, :2].tolist() == [[0.0, -0.5], [-1.0, -1.0]]


def test_a_grid_is_built_once_and_serves_training_after_inference() -> None:
    with torch.inference_mode():
        first = fourier_grid((5,), 3, (7,), CPU)
    assert fourier_grid((5,), 3, (7,), CPU) is first
    weight = torch.ones(7, requires_grad=True)
    (first @ weight).sum().backward()       # fails for a tensor of inference mode


def test_blocks_are_frame_then_row_then_column_then_colour() -> None:
    frames = torch.arange(4 * 2 * 4 * 6.0).view(1, 4, 2, 4, 6)
    blocks = space_to_depth(frames, (2, 2, 3))
    assert blocks.shape == (1, 2, 2, 2, 2 * 2 * 3 * 2)
    by_hand = [frames[0, 2 + t, c, 2 + h, 3 + w] for t in range(2) for h in range(2) for w in range(3) for c in range(2)]
    assert blocks[0, 1, 1, 1].tolist() == [float(x) for x in by_hand]
    with pytest.raises(ValueError, match="4 frames of 4x6 do not split into blocks of 1 frames of 4x4"):
        space_to_depth(frames, (1, 4, 4))


def test_same_padding_is_tensorflows() -> None:
    assert pad_same(torch.zeros(1, 1, 224, 113), 7, 2).shape == (1, 1, 224 + 5, 113 + 6)
    padded = pad_same(torch.ones(1, 1, 4, 4), 3, 2)[0, 0]
    assert padded[0, 0] == 1 and padded[-1].sum() == 0      # the odd zero is behind


@pytest.mark.parametrize("padding, tokens", [("even", 55 * 55), ("same", 56 * 56)])
def test_the_convolution_keeps_a_16th_of_the_pixels(padding: str, tokens: int) -> None:
    reader = build_reader(ImageConfig(kind="conv", size=(56, 56), padding=padding)).eval()  # type: ignore[arg-type]
    assert reader(torch.zeros(1, 3, 224, 224)).shape == (1, tokens, 322)


@pytest.mark.parametrize("config, shape, elements, channels", [
    (TextConfig(), (2, 9), 9, 768),
    (ImageConfig(), (2, 3, 8, 6), 48, 261),
    (ImageConfig(kind="conv1x1", size=(8, 6)), (2, 3, 8, 6), 48, 512),
    (ImageConfig(kind="stem", size=(2, 3), bands=4), (2, 3, 8, 12), 6, 128 + 18),
    (PatchesConfig(), (2, 3, 3, 8, 12), 3 * 2 * 3, 243),
    (PatchesConfig(block=(2, 1, 1), channels=27, bands=64, resolution=(8, 6), project=64), (2, 2, 27, 8, 6), 48, 322),
    (PatchesConfig(block=(1, 4, 4), bands=4, resolution=(2, 3)), (2, 3, 8, 12), 6, 48 + 18),      # pictures without a time
    (AudioConfig(), (2, 64), 4, 401),
    (PointsConfig(), (2, 10, 3), 10, 387),
    (LabelConfig(), (2, 700), 1, 700),
])
def test_published_widths(config: ReaderConfig, shape: tuple[int, ...], elements: int, channels: int) -> None:
    raw = torch.randint(262, shape) if isinstance(config, TextConfig) else torch.randn(shape)
    reader = build_reader(config)
    made = reader(raw)
    assert made.shape == (2, elements, channels) and reader.channels == channels
    assert not torch.equal(made[0], made[1])


def test_readers_that_are_not_published() -> None:
    assert build_reader(TextConfig(width=16, grams=(2, 5), stride=4))(torch.randint(262, (2, 10))).shape == (2, 3, 16)
    assert build_reader(PointsConfig(bands=4, extra=3))(torch.randn(2, 10, 6)).shape == (2, 10, 27 + 3)
    mel = build_reader(MelConfig(rate=8000, window=256, hop=80, mels=40, stack=2, bands=4))
    assert mel(torch.randn(2, 1600)).shape == (2, 10, 2 * 40 + 9) and mel.channels == 89


def test_a_byte_reaches_the_grams_that_hold_it_and_no_others() -> None:
    reader = Text(TextConfig(width=8, positions=64, grams=(2, 6), stride=4, buckets=1 << 16))
    ids = torch.randint(6, 262, (1, 64))
    changed = ids.clone()
    changed[0, 30] = (ids[0, 30] - 5) % 256 + 6
    differs = (reader(ids) != reader(changed)).any(dim=2)[0].nonzero()[:, 0].tolist()
    assert differs == [7, 8]                              # bytes 30 to 35 end a gram with byte 30: elements 7 and 8
    mask = torch.arange(64)[None] < 29
    elements = reader.elements(mask)
    assert elements is not None and elements[0].tolist() == [True] * 8 + [False] * 8 and reader.elements(None) is None


def test_equal_words_have_equal_hashes_wherever_they_stand() -> None:
    ids = torch.tensor([encode_bytes("the cat, the dog", cls_sep=False)])
    short, long = hashes(ids, (3, 5), 1000)
    assert short[0, 2] == short[0, 11] and long[0, 4] != long[0, 13]         # "the"; "the c", "the d"
    assert short.min() >= 0 and short.max() < 1000 <= long.min() and long.max() < 2000
    assert hashes(ids[:, 9:12], (3,), 1000)[0][0, 2] == short[0, 11]


@pytest.mark.parametrize("wrong", [{"grams": (1, 3)}, {"stride": 0}])
def test_grams_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="grams=.* stride="):
        TextConfig(**wrong)


def test_a_tone_stands_in_its_band_however_loud() -> None:
    reader = Mel(MelConfig(rate=8000, window=256, hop=80, mels=40, stack=1, bands=1))
    tones = [torch.sin(2 * math.pi * hertz * torch.arange(4000) / 8000) for hertz in (300.0, 1000.0, 3000.0)]
    made = reader(torch.stack(tones))[:, 10, :40]
    loudest = made.argmax(dim=1).tolist()
    filters = mel_filters(8000, 256, 40, CPU)
    assert loudest == [int(filters[round(hertz * 256 / 8000)].argmax()) for hertz in (300, 1000, 3000)]
    noise = torch.randn(1, 4000)
    assert reader(noise)[..., :40].std() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(reader(100 * noise), reader(10 * noise), atol=1e-3, rtol=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(reader(noise), reader(noise.clone()))
    assert (filters.sum(dim=0) > 0).all() and (filters >= 0).all() and filters.max() <= 1


def test_learned_positions_are_interpolated_for_another_size() -> None:
    reader = LearnedPixels(ImageConfig(kind="conv1x1", size=(4, 6)))
    assert reader.positions_for((4, 6)) is reader.positions
    with torch.no_grad():
        reader.positions[:] = torch.linspace(0, 1, 6).repeat(4)[:, None]       # rises with the column, alike in each row
    wide = reader.positions_for((4, 12))[:, 0].view(4, 12)
    assert (wide.diff(dim=1) > 0).all() and torch.allclose(wide[0], wide[3], atol=1e-6)


@pytest.mark.parametrize("config, raw, message", [
    (TextConfig(positions=4), torch.zeros(1, 5, dtype=torch.long), "5 bytes does not fit the model's 4 positions"),
    (AudioConfig(), torch.zeros(1, 33), "33 samples of sound do not split into patches of 16"),
    (PatchesConfig(block=(2, 1, 1), resolution=(4, 4)), torch.zeros(1, 4, 3, 4, 4), "4 frames came, this model reads 2"),
])
def test_input_that_does_not_fit_is_named(config: ReaderConfig, raw: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_reader(config)(raw)


MIXTURE = MixtureConfig(modalities={"label": LabelConfig(labels=5), "audio": AudioConfig(patch=4, bands=1, resolution=8)},
                        mask_probs={"label": 0.5})


def test_modalities_follow_their_names_and_are_filled_up() -> None:
    mixture = Mixture(MIXTURE)
    assert mixture.channels == 7 + 4
    inputs = {"label": torch.randn(300, 5), "audio": torch.randn(300, 8)}
    made = mixture(inputs)
    assert made.shape == (300, 2 + 1, 11)
    assert torch.equal(made[:, 0, :4], inputs["audio"][:, :4])
    assert torch.equal(made[7, 1, 7:], mixture.padding["audio"][0])
    masked = (made[:, 2] == mixture.masks["label"]).all(dim=1)        # in training about half of the labels
    assert 100 < masked.sum() < 200
    assert torch.equal(made[~masked][:, 2, :5], inputs["label"][~masked])
    assert (mixture.eval()(inputs)[:, 2] == mixture.masks["label"]).all()


def test_a_missing_modality_is_named() -> None:
    with pytest.raises(ValueError, match="the model reads audio, label; label, video came"):
        Mixture(MIXTURE)({"label": torch.zeros(1, 5), "video": torch.zeros(1)})


def test_blocks_go_back_to_where_they_were() -> None:
    frames = torch.rand(2, 4, 3, 6, 10)
    for block in ((1, 1, 1), (2, 3, 5), (4, 2, 1)):
        torch.testing.assert_close(depth_to_space(space_to_depth(frames, block), block), frames)
