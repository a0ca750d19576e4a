"""Named sizes, and the tied table."""

import pytest
import torch

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
