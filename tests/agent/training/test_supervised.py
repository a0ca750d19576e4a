"""The supervised loop: resuming changes nothing, the clock can end it, averages and held-out figures are what they say."""

import math
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from calico.agent import checkpoint
from calico.agent.training.optimizer import OptimizerConfig
from calico.agent.training.supervised import Batch, Progress, Supervised, SupervisedConfig, shuffled

OPTIMIZER = OptimizerConfig(learning_rate=1e-2, warmup_steps=2)
POINTS = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
LABELS = (POINTS[:, 0] > 0).long()


class Net(nn.Sequential):
    """Dropout and batch norm: random numbers and buffers must come back, too."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        super().__init__(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.GELU(), nn.Linear(8, 2))


def loss_of(model: Net, batch: Batch) -> tuple[Tensor, Mapping[str, Any]]:
    logits = model(batch["points"])
    return F.cross_entropy(logits, batch["labels"]), {"accuracy": (logits.argmax(1) == batch["labels"]).float().mean()}


def batch_of(step: int) -> Batch:
    rows = shuffled(len(POINTS), 8, step, seed=1)
    return {"points": POINTS[rows], "labels": LABELS[rows]}


def accuracy(model: Net) -> dict[str, float]:
    assert not model.training and not torch.is_grad_enabled()
    return {"accuracy": float((model(POINTS).argmax(1) == LABELS).float().mean())}


def trainer_of(steps: int = 12, **changes: Any) -> Supervised[Net]:
    settings: dict[str, Any] = {"steps": steps, "precision": "fp32", "ema": 0.9, "log_every": 4, "evaluate_every": 6,
                                "save_every": 5}
    return Supervised(Net(), loss_of, OPTIMIZER, SupervisedConfig(**{**settings, **changes}))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_stop_and_resume_equals_no_stop_bit_for_bit(tmp_path: Path, ema: float) -> None:
    whole = trainer_of(ema=ema)
    whole.run(batch_of, tmp_path / "whole", {}, {}, evaluate=accuracy)

    def stop_after_seven(step: int) -> Batch:
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)     # step 6 is finished and saved first
        return batch_of(step)

    torch.rand(5)
    with pytest.raises(KeyboardInterrupt):
        trainer_of(ema=ema).run(stop_after_seven, tmp_path / "parts", {"what": 1}, {}, evaluate=accuracy)
    saved = checkpoint.load(tmp_path / "parts")
    assert saved.step == 7 and saved.documents["what"] == 1
    again = trainer_of(ema=ema)
    again.restore(saved)
    again.run(batch_of, tmp_path / "parts", {}, {}, evaluate=accuracy)
    assert again.step == 12 and again.evaluation == whole.evaluation
    for name, tensor in whole.final.state_dict().items():
        assert torch.equal(tensor, again.final.state_dict()[name]), name
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_the_saved_model_is_the_average(tmp_path: Path) -> None:
    trainer = trainer_of(steps=3, ema=0.5)
    first = [p.detach().clone() for p in trainer.model.parameters()]
    mean = [p.clone() for p in first]
    for step in range(3):
        trainer.train_step(batch_of(step))
        decay = min(0.5, (2 + step) / (11 + step))
        mean = [decay * m + (1 - decay) * p.detach() for m, p in zip(mean, trainer.model.parameters(), strict=True)]
    for expected, parameter in zip(mean, trainer.final.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected)
    final, model = trainer.final.state_dict(), trainer.model.state_dict()
    assert torch.equal(final["1.running_mean"], model["1.running_mean"])
    saved = checkpoint.load(trainer.save(tmp_path, {}, {}))
    assert torch.equal(saved.tensors["model"]["0.weight"], final["0.weight"])
    assert torch.equal(saved.tensors["training"]["0.weight"], model["0.weight"])
    with pytest.raises(ValueError, match="was trained with averaged weights"):
        trainer_of(ema=0.0).restore(saved)


def test_the_clock_ends_a_run_with_the_learning_rate_annealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock takes a second: of 1,000 steps, those of a minute are made."""
    ticks = iter(range(100_000))
    monkeypatch.setattr("calico.agent.training.supervised.time.perf_counter", lambda: float(next(ticks)))
    seen: list[Progress] = []
    trainer = trainer_of(steps=1000, minutes=1.0)
    trainer.run(batch_of, tmp_path, {}, {}, on_report=seen.append)
    assert trainer.ended and 10 < trainer.step < 62
    assert seen[-1].steps == trainer.step and seen[0].steps < 100
    assert seen[-1].learning_rate < 0.2 * OPTIMIZER.learning_rate < seen[0].learning_rate
    resumed = trainer_of(steps=1000, minutes=1.0)
    resumed.restore(checkpoint.load(tmp_path))
    resumed.run(batch_of, tmp_path, {}, {})
    assert resumed.step == trainer.step


def test_the_log_has_means_and_held_out_figures(tmp_path: Path) -> None:
    seen: list[Progress] = []
    trainer = trainer_of()
    losses: list[float] = []
    step = trainer.train_step

    def noted(batch: Batch) -> tuple[float, dict[str, float], float]:
        made = step(batch)
        losses.append(made[0])
        return made

    trainer.train_step = noted  # type: ignore[method-assign]
    trainer.run(batch_of, tmp_path, {}, {}, evaluate=accuracy, on_report=seen.append)
    assert [p.step for p in seen] == [4, 6, 8, 12]
    assert seen[0].loss == pytest.approx(np.mean(losses[:4])) and seen[2].loss == pytest.approx(np.mean(losses[6:8]))
    assert seen[0].evaluation == {} and set(seen[1].evaluation) == {"accuracy"}
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("held_out/accuracy")] == [6, 8, 12]
    assert events.Scalars("train/accuracy")[0].value == pytest.approx(seen[0].numbers["accuracy"])


def test_it_learns() -> None:
    trainer = trainer_of(steps=150)
    for step in range(150):
        trainer.train_step(batch_of(step))
    with torch.inference_mode():
        assert accuracy(trainer.final)["accuracy"] > 0.9


def test_what_is_not_finite_never_reaches_the_weights() -> None:
    trainer = trainer_of()
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with pytest.raises(FloatingPointError, match="step 0 are not both finite"):
        trainer.train_step({"points": torch.full((8, 4), math.nan), "labels": LABELS[:8]})
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert trainer.step == 0


def test_after_step_sees_the_new_weights() -> None:
    model = Net()
    seen: list[Tensor] = []
    trainer = Supervised(model, loss_of, OPTIMIZER, SupervisedConfig(precision="fp32"),
                         after_step=lambda: seen.append(model.state_dict()["0.weight"].clone()))
    trainer.train_step(batch_of(0))
    assert torch.equal(seen[0], trainer.model.state_dict()["0.weight"])


def test_every_row_comes_once_per_epoch() -> None:
    rows = np.concatenate([shuffled(10, 4, step, seed=0) for step in range(5)])
    assert sorted(rows[:10]) == list(range(10)) == sorted(rows[10:])
    assert rows[:10].tolist() != rows[10:].tolist()
    assert shuffled(10, 4, 3, seed=0).tolist() == rows[12:16].tolist()
    assert shuffled(3, 8, 0, seed=0).tolist().count(0) in (2, 3)       # a batch larger than the data


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"minutes": -1.0}, {"ema": 1.0}, {"save_every": 0}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SupervisedConfig(**wrong)
