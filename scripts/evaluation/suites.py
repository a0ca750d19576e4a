"""What all suites of `calico evaluate` share: the evaluator, stored results, and figures.

    figures: metric -> system -> number, such as {"cider_d": {"model": 0.17, "blanked": 0.06, "nearest": 0.10}}

`model` is the run itself. All other systems are for comparison: the same model with the pictures `blanked` or left out
(`question_only`), another run (`against`), or a baseline without a network (baselines.py).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

from calico.agent.agent import Agent
from calico.agent.likelihood import likelihoods
from calico.agent.talk import TextGenerator
from calico.datasets.documents import Dialogue
from calico.datasets.formats.parquet_part import PACKAGES
from calico.datasets.publish import versions
from calico.scripts.common import console
from calico.scripts.common.sharding import Results
from calico.scripts.evaluation.data import EvaluationSet
from calico.scripts.evaluation.metrics import Likelihood
from calico.scripts.evaluation.report import Captioned, Question
from calico.tokenizers.document import Part, encode_document
from calico.tokenizers.tokens import Tokens

Figures: TypeAlias = dict[str, dict[str, float]]
Item = TypeVar("Item")
Example = TypeVar("Example", Captioned, Question)

MAX_TOKENS = 128   # of a generated text
BATCH = 64         # documents that are evaluated, and whose results are stored, together


@dataclass(frozen=True)
class SuiteResult(Generic[Example]):
    """The result of a suite on one data set.

    Attributes:
        name: of the data set.
        examples: pictures with the generated texts.
    """

    name: str
    figures: Figures
    examples: list[Example] = field(default_factory=list)


class Evaluator:
    """One agent and its stored results.

    Args:
        folder: for results, a small file per BATCH documents: a stopped evaluation continues there.
    """

    def __init__(self, agent: Agent, folder: Path) -> None:
        self.agent, self.folder = agent, folder
        self.speaker = TextGenerator(agent, max_tokens=MAX_TOKENS)
        self.about = {"network": agent.fingerprint(), "versions": versions(PACKAGES)}

    def each(self, suite: str, data: EvaluationSet, items: Sequence[Item],
             evaluate: Callable[[Sequence[Item]], list[dict[str, Any]]], size: int = 0) -> list[dict[str, Any]]:
        """The results of `evaluate` for all items; it gives plain JSON for each item of a batch of `size` (0: BATCH), and is
        called for new ones only."""
        size = size or BATCH
        results = Results(self.folder, f"{suite}-{data.name}", "agent", self.about | {"data": data.fingerprint, "batch": size})
        found: list[dict[str, Any]] = []
        starts = range(0, len(items), size)
        with console.progress(f"{suite} {data.name}", total=len(starts), unit="batches") as bar:
            for number, start in enumerate(starts):
                kept = results.get(number)
                if kept is None:
                    kept = {"results": evaluate(items[start : start + size])}
                    results.put(number, kept)
                found += kept["results"]
                bar.advance()
        return found

    def encode(self, parts: Sequence[Part]) -> Tokens:
        return encode_document(parts, self.agent.vocabulary, self.agent.text)

    def nats(self, documents: Sequence[Tokens]) -> list[tuple[float, int]]:
        """Negative log-likelihood of each document's targets, in nats, and their number.

        A document longer than half of the context is split into windows that overlap by half: each target counts once, with at
        least half a context before it, except near the beginning.
        """
        half = max(1, self.agent.model.config.backbone.context // 2)
        parts = [(number, window) for number, document in enumerate(documents) for window in windows(document, half)]
        scored = likelihoods(self.speaker.model, [(before, [part]) for _, (before, part) in parts], self.agent.vocabulary.pad)
        sums = np.zeros((len(documents), 2))
        for (number, _), (found,) in zip(parts, scored, strict=True):
            sums[number] += -found.total, found.count
        return [(float(total), int(count)) for total, count in sums]


def windows(tokens: Tokens, size: int) -> list[tuple[Tokens, Tokens]]:
    """Parts of `size` tokens, each with the part before it as its context; parts without a target are left out."""
    cut = [(tokens[max(0, start - size) : start], tokens[start : start + size]) for start in range(0, len(tokens), size)]
    return [(before, part) for before, part in cut if part.loss_mask.any()]


def perplexities(found: Mapping[str, Likelihood]) -> Figures:
    """System -> likelihood of the same text, as figures."""
    return {"perplexity_per_token": {who: one.perplexity_per_token for who, one in found.items()},
            "perplexity_per_byte": {who: one.perplexity_per_byte for who, one in found.items()},
            "bits_per_byte": {who: one.bits_per_byte for who, one in found.items()}}


def compared(measure: Callable[[Sequence[str]], float], texts_of: Mapping[str, Sequence[str]]) -> dict[str, float]:
    return {who: measure(texts) for who, texts in texts_of.items()}


def mean(values: Iterable[Any]) -> float:
    return float(np.mean(list(values)))


def entries(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def words_of(message: Mapping[str, Any]) -> str:
    return "".join(entry["text"] for entry in entries(message) if entry["type"] == "text")


def filled(messages: Sequence[Mapping[str, Any]], dialogue: Dialogue,
           change: Callable[[np.ndarray], np.ndarray | None] = lambda image: image) -> list[dict[str, Any]]:
    """Messages with pixels and samples in place of their names; both are changed, or left out where `change` gives None."""
    found = []
    for message in messages:
        content: list[dict[str, Any]] = []
        for entry in entries(message):
            kind = entry["type"]
            given = {"image": dialogue.images, "audio": dialogue.sounds}.get(kind)
            changed = None if given is None else change(given[entry[kind]])
            content += [entry] if given is None else [] if changed is None else [{**entry, kind: changed}]
        found.append({**message, "content": content})
    return found
