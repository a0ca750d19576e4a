"""Text out: captions, answers and replies, batched, with the same cache as acting."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..tokenizers.tokens import NO_POSITION, Tokens
from .model import Model
from .policy import step_batch
from .sampling import SamplingConfig, choose

PIECE = 256   # prompt tokens per forward: bounds the memory of the attention mask


@torch.inference_mode()
def generate(model: Model, prompts: Sequence[Tokens], *, legal: np.ndarray, stop: int, pad: int, max_tokens: int,
             sampling: SamplingConfig | None = None, seeds: Sequence[int] | None = None,
             on_tokens: Callable[[list[int]], None] | None = None) -> list[np.ndarray]:
    """Continue each prompt until `stop`, or for `max_tokens`.

    Args:
        model: in evaluation mode; see policy.for_acting.
        prompts: one (seq,) per answer, seq at least 1; they may differ in length.
        legal: int (n,), ids that may be chosen, `stop` among them.
        seeds: one per prompt, default 0, 1, ...; an answer does not depend on the others of the batch.
        on_tokens: called with the newest token of every row (-1 where it has ended), for streaming.
    Returns:
        int (length,) per prompt, without `stop`.
    """
    if not prompts:
        return []
    sampling = sampling or SamplingConfig(temperature=0)
    generators = [sampling.generator(seed) for seed in (seeds or range(len(prompts)))]
    device = model.embedding.table.weight.device
    head = model.embedding.table.weight[torch.from_numpy(legal).to(device)].float()   # (n, width)
    longest = max(map(len, prompts))
    cache = model.backbone.new_cache(len(prompts), min(longest, PIECE), model.embedding.table.weight.dtype)
    last = torch.zeros(len(prompts), head.shape[1], device=device)
    for start in range(0, longest, PIECE):
        pieces = [prompt[start : start + PIECE] for prompt in prompts]
        counts = torch.tensor([len(piece) for piece in pieces], device=device)
        hidden, cache = model.extend(Tokens.stack(pieces, pad).to_torch(device), cache, counts)
        ends = hidden[torch.arange(len(prompts)), (counts - 1).clamp(min=0)].float()
        last = torch.where(counts[:, None] > 0, ends, last)                           # (batch, width)
    answers: list[list[int]] = [[] for _ in prompts]
    going = set(range(len(prompts)))
    for _ in range(max_tokens):
        chosen = legal[choose((last @ head.T).cpu().numpy(), sampling, generators)]
        going -= {row for row in going if chosen[row] == stop}
        for row in going:
            answers[row].append(int(chosen[row]))
        if on_tokens is not None:
            on_tokens([int(chosen[row]) if row in going else -1 for row in range(len(prompts))])
        if not going:
            break
        tokens, counts_now = step_batch([None] * len(prompts), {row: int(chosen[row]) for row in going}, pad, NO_POSITION)
        hidden, cache = model.extend(tokens.to_torch(device), cache, torch.from_numpy(counts_now).to(device))
        last = hidden[:, 0].float()
    return [np.array(answer, np.int64) for answer in answers]
