"""calico bench perceiver-scores: each library's Perceiver takes every task's batches and learns from them."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calico.agent.perceiver.inputs import ImageConfig, MelConfig, PatchesConfig, PointsConfig, ReaderConfig, TextConfig
from calico.agent.perceiver.layers import LatentConfig
from calico.agent.perceiver.tasks import ClassifierConfig, LanguageConfig
from calico.scripts.benchmarks.perceiver_scores import PerceiverIO, PerceiverPytorch, TransformersPerceiver
from calico.scripts.main import main

from ..perceiver_tasks.test_classify import make_data

LATENT = LatentConfig(latents=4, width=16, layers=2, heads=2)
PICTURE = ImageConfig(kind="stem", size=(8, 8), bands=4)
TEXT = TextConfig(width=16, grams=(3,), stride=4, positions=64)


@pytest.mark.parametrize(("package", "peer", "reader"), [
    ("transformers", TransformersPerceiver, PICTURE),
    ("transformers", TransformersPerceiver, TEXT),
    ("perceiver_pytorch", PerceiverPytorch, PICTURE),
    ("perceiver_pytorch", PerceiverPytorch, PatchesConfig(block=(1, 4, 4), bands=4, resolution=(8, 8), project=16)),
    ("perceiver_pytorch", PerceiverPytorch, TEXT),
    ("perceiver_pytorch", PerceiverPytorch, MelConfig(rate=8000, window=256, hop=80)),
    ("perceiver_pytorch", PerceiverPytorch, PointsConfig(extra=3, bands=4, resolution=8)),
    ("perceiver", PerceiverIO, PICTURE),
])
def test_a_peer_answers_with_gradient_and_without_reading_padding(package: str, peer: Any, reader: ReaderConfig) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    torch.manual_seed(0)
    model = peer(ClassifierConfig(latent=LATENT, reader=reader, labels=3))
    mask = None
    match reader:
        case TextConfig():
            inputs = torch.randint(6, 262, (2, 32))
            mask = torch.arange(32).expand(2, 32) < 20
        case MelConfig():
            inputs = torch.randn(2, 8192)
        case PointsConfig():
            inputs = torch.randn(2, 40, 6)
        case _:
            inputs = torch.randn(2, 3, 32, 32)
    scores = model(inputs, mask)
    assert scores.shape == (2, 3)
    scores.square().sum().backward()
    assert sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None) > 0
    if mask is not None:
        with torch.inference_mode():
            torch.testing.assert_close(model.eval()(torch.where(mask, inputs, 7), mask), model(inputs, mask))


def test_the_language_peer_answers_at_the_places_asked_for() -> None:
    pytest.importorskip("transformers")
    model = TransformersPerceiver(LanguageConfig(latent=LATENT, text=TEXT)).eval()
    ids, mask = torch.randint(6, 262, (2, 32)), torch.arange(32).expand(2, 32) < 20
    places = torch.tensor([[1, 3], [2, 5]])
    with torch.inference_mode():
        everywhere = model(ids, mask)
        torch.testing.assert_close(model(ids, mask, places)[1, 1], everywhere[1, 5])
        torch.testing.assert_close(model(torch.where(mask, ids, 7), mask), everywhere)


@pytest.mark.parametrize("task", ["classify-image", "classify-text", "classify-points", "fill-mask"])
def test_equal_minutes(task: str, tmp_path: Path, answered: Callable[..., Any]) -> None:
    data, _ = make_data(task.replace("fill-mask", "classify-text"), tmp_path)
    found = answered("bench", "perceiver-scores", task, data, "training.minutes=0.01", "batch_size=8")
    assert "calico" in found and ("transformers" in found) == (
        task != "classify-points" and importlib.util.find_spec("transformers") is not None)
    for report in found.values():
        assert 0 <= report["accuracy"] <= 1 and report["steps"] > 0 and report["parameters"] > 0
        assert np.isfinite(report["core_minutes"]) and ("bits_per_byte" in report) == (task == "fill-mask")


def test_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "perceiver-scores", "classify-image", str(tmp_path / "absent.zip")]) == 2
    assert "training.minutes is missing" in capsys.readouterr().err
    assert main(["bench", "perceiver-scores", "classify-image", str(tmp_path / "absent.zip"), "training.minutes=1"]) == 2
    assert "absent.zip" in capsys.readouterr().err
