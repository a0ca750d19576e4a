"""The suites `captions` and `vqa`: quality of texts about pictures, and how much it depends on the picture."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from calico.agent.likelihood import likelihoods
from calico.datasets.documents import Caption, Dialogue
from calico.datasets.synthetic.captions import answer_is_right, caption_is_right, questions
from calico.scripts.evaluation.baselines import most_frequent, nearest
from calico.scripts.evaluation.data import EvaluationSet
from calico.scripts.evaluation.metrics import bleu_4, cider_d, rouge_l, vqa_accuracy
from calico.scripts.evaluation.report import Captioned, Question
from calico.scripts.evaluation.suites import BATCH, Evaluator, Figures, SuiteResult, compared, filled, mean, words_of
from calico.tokenizers.document import caption_parts, text_parts

CHOICES = 10   # captions among which the true one is ranked
GREY = 127


def blank(image: np.ndarray) -> np.ndarray:
    """A grey picture of the same size; of a sound, silence of the same length."""
    return np.full_like(image, GREY if image.dtype == np.uint8 else 0)


# ---- captions


def evaluate_captions(evaluator: Evaluator, data: EvaluationSet, against: Evaluator | None = None, *,
                      ablate: bool = True) -> SuiteResult[Captioned]:
    """Caption every picture and compare with people's captions, or with the facts where they are known.

    Args:
        ablate: also with blanked pictures, by rank and beside the baselines; False: the model's captions alone.
    """
    groups = groups_of(data.documents)
    documents: list[Any] = [data.documents[i] for group in groups for i in group]
    found = {"model": describe(evaluator, data, groups, ablate)}
    if ablate and against:
        found["against"] = describe(against, data, groups, ablate)
    answered = {who: [text for one in ones for text in one["said"]] for who, ones in found.items()}
    if ablate:
        answered["blanked"] = [text for one in found["model"] for text in one["blanked"]]
    if ablate and data.known:
        known: Sequence[Any] = data.known
        answered["nearest"] = [known[i].captions[0] for i in nearest((c.image for c in documents), (c.image for c in known))]
        answered["most_frequent"] = [most_frequent(text for c in known for text in c.captions)] * len(documents)
    references = [caption.captions for caption in documents]
    figures: Figures = {name: compared(partial(measure, references=references), answered)
                        for name, measure in (("cider_d", cider_d), ("bleu_4", bleu_4), ("rouge_l", rouge_l))}
    if all("facts" in caption.extra for caption in documents):
        figures["right"] = compared(lambda texts: mean(map(is_right, texts, documents)), answered)
    if ablate:
        figures |= rank_figures(found)
    examples = [Captioned(image=caption.image, caption=text, truth=caption.captions[0], right=is_right(text, caption))
                for caption, text in zip(documents, answered["model"], strict=True)]
    return SuiteResult(data.name, figures, examples)


def is_right(text: str, caption: Caption) -> bool | None:
    """Whether a text describes the picture; None without facts."""
    return caption_is_right(text, caption.extra["facts"]) if "facts" in caption.extra else None


def groups_of(documents: Sequence[Any]) -> list[list[int]]:
    """Indices of the pictures in groups of CHOICES, the same in each call; within a group no first caption is a caption of
    another picture. Groups that are not full come last."""
    full: list[list[int]] = []
    open_groups: list[list[int]] = []
    for number in np.random.default_rng(0).permutation(len(documents)).tolist():
        mine = documents[number].captions
        group = next((group for group in open_groups if not any(
            documents[other].captions[0] in mine or mine[0] in documents[other].captions for other in group)), None)
        if group is None:
            open_groups.append(group := [])
        group.append(number)
        if len(group) == CHOICES:
            full.append(group)
            open_groups = [other for other in open_groups if other is not group]
    return full + open_groups


def describe(evaluator: Evaluator, data: EvaluationSet, groups: Sequence[Sequence[int]], ablate: bool) -> list[dict[str, Any]]:
    """Generated captions of each group's pictures; with `ablate` also of `blanked` ones, and for full groups the `nats` of each
    first caption given each picture (pictures, captions), given a blank one (captions,), and the captions' `tokens`."""
    documents: Sequence[Any] = data.documents

    def evaluate(batch: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        images = [[documents[i].image for i in group] for group in batch]
        texts = iter(evaluator.speaker.captions([image for group in images for image in group]))
        found: list[dict[str, Any]] = [{"said": [next(texts) for _ in group]} for group in images]
        if not ablate:
            return found
        blanks = {image.shape: blank(image) for group in images for image in group}
        unseen = dict(zip(blanks, evaluator.speaker.captions(list(blanks.values())), strict=True))
        for one, group, pictures in zip(found, batch, images, strict=True):
            one["blanked"] = [unseen[image.shape] for image in pictures]
            if len(group) == CHOICES:
                choices = [documents[i].captions[0] for i in group]
                *seen, blind = caption_nats(evaluator, [*pictures, blanks[pictures[0].shape]], choices)
                one |= {"nats": [[nats for nats, _ in row] for row in seen], "blind": [nats for nats, _ in blind],
                        "tokens": [tokens for _, tokens in blind]}
        return found

    return evaluator.each("captions" if ablate else "captions-said", data, groups, evaluate, size=max(1, BATCH // CHOICES))


def caption_nats(evaluator: Evaluator, images: Sequence[np.ndarray], texts: Sequence[str]) -> list[list[tuple[float, int]]]:
    """Nats and tokens of each text as the caption of each image."""
    continuations = [evaluator.encode(text_parts(text)) for text in texts]
    documents = [(evaluator.encode(caption_parts(image, None)), continuations) for image in images]
    return [[(-one.total, one.count) for one in scored]
            for scored in likelihoods(evaluator.speaker.model, documents, evaluator.agent.vocabulary.pad)]


def rank_figures(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figures:
    """Rank of each picture's own caption among its group's CHOICES.

    By likelihood: per token, so that short captions have no advantage. By information: log p(caption | picture) / p(caption),
    where p(caption) is the mean over the group's other pictures; this removes how likely a sentence is with any picture.
    """
    matrices = {who: [(np.array(one["nats"]), np.array(one["blind"]), np.array(one["tokens"])) for one in ones if "nats" in one]
                for who, ones in found.items()}
    if not matrices["model"]:
        return {}
    likely = {who: ranks(-nats / tokens for nats, _, tokens in ones) for who, ones in matrices.items()}
    likely["blanked"] = ranks(-np.tile(blind / tokens, (CHOICES, 1)) for _, blind, tokens in matrices["model"])
    informed = {who: ranks(information(-nats) for nats, _, _ in ones) for who, ones in matrices.items()}
    middle, chance = {"chance": (CHOICES + 1) / 2}, {"chance": 1 / CHOICES}
    return {f"rank_of_{CHOICES}": {who: mean(ones) for who, ones in likely.items()} | middle,
            f"first_of_{CHOICES}": {who: mean(ones == 1) for who, ones in likely.items()} | chance,
            f"rank_of_{CHOICES}_by_information": {who: mean(ones) for who, ones in informed.items()} | middle,
            f"first_of_{CHOICES}_by_information": {who: mean(ones == 1) for who, ones in informed.items()} | chance}


def ranks(scores: Iterable[np.ndarray]) -> np.ndarray:
    """int (pictures of all groups,): rank of a picture's own caption from 1, the last one among equals.

    Args:
        scores: per group (pictures, captions), the own ones on the diagonal.
    """
    return np.concatenate([(group >= np.diagonal(group)[:, None]).sum(1) for group in scores])


def information(log_likelihoods: np.ndarray) -> np.ndarray:
    """(pictures, captions): each minus the logarithm of its caption's mean likelihood with the other pictures."""
    others = [np.logaddexp.reduce(np.delete(log_likelihoods, picture, axis=0)) for picture in range(len(log_likelihoods))]
    return log_likelihoods - np.array(others) + np.log(len(others) - 1)


# ---- questions


def evaluate_questions(evaluator: Evaluator, data: EvaluationSet, against: Evaluator | None = None, *,
                       ablate: bool = True) -> SuiteResult[Question]:
    """Ask the first question about every picture or sound: VQAv2's accuracy, or 0 or 1 where the facts are known.

    Args:
        ablate: also with blanked pictures, without the pictures, and the most frequent answers.
    """
    asked: Sequence[Any] = data.documents
    found = answer_each(evaluator, data, ablate)
    answered = {who: [one[who] for one in found] for who in found[0]}
    if ablate and against:
        answered["against"] = [one["model"] for one in answer_each(against, data, ablate)]
    if ablate and data.known:
        answered["most_frequent"] = frequent_answers(asked, data.known)
    scores = {who: list(map(score, texts, asked)) for who, texts in answered.items()}
    examples = [Question(image=next(iter(dialogue.images.values())), question=question_of(dialogue), answer=text,
                         truth=answers_of(dialogue)[0], right=right >= 0.5)
                for dialogue, text, right in zip(asked, answered["model"], scores["model"], strict=True) if dialogue.images]
    return SuiteResult(data.name, {"accuracy": {who: mean(ones) for who, ones in scores.items()}}, examples)


def answer_each(evaluator: Evaluator, data: EvaluationSet, ablate: bool) -> list[dict[str, Any]]:
    """Answers given the picture, and with `ablate` given a grey one and given none."""
    ways: dict[str, Callable[[np.ndarray], np.ndarray | None]] = {"model": lambda image: image}
    if ablate:
        ways |= {"blanked": blank, "question_only": lambda image: None}

    def answer(batch: Sequence[Any]) -> list[dict[str, Any]]:
        answered = [evaluator.speaker.replies([filled(before_reply(dialogue), dialogue, change) for dialogue in batch])
                for change in ways.values()]
        return [dict(zip(ways, texts, strict=True)) for texts in zip(*answered, strict=True)]

    return evaluator.each("vqa" if ablate else "vqa-said", data, data.documents, answer)


def before_reply(dialogue: Dialogue) -> list[dict[str, Any]]:
    roles = [message["role"] for message in dialogue.messages]
    return dialogue.messages[: roles.index("assistant") if "assistant" in roles else None]


def question_of(dialogue: Dialogue) -> str:
    return " ".join(words_of(message) for message in before_reply(dialogue))


def answers_of(dialogue: Dialogue) -> list[str]:
    """People's answers; at least one."""
    reply = dialogue.messages[len(before_reply(dialogue))]
    return list(dialogue.extra.get("answers") or [words_of(reply)])


def score(text: str, dialogue: Dialogue) -> float:
    facts, question = dialogue.extra.get("facts"), question_of(dialogue)
    if facts and any(question in asked for asked in questions(facts).values()):
        return float(answer_is_right(text, question, facts))
    return vqa_accuracy(text, answers_of(dialogue))


def frequent_answers(asked: Sequence[Dialogue], known: Sequence[Any]) -> list[str]:
    """The most frequent training answer to each question; to a new question, that of all questions."""
    answers_to: dict[str, list[str]] = {}
    for dialogue in known:
        answers_to.setdefault(question_of(dialogue), []).append(answers_of(dialogue)[0])
    overall = most_frequent(answer for answers in answers_to.values() for answer in answers)
    best = {question: most_frequent(answers) for question, answers in answers_to.items()}
    return [best.get(question_of(dialogue), overall) for dialogue in asked]
