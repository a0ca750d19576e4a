"""Documents -> Tokens: text, captions and dialogues, as lists of parts.

A document is a list of images, sounds, strings and special tokens. Special ids lie outside the text range, so user text can
never produce one: the string "<end>" stays five characters. The paper (Gato, arXiv:2205.06175) does not say how text
ends or how turns are marked; the markers are ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .patches import encode_image
from .sounds import encode_sound
from .text import TextTokenizer, check_fits
from .tokens import BESIDE, DTYPES, Kind, Tokens
from .vocabulary import SPECIALS, Vocabulary

ROLES = ("user", "assistant", "system")


@dataclass(frozen=True)
class Image:
    """An image: uint8 (H, W, C) with 1 to 4 channels, or (H, W). Never a target."""

    pixels: np.ndarray


@dataclass(frozen=True)
class Sound:
    """A sound: float (samples,) at SOUND_RATE, one channel, see sounds.py. Never a target."""

    samples: np.ndarray


@dataclass(frozen=True)
class Text:
    """A string; `loss` says whether its tokens are targets."""

    text: str
    loss: bool


@dataclass(frozen=True)
class Special:
    """A special token by its name in `vocabulary.SPECIALS`; `loss` says whether it is a target."""

    name: str
    loss: bool = False

    def __post_init__(self) -> None:
        if self.name not in SPECIALS:
            raise ValueError(f"special token {self.name!r} is unknown; there are {', '.join(SPECIALS)}")


Part: TypeAlias = Image | Sound | Text | Special
Given: TypeAlias = Sequence[np.ndarray] | Mapping[str, np.ndarray]


def encode_document(parts: Sequence[Part], vocabulary: Vocabulary, text: TextTokenizer | None) -> Tokens:
    """Join the parts' tokens: timestep 0, segment 0, NO_POSITION.

    Raises:
        ValueError: a Text part without a TextTokenizer, or one with more pieces than the vocabulary; a wrong image or sound.
    """
    check_fits(text, vocabulary)
    pieces = [_encode_part(part, vocabulary, text) for part in parts]
    lengths = [len(ids) for ids, _ in pieces]
    ids = np.concatenate([np.zeros(0, DTYPES["ids"]), *(ids for ids, _ in pieces)], dtype=DTYPES["ids"])
    loss_mask = np.repeat(np.array([isinstance(part, Text | Special) and part.loss for part in parts], np.bool_), lengths)
    beside = {name: np.concatenate([empty, *(content[name] for _, content in pieces if name in content)])
              for name, empty in BESIDE.items()}
    return Tokens.of(ids, np.repeat(np.array([_kind(part) for part in parts], DTYPES["kind"]), lengths),
                     loss_mask=loss_mask, **beside)


def _kind(part: Part) -> Kind:
    return {Image: Kind.PATCH, Sound: Kind.AUDIO, Text: Kind.TEXT}.get(type(part), Kind.SPECIAL)


def _encode_part(part: Part, vocabulary: Vocabulary, text: TextTokenizer | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The ids of a part, and what travels beside them."""
    match part:
        case Image():
            pixels = np.asarray(part.pixels)
            pixels = pixels[..., None] if pixels.ndim == 2 else pixels
            patches, intervals = encode_image(pixels[None])
            n = len(intervals)
            return np.full(n, vocabulary.patch), {"patches": patches[0], "intervals": intervals,
                                                  "channels": np.full(n, pixels.shape[-1], np.uint8)}
        case Sound():
            sounds, moments = encode_sound(np.asarray(part.samples))
            return np.full(len(sounds), vocabulary.patch), {"sounds": sounds, "moments": moments}
        case Text():
            if text is None:
                raise ValueError("the document holds text but there is no TextTokenizer; train or load one")
            return text.encode(part.text) + vocabulary.text_start, {}
        case Special():
            return np.array([getattr(vocabulary, part.name)]), {}
    raise TypeError(f"a document's parts are Image, Sound, Text or Special, got {type(part).__name__}")


def text_parts(text: str) -> list[Part]:
    """A text document: text and end, all targets."""
    return [Text(text, loss=True), Special("end", loss=True)]


def caption_parts(image: np.ndarray, caption: str | None) -> list[Part]:
    """A captioned picture: image, separator, caption, end; without a caption, the prompt that asks for one.

    Args:
        image: uint8 (H, W, C) or (H, W).
        caption: an empty one is no target: what would be learnt is to say nothing.
    """
    prompt: list[Part] = [Image(image), Special("separator")]
    if caption is None:
        return prompt
    loss = bool(caption.strip())
    return [*prompt, Text(caption, loss), Special("end", loss)]


def dialogue_parts(messages: Sequence[Mapping[str, Any]], images: Given = (), generate: bool = False, *,
                   sounds: Given = ()) -> list[Part]:
    """A dialogue: for each message its role, its content and an end; targets are what the assistant says and its ends.

    Args:
        messages: `{"role": "user" | "assistant" | "system", "content": ...}`; content is a string or a list of
            `{"type": "text", "text": str}`, `{"type": "image"}` and `{"type": "audio"}`. An image entry holds its pixels
            under "image", or there the index or name of one in `images`, or nothing: then it takes the next one of
            `images`. An audio entry finds its samples under "audio" and in `sounds` in the same way. With "weight": 0, as
            OpenAI writes it, what the assistant says is no target; nor is a reply without words.
        images: uint8 (H, W, C) each.
        generate: end with the assistant's role marker, for the model to go on from.
        sounds: float (samples,) each, at SOUND_RATE.
    Raises:
        ValueError: an unknown role or content type, or an image or sound that is not given.
    """
    shown, heard = _Finder("image", "images", images), _Finder("audio", "sounds", sounds)
    parts: list[Part] = []
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ValueError(f"message {number} has the role {role!r}; there are {', '.join(ROLES)}")
        entries = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(entries, Sequence):
            raise ValueError(f"message {number} has content of type {type(content).__name__}; give a string or a list")
        loss = role == "assistant" and message.get("weight") not in (0, False) and any(map(_has_words, entries))
        parts.append(Special(role))
        for entry in entries:
            match entry.get("type") if isinstance(entry, Mapping) else None:
                case "text" if isinstance(entry.get("text"), str):
                    parts.append(Text(entry["text"], loss))
                case "image":
                    parts.append(Image(shown.find(entry, number)))
                case "audio":
                    parts.append(Sound(heard.find(entry, number)))
                case _:
                    raise ValueError(f"message {number} holds {entry!r}; content is a string, or a list of "
                                     '{"type": "text", "text": ...}, {"type": "image"} and {"type": "audio"}')
        parts.append(Special("end", loss))
    if generate:
        parts.append(Special("assistant"))
    return parts


def _has_words(entry: Any) -> bool:
    return isinstance(entry, Mapping) and bool(str(entry.get("text") or "").strip())


class _Finder:
    """Finds what the entries of one type mean among the arrays that are given."""

    def __init__(self, what: str, many: str, given: Given) -> None:
        self.what, self.many, self.given = what, many, given
        self.waiting = iter(given.values() if isinstance(given, Mapping) else given)

    def find(self, entry: Mapping[str, Any], number: int) -> np.ndarray:
        """The array of an entry in message `number`."""
        wanted = entry.get(self.what)
        if isinstance(wanted, np.ndarray):
            return wanted
        try:
            return next(self.waiting) if wanted is None else self.given[wanted]
        except (StopIteration, LookupError, TypeError):
            raise ValueError(f"message {number} shows the {self.what} {wanted!r}, which is not among the {len(self.given)} "
                             f"{self.many} that are given") from None
