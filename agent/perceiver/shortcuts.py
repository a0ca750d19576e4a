"""A trained classifier that answers sooner and not exactly: early exit, and fewer latents. Off unless asked for.

The released language model applies 26 layers to 256 latents, whatever the length of the text: no exact shortcut spares them.

    Shortcuts(early_exit=0.9)     a sample leaves after the first layer at which a class has this probability, as in DeeBERT
                                  (arXiv:2004.12993) and CALM (2207.07061); its latents are decoded after each layer for that
    Shortcuts(keep_latents=0.25)  after the first layer only the quarter of the latents goes on that received most of the
                                  latents' attention there, as PoWER-BERT's words (2001.08950)

Neither model is trained for it; `calico bench perceiver-shortcuts` measures what they cost and save on data of one's own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .tasks import Classifier


@dataclass(frozen=True, kw_only=True)
class Shortcuts:
    """What is left out; the defaults leave out nothing."""

    early_exit: float = 1.0      # probability of the likeliest class at which a sample is answered; 1: after the last layer
    keep_latents: float = 1.0    # fraction of the latents that go on after the first layer, rounded up; 1: all

    def __post_init__(self) -> None:
        for name in ("early_exit", "keep_latents"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0 and at most 1; 1 switches it off")

    @property
    def exact(self) -> bool:
        return self.early_exit == 1 and self.keep_latents == 1


@dataclass(frozen=True)
class Answer:
    """Logits (B, labels), and after how many applications of a layer each row was answered: int64 (B,)."""

    logits: Tensor
    depths: Tensor


@torch.no_grad()
def classify(model: Classifier, inputs: Tensor | Mapping[str, Tensor], mask: Tensor | None = None,
             shortcuts: Shortcuts | None = None) -> Answer:
    """The classifier's answer; with the default Shortcuts that of `model(inputs, mask)`.

    Args:
        mask: bool (B, M), False at padding; None: there is none.
    """
    shortcuts = shortcuts or Shortcuts()
    elements, mask = model.read(inputs, mask)
    steps = list(model.encoder.steps())
    x = model.encoder.cross_attend(model.encoder.latents[None], elements, mask)
    rows = torch.arange(len(x), device=x.device)                      # those that are not answered yet
    logits, depths = None, torch.full_like(rows, len(steps))
    for depth, (again, layer) in enumerate(steps, 1):
        if again is not None:
            x = again(x, elements[rows], None if mask is None else mask[rows])
        if depth == 1 and shortcuts.keep_latents < 1:
            x = strongest(layer(x), layer.attention_mass(x), shortcuts.keep_latents)
        else:
            x = layer(x)
        if depth < len(steps) and shortcuts.early_exit == 1:
            continue
        made = model.decode(x)
        logits = made.new_empty(len(depths), made.shape[1]) if logits is None else logits
        sure = made.float().softmax(dim=1).amax(dim=1) >= shortcuts.early_exit
        done = sure if depth < len(steps) else torch.ones_like(sure)
        logits[rows[done]], depths[rows[done]] = made[done], depth
        rows, x = rows[~done], x[~done]
        if not len(rows):
            break
    assert logits is not None
    return Answer(logits, depths)


class Shortened(nn.Module):
    """A classifier that answers with shortcuts, where a module is expected; `depths` has those of the last batch."""

    def __init__(self, classifier: Classifier, shortcuts: Shortcuts) -> None:
        super().__init__()
        self.classifier, self.shortcuts = classifier, shortcuts
        self.depths = torch.zeros(0, dtype=torch.int64)

    def forward(self, inputs: Tensor | Mapping[str, Tensor], mask: Tensor | None = None) -> Tensor:
        """As Classifier.forward, without gradient: logits (B, labels)."""
        answer = classify(self.classifier, inputs, mask, self.shortcuts)
        self.depths = answer.depths
        return answer.logits


def strongest(latents: Tensor, mass: Tensor, fraction: float) -> Tensor:
    """The latents (B, N, C) with the most attention mass (B, N), in their order: (B, fraction of N rounded up, C)."""
    count = math.ceil(round(fraction * latents.shape[1], 6))         # 0.1 of 30 is 3, and in floating point a little more
    kept = mass.topk(count, dim=1).indices.sort(dim=1).values
    return latents.gather(1, kept[..., None].expand(-1, -1, latents.shape[2]))
