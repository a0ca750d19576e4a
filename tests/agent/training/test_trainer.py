"""The training loop: resuming changes nothing, bad numbers never reach the weights, the log says what happened.

It is tried with the agent on all its backbones, and with a small network that has dropout and buffers.
"""

import copy
import math
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from calico.agent import checkpoint
from calico.agent.backbones import BackboneConfig
from calico.agent.backbones.decoder import Decoder, DecoderConfig
from calico.agent.embedding import EmbeddingConfig
from calico.agent.model import Model, ModelConfig
from calico.agent.training import trainer as training
from calico.agent.training.agent_loss import agent_loss
from calico.agent.training.batch_part import Mean
from calico.agent.training.optimizer import OptimizerConfig, build_optimizer, learning_rate
from calico.agent.training.trainer import Batch, Trainer, TrainingConfig, TrainingReport
from calico.datasets.streams import shuffled
from calico.tokenizers.tokens import Tokens

from ..conftest import BACKBONES, VOCABULARY, stream

OPTIMIZER = OptimizerConfig(learning_rate=1e-2, warmup_steps=3)
CONFIG = TrainingConfig(steps=8, log_every=2, save_every=3, precision="fp32")


# ---- the agent

@dataclass(frozen=True)
class Made:
    tokens: Tokens
    source: np.ndarray


def batch(step: int, rows: int = 3) -> Made:
    """A pure function of the step; source 0 fills every row but the last."""
    tokens = Tokens.stack([stream(16, 100 * step + row) for row in range(rows)], VOCABULARY.pad)
    return Made(tokens, np.array([0] * (rows - 1) + [1]))


def without_targets(made: Made) -> Made:
    return replace(made, tokens=replace(made.tokens, loss_mask=np.zeros_like(made.tokens.loss_mask)))


SKIPPING = DecoderConfig(width=32, depth=2, heads=2, context=16, stochastic_depth=0.2)


def new_trainer(config: TrainingConfig = CONFIG, backbone: BackboneConfig = SKIPPING) -> Trainer[Model]:
    torch.manual_seed(1)
    shape = ModelConfig(embedding=EmbeddingConfig(observation_positions=48, patch_channels=4), backbone=backbone)
    return Trainer(Model(shape, VOCABULARY), agent_loss(["cats", "dogs"]), OPTIMIZER, config)


def losses_of(trainer: Trainer[Any], run: Path, batch_of: Callable[[int], Any] = batch) -> list[float]:
    losses: list[float] = []
    trainer.run(batch_of, run, {}, {}, on_report=lambda report: losses.append(report.loss))
    return losses


def assert_same_weights(one: Trainer[Any], other: Trainer[Any]) -> None:
    for mine, theirs in ((one.model, other.model), (one.final, other.final)):
        for name, tensor in mine.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[name]), name


@pytest.mark.parametrize("backbone", [SKIPPING, *BACKBONES[1:]], ids=lambda backbone: backbone.kind)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stop_and_resume_equals_no_stop_bit_for_bit(tmp_path: Path, precision: str, backbone: BackboneConfig) -> None:
    """Eight steps at once, against 3, a new process's worth of state, and resumed twice; stochastic depth is on."""
    config = replace(CONFIG, log_every=1, save_every=1, precision=precision)   # type: ignore[arg-type]
    whole = new_trainer(config, backbone)
    expected = losses_of(whole, tmp_path / "whole")
    seen: list[float] = []
    for stop in (3, 5, 8):
        part = new_trainer(config, backbone)
        torch.rand(stop)                                        # whatever the process drew before must not matter
        if stop > 3:
            part.restore(checkpoint.load(tmp_path / "parts"))
        while part.step < stop:
            sums, _ = part.train_step([batch(part.step)])
            seen.append(sums.loss.value)
        part.save(tmp_path / "parts", {}, {})
    assert seen == expected
    assert_same_weights(whole, part)


@pytest.mark.parametrize("changes", [{"accumulate": 2}, {"ema": 0.9}])
def test_accumulation_and_averages_resume_bit_for_bit(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = replace(CONFIG, **changes)
    whole = new_trainer(config)
    losses_of(whole, tmp_path / "whole")
    numbers: list[int] = []

    def stopped_at_five(number: int) -> Made:
        numbers.append(number)
        if number == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(number)

    with pytest.raises(KeyboardInterrupt):
        new_trainer(config).run(stopped_at_five, tmp_path / "parts", {}, {})
    again = new_trainer(config)
    again.restore(checkpoint.load(tmp_path / "parts"))
    assert numbers == list(range(6)) and again.step * config.accumulate == 6
    again.run(batch, tmp_path / "parts", {}, {})
    assert_same_weights(whole, again)


def test_another_seed_or_accumulation_trains_another_model(tmp_path: Path) -> None:
    """The seed reaches stochastic depth and patch positions; a step's batches are as many as it says."""
    whole = new_trainer()
    losses_of(whole, tmp_path / "whole")
    for name, config in (("seed", replace(CONFIG, seed=1)), ("accumulate", replace(CONFIG, accumulate=2))):
        other = new_trainer(config)
        losses_of(other, tmp_path / name)
        assert any(not torch.equal(p, q) for p, q in zip(whole.model.parameters(), other.model.parameters(), strict=True)), name


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
    sums, norm = small.train_step([one, two])
    sums_joined, norm_joined = large.train_step([joined])
    for name in ("loss/cats", "loss/dogs", "share/dogs"):
        assert sums.numbers[name].count == sums_joined.numbers[name].count
        assert sums.numbers[name].total == pytest.approx(sums_joined.numbers[name].total, rel=2e-2)
    assert norm == pytest.approx(norm_joined, rel=0.1)                     # patch positions are drawn per batch


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
    with pytest.raises(FloatingPointError, match=r"gradient of step 0 is not finite \(sources: cats, dogs\)"):
        trainer.train_step([batch(0)])
    assert all(p.isfinite().all() for p in trainer.model.parameters())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_without_a_target_is_an_error_that_names_the_sources(accumulate: int) -> None:
    trainer = new_trainer()
    before = copy.deepcopy(trainer.model.state_dict())
    made = without_targets(batch(0))
    only_dogs = replace(made, source=np.ones_like(made.source))
    with pytest.raises(ValueError, match=r"step 0 has no target in any row \(sources: dogs\) and would learn nothing"):
        trainer.train_step([only_dogs] * accumulate)
    assert trainer.step == 0 and all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())
    sums, _ = trainer.train_step([without_targets(batch(0)), batch(1)])       # some of a step's batches may be without
    assert sums.loss.count > 0 and trainer.step == 1


def test_sigterm_saves_the_step_under_way_and_the_run_continues(tmp_path: Path) -> None:
    trainer = new_trainer(replace(CONFIG, steps=500, save_every=500))

    def stopped_at_five(number: int) -> Made:
        if number == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(number)

    with pytest.raises(KeyboardInterrupt):
        trainer.run(stopped_at_five, tmp_path, {}, {})
    saved = checkpoint.load(tmp_path)
    assert saved.step == trainer.step == 6   # the step under way was finished
    again = new_trainer()
    again.restore(saved)
    assert again.step == trainer.step


@pytest.mark.parametrize("look", range(4))
def test_a_signal_at_any_look_at_it_ends_with_the_save_that_was_promised(tmp_path: Path, look: int,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal arrives right after the loop has looked for it `look` times: it must not stop without a save."""
    class Late:
        looks, asked, waiting = 0, False, nullcontext

        def is_set(self) -> bool:
            was, self.asked, self.looks = self.asked, self.asked or self.looks == look, self.looks + 1
            return was

    trainer, late = new_trainer(replace(CONFIG, steps=500, save_every=500)), Late()
    monkeypatch.setattr(training, "interruptible", lambda: nullcontext(late))
    with pytest.raises(KeyboardInterrupt):
        trainer.run(batch, tmp_path, {}, {})
    assert checkpoint.load(tmp_path).step == trainer.step == look + 2


def test_tensorboard_holds_the_figures(tmp_path: Path) -> None:
    reports: list[TrainingReport] = []
    trainer = new_trainer()
    trainer.run(batch, tmp_path, {"note": {"a": 1}}, {"tokenizer.model": b"x"}, on_report=reports.append)
    assert [report.step for report in reports] == [2, 4, 6, 8]
    assert reports[-1].tokens == 8 * 3 * 16 and reports[-1].tokens_per_second == pytest.approx(
        reports[-1].steps_per_second * 3 * 16)
    assert reports[0].numbers["share/cats"] == pytest.approx(2 / 3)
    assert reports[0].numbers["share/dogs"] == pytest.approx(1 / 3)
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
    first.run(batch, tmp_path, {}, {})
    (log,) = (tmp_path / "tensorboard").iterdir()
    log.rename(log.with_name("events.out.tfevents.0"))                # files are read in the order of their names
    again = new_trainer(config)
    again.restore(checkpoint.load(tmp_path / "checkpoints" / "step_00000003"))
    again.run(batch, tmp_path, {}, {})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss/all")] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_what_cannot_be_compiled_says_so() -> None:
    with pytest.raises(ValueError, match="training.compile=true works with the backbone decoder, not perceiver"):
        new_trainer(replace(CONFIG, compile=True), BACKBONES[1])
    with pytest.raises(ValueError, match="training.compile=true works with the backbone decoder, not Net"):
        net_trainer(compile=True)


# ---- the optimiser

def test_learning_rate_warms_up_and_decays() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=4, final_share=0.1)
    rates = [learning_rate(config, step, 104) for step in range(105)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0 and rates[54] == pytest.approx(0.55) and rates[104] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[4:], rates[5:], strict=False))


def test_only_matrices_decay_and_no_table_does() -> None:
    model = new_trainer().model
    groups = build_optimizer(model, OPTIMIZER).param_groups
    decayed = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    assert len(decayed) == len(list(model.parameters())) and len(tables) > 1
    for name, parameter in model.named_parameters():
        is_table = any(parameter is table for table in tables)
        assert decayed[id(parameter)] == (OPTIMIZER.weight_decay if parameter.ndim > 1 and not is_table else 0), name


# ---- any model: averages, the clock, held-out figures

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


def points(number: int) -> Batch:
    rows = shuffled(len(POINTS), 8, number, seed=1)
    return {"points": POINTS[rows], "labels": LABELS[rows]}


def accuracy(model: Net) -> dict[str, float]:
    assert not model.training and not torch.is_grad_enabled()
    return {"accuracy": float((model(POINTS).argmax(1) == LABELS).float().mean())}


def net_trainer(steps: int = 12, **changes: Any) -> Trainer[Net]:
    settings: dict[str, Any] = {"steps": steps, "precision": "fp32", "ema": 0.9, "log_every": 4, "evaluate_every": 6,
                                "save_every": 5}
    return Trainer(Net(), loss_of, replace(OPTIMIZER, warmup_steps=2), TrainingConfig(**{**settings, **changes}))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_dropout_buffers_averages_and_figures_come_back(tmp_path: Path, ema: float) -> None:
    whole = net_trainer(ema=ema)
    whole.run(points, tmp_path / "whole", {}, {}, evaluate=accuracy)

    def stop_after_seven(number: int) -> Batch:
        if number == 6:
            os.kill(os.getpid(), signal.SIGTERM)     # step 6 is finished and saved first
        return points(number)

    torch.rand(5)
    with pytest.raises(KeyboardInterrupt):
        net_trainer(ema=ema).run(stop_after_seven, tmp_path / "parts", {"what": 1}, {}, evaluate=accuracy)
    saved = checkpoint.load(tmp_path / "parts")
    assert saved.step == 7 and saved.documents["what"] == 1
    again = net_trainer(ema=ema)
    again.restore(saved)
    again.run(points, tmp_path / "parts", {}, {}, evaluate=accuracy)
    assert again.step == 12 and again.evaluation == whole.evaluation
    assert_same_weights(whole, again)


def test_the_saved_model_is_the_average(tmp_path: Path) -> None:
    trainer = net_trainer(steps=3, ema=0.5)
    mean = [p.detach().clone() for p in trainer.model.parameters()]
    for step in range(3):
        trainer.train_step([points(step)])
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
        net_trainer(ema=0.0).restore(saved)


def test_means_of_batches_of_unequal_size_join_into_one(tmp_path: Path) -> None:
    """A loss that gives a Mean over its targets has the gradient of one large batch, however the targets are spread."""
    def summed(model: Net, batch: Batch) -> tuple[Mean, Mapping[str, Any]]:
        logits = model(batch["points"])
        return Mean(F.cross_entropy(logits, batch["labels"], reduction="sum"), len(logits)), {}

    norms = []
    for parts in ([8], [3, 5]):
        model = nn.Sequential(*(layer for layer in Net() if isinstance(layer, nn.Linear | nn.GELU)))
        trainer = Trainer(model, summed, OPTIMIZER, TrainingConfig(precision="fp32"))  # type: ignore[arg-type]
        split = zip(POINTS[:8].split(parts), LABELS[:8].split(parts), strict=True)
        sums, norm = trainer.train_step([{"points": some, "labels": labels} for some, labels in split])
        norms.append((norm, sums.loss.value))
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_the_clock_ends_a_run_with_the_learning_rate_annealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock takes a second: of 1,000 steps, those of a minute are made."""
    ticks = iter(range(100_000))
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(ticks)))
    seen: list[TrainingReport] = []
    trainer = net_trainer(steps=1000, minutes=1.0)
    trainer.run(points, tmp_path, {}, {}, on_report=seen.append)
    assert trainer.ended and 10 < trainer.step < 62
    assert seen[-1].steps == trainer.step and seen[0].steps < 100
    assert seen[-1].learning_rate < 0.2 * OPTIMIZER.learning_rate < seen[0].learning_rate
    resumed = net_trainer(steps=1000, minutes=1.0)
    resumed.restore(checkpoint.load(tmp_path))
    resumed.run(points, tmp_path, {}, {})
    assert resumed.step == trainer.step


def test_the_log_has_means_and_held_out_figures(tmp_path: Path) -> None:
    seen: list[TrainingReport] = []
    trainer = net_trainer()
    losses: list[float] = []
    step = trainer.train_step

    def noted(batches: Any) -> Any:
        made = step(batches)
        losses.append(made[0].loss.value)
        return made

    trainer.train_step = noted  # type: ignore[method-assign, assignment]
    trainer.run(points, tmp_path, {}, {}, evaluate=accuracy, on_report=seen.append)
    assert [report.step for report in seen] == [4, 6, 8, 12]
    assert seen[0].loss == pytest.approx(np.mean(losses[:4])) and seen[2].loss == pytest.approx(np.mean(losses[6:8]))
    assert seen[0].evaluation == {} and set(seen[1].evaluation) == {"accuracy"}
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss/train", "train/accuracy", "held_out/accuracy", "speed/steps_per_second",
                                             "optimizer/learning_rate", "optimizer/gradient_norm"}
    assert [e.step for e in events.Scalars("held_out/accuracy")] == [6, 8, 12]
    assert events.Scalars("train/accuracy")[0].value == pytest.approx(seen[0].numbers["accuracy"])


def test_it_learns() -> None:
    trainer = net_trainer(steps=150)
    for step in range(150):
        trainer.train_step([points(step)])
    with torch.inference_mode():
        assert accuracy(trainer.final)["accuracy"] > 0.9


def test_what_is_not_finite_never_reaches_the_weights() -> None:
    trainer = net_trainer()
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with pytest.raises(FloatingPointError, match="the loss of step 0 is not finite; the weights are untouched"):
        trainer.train_step([{"points": torch.full((8, 4), math.nan), "labels": LABELS[:8]}])
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert trainer.step == 0


def test_after_step_sees_the_new_weights() -> None:
    model = Net()
    seen: list[Tensor] = []
    trainer = Trainer(model, loss_of, OPTIMIZER, TrainingConfig(precision="fp32"),
                      after_step=lambda: seen.append(model.state_dict()["0.weight"].clone()))
    trainer.train_step([points(0)])
    assert torch.equal(seen[0], trainer.model.state_dict()["0.weight"])


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"log_every": -1}, {"minutes": -1.0}, {"ema": 1.0}, {"save_every": 0},
                                   {"accumulate": 0}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        TrainingConfig(**wrong)
