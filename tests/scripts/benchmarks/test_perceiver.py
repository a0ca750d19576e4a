"""calico bench perceiver: both sides give the same answers at a small size, and what is absent is null."""

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch

from calico.scripts.benchmarks import perceiver as bench_perceiver
from calico.scripts.benchmarks.perceiver import bench_image, medians, peak_megabytes, same


def test_sides_run_in_turns_after_one_that_does_not_count() -> None:
    order: list[str] = []
    found = medians(2, {name: lambda name=name: order.append(name) for name in "ab"})  # type: ignore[misc]
    assert order == ["a", "b"] * 3 and found.keys() == {"a", "b"}


def test_a_picture_at_a_small_size(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    for name, value in {"SIDE": 224, "LATENTS": 4, "WIDTH": 16, "LAYERS": 1, "BLOCKS": 2, "HEADS": 2, "CLASSES": 5}.items():
        monkeypatch.setattr(bench_perceiver, name, value)
    found = bench_image(1)
    assert found["forward_vs_transformers"] > 0 and found["step_vs_transformers"] > 0
    if not any(map(importlib.util.find_spec, ("perceiver_pytorch", "perceiver"))):
        assert found["forward_vs_best_peer"] is None and set(found["step_seconds"]) == {"calico", "transformers"}


def test_answers_that_differ_stop_the_bench() -> None:
    same(torch.ones(3), torch.ones(3) + 1e-6)
    with pytest.raises(RuntimeError, match="the two sides differ by 9.1e-02"):
        same(torch.ones(3), torch.ones(3) + 0.1)


def test_peak_memory_does_not_fall() -> None:
    before = peak_megabytes()
    block = torch.ones(20 << 20)          # 80 MB
    assert peak_megabytes() > max(before, 80) - 1
    del block
    assert peak_megabytes() >= before


@pytest.mark.slow
def test_all_figures(answered: Callable[..., Any]) -> None:
    """A quarter of an hour on two cores."""
    pytest.importorskip("transformers")
    found = answered("bench", "perceiver", "--turns", 1)
    assert {"forward_vs_transformers", "step_vs_transformers", "forward_vs_best_peer", "short_text_vs_transformers",
            "flow_memory_vs_transformers", "chunked_decode_vs_reencode"} < found.keys()
