"""What backbones that act share: a ring of keys and values per row, rotary positions, attention of few queries to many keys.

Legend: B batch, S seq, H heads, D head dim, C cache slots.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..hardware import has_amx, round_up_to_bucket

LARGE_CACHE = 1 << 20    # numbers in a layer's keys: 4 MB in fp32, more than a core's own caches hold
WIDE_HEAD = 48           # see one_query


@dataclass(frozen=True)
class Cache:
    """Keys and values of the tokens read so far, per row; a value that the caller holds.

    Row b has read `lengths[b]` tokens; token t lies in slot t modulo the number of slots. Rows are independent of each other.
    `Backbone.extend` writes into the tensors in place, so a cache is used once.

    Attributes:
        keys, values: one tensor (B, H, C, D) per layer.
        lengths: int64 (B,).
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    lengths: Tensor

    @property
    def slots(self) -> int:
        """Ring size C."""
        return self.keys[0].shape[2]

    def reset(self, rows: Tensor) -> "Cache":
        """Empties these rows. Their old keys stay in memory and are never read: slots beyond the length are masked."""
        lengths = self.lengths.clone()
        lengths[rows] = 0
        return Cache(self.keys, self.values, lengths)

    def select(self, rows: Tensor) -> "Cache":
        """A copy of these rows, in this order; rows may repeat."""
        return Cache(tuple(k[rows] for k in self.keys), tuple(v[rows] for v in self.values), self.lengths[rows])

    def assign(self, rows: Tensor, other: "Cache") -> "Cache":
        """Overwrite `rows` with the rows of `other` (same slots), or with its single row."""
        for mine, theirs in zip(self.keys + self.values, other.keys + other.values, strict=True):
            mine[rows] = theirs
        lengths = self.lengths.clone()
        lengths[rows] = other.lengths
        return Cache(self.keys, self.values, lengths)


def write_ring(ring: Tensor, slots: Tensor, new: Tensor) -> None:
    """Put new (B, H, S, D) into the slots (B, S) of a ring (B, H, C, D), in place."""
    rows = torch.arange(len(slots), device=slots.device)[:, None]
    ring.transpose(1, 2)[rows, slots] = new.transpose(1, 2).to(ring.dtype)        # (B, S, H, D)


def ring_bias(positions: Tensor, keys: Tensor, window: int) -> tuple[Tensor, int]:
    """Attention bias after tokens at `positions` (B, S) were written into a ring of keys (B, H, C, D).

    Returns:
        bias (B, 1, S, filled), 0 for the last `window` tokens up to each and -inf elsewhere; and `filled`, how many slots to
        read: those in use, rounded up, so that attention's shapes recur while the ring fills.
    """
    slots = keys.shape[2]
    newest = positions[:, -1:]                                                             # (B, 1), padding included
    filled = min(slots, round_up_to_bucket(int(newest.max()) + 1))
    held = newest - (newest - torch.arange(filled, device=positions.device)) % slots       # (B, filled): position in each slot
    distance = positions[:, :, None] - held[:, None, :]                                    # (B, S, filled)
    masked = (distance < 0) | (distance >= window) | (held < 0)[:, None, :]
    return torch.zeros(masked.shape, dtype=keys.dtype, device=keys.device).masked_fill_(masked, -torch.inf)[:, None], filled


def check_heads(width: int, heads: int) -> None:
    """Raises ValueError where the width does not split into heads of an even size, which rotary positions need."""
    if width % heads or (width // heads) % 2:
        raise ValueError(f"backbone.width={width} does not split into {heads} heads of an even size")


class Rotations(nn.Module):
    """Cosines and sines of rotary positions (2104.09864), from a table that grows with the longest history."""

    def __init__(self, head_dim: int, base: float = 10_000.0) -> None:
        super().__init__()
        self.head_dim, self.base = head_dim, base
        self.table = torch.empty(0, head_dim)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions: int64 (..., S) -> cos, sin: (..., S, D / 2), with a heads axis where there is a batch axis."""
        needed = int(positions[..., -1].max()) + 1 if positions.ndim > 1 else positions.shape[-1]
        if needed > len(self.table) or self.table.device != positions.device:
            self.grow(max(1024, 1 << (needed - 1).bit_length()), positions.device)
        cos, sin = self.table[positions].chunk(2, dim=-1)
        return (cos[:, None], sin[:, None]) if positions.ndim > 1 else (cos, sin)

    def grow(self, length: int, device: torch.device) -> None:
        """Angles in double precision: single precision is off by 0.03 rad near position one million."""
        frequencies = self.base ** (-torch.arange(0, self.head_dim, 2, dtype=torch.float64) / self.head_dim)
        angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
        self.table = torch.cat([angles.cos(), angles.sin()], dim=-1).float().to(device)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pairs (x_i, x_{i + D/2}) of x (B, H, S, D) by the angles of their positions."""
    cos, sin = (r.to(x.dtype) for r in rotation)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """A few queries (B, H, S, D) against a cache (B, H, C, D); bias (B, 1, S, C) is added to the scores.

    CPUs with AMX run `scaled_dot_product_attention` 1.7 to 4.6 times faster than plain matrix products; other CPUs run the
    products 2.5 to 8 times faster (measured on an AVX-512 bf16 machine).
    """
    if q.is_cuda or has_amx():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    large = k.numel() >= LARGE_CACHE and k.shape[-1] >= WIDE_HEAD
    if large and q.is_cpu and q.shape[2] == 1 and q.dtype == torch.float32 and v.is_contiguous():
        return one_query(q, k, v, bias)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias
    return scores.softmax(dim=-1) @ v


def one_query(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The same for S = 1, float32, wide heads, and a contiguous v that is larger than a core's caches.

    MKL's products of a single row read k and v at 9 GB/s. With the query on the right, and with torch's weighted sum of rows,
    it is 13 and 14.5 GB/s (one core of an AMD EPYC, Zen 3, which copies at 16; C = 1,024, D = 128, 1 and 16 rows). Time over
    that of the products: 0.7 with D = 128, 0.84 to 0.94 with 64 and 48, 1.04 to 1.1 with 32.
    """
    batch, heads, slots, dim = v.shape
    scores = (k @ (q * dim**-0.5).transpose(-1, -2)).transpose(-1, -2) + bias              # (B, H, 1, C)
    weights, every = scores.softmax(dim=-1).flatten(), torch.arange(batch * heads * slots)
    sums = F.embedding_bag(every, v.view(-1, dim), every[::slots], mode="sum", per_sample_weights=weights)
    return sums.view(batch, heads, 1, dim)
