"""data2vec's figures for `calico bench data2vec`: the speed of a training step of version 2.0 against version 1.

Both train the same encoder with the same optimiser. Version 1's batch is so large that one step predicts as many masked
positions as one of version 2.0; a step is forward, backward, AdamW and the teacher's update.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from calico.agent.data2vec import encoders
from calico.agent.data2vec.encoders import Encoder
from calico.agent.data2vec.objective import OBJECTIVES, Data2Vec, Data2VecConfig
from calico.agent.hardware import autocast
from calico.scripts.benchmarks.interleaved import interleaved

SIZE: dict[str, Any] = {"width": 384, "depth": 12, "heads": 6, "feedforward": 1536}   # half as wide as the base models


def bench_data2vec(turns: int) -> dict[str, Any]:
    """Predicted positions per second, and version 2.0's over version 1's; `targets_per_second_v2_vs_v1` is for pictures."""
    found: dict[str, Any] = {}
    for modality in ENCODERS:
        second = trainer(modality, 2, samples=1)
        wanted = second()                                                   # targets of a step; warms up as well
        first = trainer(modality, 1, samples=round(4 * wanted / trainer(modality, 1, samples=4)()))
        first()
        medians = dict(zip((1, 2), interleaved(turns, partial(rate, first), partial(rate, second), warm_up=0), strict=True))
        found |= {f"{modality}_v{version}_targets_per_second": rate for version, rate in medians.items()}
        found[f"{modality}_v2_vs_v1"] = medians[2] / medians[1]
    found["targets_per_second_v2_vs_v1"] = found["vision_v2_vs_v1"]
    return found


def rate(step: Callable[[], int]) -> float:
    """Targets per second of one step."""
    began = time.perf_counter()
    targets = step()
    return targets / (time.perf_counter() - began)


def trainer(modality: str, version: int, samples: int) -> Callable[[], int]:
    """A function that does one training step on random inputs and returns the number of targets."""
    torch.manual_seed(0)
    encoder, inputs = ENCODERS[modality](samples)
    objective = Data2Vec(encoder, settings(modality, version)).train()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step() -> int:
        with autocast(torch.device("cpu"), "auto"):
            outcome = objective(*inputs)
        outcome.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        objective.update_teacher()
        return outcome.targets

    return step


def settings(modality: str, version: int) -> Data2VecConfig:
    """The published ones, with a decoder of half the width, as the encoder."""
    config = OBJECTIVES[f"{modality}-v{version}"]
    if config.decoder is None:
        return config
    return replace(config, decoder=replace(config.decoder, channels=config.decoder.channels // 2))


def vision(samples: int) -> tuple[Encoder, tuple[Tensor, ...]]:
    """224 x 224 pixels, 196 patches."""
    config = encoders.VisionEncoderConfig(**SIZE, absolute_positions=True, relative_positions="none")
    return encoders.VisionEncoder(config), (torch.randn(samples, 3, 224, 224),)


def speech(samples: int) -> tuple[Encoder, tuple[Tensor, ...]]:
    """Five seconds, 249 vectors; a front end of half the channels."""
    config = encoders.SpeechEncoderConfig(**SIZE, conv_channels=(256,) * 7)
    return encoders.SpeechEncoder(config), (torch.randn(samples, 80_000),)


def text(samples: int) -> tuple[Encoder, tuple[Tensor, ...]]:
    """512 tokens of a vocabulary of 4,000."""
    config = encoders.TextEncoderConfig(**SIZE, vocab_size=4000, mask=3999)
    return encoders.TextEncoder(config), (torch.randint(2, 3999, (samples, 512)),)


ENCODERS: dict[str, Callable[[int], tuple[Encoder, tuple[Tensor, ...]]]] = {"vision": vision, "speech": speech, "text": text}
