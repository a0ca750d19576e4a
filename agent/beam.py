"""Beam search for the likeliest texts; cached and batched as all generation.

Texts of different length are compared by their log-likelihood per token (Wu et al., arXiv:1609.08144, with alpha = 1), which
does not favour short ones.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..tokenizers.tokens import Tokens
from .backbones.cache import Cache
from .generate import read, text_tokens
from .model import Model


@torch.inference_mode()
def beam_search(model: Model, prompts: Sequence[Tokens], *, legal: np.ndarray, stop: int, pad: int, max_tokens: int,
                beams: int) -> list[list[tuple[np.ndarray, float]]]:
    """The best continuations of each prompt (seq,).

    A prompt is done when it has `beams` ended texts and no unfinished one is likelier per token than the least likely of them.

    Args:
        model: in evaluation mode; see policy.for_acting.
        legal: int (n,), ids that may be chosen, `stop` among them.
        beams: at least 1, else ValueError; unfinished texts that are kept per prompt, and the most texts that are returned.
    Returns:
        per prompt (ids int64 (length,) without `stop`, log-likelihood per token with `stop`), the likeliest first. Where no
        text has ended within `max_tokens`, the unfinished ones.
    """
    if beams < 1:
        raise ValueError(f"beams={beams} must be at least 1")
    if not prompts:
        return []
    reading = read(model, prompts, pad).select(np.repeat(np.arange(len(prompts)), beams))
    device, cache, last = reading.last.device, reading.cache, reading.last
    head = model.embedding.table.weight[torch.from_numpy(legal).to(device)].float()        # (n, width)
    ending = int(np.flatnonzero(legal == stop)[0])
    written, parents = np.zeros((len(prompts), beams, 0), np.int64), np.zeros((len(prompts), beams), np.int64)
    scores = torch.full((len(prompts), beams), -torch.inf, device=device)                    # of unfinished texts, summed
    scores[:, 0] = 0                                                           # at first all beams are the same, empty text
    ended: list[list[tuple[np.ndarray, float]]] = [[] for _ in prompts]
    done, length = np.zeros(len(prompts), bool), 0
    while length < max_tokens and not done.all():
        if length:
            rows = torch.from_numpy((parents + np.arange(len(prompts))[:, None] * beams).ravel()).to(device)
            hidden, cache = model.extend(text_tokens(written[:, :, -1].reshape(-1, 1)).to_torch(device), reorder(cache, rows))
            last = hidden[:, 0].float()
        length += 1
        steps = (last @ head.T).log_softmax(dim=-1).unflatten(0, (len(prompts), beams))     # (prompts, beams, n)
        sums = scores[:, :, None] + steps
        ends = (sums[:, :, ending] / length).tolist()
        sums[:, :, ending] = -torch.inf
        scores, best = sums.flatten(1).topk(beams, dim=-1)                                  # (prompts, beams)
        best_unfinished = (scores[:, 0] / length).tolist()
        for number in np.flatnonzero(~done):
            texts = ended[number] + [(written[number, beam], end) for beam, end in enumerate(ends[number]) if end > -np.inf]
            ended[number] = likeliest(texts)[:beams]
            done[number] = len(ended[number]) == beams and best_unfinished[number] <= ended[number][-1][1]
        parents, tokens = (best // len(legal)).cpu().numpy(), legal[(best % len(legal)).cpu().numpy()]
        written = np.concatenate([np.take_along_axis(written, parents[:, :, None], axis=1), tokens[:, :, None]], axis=2)
    means = (scores / max(1, length)).tolist()
    unfinished = [[(written[number, beam], mean) for beam, mean in enumerate(of_prompt) if mean > -np.inf]
                  for number, of_prompt in enumerate(means)]
    return [texts or likeliest(others) for texts, others in zip(ended, unfinished, strict=True)]


def likeliest(texts: list[tuple[np.ndarray, float]]) -> list[tuple[np.ndarray, float]]:
    """The likeliest first."""
    return sorted(texts, key=lambda text: -text[1])


def reorder(cache: Cache, rows: Tensor) -> Cache:
    """The cache, which is not to be used afterwards, with these rows in place of its own; only slots in use are copied."""
    longest = int(cache.lengths.max())
    for tensor in cache.keys + cache.values:
        used = tensor[:, :, :longest]                          # (rows, heads, slots in use, head dim)
        used.copy_(used[rows])
    return replace(cache, lengths=cache.lengths[rows])
