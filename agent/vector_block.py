"""What the stream makes of a token that holds up to 32 real numbers: each one and a few waves of it, through two matrices.

The numbers come mu-lawed, in [-1, 1]. The waves let a matrix tell values apart that lie close together, as bins do; they are
computed in fp32 whatever format the network runs in. Numbers of a task keep their places in the token, so no place is
embedded; which token of the observation it is, the embedding adds.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tokenizers.tokens import VECTOR_SIZE

WAVES = 6            # sines and cosines of 1, 2, 4, ..., 32 times pi times the value
OUTPUT_SCALE = 0.1   # the first outputs are of the size of the table's rows, 0.02 to 0.05


class VectorBlock(nn.Module):
    """float32 vectors (n, VECTOR_SIZE) -> (n, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(VECTOR_SIZE * (2 * WAVES + 2), width)
        self.out = nn.Linear(width, width)

    def forward(self, vectors: Tensor, numbers: Tensor) -> Tensor:
        """numbers: uint8 (n,), how many of each vector are real; what stands behind them does not matter."""
        features = waves(vectors, numbers).flatten(1)
        return self.out(F.gelu(self.up(features.to(self.up.weight.dtype)))) * OUTPUT_SCALE


def waves(vectors: Tensor, numbers: Tensor) -> Tensor:
    """float32 (n, VECTOR_SIZE) -> (n, VECTOR_SIZE, 2 * WAVES + 2): the value, sines, cosines, and 1 where it is real."""
    with torch.autocast(vectors.device.type, enabled=False):
        real = (torch.arange(VECTOR_SIZE, device=vectors.device) < numbers[:, None]).float()[..., None]
        values = vectors.float()[..., None] * real
        angles = values * (math.pi * 2.0 ** torch.arange(WAVES, device=vectors.device))
        return torch.cat([values, angles.sin(), angles.cos() * real, real], dim=-1)
