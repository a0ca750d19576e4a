"""A step whose gradient is far larger than those before changes nothing, is told with its sources, and resumes exactly."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from calico.agent import checkpoint
from calico.agent.training.batch_part import Mean
from calico.agent.training.optimizer import OptimizerConfig
from calico.agent.training.spikes import FEWEST, REMEMBERED, Spikes, highest
from calico.agent.training.trainer import Trainer, TrainingConfig, TrainingReport

CONFIG = TrainingConfig(steps=60, log_every=10, save_every=100, precision="fp32", ema=0.9)
BROKEN = range(45, 48)      # steps whose labels are noise


def batch(step: int) -> dict[str, torch.Tensor]:
    """(32, 4) inputs and (32,) labels that a line separates; those of BROKEN steps are large and wrong."""
    rng = np.random.default_rng(step)
    inputs = torch.tensor(rng.normal(size=(32, 4)), dtype=torch.float32)
    labels = (inputs.sum(1) > 0).long()
    return {"inputs": inputs * 30, "labels": 1 - labels} if step in BROKEN else {"inputs": inputs, "labels": labels}


def loss_of(model: nn.Module, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
    losses = F.cross_entropy(model(given["inputs"]), given["labels"], reduction="none")
    return losses.mean(), {"loss/first half": Mean(losses[:16].sum().detach(), 16),
                           "loss/second half": Mean(losses[16:].sum().detach(), 16)}


def new_trainer(deviations: float = 6.0) -> Trainer[nn.Linear]:
    torch.manual_seed(0)
    optimizer = OptimizerConfig(learning_rate=0.1, final_share=1.0, warmup_steps=1, clip=0.0, skip_spikes=deviations)
    return Trainer(nn.Linear(4, 2), loss_of, optimizer, CONFIG)


def test_noise_in_the_labels_of_three_steps_is_left_out_and_told(tmp_path: Path) -> None:
    reports: list[TrainingReport] = []
    trainer = new_trainer()
    trainer.run(batch, tmp_path, {}, {}, on_report=reports.append)
    told = [text for report in reports for text in report.skipped]
    assert [int(text.split()[1]) for text in told] == list(BROKEN)
    assert all("half" in text and "its gradient norm is" in text for text in told)
    assert trainer.step == 60


def test_the_noise_would_have_done_harm() -> None:
    lost = {}
    for deviations in (0.0, 6.0):
        trainer = new_trainer(deviations)
        while trainer.step <= BROKEN[-1] + 5:            # AdamW goes on in the direction of the noise
            trainer.train_step([batch(trainer.step)])
        lost[deviations] = loss_of(trainer.model, batch(100))[0].item()
    assert lost[0.0] > 1.2 * lost[6.0], lost


def test_a_step_that_is_left_out_changes_neither_weights_nor_their_average() -> None:
    trainer = new_trainer()
    while trainer.step < BROKEN[0]:
        trainer.train_step([batch(trainer.step)])
    before = [tensor.clone() for net in (trainer.model, trainer.final) for tensor in net.state_dict().values()]
    trainer.train_step([batch(trainer.step)])
    assert trainer.step == BROKEN[1] and trainer.skipped
    after = [tensor for net in (trainer.model, trainer.final) for tensor in net.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("stop", [20, BROKEN[0], BROKEN[1], 55])
def test_stopped_and_continued_skips_the_same_steps(tmp_path: Path, stop: int) -> None:
    whole = new_trainer()
    whole.run(batch, tmp_path / "whole", {}, {})
    part = new_trainer()
    while part.step < stop:
        part.train_step([batch(part.step)])
    part.save(tmp_path / "run", {}, {})
    again = new_trainer()
    again.restore(checkpoint.load(tmp_path / "run"))
    again.run(batch, tmp_path / "run", {}, {})
    assert list(again.spikes.norms) == list(whole.spikes.norms) and len(whole.spikes.norms) == 60 - len(BROKEN)
    assert all(torch.equal(one, other) for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True))


def test_nothing_is_a_spike_at_first_and_what_is_usual_moves() -> None:
    spikes = Spikes(6)
    assert not any(spikes.sees(norm) for norm in [1e6] + [1.0] * (FEWEST - 1))
    for _ in range(REMEMBERED):
        spikes.sees(1.0)
    assert spikes.sees(1.1) and not spikes.sees(1.0)        # all were equal: anything above is one
    spread = Spikes(3)
    for number in range(REMEMBERED):
        spread.sees(1.0 + number % 2)
    assert not spread.sees(2.9) and spread.sees(3.2)         # mean 1.5, deviation 0.502
    assert not any(Spikes(0).sees(norm) for norm in (1.0, 1e9))


def test_the_highest_losses_come_first() -> None:
    assert highest({"a": 1.0, "b": 3.0, "c": 2.0, "d": 0.5}) == "b 3, c 2, a 1"
