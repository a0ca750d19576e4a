"""The dialects in which people write dialogues, all read as messages: DIALECTS is the table, one small function each.

    messages           {"messages": [{"role": "user", "content": "..."}, ...]}, as OpenAI and Hugging Face write them: content
                       may be a list of texts, pictures (image, image_url) and sounds (audio, input_audio); "weight": 0, and
                       "train" or "loss": false, is no target
    ShareGPT, LLaVA    {"conversations": [{"from": "human", "value": "..."}, ...], "image": "a.png", "system": "..."}
    turns              {"turns": [{"role": "user", "text": "..."}, ...]} or {"turns": ["...", "..."]}, which alternate
    instruction        {"instruction": ..., "input" or "context": ..., "output" or "response": ...}, perhaps with
                       "system" and "history": Alpaca (Taori et al., 2023) and Dolly
    prompt             {"prompt": ..., "completion" or "response": ...}; texts, or lists of messages; "label": false, KTO's mark
                       of what must not be learnt, is refused
    choices            {"question": ..., "choices" or "options": [...], "answer": "B", 1 or the text}; the reply is the letter
    question           {"question": ..., "answer" or "answers": ..., "context": ...}, SQuAD's among them: of several answers the
                       one given most often is said, of none "unanswerable"; "statement" asks for true or false
    sounds             no question but what is to be heard, under one of the keys of HEARD: "file" and "digit": 7
                       ask which digit is spoken, and the answer is "seven"

With each may stand "image", "images", "audio", or one of FILES with a picture's or sound's name. They take the places that the
texts mark with <image> or <audio>, or come first. Who speaks is told by the names of the roles, never by the turn; only two
speakers that differ by a number (agent_1 and agent_2) are equals, and the first one is the user. A field that belongs to a
dialogue and has no place in its dialect is refused, not dropped. Whatever a text says, it is text: markers are ids of their
own, see tokenizers/document.py.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

from ...tokenizers.document import ROLES
from ..images import SUFFIXES as PICTURES
from ..sounds import SUFFIXES as SOUNDS
from ..synthetic.captions import NUMBERS

Messages: TypeAlias = list[dict[str, Any]]

NAMES = {"user": "user", "human": "user", "prompter": "user", "assistant": "assistant", "gpt": "assistant", "bot": "assistant",
         "ai": "assistant", "model": "assistant", "chatgpt": "assistant", "chatbot": "assistant", "bing": "assistant",
         "bard": "assistant", "system": "system", "developer": "system"}      # lower case -> role
HEARD = {"caption": "what do you hear?", "digit": "which digit is spoken?", "label": "what do you hear?",
         "text": "what is said?", "sentence": "what is said?", "transcription": "what is said?",
         "transcript": "what is said?"}                                  # what a sound's record knows -> what is asked
SYSTEM, INPUTS = ("system", "system_prompt"), ("input", "context", "passage")
REPLIES, CHOICES = ("output", "response", "completion"), ("choices", "options")
ANSWERS = ("answer", "answers", "answerKey", "answer_idx")
MEDIA = {"audio": SOUNDS, "image": PICTURES}                             # kind of an entry -> how its files end
FILES = ("file", "file_name", "filename", "image_file_name", "audio_file_name", "image_path",
         "audio_path")                                                   # a picture or a sound, as the file's name ends
# What belongs to a dialogue: where a dialect has no place for it, it must not be dropped silently.
CONTENT = {*SYSTEM, *INPUTS, *REPLIES, *CHOICES, *ANSWERS, "messages", "conversations", "turns", "instruction", "prompt",
           "question", "statement", "history", "tools", "functions", "chosen", "rejected", "hint", "lecture", "premise",
           "hypothesis", "rationale", "explanation", "solution", "image_url", "image_urls", "video", "videos"}
UNLEARNT = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")   # of a message
WEIGHTS = ("weight", "train", "loss")     # OpenAI's name of a message's share in the loss, axolotl's and ms-swift's
SPECIAL = {*UNLEARNT, *WEIGHTS}


@dataclass(frozen=True)
class Dialect:
    """A way to write a dialogue.

    Attributes:
        name: as people call it.
        keys: it is this one where all of them are there; a tuple among them is a choice.
        uses: further keys that its messages come from.
        read: makes the messages.
    """

    name: str
    keys: tuple[str | tuple[str, ...], ...]
    uses: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], Messages]

    def fits(self, found: Collection[str]) -> bool:
        """Whether a record with these keys is written so."""
        return all(any(key in found for key in ((keys,) if isinstance(keys, str) else keys)) for keys in self.keys)

    @cached_property
    def used(self) -> frozenset[str]:
        """All keys that its messages come from."""
        return frozenset(key for keys in (*self.keys, self.uses) for key in ((keys,) if isinstance(keys, str) else keys))


def dialect_of(value: Mapping[str, Any]) -> Dialect | None:
    """The first dialect that a record fits; None where it is no dialogue."""
    return _by_keys(tuple(value))[0] or (SOUND if "audio" in value or sound_of(value) is not None else None)


@lru_cache(maxsize=1024)      # the records of a file have much the same keys
def _by_keys(keys: tuple[str, ...]) -> tuple[Dialect | None, list[str], list[str]]:
    """The dialect of records with these keys, those of CONTENT that it does not use, and the kinds of files they may name."""
    dialect = next((dialect for dialect in DIALECTS if dialect.fits(keys)), None)
    kinds = [kind for kind in MEDIA if not {kind, f"{kind}s", *FILES}.isdisjoint(keys)]
    return dialect, [] if dialect is None else sorted(CONTENT & set(keys) - dialect.used), kinds


def is_dialogue(value: Mapping[str, Any]) -> bool:
    """Whether a record is written in one of the dialects."""
    return dialect_of(value) is not None


def sound_of(value: Mapping[str, Any]) -> Any:
    """The sound that a record is about: what stands under "audio", or a file whose name says that it is one."""
    return value.get("audio", _file(value, SOUNDS)[1])


def messages_of(value: Mapping[str, Any]) -> Messages:
    """The messages of a record: roles are those of tokenizers.document, pictures and sounds stand where they belong.

    Raises:
        ValueError: none of the dialects, or a record that is not complete; a field that would be dropped.
    """
    dialect, homeless, kinds = _by_keys(tuple(value))
    dialect = dialect or dialect_of(value)
    if dialect is None:
        raise ValueError("a dialogue needs one of messages, turns, conversations, instruction, question, statement, prompt; "
                         f"this has {', '.join(map(str, value)) or 'nothing'}")
    messages = dialect.read(value)
    if homeless:
        said = "\0".join(entry["text"] for message in messages for entry in _entries(message)
                         if isinstance(entry, dict) and isinstance(entry.get("text"), str))
        check_dropped(value, homeless, said, f"{dialect.name} is read from {', '.join(sorted(dialect.used & value.keys()))}")
    for kind in kinds:
        if names := _named(value, kind):
            messages = _placed(messages, kind, names)
        elif not {kind, f"{kind}s"}.isdisjoint(value) and any(
                isinstance(entry, dict) and f"<{kind}>" in str(entry.get("text"))
                for message in messages for entry in _entries(message)):
            raise ValueError(f"<{kind}> marks a place, but no {kind} is named; name one, or remove the mark")
    return messages


def check_dropped(value: Mapping[str, Any], keys: Iterable[str], said: str, where: str) -> None:
    """Raise ValueError where one of a record's fields `keys` says something that is not `said`, and so would be lost.

    Args:
        where: what is read of the record.
    """
    for key in keys:
        dropped = value.get(key)
        if dropped not in (None, "", [], {}) and not (isinstance(dropped, str) and dropped in said):
            raise ValueError(f"the field {key!r} would be dropped: {where}; use, rename or remove it")


def extra_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in a record beside the dialogue: several answers stay, they are what an answer is scored by."""
    dialect = dialect_of(value)
    said = (set() if dialect is None else dialect.used) - {"answers"} | {"image", "images", "audio"}
    said |= {_file(value, (*PICTURES, *SOUNDS))[0]}
    extra = {key: inner for key, inner in value.items() if key not in said}
    if extra.get("answers") and dialect is not None and "answers" in dialect.used:
        extra["answers"] = _texts(extra["answers"]) or extra["answers"]
    return extra


# ---- dialects --------------------------------------------------------------------------------------------------------------

def _chat(*keys: str) -> Callable[[Mapping[str, Any]], Messages]:
    """Reads the list of messages under the first of `keys` that is there."""
    def read(value: Mapping[str, Any]) -> Messages:
        key = next(key for key in keys if key in value)
        system, messages = _system(value), chat(value[key], key)
        return messages if system and messages[0] == system[0] else [*system, *messages]      # it may stand in both places
    return read


def chat(turns: Any, key: str) -> Messages:
    """A list of turns as messages: roles by their names; unnamed turns of "turns" and the like alternate.

    Raises:
        ValueError: another kind of list, a role that is not known, what cannot be learnt from.
    """
    if not isinstance(turns, list) or not turns:
        what = "message" if key == "messages" else "turn"
        got = "an empty one" if turns == [] else type(turns).__name__
        raise ValueError(f"{key} must be a list of at least one {what}, got {got}")
    if key != "messages" and all(isinstance(turn, str) for turn in turns):
        return [{"role": ROLES[number % 2], "content": turn} for number, turn in enumerate(turns)]
    if key != "messages" and any(isinstance(turn, str) for turn in turns):
        raise ValueError(f'{key} must all be strings, or all objects {{"role": ..., "text": ...}}')
    names = [turn.get("role") or turn.get("from") if isinstance(turn, dict) else None for turn in turns]
    roles = _roles(tuple(dict.fromkeys(name for name in names if isinstance(name, str))))
    messages = []
    for number, (turn, name) in enumerate(zip(turns, names, strict=True)):
        role = roles.get(name) if isinstance(name, str) else None
        if role is None:
            raise ValueError(f"message {number} must be an object whose role is one of {', '.join(ROLES)}, or another name of "
                             f"these ({', '.join(name for name in NAMES if name not in ROLES)}); got {name!r}")
        content = turn.get("content")
        if content is None:
            content = turn["text"] if turn.get("text") is not None else turn.get("value")
        if isinstance(content, str) and SPECIAL.isdisjoint(turn):
            messages.append(turn if role == name and turn.get("content") is content and "role" in turn
                            else {"role": role, "content": content})
            continue
        if found := next((key for key in UNLEARNT if turn.get(key)), None):
            raise ValueError(f"message {number} has {found!r}, which would not be learnt; leave it out or write it into the "
                             f"content")
        kept = turn if "content" in turn and "role" in turn else {}
        messages.append({**kept, "role": role, "content": _content(content, number)})
        for key in WEIGHTS:
            if (weight := turn.get(key)) is not None:
                if weight not in (0, 1):
                    raise ValueError(f"message {number}: {key} must be 0 or 1, got {weight!r}")
                messages[-1]["weight"] = int(weight and messages[-1].get("weight") != 0)
    return messages


def _instruction(value: Mapping[str, Any]) -> Messages:
    given = _one(value, INPUTS)
    asked = [value["instruction"], *(["\n\n", given] if given else [])]
    history = value.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in history):
        raise ValueError("history must be a list of pairs [question, answer]")
    before = [message for pair in history for message in (
        {"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]})]
    return [*_system(value), *before, *_exchange(asked, _reply(value))]


def _prompt(value: Mapping[str, Any]) -> Messages:
    prompt, reply = value["prompt"], _reply(value)
    if str(value.get("label")).lower() == "false":
        raise ValueError("label is false: KTO marks a completion so that must not be learnt; keep those whose label is true")
    messages = chat(prompt, "messages") if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    reply = chat(reply, "messages") if isinstance(reply, list) else [{"role": "assistant", "content": reply}]
    return [*_system(value), *messages, *reply]


def _question(value: Mapping[str, Any]) -> Messages:
    shape = "question" if "question" in value else "statement"
    if isinstance(value[shape], str) and not value[shape].strip():
        raise ValueError(f"the {shape} is empty")
    given = _one(value, INPUTS)
    reply = _answer(value)
    if isinstance(reply, bool):
        reply = (("no", "yes") if shape == "question" else ("false", "true"))[reply]
    elif isinstance(reply, int | float):
        reply = str(reply)
    return [*_system(value), *_exchange([*([given, "\n\n"] if given else []), value[shape]], reply)]


def _choices(value: Mapping[str, Any]) -> Messages:
    """A question whose choices are lettered, unless they bring labels of their own."""
    labels, texts = _labelled(_one(value, CHOICES))
    answers = {key: value[key] for key in ANSWERS if value.get(key) is not None}
    if not answers:
        raise ValueError(f"no answer under one of {', '.join(ANSWERS)}; the record has {', '.join(map(str, value))}")
    found = {_chosen(answer, labels, texts) for answer in answers.values()}
    if "" in found:
        wrong = next(answer for answer in answers.values() if not _chosen(answer, labels, texts))
        raise ValueError(f"the answer {wrong!r} is none of the choices {', '.join(labels)}")
    if len(found) > 1:
        raise ValueError(f"give one of {', '.join(answers)}: they name different choices")
    right = found.pop()
    given = _one(value, INPUTS)
    listed = "\n".join(f"{label}. {text}" for label, text in zip(labels, texts, strict=True))
    asked = [*([given, "\n\n"] if given else []), value["question"], "\n\n" + listed]
    return [*_system(value), *_exchange(asked, right)]


def _chosen(answer: Any, labels: Sequence[str], texts: Sequence[str]) -> str:
    """The label of the choice that an answer names by its label ("B", "(b)"), its text, or its number from 0; "": of none."""
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, int) and not isinstance(answer, bool):
        return labels[answer] if 0 <= answer < len(labels) else ""
    if not isinstance(answer, str):
        return ""
    bare = answer.strip(" ().:").lower()
    return next((label for label, text in zip(labels, texts, strict=True) if answer in (label, text)),
                next((label for label in labels if label.lower() == bare), ""))


def _labelled(choices: Any) -> tuple[list[str], list[str]]:
    """Labels and texts of choices: a list, {"A": text, ...} or ARC's {"label": [...], "text": [...]}."""
    match choices:
        case {"text": list(texts), "label": list(labels)} if len(texts) == len(labels):
            pass
        case dict():
            labels, texts = list(choices), list(choices.values())
        case list():
            labels, texts = [chr(ord("A") + number) for number in range(len(choices))], choices
        case _:
            labels, texts = [], []
    if not 0 < len(texts) <= 26 or not all(isinstance(text, str) for text in (*labels, *texts)):
        raise ValueError("choices must be a list of 1 to 26 texts, or an object of labels and texts")
    return labels, texts


def _about_sound(value: Mapping[str, Any]) -> Messages:
    """Question and answer that follow from what a record knows about its sound: labels in plain words, digits spelled out."""
    known = next((key for key in HEARD if key in value), None)
    if known is None:
        raise ValueError(f"a sound needs a question, or what is heard under one of {', '.join(HEARD)}; this has "
                         f"{', '.join(value)}")
    answer = value[known]
    if known == "digit" and isinstance(answer, int | str) and answer in range(len(NUMBERS)):
        answer = NUMBERS[int(answer)]
    elif known == "label" and isinstance(answer, str | int):
        answer = str(answer).replace("_", " ").lower()
    return _exchange([HEARD[known]], answer)


DIALECTS = (
    Dialect("messages (OpenAI, Hugging Face)", ("messages",), SYSTEM, _chat("messages")),
    Dialect("ShareGPT's or LLaVA's conversations", (("conversations", "conversation"),), SYSTEM,
            _chat("conversations", "conversation")),
    Dialect("turns", (("turns", "dialog", "dialogue"),), SYSTEM, _chat("turns", "dialog", "dialogue")),
    Dialect("instruction and output (Alpaca, Dolly)", ("instruction",), (*SYSTEM, "history", *INPUTS, *REPLIES), _instruction),
    Dialect("prompt and completion", ("prompt", REPLIES), SYSTEM, _prompt),
    Dialect("a question with choices", ("question", CHOICES), (*SYSTEM, *INPUTS, *ANSWERS), _choices),
    Dialect("question and answer (SQuAD, VQA)", (("question", "statement"),), (*SYSTEM, *INPUTS, "answer", "answers", *REPLIES),
            _question),
)
SOUND = Dialect("a sound and what is heard", (), ("audio", "file"), _about_sound)


# ---- parts -----------------------------------------------------------------------------------------------------------------

def _one(value: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    """What stands under one of the keys; None where nothing does.

    Raises:
        ValueError: two of them say something, and different things.
    """
    if value.keys().isdisjoint(keys):
        return None
    found = [key for key in keys if value.get(key) is not None]
    if len(found) > 1:
        found = [key for key in found if value[key] != ""] or found[:1]
        if len({repr(value[key]) for key in found}) > 1:
            raise ValueError(f"give one of {', '.join(found)}")
    return value[found[0]] if found else None


def _system(value: Mapping[str, Any]) -> Messages:
    content = _one(value, SYSTEM)
    return [{"role": "system", "content": content}] if content else []


def _exchange(asked: list[Any], reply: Any) -> Messages:
    return [{"role": "user", "content": [{"type": "text", "text": part} for part in asked]},
            {"role": "assistant", "content": reply}]


def _reply(value: Mapping[str, Any]) -> Any:
    """What is answered; ValueError where the record says nothing."""
    if (reply := _one(value, REPLIES)) is None:
        raise ValueError(f"no reply under one of {', '.join(REPLIES)}; the record has {', '.join(map(str, value))}")
    return reply


def _answer(value: Mapping[str, Any]) -> Any:
    keys = [key for key in ("answer", "answers") if value.get(key) is not None]
    if not keys and _one(value, REPLIES) is not None:
        return _reply(value)
    if not keys:
        raise ValueError(f"no reply under one of answer, answers, {', '.join(REPLIES)}; the record has "
                         f"{', '.join(map(str, value))}")
    if len(keys) == 2:
        raise ValueError("give either 'answer' or 'answers'")
    answer = value[keys[0]]
    if keys == ["answer"] and not isinstance(answer, list | dict):
        return answer
    if isinstance(answer, dict) and answer.get("text") == []:       # SQuAD's version 2 asks what no text answers
        return "unanswerable"
    if not (texts := _texts(answer)):
        raise ValueError(f"{keys[0]} must be a list of at least one string")
    return Counter(texts).most_common(1)[0][0]


def _texts(answers: Any) -> list[str]:
    """Several answers as texts: a list of them, or of objects with one; SQuAD's {"text": [...]}, TriviaQA's {"value": ...}."""
    if isinstance(answers, dict):
        answers = answers["text"] if isinstance(answers.get("text"), list) else [answers.get("value")]
    if not isinstance(answers, list):
        return []
    found = [entry.get("text", entry.get("answer")) if isinstance(entry, dict) else entry for entry in answers]
    texts = [text for text in found if isinstance(text, str)]
    return texts if len(texts) == len(found) else []


@lru_cache(maxsize=1024)
def _roles(speakers: tuple[str, ...]) -> dict[str, str | None]:
    """The role of each name, None where it is not known; two that differ by their numbers or letters alone are equals, and the
    first one asks."""
    roles = {name: NAMES.get(name.strip().lower()) for name in speakers}
    stems = {re.sub(r"[ _-]*\d+$|[ _-][A-Za-z]$", "", name) for name in speakers}
    if None in roles.values() and len(speakers) == 2 and len(stems) == 1 and not stems & {*speakers, ""}:
        return dict(zip(speakers, ROLES, strict=False))
    return roles


def _content(content: Any, number: int) -> Any:
    """A message's content with entries of the types text, image and audio only; what is wrong with them is found later."""
    if not isinstance(content, list):
        return content
    entries: list[Any] = []
    for entry in content:
        kind = str(entry.get("type")) if isinstance(entry, dict) else ""
        match kind:
            case "input_text" | "output_text":
                entries.append({"type": "text", "text": entry.get("text")})
            case "image_url" | "input_image" | "audio_url" | "input_audio":
                inner, name = entry.get(kind, entry.get("image_url")), kind.removeprefix("input_").removesuffix("_url")
                if isinstance(inner, dict):
                    data = f"data:{name}/{inner.get('format')};base64,{inner['data']}" if "data" in inner else None
                    inner = inner.get("url", data)
                if isinstance(inner, str) and re.match("(?i)(https?|ftp)://", inner):
                    raise ValueError(f"message {number} shows {inner[:80]}, which lies on the web; download it and name the "
                                     f"file")
                entries.append({"type": name, name: inner})
            case "image" if isinstance(source := entry.get("source"), dict):       # Anthropic's
                data = f"data:{source.get('media_type')};base64,{source['data']}" if "data" in source else source.get("url")
                entries.append({"type": kind, kind: data})
            case "image" | "audio" if entry.get(kind) is None and isinstance(entry.get("path", entry.get("url")), str):
                entries.append({"type": kind, kind: entry.get("path", entry.get("url"))})
            case _:
                entries.append(entry)
    return entries


def _entries(message: Mapping[str, Any]) -> list[Any]:
    content = message["content"]
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _file(value: Mapping[str, Any], suffixes: tuple[str, ...]) -> tuple[str, Any]:
    """Which of FILES names a picture or a sound, as its name ends, and the name; "", None: none does."""
    return next(((key, file) for key in FILES if isinstance(file := value.get(key), str) and file.lower().endswith(suffixes)),
                ("", None))


def _named(value: Mapping[str, Any], kind: str) -> list[Any]:
    """The pictures or sounds that a record names beside its texts."""
    named, several = value[kind] if kind in value else _file(value, MEDIA[kind])[1], value.get(f"{kind}s")
    single = [] if named is None or named == "" else named if isinstance(named, list) else [named]
    return [*single, *several] if isinstance(several, list) else single


def _placed(messages: Messages, kind: str, names: list[Any]) -> Messages:
    """Messages that show what a record names: at its marks (<image>) and entries without a name, else first.

    Raises:
        ValueError: there are more marks than names, or fewer.
    """
    contents = [content if isinstance(content := message["content"], list) else [{"type": "text", "text": content}]
                for message in messages]
    own: list[Any] = []
    mark, is_marked = f"<{kind}>", False
    for content in contents:
        for entry in content:
            if isinstance(entry, dict):
                if entry.get("type") == kind:
                    own.append(entry.get(kind))
                is_marked = is_marked or (isinstance(text := entry.get("text"), str) and mark in text)
    waiting = [name for name in names if name not in own]
    if not waiting:
        return messages
    total = len(waiting)
    if not own and not is_marked:
        roles = [message["role"] for message in messages]
        first = roles.index("user") if "user" in roles else 0
        shown = [*({"type": kind, kind: name} for name in waiting), *contents[first]]
        return [*messages[:first], {**messages[first], "content": shown}, *messages[first + 1:]]

    def take() -> dict[str, Any]:
        if not waiting:
            raise ValueError(f"there are more places for {kind}s than the {total} that are named")
        return {"type": kind, kind: waiting.pop(0)}

    placed: Messages = []
    for message, content in zip(messages, contents, strict=True):
        entries: list[Any] = []
        for entry in content:
            text = entry.get("text") if isinstance(entry, dict) else None
            if isinstance(text, str) and mark in text:
                for number, part in enumerate(text.split(mark)):
                    entries += [take()] if number else []
                    entries += [{"type": "text", "text": part}] if part.strip() else []
            else:
                nameless = isinstance(entry, dict) and entry.get("type") == kind and not entry.get(kind)
                entries.append(take() if nameless else entry)
        placed.append(message if entries == content else {**message, "content": entries})
    if waiting:
        raise ValueError(f"{total} {kind}s are named, but there are places for {total - len(waiting)} only")
    return placed
