"""Metrics of generated text: CIDEr-D, BLEU-4, ROUGE-L, VQA accuracy, distinct-n, bits per byte.

The caption metrics follow COCO's evaluation (Chen et al., arXiv:1504.00325) but for the tokenizer: COCO calls a Java
program, and `words` follows its rules for lower case, punctuation and contractions, so that scores agree to a fraction of a
point and not to the digit.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Words: TypeAlias = list[str]
References: TypeAlias = Sequence[Sequence[str]]   # for each text, those that it is compared with

ORDERS = (1, 2, 3, 4)     # lengths of n-grams
_WORD = re.compile(r"n't\b|'(?:s|m|d|re|ve|ll)\b|\w+?(?=n't\b)|\w+(?:-\w+)*")


def words(text: str) -> Words:
    """Lower case, no punctuation, contractions apart: "The dog's tail isn't wet." -> the dog 's tail is n't wet."""
    return _WORD.findall(text.lower())


def ngrams(text: Words, n: int) -> Counter[tuple[str, ...]]:
    """How often each n-gram occurs in a text."""
    return Counter(zip(*(text[i:] for i in range(n)), strict=False))


def cider_d(texts: Sequence[str], references: References, sigma: float = 6.0) -> float:
    """CIDEr-D (Vedantam et al., arXiv:1411.5726, section 6): mean over texts, 0 to 10; COCO's tables show 100 times it.

    n-grams are weighted by their rarity among these references, so scores of different sets do not compare; a single text, or
    references that are all equal, give 0.

    Raises:
        ValueError: no texts, or one without references.
    """
    check(texts, references)
    known = [[_counts(reference) for reference in group] for group in references]
    seen = Counter(gram for group in known for gram in {gram for counts in group for gram in counts})
    scores = []
    for text, group in zip(texts, known, strict=True):
        candidate = _weights(_counts(text), seen, len(texts))
        scores.append(10 * np.mean([_similarity(candidate, _weights(counts, seen, len(texts)), sigma) for counts in group]))
    return float(np.mean(scores))


def _counts(text: str) -> Counter[tuple[str, ...]]:
    split = words(text)
    return Counter({gram: count for n in ORDERS for gram, count in ngrams(split, n).items()})


@dataclass(frozen=True)
class _Weighted:
    """n-grams weighted by rarity: per order, gram -> weight; and the number of words."""

    orders: list[dict[tuple[str, ...], float]]
    length: int


def _weights(counts: Counter[tuple[str, ...]], seen: Counter[tuple[str, ...]], total: int) -> _Weighted:
    orders: list[dict[tuple[str, ...], float]] = [{} for _ in ORDERS]
    for gram, count in counts.items():
        orders[len(gram) - 1][gram] = count * (math.log(total) - math.log(max(1, seen[gram])))
    return _Weighted(orders, sum(count for gram, count in counts.items() if len(gram) == 1))


def _similarity(candidate: _Weighted, reference: _Weighted, sigma: float) -> float:
    """Cosine per order, weights clipped at the reference's so that repeating words does not pay; mean over orders."""
    cosines = []
    for a, b in zip(candidate.orders, reference.orders, strict=True):
        norm = math.hypot(*a.values()) * math.hypot(*b.values())
        product = sum(min(weight, b[gram]) * b[gram] for gram, weight in a.items() if gram in b)
        cosines.append(product / norm if norm else 0.0)
    return float(np.mean(cosines)) * math.exp(-((candidate.length - reference.length) ** 2) / (2 * sigma**2))


def bleu_4(texts: Sequence[str], references: References) -> float:
    """Corpus BLEU-4 (Papineni et al., 2002), 0 to 1: no smoothing, the closest reference's length, as COCO does.

    Raises:
        ValueError: no texts, or one without references.
    """
    check(texts, references)
    right, total, length, target = [0] * 4, [0] * 4, 0, 0
    for text, group in zip(texts, references, strict=True):
        candidate, known = words(text), [words(reference) for reference in group]
        length += len(candidate)
        target += min((abs(len(k) - len(candidate)), len(k)) for k in known)[1]
        for n in ORDERS:
            counts, most = ngrams(candidate, n), Counter[tuple[str, ...]]()
            for reference in known:
                most |= ngrams(reference, n)
            right[n - 1] += (counts & most).total()
            total[n - 1] += counts.total()
    if not all(right):
        return 0.0
    precision = math.exp(np.mean([math.log(r / t) for r, t in zip(right, total, strict=True)]))
    return precision * min(1.0, math.exp(1 - target / length))


def rouge_l(texts: Sequence[str], references: References, beta: float = 1.2) -> float:
    """ROUGE-L (Lin, 2004), mean over texts, 0 to 1: longest common subsequence, best precision and best recall among the
    references, recall weighted by beta = 1.2 as COCO does.

    Raises:
        ValueError: no texts, or one without references.
    """
    check(texts, references)
    scores = []
    for text, group in zip(texts, references, strict=True):
        candidate, known = words(text), [words(reference) for reference in group]
        common = [common_length(candidate, reference) for reference in known]
        precision = max(common) / max(len(candidate), 1)
        recall = max(c / max(len(reference), 1) for c, reference in zip(common, known, strict=True))
        scores.append((1 + beta**2) * precision * recall / (recall + beta**2 * precision) if precision else 0.0)
    return float(np.mean(scores))


def common_length(one: Words, other: Words) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        above = row
        row = [0]
        for i, theirs in enumerate(other):
            row.append(above[i] + 1 if word == theirs else max(above[i + 1], row[i]))
    return row[-1]


def check(texts: Sequence[str], references: References) -> None:
    """Raise ValueError unless there are texts and each has references."""
    if not texts or len(texts) != len(references) or not all(references):
        raise ValueError(f"{len(texts)} texts with {len(references)} groups of references; each text needs a group of at "
                         "least one")


# ---- questions

_PUNCTUATION = ";:/'[]\"()=+\\_><@`,?"
_NUMBERS = {"none": "0", "zero": "0", **{word: str(number) for number, word in enumerate(
    ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), 1)}}


def vqa_normal(answer: str) -> str:
    """An answer as VQAv2's evaluation compares it: lower case, no articles, numbers in digits, little punctuation.

    Punctuation beside a space, or in an answer with a comma between digits, goes; elsewhere it becomes a space. The
    evaluation's table of contractions is left out: apostrophes are gone by then, and it maps different words to different
    words, so it changes no comparison.
    """
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    number = re.search(r"\d,\d", answer) is not None
    normal = answer
    for mark in _PUNCTUATION:
        alone = f"{mark} " in answer or f" {mark}" in answer
        normal = normal.replace(mark, "" if alone or number else " ")
    normal = re.sub(r"\.(?!\d)", "", normal)
    return " ".join(word for word in (_NUMBERS.get(w, w) for w in normal.lower().split()) if word not in ("a", "an", "the"))


def vqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    """VQAv2's accuracy of one answer (Antol et al., arXiv:1505.00468): right if three people said it.

    The mean over leaving each person out of min(1, others who said it / 3): 0.3, 0.6, 0.9, 1 for one to four of ten.
    With a single answer, as other sets have, equal or not.

    Args:
        answers: what people said, ten of them in VQAv2; all normalised unless they all are the same, as there.
    Raises:
        ValueError: no answers.
    """
    if not answers:
        raise ValueError("a question needs at least one answer to be scored by")
    if len(set(answers)) > 1 or len(answers) == 1:
        answer, answers = vqa_normal(answer), [vqa_normal(a) for a in answers]
    matches = sum(a == answer.strip() for a in answers)
    if len(answers) == 1:
        return float(matches)
    return (matches * min(1, (matches - 1) / 3) + (len(answers) - matches) * min(1, matches / 3)) / len(answers)


# ---- text

def distinct(texts: Iterable[str], n: int) -> float:
    """distinct-n (Li et al., arXiv:1510.03055): different n-grams per n-gram over all texts; 0 where there is none."""
    counts = Counter[tuple[str, ...]]()
    for text in texts:
        counts += ngrams(words(text), n)
    return len(counts) / counts.total() if counts else 0.0


@dataclass(frozen=True)
class Likelihood:
    """How well a text was predicted; sums over several texts with `+`.

    Attributes:
        nats: negative log-likelihood of all tokens.
        tokens, bytes: how many there are; bytes of the UTF-8 text, which make models with different tokenizers comparable.
    """

    nats: float
    tokens: int
    bytes: int

    def __add__(self, other: "Likelihood") -> "Likelihood":
        return Likelihood(self.nats + other.nats, self.tokens + other.tokens, self.bytes + other.bytes)

    @property
    def bits_per_byte(self) -> float:
        """log2 of `perplexity_per_byte`."""
        return self.nats / math.log(2) / self.bytes

    @property
    def perplexity_per_token(self) -> float:
        """Depends on the tokenizer."""
        return math.exp(self.nats / self.tokens)

    @property
    def perplexity_per_byte(self) -> float:
        """Independent of the tokenizer."""
        return math.exp(self.nats / self.bytes)
