"""What AdamW decays, and the schedule of its rate."""

import pytest

from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.embedding import EmbeddingConfig
from calico.agent.model import Model, ModelConfig
from calico.agent.training.optimizer import OptimizerConfig, build_optimizer, learning_rate
from calico.tokenizers.vocabulary import Vocabulary, VocabularyConfig


def test_matrices_are_decayed_and_tables_and_vectors_are_not() -> None:
    config = ModelConfig(embedding=EmbeddingConfig(patch_channels=4, sounds=True), backbone=DecoderConfig(width=32, depth=1))
    model = Model(config, Vocabulary(VocabularyConfig(text=300)))
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.1))
    decay = {names[parameter]: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert decay.keys() == set(names.values())
    tables = {f"embedding.{name}.weight" for name in ("table", "rows", "columns", "positions", "moments")}
    vectors = {name for name, parameter in model.named_parameters() if parameter.ndim == 1}
    assert {name for name, value in decay.items() if value == 0} == tables | vectors
    assert {value for name, value in decay.items() if name not in tables | vectors} == {0.1}


def test_the_rate_rises_then_falls_to_its_final_fraction() -> None:
    config = OptimizerConfig(learning_rate=1.0, final_share=0.1, warmup_steps=10)
    rates = [learning_rate(config, step, 110) for step in range(110)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1 and rates[60] == pytest.approx(0.55) and rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert all(later <= earlier for earlier, later in zip(rates[9:], rates[10:], strict=False))
