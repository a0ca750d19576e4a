"""How good an encoder's vectors are: two probes, on the pre-trained encoder, the untrained one and raw pixels."""

from typing import Any

import numpy as np
import torch

from calico.agent.data2vec.batches import Inputs, picture
from calico.agent.data2vec.encoders import VisionEncoder
from calico.agent.data2vec.pretrained import build_encoder, encoder_document, load_pretrained
from calico.scripts.training.encoder_data import Probe, embed, open_labelled

DRAWS = 5   # of a few labels per class


def probe(encoder: str, data: str, label: str = "label", per_class: int | None = None) -> dict[str, dict[str, float]]:
    """Accuracies of the pre-trained encoder, of the same one untrained, and of raw pixels where the samples are pictures."""
    pretrained = load_pretrained(encoder)
    inputs = Inputs(pretrained.encoder, pretrained.text)
    measure = Probe(open_labelled(data, inputs, label), most=10**9)
    torch.manual_seed(0)
    untrained = Inputs(build_encoder(encoder_document(pretrained.encoder)).eval(), pretrained.text)
    systems = {"pre-trained": lambda samples: embed(inputs, samples), "untrained": lambda samples: embed(untrained, samples)}
    if isinstance(pretrained.encoder, VisionEncoder):
        side = pretrained.encoder.config.image_size
        systems["raw pixels"] = lambda samples: raw(samples, side)
    draws = 1 if per_class is None else DRAWS
    return {name: measure(vectors, per_class, draws) for name, vectors in systems.items()}


def raw(samples: list[Any], side: int) -> np.ndarray:
    """Pictures as float32 (n, 3 * side * side)."""
    return np.stack([picture(sample, side, None).flatten().numpy() for sample in samples])
