"""AdamW with warm-up and cosine decay, as Gato (arXiv:2205.06175, appendix) and its re-implementations."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from ..config_json import at_least


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its schedule. A small model needs a larger rate than the paper's 1e-4."""

    learning_rate: float = 2e-3     # at the end of the warm-up
    final_share: float = 0.1        # fraction of the learning rate after the cosine decay: Gato decays tenfold
    warmup_steps: int = 100
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1       # on matrices only
    clip: float = 1.0               # largest gradient norm; 0: no clipping, as the paper

    def __post_init__(self) -> None:
        at_least(self, "optimizer.", warmup_steps=0, clip=0)
        if self.learning_rate <= 0:
            raise ValueError(f"optimizer.learning_rate={self.learning_rate} must be positive")


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over all parameters; vectors (norms, biases) and lookup tables are not decayed."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        groups[parameter.ndim > 1 and id(parameter) not in tables].append(parameter)
    return torch.optim.AdamW(
        [{"params": groups[True], "weight_decay": config.weight_decay}, {"params": groups[False], "weight_decay": 0.0}],
        lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=1e-8, fused=True)


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Rate of step `step` (0-based) of `steps`: linear warm-up, then a cosine down to `final_share` of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, steps - config.warmup_steps))
    fraction = config.final_share + (1 - config.final_share) * (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * fraction
