"""Shapes of a dialogue in JSON, all read as messages (role, content):

    messages    {"messages": [{"role": "user", "content": "..."}, ...]}, as OpenAI and Hugging Face write them
    turns       {"turns": [{"role": "user", "text": "..."}, ...]} or {"turns": ["...", "..."]}
    Alpaca      {"instruction": "...", "input": "...", "output": "..."} (Taori et al., 2023)
    questions   {"question": "...", "answer": "..."}, with "image" about a picture; "statement" asks for true or false;
                of several "answers" the one given most often is said
    sounds      a question with "audio" or "file"; or no question but what is to be heard, under one of the keys of
                HEARD: {"file": "7_theo_3.flac", "digit": 7} asks which digit is spoken, and the answer is "seven"

Whatever a text says, it is text: markers are ids of their own, see tokenizers/document.py.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ...tokenizers.document import ROLES
from ..sounds import SUFFIXES
from ..synthetic_captions import NUMBERS

SHAPES = ("messages", "turns", "instruction", "question", "statement")   # the key that tells the shape
HEARD = {"caption": "what do you hear?", "digit": "which digit is spoken?", "label": "what do you hear?",
         "text": "what is said?"}                                        # what a sound's record knows -> what is asked


def is_dialogue(value: Mapping[str, Any]) -> bool:
    """Whether a record has one of the shapes."""
    return any(shape in value for shape in SHAPES) or sound_of(value) is not None


def sound_of(value: Mapping[str, Any]) -> Any:
    """The sound that a record is about: what stands under "audio", or a "file" whose name says that it is one."""
    file = value.get("file")
    return value.get("audio", file if isinstance(file, str) and file.lower().endswith(SUFFIXES) else None)


def messages_of(value: Mapping[str, Any]) -> Any:
    """The messages of a record; what stands in "messages" is given as it is.

    Raises:
        ValueError: none of the shapes, or one that is not complete.
    """
    match next((shape for shape in SHAPES if shape in value), None):
        case "messages":
            return value["messages"]
        case "turns":
            return _turns(value["turns"])
        case "instruction":
            asked = [value["instruction"], *(["\n\n", value["input"]] if value.get("input") else [])]
            return _exchange([{"type": "text", "text": part} for part in asked], value.get("output"))
        case "question" | "statement" as shape:
            if isinstance(value[shape], str) and not value[shape].strip():
                raise ValueError(f"the {shape} is empty")
            shown = [{"type": "image", "image": value["image"]}] if "image" in value else []
            return _exchange([*shown, *_heard(value), {"type": "text", "text": value[shape]}], _answer(value))
        case None if sound_of(value) is not None:
            question, answer = _about_sound(value)
            return _exchange([*_heard(value), {"type": "text", "text": question}], answer)
    raise ValueError(f"a dialogue needs one of {', '.join(SHAPES)}; this has {', '.join(value) or 'nothing'}")


def extra_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in a record beside the dialogue: several answers stay, they are what an answer is scored by."""
    said = {*SHAPES, "input", "output", "answer"}
    if "turns" not in value and "messages" not in value:
        said |= {"image"} if sound_of(value) is None else {"image", "audio", "file"}
    return {key: inner for key, inner in value.items() if key not in said}


def _exchange(content: list[dict[str, Any]], reply: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}, {"role": "assistant", "content": reply}]


def _heard(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sound of a record as an entry of a message."""
    return [] if (sound := sound_of(value)) is None else [{"type": "audio", "audio": sound}]


def _about_sound(value: Mapping[str, Any]) -> tuple[str, Any]:
    """Question and answer that follow from what a record knows about its sound: labels in plain words, digits spelled out."""
    known = next((key for key in HEARD if key in value), None)
    if known is None:
        raise ValueError(f"a sound needs a question, or what is heard under one of {', '.join(HEARD)}; this has "
                         f"{', '.join(value)}")
    answer = value[known]
    if known == "digit" and answer in range(len(NUMBERS)):
        answer = NUMBERS[int(answer)]
    elif known == "label" and isinstance(answer, str | int):
        answer = str(answer).replace("_", " ").lower()
    return HEARD[known], answer


def _answer(value: Mapping[str, Any]) -> Any:
    if ("answer" in value) == ("answers" in value):
        raise ValueError("give either 'answer' or 'answers'")
    if "answer" in value:
        return value["answer"]
    answers = value["answers"]
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
        raise ValueError("answers must be a list of at least one string")
    return Counter(answers).most_common(1)[0][0]


def _turns(turns: Any) -> list[dict[str, Any]]:
    """Turns as messages: unnamed ones alternate; of two speakers with other names than ours, the first is the user."""
    if not isinstance(turns, list) or not turns:
        raise ValueError("turns must be a list of at least one turn")
    if all(isinstance(turn, str) for turn in turns):
        return [{"role": ROLES[number % 2], "content": turn} for number, turn in enumerate(turns)]
    if not all(isinstance(turn, dict) and isinstance(turn.get("role"), str) for turn in turns):
        raise ValueError('turns must all be strings, or all objects {"role": ..., "text": ...}')
    speakers = list(dict.fromkeys(turn["role"] for turn in turns))
    if set(speakers) <= set(ROLES):
        roles = {speaker: speaker for speaker in speakers}
    elif len(speakers) <= 2:
        roles = dict(zip(speakers, ROLES, strict=False))
    else:
        raise ValueError(f"{len(speakers)} speakers ({', '.join(speakers[:4])}); give two, or the roles {', '.join(ROLES)}")
    return [{"role": roles[turn["role"]], "content": turn.get("text", turn.get("content"))} for turn in turns]
