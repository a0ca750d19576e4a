"""`decoder`: a decoder-only transformer, the backbone of Gato (arXiv:2205.06175, section 2.2).

Pre-norm blocks, GEGLU feed-forward whose stated width is the one before the split (the reading under which the paper's
sizes come out right), no biases. What differs from the paper:
- rotary positions (2104.09864) instead of Transformer-XL's relative ones, so each block has one width x width matrix less;
- each layer attends to the last `window` tokens only, half the context by default. The key cache is then a ring of fixed
  size, and cached acting equals an uncached pass over the whole history for ever, by construction: after the window has
  slid, layer l still sees l * (window - 1) + 1 tokens back, through the layers below it.

Legend: B batch, S seq, H heads, D head dim, C cache slots (cache.py), W window.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import Cache, Rotations, biased_attention, ring_bias, rotate, write_ring

QUERY_CHUNK = 128   # queries per block of training attention; 128 and 256 are equally fast, 512 slower (2-core CPU, bf16)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Decoder-only transformer."""

    kind: Literal["decoder"] = "decoder"
    width: int = 128                # divisible by heads, and into even heads for rotary positions
    depth: int = 4                  # blocks
    heads: int = 1                  # head dim 64-128 is fastest
    feedforward: int = 4            # GEGLU width before the split, in multiples of width
    context: int = 512              # tokens per training sequence
    window: int = 0                 # tokens a layer attends to; 0: half the context
    stochastic_depth: float = 0.0   # chance that a sublayer is skipped for a sequence, in training (Gato: 0.1)

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"backbone.width={self.width} does not split into {self.heads} heads of an even size")
        if self.context < 2 or self.window < 0:
            raise ValueError(f"backbone.context={self.context} must be at least 2 and window={self.window} at least 0")
        if not 0 <= self.stochastic_depth < 1:
            raise ValueError(f"backbone.stochastic_depth={self.stochastic_depth} is outside [0, 1)")

    @property
    def attention_window(self) -> int:
        """Tokens that one layer sees, the current one included."""
        return self.window or max(1, self.context // 2)

    @property
    def limit(self) -> int | None:
        """Longest history that may be read, as training has shown no longer one; None: any, old tokens leave the window as
        they do in training."""
        return self.context if self.attention_window >= self.context else None


class ResidualLinear(nn.Linear):
    """A projection into the residual stream.

    Attributes:
        residual_scale: factor of its initial weights.
    """

    residual_scale: float = 1.0


class Attention(nn.Module):
    """Causal multi-head attention over the last W tokens."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.window = config.attention_window
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = ResidualLinear(config.width, config.width, bias=False)

    def project(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, S, width) -> query, key (both rotated) and value, each (B, H, S, D)."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        return rotate(q, rotation), rotate(k, rotation), v

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Whole sequences, nothing cached: (B, S, width) -> (B, S, width)."""
        q, k, v = self.project(x, rotation)
        mixed = banded_attention(q, k, v, self.window)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def extend(self, x: Tensor, rotation: tuple[Tensor, Tensor], keys: Tensor, values: Tensor,
               slots: Tensor, bias: Tensor, filled: int) -> Tensor:
        """New tokens against the cache.

        Args:
            x: (B, S, width).
            keys, values: (B, H, C, D), written at `slots` (B, S).
            bias: (B, 1, S, filled), 0 where the query may see the slot, -inf where not.
            filled: slots in use; the rest of the ring is left out.
        """
        q, k, v = self.project(x, rotation)
        write_ring(keys, slots, k)
        write_ring(values, slots, v)
        mixed = biased_attention(q.to(keys.dtype), keys[:, :, :filled], values[:, :, :filled], bias)
        return self.out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """GEGLU (2002.05202): width -> 2 x half, gelu(gate) * value, half -> width."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        hidden = config.feedforward * config.width
        self.up = nn.Linear(config.width, hidden, bias=False)
        self.down = ResidualLinear(hidden // 2, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.gelu(gate, approximate="tanh") * value)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.width, bias=False)
        self.attention = Attention(config)
        self.norm_feedforward = nn.LayerNorm(config.width, bias=False)
        self.feedforward = FeedForward(config)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], keep: Tensor | None = None) -> Tensor:
        """keep: (2, B, 1, 1) factors of the two sublayers under stochastic depth, or None."""
        return self.feed(self.attend(x, rotation, keep), None if keep is None else keep[1])

    def attend(self, x: Tensor, rotation: tuple[Tensor, Tensor], keep: Tensor | None = None) -> Tensor:
        """The first sublayer."""
        attended = self.attention(self.norm_attention(x), rotation)
        return x + (attended if keep is None else attended * keep[0])

    def feed(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """The second sublayer; each position by itself."""
        fed = self.feedforward(self.norm_feedforward(x))
        return x + (fed if keep is None else fed * keep)


class Decoder(nn.Module):
    """Embedded tokens in, hidden states out: (B, S, width) -> (B, S, width)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        # a cast, because ModuleList does not tell type checkers what it holds
        self.blocks = cast(Sequence[Block], nn.ModuleList(Block(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width, bias=False)
        self.rotations = Rotations(config.width // config.heads)
        for block in self.blocks:
            # GPT-2's residual scaling: the sum over depth keeps unit variance
            for projection in (block.attention.out, block.feedforward.down):
                projection.residual_scale = 1 / math.sqrt(2 * config.depth)

    def sample_targets(self, targets: Tensor) -> Tensor:
        """Which of the targets, bool (B, S), a training step learns from: all, one pass gives them all."""
        return targets

    def forward(self, x: Tensor, where: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """One pass over whole sequences, as in training; position 0 is the first token of each row.

        Args:
            where: (rows, places), int64 (n,) each: only these hidden states are wanted. The last feed-forward is then
                done for them alone: with one target in ten tokens that saves a sixth of a small model's step.
        Returns:
            (B, S, width), or (n, width).
        """
        rotation = self.rotations(torch.arange(x.shape[1], device=x.device))
        keeps = self.draw_keeps(x) if self.training and self.config.stochastic_depth else [None] * len(self.blocks)
        for block, keep in zip(self.blocks[:-1], keeps, strict=False):
            x = block(x, rotation, keep)
        last, keep = self.blocks[-1], keeps[-1]
        x = last.attend(x, rotation, keep)
        fed = None if keep is None else keep[1]                        # (B, 1, 1)
        if where is not None:
            x, fed = x[where], None if fed is None else fed[where[0], 0]   # (n, width), (n, 1)
        return self.norm(last.feed(x, fed))

    def compile_blocks(self) -> None:
        """torch.compile for training: all of the blocks but the last one's feed-forward, whose shape changes."""
        self.rotations.grow(self.config.context, self.norm.weight.device)
        for block in self.blocks[:-1]:
            block.compile(dynamic=False)
        self.blocks[-1].attend = torch.compile(self.blocks[-1].attend, dynamic=False)  # type: ignore[method-assign]

    def draw_keeps(self, x: Tensor) -> list[Tensor]:
        """Stochastic depth: per block (2, B, 1, 1), 0 for a skipped sublayer, 1 / (1 - p) for a kept one."""
        chance = 1 - self.config.stochastic_depth
        drawn = torch.rand(len(self.blocks), 2, x.shape[0], 1, 1, device=x.device) < chance
        return list((drawn / chance).to(x.dtype))

    def new_cache(self, batch: int, chunk: int, dtype: torch.dtype = torch.float32) -> Cache:
        """An empty cache for `batch` rows that are extended by at most `chunk` tokens at a time.

        The ring has window + chunk - 1 slots: the first query of a chunk still finds its oldest key after the last token
        of the chunk has been written.
        """
        config = self.config
        shape = (batch, config.heads, config.attention_window + chunk - 1, config.width // config.heads)
        device = self.norm.weight.device
        keys, values = ([torch.zeros(shape, dtype=dtype, device=device) for _ in self.blocks] for _ in range(2))
        return Cache(tuple(keys), tuple(values), torch.zeros(batch, dtype=torch.int64, device=device))

    def extend(self, x: Tensor, cache: Cache, counts: Tensor | None = None,
               where: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Cache]:
        """Append tokens to each row's history; the same hidden states as `forward` over the row's whole history.

        Args:
            x: (B, S, width), padded on the right where rows differ.
            cache: consumed; S must fit the `chunk` that it was made for.
            counts: int64 (B,), how many of the S tokens are real per row; None: all.
            where: (rows, places), int64 (n,) each, of the new tokens, row by row and rising: these hidden states are wanted.
        Returns:
            hidden (n, width), or (B, S, width), meaningless at padding; and the cache with lengths + counts.
        """
        seq = x.shape[1]
        slots, window = cache.slots, self.config.attention_window
        assert seq <= slots - window + 1, (seq, slots, window)
        positions = cache.lengths[:, None] + torch.arange(seq, device=x.device)   # (B, S)
        bias, filled = ring_bias(positions, cache.keys[0], window)
        rotation = self.rotations(positions)
        for block, keys, values in zip(self.blocks, cache.keys, cache.values, strict=True):
            normed = block.norm_attention(x)
            x = x + block.attention.extend(normed, rotation, keys, values, positions % slots, bias, filled)
            x = block.feed(x if where is None or block is not self.blocks[-1] else x[where])
        lengths = cache.lengths + (seq if counts is None else counts)
        return self.norm(x), Cache(cache.keys, cache.values, lengths)


def banded_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention of each query to itself and the window - 1 tokens before it; (B, H, S, D) each.

    Queries go in blocks against just the keys that they can see. On CPUs this trains 1.5 to 2 times faster than
    `scaled_dot_product_attention` with a mask, and needs no (S, S) matrix.
    """
    seq = q.shape[2]
    if q.is_cuda:
        distance = torch.arange(seq, device=q.device)[:, None] - torch.arange(seq, device=q.device)
        mask = None if window >= seq else (distance >= 0) & (distance < window)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    # Outside autocast, whose own choices cost more copies; the softmax stays in fp32, which its gradient needs.
    # A bias costs less than masked_fill, whose backward pass fills again.
    with torch.autocast(q.device.type, enabled=False):
        rows = q.shape[:2]
        q, k, v = ((q * q.shape[-1] ** -0.5).flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
        mixed = []
        for start in range(0, seq, QUERY_CHUNK):
            stop = min(start + QUERY_CHUNK, seq)
            first = max(0, start - window + 1)
            reach = torch.arange(start, stop, device=q.device)[:, None] - torch.arange(first, stop, device=q.device)
            bias = torch.zeros(reach.shape, dtype=q.dtype, device=q.device)
            bias.masked_fill_((reach < 0) | (reach >= window), -torch.inf)
            scores = q[:, start:stop] @ k[:, first:stop].transpose(1, 2) + bias
            mixed.append(scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v[:, first:stop])
        return torch.cat(mixed, dim=1).unflatten(0, rows)
