"""Named sizes, and the tied table."""

import pytest
import torch

from calico.agent.model import SIZES, Model, matmul_flops_per_token, named_size, on_meta
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
