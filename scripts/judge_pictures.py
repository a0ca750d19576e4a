"""The suites `captions` and `vqa`: what is said about pictures, and whether the picture was looked at for it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from calico.agent.likelihood import likelihoods
from calico.datasets.documents import Caption, Dialogue
from calico.datasets.grounded import answer_is_right, caption_is_right, questions
from calico.scripts.baselines import most_frequent, nearest
from calico.scripts.held_out import HeldOut
from calico.scripts.judge import Figures, Judge, Judged, compared, filled, mean, words_of
from calico.scripts.metrics import bleu_4, cider_d, rouge_l, vqa_accuracy
from calico.scripts.report import Captioned, Question
from calico.tokenizers.document import caption_parts, text_parts

CHOICES = 10   # captions among which the true one is looked for
GREY = 127


def blank(image: np.ndarray) -> np.ndarray:
    """A grey picture of the same size; of a sound, silence of the same length."""
    return np.full_like(image, GREY if image.dtype == np.uint8 else 0)


# ---- captions


def judge_captions(judge: Judge, data: HeldOut, against: Judge | None = None, *, ablate: bool = True) -> Judged[Captioned]:
    """Describe every picture and compare with what people said, or with the facts where they are known.

    Args:
        ablate: also with blanked pictures, by rank and beside the baselines; False: what the model says, no more.
    """
    shown: Sequence[Any] = data.documents
    found = caption_each(judge, data, ablate)
    said = {"model": [one["said"] for one in found]}
    ranks = {"model": found, "blanked": [one["blanked"] for one in found]} if ablate else {}
    if ablate:
        said["blanked"] = [one["said"] for one in ranks["blanked"]]
    if ablate and against:
        ranks["against"] = caption_each(against, data, ablate)
        said["against"] = [one["said"] for one in ranks["against"]]
    if ablate and data.known:
        known: Sequence[Any] = data.known
        said["nearest"] = [known[i].captions[0] for i in nearest((c.image for c in shown), (c.image for c in known))]
        said["most_frequent"] = [most_frequent(text for c in known for text in c.captions)] * len(shown)
    references = [caption.captions for caption in shown]
    figures: Figures = {name: compared(partial(measure, references=references), said)
                        for name, measure in (("cider_d", cider_d), ("bleu_4", bleu_4), ("rouge_l", rouge_l))}
    if all("facts" in caption.extra for caption in shown):
        figures["right"] = compared(lambda texts: mean(map(is_right, texts, shown)), said)
    if ranks:
        figures |= rank_figures(ranks)
    examples = [Captioned(image=caption.image, caption=text, truth=caption.captions[0], right=is_right(text, caption))
                for caption, text in zip(shown, said["model"], strict=True)]
    return Judged(data.name, figures, examples)


def is_right(text: str, caption: Caption) -> bool | None:
    """Whether a text describes the picture, where the facts tell."""
    return caption_is_right(text, caption.extra["facts"]) if "facts" in caption.extra else None


def caption_each(judge: Judge, data: HeldOut, ablate: bool) -> list[dict[str, Any]]:
    """What is said of each picture; with `ablate` also the nats and tokens of CHOICES captions, the true one first, and the
    same for the picture blanked."""
    shown: Sequence[Any] = data.documents
    if not ablate:
        return judge.each("captions-said", data, shown, lambda batch: [
            {"said": text} for text in judge.speaker.captions([caption.image for caption in batch])])
    blind: dict[tuple[tuple[int, ...], str], tuple[float, int]] = {}     # each text once, not with each picture

    def look(batch: Sequence[tuple[Caption, list[str]]]) -> list[dict[str, Any]]:
        blanks = {caption.image.shape: blank(caption.image) for caption, _ in batch}
        unseen = dict(zip(blanks, judge.speaker.captions(list(blanks.values())), strict=True))
        new = sorted({(caption.image.shape, text) for caption, choices in batch for text in choices} - blind.keys())
        for key, (one,) in zip(new, caption_nats(judge, [(blanks[shape], [text]) for shape, text in new]), strict=True):
            blind[key] = one
        texts = judge.speaker.captions([caption.image for caption, _ in batch])
        seen = caption_nats(judge, [(caption.image, choices) for caption, choices in batch])
        found = []
        for (caption, choices), text, scores in zip(batch, texts, seen, strict=True):
            shape = caption.image.shape
            found.append({"said": text, "scores": scores,
                          "blanked": {"said": unseen[shape], "scores": [blind[shape, choice] for choice in choices]}})
        return found

    return judge.each("captions", data, list(zip(shown, choices_of(shown), strict=True)), look)


def caption_nats(judge: Judge, pictures: Sequence[tuple[np.ndarray, Sequence[str]]]) -> list[list[tuple[float, int]]]:
    """Of each picture with some texts: nats and tokens of each text as its caption."""
    documents = [(judge.encode(caption_parts(image, None)), [judge.encode(text_parts(text)) for text in texts])
                 for image, texts in pictures]
    return [[(-one.total, one.count) for one in scored]
            for scored in likelihoods(judge.speaker.model, documents, judge.agent.vocabulary.pad)]


def choices_of(shown: Sequence[Caption]) -> list[list[str]]:
    """For each picture its first caption and those of CHOICES - 1 other pictures; nothing where there are too few."""
    texts = list(dict.fromkeys(caption.captions[0] for caption in shown))
    found = []
    for number, caption in enumerate(shown):
        drawn = [texts[i] for i in np.random.default_rng(number).permutation(len(texts))]
        others = [text for text in drawn[: CHOICES + len(caption.captions)] if text not in caption.captions]
        found.append([caption.captions[0], *others[: CHOICES - 1]] if len(others) >= CHOICES - 1 else [])
    return found


def rank_figures(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figures:
    """The mean rank of the true caption among CHOICES, and how often it comes first: by its likelihood per token, and by how
    many nats the picture gains it, which takes away that some sentences are likely with any picture."""
    chosen = {who: [one for one in ones if one["scores"]] for who, ones in found.items()}
    if not all(chosen.values()):
        return {}

    def ranks(ones: Sequence[Mapping[str, Any]], score: Callable[[Mapping[str, Any]], np.ndarray]) -> np.ndarray:
        return np.array([int((score(one) >= score(one)[0]).sum()) for one in ones])     # of equals the last one

    def likelihood(one: Mapping[str, Any]) -> np.ndarray:
        nats, tokens = np.array(one["scores"]).T
        return -nats / tokens

    def gain(one: Mapping[str, Any]) -> np.ndarray:
        return np.array(one["blanked"]["scores"])[:, 0] - np.array(one["scores"])[:, 0]

    by_likelihood = {who: ranks(ones, likelihood) for who, ones in chosen.items()}
    by_gain = {who: ranks(ones, gain) for who, ones in chosen.items() if who != "blanked"}
    return {f"rank_of_{CHOICES}": {who: mean(found) for who, found in by_likelihood.items()} | {"chance": (CHOICES + 1) / 2},
            f"first_of_{CHOICES}": {who: mean(found == 1) for who, found in by_likelihood.items()} | {"chance": 1 / CHOICES},
            f"first_of_{CHOICES}_by_gain": {who: mean(found == 1) for who, found in by_gain.items()} | {"chance": 1 / CHOICES}}


# ---- questions


def judge_questions(judge: Judge, data: HeldOut, against: Judge | None = None, *, ablate: bool = True) -> Judged[Question]:
    """Ask the first question about every picture or sound: VQAv2's accuracy, or right or not where the facts are known.

    Args:
        ablate: also with blanked pictures, without the pictures, and the most frequent answers.
    """
    asked: Sequence[Any] = data.documents
    found = answer_each(judge, data, ablate)
    said = {who: [one[who] for one in found] for who in found[0]}
    if ablate and against:
        said["against"] = [one["model"] for one in answer_each(against, data, ablate)]
    if ablate and data.known:
        said["most_frequent"] = frequent_answers(asked, data.known)
    scores = {who: [score(text, dialogue) for text, dialogue in zip(texts, asked, strict=True)] for who, texts in said.items()}
    examples = [Question(image=next(iter(dialogue.images.values())), question=question_of(dialogue), answer=text,
                         truth=answers_of(dialogue)[0], right=right >= 0.5)
                for dialogue, text, right in zip(asked, said["model"], scores["model"], strict=True) if dialogue.images]
    return Judged(data.name, {"accuracy": {who: mean(ones) for who, ones in scores.items()}}, examples)


def answer_each(judge: Judge, data: HeldOut, ablate: bool) -> list[dict[str, Any]]:
    """Each answer: to the picture, and with `ablate` to a grey one and to none."""
    ways: dict[str, Callable[[np.ndarray], np.ndarray | None]] = {"model": lambda image: image}
    if ablate:
        ways |= {"blanked": blank, "question_only": lambda image: None}

    def answer(batch: Sequence[Any]) -> list[dict[str, Any]]:
        said = [judge.speaker.replies([filled(before_reply(dialogue), dialogue, change) for dialogue in batch])
                for change in ways.values()]
        return [dict(zip(ways, texts, strict=True)) for texts in zip(*said, strict=True)]

    return judge.each("vqa" if ablate else "vqa-said", data, data.documents, answer)


def before_reply(dialogue: Dialogue) -> list[dict[str, Any]]:
    """The messages before the assistant's first one."""
    roles = [message["role"] for message in dialogue.messages]
    return dialogue.messages[: roles.index("assistant") if "assistant" in roles else None]


def question_of(dialogue: Dialogue) -> str:
    """What is asked, in words."""
    return " ".join(words_of(message) for message in before_reply(dialogue))


def answers_of(dialogue: Dialogue) -> list[str]:
    """What people answered; at least one."""
    reply = dialogue.messages[len(before_reply(dialogue))]
    return list(dialogue.extra.get("answers") or [words_of(reply)])


def score(text: str, dialogue: Dialogue) -> float:
    """From 0 to 1."""
    facts, question = dialogue.extra.get("facts"), question_of(dialogue)
    if facts and any(question in asked for asked in questions(facts).values()):
        return float(answer_is_right(text, question, facts))
    return vqa_accuracy(text, answers_of(dialogue))


def frequent_answers(asked: Sequence[Dialogue], known: Sequence[Any]) -> list[str]:
    """The answer that each question had most often, in training; for a new question the one that all together had."""
    told: dict[str, list[str]] = {}
    for dialogue in known:
        told.setdefault(question_of(dialogue), []).append(answers_of(dialogue)[0])
    overall = most_frequent(answer for answers in told.values() for answer in answers)
    best = {question: most_frequent(answers) for question, answers in told.items()}
    return [best.get(question_of(dialogue), overall) for dialogue in asked]
