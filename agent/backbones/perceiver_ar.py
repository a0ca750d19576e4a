"""`perceiver-ar`: Perceiver AR (arXiv:2202.07765), the causal Perceiver that acts with a long context at a low price.

The last tokens are the latents: each reads the whole context up to itself by one causal cross-attention, and only they go
through the layers, which attend among latents. Training one window of N latents behind a prefix of any length costs N tokens
in every layer but the first. What differs from the paper:
- a layer attends to the last `window` latents, not to those of one fixed window, so acting token by token with ring caches
  always equals an uncached pass over the whole history; in training the first latents of a window attend to fewer than N;
- the layers are the decoder's: GEGLU, no biases, rotary positions on whole heads (the paper: on a fraction of each).

Only the latents of a window get a gradient, so each training step draws the position of its window (`sample_targets`).

Legend: B batch, S seq, L latents, H heads, D head dim, C cache slots.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config_json import at_least
from .cache import Cache, Rotations, biased_attention, check_heads, ring_bias, rotate, write_ring
from .decoder import Block, DecoderConfig, FeedForward, ResidualLinear

QUERY_CHUNK = 128   # queries per block of training attention; 128 and 256 are equally fast, 512 slower (2-core CPU, bf16)


@dataclass(frozen=True, kw_only=True)
class PerceiverARConfig:
    """One cross-attention over `context` tokens, then `depth` layers over the last `window` of them."""

    kind: Literal["perceiver-ar"] = "perceiver-ar"
    width: int = 128          # divisible by heads, and into even heads for rotary positions
    depth: int = 4            # layers over latents
    heads: int = 4
    feedforward: int = 4      # GEGLU width before the split, in multiples of width
    context: int = 4096       # tokens per training sequence, and those that the cross-attention reads
    window: int = 512         # latents: tokens that a layer reads, and how many are trained on at a time
    limit: ClassVar[None] = None   # any history can be read: old tokens leave the window

    def __post_init__(self) -> None:
        check_heads(self.width, self.heads)
        at_least(self, "backbone.", window=1, context=2)

    @property
    def attention_window(self) -> int:
        """Tokens that a layer reads, at most as many as in training."""
        return min(self.window, self.context)

    @property
    def grain(self) -> int:
        """Step of the positions of training windows, in tokens."""
        return max(1, self.attention_window // 8)

    @property
    def layer(self) -> DecoderConfig:
        """Of the layers over latents."""
        return DecoderConfig(width=self.width, depth=self.depth, heads=self.heads, feedforward=self.feedforward,
                             context=self.context, window=self.attention_window)


class CausalCrossAttend(nn.Module):
    """Cross-attention of the last tokens, or of other queries, to the tokens up to them; then a feed-forward."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm_query, self.norm_input, self.norm_feedforward = (nn.LayerNorm(config.width, bias=False) for _ in range(3))
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.key_value = nn.Linear(config.width, 2 * config.width, bias=False)
        self.out = ResidualLinear(config.width, config.width, bias=False)
        self.feedforward = FeedForward(config)

    def project_query(self, latents: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """(B, L, width) -> (B, H, L, D), rotated."""
        return rotate(self.query(self.norm_query(latents)).unflatten(-1, (self.heads, -1)).transpose(1, 2), rotation)

    def project_inputs(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(B, S, width) -> rotated keys and values, (B, H, S, D) each."""
        pair = self.key_value(self.norm_input(x)).chunk(2, dim=-1)
        k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in pair)
        return rotate(k, rotation), v

    def forward(self, x: Tensor, count: int, rotations: Rotations, context: int) -> Tensor:
        """Tokens (B, S, width) -> their last `count` as latents (B, count, width), each attending to `context` tokens."""
        positions = torch.arange(x.shape[1], device=x.device)
        first = x.shape[1] - count
        latents = x[:, first:]
        cos, sin = rotations(positions)
        q = self.project_query(latents, (cos[first:], sin[first:]))
        return self.finish(latents, suffix_attention(q, *self.project_inputs(x, (cos, sin)), context))

    def extend(self, x: Tensor, rotation: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, slots: Tensor, bias: Tensor,
               filled: int) -> Tensor:
        """New tokens, all of them latents, against the cache; arguments as in decoder.Attention.extend."""
        k, v = self.project_inputs(x, rotation)
        write_ring(keys, slots, k)
        write_ring(values, slots, v)
        q = self.project_query(x, rotation).to(keys.dtype)
        return self.finish(x, biased_attention(q, keys[:, :, :filled], values[:, :, :filled], bias))

    def finish(self, latents: Tensor, mixed: Tensor) -> Tensor:
        """Residual and feed-forward behind the mixed values (B, H, L, D)."""
        x = latents + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.feedforward(self.norm_feedforward(x))


class PerceiverAR(nn.Module):
    """Embedded tokens in, hidden states of the last of them out."""

    def __init__(self, config: PerceiverARConfig) -> None:
        super().__init__()
        self.config = config
        self.cross_attend = CausalCrossAttend(config.layer)
        self.blocks = cast(Sequence[Block], nn.ModuleList(Block(config.layer) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width, bias=False)
        self.rotations = Rotations(config.width // config.heads)
        for module in self.modules():
            if isinstance(module, ResidualLinear):      # GPT-2's residual scaling, the cross-attention counted
                module.residual_scale = 1 / math.sqrt(2 * (config.depth + 1))

    def sample_targets(self, targets: Tensor) -> Tensor:
        """Those in one window.

        The end of the window is drawn from half a window too early to half a window beyond the sequence, and then moved to the
        nearest possible one: so the outermost positions are latents half as often as those in the middle, not almost never.
        """
        seq, window, grain = targets.shape[1], self.config.attention_window, self.config.grain
        stop = window // 2 + grain * int(torch.randint(seq // grain + 1, ()))
        stop = min(max(stop, window), seq)
        index = torch.arange(seq, device=targets.device)
        return targets & (index >= stop - window) & (index < stop)

    def forward(self, x: Tensor, where: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """See Backbone; in training only the tokens from the first to the last requested position are latents, or a window of
        them."""
        if where is None:
            return self.last(x, x.shape[1])
        rows, index = where
        if not len(rows):
            return self.norm(x[where])
        if not self.training:
            return self.last(x, x.shape[1])[where]
        grain = self.config.grain                                       # few different shapes: see hardware.round_up_to_bucket
        stop = min(x.shape[1], (int(index.max()) // grain + 1) * grain)
        start = max(0, min(int(index.min()), stop - self.config.attention_window) // grain * grain)
        return self.last(x[:, :stop], stop - start)[rows, index - start]

    def last(self, x: Tensor, count: int) -> Tensor:
        """(B, S, width) -> hidden states of the last `count` tokens, which are the latents: (B, count, width)."""
        latents = self.cross_attend(x, count, self.rotations, self.config.context)
        cos, sin = self.rotations(torch.arange(x.shape[1], device=x.device))
        rotation = cos[-count:], sin[-count:]
        for block in self.blocks:
            latents = block(latents, rotation)
        return self.norm(latents)

    def new_cache(self, batch: int, chunk: int, dtype: torch.dtype = torch.float32) -> Cache:
        """See Backbone: a ring of context + chunk - 1 slots for the cross-attention, of window + chunk - 1 for each layer."""
        config, device = self.config, self.norm.weight.device
        slots = [config.context + chunk - 1] + [config.attention_window + chunk - 1] * config.depth
        shapes = [(batch, config.heads, size, config.width // config.heads) for size in slots]
        keys, values = ([torch.zeros(shape, dtype=dtype, device=device) for shape in shapes] for _ in range(2))
        return Cache(tuple(keys), tuple(values), torch.zeros(batch, dtype=torch.int64, device=device))

    def extend(self, x: Tensor, cache: Cache, counts: Tensor | None = None,
               where: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Cache]:
        """See Backbone."""
        seq, config = x.shape[1], self.config
        assert seq <= cache.slots - config.context + 1, (seq, cache.slots, config.context)
        positions = cache.lengths[:, None] + torch.arange(seq, device=x.device)   # (B, S)
        rotation = self.rotations(positions)
        bias, filled = ring_bias(positions, cache.keys[0], config.context)
        x = self.cross_attend.extend(x, rotation, cache.keys[0], cache.values[0], positions % cache.slots, bias, filled)
        if self.blocks:
            slots = cache.keys[1].shape[2]
            bias, filled = ring_bias(positions, cache.keys[1], config.attention_window)
            for block, keys, values in zip(self.blocks, cache.keys[1:], cache.values[1:], strict=True):
                normed = block.norm_attention(x)
                x = block.feed(x + block.attention.extend(normed, rotation, keys, values, positions % slots, bias, filled))
        lengths = cache.lengths + (seq if counts is None else counts)
        return self.norm(x if where is None else x[where]), Cache(cache.keys, cache.values, lengths)


def suffix_attention(q: Tensor, k: Tensor, v: Tensor, context: int) -> Tensor:
    """The queries (B, H, L, D) of the last L of S tokens, each to itself and the context - 1 tokens before it.

    In blocks of queries, each with only the keys (B, H, S, D) that it attends to: no (L, S) mask.
    """
    count, first = q.shape[2], k.shape[2] - q.shape[2]
    mixed = []
    for start in range(0, count, QUERY_CHUNK):
        stop = min(start + QUERY_CHUNK, count)
        low, high = max(0, first + start - context + 1), first + stop
        distance = torch.arange(first + start, high, device=q.device)[:, None] - torch.arange(low, high, device=q.device)
        mask = (distance >= 0) & (distance < context)
        mixed.append(F.scaled_dot_product_attention(q[:, :, start:stop], k[:, :, low:high], v[:, :, low:high], attn_mask=mask))
    return torch.cat(mixed, dim=2)
