"""Training in several processes: the losses of one process, whatever is shared how; real gloo ranks, forked from the test."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.backbones.perceiver import PerceiverConfig
from calico.agent.embedding import EmbeddingConfig
from calico.agent.model import Model, ModelConfig
from calico.agent.training.agent_loss import agent_loss, counts_of
from calico.agent.training.batch_part import ROWS, Span, part_of_batch, rand
from calico.agent.training.optimizer import OptimizerConfig
from calico.agent.training.ranks import ALONE, Ranks, check_same, chosen_shard, from_environment, joined_ranks
from calico.agent.training.trainer import Trainer, TrainingConfig
from calico.datasets.mixture import Batch, first_difference
from calico.scripts.common.local_ranks import on_local_ranks, rank_environment
from calico.tokenizers.tokens import Kind, Tokens

from ..conftest import VOCABULARY, stream

ROW_COUNT = 5
SKIPPING = DecoderConfig(width=32, depth=2, heads=2, context=16, stochastic_depth=0.2)
ADAMW = OptimizerConfig(warmup_steps=3)
MUON = OptimizerConfig(kind="muon", warmup_steps=3)
CONFIG = TrainingConfig(steps=6, precision="fp32", ema=0.9)


def batch(number: int, ranks: Ranks) -> Batch:
    """A rank's rows of a batch. Pictures are in the first rows alone, so that the last rank has none."""
    rows = [stream(16, 100 * number + row, patch_share=0.3 * (row < 2)) for row in range(ROW_COUNT)]
    mine = ranks.rows(ROW_COUNT)
    return Batch(Tokens.stack(rows[mine], VOCABULARY.pad), np.array([0] * (ROW_COUNT - 1) + [1])[mine])


def new_trainer(ranks: Ranks, config: TrainingConfig, optimizer: OptimizerConfig) -> Trainer[Model]:
    torch.manual_seed(1)
    shape = ModelConfig(embedding=EmbeddingConfig(observation_positions=48, patch_channels=4, vectors=True), backbone=SKIPPING)
    return Trainer(Model(shape, VOCABULARY), agent_loss(["cats", "dogs"]), optimizer, config, ranks=ranks, counts=counts_of)


def trained(ranks: Ranks, config: TrainingConfig, optimizer: OptimizerConfig) -> dict[str, Any]:
    """What a few steps give, as JSON: losses, the share of each source, which weights have optimiser state."""
    trainer, found = new_trainer(ranks, config, optimizer), []
    for step in range(config.steps):
        first = step * config.accumulate
        sums, norm = trainer.train_step([batch(first + number, ranks) for number in range(config.accumulate)])
        found.append([sums.loss.value, norm, *(sums.numbers[name].total for name in ("loss/cats", "loss/dogs", "share/dogs"))])
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    return {"steps": found, "tokens": trainer.tokens, "trained": sorted(names[one] for one in trainer.optimizer.state)}  # type: ignore[index]


def on_ranks(size: int, function: Callable[[Ranks], Any]) -> list[Any]:
    def rank() -> Any:
        with joined_ranks("cpu") as ranks:
            return function(ranks)

    return on_local_ranks(size, rank)


@pytest.mark.parametrize("config, optimizer", [
    (replace(CONFIG, shard="ddp", accumulate=2), ADAMW), (replace(CONFIG, shard="fsdp", recompute=True), MUON)],
    ids=["ddp", "fsdp"])
def test_two_ranks_have_the_losses_of_one(config: TrainingConfig, optimizer: OptimizerConfig) -> None:
    alone = trained(ALONE, config, optimizer)
    first, second = on_ranks(2, lambda ranks: trained(ranks, config, optimizer))
    assert first == second
    np.testing.assert_allclose(first["steps"], alone["steps"], rtol=1e-5)
    assert first["tokens"] == alone["tokens"] == 6 * config.accumulate * ROW_COUNT * 16
    # The patch block is trained though one rank saw no picture, the vector block is not: no rank saw a vector.
    assert first["trained"] == alone["trained"]
    assert any("patch_block" in name for name in first["trained"]) and not any("vector" in name for name in first["trained"])


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("shard", ["ddp", "fsdp"])
@pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["adamw", "muon"])
@pytest.mark.parametrize("more", [{}, {"accumulate": 2, "recompute": True}], ids=["plain", "accumulated"])
def test_fifty_steps_equal_those_of_one_process(size: int, shard: Any, optimizer: OptimizerConfig, more: Any) -> None:
    config = replace(CONFIG, steps=50, shard=shard, **more)
    alone = trained(ALONE, config, optimizer)
    for found in on_ranks(size, lambda ranks: trained(ranks, config, optimizer)):
        np.testing.assert_allclose([step[0] for step in found["steps"]], [step[0] for step in alone["steps"]], rtol=1e-5)


def test_recomputing_changes_no_gradient() -> None:
    kept, again = (trained(ALONE, replace(CONFIG, recompute=recompute), ADAMW) for recompute in (False, True))
    assert kept == again


def test_what_is_drawn_for_a_part_are_the_rows_of_what_is_drawn_for_all() -> None:
    torch.manual_seed(0)
    everything, following = torch.rand(3, 10, 2), torch.rand(2)
    torch.manual_seed(0)
    with part_of_batch({ROWS: Span(4, 3, 10), Kind.VECTOR: Span(1, 0, 1)}):
        mine = rand((3, 3, 2), torch.device("cpu"), of=ROWS, dim=1)
        nothing = rand((0,), torch.device("cpu"), of=Kind.VECTOR)           # which the other ranks have
        elsewhere = rand((1,), torch.device("cpu"), of=Kind.PATCH)
    assert torch.equal(mine, everything[:, 4:7]) and nothing.shape == (0,) and torch.equal(elsewhere, following[1:])


def test_a_sharded_model_is_measured_and_trained_in_turns() -> None:
    """What FSDP put together to measure must not be taken for the weights of the next step."""
    def measured(ranks: Ranks) -> list[float]:
        trainer, found = new_trainer(ranks, replace(CONFIG, shard="fsdp"), ADAMW), []
        for step in range(3):
            trainer.train_step([batch(step, ranks)])

            def evaluate(model: Model) -> dict[str, float]:
                torch.manual_seed(0)
                loss, _ = trainer.loss(model, batch(7, Ranks()))
                return {"loss": loss.value}     # type: ignore[union-attr]

            found.append(trainer.evaluated(evaluate)["loss"])
        return found

    first, second = on_ranks(2, measured)
    np.testing.assert_allclose(first, measured(ALONE), rtol=1e-5)
    assert first == second and len(set(first)) == 3


def test_rows_are_shared_out_and_no_rank_stays_without() -> None:
    assert [Ranks(rank, 3).rows(5) for rank in range(3)] == [slice(0, 1), slice(1, 3), slice(3, 5)]
    with pytest.raises(ValueError, match="data.batch_size=2 rows cannot be shared by 3 ranks; raise it to at least 3"):
        Ranks(0, 3).rows(2)


def test_fsdp_is_refused_for_a_backbone_without_blocks() -> None:
    shape = ModelConfig(backbone=PerceiverConfig(width=32, depth=2, heads=2, context=8, latents=3, prefixes=4))
    with pytest.raises(ValueError, match="training.shard=fsdp works with the backbone decoder, not perceiver; use training"):
        chosen_shard(Model(shape, VOCABULARY), "fsdp", Ranks(0, 2))
    assert chosen_shard(Model(shape, VOCABULARY), "auto", Ranks(0, 2)) == "ddp"


def test_half_an_environment_of_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in rank_environment(0, 1, 1):
        monkeypatch.delenv(name, raising=False)
    assert from_environment() == ALONE
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="WORLD_SIZE=4 is set, and RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not: start"):
        from_environment()
    for name, value in rank_environment(4, 4, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="RANK=4 and WORLD_SIZE=4 are not a rank and a number of ranks"):
        from_environment()


def test_ranks_that_differ_are_named() -> None:
    def compared(ranks: Ranks) -> str:
        check_same(ranks, first_difference, settings={"seed": 0})
        try:
            check_same(ranks, first_difference, data={"cats": "aa" if ranks.rank < 2 else "bb"})
        except ValueError as error:
            return str(error)
        return "nothing"

    texts = on_ranks(3, compared)
    assert len(set(texts)) == 1
    assert texts[0].startswith('rank 2 has other data than rank 0: cats is "bb" but was "aa"'), json.dumps(texts)
