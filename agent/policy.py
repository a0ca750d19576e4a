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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tokenizers.task import TaskCodec
from ..tokenizers.tokens import ACTION, NO_POSITION, Kind, Tokens, joined_contents
from .backbones.cache import Cache
from .backbones.decoder import Decoder
from .backbones.fp16_linear import fp16_matrices
from .backbones.rollout import attention_rollout, attention_weights
from .hardware import Precision, acting_dtype
from .model import Model, ModelConfig
from .sampling import SamplingConfig, choose


@dataclass(frozen=True, eq=False)
class PlayedTask:
    """A task's codec, and for each of its action tokens the ids that are legal there, with their rows of the table."""

    codec: TaskCodec
    legal: Sequence[np.ndarray]          # int64 (n_legal,) each
    heads: Sequence[Tensor]              # float32 (n_legal, width) each

    @staticmethod
    def of(model: Model, codec: TaskCodec) -> "PlayedTask":
        """model: the weights that act, see for_acting."""
        table = model.embedding.table.weight
        legal = [np.flatnonzero(mask) for mask in codec.action_mask]
        return PlayedTask(codec, legal, [table[torch.from_numpy(ids).to(table.device)].float() for ids in legal])


@dataclass
class _Row:
    """The episode of one environment.

    Attributes:
        task: what it plays.
        sampling: how its actions are chosen; None: as the policy's.
        generator: what its actions are drawn with.
        slot: its row of the cache; None: it has none yet, or lost it.
        fresh: the cache holds nothing of the episode yet.
        last_action: the token that the model has not seen yet; None before the first action.
        history: whole timesteps, as they were read and as they would begin a history; kept where the model has a limit, or
            where the policy `keeps_history`.
        steps: how many were played.
        texts: observed at the last of them; None before the first.
    """

    task: PlayedTask
    sampling: SamplingConfig | None
    generator: np.random.Generator
    slot: int | None = None
    fresh: bool = True
    last_action: int | None = None
    history: list[tuple[Tokens, Tokens]] = field(default_factory=list)
    steps: int = 0
    texts: tuple[str, ...] | None = None

    def forget_beyond(self, tokens: int) -> None:
        """Keep the newest steps that hold at least so many tokens."""
        while sum(len(step) for step, _ in self.history[1:]) >= tokens and len(self.history) > 1:
            self.history.pop(0)

    def forget(self) -> None:
        """Begin a history anew in the middle of the episode."""
        self.fresh, self.last_action, self.texts = True, None, None
        self.history.clear()


class AgentPolicy:
    """Plays one task with a batch of environments, or one in each of them; the runner calls `reset` and `act`.

    Attributes:
        on_logits: called for each action token with its place and the logits of the ids in `legal[place]`, float
            (rows, n_legal), of the rows that play one task with one sampling; for those who want to show what was likely; None:
            nobody does.
        keeps_history: the steps of each row's episode are kept, as far back as the model reaches, for those who want to show
            what it looked at (`looked_at`). Of no effect on the actions.
    """

    def __init__(self, model: Model, codec: TaskCodec, sampling: SamplingConfig | None = None, *,
                 prompt: Tokens | None = None, precision: Precision = "auto", chunk: int | None = None,
                 keep: bool = False) -> None:
        """
        Args:
            model: trained weights, left as they are; a copy in the acting format is kept.
            codec: of the task that is played.
            prompt: a demonstration of the same task, (seq,), whole timesteps: each episode begins after it.
            chunk: most tokens that are read at once, where rows play other tasks, too; see chunk_of.
            keep: rows that wait keep their history, however many they are, until `leave`.
        Raises:
            ValueError: the prompt leaves no room for a step, see `prompt_room`, or the task is played without memory.
        """
        if prompt is not None and not codec.memory:
            raise ValueError("this checkpoint plays the task without memory, so a prompt would not be seen; leave it out, or "
                             "train on its data with memory=true")
        room = prompt_room(model.config, codec)
        if prompt is not None and room is not None and len(prompt) > room:
            raise ValueError(f"a prompt of {len(prompt)} tokens leaves no room for a step in this model's context of "
                             f"{model.config.backbone.limit}; give at most {max(0, room)} tokens")
        self.codec, self.sampling = codec, sampling or SamplingConfig()
        self.pad = codec.vocabulary.pad
        self.model = for_acting(model, precision)
        self.task, self.keep = PlayedTask.of(self.model, codec), keep
        self.legal, self.heads = self.task.legal, self.task.heads
        self.chunk = max(chunk or 0, chunk_of(codec))
        self.prompted = None if prompt is None else self.read_prompt(prompt)
        self.rows: dict[int, _Row] = {}                                  # by the number of the environment's row
        self.placed: list[int] = []                                      # which of them each row of the cache belongs to
        self.cache = self.model.backbone.new_cache(0, self.chunk, self.model.embedding.table.weight.dtype)
        self.tokens_read = 0                                             # so far, over all rows; what speed is told in
        self.limit = model.config.backbone.limit
        self.on_logits: Callable[[int, np.ndarray], None] | None = None
        self.keeps_history = False

    def reset(self, row: int, seed: int, env: Any = None, *, task: PlayedTask | None = None,
              sampling: SamplingConfig | None = None) -> None:
        """Row `row` starts the episode with this seed; `env` is for experts and not looked at.

        Args:
            task: what it plays, if not the policy's own task; of at most `chunk` tokens at once, and without the prompt.
            sampling: how its actions are chosen, if not as the policy's.
        """
        before = self.rows.get(row)
        self.rows[row] = _Row(task or self.task, sampling, (sampling or self.sampling).generator(seed),
                              None if before is None else before.slot)

    def leave(self, row: int) -> None:
        """Row `row` has ended and takes no more room."""
        self.rows.pop(row, None)

    def act(self, observations: Sequence[Any], rows: Sequence[int]) -> list[Any]:
        """One action for each given row.

        Rows that are not given wait: they keep their history as long as more than half of the rows that have one, those that
        join included, are given. At half or fewer the others lose it, so that no work is done for rows that have left; with
        `keep` they never do.

        Args:
            observations: one per row, as the environment returned it.
        Raises:
            ValueError: an observation holds NaN or lies outside its space (from the codec, naming the key), or a row that lost
                its history is given before it is reset.
        """
        encoded, begun = self.encode(observations, [self.rows.get(row) for row in rows])
        slots = self.assign_cache_rows(rows)
        given = [self.rows[row] for row in rows]
        emptied = self.reencode_history(given, slots)
        encoded = [alone if slot in emptied else tokens for slot, tokens, alone in zip(slots, encoded, begun, strict=True)]
        chosen = self.choose_actions(encoded, given, slots)
        for row, seen, observed, alone, action in zip(given, observations, encoded, begun, chosen, strict=True):
            codec = row.task.codec
            row.last_action, row.steps, row.texts = int(action[-1]), row.steps + 1, codec.observed_texts(seen)
            if self.limit is not None or self.keeps_history:
                done = Tokens.of(action, codec.action_kinds, ACTION, timestep=row.steps - 1)
                row.history.append((Tokens.concatenate([observed, done]), Tokens.concatenate([alone, done])))
            if self.limit is None and self.keeps_history:
                row.forget_beyond(getattr(self.model.config.backbone, "reach", 0))
        actions: list[Any] = [None] * len(rows)
        for where in alike([row.task for row in given]):
            decoded = given[where[0]].task.codec.decode_actions(np.stack([chosen[number] for number in where]))
            for number, value in zip(where, decoded, strict=True):
                actions[number] = value
        return actions

    def encode(self, observations: Sequence[Any], rows: Sequence[_Row | None]) -> tuple[list[Tokens], list[Tokens]]:
        """Each observation's tokens, as the row's history goes on and as it would begin; rows that were never reset, None,
        are refused later."""
        encoded, begun = [Tokens.empty()] * len(rows), [Tokens.empty()] * len(rows)
        for where in alike([self.task if row is None else row.task for row in rows]):
            known = [rows[number] for number in where]
            codec = (known[0].task if known[0] else self.task).codec
            if not codec.memory:
                for each in filter(None, known):
                    each.forget()
            steps = [0 if row is None else row.steps for row in known]
            before = [None if row is None else row.texts for row in known]
            seen = [observations[number] for number in where]
            read = alone = codec.encode_observations(seen, steps, before)
            if self.limit is not None and not codec.repeats_text:
                alone = codec.encode_observations(seen, steps)
            for number, tokens, first in zip(where, read, alone, strict=True):
                encoded[number], begun[number] = tokens, first
        return encoded, begun

    @torch.inference_mode()
    def choose_actions(self, encoded: Sequence[Tokens], given: Sequence[_Row], slots: Sequence[int]) -> list[np.ndarray]:
        """Read a step in rows of the cache and choose each row's action tokens, int64 (action length,) each."""
        if self.keep and 2 * len(slots) <= len(self.placed):              # so few that a copy of their rows costs less
            whole, places_of = self.cache, torch.tensor(slots)
            self.cache, slots = whole.select(places_of), range(len(given))
            chosen = self._choose_actions(encoded, given, slots)
            self.cache = whole.assign(places_of, self.cache)
            return chosen
        return self._choose_actions(encoded, given, slots)

    def _choose_actions(self, encoded: Sequence[Tokens], given: Sequence[_Row], slots: Sequence[int]) -> list[np.ndarray]:
        places: list[Tokens | None] = [None] * len(self.cache.lengths)
        for slot, tokens in zip(slots, encoded, strict=True):
            places[slot] = tokens
        pending = {slot: row.last_action for slot, row in zip(slots, given, strict=True) if row.last_action is not None}
        read, counts = step_batch(places, pending, self.pad)
        chosen = [np.empty(row.task.codec.action_length, np.int64) for row in given]
        groups = [(where, given[where[0]]) for where in alike([(row.task, row.sampling) for row in given])]
        length = max(map(len, chosen))
        for place in range(length):
            hidden = self.read(read, counts).float()                     # (cache rows, width)
            pending = {}
            for where, first in groups:
                if place < len(first.task.legal):
                    logits = (hidden[[slots[number] for number in where]] @ first.task.heads[place].T).cpu().numpy()
                    if self.on_logits is not None:
                        self.on_logits(place, logits)
                    best = choose(logits, first.sampling or self.sampling, [given[number].generator for number in where])
                    for number, token in zip(where, first.task.legal[place][best], strict=True):
                        chosen[number][place] = token
                        if place + 1 < len(chosen[number]):
                            pending[slots[number]] = int(token)
            if place + 1 < length:
                read, counts = step_batch([None] * len(places), pending, self.pad)
        return chosen

    @torch.inference_mode()
    def read(self, tokens: Tokens, counts: np.ndarray) -> Tensor:
        """Append a step's tokens to every row; the hidden state at each row's last one, (cache rows, width)."""
        self.tokens_read += int(counts.sum())
        steps = torch.from_numpy(counts).to(self.cache.lengths.device)
        ends = torch.arange(len(counts), device=steps.device), (steps - 1).clamp(min=0)
        hidden, self.cache = self.model.extend(tokens.to_torch(steps.device), self.cache, steps, ends)
        return hidden

    @torch.inference_mode()
    def assign_cache_rows(self, rows: Sequence[int]) -> list[int]:
        """The row of the cache of each given row; new ones get one, and those of fresh rows begin with the prompt or empty."""
        joining = [row for row in rows if row not in self.rows or self.rows[row].slot is None]
        for row in joining:
            if row not in self.rows:
                raise ValueError(f"row {row} acts before it was reset; call reset(row, seed) where its episode begins")
            if not self.rows[row].fresh:
                raise ValueError(f"row {row} lost its place while half of the rows or fewer played; reset it first")
        placed = [row for row in self.placed if row in self.rows and self.rows[row].slot is not None] + joining
        if not self.keep and 2 * len(rows) <= len(placed):
            placed = list(rows)
        if placed != self.placed:
            cache = self.model.backbone.new_cache(len(placed), self.chunk, self.cache.keys[0].dtype)
            kept = [(new, before) for new, row in enumerate(placed) if (before := self.rows[row].slot) is not None]
            if kept:
                chosen, old = torch.tensor(kept).unbind(dim=1)
                cache = cache.assign(chosen, self.cache.select(old))
            for row in self.rows.keys() & set(self.placed):
                self.rows[row].slot = None
            for slot, row in enumerate(placed):
                self.rows[row].slot = slot
            self.cache, self.placed = cache, placed
        slots = [where for row in rows if (where := self.rows[row].slot) is not None]
        begun = [where for where, row in zip(slots, rows, strict=True) if self.rows[row].fresh]
        if begun:
            places = torch.tensor(begun)
            self.cache = self.cache.reset(places) if self.prompted is None else self.cache.assign(places, self.prompted)
        for row in rows:
            self.rows[row].fresh = False
        return slots

    @torch.inference_mode()
    def reencode_history(self, given: Sequence[_Row], slots: Sequence[int]) -> set[int]:
        """Read a shorter history again for rows that would pass the context of a model without a window; it begins with the
        observed text, as windows do in training.

        Returns:
            the slots of the rows that keep nothing, whose next step begins a history.
        """
        emptied = set[int]()
        if self.limit is None:
            return emptied
        lengths = self.cache.lengths.tolist()
        for row, slot in zip(given, slots, strict=True):
            if lengths[slot] + self.chunk + row.task.codec.action_length <= self.limit:
                continue
            kept: list[tuple[Tokens, Tokens]] = []
            while row.history:
                _, first = row.history[-1]
                if len(first) + sum(len(step) for step, _ in kept) > self.limit // 2:
                    break
                kept.insert(0, row.history.pop())
            row.history = kept
            whole = [kept[0][1], *(step for step, _ in kept[1:])] if kept else []
            seen = Tokens.concatenate(whole)[: -1 if kept else 0]         # the last action token is still to be read
            self.cache = self.cache.assign(torch.tensor([slot]), self.read_prompt(seen))
            if not kept:
                row.last_action = None
                emptied.add(slot)
        return emptied

    @torch.inference_mode()
    def read_prompt(self, prompt: Tokens) -> Cache:
        """The cache of one row that has seen the prompt; copied into each row that starts."""
        cache = self.model.backbone.new_cache(1, self.chunk, self.model.embedding.table.weight.dtype)
        embedded = self.model.embedding(Tokens.stack([prompt], self.pad).to_torch(cache.lengths.device))
        nothing = cache.lengths[:0], cache.lengths[:0]                   # nobody asks before the first observation
        for start in range(0, len(prompt), self.chunk):
            _, cache = self.model.extend_embedded(embedded[:, start : start + self.chunk], cache, where=nothing)
        return cache


def shows_attention(model: Model) -> bool:
    """Whether `looked_at` works for the model: its backbone is the decoder."""
    return isinstance(model.backbone, Decoder)


def patch_attention(model: Model, tokens: Tokens) -> np.ndarray:
    """How much of the last action was mixed from each patch of the last observation.

    Args:
        tokens: one sequence (S,) of arrays: an episode up to an action, or its end, whose last tokens are that action.
    Returns:
        float32 (n_patches,) in the order of the patches, at least 0; the sum is at most 1, for the rest are words, numbers and
        earlier steps. The mean over the action's tokens, each of which is predicted from the position before it.
    Raises:
        ValueError: the backbone is none of the kind "decoder".
    """
    last, length = tokens.timestep[-1], len(tokens)
    acting = np.flatnonzero((tokens.timestep == last) & (tokens.position == ACTION))
    assert len(acting) and acting[-1] == length - 1, tokens.position
    patches = np.flatnonzero((tokens.timestep == last) & (tokens.kind == Kind.PATCH))
    if not len(patches):
        return np.zeros(0, np.float32)
    device = next(model.parameters()).device
    decoder = model.backbone
    if not isinstance(decoder, Decoder):
        raise ValueError(f"attention is shown for the backbone decoder, not {model.config.backbone.kind}")
    with torch.no_grad():
        embedded = model.embedding(Tokens.stack([tokens], 0).to_torch(device))
    rolled = attention_rollout(attention_weights(decoder, embedded))[0]                                     # (S, S)
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


def chunk_of(codec: TaskCodec) -> int:
    """Most tokens that are read at once: last action token, observation, separator."""
    return codec.observation_tokens[1] + 2


def prompt_room(config: ModelConfig, codec: TaskCodec) -> int | None:
    """Most tokens of a prompt behind which a first step still fits the context of a model without a window; None: any."""
    limit = config.backbone.limit
    return None if limit is None else limit - chunk_of(codec) - codec.action_length


def alike(keys: Sequence[Any]) -> list[list[int]]:
    """The numbers of equal keys together: [a, b, a] -> [[0, 2], [1]]."""
    found: dict[Any, list[int]] = {}
    for number, key in enumerate(keys):
        found.setdefault(key, []).append(number)
    return list(found.values())


def for_acting(model: Model, precision: Precision) -> Model:
    """A copy of the model in evaluation mode, its weights in the format in which this machine acts fastest: see `acting_dtype`,
    and for a large decoder's matrices on CPUs fp16_linear.py."""
    device = next(model.parameters()).device
    instead = fp16_matrices(model.backbone, device, precision) if isinstance(model.backbone, Decoder) else {}
    # a matrix that has a substitute is not copied: of the largest networks that would be gigabytes
    return copy.deepcopy(model, dict(instead)).eval().requires_grad_(False).to(acting_dtype(device, precision))


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
