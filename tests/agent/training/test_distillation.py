"""Distillation: the loss equals a hand computation, and a student comes nearer to its teacher."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.loss import target_logits, target_mask
from calico.agent.model import Model
from calico.agent.training.agent_loss import agent_loss, counts_of
from calico.agent.training.distillation import DistillationConfig, Teacher, action_place, rows_of
from calico.agent.training.optimizer import OptimizerConfig
from calico.agent.training.ranks import ALONE, Ranks, joined_ranks
from calico.agent.training.trainer import Trainer, TrainingConfig
from calico.datasets.mixture import Batch
from calico.scripts.common.local_ranks import on_local_ranks
from calico.tokenizers.tokens import ACTION, NO_POSITION, Kind, Tokens

from ..conftest import VOCABULARY, make_model, stream

FIRST = VOCABULARY.discrete_start
SMALL = DecoderConfig(width=32, depth=1, heads=2, context=16, window=8)


def legal(*counts: int) -> np.ndarray:
    """The mask of an action whose places allow the first so many discrete ids."""
    mask = np.zeros((len(counts), VOCABULARY.size), np.bool_)
    for place, count in enumerate(counts):
        mask[place, FIRST : FIRST + count] = True
    return mask


def episode(seed: int, action: int = 2) -> Tokens:
    """Three timesteps whose action of `action` tokens is a function of the second observed token."""
    rng = np.random.default_rng(seed)
    parts = []
    for step in range(3):
        seen = rng.integers(0, 8, 2)
        acted = FIRST + (seen[1] + np.arange(action)) % 4
        ids = np.concatenate([seen, [VOCABULARY.separator], acted])
        position = np.concatenate([[0, 1, NO_POSITION], np.full(action, ACTION)])
        parts.append(Tokens.of(ids, Kind.DISCRETE, position, timestep=step, loss_mask=position == ACTION))
    return Tokens.concatenate(parts)


def batch(seed: int, rows: slice = slice(None)) -> Batch:
    """Rows of two tasks, and one of words with pictures."""
    made = [episode(10 * seed), episode(10 * seed + 1, action=1), stream(12, seed), episode(10 * seed + 2)]
    made[2] = replace(made[2], position=np.full(12, NO_POSITION, np.int16), loss_mask=made[2].kind == Kind.TEXT)
    return Batch(Tokens.stack(made[rows], VOCABULARY.pad), np.array([0, 1, 2, 0])[rows])


LEGAL, SOURCES = [legal(4, 6), legal(4), None], ["one", "two", "words"]


def teacher_of(model: Model, **config: Any) -> Teacher:
    return Teacher(model, LEGAL, DistillationConfig(**config))


def student(seed: int = 1) -> Model:
    torch.manual_seed(seed)
    return Model(replace(make_model().config, backbone=SMALL), VOCABULARY)


def test_places_inside_an_action() -> None:
    position = np.array([[0, 1, NO_POSITION, ACTION, ACTION, 0, 1, NO_POSITION, ACTION, NO_POSITION]])
    tokens = Tokens.of(np.zeros(position.shape, int), Kind.DISCRETE, position).to_torch()
    assert action_place(tokens).tolist() == [[-1, -1, -1, 0, 1, -1, -1, -1, 0, -1]]


def test_rows_keep_their_pictures() -> None:
    rows = [stream(12, seed) for seed in range(4)]
    chosen = torch.tensor([False, True, False, True])
    found = rows_of(Tokens.stack(rows, VOCABULARY.pad).to_torch(), chosen)
    expected = Tokens.stack([rows[1], rows[3]], VOCABULARY.pad).to_torch()
    assert found.held == expected.held and 0 < len(found.patches) == len(rows[1].patches) + len(rows[3].patches)
    assert all(torch.equal(getattr(found, name), getattr(expected, name)) for name in expected.held)


@pytest.mark.parametrize("temperature, weight", [(1.0, 0.5), (2.0, 1.0), (0.5, 0.0)])
def test_the_loss_is_the_one_of_the_paper(temperature: float, weight: float) -> None:
    """Every target by itself, with softmax over a list of legal ids."""
    taught, model, given = make_model(), student().eval(), batch(0)
    loss = agent_loss(SOURCES, teacher_of(taught, temperature=temperature, weight=weight))
    total, numbers = loss(model, given)
    tokens = given.tokens.to_torch()
    expected, distances = 0.0, []
    for row in range(4):
        alone = Tokens.from_fields({name: getattr(tokens, name) for name in tokens.held})
        ours, theirs = model.logits(model(alone))[row], taught.logits(taught(alone))[row]
        place = 0
        for at in range(tokens.ids.shape[1] - 1):
            place = place + 1 if tokens.position[row, at] == ACTION else 0
            if not target_mask(tokens)[row, at]:
                continue
            hard = F.cross_entropy(ours[at], tokens.ids[row, at + 1].long()).item()
            if tokens.position[row, at + 1] != ACTION:
                expected += hard
                continue
            mask = LEGAL[given.source[row]]
            assert mask is not None
            allowed = [id for id in range(VOCABULARY.size) if mask[place, id]]
            p, q = ((logits[at, allowed] / temperature).softmax(0).tolist() for logits in (theirs, ours))
            soft = -sum(a * math.log(b) for a, b in zip(p, q, strict=True))
            expected += (1 - weight) * hard + weight * temperature**2 * soft
            distances.append(soft + sum(a * math.log(a) for a in p))
    assert isinstance(total, tuple)
    assert total.total.item() == pytest.approx(expected, rel=1e-5)
    assert numbers["distillation"].value == pytest.approx(np.mean(distances), rel=1e-3) and len(distances) == 6 + 3 + 6
    assert numbers["loss/words"].value == agent_loss(SOURCES)(model, given)[1]["loss/words"].value


def test_the_teacher_stays_as_it_is_and_words_alone_need_none() -> None:
    taught = make_model()
    before = {name: tensor.clone() for name, tensor in taught.state_dict().items()}
    loss, model = agent_loss(SOURCES, teacher_of(taught)), student()
    total, _ = loss(model, batch(0))
    total.total.backward()     # type: ignore[union-attr]
    assert all(torch.equal(tensor, before[name]) for name, tensor in taught.state_dict().items())
    assert all(p.grad is None for p in taught.parameters()) and model.embedding.table.weight.grad is not None
    only_words = batch(0, slice(2, 3))
    total, numbers = loss(model.eval(), only_words)
    assert numbers["distillation"].count == 0
    assert torch.equal(total.total, agent_loss(SOURCES)(model, only_words)[0].total)    # type: ignore[union-attr]


def trained(model: Model, steps: int, teacher: Teacher | None = None, ranks: Ranks = ALONE) -> tuple[Model, list[float]]:
    """The model after some steps, and the losses."""
    trainer = Trainer(model, agent_loss(SOURCES, teacher), OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
                      TrainingConfig(steps=steps, precision="fp32"), ranks=ranks, counts=counts_of)
    found = [trainer.train_step([batch(number, ranks.rows(4))])[0].loss.value for number in range(steps)]
    return model.eval(), found


def distance(model: Model, teacher: Teacher, seeds: Sequence[int] = range(900, 904)) -> float:
    """Mean divergence from the teacher on batches that nobody was trained on, in nats."""
    total, count = 0.0, 0
    for given in map(batch, seeds):
        tokens = given.tokens.to_torch()
        with torch.no_grad():
            logits, rows, places = target_logits(model, tokens, target_mask(tokens))
            _, far = teacher.losses(logits, tokens, torch.as_tensor(given.source), rows, places)
        total, count = total + float(far.sum()), count + len(far)
    return total / count


def test_a_student_comes_nearer_to_its_teacher_than_one_without() -> None:
    taught, _ = trained(make_model(), 25)        # so short that it is unsure, which the data do not say
    teacher = teacher_of(taught)
    alone, with_teacher = (distance(trained(student(), 40, given)[0], teacher) for given in (None, teacher))
    assert with_teacher < 0.5 * alone, (with_teacher, alone)


def test_two_ranks_have_the_losses_of_one() -> None:
    def rank() -> list[float]:
        with joined_ranks("cpu") as ranks:
            return trained(student(), 4, teacher_of(make_model()), ranks)[1]

    first, second = on_local_ranks(2, rank)
    assert first == second
    np.testing.assert_allclose(first, trained(student(), 4, teacher_of(make_model()))[1], rtol=1e-5)


@pytest.mark.parametrize("config, message", [
    ({"weight": 1.5}, "distillation.weight=1.5 must be a share: at least 0, at most 1"),
    ({"weight": -0.1}, "distillation.weight=-0.1 must be at least 0"),
    ({"temperature": 0.0}, "distillation.temperature=0.0 must be between 0.01 and 100")])
def test_weights_and_temperatures_that_cannot_be(config: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationConfig(**config)    # type: ignore[arg-type]
