"""Sources: episodes, documents and text, each able to fill one row of a batch.

A row is filled from end to end. Pieces (windows of episodes, whole documents) follow one another until the row is
full, the last one is cut at its end, and `segment` numbers them. Everything random comes from the generator that is
handed in, so a row is a function of it.

Prompts follow Gato (arXiv:2205.06175, section 2.3): a quarter of the control sequences begin with a piece of another
episode of the same task; half of these pieces are episode ends, which show the goal, half begin at a uniform step. The
paper's mask counts text and actions wherever they stand, so the actions of a prompt are targets here too;
`prompt_loss=False` leaves them out.
"""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, Protocol

import numpy as np

from ..tokenizers.document import Part, caption_parts, dialogue_parts, encode_document, text_parts
from ..tokenizers.episode import Episode
from ..tokenizers.task import TaskCodec
from ..tokenizers.text import TextTokenizer
from ..tokenizers.tokens import Tokens
from ..tokenizers.vocabulary import Vocabulary
from .byte_cache import ByteCache
from .documents import Caption, Dialogue, Document
from .images import random_crop
from .publish import digest
from .reader import check_broken

SHUFFLED_STEPS = 16       # of one episode in a row: a row mixes several episodes
LOOKED_AT = (64, 2000)    # items that are searched for targets; the larger number where the smaller finds none


@dataclass(frozen=True)
class Targets:
    """How many of a source's items have something to learn in a row.

    Attributes:
        items: what they are, "documents" or "episodes".
        total: how many the source draws from.
        looked_at: how many of them were searched, evenly spaced.
        without: how many of those have no target.
        remedy: why, and what to change.
    """

    items: str
    total: int
    looked_at: int = 0
    without: int = 0
    remedy: str = ""

    def describe(self, length: int) -> str:
        """One line for a row of `length` tokens."""
        of = f"{self.looked_at:,} {self.items}" + (f" (of {self.total:,})" if self.looked_at < self.total else "")
        return f"{self.without:,} of {of} have no target in a row of {length} tokens; {self.remedy}"


class Source(Protocol):
    """What a mixture draws from.

    Attributes:
        name: unique in a mixture.
    """

    name: str

    def sample(self, rng: np.random.Generator, length: int) -> Tokens:
        """A sequence of at most `length` tokens, as near to it as the source can, ready to place in a row."""
        ...

    def describe(self) -> dict[str, Any]:
        """Plain JSON that identifies the data and every setting that changes a sample."""
        ...

    def targets(self, length: int) -> Targets:
        """How many of its items have a target in a row of `length` tokens."""
        ...


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """Pieces of another episode of the same task before the window."""

    probability: float = 0.25      # share of the rows that begin with a prompt
    ends: float = 0.5              # share of the prompts that are episode ends
    length: int | None = None      # most tokens of a prompt; None: half of the row
    loss: bool = True              # the prompt's actions are targets like all others

    def __post_init__(self) -> None:
        for name in ("probability", "ends"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"prompt.{name}={getattr(self, name)} is not a share; give a number from 0 to 1")
        if self.length is not None and self.length < 1:
            raise ValueError(f"prompt.length={self.length} is not positive; give tokens, or None for half of the row")


class EpisodeSource:
    """Windows of one task's episodes; of a task without memory (TaskCodec.memory) single steps in random order.

    Args:
        name: the source's name in the mixture, usually the task's.
        episodes: an EpisodeReader, or any sequence of episodes.
        codec: how the task becomes tokens.
        prompt: see the top of the file. With a single episode there is no other one to show, so there are no prompts.
        select: which episodes take part (their numbers); default all. See splits.py.
    Raises:
        ValueError: no episode with a step.
    """

    def __init__(self, name: str, episodes: Sequence[Episode], codec: TaskCodec, *, prompt: PromptConfig | None = None,
                 select: Sequence[int] | np.ndarray | None = None) -> None:
        self.name, self.codec, self.prompt = name, codec, prompt or PromptConfig()
        self._episodes = episodes
        lengths = getattr(episodes, "lengths", None)
        lengths = np.array([len(e) for e in episodes], np.int64) if lengths is None else lengths
        numbers = np.arange(len(lengths)) if select is None else np.asarray(select, np.int64)
        self._numbers = numbers[lengths[numbers] > 0]
        if not len(self._numbers):
            raise ValueError(f"source {name!r} is empty: none of its {len(numbers)} episodes has a step")
        self._lengths = lengths[self._numbers]
        self._ends = np.cumsum(self._lengths)

    def sample(self, rng: np.random.Generator, length: int) -> Tokens:
        """Fill `length` tokens: perhaps a prompt, then windows until the row is full.

        Raises:
            ValueError: not even one step of the task fits.
        """
        longest = self.codec.tokens_per_step[1]
        if length < longest:
            raise ValueError(f"source {self.name!r}: a step takes up to {longest} tokens, which does not fit the "
                             f"context of {length}; raise the context or choose a more frugal view")
        if not self.codec.memory:
            return fill(length, lambda room: self._shuffled(rng, room))
        pieces: list[Tokens] = []
        index, start = self._draw(rng, length)
        prompted = len(self._lengths) > 1 and rng.random() < self.prompt.probability
        if prompted:
            pieces.append(self._prompt(rng, index, length))
        filled = sum(map(len, pieces))
        while filled < length:
            pieces.append(self._window(index, start, length - filled))
            filled += len(pieces[-1])
            index, start = self._draw(rng, max(length - filled, 1))
        row = Tokens.concatenate(pieces, renumber=True)[:length]
        return self._join_prompt(row, len(pieces[0])) if prompted else row

    def targets(self, length: int) -> Targets:
        """An episode has targets where an action is demonstrated, or observed text is one."""
        looked_at, without = search(len(self._numbers), self._without_target)
        return Targets("episodes", len(self._numbers), looked_at, len(without),
                       "no action in them was demonstrated: collect more with an expert, or leave them out")

    def _without_target(self, indices: Sequence[int]) -> list[int]:
        numbers = self._numbers[np.asarray(indices)].tolist()
        read = getattr(self._episodes, "demonstrated_in", None)     # a reader reads that column alone
        columns = [self._episodes[number].demonstrated for number in numbers] if read is None else read(numbers)
        return [index for index, column in zip(indices, columns, strict=True) if not self._has_target(index, column)]

    def _has_target(self, index: int, demonstrated: np.ndarray) -> bool:
        if demonstrated.any() and self.codec.action_length:      # all tokens of a demonstrated action are targets
            return True
        return bool(self._encode(index, 0, 1).loss_mask.any())

    def _draw(self, rng: np.random.Generator, length: int) -> tuple[int, int]:
        steps = -(-length // self.codec.tokens_per_step[0])
        return draw_window(rng, self._ends, steps)

    def _window(self, index: int, start: int, length: int) -> Tokens:
        """Steps from `start` on that fill `length` tokens, or the rest of the episode; up to one step more."""
        steps = -(-length // self.codec.tokens_per_step[0])
        return self._encode(index, start, min(start + steps, int(self._lengths[index])))

    def _shuffled(self, rng: np.random.Generator, length: int) -> Tokens:
        """Steps of one episode in random order, each a segment: enough for `length` tokens, SHUFFLED_STEPS at most."""
        index, _ = draw_window(rng, self._ends, 1)
        steps = min(SHUFFLED_STEPS, -(-length // self.codec.tokens_per_step[0]))
        chosen = rng.integers(self._lengths[index], size=steps).astype(np.int32)
        tokens = self.codec.encode_episode(take_steps(self._episodes[int(self._numbers[index])], chosen), apart=True)
        return replace(tokens, timestep=chosen[tokens.timestep], segment=tokens.timestep)

    def _prompt(self, rng: np.random.Generator, index: int, length: int) -> Tokens:
        """Whole steps of another episode, at most prompt.length tokens but at least one step."""
        other = int(rng.integers(len(self._lengths) - 1))
        other += other >= index
        room, total = min(self.prompt.length or length // 2, length), int(self._lengths[other])
        step, most = self.codec.tokens_per_step
        if step != most and self.codec.text_every == 1:   # take the length of the first step, missions seldom change
            step = len(self._encode(other, 0, 1))
        steps = min(max(room // step, 1), total)
        last = total - steps
        start = last if rng.random() < self.prompt.ends else int(rng.integers(last + 1))
        tokens = self._last_steps(other, start, start + steps, room)
        return tokens if self.prompt.loss else replace(tokens, loss_mask=np.zeros_like(tokens.loss_mask))

    @staticmethod
    def _join_prompt(row: Tokens, length: int) -> Tokens:
        """The prompt of `length` tokens and the window after it as one segment: the window sees the prompt. Its first token is
        no target, as the first of a segment never is."""
        loss_mask = row.loss_mask.copy()
        loss_mask[length:length + 1] = False
        return replace(row, segment=np.maximum(row.segment - 1, 0), loss_mask=loss_mask)

    def _encode(self, index: int, start: int, stop: int) -> Tokens:
        number = int(self._numbers[index])
        window = getattr(self._episodes, "window", None)
        if window is None:
            return self.codec.encode_episode(self._episodes[number], start, stop)
        return self.codec.encode_episode(window(number, start, stop), first=start)

    def _last_steps(self, index: int, start: int, stop: int, room: int) -> Tokens:
        """As many of the steps before `stop` as fit into `room` tokens, but at least one; encoded anew, for text may then be
        written where it was not."""
        tokens = self._encode(index, start, stop)
        while len(tokens) > room and start < stop - 1:
            start = min(stop - 1, start + max(1, (len(tokens) - room) // self.codec.tokens_per_step[1]))
            tokens = self._encode(index, start, stop)
        return tokens

    def describe(self) -> dict[str, Any]:
        """Digest of the data, prompt settings, digest of the codec."""
        return {"data": data_fingerprint(self._episodes), "episodes": digest(self._numbers.tolist()),
                "prompt": asdict(self.prompt), "codec": digest(self.codec.to_json()),
                "text": text_digest(self.codec.text)}


def take_steps(episode: Episode, chosen: np.ndarray) -> Episode:
    """The steps `chosen` (n,) of an episode as an episode of n steps; the final observation is its last one, unused."""
    observed = np.append(chosen, chosen[-1:])
    labels = episode.labels
    return replace(episode, observations={name: leaf[observed] for name, leaf in episode.observations.items()},
                   actions={name: leaf[chosen] for name, leaf in episode.actions.items()},
                   labels=None if labels is None else {name: leaf[chosen] for name, leaf in labels.items()},
                   demonstrated=episode.demonstrated[chosen], rewards=episode.rewards[chosen])


def draw_window(rng: np.random.Generator, ends: np.ndarray, steps: int) -> tuple[int, int]:
    """Draw where a window of up to `steps` steps begins, so that all steps are seen about equally often.

    With uniform starts alone an episode's first steps would be seen least, though every rollout begins there: step t is
    reached only from the starts up to t. So a window may begin up to steps - 1 steps early, and those begin at step 0.
    One episode of 100 steps, windows of 10: 9 / 109 of the windows begin at step 0 in addition, each other start has
    1 / 109. Episodes much shorter than a window are mostly seen whole.

    Args:
        ends: cumulative sum of the episodes' lengths, all positive.
        steps: how many steps fit.
    Returns:
        episode, first step.
    """
    total, early = int(ends[-1]), len(ends) * (steps - 1)
    place = int(rng.integers(total + early))
    if place >= total:
        return (place - total) // (steps - 1), 0
    index = int(np.searchsorted(ends, place, side="right"))
    return index, place - (int(ends[index - 1]) if index else 0)


class DocumentSource:
    """Captioned pictures, dialogues and short texts: drawn uniformly, one after another.

    A document that cannot be read, for its picture is cut short, say, is passed over with a warning and another one is drawn:
    from the generator alone, so a run that is resumed draws the same ones. More than reader.BROKEN of them are an error.

    Args:
        name: the source's name in the mixture.
        documents: a reader of documents.py, or any sequence of Caption, Dialogue or str.
        select: which documents take part (their numbers); default all.
        mirror: captioned pictures are seen mirrored half of the time, so that few photographs go further. Not for pictures
            whose captions tell left from right.
        crop: captioned pictures are seen through a frame of the same proportions, anywhere, with at least this share of
            their sides, enlarged to their size. 1: always whole.
        cache_bytes: how much of the latest documents' tokens to keep in memory.
    Attributes:
        skipped: documents that could not be read so far, by number, and why.
    Raises:
        ValueError: no documents.
    """

    def __init__(self, name: str, documents: Sequence[Document], vocabulary: Vocabulary, text: TextTokenizer, *,
                 select: Sequence[int] | np.ndarray | None = None, mirror: bool = False, crop: float = 1.0,
                 cache_bytes: int = 1 << 27) -> None:
        self.name, self.vocabulary, self.text, self.mirror, self.crop = name, vocabulary, text, mirror, crop
        self._documents = documents
        self._cache: ByteCache[tuple[int, int], Tokens] = ByteCache(cache_bytes, _nbytes)   # (document, choice)
        self.skipped: dict[int, str] = {}
        self._choices: dict[int, int] = {}     # of a document: its captions, and once more with the picture mirrored
        self._numbers = np.arange(len(documents)) if select is None else np.asarray(select, np.int64)
        if not len(self._numbers):
            raise ValueError(f"source {name!r} is empty: it has no documents")

    def sample(self, rng: np.random.Generator, length: int) -> Tokens:
        """Fill `length` tokens with documents; of several captions one is drawn each time, and a dialogue that is longer than
        the row begins with a drawn message, or its end would never be seen."""
        return fill(length, lambda room: from_a_message(self._document(rng), length, self.vocabulary, rng))

    def targets(self, length: int) -> Targets:
        """A document has targets where a row that begins with it, or with one of its messages, holds one."""
        first: list[int] = []      # of those without, where their first target is, if anywhere

        def has_target(index: int) -> bool:
            number = int(self._numbers[index])
            if self._unreadable(number):
                return False
            tokens = self._cache.get((number, 0), lambda: self._encode(number, 0, self._documents[number]))
            starts, mask = message_starts(tokens, length, self.vocabulary).tolist() or [0], tokens.loss_mask
            found = any(mask[start:start + length].any() for start in starts)
            if not found and mask.any():
                first.append(int(np.argmax(mask)))
            return found

        looked_at, without = search(len(self._numbers), lambda indices: [i for i in indices if not has_target(i)])
        broken = [index for index in without if int(self._numbers[index]) in self.skipped]
        remedy = "only texts, captions and what an assistant says are learnt: give such documents, or leave these out"
        if first:
            remedy = (f"what is learnt stands behind {min(first):,} tokens or more: raise backbone.context, or lower the "
                      "source's max_side (pictures) or max_seconds (sounds)")
        return Targets("documents", len(self._numbers), looked_at - len(broken), len(without) - len(broken), remedy)

    def _document(self, rng: np.random.Generator) -> Tokens:
        """The tokens of a drawn document, kept: reading and encoding it costs more than the rest of a row."""
        number = int(self._numbers[rng.integers(len(self._numbers))])
        while self._unreadable(number):
            number = int(self._numbers[rng.integers(len(self._numbers))])
        read = cache(lambda: self._documents[number])      # at most once, and not where its tokens are kept
        choice = int(rng.integers(self._choices[number])) if self._choices[number] > 1 else 0
        if self.crop < 1 and isinstance(document := read(), Caption):      # another view each time: nothing to keep
            return self._encode(number, choice, replace(document, image=random_crop(document.image, self.crop, rng)))
        return self._cache.get((number, choice), lambda: self._encode(number, choice, read()))

    def _unreadable(self, number: int) -> bool:
        """Whether a document cannot be read; one whose tokens or choices are known could be.

        Raises:
            ValueError: too many cannot.
        """
        if number in self.skipped or number in self._choices:
            return number in self.skipped
        try:
            document = self._documents[number]
        except ValueError as error:
            self.skip({number: str(error)})
            warnings.warn(f"{error}; passed over, {len(self.skipped)} so far", stacklevel=2)
            return True
        captions = len(document.captions) if isinstance(document, Caption) else 0
        self._choices[number] = captions * (1 + self.mirror) or 1
        return False

    def skip(self, found: Mapping[int, str]) -> None:
        """Pass over these documents, number -> why.

        Raises:
            ValueError: too many are passed over.
        """
        self.skipped.update(found)
        check_broken(f"source {self.name!r}", self.skipped.values(), len(self._numbers))

    def _encode(self, number: int, choice: int, document: Document) -> Tokens:
        if isinstance(document, Caption) and choice >= len(document.captions):
            document, choice = replace(document, image=document.image[:, ::-1]), choice - len(document.captions)
        tokens = encode_document(document_parts(document, choice), self.vocabulary, self.text)
        if not len(tokens):
            raise ValueError(f"source {self.name!r}: document {number} has no tokens")
        return tokens

    def describe(self) -> dict[str, Any]:
        """Digests of the data and the text tokenizer."""
        return {"data": data_fingerprint(self._documents), "documents": digest(self._numbers.tolist()),
                "text": text_digest(self.text)} | (
                    {"mirror": True} if self.mirror else {}) | ({"crop": self.crop} if self.crop < 1 else {})


def from_a_message(tokens: Tokens, length: int, vocabulary: Vocabulary, rng: np.random.Generator) -> Tokens:
    """A document of more than `length` tokens from one of its messages on, up to the first from which the rest fits."""
    starts = message_starts(tokens, length, vocabulary)
    return tokens[int(rng.choice(starts)):] if len(starts) else tokens


def message_starts(tokens: Tokens, length: int, vocabulary: Vocabulary) -> np.ndarray:
    """The messages at which a row of `length` tokens may begin in a longer document; empty where it begins at 0."""
    if len(tokens) <= length:
        return np.zeros(0, np.int64)
    starts = np.flatnonzero(np.isin(tokens.ids, (vocabulary.user, vocabulary.assistant, vocabulary.system)))
    return starts[:1 + int((len(tokens) - starts > length).sum())]


def search(count: int, without_target: Callable[[Sequence[int]], list[int]]) -> tuple[int, list[int]]:
    """How many of `count` items were looked at, evenly spaced, and which of them have no target."""
    for most in LOOKED_AT:
        indices = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)).tolist()
        without = without_target(indices)
        if len(without) < len(indices) or len(indices) == count:
            break
    return len(indices), without


def _nbytes(tokens: Tokens) -> int:
    return tokens.nbytes


def document_parts(document: Document, choice: int = 0) -> list[Part]:
    """A document as parts; of several captions number `choice`."""
    match document:
        case str():
            return text_parts(document)
        case Caption(image=image, captions=captions):
            return caption_parts(image, captions[choice])
        case Dialogue(messages=messages, images=images, sounds=sounds):
            return dialogue_parts(messages, images, sounds=sounds)
    raise TypeError(f"documents are str, Caption or Dialogue, got {type(document).__name__}")


class TextSource:
    """Windows of texts of any length, drawn by characters: a book weighs more than a sentence.

    A window begins at a text's start or after a space; only a text that is read to its end ends with `end`.

    Args:
        name: the source's name in the mixture.
        texts: a TextReader, or any sequence of str.
        select: which texts take part (their numbers); default all.
    Raises:
        ValueError: no text with a character.
    """

    def __init__(self, name: str, texts: Sequence[str], vocabulary: Vocabulary, text: TextTokenizer, *,
                 select: Sequence[int] | np.ndarray | None = None) -> None:
        self.name, self.vocabulary, self.text = name, vocabulary, text
        self._texts = texts
        characters = getattr(texts, "characters", None)
        characters = np.array([len(t) for t in texts], np.int64) if characters is None else characters
        numbers = np.arange(len(characters)) if select is None else np.asarray(select, np.int64)
        self._numbers = numbers[characters[numbers] > 0]
        if not len(self._numbers):
            raise ValueError(f"source {name!r} is empty: none of its {len(numbers)} texts has a character")
        self._ends = np.cumsum(characters[self._numbers])
        self._per_token = self._measure()

    def _measure(self) -> float:
        """Characters per token at the start of the first texts; only decides how much is encoded at a time."""
        sample = [self._texts[int(number)][:2000] for number in self._numbers[:8]]
        return sum(map(len, sample)) / max(1, sum(len(self.text.encode(text)) for text in sample))

    def sample(self, rng: np.random.Generator, length: int) -> Tokens:
        """Fill `length` tokens with windows."""
        return fill(length, lambda room: self._window(rng, room))

    def targets(self, length: int) -> Targets:
        """All of a text is learnt."""
        return Targets("texts", len(self._numbers))

    def _window(self, rng: np.random.Generator, room: int) -> Tokens:
        size = int(room * self._per_token * 1.25) + 8
        index, start = draw_window(rng, self._ends, size)
        text = self._texts[int(self._numbers[index])]
        if start:   # at the next space, if it is near
            space = text.find(" ", start, start + 40)
            start = space if space >= 0 else start
        stop = start + size
        parts = text_parts(text[start:stop])
        return encode_document(parts if stop >= len(text) else parts[:1], self.vocabulary, self.text)

    def describe(self) -> dict[str, Any]:
        """Digests of the data and the text tokenizer."""
        return {"data": data_fingerprint(self._texts), "texts": digest(self._numbers.tolist()),
                "text": text_digest(self.text)}


def fill(length: int, draw: Callable[[int], Tokens]) -> Tokens:
    """Call `draw(room)` until `length` tokens are there; the last piece is cut."""
    pieces: list[Tokens] = []
    filled = 0
    while filled < length:
        pieces.append(draw(length - filled))
        filled += len(pieces[-1])
    return Tokens.concatenate(pieces, renumber=True)[:length]


def text_digest(text: TextTokenizer | None) -> str | None:
    """SHA-256 of a tokenizer's model."""
    return None if text is None else hashlib.sha256(text.to_bytes()).hexdigest()


def data_fingerprint(data: Sequence[Any]) -> str:
    """The reader's own fingerprint, or the SHA-256 over all that a sequence in memory holds."""
    own = getattr(data, "fingerprint", None)
    if own is not None:
        return str(own)
    state = hashlib.sha256()
    for item in data:
        _hash(state, item if isinstance(item, str) else vars(item))
    return state.hexdigest()


def _hash(state: Any, value: Any) -> None:
    """Feed a tree of plain values and arrays, in an order of its own."""
    match value:
        case dict():
            for key in sorted(value):
                state.update(f"{key}:".encode())
                _hash(state, value[key])
        case list() | tuple():
            for item in value:
                _hash(state, item)
        case np.ndarray() if value.dtype != object:
            state.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        case np.ndarray():
            _hash(state, value.tolist())
        case _:
            state.update(f"{value!r};".encode())
