"""data2vec's encoders: a subset of positions, padding, wrong input. Their outputs are compared in test_hugging_face.py."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from calico.agent.data2vec import encoders
from calico.agent.data2vec.encoders import Encoder, padding_bias, plain_attention, relative_index, select, standardize

SMALL: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "feedforward": 48}


def shaken(encoder: Encoder) -> Any:
    """In eval mode, with no parameter at its initial zero or one."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder.eval()


def vision(**options: Any) -> encoders.VisionEncoder:
    config = encoders.VisionEncoderConfig(**SMALL, image_size=32, patch_size=8, layer_scale=0.1, **options)
    return shaken(encoders.VisionEncoder(config))


def speech() -> encoders.SpeechEncoder:
    return shaken(encoders.SpeechEncoder(encoders.SpeechEncoderConfig(**SMALL, conv_channels=(8,) * 7, position_groups=4)))


def text() -> encoders.TextEncoder:
    return shaken(encoders.TextEncoder(encoders.TextEncoderConfig(**SMALL, vocab_size=40, max_length=16, mask=39)))


@torch.no_grad()
@pytest.mark.parametrize("positions", ["none", "shared", "per-layer"])
def test_kept_patches_see_each_other_and_nothing_else(positions: Any) -> None:
    encoder = vision(relative_positions=positions, absolute_positions=True)
    features = encoder.features(torch.randn(2, 3, 32, 32))
    kept = torch.tensor([[0, 3, 9, 15], [1, 2, -1, -1]])
    found = encoder.encode(features, kept=kept).hidden
    # the same by hand: every place takes part, and nobody may look at the others
    assert encoder.positions is not None
    x = torch.cat([(encoder.class_token + encoder.positions[0]).expand(2, 1, -1), features.x + encoder.positions[1:]], 1)
    seen = torch.zeros(2, 17, dtype=torch.bool)
    seen[0, [0, 1, 4, 10, 16]] = True
    seen[1, [0, 2, 3]] = True
    tables = list(encoder.tables) * (2 if positions == "shared" else 1) or [torch.zeros(52, 4)] * 2
    index = relative_index(4, 4, torch.device("cpu"))
    by_hand = encoder.transformer(x, [t[index].permute(2, 0, 1) + padding_bias(seen) for t in tables]).hidden
    torch.testing.assert_close(found[0], by_hand[0][seen[0]], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1, :3], by_hand[1][seen[1]], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_kept_beginning_of_a_text_is_that_text() -> None:
    encoder = text()
    ids = torch.randint(3, 39, (2, 9))
    ids[1, 6:] = 1
    kept = torch.tensor([[0, 1, 2, 3], [0, 1, 2, -1]])
    found = encoder.encode(encoder.features(ids), kept=kept).hidden
    torch.testing.assert_close(found[0], encoder(ids[:1, :4]).hidden[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1, :3], encoder(ids[1:, :3]).hidden[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_is_not_kept_of_a_sound_is_zero_to_the_position_convolutions() -> None:
    encoder = speech()
    features = encoder.features(torch.randn(1, 6000))
    kept = torch.tensor([[0, 1, 2, 7, 8]])
    found = encoder.encode(features, kept=kept).hidden
    zeroed = torch.zeros_like(features.x)
    zeroed[:, kept[0]] = features.x[:, kept[0]]
    x = encoder.norm(zeroed + encoder.convolve_positions(zeroed))[:, kept[0]]
    torch.testing.assert_close(found, encoder.transformer(x, [None, None]).hidden, atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_stands_in_padding_changes_nothing() -> None:
    encoder, lengths = speech(), torch.tensor([4000, 7000])
    sounds, noise = torch.randn(2, 2, 8000)
    noisy = torch.where(torch.arange(8000) < lengths[:, None], sounds, noise)
    torch.testing.assert_close(encoder(noisy, lengths).hidden[0, :12], encoder(sounds, lengths).hidden[0, :12])
    real = encoder.features(sounds, lengths).real
    assert real is not None and real.sum(1).tolist() == [12, 21]   # (samples - 400) // 320 + 1


def test_select_tells_fillers_and_padding_from_places() -> None:
    x = torch.arange(8.0).reshape(2, 4, 1)
    chosen, real = select(x, torch.tensor([[True] * 4, [True, True, False, False]]), torch.tensor([[1, 3], [0, 2]]))
    assert chosen.flatten().tolist() == [1, 3, 4, 6]
    assert real is not None and real.tolist() == [[True, True], [True, False]]
    assert select(x, None, torch.tensor([[1, 3], [0, 2]]))[1] is None


def test_standardize_ignores_padding() -> None:
    sounds = torch.tensor([[1.0, 3.0, 5.0, 7.0], [2.0, 4.0, 99.0, 99.0]])
    out = standardize(sounds, torch.tensor([4, 2]))
    torch.testing.assert_close(out[1], torch.tensor([-1.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(out[0], torch.tensor([-3.0, -1.0, 1.0, 3.0]) / 5**0.5)


def test_dropped_paths_leave_the_mean_and_spare_the_first_block() -> None:
    encoder = vision(drop_path=0.5)
    first, last = encoder.transformer.blocks
    x = torch.ones(4000, 1, 32)
    assert first.drop_path == 0
    drawn = last.train().branch(x, 0)
    assert last.scales is not None
    torch.testing.assert_close(drawn.mean(0)[0], last.scales[0], atol=0.1, rtol=0.1)
    assert set((drawn[:, 0, 0] / last.scales[0, 0]).round().tolist()) == {0, 2}


@pytest.mark.parametrize(("encoder", "inputs", "message"), [
    (vision, torch.zeros(1, 3, 32, 30), "sides that are multiples of 8; resize or crop"),
    (vision, torch.zeros(1, 4, 32, 32), r"expected \(batch, 3, height, width\)"),
    (speech, torch.zeros(1, 399), "the shortest of 399 samples, do not fit: expected .batch, samples., at least 400 each"),
    (text, torch.zeros(1, 17, dtype=torch.int64), "at most 16"),
    (text, torch.full((1, 3), 40), r"from 40 to 40 do not fit.*in \[0, 40\)"),
])
def test_wrong_input_is_refused(encoder: Any, inputs: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder().features(inputs)


@pytest.mark.parametrize(("config", "options", "message"), [
    (encoders.TextEncoderConfig, {"width": 30, "heads": 4}, "width=30 is not divisible by heads=4"),
    (encoders.TextEncoderConfig, {"dropout": 1.0}, "dropout=1.0"),
    (encoders.VisionEncoderConfig, {"image_size": 30}, "image_size=30 is not a multiple of patch_size=16"),
    (encoders.SpeechEncoderConfig, {"conv_kernels": (10, 3)}, "must be equally long, not 7, 2 and 7"),
])
def test_configs_that_cannot_be_built_are_refused(config: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**options)


@pytest.mark.parametrize("padded", [False, True])
def test_plain_attention_is_attention(padded: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, 9, 8, requires_grad=True) for _ in range(3))
    bias = padding_bias(torch.arange(9) < torch.tensor([[9], [4], [1]])) if padded else None
    mixed, expected = plain_attention(q, k, v, bias), F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    torch.testing.assert_close(mixed, expected)
    for mine, theirs in zip(torch.autograd.grad(mixed.square().sum(), (q, k, v)),
                            torch.autograd.grad(expected.square().sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
