"""Small talk: every thing asked for in several ways, always with its one answer."""

import pytest

from calico.datasets.documents import check_messages
from calico.datasets.synthetic import small_talk as talk
from calico.datasets.synthetic.small_talk import small_talk

ANSWERS = {answer for _, answer in (*talk.TALK, *talk.GAMES)} | {talk.UNKNOWN}


def test_dialogues_are_turns_of_user_and_assistant_with_known_answers() -> None:
    found = small_talk()
    assert len(found) == 800 + len(talk.TALK) + len(talk.GAMES) and found == small_talk()
    assert found[-800:] != small_talk(seed=1)[-800:] and found[:-800] == small_talk(seed=1)[:-800]
    for messages in found:
        turns = len(messages) // 2
        assert [message["role"] for message in messages] == ["user", "assistant"] * turns and 1 <= turns <= 4
        assert all(message["content"] in ANSWERS for message in messages[1::2])
        check_messages(messages)


def test_the_usual_questions_come_first_alone() -> None:
    first = {messages[0]["content"]: messages[1]["content"] for messages in small_talk(0)}
    assert first["hello"] == talk.GREETING and first["who are you?"] == talk.WHO
    assert first["what is lunar lander?"] == "land softly between two flags with three engines."
    assert first["thank you"] == "you are welcome."


def test_all_of_it_is_drawn() -> None:
    said = {messages[at + 1]["content"] for messages in small_talk()[-800:] for at in range(0, len(messages), 2)}
    assert said == ANSWERS


def test_no_question_has_two_answers() -> None:
    answers: dict[str, set[str]] = {}
    for messages in small_talk():
        for asked, told in zip(messages[::2], messages[1::2], strict=True):
            answers.setdefault(asked["content"].lower().rstrip("?"), set()).add(told["content"])
    assert {asked: told for asked, told in answers.items() if len(told) > 1} == {}


@pytest.mark.parametrize("answer", sorted(ANSWERS))
def test_an_answer_fits_the_shortest_chat(answer: str) -> None:
    assert len(answer) <= 110 and answer == answer.strip().lower() and answer[-1] in ".?!"
