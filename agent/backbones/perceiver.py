"""`perceiver`: Perceiver IO (arXiv:2107.14795) as a backbone that acts: latents read the context, a query asks what is next.

For each place that is asked for, the same learned latents read the tokens up to it by one cross-attention, work on themselves
and are read out by a query, the embedding of the place's own token. What differs from the paper:
- it is causal: place t sees tokens t - context + 1 ... t and nothing else, so its state predicts token t + 1 as any backbone's;
  an action of several tokens is predicted token by token, each one read before the next;
- inputs carry rotary positions instead of Fourier features: a latent sees how far back a token stands, so keys never change
  as the history grows and can be kept. Acting reads a ring of keys once; only the latents' own work is done again, and a step
  costs nearly the same behind 4,096 tokens as behind 512.

In training each place costs a pass over its latents, so a row's targets are a random choice of `prefixes` (`sample_targets`).

Legend: B batch, S seq, P places asked for in a row, n in all, N latents, H heads, D head dim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..hardware import round_up_to_bucket
from ..perceiver.layers import CrossAttend, LatentConfig, SelfAttend, attend
from .cache import Cache, Rotations, biased_attention, ring_bias, rotate, write_ring
from .decoder import DecoderConfig
from .perceiver_ar import CausalCrossAttend

PREFIX_CHUNK = 8   # places per block of training attention


@dataclass(frozen=True, kw_only=True)
class PerceiverConfig:
    """One reading of `context` tokens, `depth` layers over the latents, one reading of those."""

    kind: Literal["perceiver"] = "perceiver"
    width: int = 128          # divisible by heads, and into even heads for rotary positions
    depth: int = 4            # layers over the latents
    heads: int = 4
    feedforward: int = 4      # width of the feed-forwards, in multiples of width
    context: int = 512        # tokens per training sequence, and those that a place sees
    latents: int = 16
    prefixes: int = 64        # targets per row and training step

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"backbone.width={self.width} does not split into {self.heads} heads of an even size")
        for name in ("context", "latents", "prefixes"):
            if getattr(self, name) < 1:
                raise ValueError(f"backbone.{name}={getattr(self, name)} must be at least 1")

    @property
    def limit(self) -> None:
        """Longest history: any, see DecoderConfig.limit."""
        return None

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
    """Embedded tokens in, hidden states of the places asked for out."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.config = config
        self.latents = nn.Parameter(torch.randn(config.latents, config.width) * 0.02)
        self.read = CausalCrossAttend(config.reading)
        # a cast, because ModuleList does not tell type checkers what it holds
        self.layers = cast(Sequence[SelfAttend], nn.ModuleList(SelfAttend(config.latent) for _ in range(config.depth)))
        self.answer = CrossAttend(config.latent, config.width, config.width, widening=config.feedforward, residual=True)
        self.norm = nn.LayerNorm(config.width, bias=False)
        self.rotations = Rotations(config.width // config.heads)

    def sample_targets(self, targets: Tensor) -> Tensor:
        """Which of the targets, bool (B, S), a training step learns from: at most `prefixes` in a row, at random."""
        return sample_per_row(targets, self.config.prefixes)

    def forward(self, x: Tensor, where: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Whole sequences; position 0 is the first token of each row.

        Args:
            x: (B, S, width).
            where: (rows, places), int64 (n,) each, row by row and rising: these hidden states are wanted; None: all.
        Returns:
            (n, width), or (B, S, width).
        """
        at = torch.arange(x.shape[1], device=x.device)
        k, v = self.read.project_inputs(x, self.rotations(at))
        return self.ask(x, at.expand(x.shape[:2]), where, lambda q, asked: self.read_prefixes(q, k, v, asked))

    def ask(self, x: Tensor, positions: Tensor, where: tuple[Tensor, Tensor] | None,
            look: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Hidden states at places of x (B, S, width), whose tokens stand at `positions` (B, S) of their rows' histories.

        Args:
            look: rotated latent queries (B, H, P, N, D) and their positions (B, P) -> what they read, (B, H, P, N, D).
        """
        batch, seq, _ = x.shape
        if where is None:
            every = torch.arange(batch * seq, device=x.device)
            return self.ask(x, positions, (every // seq, every % seq), look).unflatten(0, (batch, seq))
        rows, places = where
        if not len(rows):
            return self.norm(x[where])
        columns, table = grouped(rows, places, batch, seq)                      # (n,), (B, P)
        asked = positions.gather(1, table)
        q = self.read.query(self.read.norm_query(self.latents)).unflatten(-1, (self.read.heads, -1))     # (N, H, D)
        cos, sin = (r[:, :, :, None] for r in self.rotations(asked))            # (B, 1, P, 1, D / 2)
        mixed = look(rotate(q.transpose(0, 1)[:, None], (cos, sin)), asked)
        latents = self.read.finish(self.latents, mixed.transpose(1, 2)[rows, columns])                   # (n, N, width)
        for layer in self.layers:
            latents = layer(latents)
        return self.norm(self.answer(x[where][:, None], latents)[:, 0])

    def read_prefixes(self, q: Tensor, k: Tensor, v: Tensor, asked: Tensor) -> Tensor:
        """Latent queries (B, H, P, N, D) of rising places `asked` (B, P), each to the `context` tokens up to its place.

        In blocks of places against just the keys (B, H, S, D) that one of them can see.
        """
        mixed = []
        for start in range(0, asked.shape[1], PREFIX_CHUNK):
            block, at = q[:, :, start:start + PREFIX_CHUNK], asked[:, start:start + PREFIX_CHUNK]
            low, high = max(0, int(at.min()) - self.config.context + 1), min(k.shape[2], round_up_to_bucket(int(at.max()) + 1))
            reach = at[:, :, None] - torch.arange(low, high, device=q.device)                          # (B, p, keys)
            bias = torch.zeros(reach.shape, dtype=q.dtype, device=q.device)
            bias.masked_fill_((reach < 0) | (reach >= self.config.context), -torch.inf)
            bias = bias.repeat_interleave(block.shape[3], dim=1)[:, None]                               # (B, 1, p * N, keys)
            found = attend(block.flatten(2, 3), k[:, :, low:high], v[:, :, low:high], bias)
            mixed.append(found.unflatten(2, block.shape[2:4]))
        return torch.cat(mixed, dim=2)

    def new_cache(self, batch: int, chunk: int, dtype: torch.dtype = torch.float32) -> Cache:
        """An empty cache for `batch` rows that are extended by at most `chunk` tokens at a time: a ring of keys and values."""
        config, device = self.config, self.norm.weight.device
        shape = (batch, config.heads, config.context + chunk - 1, config.width // config.heads)
        keys, values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        return Cache((keys,), (values,), torch.zeros(batch, dtype=torch.int64, device=device))

    def extend(self, x: Tensor, cache: Cache, counts: Tensor | None = None,
               where: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Cache]:
        """Append tokens to each row's history; the same hidden states as `forward` over the row's whole history.

        Args, returns: as Decoder.extend; each place that is not asked for saves a pass over the latents.
        """
        seq, (keys,), (values,) = x.shape[1], cache.keys, cache.values
        assert seq <= cache.slots - self.config.context + 1, (seq, cache.slots, self.config.context)
        positions = cache.lengths[:, None] + torch.arange(seq, device=x.device)   # (B, S)
        k, v = self.read.project_inputs(x, self.rotations(positions))
        write_ring(keys, positions % cache.slots, k)
        write_ring(values, positions % cache.slots, v)

        def look(q: Tensor, asked: Tensor) -> Tensor:
            bias, filled = ring_bias(asked, keys, self.config.context)            # (B, 1, P, filled)
            if asked.shape[1] > 1:                                                # one place's bias serves all its latents
                bias = bias.repeat_interleave(q.shape[3], dim=2)
            mixed = biased_attention(q.flatten(2, 3).to(keys.dtype), keys[:, :, :filled], values[:, :, :filled], bias)
            return mixed.unflatten(2, q.shape[2:4])

        hidden = self.ask(x, positions, where, look)
        return hidden, Cache(cache.keys, cache.values, cache.lengths + (seq if counts is None else counts))


def sample_per_row(targets: Tensor, most: int) -> Tensor:
    """At most `most` of the targets of each row, bool (B, S), at random."""
    lots = torch.rand(targets.shape, device=targets.device).masked_fill(~targets, -1)
    lowest = lots.topk(min(most, lots.shape[1])).values[:, -1:]
    return targets & (lots >= lowest)


def grouped(rows: Tensor, places: Tensor, batch: int, seq: int) -> tuple[Tensor, Tensor]:
    """Places asked for, row by row and rising (the same one may come again), as a table.

        rows 0 0 2 2 2, places 3 5 0 4 4, seq 8  ->  columns 0 1 0 1 1, table [[3 5] [7 7] [0 4]]

    Returns:
        columns int64 (n,), where each one stands in its row of the table; table int64 (batch, P), filled up with seq - 1.
    """
    key = rows * seq + places
    new = F.pad(key[1:] != key[:-1], (1, 0), value=True)
    row, place = rows[new], places[new]
    counts = row.bincount(minlength=batch)
    column = torch.arange(len(row), device=rows.device) - (counts.cumsum(0) - counts)[row]
    table = torch.full((batch, min(seq, round_up_to_bucket(int(counts.max())))), seq - 1, device=rows.device)
    table[row, column] = place
    return column[new.cumsum(0) - 1], table
