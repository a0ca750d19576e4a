"""TaskCodec: the values of one task's Gymnasium spaces <-> Tokens, for a whole episode or for one step of many rows.

A timestep reads, as in Gato (arXiv:2205.06175, section 2.1): observed text, images, then numbers, a separator, the
action; within each group keys in lexicographic order. Training (`encode_episode`) and acting (`encode_observations`)
run the same code, so what the trainer saw is what the policy sends. With numbers="vector" the real numbers of an
observation are not one token each, but come last in it, up to 32 in a token. With text_every=n observed text that stays
the same is written at every n-th step of an episode only, and where a stretch of it begins: a window, a prompt. A task
may have a `title`, which stands before all observed text and is no target: it tells apart tasks whose observations do not.
With memory=False every step is a sequence of its own, in training as in play.

All steps are encoded at once: leaves become
(steps, k) blocks that are laid side by side; only text of changing length leaves holes, which are cut out at the end.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from gymnasium import spaces

from .episode import Episode
from .leaves import (
    ActedLeaf,
    ContinuousLeaf,
    DiscreteLeaf,
    ImageLeaf,
    ObservedLeaf,
    VectorLeaf,
    acted_leaf,
    observed_leaf,
)
from .patches import patch_intervals
from .spaces import flatten, leaf_spaces, space_from_json, space_to_json, stack_leaves, unflatten
from .text import TextTokenizer, check_fits
from .text_leaf import TextLeaf
from .tokens import ACTION, BESIDE, DTYPES, NO_POSITION, VECTOR_SIZE, Kind, Tokens
from .vocabulary import Vocabulary

Numbers: TypeAlias = Literal["binned", "vector"]

GROUPS = {Kind.TEXT: 0, Kind.PATCH: 1, Kind.DISCRETE: 2, Kind.CONTINUOUS: 2}   # order inside an observation
MOST_TOKENS = int(np.iinfo(DTYPES["position"]).max)


# Settings that came after the first checkpoints, and what these have: written into a task's JSON where they differ.
NEWER: dict[str, Any] = {"numbers": "binned", "text_every": 1, "title": "", "memory": True}


class Part(NamedTuple):
    """A line of `TaskCodec.explain`: what stands where in a timestep."""

    name: str      # "observation/joints", "separator", "action"
    kind: Kind
    tokens: int    # per step; for observed text the most there can be


class TaskCodec:
    """One task's observations and actions <-> tokens.

    Attributes:
        action_length: A, the number of action tokens of a step.
        action_kinds: uint8 (A,), the Kind of each; an `end` inside a text action keeps Kind.TEXT.
        observation_tokens: (least, most) tokens of an observation, without the separator.
        tokens_per_step: (least, most) tokens of a step: observation, separator, action.
        repeats_text: title and observed text, if there are any, are written at every step.
    """

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], vocabulary: Vocabulary,
                 text: TextTokenizer | None, *, observation_text_loss: bool = True, max_text_tokens: int = 64,
                 numbers: Numbers = "binned", text_every: int = 1, title: str = "", memory: bool | None = True) -> None:
        """Choose how each leaf is written; see leaves.py for the rules.

        Args:
            text: needed where a space holds text.
            observation_text_loss: observed text is a target, as in the paper.
            max_text_tokens: most tokens of an observed text, and the places that an acted text takes at most.
            numbers: "binned": each observed real number is a token, as in the paper; "vector": up to 32 are one. Actions
                are binned always.
            text_every: observed text is written at the first step of a stretch, where it differs from the step before, and at
                each step of the episode that this divides: what slides out of a model's view comes again.
            title: text that stands before the observed text, wherever that is written.
            memory: a step sees those before it. Where the observation is the whole state it need not, and should not: the
                last action predicts the next one so well that a model copies it, and then, in play, repeats itself for ever
                (de Haan et al., "Causal confusion in imitation learning", arXiv:1905.11979). None: only where pictures or words
                are observed, for numbers alone are mostly the whole state.
        Raises:
            ValueError: a space without tokens, an action with more values than the vocabulary has ids, text without a
                tokenizer, an observation of more than 32,767 tokens, vectors in the paper's layout.
        """
        for name, value in {"max_text_tokens": max_text_tokens, "text_every": text_every}.items():
            if value < 1:
                raise ValueError(f"{name}={value} is not positive; give at least 1")
        check_fits(text, vocabulary)
        self.observation_space, self.action_space = observation_space, action_space
        self.vocabulary, self.text = vocabulary, text
        self.observation_text_loss, self.max_text_tokens, self.numbers = observation_text_loss, max_text_tokens, numbers
        self.text_every, self.title = text_every, title
        if numbers not in ("binned", "vector"):
            raise ValueError(f"numbers={numbers!r} is unknown; choose 'binned' or 'vector'")
        if numbers == "vector" and vocabulary.config.layout == "gato":
            raise ValueError("numbers='vector' is not the paper's form, which layout 'gato' stands for; choose "
                             "numbers='binned' or layout 'disjoint'")

        observed = {name: observed_leaf(_label("observation", name), space, vocabulary, text, max_text_tokens)
                    for name, space in _leaf_spaces("observation", observation_space).items()}
        self._observed = dict(sorted(observed.items(), key=lambda item: GROUPS[item[1].kind]))    # a stable sort
        self._acted = {name: acted_leaf(_label("action", name), space, vocabulary, text, max_text_tokens)
                       for name, space in _leaf_spaces("action", action_space).items()}
        self.action_length: int = sum(leaf.tokens for leaf in self._acted.values())
        self.action_kinds = np.concatenate([np.full(leaf.tokens, leaf.kind, np.uint8) for leaf in self._acted.values()]
                                           or [np.zeros(0, np.uint8)])
        self.memory = bool({Kind.TEXT, Kind.PATCH} & {leaf.kind for leaf in observed.values()}) if memory is None else memory
        real = {name: leaf for name, leaf in self._observed.items() if isinstance(leaf, ContinuousLeaf) and leaf.tokens}
        self._vector = VectorLeaf(real) if numbers == "vector" and real else None
        laid = [leaf for leaf in self._observed.values() if self._vector is None or not isinstance(leaf, ContinuousLeaf)]
        self._laid: list[ObservedLeaf | VectorLeaf] = [*laid, *([self._vector] if self._vector else [])]
        if title and text is None:
            raise ValueError(f"the title {title!r} is text but there is no TextTokenizer; train or load one")
        self._title = text.encode(title) + np.int32(vocabulary.text_start) if title and text else np.zeros(0, np.int32)
        most = len(self._title) + sum(leaf.tokens for leaf in self._laid)
        if most > MOST_TOKENS:
            raise ValueError(f"an observation of {most} tokens is too long, {MOST_TOKENS} is the most; shrink "
                             f"{observation_space}")
        self._texts = {name: leaf for name, leaf in self._observed.items() if isinstance(leaf, TextLeaf)}
        self.repeats_text = text_every == 1 or not (self._texts or len(self._title))
        self._fixed = sum(leaf.tokens for leaf in self._laid if not isinstance(leaf, TextLeaf))     # tokens of each observation
        shortest = len(self._title) + sum(leaf.least for leaf in self._texts.values())
        least = self._fixed + (shortest if text_every == 1 else 0)
        self.observation_tokens: tuple[int, int] = (least, most)
        self.tokens_per_step: tuple[int, int] = (least + 1 + self.action_length, most + 1 + self.action_length)
        images = [leaf for leaf in self._observed.values() if isinstance(leaf, ImageLeaf)]
        self._patch_count = sum(leaf.tokens for leaf in images)
        self._channels = np.concatenate([np.full(leaf.tokens, leaf.channels, np.uint8) for leaf in images]
                                        or [np.zeros(0, np.uint8)])
        self._intervals = np.concatenate([patch_intervals(*leaf.shape[:2]) for leaf in images]
                                         or [np.zeros((0, 4), np.uint8)])
        self._numbers = self._vector.numbers if self._vector else np.zeros(0, np.uint8)
        self._templates: dict[tuple[int, bool], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    # ---- observations and episodes

    def encode_episode(self, episode: Episode, start: int = 0, stop: int | None = None, final: bool = False, *,
                       first: int = 0, apart: bool = False) -> Tokens:
        """Steps [start, stop) of an episode: per step the observation, a separator, the action; segment 0.

        Args:
            stop: default: the episode's end.
            final: add the observation after step `stop - 1` and its separator: what a policy is given at step `stop`.
            first: the step of the whole episode at which this one begins, where it is a window of it.
            apart: the steps do not follow each other, so each needs its text.
        Returns:
            Tokens (seq,); timestep counts from the whole episode's start.
        Raises:
            ValueError: a window outside the episode, a missing leaf, a value outside its space (the message names the
            leaf).
        """
        steps = len(episode)
        stop = steps if stop is None else stop
        if not 0 <= start <= stop <= steps:
            raise ValueError(f"steps [{start}, {stop}) are not inside this episode of {steps} steps; give "
                             f"0 <= start <= stop <= {steps}")
        last = stop + final
        observations = _window(self._observed, episode.observations, start, last)
        actions = _window(self._acted, episode.actions, start, stop)
        acted = self._encode_actions(actions, stop - start)
        targets = np.asarray(episode.demonstrated[start:stop], np.bool_)
        labels = None
        if episode.labels is not None:                                 # every step has an action worth learning
            labels = self._encode_actions(_window(self._acted, episode.labels, start, stop), stop - start)
            targets = np.ones(stop - start, np.bool_)
        if final:                                                      # a row of action tokens too many, cut off below
            nothing = np.zeros((1, self.action_length), np.int32)
            acted, targets = np.concatenate([acted, nothing]), np.append(targets, False)
            labels = None if labels is None else np.concatenate([labels, nothing])
        timesteps = np.arange(start + first, last + first)
        written = None if apart else self._written_rows(observations, timesteps)
        tokens, _ = self._encode(observations, timesteps, acted, targets, labels, written)
        return tokens[: len(tokens) - self.action_length] if final and self.action_length else tokens

    def _written_rows(self, observations: Mapping[str, np.ndarray], timesteps: np.ndarray) -> np.ndarray | None:
        """bool (steps,), at which of these consecutive steps observed text is written; None: at all."""
        if self.repeats_text or not len(timesteps):
            return None
        written = timesteps % self.text_every == 0
        written[0] = True
        for name in self._texts:
            written[1:] |= observations[name][1:] != observations[name][:-1]
        return None if written.all() else written

    def observed_texts(self, observation: Any) -> tuple[str, ...]:
        """The texts of an observation: what `encode_observations` needs to know of the step before."""
        if self.repeats_text:
            return ()
        leaves = flatten(self.observation_space, observation)
        return tuple(leaves[name] for name in self._texts)

    def encode_observations(self, observations: Sequence[Any], timesteps: Sequence[int] | None = None,
                            before: Sequence[tuple[str, ...] | None] | None = None) -> list[Tokens]:
        """What a policy is given at a step: for each row its observation and a separator; segment 0.

        Args:
            observations: values of the observation space, as the environments give them.
            timesteps: step number of each row in its episode; default 0.
            before: `observed_texts` of each row's step before, None where there is none; default: all text is written.
        Raises:
            ValueError: a value outside its space; the message names the leaf.
        """
        if not len(observations):
            return []
        rows = len(observations)
        stacked = _stack("observation", self.observation_space, observations)
        times = np.zeros(rows, np.int32) if timesteps is None else np.asarray(timesteps, np.int32)
        no_actions, written = np.zeros((rows, 0), np.int32), None
        if before is not None and not self.repeats_text:
            written = np.array([told is None or told != self.observed_texts(seen) for told, seen in
                                zip(before, observations, strict=True)]) | (times % self.text_every == 0)
        tokens, lengths = self._encode(stacked, times, no_actions, None, written=written)
        return self._split(tokens, lengths)

    def _encode(self, observations: Mapping[str, np.ndarray], timesteps: np.ndarray, acted: np.ndarray,
                targets: np.ndarray | None, labels: np.ndarray | None = None,
                written: np.ndarray | None = None) -> tuple[Tokens, np.ndarray]:
        """All steps side by side.

        Args:
            acted: int32 (steps, A or 0), action ids.
            targets: bool (steps,), where the action is a target; None without actions.
            labels: int32 (steps, A), ids that are predicted in place of `acted`; None: `acted`.
            written: bool (steps,), where observed text is written; None: everywhere.
        Returns:
            the tokens and each step's length (steps,).
        """
        steps = len(timesteps)
        texts, patches, numbers = self._encode_leaves(observations)
        if len(self._title):
            texts.insert(0, (_tile(self._title, steps), None))
        vectors = self._vector.encode(observations) if self._vector else BESIDE["vectors"]
        text_width = sum(ids.shape[1] for ids, _ in texts)
        separator = np.full((steps, 1), self.vocabulary.separator, np.int32)
        patch_ids = np.full((steps, self._patch_count), self.vocabulary.patch, np.int32)
        vector_ids = np.full((steps, len(self._numbers)), self.vocabulary.patch, np.int32)
        blocks = [*(ids for ids, _ in texts), patch_ids, *numbers, vector_ids, separator, acted]
        ids = np.concatenate(blocks, axis=1, dtype=np.int32)
        kind, position, loss = self._template(text_width, acted.shape[1] > 0)
        width = ids.shape[1]
        fields = {"ids": ids, "kind": _tile(kind, steps), "position": _tile(position, steps),
                  "loss_mask": _tile(loss, steps),
                  "timestep": np.repeat(timesteps.astype(np.int32), width).reshape(steps, width)}
        if labels is not None and not np.array_equal(labels, acted):
            fields["targets"] = np.concatenate([ids[:, : width - acted.shape[1]], labels], axis=1)
        if targets is not None and not targets.all():
            fields["loss_mask"][:, width - acted.shape[1]:] &= targets[:, None]
        lengths = np.full(steps, width)
        if written is not None or any(real is not None for _, real in texts):
            real = np.ones((steps, width), np.bool_)
            holes = [np.ones(ids.shape, np.bool_) if is_real is None else is_real for ids, is_real in texts]
            real[:, :text_width] = np.concatenate(holes, axis=1)
            if written is not None:
                real[:, :text_width] &= written[:, None]
            lengths = real.sum(axis=1)
            if self.text_every == 1:
                seen = fields["position"] >= 0
                fields["position"] = np.where(seen, (real & seen).cumsum(axis=1) - 1, fields["position"]).astype(np.int16)
            else:                                                      # all else keeps its position, with text and without
                fields["position"][:, :text_width] = self._fixed + real[:, :text_width].cumsum(axis=1) - 1
            flat: dict[str, Any] = {name: array[real] for name, array in fields.items()}
        else:
            flat = {name: array.reshape(-1) for name, array in fields.items()}
        return Tokens(**flat, segment=np.zeros(len(flat["ids"]), np.int32), patches=patches,
                      channels=_tile(self._channels, steps).reshape(-1),
                      intervals=_tile(self._intervals, steps).reshape(-1, 4), vectors=vectors.reshape(-1, VECTOR_SIZE),
                      numbers=_tile(self._numbers, steps).reshape(-1)), lengths

    def _encode_leaves(self, observations: Mapping[str, np.ndarray]) -> tuple[
            list[tuple[np.ndarray, np.ndarray | None]], np.ndarray, list[np.ndarray]]:
        """Text blocks with their holes, patches (steps * patches per step, ...), blocks of numbers."""
        texts, images, numbers = [], [], []
        for name, leaf in self._observed.items():
            values = observations[name]
            if isinstance(leaf, TextLeaf):
                texts.append(leaf.encode_rows(values))
            elif isinstance(leaf, ImageLeaf):
                images.append(leaf.encode(values)[0])
            elif leaf in self._laid:
                numbers.append(leaf.encode(values))
        empty = Tokens.empty().patches
        patches = images[0] if len(images) == 1 else np.concatenate(images, axis=1) if images else empty
        return texts, patches.reshape(-1, *empty.shape[1:]), numbers

    def _template(self, text_width: int, with_action: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """kind, position and loss mask of one step whose text takes `text_width` tokens."""
        key = text_width, with_action
        if key not in self._templates:
            fixed = [leaf for leaf in self._laid if not isinstance(leaf, TextLeaf)]
            observed = [np.full(leaf.tokens, leaf.kind) for leaf in fixed]
            kinds = np.concatenate([np.full(text_width, Kind.TEXT), *observed]).astype(np.uint8)
            action = self.action_kinds if with_action else self.action_kinds[:0]
            kind = np.concatenate([kinds, np.array([Kind.SPECIAL], np.uint8), action])
            places = np.arange(len(kinds))
            if self.text_every > 1:                                    # text is last in its positions, though it stands first
                places = (places - text_width) % max(1, len(kinds))
            position = np.concatenate([places, [NO_POSITION], np.full(len(action), ACTION)])
            position = position.astype(DTYPES["position"])
            loss = np.zeros(len(kind), np.bool_)
            loss[len(self._title):text_width] = self.observation_text_loss
            loss[len(kinds) + 1:] = True
            self._templates[key] = kind, position, loss
        return self._templates[key]

    def _split(self, tokens: Tokens, lengths: np.ndarray) -> list[Tokens]:
        """One Tokens per step; they share the memory of `tokens`."""
        rows, start, patch, vector = [], 0, 0, 0
        for length in lengths.tolist():
            stop, after, last = start + length, patch + self._patch_count, vector + len(self._numbers)
            rows.append(Tokens(
                ids=tokens.ids[start:stop], kind=tokens.kind[start:stop], position=tokens.position[start:stop],
                timestep=tokens.timestep[start:stop], loss_mask=tokens.loss_mask[start:stop],
                segment=tokens.segment[start:stop], patches=tokens.patches[patch:after],
                channels=tokens.channels[patch:after], intervals=tokens.intervals[patch:after],
                vectors=tokens.vectors[vector:last], numbers=tokens.numbers[vector:last]))
            start, patch, vector = stop, after, last
        return rows

    # ---- actions

    def encode_actions(self, actions: Sequence[Any]) -> np.ndarray:
        """Actions to ids, int32 (N, A).

        Raises:
            ValueError: an action outside its space; the message names the leaf.
        """
        return self._encode_actions(_stack("action", self.action_space, actions), len(actions))

    def _encode_actions(self, actions: Mapping[str, np.ndarray], steps: int) -> np.ndarray:
        if not steps or not self._acted:
            return np.zeros((steps, self.action_length), np.int32)
        blocks = []
        for name, leaf in self._acted.items():
            encode = leaf.encode_budget if isinstance(leaf, TextLeaf) else leaf.encode
            blocks.append(encode(actions[name]))
        return np.concatenate(blocks, axis=1, dtype=np.int32)

    def decode_actions(self, ids: np.ndarray) -> list[Any]:
        """Inverse of `encode_actions`; every action is contained in the action space.

        Args:
            ids: integers (N, A), each legal under `action_mask`.
        Raises:
            ValueError: another shape, or an id that means nothing at its place.
        """
        ids = np.asarray(ids)
        if ids.ndim != 2 or ids.shape[1] != self.action_length:
            raise ValueError(f"action ids must have the shape (N, {self.action_length}), got {ids.shape}")
        columns, start = {}, 0
        for name, leaf in self._acted.items():
            columns[name] = leaf.decode(ids[:, start:start + leaf.tokens])
            start += leaf.tokens
        rows = [{name: column[i] for name, column in columns.items()} for i in range(len(ids))]
        return [unflatten(self.action_space, row) for row in rows]

    @cached_property
    def action_mask(self) -> np.ndarray:
        """bool (A, vocabulary.size): the ids that are legal at each place of an action."""
        masks = [leaf.legal(self.vocabulary.size) for leaf in self._acted.values()]
        return np.concatenate(masks or [np.zeros((0, self.vocabulary.size), np.bool_)])

    # ---- for people and files

    def explain(self) -> list[Part]:
        """The parts of a timestep in their order: (name, kind, number of tokens)."""
        def parts(role: str, leaves: Mapping[str, ObservedLeaf]) -> list[Part]:
            return [Part(f"{role}/{name}" if name else role, leaf.kind, leaf.tokens) for name, leaf in leaves.items()]

        titled = [Part("title", Kind.TEXT, len(self._title))] if len(self._title) else []
        seen = titled + parts("observation", {name: leaf for name, leaf in self._observed.items() if leaf in self._laid})
        if self._vector:
            names = "+".join(self._vector.leaves)
            seen.append(Part(f"observation/{names}" if names else "observation", Kind.VECTOR, self._vector.tokens))
        return [*seen, Part("separator", Kind.SPECIAL, 1), *parts("action", self._acted)]

    @property
    def leaves_before_separator(self) -> list[DiscreteLeaf | ContinuousLeaf | VectorLeaf]:
        """The leaves of the observation's numbers, in their order: their tokens end at the separator."""
        return [leaf for leaf in self._laid if isinstance(leaf, DiscreteLeaf | ContinuousLeaf | VectorLeaf)]

    @property
    def picture_grids(self) -> dict[str, tuple[int, int]]:
        """Name of each observed picture ("" where it is the whole observation) -> (rows, columns) of its patches, in order."""
        return {name: leaf.grid for name, leaf in self._observed.items() if isinstance(leaf, ImageLeaf)}

    @property
    def leaves_after_separator(self) -> list[ActedLeaf]:
        """The leaves of the action, in their order."""
        return list(self._acted.values())

    def to_json(self) -> dict[str, Any]:
        """The codec without its vocabulary and text tokenizer, as plain JSON values."""
        values = {"observation_space": space_to_json(self.observation_space),
                  "action_space": space_to_json(self.action_space),
                  "observation_text_loss": self.observation_text_loss, "max_text_tokens": self.max_text_tokens}
        return values | {name: value for name, before in NEWER.items() if (value := getattr(self, name)) != before}

    @staticmethod
    def from_json(values: Mapping[str, Any], vocabulary: Vocabulary, text: TextTokenizer | None) -> "TaskCodec":
        """Rebuild from `to_json`: gives the same tokens.

        Raises:
            ValueError: a key is missing or unknown, or a space is none.
        """
        known = {"observation_space", "action_space", "observation_text_loss", "max_text_tokens"}
        newer = {name: values[name] for name in NEWER if name in values}
        if values.keys() - newer.keys() != known:
            raise ValueError(f"a task's JSON must have the keys {sorted(known)}, got {sorted(values)}")
        return TaskCodec(space_from_json(values["observation_space"]), space_from_json(values["action_space"]),
                         vocabulary, text, observation_text_loss=values["observation_text_loss"],
                         max_text_tokens=values["max_text_tokens"], **newer)


def _label(role: str, name: str) -> str:
    """How errors name a leaf."""
    return f"{role} {name!r}" if name else role


def _leaf_spaces(role: str, space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    try:
        return leaf_spaces(space)
    except ValueError as error:
        raise ValueError(f"{role} space: {error}") from None


def _stack(role: str, space: spaces.Space[Any], values: Sequence[Any]) -> dict[str, np.ndarray]:
    """Values of several rows as leaves (rows, ...)."""
    try:
        return stack_leaves([flatten(space, value) for value in values])
    except ValueError as error:
        raise ValueError(f"{role}: {error}") from None


def _window(leaves: Mapping[str, ObservedLeaf], columns: Mapping[str, np.ndarray], start: int,
            stop: int) -> dict[str, np.ndarray]:
    """Rows [start, stop) of each of the leaves in an episode."""
    window = {}
    for name, leaf in leaves.items():
        if name not in columns:
            raise ValueError(f"{leaf.label} is missing in the episode, which has {sorted(columns)}")
        values = np.asarray(columns[name])
        if len(values) < stop:
            raise ValueError(f"{leaf.label} has {len(values)} rows in the episode, but step {stop - 1} is wanted")
        window[name] = values[start:stop]
    return window


def _tile(row: np.ndarray, steps: int) -> np.ndarray:
    """`row` (...) repeated to (steps, ...), with memory of its own."""
    out = np.empty((steps, *row.shape), row.dtype)
    out[:] = row
    return out
