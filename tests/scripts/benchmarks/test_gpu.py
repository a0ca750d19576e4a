"""scripts/gpu_check.sh: what it measures runs on a CPU in small, and each part is written down however it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from calico.scripts.benchmarks import gpu

ROOT = Path(__file__).parents[3]


def test_training_and_acting_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "CONTEXT", 32)
    monkeypatch.setattr(gpu, "WARM_UP", 1)
    (found,) = gpu.training("tiny", 2, torch.device("cpu"), 0.1, forms=(False,))
    assert found["rows"] == 2 and found["tokens_per_second"] > 0 and found["mfu"] is None
    assert found["tflops"] == pytest.approx(found["tokens_per_second"] * 6 * found["parameters"] / 1e12, rel=0.9)


@pytest.mark.slow
def test_acting_is_measured() -> None:
    one, sixteen = gpu.acting(torch.device("cpu"), 0.2, rows=(1, 16), quick=True)
    assert one["tokens_per_second"] == pytest.approx(1000 / one["milliseconds"]) and sixteen["rows"] == 16
    assert 0 < one["share_of_bandwidth"] < 2


def test_contexts_have_as_many_tokens_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "CONTEXTS", (16, 64))
    monkeypatch.setattr(gpu, "WARM_UP", 0)
    short, long = gpu.contexts("tiny", 64, torch.device("cpu"), 0.1)
    assert (short["context"], short["rows"], long["context"], long["rows"]) == (16, 4, 64, 1)
    assert short["tokens_per_second"] > 0 < long["tokens_per_second"]


def test_fewer_rows_are_tried_where_memory_does_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "CONTEXT", 32)

    def short(step: object, device: object, budget: float) -> float:
        tried.append(1)
        if len(tried) < 3:
            raise torch.cuda.OutOfMemoryError("no more memory")
        return 2.0

    tried: list[int] = []
    monkeypatch.setattr(gpu, "rate", short)
    (found,) = gpu.training("tiny", 8, torch.device("cpu"), 0.1, forms=(False,))
    assert found["rows"] == 2 and found["tokens_per_second"] == 2 * 32 * 2.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_a_part_says_that_it_is_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main(["training", "small"])
    assert ended.value.code == gpu.SKIPPED and capsys.readouterr().out.startswith("skipped: torch finds no CUDA device here")


def test_a_torch_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A machine with a GPU skips all parts where the wrong build of torch was installed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for version, ends in (("12.8", "device here\n"), (None, f"here: torch {torch.__version__} is a build without CUDA\n")):
        monkeypatch.setattr(torch.version, "cuda", version)
        with pytest.raises(SystemExit):
            gpu.chosen("cuda")
        assert capsys.readouterr().out.endswith(ends)


def test_each_part_is_written_down_however_it_ended(tmp_path: Path) -> None:
    (tmp_path / "one.log").write_text('{"tokens_per_second": 5}\n{"tokens_per_second": 7}\n')
    (tmp_path / "two.log").write_text('{"tokens_per_second": 5}\n{"cut off\nTraceback\nRuntimeError: no kernel\n')
    for name, code in (("one", 0), ("two", 1), ("one", 124)):
        gpu.record(tmp_path, name, code, 3)
    report = json.loads((tmp_path / gpu.FILE).read_text())
    assert report["machine"]["torch"] == torch.__version__ and list(report["parts"]) == ["one", "two"]
    one, two = report["parts"]["one"], report["parts"]["two"]
    assert one["status"] == "out of time" and [figures["tokens_per_second"] for figures in one["figures"]] == [5, 7]
    assert two["status"] == "failed with exit code 1" and two["figures"] == [{"tokens_per_second": 5}]
    assert two["output"][-1] == "RuntimeError: no kernel" and two["seconds"] == 3


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="takes ten minutes on a GPU")
def test_the_script_runs_without_a_gpu(tmp_path: Path) -> None:
    done = subprocess.run([str(ROOT / "scripts" / "gpu_check.sh")], env={**os.environ, "OUT": str(tmp_path / "out"),
                          "PYTHON": sys.executable}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "out" / gpu.FILE).read_text())["parts"]
    assert list(parts) == ["tests", "training-small", "training-medium", "training-gato-364m", "contexts-small",
                           "acting-gato-1.18b"]
    assert parts["tests"]["status"] == "ok" and "skipped" in parts["tests"]["output"][-1]
    assert all(part["status"] == "skipped" for name, part in parts.items() if name != "tests")
    assert "skipped: torch finds no CUDA device here" in done.stdout
