"""Pictures of the worlds in words: captions, questions and answers made from facts, and checkers that know the truth.

Facts are plain data, one dict per thing in the picture:

    room       {"kind": "ball" | "box" | "key", "colour": one of COLOURS, "place": one of PLACES}
    lander     {"kind": "lander", "place": one of PLACES, "lean": "left" | "upright" | "right"}
    freeway    {"kind": "chicken", "height": "bottom" | "middle" | "top"}
    sokoban    {"kind": "player", "place": one of PLACES}
               {"kind": "crate", "place": one of PLACES, "state": "loose" | "placed"}
    breakout   {"kind": "paddle", "side": "left" | "middle" | "right"}
               {"kind": "flying ball", "place": one of PLACES}

A caption has one wording, things in raster order of their places; the checker also takes them in any order. A question
is only asked where the facts give exactly one answer, and yes and no are equally frequent.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

Facts: TypeAlias = Sequence[Mapping[str, str]]

KINDS = ("ball", "box", "key")
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
HEIGHTS = ("bottom", "middle", "top")
LEANS = {"left": "left-leaning", "upright": "upright", "right": "right-leaning"}
STATES = ("loose", "placed")     # of a crate: off its target, on it
SIDES = ("left", "middle", "right")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LOOK = "what do you see?"      # answered by the caption

_VALUES = {"colour": COLOURS, "place": PLACES, "height": HEIGHTS, "lean": tuple(LEANS), "state": STATES, "side": SIDES}
_KEYS = {**dict.fromkeys(KINDS, ("colour", "place")), "lander": ("place", "lean"), "chicken": ("height",), "player": ("place",),
         "crate": ("place", "state"), "paddle": ("side",), "flying ball": ("place",)}
_ARTICLE, _AT = r"(?:(?:a|an|the) )?", r"(?:(?:at|in|on) )?(?:the )?"
_ANY_PLACE, _ANY_LEAN = "|".join(PLACES), "|".join(LEANS.values())
_THINGS = (
    re.compile(rf"{_ARTICLE}(?P<colour>{'|'.join(COLOURS)}) (?P<kind>{'|'.join(KINDS)}) {_AT}(?P<place>{_ANY_PLACE})"),
    re.compile(rf"{_ARTICLE}(?P<lean>{_ANY_LEAN}) (?P<kind>lander) {_AT}(?P<place>{_ANY_PLACE})"),
    re.compile(rf"{_ARTICLE}(?P<kind>chicken) {_AT}(?P<height>{'|'.join(HEIGHTS)})"),
    re.compile(rf"{_ARTICLE}(?P<kind>player|flying ball) {_AT}(?P<place>{_ANY_PLACE})"),
    re.compile(rf"{_ARTICLE}(?P<state>{'|'.join(STATES)}) (?P<kind>crate) {_AT}(?P<place>{_ANY_PLACE})"),
    re.compile(rf"{_ARTICLE}(?P<kind>paddle) {_AT}(?P<side>{'|'.join(SIDES)})"),
)


def caption(facts: Facts) -> str:
    """The facts in words: "a red ball top left, a blue key right"; "nothing" where there are none.

    Raises:
        ValueError: a fact that is none of the kinds above.
    """
    for fact in facts:
        check_fact(fact)
    return ", ".join(_phrase(fact) for fact in sorted(facts, key=_raster)) or "nothing"


def check_fact(fact: Mapping[str, str]) -> None:
    """Raise ValueError unless this is a fact as described at the top of the file."""
    keys = _KEYS.get(fact.get("kind", ""))
    if keys is None:
        raise ValueError(f"fact {dict(fact)} has an unknown kind; there are {', '.join(_KEYS)}")
    if set(fact) != {"kind", *keys}:
        raise ValueError(f"fact {dict(fact)} should have the keys kind, {', '.join(keys)}")
    for key in keys:
        if fact[key] not in _VALUES[key]:
            raise ValueError(f"fact {dict(fact)}: {key} should be one of {', '.join(_VALUES[key])}")


def _phrase(fact: Mapping[str, str]) -> str:
    match fact["kind"]:
        case "lander":
            return f"{_with_article(LEANS[fact['lean']])} lander {fact['place']}"
        case "chicken":
            return f"a chicken {_at(fact['height'])}"
        case "paddle":
            return f"a paddle {_at(fact['side'])}"
        case "crate":
            return f"a {fact['state']} crate {fact['place']}"
        case "player" | "flying ball" as kind:
            return f"a {kind} {fact['place']}"
    return f"{_name(fact)} {fact['place']}"


def _raster(fact: Mapping[str, str]) -> tuple[int, str, str]:
    return PLACES.index(fact.get("place", "middle")), fact["kind"], fact.get("colour", fact.get("state", ""))


def _name(fact: Mapping[str, str]) -> str:
    return _with_article(f"{fact['colour']} {fact['kind']}")


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _at(place: str) -> str:
    return "in the middle" if place == "middle" else f"at the {place}"


def caption_is_right(text: str, facts: Facts) -> bool:
    """Whether the text names every thing with all its properties, and nothing else; the order does not matter.

    Between things stand commas or "and"; "a", "the", "at the" may be there or not. "a red ball top left and a blue key
    right" is right for the example above; "a red ball top left" is not, nor is anything that says more.
    """
    text = _plain(text)
    said = [] if text == "nothing" else [_parse(part) for part in re.split(r", and |, ?| and ", text)]
    return None not in said and Counter(said) == Counter(_frozen(fact) for fact in facts)


def _parse(phrase: str) -> tuple[tuple[str, str], ...] | None:
    """The fact that a phrase states, None if it states none."""
    for pattern in _THINGS:
        if found := pattern.fullmatch(phrase):
            fact = found.groupdict()
            if "lean" in fact:
                fact["lean"] = next(lean for lean, word in LEANS.items() if word == fact["lean"])
            return _frozen(fact)
    return None


def _frozen(fact: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(fact.items()))


def _plain(text: str) -> str:
    """Lower case, single spaces, no full stop at the end."""
    return " ".join(text.lower().split()).removesuffix(".")


def questions(facts: Facts) -> dict[str, dict[str, str]]:
    """Every question that the facts answer, by sort: {"where": {"where is the blue key?": "right"}, ...}.

    Raises:
        ValueError: see `caption`.
    """
    asked: dict[str, dict[str, str]] = {"look": {LOOK: caption(facts)}}
    kinds = {fact["kind"] for fact in facts}
    if "lander" in kinds:
        asked |= _about_lander(_of_kind(facts, "lander")[0])
    elif "chicken" in kinds:
        asked |= _about_chicken(_of_kind(facts, "chicken")[0])
    elif "player" in kinds:
        asked |= _about_board(facts)
    elif "paddle" in kinds:
        asked |= _about_paddle(facts)
    else:
        asked |= _about_room(facts)
    return {sort: found for sort, found in asked.items() if found}


def _of_kind(facts: Facts, kind: str) -> list[Mapping[str, str]]:
    return [fact for fact in facts if fact["kind"] == kind]


def _about_room(facts: Facts) -> dict[str, dict[str, str]]:
    kinds = Counter(fact["kind"] for fact in facts)
    names = Counter((fact["colour"], fact["kind"]) for fact in facts)
    places = Counter(fact["place"] for fact in facts)
    return {
        "colour": {f"what colour is the {f['kind']}?": f["colour"] for f in facts if kinds[f["kind"]] == 1},
        "where": {f"where is the {f['colour']} {f['kind']}?": f["place"] for f in facts
                  if names[f["colour"], f["kind"]] == 1},
        "what": {f"what is {_at(f['place'])}?": _name(f) for f in facts if places[f["place"]] == 1},
        "count": {"how many objects are there?": str(len(facts))},
        "yes or no": {f"is there {_with_article(f'{colour} {kind}')}?": _yes((colour, kind) in names)
                      for colour in COLOURS for kind in KINDS},
    }


def _about_lander(fact: Mapping[str, str]) -> dict[str, dict[str, str]]:
    return {
        "where": {"where is the lander?": fact["place"]},
        "lean": {"which way does the lander lean?": {"upright": "neither"}.get(fact["lean"], fact["lean"])},
        "yes or no": {
            **{f"is the lander {_at(place)}?": _yes(place == fact["place"]) for place in PLACES},
            **{f"is the lander {word}?": _yes(lean == fact["lean"]) for lean, word in LEANS.items()}},
    }


def _about_chicken(fact: Mapping[str, str]) -> dict[str, dict[str, str]]:
    return {
        "where": {"where is the chicken?": fact["height"]},
        "yes or no": {f"is the chicken {_at(height)}?": _yes(height == fact["height"]) for height in HEIGHTS},
    }


def _about_board(facts: Facts) -> dict[str, dict[str, str]]:
    (player,), crates = _of_kind(facts, "player"), _of_kind(facts, "crate")
    found = {
        "where": {"where is the player?": player["place"]},
        "count": {"how many crates are placed?": str(sum(crate["state"] == "placed" for crate in crates))},
        "yes or no": {f"is the player {_at(place)}?": _yes(place == player["place"]) for place in PLACES},
    }
    for state in STATES:
        if len(places := [crate["place"] for crate in crates if crate["state"] == state]) == 1:
            found["where"][f"where is the {state} crate?"] = places[0]
    return found


def _about_paddle(facts: Facts) -> dict[str, dict[str, str]]:
    (paddle,), balls = _of_kind(facts, "paddle"), _of_kind(facts, "flying ball")
    found = {
        "where": {"where is the paddle?": paddle["side"]},
        "yes or no": {f"is the paddle {_at(side)}?": _yes(side == paddle["side"]) for side in SIDES},
    }
    if balls:
        found["where"]["where is the ball?"] = balls[0]["place"]
        found["yes or no"] |= {f"is the ball {_at(place)}?": _yes(place == balls[0]["place"]) for place in PLACES}
    return found


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def answer_is_right(text: str, question: str, facts: Facts) -> bool:
    """Whether the text answers the question: the answer's words, an article or "at the" more or less, "2" or "two".

    Raises:
        ValueError: the facts do not answer this question.
    """
    answers = {asked: answer for found in questions(facts).values() for asked, answer in found.items()}
    if question not in answers:
        raise ValueError(f"{question!r} has no answer here; the facts answer {', '.join(map(repr, answers))}")
    if question == LOOK:
        return caption_is_right(text, facts)
    return _core(text) == _core(answers[question])


def _core(answer: str) -> str:
    words = re.sub(r"^(?:(?:at|in|on) )?(?:(?:a|an|the) )?", "", _plain(answer))
    return str(NUMBERS.index(words)) if words in NUMBERS else words


def ask(facts: Facts, rng: np.random.Generator, count: int = 1) -> list[tuple[str, str]]:
    """Draw `count` different questions with their answers; fewer if the facts answer fewer.

    The sort is drawn first, so that the many yes-or-no questions do not crowd out the others; among these the answer is
    drawn before the question, and once all with one answer are asked the sort is closed: "no" is no better a guess than
    "yes", whatever was asked before.
    """
    asked = questions(facts)
    drawn: list[tuple[str, str]] = []
    while asked and len(drawn) < count:
        sort = sorted(asked)[int(rng.integers(len(asked)))]
        choice = asked[sort]
        if sort == "yes or no":
            answers = sorted(set(choice.values()))
            answer = answers[int(rng.integers(len(answers)))]
            choice = {question: found for question, found in choice.items() if found == answer}
        question = sorted(choice)[int(rng.integers(len(choice)))]
        drawn.append((question, asked[sort].pop(question)))
        if not asked[sort] or (sort == "yes or no" and len(set(asked[sort].values())) < 2):
            del asked[sort]
    return drawn


def picture_dialogue(facts: Facts, image: str, rng: np.random.Generator, count: int = 3) -> list[dict[str, Any]]:
    """Messages about a picture: the first question shows it, then `count` questions are asked and answered.

    Args:
        image: the picture's name, see documents.py.
    """
    return _messages(ask(facts, rng, count), lambda question: [{"type": "image", "image": image},
                                                               {"type": "text", "text": question}])


def told_dialogue(facts: Facts, rng: np.random.Generator, count: int = 2) -> list[dict[str, Any]]:
    """The same without a picture: the user tells what there is, then asks."""
    pairs = [(question, answer) for question, answer in ask(facts, rng, count + 1) if question != LOOK][:count]
    return _messages(pairs, lambda question: f"there is {caption(facts)}. {question}")


def _messages(pairs: Sequence[tuple[str, str]], first: Callable[[str], Any]) -> list[dict[str, Any]]:
    """Questions and answers as messages; `first` makes the content of the first question."""
    return [message for number, (question, answer) in enumerate(pairs) for message in (
        {"role": "user", "content": question if number else first(question)}, {"role": "assistant", "content": answer})]
