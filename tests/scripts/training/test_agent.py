"""`calico train` under torchrun: the losses of one process, runs that are continued by other numbers of ranks, and refusals."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from calico.agent import checkpoint
from calico.agent.agent import Agent
from calico.agent.training import ranks
from calico.agent.training import trainer as training
from calico.datasets.mixture import Mixture
from calico.scripts.common import console
from calico.scripts.common.local_ranks import on_local_ranks
from calico.scripts.main import main

from ...conftest import SmallRun

CARTPOLE, BABYAI = "CartPole-v1", "BabyAI-GoToLocal-v0"


def words(small: SmallRun, out: Path, *overrides: str, sources: tuple[str, ...] = (CARTPOLE, BABYAI)) -> list[str]:
    """`calico train` with the small config, for six steps, three rows for two ranks."""
    listed = ", ".join(f"{{path: {small.data / name}}}" for name in sources)
    return ["train", str(small.config), f"data.sources=[{listed}]", f"out={out}", "training.precision=fp32",
            "data.batch_size=3", "backbone.depth=2", "backbone.stochastic_depth=0.1", "training.ema=0.9",
            "training.save_every=3", *overrides]


def on_ranks(size: int, *arguments: str) -> list[Any]:
    """Exit codes of a command on `size` ranks; 0 is None."""
    def rank() -> None:
        if code := main(list(arguments)):
            raise SystemExit(code)

    return on_local_ranks(size, rank)


def losses(run: Path) -> list[float]:
    found: dict[int, float] = {}
    for file in sorted((run / "tensorboard").iterdir(), key=lambda file: file.stat().st_mtime):
        found |= {event.step: event.value for event in EventAccumulator(str(file)).Reload().Scalars("loss/all")}
    assert sorted(found) == list(range(1, len(found) + 1)), found
    return [found[step] for step in sorted(found)]


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return {f"{stem}/{name}": tensor for stem, group in checkpoint.load(run).tensors.items() for name, tensor in group.items()}


def assert_same_bits(one: Path, other: Path) -> None:
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.fixture(scope="module")
def alone(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps in one process; its checkpoint of step 3 is kept."""
    run = tmp_path_factory.mktemp("ranks") / "alone"
    assert main(words(small_run, run)) == 0
    return run


@pytest.fixture(scope="module")
def two(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on two ranks."""
    run = tmp_path_factory.mktemp("ranks") / "two"
    assert on_ranks(2, *words(small_run, run)) == [None, None]
    return run


def stopped_at_three(run: Path, out: Path) -> Path:
    """A copy of a run as it was when it had saved step 3."""
    shutil.copytree(run, out)
    shutil.rmtree(out / "checkpoints" / "step_00000006")
    shutil.rmtree(out / "tensorboard")
    (out / "checkpoints" / "latest").write_text("step_00000003")
    return out


def test_two_ranks_write_the_run_of_one(alone: Path, two: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.testing.assert_allclose(losses(two), losses(alone), rtol=1e-5)
    ours, theirs = checkpoint.load(two), checkpoint.load(alone)
    assert ours.documents.keys() == theirs.documents.keys() and ours.files.keys() == theirs.files.keys()
    assert ours.documents["mixture"] == theirs.documents["mixture"]
    assert ours.documents["state"]["tokens"] == theirs.documents["state"]["tokens"] == 6 * 3 * 128
    assert len(list((two / "tensorboard").iterdir())) == 1     # one rank writes


@pytest.mark.parametrize("saved_on, ranks", [(2, 2), (2, 1), (1, 2)])
def test_a_run_is_continued_by_any_number_of_ranks(saved_on: int, ranks: int, small_run: SmallRun, alone: Path, two: Path,
                                                   tmp_path: Path) -> None:
    run = stopped_at_three(two if saved_on == 2 else alone, tmp_path / "run")
    command = words(small_run, run, *(["training.shard=fsdp"] if saved_on == 1 else []))
    if ranks == 1:
        assert main(command) == 0
    else:
        assert on_ranks(2, *command) == [None, None]
    if saved_on == ranks:
        assert_same_bits(run, two)
    if saved_on == 1:      # each rank wrote its part; who only acts finds whole weights, and an export has them in one file
        assert checkpoint.load(run).sharded == {"model", "optimizer", "training"}
        network = checkpoint.export(run, tmp_path / "network")
        assert sorted(network.glob("*.safetensors")) == [network / "model.safetensors"]
        assert Agent.load(run).fingerprint() == Agent.load(network).fingerprint()
    found = dict(enumerate(losses_from(run, 4), start=4))
    np.testing.assert_allclose([found[step] for step in (4, 5, 6)], losses(alone)[3:], rtol=1e-5)


def losses_from(run: Path, step: int) -> list[float]:
    (file,) = (run / "tensorboard").iterdir()
    events = EventAccumulator(str(file)).Reload().Scalars("loss/all")
    assert [event.step for event in events] == list(range(step, step + len(events)))
    return [event.value for event in events]


@pytest.mark.parametrize("overrides, more, said", [
    (["data.batch_size=1"], {}, "rank 0: data.batch_size=1 rows cannot be shared by 2 ranks; raise it to at least 2"),
    (["backbone=perceiver", "training.shard=fsdp"], {}, "training.shard=fsdp works with the backbone decoder, not perceiver"),
    (["training.shard=fsdp", "training.play_every=2"], {}, "training.play_every=2 needs a rank with the whole network"),
    ([], {"MASTER_PORT": ""}, "rank 1: RANK=1, WORLD_SIZE=2, LOCAL_RANK=1, MASTER_ADDR=127.0.0.1 is set, and MASTER_PORT not"),
], ids=["rows", "backbone", "play", "environment"])
def test_what_ranks_cannot_do_is_said_in_a_line(overrides: list[str], more: dict[str, str], said: str,
                                               small_run: SmallRun, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = [word for word in words(small_run, tmp_path / "run", *overrides)
               if "perceiver" not in " ".join(overrides) or "stochastic" not in word]
    if more:       # the other rank would wait for it, until torchrun ends it
        second = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", **more}
        assert on_local_ranks(1, lambda: main(command), {0: second}) == [2]
    else:
        assert on_ranks(2, *command) == [2, 2]
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("calico train: ")]
    assert len(errors) == 1 and said in errors[0], errors


def test_ranks_with_other_settings_or_data_are_refused_by_name(small_run: SmallRun, tmp_path: Path,
                                                               capfd: pytest.CaptureFixture[str]) -> None:
    def other_seed() -> None:
        seed = f"training.seed={os.environ['RANK']}"
        raise SystemExit(main(words(small_run, tmp_path / "run", seed)))

    assert on_local_ranks(2, other_seed) == [2, 2]
    said = capfd.readouterr().err
    assert "rank 1 has other settings than rank 0: training.seed is 1 but was 0 on rank 0; start every rank" in said
    changed = tmp_path / "data"
    shutil.copytree(small_run.data, changed)
    assert main(["collect", CARTPOLE, "--episodes", "5", "--seed", "90", "--out", str(changed)]) == 0

    def other_data() -> None:
        os.chdir(small_run.data if os.environ["RANK"] == "0" else changed)
        raise SystemExit(main([*words(small_run, tmp_path / "run"), f"data.sources=[{{path: {CARTPOLE}}}]"]))

    assert on_local_ranks(2, other_data) == [2, 2]
    assert f"rank 1 has other data than rank 0: {CARTPOLE} is " in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_data_that_fail_on_one_rank_end_all_after_saving(small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         capfd: pytest.CaptureFixture[str]) -> None:
    real = Mixture.batch

    def failing(self: Mixture, step: int, rows: slice = slice(None)) -> Any:
        if step == 2 and os.environ["RANK"] == "1":
            raise ValueError("the disk is gone")
        return real(self, step, rows)

    monkeypatch.setattr(Mixture, "batch", failing)
    assert on_ranks(2, *words(small_run, tmp_path / "run")) == [2, 2]
    said = capfd.readouterr().err
    assert "rank 1: the disk is gone" in said and "rank 0: rank 1 got no batch for step 2; its own message says why" in said
    assert checkpoint.load(tmp_path / "run").step == 2


def test_a_signal_to_one_rank_saves_and_ends_all(small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = training.Trainer.train_step

    def told(self: Any, *given: Any) -> Any:
        if self.step == 3 and self.ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *given)

    monkeypatch.setattr(training.Trainer, "train_step", told)
    assert on_ranks(2, *words(small_run, tmp_path / "run", "training.steps=50")) == [console.INTERRUPTED] * 2
    assert checkpoint.load(tmp_path / "run").step == 4


def test_a_rank_that_dies_ends_the_others_in_a_line(small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capfd: pytest.CaptureFixture[str]) -> None:
    real = training.Trainer.train_step

    def dying(self: Any, *given: Any) -> Any:
        if self.step == 4 and self.ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, *given)

    monkeypatch.setattr(training.Trainer, "train_step", dying)
    assert on_ranks(2, *words(small_run, tmp_path / "run")) == [2, -signal.SIGKILL]
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("calico train: ")]
    assert "rank 0: another rank has gone or does not answer" in line and "continues from its last checkpoint" in line
    assert checkpoint.load(tmp_path / "run").step == 3


def test_a_rank_that_hangs_ends_the_others_in_a_line(small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capfd: pytest.CaptureFixture[str]) -> None:
    real, first = training.Trainer.train_step, tmp_path / "first"

    def hanging(self: Any, *given: Any) -> Any:
        if self.step == 3 and self.ranks.rank == 0:
            first.write_text(str(os.getpid()))
        while self.step == 4 and self.ranks.rank == 1 and Path("/proc", first.read_text()).exists():
            time.sleep(0.1)
        return real(self, *given)

    monkeypatch.setattr(training.Trainer, "train_step", hanging)
    monkeypatch.setattr(ranks, "LONGEST_SILENCE", timedelta(seconds=6))
    assert on_ranks(2, *words(small_run, tmp_path / "run")) == [2, 2]
    assert "rank 0: another rank has gone or does not answer" in capfd.readouterr().err
    assert checkpoint.load(tmp_path / "run").step == 3


# ---- under torchrun itself

def torchrun(command: list[str], *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *options, "-m",
                             "calico.scripts.train", *command[1:]], stderr=subprocess.PIPE, text=True)


def ranks_of(agent: subprocess.Popen[str]) -> Iterator[int]:
    """The processes that an agent of torchrun started."""
    yield from map(int, Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split())


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(20))
def test_a_rank_that_is_killed_is_started_again_and_nothing_changes(moment: int, small_run: SmallRun, tmp_path: Path) -> None:
    rng = np.random.default_rng(moment)
    more = ["training.steps=60", "training.save_every=5"]
    assert on_ranks(2, *words(small_run, tmp_path / "whole", *more)) == [None, None]
    run = tmp_path / "run"
    agent = torchrun(words(small_run, run, *more), "--max-restarts", "2")
    after = int(rng.integers(1, 8))
    while len(checkpoint.checkpoints(run)) < 1 or checkpoint.checkpoints(run)[-1] < checkpoint.folder_of(run, 5 * after):
        assert agent.poll() is None
        time.sleep(0.02)
    time.sleep(float(rng.uniform(0, 0.4)))
    victims = list(ranks_of(agent))
    os.kill(victims[int(rng.integers(len(victims)))], signal.SIGKILL)
    _, said = agent.communicate(timeout=300)
    assert agent.returncode == 0, said
    assert_same_bits(run, tmp_path / "whole")


@pytest.mark.slow
def test_sigterm_to_torchrun_saves_and_the_same_command_continues(small_run: SmallRun, tmp_path: Path) -> None:
    run, more = tmp_path / "run", ["training.steps=400", "training.save_every=1000"]
    agent = torchrun(words(small_run, run, *more))
    while not list((run / "tensorboard").glob("*")) if run.exists() else True:
        assert agent.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    agent.terminate()
    agent.communicate(timeout=120)
    saved = checkpoint.load(run)
    assert 0 < saved.step < 400
    assert main(words(small_run, run, f"training.steps={saved.step + 1}", "training.save_every=1000")) == 0
