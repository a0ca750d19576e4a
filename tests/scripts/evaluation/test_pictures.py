"""Judges of pictures are right about speakers whose answers are known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calico.agent.agent import Agent
from calico.agent.talk import TextGenerator
from calico.datasets.documents import Caption, Dialogue
from calico.datasets.synthetic import captions as grounded
from calico.scripts.evaluation.data import UNSEEN_SCENES, EvaluationSet, drawn_captions, drawn_questions
from calico.scripts.evaluation.pictures import (
    CHOICES,
    GREY,
    answer_each,
    caption_nats,
    evaluate_captions,
    evaluate_questions,
    frequent_answers,
    groups_of,
    information,
    rank_figures,
    score,
)
from calico.scripts.evaluation.suites import Evaluator

from ...conftest import SmallRun


@pytest.fixture
def judge(small_run: SmallRun, tmp_path: Path) -> Evaluator:
    return Evaluator(Agent.load(small_run.run), tmp_path)


class Oracle(TextGenerator):
    """Says the first of a picture's captions, or the answer that its question has; something else to every n-th."""

    def __init__(self, documents: Sequence[Any], wrong_every: int) -> None:
        self.known: dict[Any, str] = {}
        for document in documents:
            if isinstance(document, Caption):
                self.known[document.image.tobytes()] = document.captions[0]
            else:
                (image,) = document.images.values()
                self.known[image.tobytes()] = str(document.messages[1]["content"])
        self.wrong_every, self.said = wrong_every, 0

    def captions(self, images: Sequence[np.ndarray]) -> list[str]:
        return [self.tell(image) for image in images]

    def replies(self, dialogues: Sequence[Sequence[Any]]) -> list[str]:
        shown = [[entry["image"] for entry in messages[0]["content"] if entry["type"] == "image"] for messages in dialogues]
        assert all(messages[-1]["role"] == "user" for messages in dialogues)
        return [self.tell(images[0]) if images else "I see nothing" for images in shown]

    def tell(self, image: np.ndarray) -> str:
        if (image == GREY).all():
            return "all is grey"
        self.said += 1
        return self.known[image.tobytes()] if not self.wrong_every or self.said % self.wrong_every else "a purple elephant"


@pytest.mark.parametrize("wrong_every, right", [(0, 1.0), (1, 0.0), (4, 0.75)])
def test_judges_count_what_is_right(judge: Evaluator, wrong_every: int, right: float) -> None:
    pictures, asked = drawn_captions("minigrid", 12), drawn_questions("minigrid", 12)
    judge.speaker = Oracle(pictures.documents, wrong_every)
    captions = evaluate_captions(judge, pictures, ablate=False)
    judge.speaker = Oracle(asked.documents, wrong_every)
    questions = evaluate_questions(judge, asked, ablate=False)
    assert captions.name == questions.name == "minigrid" and len(captions.examples) == len(questions.examples) == 12
    assert captions.figures["right"] == questions.figures["accuracy"] == {"model": right}
    assert sum(bool(example.right) for example in captions.examples) == 12 * right
    assert sum(bool(example.right) for example in questions.examples) == 12 * right
    assert all(example.question.endswith("?") for example in questions.examples)


def test_pictures_are_those_that_no_data_holds() -> None:
    data = drawn_captions("minigrid", 3)
    assert [document.name for document in data.documents] == [str(UNSEEN_SCENES + n) for n in range(3)]   # type: ignore[union-attr]
    for document in data.documents:
        assert isinstance(document, Caption) and document.captions == (grounded.caption(document.extra["facts"]),)


def photographs(count: int, seed: int = 0) -> list[Caption]:
    """Pictures of one colour each, and two captions that are theirs alone."""
    rng = np.random.default_rng(seed)
    return [Caption(name=str(n), image=np.full((16, 16, 3), rng.integers(256, size=3), np.uint8),
                    captions=(f"one {seed} {n} of them", f"number {n}")) for n in range(count)]


def test_captions_stand_beside_what_needs_no_network(judge: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, known = photographs(12), photographs(4, seed=1)
    known += [Caption(name="like", image=shown[5].image, captions=shown[5].captions), *2 * [known[3]]]
    judge.speaker = Oracle(shown, 0)
    monkeypatch.setattr("calico.scripts.evaluation.pictures.caption_nats", lambda judge, images, texts: [
        [(1.0 if shown[int(text.split()[2])].image is image else 2.0, 2) for text in texts] for image in images])
    figures = evaluate_captions(judge, EvaluationSet("photographs", shown, known, "x")).figures
    assert figures.keys() == {
        "cider_d", "bleu_4", "rouge_l", "rank_of_10", "first_of_10", "rank_of_10_by_information", "first_of_10_by_information"}
    assert figures["rouge_l"]["model"] == 1 and figures["rouge_l"]["blanked"] == 0
    assert 0 < figures["rouge_l"]["most_frequent"] < 1 and figures["rouge_l"]["nearest"] < 1
    assert figures["first_of_10"] == {"model": 1, "blanked": 0, "chance": 0.1}
    assert figures["first_of_10_by_information"] == {"model": 1, "chance": 0.1}


def test_ranks_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second caption is likely with any picture; the first is likelier with its own picture than with the other one."""
    monkeypatch.setattr("calico.scripts.evaluation.pictures.CHOICES", 2)
    group = {"nats": [[5, 4], [7, 4]], "blind": [6, 6], "tokens": [2, 2]}
    found = rank_figures({"model": [group, {"said": []}]})
    assert found["first_of_2"] == {"model": 0.5, "blanked": 0, "chance": 0.5}       # no first place is shared
    assert found["rank_of_2"] == {"model": 1.5, "blanked": 2, "chance": 1.5}
    assert found["first_of_2_by_information"] == {"model": 1, "chance": 0.5}
    longer = {"nats": [[6, 5], [9, 1]], "blind": [6, 6], "tokens": [4, 2]}           # per token the first is likelier
    assert rank_figures({"model": [longer]})["first_of_2"]["model"] == 1
    assert rank_figures({"model": [{"said": []}]}) == {}


def test_information_by_hand() -> None:
    """Of three pictures the other two find the first caption likely by 1/2 and 1/4."""
    nats = -np.log(np.array([[0.9, 0.1, 0.1], [0.5, 0.1, 0.1], [0.25, 0.1, 0.1]]))
    assert information(-nats)[0] == pytest.approx([np.log(0.9 / 0.375), 0, 0])


def test_groups_are_the_same_each_time_and_no_caption_is_true_twice() -> None:
    shown = photographs(34)
    shown += [Caption(name="same", image=shown[0].image, captions=shown[0].captions)] * 3
    groups = groups_of(shown)
    assert groups == groups_of(shown) and sorted(i for group in groups for i in group) == list(range(37))
    assert [len(group) for group in groups[:3]] == [CHOICES] * 3 and all(len(group) < CHOICES for group in groups[3:])
    for group in groups:
        assert len({shown[i].captions[0] for i in group}) == len(group)


def test_captions_are_scored_as_training_does(judge: Evaluator) -> None:
    """Many captions behind one picture, as each alone."""
    images = [document.image for document in photographs(3)]
    texts = ["a red ball", "a blue key, a grey box top left"]
    together = caption_nats(judge, images, texts)
    for image, found in zip(images, together, strict=True):
        for text, (nats, tokens) in zip(texts, found, strict=True):
            assert tokens == len(judge.agent.text.encode(text)) + 1
            assert caption_nats(judge, [image], [text])[0][0][0] == pytest.approx(nats, rel=1e-4)


def question(text: str, answer: str, **extra: Any) -> Dialogue:
    content = [{"type": "image", "image": "it"}, {"type": "text", "text": text}]
    return Dialogue(messages=[{"role": "user", "content": content}, {"role": "assistant", "content": answer}],
                    images={"it": np.zeros((16, 16, 3), np.uint8)}, extra=extra)


def test_answers_are_scored_by_the_facts_or_by_what_people_said() -> None:
    assert score("A red ball.", question("what is at the top?", "red ball")) == 1
    assert score("a red ball at the top", question("what is at the top?", "red ball")) == 0
    facts = [{"kind": "ball", "colour": "red", "place": "top"}]
    assert score("the red ball", question("what is at the top?", "a red ball", facts=facts)) == 1
    assert score("Two", question("how many?", "2")) == 1
    assert score("cat", question("what?", "dog", answers=["cat"] * 2 + ["dog"] * 8)) == pytest.approx(0.6)


def test_the_most_frequent_answer_to_a_question() -> None:
    known = [question("a?", "x"), question("a?", "y"), question("a?", "y"), question("b?", "z"), question("c?", "z"),
             question("d?", "z")]
    assert frequent_answers([question("a?", "?"), question("b?", "?"), question("new?", "?")], known) == ["y", "z", "z"]


def test_a_question_is_asked_with_a_grey_picture_and_with_none(judge: Evaluator) -> None:
    data = drawn_questions("minigrid", 5)
    judge.speaker = Oracle(data.documents, 0)
    found = answer_each(judge, data, ablate=True)
    assert [one["blanked"] for one in found] == ["all is grey"] * 5 and found[0]["question_only"] == "I see nothing"
    asked = EvaluationSet(data.name, data.documents, [question("?", "x")], data.fingerprint)
    figures = evaluate_questions(judge, asked).figures
    assert figures["accuracy"] == {"model": 1, "blanked": 0, "question_only": 0, "most_frequent": 0}
