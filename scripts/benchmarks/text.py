"""Speed of text generation for `calico bench text`, with the cache and without it.

Without the cache the whole text so far goes through the same network for each token, in one batch, with the hidden state and
the logits of the last position only. Both generate 512 tokens after prompts of 16 in 8 rows, greedily.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from calico.agent.generate import generate, text_tokens
from calico.agent.model import Model, named_size
from calico.agent.policy import for_acting
from calico.scripts.benchmarks.interleaved import seconds
from calico.tokenizers.tokens import Tokens
from calico.tokenizers.vocabulary import Vocabulary

ROWS, PROMPT, TOKENS, CONTEXT = 8, 16, 512, 1024
VOCABULARY = Vocabulary()
LEGAL = np.arange(VOCABULARY.text_start, VOCABULARY.text_start + VOCABULARY.config.text)
NEVER = VOCABULARY.end       # not legal here, so nothing ends early


def bench_text(turns: int, size: str = "small", tokens: int = TOKENS) -> dict[str, Any]:
    """`generation_cache_speedup` is the time without the cache over the time with it."""
    torch.manual_seed(0)
    model = for_acting(Model(named_size(size, CONTEXT), VOCABULARY), "auto")
    prompts = text_tokens(np.random.default_rng(0).choice(LEGAL, (ROWS, PROMPT)))
    for write in (write_cached, write_plain):                                             # warm
        write(model, prompts, min(8, tokens))
    cached, plain = seconds(turns, lambda: write_cached(model, prompts, tokens), lambda: write_plain(model, prompts, tokens),
                            warm_up=0)
    return {"cached_tokens_per_second": ROWS * tokens / cached, "plain_tokens_per_second": ROWS * tokens / plain,
            "generation_cache_speedup": plain / cached}


def write_cached(model: Model, prompts: Tokens, tokens: int) -> np.ndarray:
    """What `calico caption` and `calico chat` do; ids (rows, tokens)."""
    rows = [text_tokens(ids) for ids in prompts.ids]
    return np.stack(generate(model, rows, legal=LEGAL, stop=NEVER, pad=VOCABULARY.pad, max_tokens=tokens))


@torch.inference_mode()
def write_plain(model: Model, prompts: Tokens, tokens: int) -> np.ndarray:
    """The whole prefix again for each token; ids (rows, tokens)."""
    count, begun = prompts.ids.shape
    whole = text_tokens(np.zeros((count, begun + tokens), np.int64)).to_torch()
    whole.ids[:, :begun] = torch.from_numpy(prompts.ids)
    head = model.embedding.table.weight[torch.from_numpy(LEGAL)].float()
    legal, rows = torch.from_numpy(LEGAL), torch.arange(count)
    for length in range(begun, begun + tokens):
        prefix = replace(whole, **{name: getattr(whole, name)[:, :length] for name in
                                   ("ids", "kind", "position", "timestep", "loss_mask", "segment")})
        last = model(prefix, where=(rows, torch.full((count,), length - 1)))                # (rows, width)
        whole.ids[:, length] = legal[(last.float() @ head.T).argmax(dim=-1)]
    return whole.ids[:, begun:].numpy()
