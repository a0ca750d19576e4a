"""The agent in the control loop: observations in, actions out, for many environments at once.

Gato's deployment loop (arXiv:2205.06175, section 2.4): encode the observation, sample the action token by token within the
legal ids, decode, step. One forward per environment step: the last action token of the step before travels together with
the whole next observation; each further action token costs one small forward. The key cache makes a step's price
independent of the episode's length, and rows reset without touching each other.

What a decoder sees once a row's history (prompt, then the episode) is longer than the window; all other backbones see their
last `context` or `window` tokens, in training as here:
- window < context, the default: a layer attends to the last `window` tokens, so the whole network reaches
  depth * (window - 1) + 1 tokens back, at every step the same as one uncached pass over the whole history;
- window >= context, the paper's sizes: training has never shown more than `context` tokens, so before a step would pass
  that, the newest whole timesteps that fit half of it are read again from position 0. The model then sees the last half
  to whole context, the same as one uncached pass over just those tokens; the prompt leaves with the oldest steps.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tokenizers.task import TaskCodec
from ..tokenizers.tokens import ACTION, NO_POSITION, Kind, Tokens, joined_contents
from .backbones.cache import Cache
from .hardware import Precision, acting_dtype
from .model import Model
from .sampling import SamplingConfig, choose


class AgentPolicy:
    """Plays one task with a batch of environments; the runner calls `reset` and `act`."""

    def __init__(self, model: Model, codec: TaskCodec, sampling: SamplingConfig | None = None, *,
                 prompt: Tokens | None = None, precision: Precision = "auto") -> None:
        """
        Args:
            model: trained weights, left as they are; a copy in the acting format is kept.
            codec: of the task that is played.
            prompt: a demonstration of the same task, (seq,): each episode begins after it.
        """
        self.codec, self.sampling = codec, sampling or SamplingConfig()
        self.pad = codec.vocabulary.pad
        self.model = for_acting(model, precision)
        table = self.model.embedding.table.weight
        self.legal = [np.flatnonzero(mask) for mask in codec.action_mask]                     # ids, per action token
        self.heads = [table[torch.from_numpy(ids).to(table.device)].float() for ids in self.legal]   # (n_legal, width)
        self.chunk = codec.observation_tokens[1] + 2                     # last action token, observation, separator
        self.prompted = None if prompt is None else self.read_prompt(prompt)
        self.slots: dict[int, int] = {}                                  # environment row -> row of the cache
        self.cache = self.model.backbone.new_cache(0, self.chunk, table.dtype)
        self.generators: dict[int, np.random.Generator] = {}
        self.last_action: dict[int, int] = {}                            # the token that the model has not seen yet
        self.fresh: set[int] = set()
        self.tokens_read = 0                                             # so far, over all rows; what speed is told in
        self.limit = model.config.backbone.limit
        self.history: dict[int, list[Tokens]] = {}                       # whole timesteps, kept where there is a limit

    def reset(self, row: int, seed: int, env: Any = None) -> None:
        """Row `row` starts the episode with this seed; `env` is for experts and not looked at."""
        self.generators[row] = self.sampling.generator(seed)
        self.last_action.pop(row, None)
        self.history[row] = []
        self.fresh.add(row)

    def act(self, observations: Sequence[Any], rows: Sequence[int]) -> list[Any]:
        """One action for each given row; rows that are not given wait, as long as more than half of them are given.

        Args:
            observations: one per row, as the environment returned it.
        Raises:
            ValueError: an observation holds NaN or lies outside its space (from the codec, naming the key).
        """
        encoded = self.codec.encode_observations(list(observations))
        self.assign_cache_rows(rows)
        self.reencode_history(rows)
        slots = [self.slots[row] for row in rows]
        places: list[Tokens | None] = [None] * len(self.slots)
        for slot, tokens in zip(slots, encoded, strict=True):
            places[slot] = tokens
        pending = {self.slots[row]: self.last_action[row] for row in rows if row in self.last_action}
        tokens, counts = step_batch(places, pending, self.pad)
        chosen = np.empty((len(rows), self.codec.action_length), np.int64)
        generators = [self.generators[row] for row in rows]
        for place in range(self.codec.action_length):
            hidden = self.read(tokens, counts)[slots]                    # (rows, width)
            logits = (hidden.float() @ self.heads[place].T).cpu().numpy()
            chosen[:, place] = self.legal[place][choose(logits, self.sampling, generators)]
            if place + 1 < self.codec.action_length:
                tokens, counts = step_batch([None] * len(self.slots), dict(zip(slots, chosen[:, place], strict=True)), self.pad)
        self.last_action.update(zip(rows, chosen[:, -1].tolist(), strict=True))
        if self.limit is not None:
            for row, observed, action in zip(rows, encoded, chosen, strict=True):
                self.history[row].append(Tokens.concatenate([observed, self.action_tokens(action)]))
        return self.codec.decode_actions(chosen)

    @torch.inference_mode()
    def read(self, tokens: Tokens, counts: np.ndarray) -> Tensor:
        """Append a step's tokens to every row; the hidden state at each row's last one, (cache rows, width)."""
        self.tokens_read += int(counts.sum())
        steps = torch.from_numpy(counts).to(self.cache.lengths.device)
        ends = torch.arange(len(counts), device=steps.device), (steps - 1).clamp(min=0)
        hidden, self.cache = self.model.extend(tokens.to_torch(steps.device), self.cache, steps, ends)
        return hidden

    @torch.inference_mode()
    def assign_cache_rows(self, rows: Sequence[int]) -> None:
        """Give new rows a place in the cache, drop places that half the batch no longer uses, empty those of fresh rows."""
        if any(row not in self.slots for row in rows) or 2 * len(rows) <= len(self.slots):
            kept = [row for row in rows if row in self.slots]
            for row in rows:
                if row not in self.slots and row not in self.fresh:
                    raise ValueError(f"row {row} lost its place while half of the rows or fewer played; reset it first")
            cache = self.model.backbone.new_cache(len(rows), self.chunk, self.cache.keys[0].dtype)
            if kept:
                old = torch.tensor([self.slots[row] for row in kept])
                new = torch.tensor([list(rows).index(row) for row in kept])
                cache = cache.assign(new, self.cache.select(old))
            self.cache, self.slots = cache, {row: slot for slot, row in enumerate(rows)}
        begun = [row for row in rows if row in self.fresh]
        if not begun:
            return
        places = torch.tensor([self.slots[row] for row in begun])
        self.cache = self.cache.reset(places) if self.prompted is None else self.cache.assign(places, self.prompted)
        self.fresh.difference_update(begun)

    @torch.inference_mode()
    def reencode_history(self, rows: Sequence[int]) -> None:
        """Read a shorter history again for rows that would pass the context of a model without a window."""
        if self.limit is None:
            return
        lengths = self.cache.lengths.tolist()
        for row in rows:
            if lengths[self.slots[row]] + self.chunk + self.codec.action_length <= self.limit:
                continue
            kept: list[Tokens] = []
            while self.history[row] and sum(map(len, kept)) + len(self.history[row][-1]) <= self.limit // 2:
                kept.insert(0, self.history[row].pop())
            self.history[row] = kept
            seen = Tokens.concatenate(kept)[: -1 if kept else 0]          # the last action token is still to be read
            self.cache = self.cache.assign(torch.tensor([self.slots[row]]), self.read_prompt(seen))
            if not kept:
                self.last_action.pop(row, None)

    def action_tokens(self, ids: np.ndarray) -> Tokens:
        """The tokens (action_length,) of a chosen action."""
        return Tokens.of(ids, self.codec.action_kinds, ACTION)

    @torch.inference_mode()
    def read_prompt(self, prompt: Tokens) -> Cache:
        """The cache of one row that has seen the prompt; copied into each row that starts."""
        cache = self.model.backbone.new_cache(1, self.chunk, self.model.embedding.table.weight.dtype)
        embedded = self.model.embedding(Tokens.stack([prompt], self.pad).to_torch(cache.lengths.device))
        nothing = cache.lengths[:0], cache.lengths[:0]                   # nobody asks before the first observation
        for start in range(0, len(prompt), self.chunk):
            _, cache = self.model.extend_embedded(embedded[:, start : start + self.chunk], cache, where=nothing)
        return cache


def for_acting(model: Model, precision: Precision) -> Model:
    """A copy of the model in evaluation mode, its weights in the format in which this machine acts fastest."""
    device = next(model.parameters()).device
    return copy.deepcopy(model).eval().requires_grad_(False).to(acting_dtype(device, precision))


def step_batch(places: Sequence[Tokens | None], pending: dict[int, int], pad: int,
               pending_position: int = ACTION) -> tuple[Tokens, np.ndarray]:
    """What each row of the cache reads next: its pending token, then its observation.

    Args:
        places: per cache row the observation's tokens, or None.
        pending: cache row -> the token that was chosen last: an action token, or text with position NO_POSITION.
    Returns:
        Tokens (rows, longest), padded on the right, and the number of real tokens per row, int64 (rows,).
    """
    starts = np.array([int(slot in pending) for slot in range(len(places))])
    counts = starts + [0 if tokens is None else len(tokens) for tokens in places]
    shape = (len(places), int(counts.max(initial=1)))
    ids, position = np.full(shape, pad, np.int32), np.full(shape, NO_POSITION, np.int16)
    kind = np.full(shape, Kind.PAD, np.uint8)
    slots = list(pending)
    ids[slots, 0], position[slots, 0] = list(pending.values()), pending_position
    present = [tokens for tokens in places if tokens is not None]
    for slot, tokens in enumerate(places):
        if tokens is not None:
            where = slice(starts[slot], counts[slot])
            ids[slot, where], position[slot, where], kind[slot, where] = tokens.ids, tokens.position, tokens.kind
    return Tokens.of(ids, kind, position, **joined_contents(present)), counts
