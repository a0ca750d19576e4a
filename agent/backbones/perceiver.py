"""`perceiver`: Perceiver IO (arXiv:2107.14795) as a backbone that acts: latents read the context, a query predicts the next.

For each requested position the same learned latents read the tokens up to it by one cross-attention, pass through
self-attention layers and are read out by a query, the embedding of the token at that position. What differs from the paper:
- it is causal: position t attends to tokens t - context + 1 ... t only, so its state predicts token t + 1 as any backbone's;
  an action of several tokens is predicted token by token, each one read before the next;
- inputs have rotary positions instead of Fourier features: attention depends on the distance to a token, so keys do not change
  as the history grows and are cached. Acting reads the ring of keys once and repeats only the layers over the latents; a step
  costs nearly the same after 4,096 tokens as after 512.

In training each position costs a pass over its latents, so a row's targets are a random choice of `prefixes`
(`sample_targets`). That is most of a row's actions and few of its words. With `stride` above 1 so many tokens share the latents
of the first of them: each of the others is answered by one causal attention to these latents and to the tokens of its own
stride up to itself, so that all targets of `prefixes` strides are learned from at about the price of one each.

    stride 4:   tokens   0 1 2 3 | 4 5 6 7 | ...     latents read the tokens up to 0, up to 4, ...
                6 is answered from the latents of 4 and the tokens 4 5 6

Legend: B batch, S seq, P requested positions of a row, n in all, N latents, H heads, D head dim, L stride.
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
    prefixes: int = 64        # targets per row and training step; with a stride: strides, of which all targets are learned from
    stride: int = 1           # tokens that share latents; 1: each has its own
    limit: ClassVar[None] = None   # any history can be read: old tokens leave the window

    def __post_init__(self) -> None:
        check_heads(self.width, self.heads)
        at_least(self, "backbone.", context=1, latents=1, prefixes=1, stride=1)

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
        self.answer: CrossAttend | CausalCrossAttend = CausalCrossAttend(config.reading) if config.stride > 1 else CrossAttend(
            config.latent, config.width, config.width, widening=config.feedforward, residual=True)
        self.norm = nn.LayerNorm(config.width, bias=False)
        self.rotations = Rotations(config.width // config.heads)

    def sample_targets(self, targets: Tensor) -> Tensor:
        """At most `prefixes` targets of each row, at random; with a stride all targets of at most so many strides."""
        return sample_per_row(targets, self.config.prefixes, self.config.stride)

    def forward(self, x: Tensor, where: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """See Backbone; `where` row by row and rising."""
        rotation = self.rotations(torch.arange(x.shape[1], device=x.device))
        k, v = self.read.project_inputs(x, rotation)
        near = None
        if isinstance(self.answer, CausalCrossAttend):
            near = self.answer.project_inputs(x, rotation)
        first = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return self.hidden_states(x, first, where, lambda q, ends: self.read_prefixes(q, k, v, ends), near)

    def hidden_states(self, x: Tensor, first: Tensor, where: tuple[Tensor, Tensor] | None,
                      attend_to: Callable[[Tensor, Tensor], Tensor], near: tuple[Tensor, Tensor] | None) -> Tensor:
        """Hidden states (n, width), or (B, S, width).

        Args:
            x: (B, S, width), tokens of their rows' histories.
            first: int64 (B,), the positions there of the first of them.
            where: (rows, indices into S), int64 (n,) each; None: all.
            attend_to: rotated latent queries (B, H, P, N, D) and their positions (B, P) -> what they read, (B, H, P, N, D).
            near: with a stride, keys and values (B, H, C, D) for `answer` of the tokens from the first requested stride on, the
                one at position t in slot t modulo C.
        """
        if where is None:
            return self.hidden_states(x, first, every_position(x), attend_to, near).unflatten(0, x.shape[:2])
        rows, index = where
        if not len(rows):
            return self.norm(x[where])
        starts = self.start_of(first[rows] + index)
        newest = self.start_of(first + x.shape[1] - 1)
        groups = Grouped.of(rows, starts, newest)
        q = self.read.query(self.read.norm_query(self.latents)).unflatten(-1, (self.read.heads, -1))     # (N, H, D)
        cos, sin = (r[:, :, :, None] for r in self.rotations(groups.table))     # (B, 1, P, 1, D / 2)
        mixed = attend_to(rotate(q.transpose(0, 1)[:, None], (cos, sin)), groups.table)
        latents = self.read.finish(self.latents, mixed.transpose(1, 2)[groups.rows, groups.columns])     # (groups, N, width)
        for layer in self.layers:
            latents = layer(latents)
        if isinstance(self.answer, CrossAttend):
            return self.norm(self.answer(x[where][:, None], latents[groups.group])[:, 0])
        assert near is not None
        answers = self.answer_strides(x, first, groups, latents, near)                                   # (groups, L, width)
        return self.norm(answers[groups.group, first[rows] + index - starts])

    def start_of(self, positions: Tensor) -> Tensor:
        """The first positions of their strides."""
        return positions // self.config.stride * self.config.stride

    def answer_strides(self, x: Tensor, first: Tensor, groups: "Grouped", latents: Tensor,
                       near: tuple[Tensor, Tensor]) -> Tensor:
        """The answers at all tokens of each group's stride, (groups, L, width); meaningless at those that are not in x.

        The latents count as tokens at the start of the stride for the rotary positions.
        """
        answer, rows, stride = self.answer, groups.rows, self.config.stride
        assert isinstance(answer, CausalCrossAttend)
        offsets = torch.arange(stride, device=x.device)
        positions = groups.starts[:, None] + offsets                                                     # (groups, L)
        tokens = x[rows[:, None], (positions - first[rows, None]).clamp(0, x.shape[1] - 1)]              # (groups, L, width)
        q = answer.project_query(tokens, self.rotations(positions))
        # after the queries, whose positions are the last: the table of rotations is then long enough
        k, v = answer.project_inputs(latents, self.rotations(groups.starts[:, None]))
        slots = (rows[:, None], positions % near[0].shape[2])
        k, v = (torch.cat([own, ring.transpose(1, 2)[slots].transpose(1, 2).to(own.dtype)], dim=2)
                for own, ring in zip((k, v), near, strict=True))                                         # (groups, H, N + L, D)
        later = F.pad(offsets > offsets[:, None], (latents.shape[1], 0), value=False)                    # (L, N + L)
        bias = torch.zeros(later.shape, dtype=q.dtype, device=q.device).masked_fill_(later, -torch.inf)
        return answer.finish(tokens, attend(q, k, v, bias))

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
        """See Backbone: one ring of keys and values, and with a stride one of those of the last tokens for `answer`."""
        config, device = self.config, self.norm.weight.device
        sizes = [config.context + chunk + config.stride - 2] + [config.stride + chunk - 1] * (config.stride > 1)
        shapes = [(batch, config.heads, size, config.width // config.heads) for size in sizes]
        keys, values = ([torch.zeros(shape, dtype=dtype, device=device) for shape in shapes] for _ in range(2))
        return Cache(tuple(keys), tuple(values), torch.zeros(batch, dtype=torch.int64, device=device))

    def extend(self, x: Tensor, cache: Cache, counts: Tensor | None = None,
               where: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Cache]:
        """See Backbone; each position, or stride, that is not requested saves a pass over the latents."""
        seq, keys, values = x.shape[1], cache.keys[0], cache.values[0]
        assert seq <= cache.slots - self.config.context - self.config.stride + 2, (seq, cache.slots, self.config)
        positions = cache.lengths[:, None] + torch.arange(seq, device=x.device)   # (B, S)
        rotation, near = self.rotations(positions), None
        rings = [(self.read, keys, values)]
        if isinstance(self.answer, CausalCrossAttend):
            near = cache.keys[1], cache.values[1]
            rings.append((self.answer, *near))
        for layer, *pair in rings:
            for ring, new in zip(pair, layer.project_inputs(x, rotation), strict=True):
                write_ring(ring, positions % ring.shape[2], new)

        def attend_to(q: Tensor, ends: Tensor) -> Tensor:
            bias, filled = ring_bias(ends, keys, self.config.context)            # (B, 1, P, filled)
            if ends.shape[1] > 1:                                                # all latents of a position have the same bias
                bias = bias.repeat_interleave(q.shape[3], dim=2)
            mixed = biased_attention(q.flatten(2, 3).to(keys.dtype), keys[:, :, :filled], values[:, :, :filled], bias)
            return mixed.unflatten(2, q.shape[2:4])

        hidden = self.hidden_states(x, cache.lengths, where, attend_to, near)
        return hidden, Cache(cache.keys, cache.values, cache.lengths + (seq if counts is None else counts))


def every_position(x: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, indices), int64 (B * S,) each, of all positions of x (B, S, ...), row by row."""
    every = torch.arange(x.shape[0] * x.shape[1], device=x.device)
    return every // x.shape[1], every % x.shape[1]


def sample_per_row(targets: Tensor, most: int, stride: int = 1) -> Tensor:
    """At most `most` of the targets of each row, bool (B, S), at random; with a stride those in so many strides."""
    seq = targets.shape[1]
    held = F.pad(targets, (0, -seq % stride)).unflatten(1, (-1, stride)).any(dim=2)                 # (B, strides)
    scores = rand(held.shape, targets.device, of=ROWS).masked_fill(~held, -1)
    chosen = scores >= scores.topk(min(most, scores.shape[1])).values[:, -1:]
    return targets & chosen.repeat_interleave(stride, dim=1)[:, :seq]


@dataclass(frozen=True)
class Grouped:
    """Requested positions that share latents, row by row, as groups and as a table.

        rows 0 0 2 2 2, starts 3 5 0 4 4  ->  group 0 1 2 3 3, rows 0 0 2 2, starts 3 5 0 4, columns 0 1 0 1,
                                              table [[3 5] [7 7] [0 4]], filled up with newest [7 7 7]

    Attributes:
        group: int64 (n,), of each request.
        rows, starts, columns: int64 (groups,): the row, the position, and the column of the table. The last group may stand
            there several times: shapes recur, see hardware.round_up_to_bucket.
        table: int64 (B, P), positions of each row, rising.
    """

    group: Tensor
    rows: Tensor
    starts: Tensor
    columns: Tensor
    table: Tensor

    @classmethod
    def of(cls, rows: Tensor, starts: Tensor, newest: Tensor) -> "Grouped":
        """
        Args:
            rows, starts: int64 (n,), row by row and rising; duplicates are allowed.
            newest: int64 (B,), positions at or after all starts of a row.
        """
        new = F.pad((rows[1:] != rows[:-1]) | (starts[1:] != starts[:-1]), (1, 0), value=True)
        row, start = rows[new], starts[new]
        counts = row.bincount(minlength=len(newest))
        columns = torch.arange(len(row), device=rows.device) - (counts.cumsum(0) - counts)[row]
        table = newest[:, None].repeat(1, min(int(newest.max()) + 1, round_up_to_bucket(int(counts.max()))))
        table[row, columns] = start
        padded = torch.arange(round_up_to_bucket(len(row)), device=rows.device).clamp(max=len(row) - 1)
        return cls(new.cumsum(0) - 1, row[padded], start[padded], columns[padded], table)
