"""Distillation (Hinton et al. 2015, arXiv:1503.02531): a student learns a larger network's probabilities of the actions.

At each target that is an action token the loss is

    weight * T^2 * cross-entropy(teacher's probabilities, student's) + (1 - weight) * cross-entropy(label, student's)

with both networks' logits divided by the temperature T. The factor T^2 keeps the size of the first term's gradient the same for
every temperature (section 2 of the paper). What differs from the paper: both probabilities in the first term are over the ids
that are legal at that place of the task's action, the only ones that are sampled in play. Other targets keep their loss.

The teacher reads the same rows, in evaluation mode and without gradient, but for those without action targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...tokenizers.tokens import ACTION, BESIDE, CONTENTS, Tokens
from ..config_json import at_least
from ..loss import target_logits
from ..model import Model


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """What is learnt from the probabilities of `teacher`."""

    weight: float = 0.9         # of the teacher's probabilities in the loss of an action; the rest is the data's action's
    temperature: float = 1.0    # both networks' logits are divided by it; above 1 unlikely actions count more
    fingerprint: str = ""       # of the teacher's weights; empty: it is filled in when the run begins

    def __post_init__(self) -> None:
        at_least(self, "distillation.", weight=0)
        if self.weight > 1:
            raise ValueError(f"distillation.weight={self.weight} must be a share: at least 0, at most 1")
        if not 0.01 <= self.temperature <= 100:
            raise ValueError(f"distillation.temperature={self.temperature} must be between 0.01 and 100")


class Teacher:
    """A trained network whose probabilities are learnt."""

    def __init__(self, model: Model, legal: Sequence[np.ndarray | None], config: DistillationConfig | None = None) -> None:
        """
        Args:
            model: trained weights, on the device of the student; they are not changed.
            legal: for each source of the batches its task's `TaskCodec.action_mask`, bool (A, vocab_size); None where it has no
                task.
        """
        self.model, self.config = model.eval().requires_grad_(False), config or DistillationConfig()
        device = next(model.parameters()).device
        known: dict[bytes, int] = {}         # most tasks share their masks with others, and a mask has an entry for every id
        which = np.zeros((len(legal), max([1, *(len(masks) for masks in legal if masks is not None)])), np.int64)
        for source, of_task in enumerate(legal):
            for place, mask in enumerate([] if of_task is None else of_task):
                which[source, place] = known.setdefault(mask.tobytes(), len(known))
        distinct = [np.frombuffer(mask, np.bool_) for mask in known] or [np.zeros(1, np.bool_)]
        self.masks, self.which = torch.from_numpy(np.stack(distinct)).to(device), torch.from_numpy(which).to(device)

    def losses(self, logits: Tensor, tokens: Tokens, source: Tensor, rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Of the action targets among those that the student predicted, in their order.

        Args:
            logits: the student's (n_targets, vocab_size), with gradient.
            source: of each row of the batch, int64 (B,).
            rows, places: as `target_logits` gives them.
        Returns:
            the loss of each, float (n_actions,), in nats: cross-entropy times T^2, with gradient; and the student's distance
            from the teacher, float (n_actions,): the Kullback-Leibler divergence at temperature T, without.
        """
        acts = tokens.position[rows, places + 1] == ACTION
        rows, places, temperature = rows[acts], places[acts], self.config.temperature
        if not len(rows):
            return logits.new_zeros(0), logits.new_zeros(0)
        allowed = self.masks[self.which[source[rows], action_place(tokens)[rows, places + 1]]]      # (n_actions, vocab_size)
        ours = log_probabilities(logits[acts], allowed, temperature)
        theirs = log_probabilities(self.logits(tokens, rows, places), allowed, temperature)
        entropy = -(theirs.exp() * theirs).sum(-1)
        crossed = -(theirs.exp() * ours).sum(-1)
        return temperature**2 * crossed, (crossed - entropy).detach()

    @torch.no_grad()
    def logits(self, tokens: Tokens, rows: Tensor, places: Tensor) -> Tensor:
        """The teacher's logits (n, vocab_size) at places of a batch, given row by row."""
        asked = torch.zeros_like(tokens.loss_mask)
        asked[rows, places] = True
        needed = asked.any(dim=1)
        found, _, _ = target_logits(self.model, rows_of(tokens, needed), asked[needed])
        return found


def log_probabilities(logits: Tensor, allowed: Tensor, temperature: float) -> Tensor:
    """float32 (n, vocab_size): log-softmax over the ids that are allowed, bool (n, vocab_size); 0 at all others."""
    scores = (logits.float() / temperature).masked_fill(~allowed, -torch.inf).log_softmax(dim=-1)
    return scores.masked_fill(~allowed, 0.0)     # minus infinity times a probability of 0 would be NaN


def action_place(tokens: Tokens) -> Tensor:
    """int64 (B, S): the place of an action token inside its action; other tokens have -1.

    A separator stands before every action, so it is the distance from the last token that is none.

        position   0 1 -2 -1 -1  0 1 -2 -1      (-1: ACTION, -2: separator)
        result     - -  -  0  1  - -  -  0
    """
    numbers = torch.arange(tokens.position.shape[1], device=tokens.position.device)
    before = torch.where(tokens.position == ACTION, -1, numbers).cummax(dim=1).values
    return numbers - before - 1


def rows_of(tokens: Tokens, chosen: Tensor) -> Tokens:
    """Those rows of a batch of tensors that are True in `chosen`, bool (B,), with the patches, sounds and vectors in them."""
    found = {name: getattr(tokens, name)[chosen] for name in tokens.held if name not in BESIDE}
    for kind, names in CONTENTS.items():
        kept = chosen[:, None].expand_as(tokens.kind)[tokens.kind == kind]         # (n of the kind,)
        found |= {name: field[kept] if len(field := getattr(tokens, name)) else field for name in names}
    return Tokens.from_fields(found)
