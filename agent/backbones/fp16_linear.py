"""Matrices in fp16 for acting on CPUs without bf16 instructions, by FBGEMM, which comes with PyTorch.

A token of one row needs every weight once, so a large network acts as fast as memory hands out its weights: fp16 is half the
bytes of fp32, and no compiler is needed. Inputs, outputs and sums are fp32. fp16 has three bits more than bf16, so weights that
a checkpoint holds in bf16 stay the same numbers; only those below 6e-5 are rounded, by at most 3e-8.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..hardware import Precision, uses_bf16

# 64 MB in fp32, more than most caches. Measured on an AMD EPYC (Zen 3): with 4 million weights a step takes as long in either
# format, with 21 million 0.73 (one row) to 0.97 (16 rows) of the time.
FEWEST_WEIGHTS = 16_000_000
LARGEST = torch.finfo(torch.float16).max


class Fp16Linear(nn.Module):
    """nn.Linear for acting: it has no gradient and no parameters, so it is not saved."""

    def __init__(self, linear: nn.Linear) -> None:
        """
        Args:
            linear: weight (outputs, inputs) within fp16's range; left as it is.
        """
        super().__init__()
        bias = None if linear.bias is None else linear.bias.detach().float()
        # copied into FBGEMM's own order, 14 nanoseconds a weight
        self.packed: Any = torch.ops.quantized.linear_prepack_fp16(linear.weight.detach().float(), bias)

    def forward(self, x: Tensor) -> Tensor:
        """float32 (..., inputs) -> float32 (..., outputs)."""
        mixed: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.packed)
        return mixed


def fp16_matrices(module: nn.Module, device: torch.device, precision: Precision) -> dict[int, nn.Module]:
    """The matrices below a module that act in fp16: id of the nn.Linear -> what takes its place, as `copy.deepcopy` takes it.

    None on GPUs and on CPUs that multiply in bf16, where the user names a precision, in small networks (FEWEST_WEIGHTS), and
    where PyTorch has no FBGEMM (ARM). A matrix beyond fp16's range stays as it is.
    """
    if precision != "auto" or device.type != "cpu" or uses_bf16(device, precision):
        return {}
    linears = [child for child in module.modules() if isinstance(child, nn.Linear)]
    if sum(linear.weight.numel() for linear in linears) < FEWEST_WEIGHTS or not has_fbgemm():
        return {}
    return {id(linear): Fp16Linear(linear) for linear in linears if fits(linear.weight)}


def has_fbgemm() -> bool:
    """Whether PyTorch's quantised matrices are FBGEMM's here."""
    return torch.backends.quantized.engine in ("x86", "fbgemm")


def fits(weight: Tensor) -> bool:
    """Whether fp16 can hold every number of a matrix; False where one is NaN."""
    lowest, highest = weight.detach().aminmax()
    return bool((lowest >= -LARGEST) & (highest <= LARGEST))
