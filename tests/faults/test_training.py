"""Training: nothing done is lost when a worker dies, data fail, a checkpoint is damaged or weights are not finite."""

import multiprocessing
import os
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from calico.agent import checkpoint
from calico.agent.training import trainer as training
from calico.agent.training.optimizer import OptimizerConfig
from calico.agent.training.trainer import Trainer, TrainingConfig
from calico.datasets import mixture as mixing
from calico.scripts.training import runs

from ..datasets.test_mixture import make_mixture, same


def new_trainer(**changes: Any) -> Trainer[nn.Linear]:
    def loss(model: nn.Linear, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return model(batch["x"]).square().mean(), {}

    torch.manual_seed(0)
    settings = {"steps": 9, "save_every": 100, "log_every": 100, "precision": "fp32", **changes}
    return Trainer(nn.Linear(3, 3), loss, OptimizerConfig(warmup_steps=0), TrainingConfig(**settings))


def batch(number: int) -> dict[str, Tensor]:
    return {"x": torch.full((2, 3), float(number + 1))}


def damaged(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def saved_run(run: Path, *steps: int) -> Path:
    for step in steps:
        checkpoint.save(run, step, tensors={"model": {"w": torch.full((2,), float(step))}},
                        documents={"config": {"a": 1}, "state": {"step": step}, "order": runs.ORDER})
    return run


def test_no_run_begins_inside_a_checkpoint(tmp_path: Path) -> None:
    run = saved_run(tmp_path / "run", 10, 20)
    before = sorted(run.rglob("*"))
    for folder in (run / "checkpoints" / "step_00000010", run / "checkpoints", run / "checkpoints" / "step_00000030"):
        with pytest.raises(ValueError, match=f"is a checkpoint, not the folder of a run; give {run}, with --last-good"), \
                runs.begin_or_continue(folder, {"a": 1}):
            pass
    packed = checkpoint.export(run, tmp_path / "packed")
    with pytest.raises(ValueError, match="packed is a checkpoint.*give another folder for the new run"), \
            runs.begin_or_continue(packed, {"a": 1}):
        pass
    assert sorted(run.rglob("*")) == before


def test_a_run_goes_on_from_its_last_good_checkpoint_when_it_is_told_to(tmp_path: Path) -> None:
    run = saved_run(tmp_path / "run", 10, 20)
    damaged(run / "checkpoints" / "step_00000020")
    with pytest.raises(ValueError, match="step_00000010.*give the same command with --last-good"), \
            runs.begin_or_continue(run, {"a": 1}):
        pass
    runs.fall_back(run)
    with runs.begin_or_continue(run, {"a": 1}) as saved:
        assert saved is not None and saved.step == 10
        saved_run(run, 15, 20)
    assert checkpoint.load(run).step == 20
    assert (run / "checkpoints" / "damaged_step_00000020").is_dir()       # set aside, not deleted
    damaged(run / "checkpoints" / "step_00000020")
    damaged(run / "checkpoints" / "step_00000015")
    with pytest.raises(ValueError, match="has no good checkpoint to fall back to"):
        runs.fall_back(run)


def test_falling_back_where_nothing_is_damaged_changes_nothing(tmp_path: Path) -> None:
    run = saved_run(tmp_path / "run", 10, 20)
    runs.fall_back(run)
    assert checkpoint.load(run).step == 20 and len(checkpoint.checkpoints(run)) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path: Path, value: float,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved_run(tmp_path / "run", 10)
    tensors = {"model": {"good": torch.ones(3), "bad": torch.tensor([1.0, value])}}
    with pytest.raises(checkpoint.CheckpointError, match="model, tensor bad: 1 of 2 values are not finite: older checkpoints"):
        checkpoint.save(run, 20, tensors=tensors, documents={})
    assert checkpoint.load(run).step == 10
    monkeypatch.setattr(checkpoint, "check_finite", lambda *_: None)
    checkpoint.save(run, 20, tensors=tensors, documents={})
    monkeypatch.undo()
    with pytest.raises(checkpoint.CheckpointError, match="model.safetensors, tensor bad: 1 of 2 values are not finite"):
        checkpoint.load(run)


def test_a_sum_that_overflows_is_no_weight_that_is_not_finite(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, tensors={"model": {"large": torch.full((4,), 3e38)}}, documents={})
    assert checkpoint.load(tmp_path).step == 1


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "beta1", "beta2", "final_share"])
def test_no_setting_of_the_optimiser_is_infinite(name: str) -> None:
    wrong: dict[str, Any] = {name: float("inf")}
    with pytest.raises(ValueError, match=f"optimizer.{name}=inf must be .*finite"):
        OptimizerConfig(**wrong)


def test_the_message_does_not_call_broken_weights_untouched() -> None:
    trainer = new_trainer()
    with torch.no_grad():
        trainer.model.weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="1 of its tensors are not finite since an earlier step"):
        trainer.train_step([batch(0)])


def test_data_that_fail_end_training_with_a_save(tmp_path: Path) -> None:
    def failing(number: int) -> dict[str, Tensor]:
        if number == 4:
            raise OSError("the disk is gone")
        return batch(number)

    with pytest.raises(OSError, match="the disk is gone"):
        new_trainer().run(failing, tmp_path, {}, {})
    assert checkpoint.load(tmp_path).step == 4


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_is_heard_while_a_batch_does_not_come(tmp_path: Path, signals: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once: after LONGEST_WAIT; twice: at once. What is done is saved."""
    monkeypatch.setattr(training, "LONGEST_WAIT", 0.3 if signals == 1 else 3600)

    def stuck(number: int) -> dict[str, Tensor]:
        if number == 3:
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
            raise AssertionError("Ctrl-C was not heard")
        return batch(number)

    with pytest.raises(KeyboardInterrupt):
        new_trainer().run(stuck, tmp_path, {}, {})
    assert checkpoint.load(tmp_path).step == 3


def workers() -> list[Any]:
    return [child for child in multiprocessing.active_children() if child.is_alive()]


def test_a_worker_that_is_killed_while_it_looks_at_the_event_takes_no_lock_with_it() -> None:
    """multiprocessing.Event did: after twenty such deaths is_set() of all others hung."""
    context = multiprocessing.get_context("fork")
    event = mixing.Flag()

    def look() -> None:
        while not event.is_set():
            pass

    for _ in range(20):
        worker = context.Process(target=look)
        worker.start()
        time.sleep(0.01)
        worker.kill()
        worker.join(10)
    last = context.Process(target=look)
    last.start()
    seen: list[bool] = []
    asking = threading.Thread(target=lambda: seen.append(event.is_set()), daemon=True)
    asking.start()
    asking.join(10)
    assert seen == [False] and last.is_alive()
    event.set()
    last.join(10)
    assert event.is_set() and last.exitcode == 0


@pytest.mark.filterwarnings("ignore:the data workers failed")
@pytest.mark.parametrize("ahead", [0.0, 1.0])      # seconds; then batches wait that the workers still have to hand over
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_workers_that_die_or_hang_are_replaced_and_the_batches_stay_the_same(how: int, ahead: float,
                                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixing, "POLL", 0.2)
    monkeypatch.setattr(mixing, "LONGEST_WAIT", 2.0)
    source = make_mixture()
    expected = [source.batch(step) for step in range(12)]
    found, before = [], set(workers())
    for number, made in enumerate(mixing.loader(source, 0, 12, 2, prefetch=1)):
        found.append(made)
        if number == 3:
            time.sleep(ahead)
            for worker in set(workers()) - before:
                os.kill(worker.pid, how)
    assert len(found) == 12 and all(map(same, found, expected))
    assert not set(workers()) - before          # the stopped ones too


@pytest.mark.filterwarnings("ignore:the data workers failed")
@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset by peer"), FileNotFoundError(2, "no socket"), EOFError()])
def test_a_batch_whose_worker_dies_while_it_is_handed_over_is_made_again(error: Exception,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """What a batch holds is fetched from the worker that made it: where that is gone, the socket or the file is."""
    loaders: list[Any] = []

    class Loader(torch.utils.data.DataLoader[Any]):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            loaders.append(self)

        def __iter__(self) -> Any:
            found = super().__iter__()
            return Broken(found) if len(loaders) == 1 else found

    class Broken:
        def __init__(self, found: Any) -> None:
            self.found, self._workers, self.given = found, found._workers, 0

        def __iter__(self) -> "Broken":
            return self

        def __next__(self) -> Any:
            self.given += 1
            if self.given == 3:
                raise error
            return next(self.found)

    monkeypatch.setattr(torch.utils.data, "DataLoader", Loader)
    source = make_mixture()
    found = list(mixing.loader(source, 0, 6, 1, prefetch=1))
    assert len(loaders) == 2 and len(found) == 6 and all(same(one, source.batch(step)) for step, one in enumerate(found))


def test_workers_that_die_again_and_again_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deadly:
        """Data that no worker survives, such as those that do not fit into the memory."""

        def batch(self, step: int, rows: slice) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

        skipped: dict[str, Any] = {}

    monkeypatch.setattr(mixing, "POLL", 0.2)
    steps: Any = mixing._Steps(Deadly(), 5, 9, slice(None), False)          # type: ignore[arg-type]
    with pytest.raises(ChildProcessError, match="the data workers failed 3 times at step 5: one died of SIGKILL; the mem"), \
            warnings.catch_warnings():
        warnings.simplefilter("ignore")
        list(mixing._from_workers(steps, 1, 1))
