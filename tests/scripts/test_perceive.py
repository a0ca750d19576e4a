"""calico perceive: one door, a file per task."""

import importlib

import pytest

from calico.scripts.main import main
from calico.scripts.perceive import TASKS


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("verb", ["train", "predict"])
def test_every_task_has_both_verbs_with_an_example(task: str, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(getattr(importlib.import_module(f"calico.scripts.perceiver_tasks.{TASKS[task]}"), verb))
    with pytest.raises(SystemExit) as left:
        main(["perceive", task, verb, "--help"])
    out = capsys.readouterr().out
    assert left.value.code == 0 and out.startswith(f"usage: calico perceive {task} {verb} ")
    assert f"    calico perceive {task} {verb} " in out
    assert max(map(len, out.splitlines())) <= 130


@pytest.mark.parametrize("words, expected", [
    (["classify-smell", "train"], "invalid choice: 'classify-smell'"),
    (["classify-text", "dream"], "invalid choice: 'dream'"),
    (["classify-text"], "VERB"),
    ([], "TASK, VERB"),
    (["classify-text", "train", "x.jsonl"], "--out"),
])
def test_what_is_mistyped_is_told(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["perceive", *words])
    error = capsys.readouterr().err
    assert left.value.code == 2 and expected in error and len(error.splitlines()) == 1
