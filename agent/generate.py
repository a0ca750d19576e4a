"""Text out: captions, answers and replies, batched, with the same cache as acting.

Two halves, so that what was read can be used again: `read` takes prompts into a cache, `write` continues them. `generate` is
both, and reads a prompt once however many answers are drawn.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..tokenizers.tokens import Kind, Tokens
from .backbones.cache import Cache
from .model import Model
from .sampling import SamplingConfig, choose

PIECE = 256   # tokens per forward while reading: bounds the memory of the attention mask


@dataclass(frozen=True)
class Reading:
    """What a model has read, a row per text. A value, but used once: who extends it writes into it.

    Attributes:
        cache: its keys and values.
        last: float32 (rows, width), the hidden state that predicts each row's next token; 0 where nothing was read.
    """

    cache: Cache
    last: Tensor

    def select(self, rows: Sequence[int] | np.ndarray) -> "Reading":
        """Just these rows, in this order (a copy); rows may repeat."""
        chosen = torch.from_numpy(np.asarray(rows, np.int64)).to(self.last.device)
        return Reading(self.cache.select(chosen), self.last[chosen])


def begin(model: Model, rows: int, chunk: int = PIECE) -> Reading:
    """Rows that have read nothing, to be extended by at most `chunk` tokens at a time."""
    table = model.embedding.table.weight
    cache = model.backbone.new_cache(rows, max(1, min(chunk, PIECE)), table.dtype)
    return Reading(cache, torch.zeros(rows, table.shape[1], device=table.device))


def pieces(model: Model, texts: Sequence[Tokens], reading: Reading, pad: int,
           targets: bool = False) -> Iterator[tuple[Tensor, Tensor, Tensor, Reading]]:
    """Append texts (seq,) to the rows of a reading, which is used up, at most PIECE tokens at a time.

    Args:
        targets: the states that predict targets are wanted, too, not just the last ones; some backbones pay for each.
    Yields:
        of a piece the ids and the loss mask (rows, n), the hidden states float32 (rows, n, width), 0 where not wanted, and the
        reading after it.
    """
    device, cache, last = reading.last.device, reading.cache, reading.last
    batch = Tokens.stack(texts, pad).to_torch(device)
    embedded = model.embedding(batch)                                    # at once: a piece may end inside a picture
    lengths = torch.tensor([len(text) for text in texts], device=device)
    for start in range(0, len(batch), PIECE):
        window = slice(start, start + PIECE)
        ids, loss_mask, counts = batch.ids[:, window], batch.loss_mask[:, window], (lengths - start).clamp(0, PIECE)
        ends = torch.arange(len(texts), device=device), (counts - 1).clamp(min=0)
        wanted = torch.zeros_like(loss_mask)
        wanted[ends] = True
        if targets:
            wanted[:, :-1] |= loss_mask[:, 1:]
        rows, places = wanted.nonzero(as_tuple=True)
        states, cache = model.extend_embedded(embedded[:, window], cache, counts, (rows, places))
        hidden = torch.zeros(*wanted.shape, states.shape[-1], device=device)
        hidden[rows, places] = states.float()
        last = torch.where(counts[:, None] > 0, hidden[ends], last)
        yield ids, loss_mask, hidden, Reading(cache, last)


@torch.inference_mode()
def read(model: Model, texts: Sequence[Tokens], pad: int, reading: Reading | None = None) -> Reading:
    """Read texts (seq,), one per row; behind what `reading`, which is used up, has read.

    Args:
        model: in evaluation mode; see policy.for_acting.
    """
    after = reading or begin(model, len(texts), max(map(len, texts), default=1))
    for *_, after in pieces(model, texts, after, pad):  # noqa: B007, B020 - the last one is what is wanted
        pass
    return after


@torch.inference_mode()
def write(model: Model, reading: Reading, *, legal: np.ndarray, stop: int, max_tokens: int, seeds: Sequence[int],
          sampling: SamplingConfig | None = None, on_tokens: Callable[[list[int]], None] | None = None) -> list[np.ndarray]:
    """Continue each row of a reading, which is used up, until `stop` or for `max_tokens`.

    Args:
        legal: int (n,), ids that may be chosen, `stop` among them.
        seeds: one per row; an answer does not depend on the others of the batch.
        on_tokens: called with the newest token of every row (-1 where it has ended), for streaming.
    Returns:
        int64 (length,) per row, without `stop`.
    """
    assert len(seeds) == len(reading.last), (len(seeds), reading.last.shape)
    sampling = sampling or SamplingConfig(temperature=0)
    device, cache, last = reading.last.device, reading.cache, reading.last
    head = model.embedding.table.weight[torch.from_numpy(legal).to(device)].float()   # (n, width)
    answers: list[list[int]] = [[] for _ in seeds]
    rows, going = np.arange(len(seeds)), np.ones(len(seeds), bool)        # of the cache: which answer, and whether it goes on
    generators = [sampling.generator(seed) for seed in seeds]
    for place in range(max_tokens):
        chosen = legal[choose((last @ head.T).cpu().numpy(), sampling, generators)]
        going = going & (chosen != stop)
        newest = np.full(len(seeds), -1)
        newest[rows[going]] = chosen[going]
        for row in rows[going]:
            answers[row].append(int(newest[row]))
        if on_tokens is not None:
            on_tokens(newest.tolist())
        if not going.any() or place + 1 == max_tokens:
            break
        if 2 * going.sum() <= len(rows):                                  # most have ended: go on without them
            kept = np.flatnonzero(going)
            cache = cache.select(torch.from_numpy(kept).to(device))
            rows, chosen, going, generators = rows[kept], chosen[kept], going[kept], [generators[row] for row in kept]
        hidden, cache = model.extend(text_tokens(chosen[:, None]).to_torch(device), cache)
        last = hidden[:, 0].float()
    return [np.array(answer, np.int64) for answer in answers]


def generate(model: Model, prompts: Sequence[Tokens], *, legal: np.ndarray, stop: int, pad: int, max_tokens: int,
             sampling: SamplingConfig | None = None, samples: int = 1, seeds: Sequence[int] | None = None,
             on_tokens: Callable[[list[int]], None] | None = None) -> list[np.ndarray]:
    """Continue each prompt (seq,), seq at least 1, `samples` times; they may differ in length.

    Args:
        seeds: one per answer, default 0, 1, ... for each prompt's.
        others: see `write`.
    Returns:
        int64 (length,) per answer, without `stop`: all of the first prompt, then all of the second, ...
    """
    if not prompts:
        return []
    reading = read(model, prompts, pad)
    if samples > 1:
        reading = reading.select(np.repeat(np.arange(len(prompts)), samples))
    seeds = list(range(samples)) * len(prompts) if seeds is None else seeds
    return write(model, reading, legal=legal, stop=stop, max_tokens=max_tokens, seeds=seeds, sampling=sampling,
                 on_tokens=on_tokens)


def text_tokens(ids: np.ndarray) -> Tokens:
    """Ids (seq,), or a batch (rows, seq), that a model wrote as the tokens of a document, all of them targets."""
    return Tokens.of(ids, Kind.TEXT, loss_mask=True)
