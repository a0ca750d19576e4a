"""`decoder`: a decoder-only transformer, the backbone of Gato (arXiv:2205.06175, section 2.2).

Pre-norm blocks, GEGLU feed-forward whose stated width is the one before the split (the reading under which the paper's
sizes come out right), no biases. What differs from the paper:
- rotary positions (2104.09864) instead of Transformer-XL's relative ones, so each block has one width x width matrix less;
- each layer attends to the last `window` tokens only, half the context by default. The key cache is then a ring of fixed
  size, and cached acting always equals an uncached pass over the whole history: layer l depends on the last
  l * (window - 1) + 1 tokens, through the layers below it.

Legend: B batch, S seq, H heads, D head dim, C cache slots (cache.py), W window.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config_json import at_least
from ..training.batch_part import ROWS, rand
from .banded import banded_attention
from .cache import Cache, Rotations, biased_attention, check_heads, ring_bias, rotate, write_ring


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
    segments: bool = False          # in training a token sees its own episode or document only, as in play
    stochastic_depth: float = 0.0   # chance that a sublayer is skipped for a sequence, in training (Gato: 0.1)

    def __post_init__(self) -> None:
        check_heads(self.width, self.heads)
        at_least(self, "backbone.", context=2, window=0)
        if not 0 <= self.stochastic_depth < 1:
            raise ValueError(f"backbone.stochastic_depth={self.stochastic_depth} is outside [0, 1)")

    @property
    def attention_window(self) -> int:
        """Tokens that one layer attends to, the current one included."""
        return self.window or max(1, self.context // 2)

    @property
    def reach(self) -> int:
        """Tokens that a state depends on, itself included: through the layers below, more than the window of one."""
        return self.depth * (self.attention_window - 1) + 1

    @property
    def limit(self) -> int | None:
        """See BackboneConfig."""
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

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], segment: Tensor | None = None) -> Tensor:
        """Whole sequences, nothing cached: (B, S, width) -> (B, S, width); segment: see `banded_attention`."""
        q, k, v = self.project(x, rotation)
        mixed = banded_attention(q, k, v, self.window, segment)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def extend(self, x: Tensor, rotation: tuple[Tensor, Tensor], keys: Tensor, values: Tensor,
               slots: Tensor, bias: Tensor, filled: int) -> Tensor:
        """New tokens against the cache.

        Args:
            x: (B, S, width).
            keys, values: (B, H, C, D), written at `slots` (B, S).
            bias: (B, 1, S, filled), 0 where the query attends to the slot, -inf where not.
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
    """x + attention(norm(x)), then x + feedforward(norm(x)).

    Attributes:
        recomputed: in training the intermediate results are computed again for the gradient instead of being kept.
    """

    recomputed = False

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.width, bias=False)
        self.attention = Attention(config)
        self.norm_feedforward = nn.LayerNorm(config.width, bias=False)
        self.feedforward = FeedForward(config)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], keep: Tensor | None = None,
                segment: Tensor | None = None, where: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """keep: (2, B, 1, 1) factors of the two sublayers under stochastic depth, or None; where: the states to go on with,
        (rows, positions)."""
        if self.recomputed and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(self.both, x, rotation, keep, segment, where, use_reentrant=False,
                                           preserve_rng_state=False))      # what is random comes in `keep`
        return self.both(x, rotation, keep, segment, where)

    def both(self, x: Tensor, rotation: tuple[Tensor, Tensor], keep: Tensor | None, segment: Tensor | None,
             where: tuple[Tensor, Tensor] | None) -> Tensor:
        """One sublayer after the other."""
        x = self.attend(x, rotation, keep, segment)
        fed = None if keep is None else keep[1]                            # (B, 1, 1)
        if where is not None:
            x, fed = x[where], None if fed is None else fed[where[0], 0]   # (n, width), (n, 1)
        return self.feed(x, fed)

    def attend(self, x: Tensor, rotation: tuple[Tensor, Tensor], keep: Tensor | None = None,
               segment: Tensor | None = None) -> Tensor:
        """The first sublayer."""
        attended = self.attention(self.norm_attention(x), rotation, segment)
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
        # a cast, here and elsewhere, because the type of ModuleList does not say what it holds
        self.blocks = cast(Sequence[Block], nn.ModuleList(Block(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width, bias=False)
        self.rotations = Rotations(config.width // config.heads)
        for block in self.blocks:
            # GPT-2's residual scaling: the sum over depth keeps unit variance
            for projection in (block.attention.out, block.feedforward.down):
                projection.residual_scale = 1 / math.sqrt(2 * config.depth)

    def sample_targets(self, targets: Tensor) -> Tensor:
        """All: one pass predicts every target."""
        return targets

    def forward(self, x: Tensor, where: tuple[Tensor, Tensor] | None = None, segment: Tensor | None = None) -> Tensor:
        """See Backbone. With `where` the last feed-forward is computed for those states alone: with one target in ten tokens
        that saves a sixth of a small model's step.

        Args:
            segment: int (B, S); each position sees those of its own number alone. None: all before it.
        """
        rotation = self.rotations(torch.arange(x.shape[1], device=x.device))
        keeps = self.draw_keeps(x) if self.training and self.config.stochastic_depth else [None] * len(self.blocks)
        for block, keep in zip(self.blocks[:-1], keeps, strict=False):
            x = block(x, rotation, keep, segment)
        return self.norm(self.blocks[-1](x, rotation, keeps[-1], segment, where))

    def compile_blocks(self) -> None:
        """torch.compile for training: all of the blocks but the last one's feed-forward, whose shape changes."""
        self.rotations.grow(self.config.context, self.norm.weight.device)
        for block in self.blocks[:-1]:
            block.compile(dynamic=False)
        self.blocks[-1].attend = torch.compile(self.blocks[-1].attend, dynamic=False)  # type: ignore[method-assign]

    def draw_keeps(self, x: Tensor) -> list[Tensor]:
        """Stochastic depth: per block (2, B, 1, 1), 0 for a skipped sublayer, 1 / (1 - p) for a kept one."""
        chance = 1 - self.config.stochastic_depth
        drawn = rand((len(self.blocks), 2, x.shape[0], 1, 1), x.device, of=ROWS, dim=2) < chance
        return list((drawn / chance).to(x.dtype))

    def new_cache(self, batch: int, chunk: int, dtype: torch.dtype = torch.float32) -> Cache:
        """See Backbone. A ring of window + chunk - 1 slots still has the oldest key of a chunk's first query after the chunk's
        last token was written."""
        config = self.config
        shape = (batch, config.heads, config.attention_window + chunk - 1, config.width // config.heads)
        device = self.norm.weight.device
        keys, values = ([torch.zeros(shape, dtype=dtype, device=device) for _ in self.blocks] for _ in range(2))
        return Cache(tuple(keys), tuple(values), torch.zeros(batch, dtype=torch.int64, device=device))

    def extend(self, x: Tensor, cache: Cache, counts: Tensor | None = None,
               where: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Cache]:
        """See Backbone."""
        seq = x.shape[1]
        slots, window = cache.slots, self.config.attention_window
        assert seq <= slots - window + 1, (seq, slots, window)
        positions = cache.lengths[:, None] + torch.arange(seq, device=x.device)   # (B, S)
        bias, filled = ring_bias(positions, cache.keys[0], window)
        rotation, written = self.rotations(positions), positions % slots
        for block, keys, values in zip(self.blocks, cache.keys, cache.values, strict=True):
            normed = block.norm_attention(x)
            x = x + block.attention.extend(normed, rotation, keys, values, written, bias, filled)
            x = block.feed(x if where is None or block is not self.blocks[-1] else x[where])
        lengths = cache.lengths + (seq if counts is None else counts)
        return self.norm(x), Cache(cache.keys, cache.values, lengths)
