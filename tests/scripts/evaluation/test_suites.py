"""Windows count each target once, and figures are means that JSON can hold."""

import json
from pathlib import Path

import numpy as np
import pytest

from calico.agent.agent import Agent
from calico.scripts.evaluation.data import EvaluationSet
from calico.scripts.evaluation.suites import BATCH, Evaluator, windows
from calico.tokenizers.document import text_parts

from ...conftest import SmallRun


@pytest.fixture
def judge(small_run: SmallRun, tmp_path: Path) -> Evaluator:
    return Evaluator(Agent.load(small_run.run), tmp_path)


def test_windows_overlap_and_count_each_target_once(judge: Evaluator) -> None:
    tokens = judge.encode(text_parts("a red ball top left, a blue key right. " * 12))
    parts = windows(tokens, 20)
    assert [len(before) for before, _ in parts] == [0] + [20] * (len(parts) - 1)
    np.testing.assert_array_equal(np.concatenate([part.ids for _, part in parts]), tokens.ids)
    assert all((before.ids == earlier.ids).all() for (before, _), (_, earlier) in zip(parts[1:], parts, strict=False))
    ((_, count),) = judge.nats([tokens])
    assert count == len(tokens) - 1                                # the very first token is predicted by nothing


def test_what_is_kept_is_not_judged_again(judge: Evaluator) -> None:
    asked: list[int] = []

    def double(batch: list[int]) -> list[dict[str, int]]:
        asked.extend(batch)
        return [{"double": 2 * item} for item in batch]

    data, items = EvaluationSet("x/y", [], [], "first"), list(range(BATCH + 3))
    found = judge.each("text", data, items, double)               # type: ignore[arg-type]
    assert [one["double"] for one in found] == [2 * item for item in items] and asked == items
    (judge.folder / "text-x-y" / "agent-0.json").write_text("half a fi")
    assert judge.each("text", data, items, double) == found and asked == [*items, *items[:BATCH]]   # type: ignore[arg-type]
    judge.each("text", EvaluationSet("x/y", [], [], "second"), items, double)                             # type: ignore[arg-type]
    assert len(asked) == 2 * len(items) + BATCH                    # other documents
    kept = json.loads((judge.folder / "text-x-y" / "agent-1.json").read_text())
    assert kept["about"]["network"] == judge.agent.fingerprint() and len(kept["results"]) == 3
