"""calico bench data2vec: both versions predict as many masked places, and whole training steps are timed."""

from typing import Any

import pytest
import torch

from calico.agent.data2vec.encoders import Encoder
from calico.scripts.benchmarks import data2vec as bench_data2vec
from calico.scripts.benchmarks.data2vec import settings, trainer

SMALL = {"width": 16, "depth": 12, "heads": 2, "feedforward": 16}


@pytest.mark.parametrize("modality", ["vision", "text"])
def test_two_steps_on_as_many_targets(modality: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_data2vec, "SIZE", SMALL)
    wanted = trainer(modality, 2, samples=1)()
    first = trainer(modality, 1, samples=round(4 * wanted / trainer(modality, 1, samples=4)()))
    assert 0.8 < first() / wanted < 1.25


def test_a_step_changes_the_student_and_its_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_data2vec, "SIZE", SMALL)
    made: list[Any] = []

    def small(samples: int) -> tuple[Encoder, tuple[torch.Tensor, ...]]:
        encoder, inputs = bench_data2vec.text(samples)
        made.append((encoder, {name: tensor.clone() for name, tensor in encoder.state_dict().items()}))
        return encoder, inputs

    monkeypatch.setitem(bench_data2vec.ENCODERS, "text", small)
    step = trainer("text", 2, samples=1)
    assert step() > 0
    [(encoder, before)] = made
    assert any(not torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())


def test_the_decoder_is_as_much_narrower_as_the_encoder() -> None:
    published = bench_data2vec.OBJECTIVES["vision-v2"].decoder
    halved = settings("vision", 2).decoder
    assert published is not None and halved is not None and halved.channels * 2 == published.channels
    assert settings("vision", 1).decoder is None
