"""`data2vec`: data2vec's bidirectional encoder (arXiv:2202.03555) as a backbone that acts: what comes next is masked.

For each place that is asked for, the last `window` tokens up to it and a mask behind them go through the encoder, every place
looking at every other; the mask's vector predicts the token that stands there. Nothing that comes later is seen, so an action
of several tokens is predicted token by token. Acting encodes the window again at each step: cheap for a window of some
timesteps, and the price of looking both ways. What differs from BERT's and data2vec's pre-training is that one place is
masked at a time, the one that will be masked in the control loop.

Legend: B batch, S seq, n places asked for, W window.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data2vec.encoders import Transformer, TransformerConfig, padding_bias
from ..hardware import round_up_to_bucket
from .cache import Cache, write_ring
from .perceiver import sample_per_row

AT_ONCE = 256   # windows: bounds the memory where all places of a batch are asked for


@dataclass(frozen=True, kw_only=True)
class MaskedEncoderConfig:
    """A bidirectional transformer over a window."""

    kind: Literal["data2vec"] = "data2vec"
    width: int = 128          # divisible by heads
    depth: int = 4            # blocks
    heads: int = 4
    feedforward: int = 4      # width of the feed-forwards, in multiples of width
    context: int = 512        # tokens per training sequence
    window: int = 128         # tokens that a place sees
    prefixes: int = 16        # targets per row and training step; each costs a pass over its window

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"backbone.width={self.width} does not split into {self.heads} heads")
        for name in ("context", "window", "prefixes"):
            if getattr(self, name) < 1:
                raise ValueError(f"backbone.{name}={getattr(self, name)} must be at least 1")

    @property
    def attention_window(self) -> int:
        """Tokens that a place sees, never more than there are in training."""
        return min(self.window, self.context)

    @property
    def limit(self) -> None:
        """Longest history: any, see DecoderConfig.limit."""
        return None

    @property
    def transformer(self) -> TransformerConfig:
        """What data2vec calls it."""
        return TransformerConfig(width=self.width, depth=self.depth, heads=self.heads,
                                 feedforward=self.feedforward * self.width)


class TransformerMixer(nn.Module):
    """Every place looks at every other."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.transformer = Transformer(config)
        self.dropout, self.depth = config.dropout, config.depth

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        """x: (B, S, width); real: bool (B, S), None: all. (B, S, width)."""
        bias = None if real is None else padding_bias(real)
        x = F.dropout(self.norm(x), self.dropout, self.training)
        return self.transformer(x, [bias] * self.depth).hidden


class MaskedEncoder(nn.Module):
    """Embedded tokens in, hidden states of masks behind the places asked for out."""

    def __init__(self, config: MaskedEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.positions = nn.Embedding(config.attention_window + 1, config.width)    # the last one is the mask's
        self.mask_token = nn.Parameter(torch.randn(config.width) * 0.02)
        self.mixer = TransformerMixer(config.transformer)

    def sample_targets(self, targets: Tensor) -> Tensor:
        """Which of the targets, bool (B, S), a training step learns from: at most `prefixes` in a row, at random."""
        return sample_per_row(targets, self.config.prefixes)

    def forward(self, x: Tensor, where: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Whole sequences.

        Args:
            x: (B, S, width).
            where: (rows, places), int64 (n,) each: these hidden states are wanted; None: all.
        Returns:
            (n, width), or (B, S, width).
        """
        if where is None:
            batch, seq, _ = x.shape
            every = torch.arange(batch * seq, device=x.device)
            return self(x, (every // seq, every % seq)).unflatten(0, (batch, seq))
        rows, places = where
        if not len(rows):
            return x[where]
        at, real = self.last_window(places)
        return self.encode(x, rows, at, real)

    def last_window(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that places (n,) see, int64 (n, W or fewer), rising; and which of them there are, the rest being 0."""
        width = min(self.config.attention_window, round_up_to_bucket(int(places.max()) + 1))
        at = places[:, None] - torch.arange(width - 1, -1, -1, device=places.device)
        return at.clamp(min=0), at >= 0

    def encode(self, x: Tensor, rows: Tensor, at: Tensor, real: Tensor) -> Tensor:
        """The mask's vector behind each window.

        Args:
            x: (B, S, width), what the windows are cut from.
            rows, at: int64 (n,) and (n, W or fewer): where their tokens are.
            real: bool (n, W or fewer), False where a window reaches back beyond the first token.
        Returns:
            (n, width).
        """
        hidden = []
        for row, places, there in zip(rows.split(AT_ONCE), at.split(AT_ONCE), real.split(AT_ONCE), strict=True):
            window = x[row[:, None], places]                                      # (AT_ONCE or fewer, W or fewer, width)
            window = torch.cat([window, self.mask_token.to(x.dtype).expand(len(row), 1, -1)], dim=1)
            positions = self.positions.weight[-window.shape[1]:]
            there = F.pad(there, (0, 1), value=True)
            hidden.append(self.mixer(window + positions, None if bool(there.all()) else there)[:, -1])
        return torch.cat(hidden)

    def new_cache(self, batch: int, chunk: int, dtype: torch.dtype = torch.float32) -> Cache:
        """An empty cache for `batch` rows that are extended by at most `chunk` tokens at a time: a ring of embedded tokens in
        the place of keys, and no values."""
        device = self.mask_token.device
        ring = torch.zeros(batch, 1, self.config.attention_window + chunk - 1, self.config.width, dtype=dtype, device=device)
        return Cache((ring,), (), torch.zeros(batch, dtype=torch.int64, device=device))

    def extend(self, x: Tensor, cache: Cache, counts: Tensor | None = None,
               where: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Cache]:
        """Append tokens to each row's history; the same hidden states as `forward` over the row's whole history.

        Args, returns: as Decoder.extend; each place that is not asked for saves a pass over its window.
        """
        batch, seq, _ = x.shape
        assert seq <= cache.slots - self.config.attention_window + 1, (seq, cache.slots, self.config.attention_window)
        positions = cache.lengths[:, None] + torch.arange(seq, device=x.device)   # (B, S)
        write_ring(cache.keys[0], positions % cache.slots, x[:, None])
        after = Cache(cache.keys, (), cache.lengths + (seq if counts is None else counts))
        every = torch.arange(batch * seq, device=x.device)
        rows, places = (every // seq, every % seq) if where is None else where
        if not len(rows):
            return x[rows, places], after
        at, real = self.last_window(positions[rows, places])
        hidden = self.encode(cache.keys[0][:, 0], rows, at % cache.slots, real)
        return hidden.unflatten(0, (batch, seq)) if where is None else hidden, after
