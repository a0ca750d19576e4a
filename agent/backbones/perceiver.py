"""`perceiver`: Perceiver IO (arXiv:2107.14795) as a backbone that acts: latents read the context, a query predicts the next.

For each requested position the same learned latents read the tokens up to it by one cross-attention, pass through
self-attention layers and are read out by a query, the embedding of the token at that position. What differs from the paper:
- it is causal: position t attends to tokens t - context + 1 ... t only, so its state predicts token t + 1 as any backbone's;
  an action of several tokens is predicted token by token, each one read before the next;
- inputs have rotary positions instead of Fourier features: attention depends on the distance to a token, so keys do not change
  as the history grows and are cached. Acting reads the ring of keys once and repeats only the layers over the latents; a step
  costs nearly the same after 4,096 tokens as after 512.

In training each position costs a pass over its latents, so a row's targets are a random choice of `prefixes`
(`sample_targets`).

Legend: B batch, S seq, P requested positions of a row, n in all, N latents, H heads, D head dim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config_json import at_least
from ..hardware import round_up_to_bucket
from ..perceiver.layers import CrossAttend, LatentConfig, SelfAttend, attend
from ..training.batch_part import ROWS, rand
from .cache import Cache, Rotations, biased_attention, check_heads, ring_bias, rotate, write_ring
from .decoder import DecoderConfig
from .perceiver_ar import CausalCrossAttend

PREFIX_CHUNK = 8   # positions per block of training attention


@dataclass(frozen=True, kw_only=True)
class PerceiverConfig:
    """A cross-attention to `context` tokens, `depth` layers over the latents, a cross-attention to those."""

    kind: Literal["perceiver"] = "perceiver"
    width: int = 128          # divisible by heads, and into even heads for rotary positions
    depth: int = 4            # layers over the latents
    heads: int = 4
    feedforward: int = 4      # width of the feed-forwards, in multiples of width
    context: int = 512        # tokens per training sequence, and those that a prediction reads
    latents: int = 16
    prefixes: int = 64        # targets per row and training step
    limit: ClassVar[None] = None   # any history can be read: old tokens leave the window

    def __post_init__(self) -> None:
        check_heads(self.width, self.heads)
        at_least(self, "backbone.", context=1, latents=1, prefixes=1)

    @property
    def reading(self) -> DecoderConfig:
        """Of the cross-attention that reads the tokens."""
        return DecoderConfig(width=self.width, heads=self.heads, feedforward=self.feedforward)

    @property
    def latent(self) -> LatentConfig:
        """Of the layers over the latents and of the query."""
        return LatentConfig(latents=self.latents, width=self.width, layers=self.depth, heads=self.heads,
                            widening=self.feedforward)


class Perceiver(nn.Module):
    """Embedded tokens in, hidden states of the requested positions out."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.config = config
        self.latents = nn.Parameter(torch.randn(config.latents, config.width) * 0.02)
        self.read = CausalCrossAttend(config.reading)
        self.layers = cast(Sequence[SelfAttend], nn.ModuleList(SelfAttend(config.latent) for _ in range(config.depth)))
        self.answer = CrossAttend(config.latent, config.width, config.width, widening=config.feedforward, residual=True)
        self.norm = nn.LayerNorm(config.width, bias=False)
        self.rotations = Rotations(config.width // config.heads)

    def sample_targets(self, targets: Tensor) -> Tensor:
        """At most `prefixes` targets of each row, at random."""
        return sample_per_row(targets, self.config.prefixes)

    def forward(self, x: Tensor, where: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """See Backbone; `where` row by row and rising."""
        positions = torch.arange(x.shape[1], device=x.device)
        k, v = self.read.project_inputs(x, self.rotations(positions))
        return self.hidden_states(x, positions.expand(x.shape[:2]), where, lambda q, ends: self.read_prefixes(q, k, v, ends))

    def hidden_states(self, x: Tensor, positions: Tensor, where: tuple[Tensor, Tensor] | None,
                      attend_to: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Hidden states (n, width), or (B, S, width).

        Args:
            x: (B, S, width), tokens at `positions` (B, S) of their rows' histories.
            where: (rows, indices into S), int64 (n,) each; None: all.
            attend_to: rotated latent queries (B, H, P, N, D) and their positions (B, P) -> what they read, (B, H, P, N, D).
        """
        if where is None:
            return self.hidden_states(x, positions, every_position(x), attend_to).unflatten(0, x.shape[:2])
        rows, index = where
        if not len(rows):
            return self.norm(x[where])
        columns, table = grouped(rows, index, *x.shape[:2])                     # (n,), (B, P)
        ends = positions.gather(1, table)
        q = self.read.query(self.read.norm_query(self.latents)).unflatten(-1, (self.read.heads, -1))     # (N, H, D)
        cos, sin = (r[:, :, :, None] for r in self.rotations(ends))            # (B, 1, P, 1, D / 2)
        mixed = attend_to(rotate(q.transpose(0, 1)[:, None], (cos, sin)), ends)
        latents = self.read.finish(self.latents, mixed.transpose(1, 2)[rows, columns])                   # (n, N, width)
        for layer in self.layers:
            latents = layer(latents)
        return self.norm(self.answer(x[where][:, None], latents)[:, 0])

    def read_prefixes(self, q: Tensor, k: Tensor, v: Tensor, ends: Tensor) -> Tensor:
        """Attention of latent queries (B, H, P, N, D) to the `context` tokens up to their positions `ends` (B, P), rising.

        In blocks of positions, each with only the keys (B, H, S, D) that one of them attends to.
        """
        mixed = []
        for start in range(0, ends.shape[1], PREFIX_CHUNK):
            block, last = q[:, :, start:start + PREFIX_CHUNK], ends[:, start:start + PREFIX_CHUNK]
            low = max(0, int(last.min()) - self.config.context + 1)
            high = min(k.shape[2], round_up_to_bucket(int(last.max()) + 1))
            distance = last[:, :, None] - torch.arange(low, high, device=q.device)                          # (B, p, keys)
            bias = torch.zeros(distance.shape, dtype=q.dtype, device=q.device)
            bias.masked_fill_((distance < 0) | (distance >= self.config.context), -torch.inf)
            bias = bias.repeat_interleave(block.shape[3], dim=1)[:, None]                               # (B, 1, p * N, keys)
            found = attend(block.flatten(2, 3), k[:, :, low:high], v[:, :, low:high], bias)
            mixed.append(found.unflatten(2, block.shape[2:4]))
        return torch.cat(mixed, dim=2)

    def new_cache(self, batch: int, chunk: int, dtype: torch.dtype = torch.float32) -> Cache:
        """See Backbone: one ring of keys and values."""
        config, device = self.config, self.norm.weight.device
        shape = (batch, config.heads, config.context + chunk - 1, config.width // config.heads)
        keys, values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        return Cache((keys,), (values,), torch.zeros(batch, dtype=torch.int64, device=device))

    def extend(self, x: Tensor, cache: Cache, counts: Tensor | None = None,
               where: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Cache]:
        """See Backbone; each position that is not requested saves a pass over the latents."""
        seq, (keys,), (values,) = x.shape[1], cache.keys, cache.values
        assert seq <= cache.slots - self.config.context + 1, (seq, cache.slots, self.config.context)
        positions = cache.lengths[:, None] + torch.arange(seq, device=x.device)   # (B, S)
        k, v = self.read.project_inputs(x, self.rotations(positions))
        write_ring(keys, positions % cache.slots, k)
        write_ring(values, positions % cache.slots, v)

        def attend_to(q: Tensor, ends: Tensor) -> Tensor:
            bias, filled = ring_bias(ends, keys, self.config.context)            # (B, 1, P, filled)
            if ends.shape[1] > 1:                                                # all latents of a position have the same bias
                bias = bias.repeat_interleave(q.shape[3], dim=2)
            mixed = biased_attention(q.flatten(2, 3).to(keys.dtype), keys[:, :, :filled], values[:, :, :filled], bias)
            return mixed.unflatten(2, q.shape[2:4])

        hidden = self.hidden_states(x, positions, where, attend_to)
        return hidden, Cache(cache.keys, cache.values, cache.lengths + (seq if counts is None else counts))


def every_position(x: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, indices), int64 (B * S,) each, of all positions of x (B, S, ...), row by row."""
    every = torch.arange(x.shape[0] * x.shape[1], device=x.device)
    return every // x.shape[1], every % x.shape[1]


def sample_per_row(targets: Tensor, most: int) -> Tensor:
    """At most `most` of the targets of each row, bool (B, S), at random."""
    scores = rand(targets.shape, targets.device, of=ROWS).masked_fill(~targets, -1)
    return targets & (scores >= scores.topk(min(most, scores.shape[1])).values[:, -1:])


def grouped(rows: Tensor, positions: Tensor, batch: int, seq: int) -> tuple[Tensor, Tensor]:
    """Requested positions, row by row and rising (duplicates are allowed), as a table.

        rows 0 0 2 2 2, positions 3 5 0 4 4, seq 8  ->  columns 0 1 0 1 1, table [[3 5] [7 7] [0 4]]

    Returns:
        columns int64 (n,), the column of each in its row of the table; table int64 (batch, P), filled up with seq - 1.
    """
    key = rows * seq + positions
    new = F.pad(key[1:] != key[:-1], (1, 0), value=True)
    row = rows[new]
    counts = row.bincount(minlength=batch)
    column = torch.arange(len(row), device=rows.device) - (counts.cumsum(0) - counts)[row]
    table = torch.full((batch, min(seq, round_up_to_bucket(int(counts.max())))), seq - 1, device=rows.device)
    table[row, column] = positions[new]
    return column[new.cumsum(0) - 1], table
