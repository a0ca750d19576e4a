"""What the agent says: captions of pictures, answers about them, replies in a dialogue."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..tokenizers.document import Part, caption_parts, dialogue_parts, encode_document
from .agent import Agent
from .generate import generate
from .hardware import Precision
from .policy import for_acting
from .sampling import SamplingConfig

GREEDY = SamplingConfig(temperature=0)


class Speaker:
    """An agent that writes text; it keeps a copy of the weights in the acting format."""

    def __init__(self, agent: Agent, sampling: SamplingConfig = GREEDY, *, max_tokens: int = 64,
                 precision: Precision = "auto") -> None:
        """max_tokens: longest answer, in tokens."""
        self.agent, self.sampling, self.max_tokens = agent, sampling, max_tokens
        self.model = for_acting(agent.model, precision)
        vocabulary = agent.vocabulary
        pieces = np.arange(vocabulary.text_start, vocabulary.text_start + agent.text.size)
        self.legal = np.append(pieces, vocabulary.end)

    def captions(self, images: Sequence[np.ndarray]) -> list[str]:
        """One caption per image; images are uint8 (H, W, C)."""
        return self.complete([caption_parts(image, None) for image in images])

    def answers(self, images: Sequence[np.ndarray | None], questions: Sequence[str]) -> list[str]:
        """One answer per (image, question); without an image it is a question in words alone."""
        return self.replies([[user_message(image, question)] for image, question in zip(images, questions, strict=True)])

    def replies(self, dialogues: Sequence[Sequence[Mapping[str, Any]]],
                on_text: Callable[[str], None] | None = None) -> list[str]:
        """The assistant's next turn in each dialogue.

        Args:
            dialogues: messages as in `dialogue_parts`, the last one by the user; images stand in the messages.
            on_text: called with the first dialogue's reply so far, as it grows.
        """
        return self.complete([dialogue_parts(messages, generate=True) for messages in dialogues], on_text)

    def complete(self, documents: Sequence[Sequence[Part]], on_text: Callable[[str], None] | None = None) -> list[str]:
        """Continue documents until their end."""
        agent, written = self.agent, []

        def stream(tokens: list[int]) -> None:
            if on_text is not None and tokens[0] >= 0:
                written.append(tokens[0])
                on_text(self.decode(np.array(written)))

        prompts = [encode_document(parts, agent.vocabulary, agent.text) for parts in documents]
        answers = generate(self.model, prompts, legal=self.legal, stop=agent.vocabulary.end, pad=agent.vocabulary.pad,
                           max_tokens=self.max_tokens, sampling=self.sampling, on_tokens=stream)
        return [self.decode(answer) for answer in answers]

    def decode(self, ids: np.ndarray) -> str:
        """Text ids of the vocabulary -> string."""
        return self.agent.text.decode(ids - self.agent.vocabulary.text_start)


def user_message(image: np.ndarray | None, question: str) -> dict[str, Any]:
    """A user's message that asks a question, about a picture where one is given."""
    shown = [] if image is None else [{"type": "image", "image": image}]
    return {"role": "user", "content": [*shown, {"type": "text", "text": question}]}
