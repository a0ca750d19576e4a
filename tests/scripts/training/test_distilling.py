"""`calico train ... teacher=RUN`: settings, continuing, and teachers that are refused before anything is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from calico.agent import checkpoint
from calico.agent.agent import Agent
from calico.scripts.main import main

from ...conftest import SmallRun

Refused = Callable[..., str]
CARTPOLE, BABYAI = "CartPole-v1", "BabyAI-GoToLocal-v0"


def words(small: SmallRun, out: Path, *overrides: str, sources: tuple[str, ...] = (CARTPOLE, "minigrid-captions")) -> list[str]:
    """`calico train` with the small config and the small run as teacher, for four steps."""
    listed = ", ".join(f"{{path: {small.data / name}}}" for name in sources)
    return ["train", str(small.config), f"data.sources=[{listed}]", "training.steps=4", f"teacher={small.run}", f"out={out}",
            *overrides]


def test_a_distilled_run_continues_bit_for_bit_and_names_its_teacher(small_run: SmallRun, tmp_path: Path,
                                                                     refused: Refused) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert main(words(small_run, whole)) == 0
    assert main(words(small_run, parted)) == 0
    shutil.rmtree(parted / "checkpoints" / "step_00000004")                  # as it was after two steps
    (parted / "checkpoints" / "latest").write_text("step_00000002")
    moved = Path(shutil.copytree(small_run.run, tmp_path / "moved"))
    assert main(words(small_run, parted, f"teacher={moved}")) == 0
    ours, theirs = checkpoint.load(whole), checkpoint.load(parted)
    for stem in ("model", "optimizer"):
        assert all(torch.equal(tensor, theirs.tensors[stem][name]) for name, tensor in ours.tensors[stem].items())

    teacher = Agent.load(small_run.run)
    for settings in (json.loads((whole / "config.json").read_text()), ours.documents["config"]):
        assert settings["teacher"] == str(small_run.run)
        assert settings["distillation"] == {"weight": 0.9, "temperature": 1.0, "fingerprint": teacher.fingerprint()}
    assert ours.files["tokenizer.model"] == teacher.text.to_bytes()

    assert main(words(small_run, tmp_path / "plain", "teacher=")) == 0
    other = checkpoint.load(tmp_path / "plain").tensors["model"]
    assert any(not torch.equal(tensor, other[name]) for name, tensor in ours.tensors["model"].items() if name in other
               and tensor.shape == other[name].shape)
    fingerprint = teacher.fingerprint()
    assert f'distillation.fingerprint is "" but was "{fingerprint}"' in refused(*words(small_run, parted, "teacher="))
    said = refused(*words(small_run, parted, f"teacher={whole}"))
    assert f'distillation.fingerprint is "{Agent.load(whole).fingerprint()}" but was "{fingerprint}"' in said
    assert f"distillation.fingerprint={fingerprint} is asked for, but teacher={whole} has" in refused(
        *words(small_run, tmp_path / "new", f"teacher={whole}", f"distillation.fingerprint={fingerprint}"))


@pytest.mark.parametrize("overrides, said", [
    (["vocabulary.discrete=17"], "has another vocabulary: vocabulary.discrete is 17 but was 16"),
    (["data.numbers=vector"], 'knows CartPole-v1 otherwise than these data show it: numbers is "vector" but was'),
    (["backbone.context=129"], "reads 128 tokens at most, but backbone.context=129; set backbone.context=128"),
    (["distillation.weight=2"], "distillation.weight=2.0 must be a share"),
    (["teacher=runs/none"], "runs/none does not exist"),
], ids=["vocabulary", "codec", "context", "weight", "none"])
def test_teachers_that_cannot_teach(overrides: list[str], said: str, small_run: SmallRun, tmp_path: Path,
                                    refused: Refused) -> None:
    out = tmp_path / "run"
    assert said in refused(*words(small_run, out, *overrides))
    assert not out.exists()


def test_a_teacher_without_a_task_of_the_data_or_with_other_pieces(small_run: SmallRun, tmp_path: Path,
                                                                   refused: Refused) -> None:
    taught, out = tmp_path / "taught", tmp_path / "run"
    assert main(words(small_run, taught, "teacher=")) == 0                   # CartPole and captions alone
    said = refused(*words(small_run, out, f"teacher={taught}", sources=(CARTPOLE, BABYAI)))
    assert f"teacher={taught} does not know BabyAI-GoToLocal-v0, a task of these data; leave its source out" in said
    pieces = tmp_path / "pieces.model"
    pieces.write_bytes(Agent.load(taught).text.to_bytes())
    said = refused(*words(small_run, out, f"data.tokenizer={pieces}"))
    assert f"has other text pieces than data.tokenizer={pieces}; leave that out" in said
    assert f"has other text pieces than init={taught}; leave that out" in refused(*words(small_run, out, f"init={taught}"))
    assert not out.exists()
