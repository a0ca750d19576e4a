"""What AdamW decays, and the schedule of its rate."""

import pytest
import torch

from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.embedding import EmbeddingConfig
from calico.agent.model import Model, ModelConfig
from calico.agent.training.optimizer import MuonWithAdamW, OptimizerConfig, build_optimizer, equalized, learning_rate
from calico.agent.training.optimizer_state import named_state, restore_optimizer
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


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 8, 8)])
def test_equalized_matrices_have_singular_values_near_one_and_the_same_directions(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    given = torch.randn(shape)
    u, _, v = torch.linalg.svd(given, full_matrices=False)
    found = equalized(given)
    values = torch.linalg.svdvals(found)
    assert found.shape == given.shape and values.min() > 0.5 and values.max() < 1.3
    assert torch.linalg.matrix_norm(found - u @ v).max() < 0.4 * torch.linalg.matrix_norm(u @ v).max()


def test_muon_moves_matrices_and_adamw_the_rest_as_alone() -> None:
    """The parameters that are no matrices move exactly as under AdamW; a step of Muon is of AdamW's size; state is restored."""
    def trained(kind: str, steps: int) -> tuple[Model, torch.optim.Optimizer]:
        torch.manual_seed(1)
        config = ModelConfig(embedding=EmbeddingConfig(patch_channels=4), backbone=DecoderConfig(width=32, depth=1))
        model = Model(config, Vocabulary(VocabularyConfig(text=300)))
        optimizer = build_optimizer(model, OptimizerConfig(kind=kind, learning_rate=1e-2, weight_decay=0))  # type: ignore[arg-type]
        torch.manual_seed(2)
        for _ in range(steps):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        return model, optimizer

    (plain, _), (muon, optimizer), (start, _) = trained("adamw", 3), trained("muon", 3), trained("muon", 0)
    assert isinstance(optimizer, MuonWithAdamW)
    matrices = {id(parameter) for group in optimizer.param_groups if "momentum" in group for parameter in group["params"]}
    moved = {True: 0, False: 0}
    for (name, one), other, before in zip(muon.named_parameters(), plain.parameters(), start.parameters(), strict=True):
        moved[id(one) in matrices] += 1
        if id(one) in matrices:
            ratio = (one - before).square().mean().sqrt() / (other - before).square().mean().sqrt()
            assert name.endswith("weight") and 0.05 < ratio < 1
        else:
            assert torch.equal(one, other), name
    assert moved[True] == 5 and moved[False] > 5
    flat = named_state(optimizer, muon)
    again, fresh = trained("muon", 0)
    restore_optimizer(fresh, again, flat)
    assert all(torch.equal(value, flat[name]) for name, value in named_state(fresh, again).items()) and len(flat) > 10
