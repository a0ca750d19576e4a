"""The training loop: resuming changes nothing, bad numbers never reach the weights, the log says what happened."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from calico.agent import checkpoint
from calico.agent.backbones import BackboneConfig
from calico.agent.backbones.decoder import Decoder, DecoderConfig
from calico.agent.embedding import EmbeddingConfig
from calico.agent.model import Model, ModelConfig
from calico.agent.training.optimizer import OptimizerConfig, learning_rate
from calico.agent.training.trainer import Report, Trainer, TrainingConfig
from calico.tokenizers.tokens import Tokens

from ..conftest import BACKBONES, VOCABULARY, stream

OPTIMIZER = OptimizerConfig(learning_rate=1e-2, warmup_steps=3)
CONFIG = TrainingConfig(steps=8, log_every=2, save_every=3, precision="fp32")


@dataclass(frozen=True)
class Made:
    tokens: Tokens
    source: np.ndarray


def batch(step: int, rows: int = 3) -> Made:
    """A pure function of the step; source 0 fills every row but the last."""
    tokens = Tokens.stack([stream(16, 100 * step + row) for row in range(rows)], VOCABULARY.pad)
    return Made(tokens, np.array([0] * (rows - 1) + [1]))


def batches(start: int) -> Iterator[Made]:
    return (batch(step) for step in range(start, 1000))


SKIPPING = DecoderConfig(width=32, depth=2, heads=2, context=16, stochastic_depth=0.2)


def new_trainer(config: TrainingConfig = CONFIG, backbone: BackboneConfig = SKIPPING) -> Trainer:
    torch.manual_seed(1)
    shape = ModelConfig(embedding=EmbeddingConfig(observation_positions=48, patch_channels=4), backbone=backbone)
    return Trainer(Model(shape, VOCABULARY), OPTIMIZER, config, ["cats", "dogs"])


def losses_of(trainer: Trainer, run: Path, start: int) -> list[float]:
    losses: list[float] = []
    trainer.run(batches(start), run, {}, {}, lambda report: losses.append(report.loss))
    return losses


@pytest.mark.parametrize("backbone", [SKIPPING, *BACKBONES[1:]], ids=lambda backbone: backbone.kind)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stop_and_resume_equals_no_stop_bit_for_bit(tmp_path: Path, precision: str, backbone: BackboneConfig) -> None:
    """Eight steps at once, against 3, a new process's worth of state, and resumed twice; stochastic depth is on."""
    config = replace(CONFIG, log_every=1, save_every=1, precision=precision)   # type: ignore[arg-type]
    whole = new_trainer(config, backbone)
    expected = losses_of(whole, tmp_path / "whole", 0)
    seen: list[float] = []
    for stop in (3, 5, 8):
        part = new_trainer(config, backbone)
        torch.rand(stop)                                        # whatever the process drew before must not matter
        if stop > 3:
            part.restore(checkpoint.load(tmp_path / "parts"))
        part.config = replace(config, steps=8)
        while part.step < stop:
            sums, counts, _ = part.train_step([batch(part.step)])
            seen.append(float(sums.double().sum() / counts.double().sum()))
        part.save(tmp_path / "parts", {}, {})
    assert seen == expected
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, dict(part.model.named_parameters())[name]), name


def test_accumulated_batches_equal_one_large_batch() -> None:
    """The loss is a mean over all targets of the step, however they are spread over batches."""
    small, large = new_trainer(), new_trainer()
    for trainer in (small, large):
        assert isinstance(trainer.model.backbone, Decoder)
        trainer.model.backbone.config = replace(trainer.model.backbone.config, stochastic_depth=0.0)
        trainer.model.embedding.eval()
    one, two = batch(0, 2), batch(1, 3)
    rows = [stream(16, 0), stream(16, 1), *(stream(16, 100 + row) for row in range(3))]
    joined = Made(Tokens.stack(rows, VOCABULARY.pad), np.array([0, 1, 0, 0, 1]))
    sums, counts, norm = small.train_step([one, two])
    sums_joined, counts_joined, norm_joined = large.train_step([joined])
    torch.testing.assert_close(counts, counts_joined)
    torch.testing.assert_close(sums, sums_joined, rtol=2e-2, atol=1e-2)    # patch positions are drawn per batch
    assert norm == pytest.approx(norm_joined, rel=0.1)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change() -> None:
    trainer = new_trainer()
    trainer.train_step([batch(0)])
    block = trainer.model.embedding.patch_block
    assert block is not None
    with torch.no_grad():
        block.out.bias[0] = torch.inf
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    with pytest.raises(FloatingPointError, match=r"loss of step 1 is not finite \(sources: cats, dogs\)"):
        trainer.train_step([batch(1)])
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())
    assert trainer.step == 1


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    trainer = new_trainer()
    trainer.model.embedding.table.weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(FloatingPointError, match="gradient of step 0 is not finite"):
        trainer.train_step([batch(0)])
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_sigterm_saves_the_step_under_way_and_the_run_continues(tmp_path: Path) -> None:
    trainer = new_trainer(replace(CONFIG, steps=500, save_every=500))

    def stopped_at_five() -> Iterator[Made]:
        for step, made in enumerate(batches(0)):
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            yield made

    with pytest.raises(KeyboardInterrupt):
        trainer.run(stopped_at_five(), tmp_path, {}, {})
    saved = checkpoint.load(tmp_path)
    assert saved.step == trainer.step == 6   # the step under way was finished
    again = new_trainer()
    again.restore(saved)
    assert again.step == trainer.step


def test_tensorboard_holds_the_figures(tmp_path: Path) -> None:
    reports: list[Report] = []
    trainer = new_trainer()
    trainer.run(batches(0), tmp_path, {"note": {"a": 1}}, {"tokenizer.model": b"x"}, reports.append)
    assert [report.step for report in reports] == [2, 4, 6, 8]
    assert reports[-1].tokens == 8 * 3 * 16
    assert reports[0].shares == {"cats": pytest.approx(2 / 3), "dogs": pytest.approx(1 / 3)}
    assert reports[-1].loss < reports[0].loss
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {
        "loss/all", "loss/cats", "loss/dogs", "share/cats", "share/dogs", "speed/tokens_per_second", "tokens",
        "optimizer/learning_rate", "optimizer/gradient_norm"}
    saved = checkpoint.load(tmp_path)
    assert (saved.step, saved.documents["note"], saved.files) == (8, {"a": 1}, {"tokenizer.model": b"x"})


def test_the_log_of_a_continued_run_has_each_step_once(tmp_path: Path) -> None:
    """Steps that were logged after the last save are logged again; the save's own step is kept."""
    config = replace(CONFIG, log_every=1)
    first = new_trainer(replace(config, steps=5))                     # as if killed after step 5: the last save is at 3
    first.run(batches(0), tmp_path, {}, {})
    (log,) = (tmp_path / "tensorboard").iterdir()
    log.rename(log.with_name("events.out.tfevents.0"))                # files are read in the order of their names
    again = new_trainer(config)
    again.restore(checkpoint.load(tmp_path / "checkpoints" / "step_00000003"))
    again.run(batches(3), tmp_path, {}, {})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss/all")] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_learning_rate_warms_up_and_decays() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=4, final_share=0.1)
    rates = [learning_rate(config, step, 104) for step in range(105)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0 and rates[54] == pytest.approx(0.55) and rates[104] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[4:], rates[5:], strict=False))


def test_what_cannot_be_compiled_says_so() -> None:
    with pytest.raises(ValueError, match="training.compile=true works with the backbone decoder, not perceiver"):
        new_trainer(replace(CONFIG, compile=True), BACKBONES[1])


@pytest.mark.parametrize("wrong, message", [({"steps": 0}, "training.steps=0"), ({"log_every": -1}, "log_every=-1")])
def test_wrong_settings(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**wrong)  # type: ignore[arg-type]
