"""Text generation: captions of pictures, answers about pictures and sounds, replies in a dialogue."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..tokenizers.document import Part, Special, caption_parts, dialogue_parts, encode_document
from ..tokenizers.tokens import CONTENTS, DTYPES, Tokens
from .agent import Agent
from .beam import beam_search
from .generate import Reading, begin, generate, read, text_tokens, write
from .hardware import Precision
from .likelihood import likelihoods
from .policy import for_acting
from .sampling import SamplingConfig

GREEDY = SamplingConfig(temperature=0)


@dataclass(frozen=True)
class Generated:
    """A text, and its log-likelihood per token in nats; the end of the document counts as a token."""

    text: str
    log_likelihood: float


@dataclass(frozen=True)
class Truncation:
    """How much did not fit the model's window: the oldest turns, and tokens at the beginning of a message that is too long."""

    turns: int = 0
    tokens: int = 0

    def __bool__(self) -> bool:
        return self.turns > 0 or self.tokens > 0


@dataclass(frozen=True)
class Reply:
    """The assistant's next turn.

    Attributes:
        tokens: how many were written.
        read: how many were read for it, without those in the cache from earlier turns.
        cut: what was left out of the prompt.
    """

    text: str
    tokens: int
    read: int
    cut: Truncation


class TextGenerator:
    """An agent that writes text; it keeps a copy of the weights in the acting format.

    Attributes:
        max_tokens: of an answer.
        room: most tokens of a prompt, so that prompt and answer fit the model's context.
    """

    def __init__(self, agent: Agent, sampling: SamplingConfig = GREEDY, *, max_tokens: int = 64,
                 precision: Precision = "auto") -> None:
        """max_tokens: longest answer, in tokens; at most half of the model's context."""
        context = agent.model.config.backbone.context
        self.agent, self.sampling, self.max_tokens = agent, sampling, min(max_tokens, context // 2)
        self.room = context - self.max_tokens
        self.model = for_acting(agent.model, precision)
        vocabulary = agent.vocabulary
        pieces = np.arange(vocabulary.text_start, vocabulary.text_start + agent.text.size)
        self.legal = np.append(pieces, vocabulary.end)

    def captions(self, images: Sequence[np.ndarray]) -> list[str]:
        """One caption per image; images are uint8 (H, W, C)."""
        return self.complete([caption_parts(image, None) for image in images])

    def draw_captions(self, images: Sequence[np.ndarray], drawn: int) -> list[list[Generated]]:
        """`drawn` captions of each image by sampling, the likeliest first; independent of the other images."""
        prompts = [self.prompt(caption_parts(image, None)) for image in images]
        answers = self._generate(prompts, samples=drawn)
        groups = [answers[start : start + drawn] for start in range(0, len(answers), drawn)]
        scored = likelihoods(self.model, [(prompt, [self._ended(answer) for answer in group])
                                          for prompt, group in zip(prompts, groups, strict=True)], self.agent.vocabulary.pad)
        found = [[Generated(self.decode(answer), one.mean) for answer, one in zip(group, ones, strict=True)]
                 for group, ones in zip(groups, scored, strict=True)]
        return [sorted(group, key=lambda caption: -caption.log_likelihood) for group in found]

    def search_captions(self, images: Sequence[np.ndarray], beams: int) -> list[list[Generated]]:
        """The likeliest captions of each image that a beam search finds, at most `beams`, the likeliest first."""
        prompts = [self.prompt(caption_parts(image, None)) for image in images]
        found = beam_search(self.model, prompts, legal=self.legal, stop=self.agent.vocabulary.end,
                            pad=self.agent.vocabulary.pad, max_tokens=self.max_tokens, beams=beams)
        return [[Generated(self.decode(ids), score) for ids, score in group] for group in found]

    def answers(self, shown: Sequence[np.ndarray | None], questions: Sequence[str]) -> list[str]:
        """One answer per question, which may be about a picture or a sound, see `user_message`."""
        return self.complete([dialogue_parts([user_message(one, question)], generate=True)
                              for one, question in zip(shown, questions, strict=True)])

    def replies(self, dialogues: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
        """The assistant's next turn in each dialogue; messages as in `fit`, which leaves out what is too long."""
        return [self.decode(answer) for answer in self._generate([self.fit(messages)[0] for messages in dialogues])]

    def complete(self, documents: Sequence[Sequence[Part]]) -> list[str]:
        """Continue documents until their end. Raises ValueError where one does not fit the model's context."""
        return [self.decode(answer) for answer in self._generate([self.prompt(parts) for parts in documents])]

    def prompt(self, parts: Sequence[Part]) -> Tokens:
        """A document's tokens (seq,). Raises ValueError where they do not fit the model's context."""
        tokens = self._encode(parts)
        if len(tokens) > self.room:
            raise ValueError(f"what is shown and asked has {len(tokens)} tokens, the model reads {self.room} beside an answer "
                             f"of {self.max_tokens}; give a smaller picture, a shorter sound or fewer words")
        return tokens

    def fit(self, messages: Sequence[Mapping[str, Any]]) -> tuple[Tokens, Truncation]:
        """The prompt (seq,) of a dialogue's next reply, as much of the dialogue as fits beside the reply.

        Whole turns (a user's message and what follows) are left out, the oldest first, then what precedes the first turn, such
        as a system message. A message that is too long by itself loses its beginning. Messages are as in `dialogue_parts`,
        which raises ValueError for others; images are inside, the last message is the user's.
        """
        starts = [number for number, message in enumerate(messages) if message.get("role") == "user"]
        borders = [*starts, len(messages)]
        before, asked = self._encode_messages(messages, 0, borders[0]), self._encode([Special("assistant")])
        encoded: list[Tokens] = []
        length = len(before) + len(asked)
        for start, stop in reversed(list(pairwise(borders))):      # newest first: what does not fit is not even encoded
            turn = self._encode_messages(messages, start, stop)
            if encoded and length + len(turn) > self.room:
                break
            encoded.insert(0, turn)
            length += len(turn)
        left_out = len(starts) - len(encoded)
        if length > self.room and encoded and len(before):
            before, left_out = Tokens.empty(), left_out + 1
        tokens = Tokens.concatenate([before, *encoded, asked])
        over = max(0, len(tokens) - self.room)
        while over and tokens.kind[1 + over] in CONTENTS:                        # no half pictures
            over += 1
        if over:
            tokens = Tokens.concatenate([tokens[:1], tokens[1 + over :]])        # the role marker stays
        return tokens, Truncation(left_out, over)

    def decode(self, ids: np.ndarray) -> str:
        """Text ids of the vocabulary -> string."""
        return self.agent.text.decode(ids - self.agent.vocabulary.text_start)

    def _encode(self, parts: Sequence[Part]) -> Tokens:
        return encode_document(parts, self.agent.vocabulary, self.agent.text)

    def _encode_messages(self, messages: Sequence[Mapping[str, Any]], start: int, stop: int) -> Tokens:
        try:
            return self._encode(dialogue_parts(messages[start:stop]))
        except ValueError:
            dialogue_parts(messages[:stop])      # says the same with the message's own number
            raise

    def _ended(self, answer: np.ndarray) -> Tokens:
        """An answer with its end token, unless it was cut off."""
        return text_tokens(np.append(answer, self.agent.vocabulary.end)[: self.max_tokens])

    def _generate(self, prompts: Sequence[Tokens], samples: int = 1) -> list[np.ndarray]:
        return generate(self.model, prompts, legal=self.legal, stop=self.agent.vocabulary.end, pad=self.agent.vocabulary.pad,
                        max_tokens=self.max_tokens, sampling=self.sampling, samples=samples)


class Conversation:
    """A dialogue whose earlier turns stay in the cache, so that a turn costs only its own tokens.

    Attributes:
        messages: as in `dialogue_parts`, images inside; append the user's next one.
    """

    def __init__(self, speaker: TextGenerator, messages: Sequence[Mapping[str, Any]] = ()) -> None:
        self.speaker, self.messages = speaker, list(messages)
        self._read = Tokens.empty()                  # the tokens in the reading
        self._reading: Reading | None = None

    def reply(self, on_text: Callable[[str], None] | None = None) -> Reply:
        """The assistant's next turn, which is appended to `messages`; greedily, the same as `TextGenerator.replies` gives.

        Args:
            on_text: called with the reply so far, as it grows. An exception from it ends the reply, not the conversation.
        Raises:
            ValueError: the last message is none that `dialogue_parts` takes.
        """
        speaker, end, pad = self.speaker, self.speaker.agent.vocabulary.end, self.speaker.agent.vocabulary.pad
        prompt, cut = speaker.fit(self.messages)
        known = self._reading is not None and begins_with(prompt, self._read)
        new = prompt[len(self._read) :] if known else prompt
        reading, self._reading = self._reading if known else begin(speaker.model, 1), None   # not kept where reading fails
        self._read, self._reading = prompt, read(speaker.model, [new], pad, reading)
        written: list[int] = []

        def stream(tokens: list[int]) -> None:
            if on_text is not None and tokens[0] >= 0:
                written.append(tokens[0])
                on_text(speaker.decode(np.array(written)))

        # The reply is read with the next turn: its text may be encoded in fewer tokens than were written.
        (answer,) = write(speaker.model, self._reading.select([0]), legal=speaker.legal, stop=end, sampling=speaker.sampling,
                          max_tokens=speaker.max_tokens, seeds=[len(self.messages)], on_tokens=stream)
        text = speaker.decode(answer)
        self.messages.append({"role": "assistant", "content": text})
        return Reply(text, len(answer), len(new), cut)


def begins_with(tokens: Tokens, start: Tokens) -> bool:
    """Whether a sequence begins with another one, with the same pictures and sounds."""
    opening = tokens[: len(start)]
    return all(np.array_equal(getattr(opening, name), getattr(start, name)) for name in DTYPES)


def user_message(shown: np.ndarray | None, question: str) -> dict[str, Any]:
    """A user's message that asks a question, perhaps about a picture, uint8 (H, W, C), or a sound, float (samples,)."""
    kind = "image" if shown is not None and shown.dtype == np.uint8 else "audio"
    entries = [] if shown is None else [{"type": kind, kind: shown}]
    return {"role": "user", "content": [*entries, {"type": "text", "text": question}]}
