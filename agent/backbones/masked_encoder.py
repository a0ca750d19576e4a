"""`data2vec`: data2vec's bidirectional encoder (arXiv:2202.03555) as a backbone that acts: the next token is masked.

For each requested position the encoder reads the last `window` tokens up to it and a mask token behind them, with attention in
both directions; the mask's output predicts the next token. Later tokens are not in the window, so an action of several tokens
is predicted token by token. Acting encodes the window again at each step, the cost of bidirectional attention; it is small for
a window of a few timesteps. What differs from the pre-training of BERT and data2vec: one position is masked at a time, the one
that is masked in the control loop.

Legend: B batch, S seq, n requested positions, W window.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config_json import at_least
from ..data2vec.encoders import Transformer, TransformerConfig
from ..hardware import round_up_to_bucket
from .cache import Cache, write_ring
from .perceiver import every_position, sample_per_row

AT_ONCE = 256   # windows: bounds the memory where all positions of a batch are requested


@dataclass(frozen=True, kw_only=True)
class MaskedEncoderConfig:
    """A bidirectional transformer over a window."""

    kind: Literal["data2vec"] = "data2vec"
    width: int = 128          # divisible by heads
    depth: int = 4            # blocks
    heads: int = 4
    feedforward: int = 4      # width of the feed-forwards, in multiples of width
    context: int = 512        # tokens per training sequence
    window: int = 128         # tokens that a prediction reads
    prefixes: int = 16        # targets per row and training step; each costs a pass over its window
    limit: ClassVar[None] = None   # any history can be read: old tokens leave the window

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"backbone.width={self.width} does not split into {self.heads} heads")
        at_least(self, "backbone.", context=1, window=1, prefixes=1)

    @property
    def attention_window(self) -> int:
        """Tokens that a prediction reads, at most as many as in training."""
        return min(self.window, self.context)

    @property
    def transformer(self) -> TransformerConfig:
        """The same sizes for data2vec's encoder."""
        return TransformerConfig(width=self.width, depth=self.depth, heads=self.heads,
                                 feedforward=self.feedforward * self.width)


class TransformerMixer(nn.Module):
    """Bidirectional attention."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.transformer = Transformer(config)

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        """x: (B, S, width); real: bool (B, S), None: all. (B, S, width)."""
        return self.transformer.after_norm(self.norm, x, real).hidden


class MaskedEncoder(nn.Module):
    """Embedded tokens in; hidden states of a mask behind each requested position out."""

    def __init__(self, config: MaskedEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.positions = nn.Embedding(config.attention_window + 1, config.width)    # the last one is the mask's
        self.mask_token = nn.Parameter(torch.randn(config.width) * 0.02)
        self.mixer = TransformerMixer(config.transformer)

    def sample_targets(self, targets: Tensor) -> Tensor:
        """At most `prefixes` targets of each row, at random."""
        return sample_per_row(targets, self.config.prefixes)

    def forward(self, x: Tensor, where: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """See Backbone."""
        hidden = self.encode(x, *(every_position(x) if where is None else where))
        return hidden.unflatten(0, x.shape[:2]) if where is None else hidden

    def encode(self, x: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """Hidden states (n, width) of a mask behind the window that ends at each position.

        Args:
            x: (B, S, width); the token of position t lies at index t modulo S.
            rows, positions: int64 (n,) each.
        """
        if not len(rows):
            return x[rows, positions]
        width = min(self.config.attention_window, round_up_to_bucket(int(positions.max()) + 1))
        back = torch.arange(width - 1, -1, -1, device=x.device)
        hidden = []
        for row, last in zip(rows.split(AT_ONCE), positions.split(AT_ONCE), strict=True):
            index = last[:, None] - back                                          # (n, W), negative before the first token
            window = x[row[:, None], index.clamp(min=0) % x.shape[1]]             # (n, W, width)
            window = torch.cat([window, self.mask_token.to(x.dtype).expand(len(row), 1, -1)], dim=1)
            real = F.pad(index >= 0, (0, 1), value=True)
            learned = self.positions.weight[-window.shape[1]:]
            hidden.append(self.mixer(window + learned, None if bool(real.all()) else real)[:, -1])
        return torch.cat(hidden)

    def new_cache(self, batch: int, chunk: int, dtype: torch.dtype = torch.float32) -> Cache:
        """See Backbone: a ring of embedded tokens instead of keys, and no values."""
        device = self.mask_token.device
        ring = torch.zeros(batch, 1, self.config.attention_window + chunk - 1, self.config.width, dtype=dtype, device=device)
        return Cache((ring,), (), torch.zeros(batch, dtype=torch.int64, device=device))

    def extend(self, x: Tensor, cache: Cache, counts: Tensor | None = None,
               where: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Cache]:
        """See Backbone; each position that is not requested saves a pass over its window."""
        seq = x.shape[1]
        assert seq <= cache.slots - self.config.attention_window + 1, (seq, cache.slots, self.config.attention_window)
        positions = cache.lengths[:, None] + torch.arange(seq, device=x.device)   # (B, S)
        write_ring(cache.keys[0], positions % cache.slots, x[:, None])
        after = Cache(cache.keys, (), cache.lengths + (seq if counts is None else counts))
        rows, index = every_position(x) if where is None else where
        hidden = self.encode(cache.keys[0][:, 0], rows, positions[rows, index])
        return hidden.unflatten(0, x.shape[:2]) if where is None else hidden, after
