"""calico perceive: one door, a file per task."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from calico.scripts.main import main
from calico.scripts.perceive import HELP, TASKS, helps
from calico.scripts.perceiver_tasks.classify import KINDS
from calico.scripts.perceiver_tasks.training import load_task_settings


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


def test_the_help_of_the_tasks_is_that_of_their_parsers() -> None:
    assert json.loads(HELP.read_text()) == helps(), "run: python -m calico.scripts.perceive --write"


def test_the_help_of_a_task_loads_nothing_heavy() -> None:
    code = ("import atexit, sys; from calico.scripts.main import main\n"
            "atexit.register(lambda: print(sorted({'torch', 'scipy', 'gymnasium', 'numpy'} & set(sys.modules))))\n"
            "main(['perceive', 'classify-image', 'train', '--help'])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "optimizer.learning_rate" in done.stdout and done.stdout.splitlines()[-1] == "[]"


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


OLD_SPELLINGS = [
    ("perceive flow train textures --out RUN --steps 100", "--steps is now training.steps=100"),
    ("perceive classify-image train DATA --minutes 5 --out RUN", "--minutes is now training.minutes=5"),
    ("perceive classify-image train DATA --batch=8", "--batch is now batch_size=8"),
    ("perceive classify-text train DATA --out RUN --learning-rate 3e-3", "--learning-rate is now optimizer.learning_rate=3e-3"),
    ("perceive autoencode train DATA --seed 3 --out RUN", "--seed is now training.seed=3"),
    ("perceive classify-image train DATA --out RUN --no-mirror", "--no-mirror is now mirror=false"),
    ("perceive fill-mask train DATA --init FOLDER --out RUN", "--init is now init=FOLDER"),
    ("finetune ENCODER DATA --seed 5 --out RUN", "--seed is now training.seed=5"),
    ("finetune ENCODER DATA --out RUN --from-scratch", "--from-scratch is now from_scratch=true"),
    ("finetune ENCODER DATA --labels-per-class 10 --out RUN", "--labels-per-class is now labels_per_class=10"),
    ("demo --steps 400", "--steps is now training.steps=400"),
    ("demo --out RUN", "--out is now out=RUN"),
    ("bench perceiver-scores classify-image DATA --minutes 4", "--minutes is now training.minutes=4"),
]


@pytest.mark.parametrize("words, new", OLD_SPELLINGS)
def test_an_old_spelling_names_the_new_one(words: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(words.split())
    error = capsys.readouterr().err
    assert left.value.code == 2 and f": {new} (see" in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_setting_that_does_not_exist_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["perceive", "classify-image", "train", "pictures", "trainig.steps=3", "--out", "run"]) == 2
    assert "did you mean training" in capsys.readouterr().err


def test_what_follows_from_the_length_can_be_given() -> None:
    start = KINDS["classify-image"].settings
    settings = load_task_settings(start, ["training.steps=300"])
    assert (settings.optimizer.warmup_steps, settings.training.evaluate_every, settings.training.save_every) == (30, 30, 30)
    settings = load_task_settings(start, ["training.minutes=1"])
    assert (settings.optimizer.warmup_steps, settings.training.evaluate_every) == (20, 300)
    settings = load_task_settings(start, ["optimizer.warmup_steps=7", "training.evaluate_every=9", "training.seed=4"])
    assert (settings.optimizer.warmup_steps, settings.training.evaluate_every, settings.training.save_every) == (7, 9, 300)
    assert settings.training.seed == 4 and settings.training.ema > 0
