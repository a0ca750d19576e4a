"""What is said about a picture is true by its facts, and the checkers refuse everything else."""

import itertools
from collections import Counter

import numpy as np
import pytest

from calico.datasets.synthetic.captions import (
    COLOURS,
    HEIGHTS,
    KINDS,
    LEANS,
    LOOK,
    PLACES,
    SIDES,
    STATES,
    answer_is_right,
    ask,
    caption,
    caption_is_right,
    picture_dialogue,
    questions,
    told_dialogue,
)

ROOM = [{"kind": "key", "colour": "blue", "place": "right"}, {"kind": "ball", "colour": "red", "place": "top left"}]


def random_room(rng: np.random.Generator) -> list[dict[str, str]]:
    """One to three things in different places; colours and kinds may repeat."""
    places = rng.permutation(PLACES)[: int(rng.integers(1, 4))]
    return [{"kind": str(rng.choice(KINDS)), "colour": str(rng.choice(COLOURS)), "place": str(p)} for p in places]


ROOMS = [random_room(np.random.default_rng(seed)) for seed in range(200)]
LANDERS = [[{"kind": "lander", "place": place, "lean": lean}] for place in PLACES for lean in LEANS]
CHICKENS = [[{"kind": "chicken", "height": height}] for height in HEIGHTS]
PADDLES = [[{"kind": "paddle", "side": side}, *ball] for side in SIDES
           for ball in ([], *([{"kind": "flying ball", "place": place}] for place in PLACES))]
BOARDS = [[{"kind": "player", "place": PLACES[number % 9]}, {"kind": "crate", "place": PLACES[number // 9 % 9], "state": state},
           {"kind": "crate", "place": PLACES[number * 5 % 9], "state": other}]
          for number in range(81) for state in STATES for other in STATES]
SCENES = ROOMS + LANDERS + CHICKENS + PADDLES + BOARDS


@pytest.mark.parametrize(("facts", "expected"), [
    (ROOM, "a red ball top left, a blue key right"),
    (ROOM[::-1], "a red ball top left, a blue key right"),
    ([], "nothing"),
    ([{"kind": "lander", "place": "top right", "lean": "upright"}], "an upright lander top right"),
    ([{"kind": "lander", "place": "middle", "lean": "left"}], "a left-leaning lander middle"),
    ([{"kind": "chicken", "height": "middle"}], "a chicken in the middle"),
    ([{"kind": "chicken", "height": "top"}], "a chicken at the top"),
    ([{"kind": "paddle", "side": "middle"}, {"kind": "flying ball", "place": "left"}],
     "a flying ball left, a paddle in the middle"),
    ([{"kind": "player", "place": "top"}, {"kind": "crate", "place": "right", "state": "placed"}],
     "a player top, a placed crate right"),
])
def test_captions_have_one_wording(facts: list[dict[str, str]], expected: str) -> None:
    assert caption(facts) == expected


def test_different_facts_have_different_captions_and_each_passes_its_own_check() -> None:
    frozen = {frozenset(Counter(tuple(sorted(f.items())) for f in facts).items()): facts for facts in SCENES}
    texts = [caption(facts) for facts in frozen.values()]
    assert len(set(texts)) == len(texts)
    for facts, text in zip(frozen.values(), texts, strict=True):
        assert caption_is_right(text, facts)
        assert sum(caption_is_right(text, other) for other in frozen.values()) == 1


def mutations(facts: list[dict[str, str]], rng: np.random.Generator) -> list[list[dict[str, str]]]:
    """The same facts with one property changed, one thing missing, one thing more, one thing twice."""
    values = {"kind": KINDS, "colour": COLOURS, "place": PLACES, "lean": tuple(LEANS), "height": HEIGHTS, "side": SIDES,
              "state": STATES}
    changed = []
    for number, fact in enumerate(facts):
        for key, value in fact.items():
            if not (key == "kind" and value not in KINDS):
                other = str(rng.choice([v for v in values[key] if v != value]))
                changed.append([*facts[:number], fact | {key: other}, *facts[number + 1:]])
        changed.append([*facts[:number], *facts[number + 1:]])
        changed.append([*facts, fact])
    return [*changed, [*facts, {"kind": "box", "colour": "grey", "place": "middle"}]]


def test_every_change_of_the_facts_is_noticed() -> None:
    for facts in SCENES:
        for other in mutations(facts, np.random.default_rng(0)):
            assert not caption_is_right(caption(other), facts), (caption(other), facts)


@pytest.mark.parametrize("text", [
    "a blue key right, a red ball top left", "A red ball top left and a blue key right.",
    "red ball top left,blue key right",
    "the red ball at the top left, and the blue key on the right", "  a red ball   in the top left, a blue key right\n",
])
def test_other_wordings_of_the_truth_are_right(text: str) -> None:
    assert caption_is_right(text, ROOM)


@pytest.mark.parametrize("text", [
    "", "a", ",", "nothing", "a red ball", "a red ball top left", "a ball top left, a blue key right",
    "a red ball top left, a blue key right, a", "a red ball top left, a blue key right, a red ball top left",
    "a red ball top left a blue key right", "a red red ball top left, a blue key right",
    "a red ball top left, a blue key right or left", "a red ball top left, a blue key right!",
    "no red ball top left, a blue key right", "a red ball top left, a blue key right and nothing",
    "an upright lander top left, a blue key right",
])
def test_half_truths_are_wrong(text: str) -> None:
    assert not caption_is_right(text, ROOM)


@pytest.mark.parametrize("fact", [
    {}, {"kind": "door", "colour": "red", "place": "top"}, {"kind": "ball", "colour": "red"},
    {"kind": "ball", "colour": "pink", "place": "top"}, {"kind": "chicken", "height": "left"},
    {"kind": "lander", "place": "top", "lean": "up"}, {"kind": "ball", "colour": "red", "place": "top", "size": "big"},
])
def test_unknown_facts_are_named(fact: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="fact .* (unknown kind|should)"):
        caption([fact])


def test_every_question_of_a_room() -> None:
    found = questions([*ROOM, {"kind": "ball", "colour": "green", "place": "bottom"}])
    assert found.pop("look") == {LOOK: "a red ball top left, a blue key right, a green ball bottom"}
    assert found.pop("colour") == {"what colour is the key?": "blue"}     # two balls: no such question about "the ball"
    assert found.pop("where") == {"where is the blue key?": "right", "where is the red ball?": "top left",
                                  "where is the green ball?": "bottom"}
    assert found.pop("what") == {"what is at the right?": "a blue key", "what is at the top left?": "a red ball",
                                 "what is at the bottom?": "a green ball"}
    assert found.pop("count") == {"how many objects are there?": "3"}
    yes_or_no = found.pop("yes or no")
    assert not found
    assert len(yes_or_no) == 18
    assert {q for q, a in yes_or_no.items() if a == "yes"} == {
        "is there a red ball?", "is there a blue key?", "is there a green ball?"}


def test_ambiguous_questions_are_not_asked() -> None:
    twins = [{"kind": "ball", "colour": "red", "place": "top"}, {"kind": "ball", "colour": "red", "place": "left"}]
    assert "where" not in questions(twins)
    assert "colour" not in questions(twins)
    crowd = [{"kind": "ball", "colour": "red", "place": "top"}, {"kind": "key", "colour": "red", "place": "top"}]
    assert "what" not in questions(crowd)


def test_questions_about_landers_and_chickens() -> None:
    found = questions(LANDERS[0])
    assert found["where"] == {"where is the lander?": "top left"}
    assert found["lean"] == {"which way does the lander lean?": "left"}
    assert found["yes or no"]["is the lander left-leaning?"] == "yes"
    assert found["yes or no"]["is the lander in the middle?"] == "no"
    assert questions(LANDERS[1])["lean"] == {"which way does the lander lean?": "neither"}
    assert questions(CHICKENS[0])["where"] == {"where is the chicken?": "bottom"}


def test_answers_pass_their_check_and_others_fail() -> None:
    for facts in SCENES:
        every = {q: a for found in questions(facts).values() for q, a in found.items()}
        pool = sorted(set(every.values()) | {"yes", "no", "0", "7", "pink", ""})
        for question, answer in every.items():
            assert answer_is_right(answer, question, facts)
            wrong = [other for other in pool if other != answer and question != LOOK]
            assert not any(answer_is_right(other, question, facts) for other in wrong), (question, answer)


@pytest.mark.parametrize(("question", "text", "right"), [
    ("what is at the top left?", "red ball", True), ("what is at the top left?", "The red ball.", True),
    ("what is at the top left?", "ball", False), ("where is the blue key?", "at the right", True),
    ("where is the blue key?", "top right", False), ("where is the blue key?", "right right", False),
    ("how many objects are there?", "two", True), ("how many objects are there?", "2", True),
    ("how many objects are there?", "22", False), ("is there a red ball?", "Yes.", True),
    ("is there a red ball?", "yes and no", False), (LOOK, "a blue key right and a red ball top left", True),
    (LOOK, "a blue key right", False), ("what colour is the ball?", "reddish", False),
])
def test_answers_may_be_worded_a_little_differently(question: str, text: str, right: bool) -> None:
    assert answer_is_right(text, question, ROOM) == right


def test_a_question_without_an_answer_is_an_error() -> None:
    with pytest.raises(ValueError, match="'where is the box.' has no answer here; the facts answer"):
        answer_is_right("left", "where is the box?", ROOM)


def test_yes_and_no_are_equally_frequent_and_all_sorts_occur() -> None:
    rng = np.random.default_rng(0)
    asked = [pair for facts in itertools.islice(itertools.cycle(ROOMS), 6000) for pair in ask(facts, rng, 3)]
    answers = Counter(answer for _, answer in asked)
    assert 0.9 < answers["yes"] / answers["no"] < 1.1
    first_words = Counter(" ".join(question.split()[:2]) for question, _ in asked)
    assert set(first_words) == {"what do", "what colour", "where is", "what is", "how many", "is there"}
    assert min(first_words.values()) > 0.1 * len(asked)


def test_questions_of_a_dialogue_differ_and_depend_on_the_generator_alone() -> None:
    for facts in SCENES:
        pairs = ask(facts, np.random.default_rng(1), 100)
        assert len({question for question, _ in pairs}) == len(pairs)
        assert pairs == ask(facts, np.random.default_rng(1), 100)
        assert all(answer_is_right(answer, question, facts) for question, answer in pairs)


def test_dialogues_show_or_tell_first() -> None:
    rng = np.random.default_rng(0)
    for facts in SCENES:
        shown = picture_dialogue(facts, "7.png", rng, 3)
        assert [message["role"] for message in shown] == ["user", "assistant"] * 3
        assert shown[0]["content"][0] == {"type": "image", "image": "7.png"}
        assert all(isinstance(message["content"], str) for message in shown[1:])
        told = told_dialogue(facts, rng, 2)
        assert told[0]["content"].startswith(f"there is {caption(facts)}. ")
        question = told[0]["content"].removeprefix(f"there is {caption(facts)}. ")
        assert question != LOOK
        assert answer_is_right(told[1]["content"], question, facts)
