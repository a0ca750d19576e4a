"""Attention within a sliding window: each token to itself and the window - 1 tokens before it; with segments, to those of its
own segment alone. The cost per token does not grow with the sequence, and no (S, S) mask is made where the window is much
smaller than the sequence.

Queries are taken in blocks, each with the keys of its own block and of those before that the window reaches. Two forms with the
same results, both by torch's `scaled_dot_product_attention`, which keeps no attention weights for the gradient:

- `blocks_in_turn`, for CPUs: small blocks one after another, whose first ones have fewer keys;
- `blocks_at_once`, for GPUs: all blocks in one call, because a GPU would wait for the start of each.

Flex attention is not used: torch computes its gradient on GPUs only, so it could not be tested everywhere.

Legend: B batch, S seq, H heads, D head dim, W window, C queries of a block, N blocks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IN_TURN = 64     # C on CPUs: 32 and 128 are up to a fifth slower (fp32, AMD EPYC of Zen 3, head dim 32 and 64, window 256)
AT_ONCE = 64     # C on GPUs is a multiple of this, so that torch's kernel takes the bias without copying it


def banded_attention(q: Tensor, k: Tensor, v: Tensor, window: int, segment: Tensor | None = None) -> Tensor:
    """Causal attention of each query to itself and the window - 1 tokens before it.

    Args:
        q, k, v: (B, H, S, D) each.
        segment: int (B, S); a query sees the keys of its own number alone. None: of any.
    Returns:
        (B, H, S, D), in the dtype of q.
    """
    with torch.autocast(q.device.type, enabled=False):      # which would convert the biases again
        return (on_gpus if q.is_cuda else blocks_in_turn)(q, k, v, window, segment)


def on_gpus(q: Tensor, k: Tensor, v: Tensor, window: int, segment: Tensor | None = None) -> Tensor:
    """See banded_attention: all blocks at once, or one call for the sequence where the blocks would have as many keys as it."""
    seq = q.shape[2]
    if window >= seq and segment is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    block, before = block_of_gpu(window)
    if (before + 1) * block < seq:
        return blocks_at_once(q, k, v, window, segment, block)
    bias = band(seq, 0, window, q)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias if segment is None else within(bias, segment, segment))


def block_of_gpu(window: int) -> tuple[int, int]:
    """Queries of a block on GPUs, and how many blocks before its own a query sees: about two, a compromise between scores that
    are masked (whole windows: a third more) and copies of the keys (many small blocks)."""
    block = -(-max(1, window // 2) // AT_ONCE) * AT_ONCE
    return block, blocks_before(window, block)


def blocks_before(window: int, block: int) -> int:
    """Blocks before the own one that a window reaches from a block's first query."""
    return -(-(window - 1) // block)


def band(queries: int, before: int, window: int, like: Tensor) -> Tensor:
    """Bias (queries, before + queries) of a block whose first query follows `before` keys: 0 within the window, else -inf.

    3 queries after 2 keys, window 2:     -inf   0     0    -inf  -inf
                                          ...    -inf  0    0     -inf      (the row of each query)
                                                       -inf 0     0
    """
    distance = torch.arange(before, before + queries, device=like.device)[:, None] - torch.arange(
        before + queries, device=like.device)
    bias = torch.zeros(distance.shape, dtype=like.dtype, device=like.device)
    return bias.masked_fill_((distance < 0) | (distance >= window), -torch.inf)


def within(bias: Tensor, of_queries: Tensor, of_keys: Tensor) -> Tensor:
    """A bias (queries, keys) where query and key have the same segment, (B, queries) and (B, keys), else -inf; with an axis for
    the heads: (B, 1, queries, keys)."""
    return bias.masked_fill(of_queries[:, :, None] != of_keys[:, None, :], -torch.inf)[:, None]


@torch.compiler.disable
def blocks_in_turn(q: Tensor, k: Tensor, v: Tensor, window: int, segment: Tensor | None = None,
                   block: int = IN_TURN) -> Tensor:
    """See banded_attention. Keys and values are split once and joined for each block: the gradient of a slice of the whole is
    as long as the sequence, and there would be one for each block."""
    before = min(blocks_before(window, block), (q.shape[2] - 1) // block)
    keys, values = k.split(block, dim=2), v.split(block, dim=2)                   # N of (B, H, C, D), the last may be shorter
    whole = band(block, before * block, window, q)                                # (C, (before + 1) C)
    segments = None if segment is None else segment.split(block, dim=1)
    mixed = []
    for own, queries in enumerate(q.split(block, dim=2)):
        first = max(0, own - before)
        seen, size = slice(first, own + 1), queries.shape[2]
        start = (before - (own - first)) * block                                  # columns of blocks that are not there
        bias = whole[:size, start : before * block + size]
        if segments is not None:
            bias = within(bias, segments[own], torch.cat(segments[seen], dim=1))
        mixed.append(F.scaled_dot_product_attention(queries, torch.cat(keys[seen], dim=2), torch.cat(values[seen], dim=2),
                                                    attn_mask=bias))
    return torch.cat(mixed, dim=2)


def blocks_at_once(q: Tensor, k: Tensor, v: Tensor, window: int, segment: Tensor | None, block: int) -> Tensor:
    """See banded_attention. The blocks of a row become rows of their own, each with its queries and a copy of the keys that
    they see; what is missing before the first block and after the last is filled up."""
    rows, heads, seq, _ = q.shape
    before, after = blocks_before(window, block), -seq % block
    blocks = (seq + after) // block

    def with_those_before(x: Tensor) -> Tensor:
        """(..., N + before, C, n) -> (..., N, (before + 1) C, n): each block behind the `before` ones before it."""
        return torch.cat([x[..., shift : shift + blocks, :, :] for shift in range(before + 1)], dim=-2)

    def as_rows(x: Tensor) -> Tensor:
        """(B, H, N, n, D) -> (B N, H, n, D)."""
        return x.transpose(1, 2).flatten(0, 1)

    queries = as_rows(F.pad(q, (0, 0, 0, after)).unflatten(2, (-1, block)))                       # (B N, H, C, D)
    keys, values = (as_rows(with_those_before(F.pad(x, (0, 0, before * block, after)).unflatten(2, (-1, block))))
                    for x in (k, v))                                                              # (B N, H, (before + 1) C, D)
    # Where no segments are given, all are in segment 0. What is filled in before the first block is in none: padding is in -1.
    segment = torch.zeros(rows, seq, dtype=torch.int64, device=q.device) if segment is None else segment
    padded = F.pad(F.pad(segment, (0, after)), (before * block, 0), value=torch.iinfo(segment.dtype).min)
    padded = padded[..., None].unflatten(1, (-1, block))                                          # (B, N + before, C, 1)
    of_keys = with_those_before(padded).flatten(0, 1).squeeze(-1)                                 # (B N, (before + 1) C)
    bias = within(band(block, before * block, window, q), of_keys[:, before * block :], of_keys)
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)                 # (B N, H, C, D)
    return mixed.unflatten(0, (rows, blocks)).transpose(1, 2).flatten(2, 3)[:, :, :seq]
