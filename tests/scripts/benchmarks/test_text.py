"""`calico bench text`: both sides write the same words, and the figure is the ratio of their times."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from calico.agent.generate import text_tokens
from calico.agent.model import Model, named_size
from calico.scripts.benchmarks.text import LEGAL, VOCABULARY, bench_text, write_cached, write_plain


def test_both_sides_write_the_same() -> None:
    torch.manual_seed(0)
    model = Model(named_size("tiny", 64), VOCABULARY).eval()
    prompts = text_tokens(np.random.default_rng(0).choice(LEGAL, (3, 5)))
    cached, plain = write_cached(model, prompts, 40), write_plain(model, prompts, 40)   # past the window of 32
    assert cached.shape == (3, 40) and (cached == plain).all() and np.isin(cached, LEGAL).all()


def test_the_figures_are_of_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(turns: int, *sides: Callable[[], np.ndarray], warm_up: int) -> list[float]:
        assert turns == 3 and [side().shape for side in sides] == [(8, 4)] * 2
        return [0.5, 4.0]

    monkeypatch.setattr("calico.scripts.benchmarks.text.seconds", seconds)
    assert bench_text(3, "tiny", tokens=4) == {
        "cached_tokens_per_second": 64, "plain_tokens_per_second": 8, "generation_cache_speedup": pytest.approx(8)}
