"""Tokens -> vectors: Gato's embedding function (arXiv:2205.06175, section 2.2 and appendix).

Text, discrete, continuous and special tokens are looked up in one table. An image patch goes through a single pre-activation
ResNet block (GroupNorm, GELU) and gets a learned row and a learned column position, drawn uniformly from the patch's interval
in training and taken at the interval's rounded mean at evaluation. Observation tokens get their place inside the timestep,
all action tokens one shared position. What differs from the paper: the patch block works at half resolution (a stride-2
stem), which costs a quarter on a CPU; its width is configurable.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tokenizers.tokens import MAX_CHANNELS, NO_POSITION, PATCH_SIZE, POSITION_BINS, Tokens

GROUPS = 32   # GroupNorm groups of the patch block, as in the paper's appendix; fewer where the block is narrower


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """Tables and patch block."""

    observation_positions: int = 512   # tokens of one timestep's observation; Gato has about 512
    patch_channels: int = 32           # width of the patch block's convolutions

    def __post_init__(self) -> None:
        if self.observation_positions < 1 or self.patch_channels < 1:
            raise ValueError(f"embedding.observation_positions={self.observation_positions} and "
                             f"patch_channels={self.patch_channels} must be positive")


class PatchBlock(nn.Module):
    """uint8 patches (n, MAX_CHANNELS, 16, 16) -> (n, width)."""

    def __init__(self, config: EmbeddingConfig, width: int) -> None:
        super().__init__()
        channels, side = config.patch_channels, PATCH_SIZE // 2
        groups = min(GROUPS, channels // 2 or 1)
        self.stem = nn.Conv2d(MAX_CHANNELS, channels, 3, stride=2, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels), nn.GroupNorm(groups, channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.out = nn.Linear(channels * side * side, width)

    def forward(self, patches: Tensor, channels: Tensor) -> Tensor:
        """channels: uint8 (n,), how many of each patch's channels are real; the others stay exactly zero."""
        scale = 2 / (255 * PATCH_SIZE**0.5)                      # [0, 255] -> [-1, 1] / sqrt(16): Gato, section 2.1
        x = patches.to(self.stem.weight.dtype) * scale - 1 / PATCH_SIZE**0.5
        real = torch.arange(MAX_CHANNELS, device=x.device) < channels[:, None]
        x = self.stem(x * real[:, :, None, None])                # (n, channels, 8, 8)
        residual = self.conv1(F.gelu(self.norm1(x)))
        residual = self.conv2(F.gelu(self.norm2(residual)))
        return self.out((x + residual).flatten(1))               # (n, width)


class Embedding(nn.Module):
    """Tokens (B, S) with tensors -> (B, S, width). `table` is also the output head: logits = hidden @ table.T."""

    def __init__(self, config: EmbeddingConfig, width: int, vocab_size: int, patch_id: int) -> None:
        super().__init__()
        self.config, self.patch_id = config, patch_id
        self.table = nn.Embedding(vocab_size, width)
        self.patch_block = PatchBlock(config, width)
        self.rows, self.columns = nn.Embedding(POSITION_BINS, width), nn.Embedding(POSITION_BINS, width)
        self.positions = nn.Embedding(config.observation_positions - NO_POSITION, width)   # [none, action, 0, 1, ...]

    def forward(self, tokens: Tokens) -> Tensor:
        """Raises ValueError where an observation is longer than the table of local positions."""
        longest = int(tokens.position.max()) + 1 if tokens.position.numel() else 0
        if longest > self.config.observation_positions:
            raise ValueError(f"a timestep has {longest} observation tokens, the model {self.config.observation_positions} "
                             "positions for them; raise embedding.observation_positions or choose a smaller view")
        place = self.positions(tokens.position.long() - NO_POSITION)
        x = self.table(tokens.ids.long()) + place * (tokens.position != NO_POSITION)[..., None]   # (B, S, width)
        if not len(tokens.patches):
            return x
        is_patch = (tokens.ids == self.patch_id)[..., None]
        return x.masked_scatter(is_patch, (self.embed_patches(tokens) + place[is_patch[..., 0]]).to(x.dtype))

    def embed_patches(self, tokens: Tokens) -> Tensor:
        """(n_patches, width): the patch block's output plus row and column positions."""
        starts, stops = tokens.intervals[:, 0::2].long(), tokens.intervals[:, 1::2].long()   # (n, 2): row, column
        if self.training:
            at = starts + (torch.rand(starts.shape, device=starts.device) * (stops - starts)).long()
        else:
            at = (starts + stops - 1) // 2
        return self.patch_block(tokens.patches, tokens.channels) + self.rows(at[:, 0]) + self.columns(at[:, 1])
