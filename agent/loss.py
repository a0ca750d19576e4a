"""Masked next-token cross-entropy: Gato, arXiv:2205.06175, section 2.3.

The loss counts text and logged actions only, fewer than one token in ten of a control stream. So the hidden states at
target positions are gathered before the output head: logits at the other positions would cost more than the rest of a
small model and be thrown away. What is asked for at a place may differ from what stands there: `Tokens.targets`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tokenizers.tokens import Tokens
from .hardware import round_up_to_bucket
from .model import Model


def target_mask(tokens: Tokens) -> Tensor:
    """bool (B, S): True at token t when token t + 1 is a target that t may predict.

    A segment's first token is no target: the token before it belongs to another episode or document.

        ids        a b c | d e      ('|' segment border)
        loss_mask  1 0 1 | 1 1
        result     0 1 0 | 1 0
    """
    following = tokens.loss_mask[:, 1:] & (tokens.segment[:, 1:] == tokens.segment[:, :-1])
    return F.pad(following, (0, 1))


def trained_targets(model: Model, tokens: Tokens) -> Tensor:
    """Those of `target_mask` that a training step learns from: backbones for which each target costs a pass draw some."""
    return model.backbone.sample_targets(target_mask(tokens))


def target_logits(model: Model, tokens: Tokens, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The network's scores at targets.

    Args:
        targets: bool (B, S), some of `target_mask`.
    Returns:
        logits (n_targets, vocab_size), and the places that they predict from, row by row: rows and positions, int64
        (n_targets,) each.
    """
    rows, places = targets.nonzero(as_tuple=True)
    count = len(rows)
    padded = torch.arange(round_up_to_bucket(count), device=rows.device).clamp(max=count - 1)   # last one again: cut below
    return model.logits(model(tokens, where=(rows[padded], places[padded])))[:count], rows, places


def target_losses(model: Model, tokens: Tokens, targets: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each target, in nats.

    Args:
        targets: bool (B, S), some of `target_mask`; None: all.
    Returns:
        losses float (n_targets,), and the row of the batch that each belongs to, int64 (n_targets,).
    """
    logits, rows, places = target_logits(model, tokens, target_mask(tokens) if targets is None else targets)
    return label_losses(logits, tokens, rows, places), rows


def label_losses(logits: Tensor, tokens: Tokens, rows: Tensor, places: Tensor) -> Tensor:
    """Cross-entropy of what `target_logits` gave with the labels, in nats (n_targets,)."""
    return F.cross_entropy(logits.float(), tokens.labels[rows, places + 1].long(), reduction="none")
