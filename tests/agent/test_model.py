"""Named sizes, and the tied table."""

import pytest
import torch

from calico.agent.backbones import KINDS, BackboneConfig
from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.config_json import from_json, to_json
from calico.agent.model import SIZES, Model, matmul_flops_per_token, named_size, on_meta, smooth_rows
from calico.tokenizers.tokens import Kind
from calico.tokenizers.vocabulary import Vocabulary, VocabularyConfig

PAPER = Vocabulary(VocabularyConfig(layout="gato", text=32_000))
LAPTOP = Vocabulary(VocabularyConfig(text=2048))


@pytest.mark.parametrize("size, millions, vocabulary", [
    ("tiny", 1.4, LAPTOP), ("small", 5.5, LAPTOP), ("medium", 24.5, LAPTOP),
    ("gato-79m", 76.4, PAPER), ("gato-364m", 341.4, PAPER), ("gato-1.18b", 1084.4, PAPER),
])
def test_parameter_counts(size: str, millions: float, vocabulary: Vocabulary) -> None:
    """The paper's sizes stand 3 to 9 % under its own counts: rotary positions need no relative-position matrix."""
    assert on_meta(SIZES[size], vocabulary).parameter_count() / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("kind, size, millions", [
    ("perceiver", "tiny", 1.92), ("perceiver", "small", 7.71), ("perceiver", "medium", 34.59),
    ("perceiver-ar", "tiny", 1.58), ("perceiver-ar", "small", 6.11), ("perceiver-ar", "medium", 27.17),
    ("data2vec", "tiny", 1.57), ("data2vec", "small", 6.29), ("data2vec", "medium", 28.85),
])
def test_parameter_counts_of_other_backbones(kind: str, size: str, millions: float) -> None:
    """At the same width and depth: the decoder's layers have 10 width^2 each, a feed-forward without a gate makes it 12, the
    reading of the tokens adds 10 and Perceiver IO's query 12."""
    config = named_size(size, kind=kind)
    assert on_meta(config, LAPTOP).parameter_count() / 1e6 == pytest.approx(millions, abs=0.006)


def test_sizes_of_every_kind_have_the_decoders_width_depth_and_context() -> None:
    for name, size in SIZES.items():
        for kind in KINDS:
            made = named_size(name, kind=kind).backbone
            assert (made.kind, made.width, made.depth, made.heads, made.context) == (
                kind, size.backbone.width, size.backbone.depth, size.backbone.heads, size.backbone.context)
            assert from_json(BackboneConfig, to_json(made)) == made
    with pytest.raises(ValueError, match="backbone 'mamba' is unknown; choose one of decoder, perceiver, perceiver-ar"):
        named_size("tiny", kind="mamba")


def test_a_backbone_that_was_saved_without_a_kind_is_a_decoder() -> None:
    assert from_json(BackboneConfig, {"width": 64, "heads": 2}) == DecoderConfig(width=64, heads=2)


def test_the_table_is_input_and_output_at_once(model: Model) -> None:
    names = [name for name, _ in model.named_parameters()]
    assert "embedding.table.weight" in names
    assert not any("head" in name for name in names)
    hidden = model.embedding.table.weight[7]
    assert model.logits(hidden)[7] == model.logits(hidden, ids=torch.tensor([7]))[0]


def test_unknown_size_is_named() -> None:
    with pytest.raises(ValueError, match="'huge' is unknown; choose one of tiny, small"):
        named_size("huge")


def test_flops_of_a_plain_case() -> None:
    """tiny, half-context window: 10 d^2 matrices per block (4 attention, 4 up, 2 down) and the keys per query."""
    config = named_size("tiny", context=64)
    dense = matmul_flops_per_token(config, vocab_size=0)
    keys = (32 * 33 / 2 + 32 * 32) / 64
    assert dense == 2 * 4 * (10 * 128**2 + 2 * keys * 128)


def test_bins_of_real_values_begin_as_smooth_curves() -> None:
    """Neighbouring bins are alike, distant ones are not; their deviation is that of all other rows."""
    rows = smooth_rows(1024, 128)
    alike = torch.nn.functional.cosine_similarity
    assert alike(rows[:-1], rows[1:]).min() > 0.98
    assert alike(rows[:512], rows[512:]).abs().mean() < 0.5
    assert rows.std().item() == pytest.approx(0.02, rel=0.05)
    start, stop = LAPTOP.range_of(Kind.CONTINUOUS)
    table = Model(SIZES["tiny"], LAPTOP).embedding.table.weight.detach()
    assert alike(table[start : stop - 1], table[start + 1 : stop]).min() > 0.98
    assert alike(table[: start - 1], table[1:start]).abs().max() < 0.6
