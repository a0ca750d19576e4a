"""Attention rollout: what the states of a decoder were mixed from (Abnar & Zuidema 2020, arXiv:2005.00928).

A layer's attention says what it mixes, not what its inputs were made of. Rollout follows the mixing through all layers: with
A_l, the mean of the attention over the heads of layer l, and half of each state passed on by the residual connection,

    rollout = (A_L + 1) / 2 @ ... @ (A_1 + 1) / 2

is (S, S), lower triangular like the A_l of a causal network, and each of its rows adds up to 1. A row is what the state at that
position was mixed from. It needs no gradient. It says where the network looked, not that this changed what it did.

Nothing here is called in training or while an agent acts: `looked_at` of policy.py reads a second time what a policy has read.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .decoder import Decoder


@torch.no_grad()
def attention_weights(decoder: Decoder, x: Tensor, segment: Tensor | None = None) -> list[Tensor]:
    """The attention of each layer, float32 (B, H, S, S): [b, h, q, k] is what position q takes from k; rows add up to 1.

    Args:
        x, segment: as in `Decoder.forward`: embedded tokens (B, S, width), int (B, S).
    """
    x = x.to(decoder.norm.weight.dtype)
    positions = torch.arange(x.shape[1], device=x.device)
    distance = positions[:, None] - positions
    unseen = ((distance < 0) | (distance >= decoder.config.attention_window))[None, None]           # (1, 1, S, S)
    if segment is not None:
        unseen = unseen | (segment[:, None, :, None] != segment[:, None, None, :])
    rotation, found = decoder.rotations(positions), []
    for block in decoder.blocks:
        query, key, _ = block.attention.project(block.norm_attention(x), rotation)                  # (B, H, S, D) each
        scores = query.float() @ key.float().transpose(-1, -2) / math.sqrt(query.shape[-1])
        found.append(scores.masked_fill(unseen, -torch.inf).softmax(dim=-1))
        x = block(x, rotation, None, segment)
    return found


def attention_rollout(weights: Sequence[Tensor]) -> Tensor:
    """What each position's last state was mixed from, (B, S, S).

    Args:
        weights: of each layer, the first one first, (B, H, S, S) each.
    """
    rolled = torch.eye(weights[0].shape[-1], device=weights[0].device)
    for layer in weights:
        rolled = (layer.mean(dim=1) + torch.eye(layer.shape[-1], device=layer.device)) / 2 @ rolled
    return rolled
