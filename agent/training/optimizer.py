"""Muon for the matrices and AdamW for the rest, with warm-up and decay; AdamW alone as Gato (arXiv:2205.06175, appendix).

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; with the scale of arXiv:2502.16982): the momentum of a
matrix is replaced by the nearest matrix whose singular values are about equal, so every direction is learnt at the same pace.
torch.optim.Muon computes that in bf16, which a CPU without such instructions does fifteen times slower than fp32; here it is
computed in fp32 on CPUs, for all matrices of a shape at once.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..config_json import at_least
from .ranks import local, part_like, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)   # the quintic whose five iterations bring singular values near 1
ITERATIONS = 5


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimiser and its schedule. A small model needs a larger rate than the paper's 1e-4."""

    kind: Literal["adamw", "muon"] = "adamw"   # muon: for the backbone's matrices, AdamW for the rest
    learning_rate: float = 2e-3     # at the end of the warm-up
    final_share: float = 0.1        # fraction of the learning rate after the cosine decay: Gato decays tenfold
    warmup_steps: int = 100
    beta1: float = 0.9
    beta2: float = 0.95
    momentum: float = 0.95          # Muon's
    weight_decay: float = 0.1       # on matrices only
    clip: float = 1.0               # largest gradient norm; 0: no clipping, as the paper
    skip_spikes: float = 0.0        # above 0: a step is left out if its gradient norm is so many standard deviations above
                                    # the mean of the last 128 (6: OLMo 2); 0: none is

    def __post_init__(self) -> None:
        at_least(self, "optimizer.", warmup_steps=0, clip=0, skip_spikes=0)
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"optimizer.learning_rate={self.learning_rate} must be positive and finite")
        for name in ("final_share", "beta1", "beta2", "weight_decay"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"optimizer.{name}={getattr(self, name)} must be finite")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optimizer.momentum={self.momentum} must be in [0, 1)")


class MuonWithAdamW(torch.optim.AdamW):
    """AdamW, but Muon in the groups that have an entry "momentum"."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of both."""
        groups = self.param_groups
        for group in groups:
            if "momentum" in group:
                self._muon_step(group)
        self.param_groups = [group for group in groups if "momentum" not in group]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups

    def _muon_step(self, group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape.setdefault(parameter.shape, []).append(parameter)
        for shape, parameters in by_shape.items():
            updates = []
            for parameter in parameters:
                gradient, state = parameter.grad, self.state[parameter]
                assert gradient is not None
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(gradient, 1 - group["momentum"])
                # Nesterov's; the matrix whole, for its singular values are not those of its parts
                updates.append(whole(gradient.lerp(state["momentum"], group["momentum"])))
            scale = 0.2 * math.sqrt(max(shape))                    # steps of the size of AdamW's, arXiv:2502.16982
            for parameter, update in zip(parameters, equalized(torch.stack(updates)), strict=True):
                mine = local(parameter)
                mine.mul_(1 - group["lr"] * group["weight_decay"])
                mine.add_(part_like(update, parameter), alpha=-group["lr"] * scale)


def equalized(matrices: Tensor) -> Tensor:
    """(n, rows, columns) -> the same with all singular values between about 0.7 and 1.2: Newton-Schulz iterations."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.transpose(1, 2)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.transpose(1, 2)
        x = a * x + (b * square + c * square @ square) @ x
    return (x if wide else x.transpose(1, 2)).to(matrices.dtype)


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW over all parameters, or Muon over the matrices of the blocks; vectors (norms, biases) and lookup tables are not
    decayed."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    groups: dict[str, list[nn.Parameter]] = {"muon": [], "decayed": [], "plain": []}
    for parameter in model.parameters():
        if parameter.ndim < 2 or id(parameter) in tables:
            groups["plain"].append(parameter)
        else:
            groups["muon" if config.kind == "muon" and parameter.ndim == 2 else "decayed"].append(parameter)
    listed: list[dict[str, Any]] = [{"params": groups["decayed"], "weight_decay": config.weight_decay},
                                    {"params": groups["plain"], "weight_decay": 0.0}]
    kind = torch.optim.AdamW
    if config.kind == "muon":
        kind = MuonWithAdamW
        listed.append({"params": groups["muon"], "weight_decay": config.weight_decay, "momentum": config.momentum})
    return kind(listed, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=1e-8, fused=True)


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Rate of step `step` (0-based) of `steps`: linear warm-up, then a cosine down to `final_share` of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, steps - config.warmup_steps))
    fraction = config.final_share + (1 - config.final_share) * (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * fraction
