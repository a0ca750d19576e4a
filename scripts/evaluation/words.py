"""The suites `chat` and `text`: perplexity of replies and texts, and the quality of generated replies."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from calico.datasets.documents import Dialogue
from calico.datasets.sources import document_parts
from calico.scripts.evaluation.baselines import most_frequent, unigram
from calico.scripts.evaluation.data import EvaluationSet
from calico.scripts.evaluation.metrics import Likelihood, distinct, vqa_normal
from calico.scripts.evaluation.suites import Evaluator, SuiteResult, filled, perplexities, words_of
from calico.tokenizers.document import text_parts
from calico.tokenizers.text import TextTokenizer

ENOUGH = 1 << 22      # characters of training text that the unigram baseline counts
_NUMBER = re.compile(r"####\s*(-?[\d,]*\.?\d+)")


def evaluate_text(evaluator: Evaluator, data: EvaluationSet, against: Evaluator | None = None) -> SuiteResult[Any]:
    """Bits per byte and perplexity of whole texts, their ends included.

    The first token of a text has no context and counts with a uniform distribution, so that every byte counts once.
    """
    texts: Sequence[Any] = data.documents
    found = {"model": text_likelihood(evaluator, data)}
    if against:
        found["against"] = text_likelihood(against, data)
    if data.known:
        found["unigram"] = unigram_of(evaluator.agent.text, (str(text) for text in data.known), texts)
    return SuiteResult(data.name, perplexities(found))


def text_likelihood(evaluator: Evaluator, data: EvaluationSet) -> Likelihood:
    """Summed over the texts."""
    first = math.log(evaluator.agent.text.size)

    def predict(batch: Sequence[Any]) -> list[dict[str, Any]]:
        nats = evaluator.nats([evaluator.encode(text_parts(text)) for text in batch])
        return [{"nats": total + first, "tokens": count + 1} for total, count in nats]

    return total_of(evaluator.each("text", data, data.documents, predict), map(str, data.documents))


def evaluate_chat(evaluator: Evaluator, data: EvaluationSet, against: Evaluator | None = None) -> SuiteResult[Any]:
    """Perplexity of the assistant's replies, each given all before it; and of generated last replies the diversity (distinct-n,
    beside that of people's), and the accuracy where an answer can be checked."""
    dialogues: Sequence[Any] = data.documents
    replies = [[words_of(message) for message in dialogue.messages if message["role"] == "assistant"] for dialogue in dialogues]
    found = {"model": (results := chat_each(evaluator, data))}
    if against:
        found["against"] = chat_each(against, data)
    likelihood = {who: total_of(ones, ["".join(texts) for texts in replies]) for who, ones in found.items()}
    known = [words_of(message) for dialogue in data.known if isinstance(dialogue, Dialogue) for message in dialogue.messages
             if message["role"] == "assistant"]
    if known:
        likelihood["unigram"] = unigram_of(evaluator.agent.text, known, [text for texts in replies for text in texts])
    last = [texts[-1] for texts in replies]
    written = {who: [one["said"] for one in ones] for who, ones in found.items()} | {"people": last}
    figures = perplexities(likelihood)
    figures |= {f"distinct_{n}": {who: distinct(texts, n) for who, texts in written.items()} for n in (1, 2)}
    checkable = [number for number, text in enumerate(last) if answer_in(text) is not None]
    if checkable:
        if known_answers := [answer for text in known if (answer := answer_in(text)) is not None]:
            written["most_frequent"] = [most_frequent(known_answers)] * len(results)
        del written["people"]
        figures["answers_right"] = {who: float(np.mean([answer_in(texts[i]) == answer_in(last[i]) for i in checkable]))
                                    for who, texts in written.items()}
        figures["answers_checked"] = {"model": len(checkable)}
    return SuiteResult(data.name, figures)


def chat_each(evaluator: Evaluator, data: EvaluationSet) -> list[dict[str, Any]]:
    """Of each dialogue: nats and tokens of the assistant's messages, and a generated reply in place of the last one."""
    def reply(batch: Sequence[Any]) -> list[dict[str, Any]]:
        generated = evaluator.speaker.replies([before_last_reply(dialogue) for dialogue in batch])
        nats = evaluator.nats([evaluator.encode(document_parts(dialogue)) for dialogue in batch])
        return [{"said": text, "nats": total, "tokens": count} for text, (total, count) in zip(generated, nats, strict=True)]

    return evaluator.each("chat", data, data.documents, reply)


def before_last_reply(dialogue: Dialogue) -> list[dict[str, Any]]:
    roles = [message["role"] for message in dialogue.messages]
    return filled(dialogue.messages[: len(roles) - 1 - roles[::-1].index("assistant")], dialogue)


def answer_in(text: str) -> str | None:
    """What can be checked in a reply: the number behind "####" as in GSM8K, or a reply that is a number, yes, no, true or
    false and nothing else; None for all other replies."""
    if marked := _NUMBER.search(text):
        return marked[1].replace(",", "")
    normal = vqa_normal(text)
    return normal if normal in ("yes", "no", "true", "false") or re.fullmatch(r"-?\d+(?:\.\d+)?", normal) else None


def total_of(found: Iterable[dict[str, Any]], texts: Iterable[str]) -> Likelihood:
    """Sum of the results; the bytes are those of the texts."""
    ones = list(found)
    return Likelihood(sum(one["nats"] for one in ones), sum(one["tokens"] for one in ones),
                      sum(len(str(text).encode()) for text in texts))


def unigram_of(text: TextTokenizer, known: Iterable[str], texts: Sequence[str]) -> Likelihood:
    """Likelihood of the texts under the token frequencies of the known ones."""
    counted: list[np.ndarray] = []
    characters = 0
    for one in known:
        counted.append(text.encode(one[: ENOUGH - characters]))
        characters += len(one)
        if characters >= ENOUGH:
            break
    tokens = np.concatenate([text.encode(one) for one in texts])
    return unigram(np.concatenate(counted), tokens, text.size, sum(len(one.encode()) for one in texts))
