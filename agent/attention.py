"""Which patches of a picture an action was chosen from: attention rollout (Abnar & Zuidema 2020, arXiv:2005.00928).

A layer's attention says what it mixes, not what its inputs were made of. Rollout follows the mixing through all layers: with
A_l, the mean of the attention over the heads of layer l, and half of each state passed on by the residual connection,

    rollout = (A_L + 1) / 2 @ ... @ (A_1 + 1) / 2

is (S, S), lower triangular like the A_l of a causal network, and each of its rows adds up to 1. A row is what the state at that
position was mixed from. It needs no gradient. It says where the network looked, not that this changed the action.

Nothing here is called while an agent acts: the tokens that a policy has read are read a second time.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..tokenizers.tokens import ACTION, Kind, Tokens
from .backbones.decoder import Decoder
from .model import Model
from .policy import AgentPolicy


def shows_attention(model: Model) -> bool:
    """Whether `attention_weights` works for the model: its backbone is the decoder."""
    return isinstance(model.backbone, Decoder)


@torch.no_grad()
def attention_weights(model: Model, tokens: Tokens) -> list[Tensor]:
    """The attention of each layer, float32 (B, H, S, S): [b, h, q, k] is what position q takes from k; rows add up to 1.

    Args:
        tokens: tensors (B, S), as in `Model.forward`.
    Raises:
        ValueError: the model's backbone is none of the kind "decoder".
    """
    decoder = model.backbone
    if not isinstance(decoder, Decoder):
        raise ValueError(f"attention is shown for the backbone decoder, not {model.config.backbone.kind}")
    x, length = model.embedding(tokens).to(decoder.norm.weight.dtype), tokens.ids.shape[1]           # (B, S, width)
    positions = torch.arange(length, device=x.device)
    distance = positions[:, None] - positions
    unseen = ((distance < 0) | (distance >= decoder.config.attention_window))[None, None]           # (1, 1, S, S)
    segment = tokens.segment if decoder.config.segments else None
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


def patch_attention(model: Model, tokens: Tokens) -> np.ndarray:
    """How much of the last action was mixed from each patch of the last observation.

    Args:
        tokens: one sequence (S,) of arrays: an episode up to an action, or its end, whose last tokens are that action.
    Returns:
        float32 (n_patches,) in the order of the patches, at least 0; the sum is at most 1, for the rest are words, numbers and
        earlier steps. The mean over the action's tokens, each of which is predicted from the position before it.
    """
    last, length = tokens.timestep[-1], len(tokens)
    acting = np.flatnonzero((tokens.timestep == last) & (tokens.position == ACTION))
    assert len(acting) and acting[-1] == length - 1, tokens.position
    patches = np.flatnonzero((tokens.timestep == last) & (tokens.kind == Kind.PATCH))
    if not len(patches):
        return np.zeros(0, np.float32)
    device = next(model.parameters()).device
    rolled = attention_rollout(attention_weights(model, Tokens.stack([tokens], 0).to_torch(device)))[0]     # (S, S)
    found: np.ndarray = rolled.cpu().numpy()[acting - 1][:, patches].mean(axis=0)
    return found


def looked_at(policy: AgentPolicy, row: int = 0) -> dict[str, np.ndarray]:
    """Of the latest action of a row: the name of each observed picture ("" where it is the whole observation) -> how much of
    the action was mixed from its patches, float32 (rows, columns). All of them together add up to at most 1.

    A prompt counts as part of what was not looked at.

    Args:
        policy: with `keeps_history`, since the episode began; its acting weights are looked at.
    Raises:
        ValueError: the row has not acted yet, or the backbone is no decoder.
    """
    known = policy.rows.get(row)
    if known is None or not known.history:
        raise ValueError(f"row {row} has not acted with keeps_history yet; set it before the episode begins")
    first, *others = known.history
    # as in reencode_history: where the model has a limit, the oldest step that is left was read as the first one
    tokens = Tokens.concatenate([first[0] if policy.limit is None else first[1], *(step for step, _ in others)])
    found, start, grids = patch_attention(policy.model, tokens), 0, {}
    for name, (rows, columns) in known.task.codec.picture_grids.items():
        grids[name] = found[start : start + rows * columns].reshape(rows, columns)
        start += rows * columns
    return grids
