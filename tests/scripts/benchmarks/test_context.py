"""`calico bench context`: the cost per token does not grow with the context."""

import pytest

from calico.scripts.benchmarks import context


def test_the_figures_are_of_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is a real one, of as many tokens; the figures are ratios of what it cost."""
    monkeypatch.setattr(context, "CONTEXTS", (16, 64))
    monkeypatch.setattr(context, "TOKENS", 64)
    monkeypatch.setattr(context, "ROWS", (1, 2))
    monkeypatch.setattr(context, "SIZES", ("tiny",))
    found = context.bench_context(1)
    assert found["context_tiny_64_over_16"] == found["microseconds_a_token_tiny_64"] / found["microseconds_a_token_tiny_16"]
    assert found["rows_2_over_1"] == found["microseconds_a_token_tiny_2_rows"] / found["microseconds_a_token_tiny_1_rows"]
    assert found["microseconds_a_token_tiny_64"] > 0


@pytest.mark.slow
def test_a_token_of_a_long_context_costs_what_one_of_a_short_context_does() -> None:
    """1.17 measured; 1.54 where each block's gradient was as long as the sequence. The limit leaves room for a busy machine."""
    short, long = context.per_token("tiny", [(16, 512), (1, 8192)], 5)
    assert long < 1.3 * short
