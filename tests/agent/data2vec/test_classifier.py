"""Classes on top of an encoder."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from calico.agent.data2vec.batches import pooled
from calico.agent.data2vec.classifier import EncoderClassifier, classification_loss
from calico.agent.data2vec.encoders import TextEncoder, TextEncoderConfig

IDS = torch.tensor([[3, 4, 5, 0], [6, 7, 0, 0], [8, 9, 8, 9]])
LABELS = torch.tensor([0, 1, 1])


def make() -> EncoderClassifier:
    torch.manual_seed(0)
    config = TextEncoderConfig(width=16, depth=1, heads=2, feedforward=24, vocab_size=12, max_length=4, pad=0, mask=11)
    return EncoderClassifier(TextEncoder(config), classes=2)


def test_before_training_all_classes_are_equal() -> None:
    assert not make()(IDS).any()


def test_logits_come_from_the_mean_over_real_places() -> None:
    model = make()
    torch.nn.init.normal_(model.head.weight)
    torch.testing.assert_close(model(IDS), model.head(model.norm(pooled(model.encoder, (IDS,)))))
    torch.testing.assert_close(model(IDS[1:2, :2])[0], model(IDS)[1], atol=1e-5, rtol=0)   # padding changes nothing


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_accuracy_and_learning(smoothing: float) -> None:
    model, loss = make(), classification_loss(smoothing)
    batch: dict[str, Any] = {"0": IDS, "labels": LABELS}
    torch.nn.init.normal_(model.head.weight)
    value, numbers = loss(model, batch)
    logits = model(IDS)
    torch.testing.assert_close(value.total / value.count, F.cross_entropy(logits, LABELS, label_smoothing=smoothing))
    assert value.count == len(LABELS)
    assert numbers["accuracy"].value == pytest.approx(float((logits.argmax(1) == LABELS).float().mean()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        loss(model, batch)[0].total.backward()
        optimizer.step()
    assert loss(model, batch)[1]["accuracy"].value == 1
