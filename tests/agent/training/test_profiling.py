"""What a training step's time and matrix products are counted as."""

import json
from pathlib import Path

import pytest
import torch

from calico.agent import hardware
from calico.agent.training.batch_part import Mean
from calico.agent.training.optimizer import OptimizerConfig
from calico.agent.training.profiling import UNRECORDED
from calico.agent.training.trainer import Trainer, TrainingConfig, TrainingReport
from calico.scripts.main import main

from ...conftest import SmallRun

PEAK = 0.25        # teraflops


def trained(tmp_path: Path, steps: int, profile: int = 0) -> list[TrainingReport]:
    model, seen = torch.nn.Linear(3, 1), list[TrainingReport]()
    trainer = Trainer(model, lambda model, batch: (Mean(model(batch).sum(), torch.tensor(10.0)), {"tokens": 40.0}),
                      OptimizerConfig(), TrainingConfig(steps=steps, log_every=steps, peak_tflops=PEAK),
                      flops_of=lambda share: 3e6 * share)
    trainer.run(lambda number: torch.ones(2, 3), tmp_path, {}, {}, on_report=seen.append, profile=profile)
    return seen


def test_mfu_is_what_the_targets_cost_over_the_peak(tmp_path: Path) -> None:
    (report,) = trained(tmp_path, 8)
    assert report.mfu == pytest.approx(report.tokens_per_second * 3e6 * 10 / 40 / (PEAK * 1e12), rel=1e-6)


@pytest.mark.parametrize("name, peak", [("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA H100 PCIe", 756e12),
                                        ("NVIDIA L40S", 362e12), ("NVIDIA H200", 989e12),
                                        ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA A10", 125e12), ("Some Card", None),
                                        ("NVIDIA RTX A1000", None), ("NVIDIA RTX A4000", None), ("NVIDIA L40", None),
                                        ("NVIDIA GeForce RTX 4090", 165e12), ("NVIDIA GeForce RTX 4090 Laptop GPU", None)])
def test_the_peak_of_known_cards_is_looked_up(name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert hardware.peak_flops(torch.device("cuda")) == peak
    assert hardware.peak_flops(torch.device("cpu")) is None


@pytest.mark.parametrize("steps, asked, recorded", [(10, 3, 3), (UNRECORDED + 2, 9, 2)])
def test_the_trace_holds_the_steps_that_were_asked_for(tmp_path: Path, steps: int, asked: int, recorded: int) -> None:
    trained(tmp_path, steps, profile=asked)
    events = json.loads((tmp_path / "profile.json").read_text())["traceEvents"]
    shown = {event["name"] for event in events if event["name"].startswith("ProfilerStep#")}
    assert len(shown) in (recorded, recorded + 1)      # where the run ends first, what follows the last step is a step, too
    assert any(event["name"] == "aten::addmm" for event in events)


def test_nothing_is_recorded_without_being_asked_for(tmp_path: Path) -> None:
    trained(tmp_path, 6)
    assert not (tmp_path / "profile.json").exists()


def test_the_command_writes_a_trace(small_run: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", str(small_run.config), f"data.sources=[{{path: {small_run.data}/CartPole-v1}}]", f"out={out}",
                 f"training.steps={UNRECORDED + 3}", "training.peak_tflops=1", "--profile", "2"]) == 0
    assert (out / "profile.json").stat().st_size > 10_000 and "MFU" in capsys.readouterr().err
