"""A classifier on top of an encoder: its mean output, a norm and one linear layer, all trained together."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..training.batch_part import Mean
from .batches import pooled
from .encoders import Encoder


class EncoderClassifier(nn.Module):
    """An encoder, pre-trained or not, and a linear classifier."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder, self.norm, self.head = encoder, nn.LayerNorm(encoder.width), nn.Linear(encoder.width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, *inputs: Tensor) -> Tensor:
        """What `encoder.features` takes, (B, ...) -> logits (B, classes)."""
        return self.head(self.norm(pooled(self.encoder, inputs)))


def classification_loss(smoothing: float) -> Any:
    """For Trainer: batches hold "labels" and, in this order, the classifier's inputs; a Perceiver's will do, too."""
    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Mean, Mapping[str, Any]]:
        logits, rows = model(*(tensor for name, tensor in batch.items() if name != "labels")).float(), len(batch["labels"])
        right = (logits.argmax(1) == batch["labels"]).sum()
        total = F.cross_entropy(logits, batch["labels"], label_smoothing=smoothing, reduction="sum")
        return Mean(total, rows), {"accuracy": Mean(right, rows)}
    return loss
