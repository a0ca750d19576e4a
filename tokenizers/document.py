"""Documents -> Tokens: text, captions and dialogues, as lists of parts.

A document is a list of images, strings and special tokens. Special ids lie outside the text range, so user text can
never produce one: the string "<end>" stays five characters. The paper (Gato, arXiv:2205.06175) does not say how text
ends or how turns are marked; the markers are ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .patches import encode_image
from .text import TextTokenizer, check_fits
from .tokens import DTYPES, NO_POSITION, Kind, Tokens
from .vocabulary import SPECIALS, Vocabulary

ROLES = ("user", "assistant", "system")


@dataclass(frozen=True)
class Image:
    """An image: uint8 (H, W, C) with 1 to 4 channels, or (H, W). Never a target."""

    pixels: np.ndarray


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


Part: TypeAlias = Image | Text | Special


def encode_document(parts: Sequence[Part], vocabulary: Vocabulary, text: TextTokenizer | None) -> Tokens:
    """Join the parts' tokens: timestep 0, segment 0, NO_POSITION.

    Raises:
        ValueError: a Text part without a TextTokenizer, or one with more pieces than the vocabulary; a wrong image.
    """
    check_fits(text, vocabulary)
    pieces = [_encode_part(part, vocabulary, text) for part in parts]
    lengths = [len(ids) for ids, _ in pieces]
    ids = np.concatenate([np.zeros(0, DTYPES["ids"]), *(ids for ids, _ in pieces)], dtype=DTYPES["ids"])
    images = [image for _, image in pieces if image is not None] or [_NO_IMAGE]
    patches, channels, intervals = (np.concatenate(arrays) for arrays in zip(*images, strict=True))
    return Tokens(ids=ids, kind=np.repeat(np.array([_kind(part) for part in parts], DTYPES["kind"]), lengths),
                  position=np.full(len(ids), NO_POSITION, DTYPES["position"]), timestep=np.zeros(len(ids), DTYPES["timestep"]),
                  loss_mask=np.repeat(np.array([not isinstance(p, Image) and p.loss for p in parts], np.bool_), lengths),
                  segment=np.zeros(len(ids), DTYPES["segment"]), patches=patches, channels=channels, intervals=intervals)


_Patches: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]   # patches, channels, intervals: see Tokens
_NO_IMAGE: _Patches = (Tokens.empty().patches, Tokens.empty().channels, Tokens.empty().intervals)


def _kind(part: Part) -> Kind:
    return Kind.PATCH if isinstance(part, Image) else Kind.TEXT if isinstance(part, Text) else Kind.SPECIAL


def _encode_part(part: Part, vocabulary: Vocabulary, text: TextTokenizer | None) -> tuple[np.ndarray, _Patches | None]:
    """The ids of a part, and its patches."""
    match part:
        case Image():
            pixels = np.asarray(part.pixels)
            pixels = pixels[..., None] if pixels.ndim == 2 else pixels
            patches, intervals = encode_image(pixels[None])
            n = len(intervals)
            return np.full(n, vocabulary.patch), (patches[0], np.full(n, pixels.shape[-1], np.uint8), intervals)
        case Text():
            if text is None:
                raise ValueError("the document holds text but there is no TextTokenizer; train or load one")
            return text.encode(part.text) + vocabulary.text_start, None
        case Special():
            return np.array([getattr(vocabulary, part.name)]), None
    raise TypeError(f"a document's parts are Image, Text or Special, got {type(part).__name__}")


def text_parts(text: str) -> list[Part]:
    """A text document: text and end, all targets."""
    return [Text(text, loss=True), Special("end", loss=True)]


def caption_parts(image: np.ndarray, caption: str | None) -> list[Part]:
    """A captioned picture: image, separator, caption, end; without a caption, the prompt that asks for one.

    Args:
        image: uint8 (H, W, C) or (H, W).
    """
    prompt: list[Part] = [Image(image), Special("separator")]
    return prompt if caption is None else [*prompt, *text_parts(caption)]


def dialogue_parts(messages: Sequence[Mapping[str, Any]], images: Sequence[np.ndarray] | Mapping[str, np.ndarray] = (),
                   generate: bool = False) -> list[Part]:
    """A dialogue: for each message its role, its content and an end; targets are what the assistant says and its ends.

    Args:
        messages: `{"role": "user" | "assistant" | "system", "content": ...}`; content is a string or a list of
            `{"type": "text", "text": str}` and `{"type": "image"}`. An image entry holds its pixels under "image", or
            there the index or name of one in `images`, or nothing: then it takes the next one of `images`.
        images: uint8 (H, W, C) each.
        generate: end with the assistant's role marker, for the model to go on from.
    Raises:
        ValueError: an unknown role or content type, or an image that is not given.
    """
    waiting = iter(images.values() if isinstance(images, Mapping) else images)
    parts: list[Part] = []
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ValueError(f"message {number} has the role {role!r}; there are {', '.join(ROLES)}")
        loss = role == "assistant"
        entries = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(entries, Sequence):
            raise ValueError(f"message {number} has content of type {type(content).__name__}; give a string or a list")
        parts.append(Special(role))
        for entry in entries:
            match entry.get("type") if isinstance(entry, Mapping) else None:
                case "text" if isinstance(entry.get("text"), str):
                    parts.append(Text(entry["text"], loss))
                case "image":
                    parts.append(Image(_find_image(entry.get("image"), images, waiting, number)))
                case _:
                    raise ValueError(f"message {number} holds {entry!r}; content is a string, or a list of "
                                     '{"type": "text", "text": ...} and {"type": "image"}')
        parts.append(Special("end", loss))
    if generate:
        parts.append(Special("assistant"))
    return parts


def _find_image(wanted: Any, images: Sequence[np.ndarray] | Mapping[str, np.ndarray], waiting: Any,
                number: int) -> np.ndarray:
    """The pixels that an image entry of message `number` means."""
    if isinstance(wanted, np.ndarray):
        return wanted
    try:
        return next(waiting) if wanted is None else images[wanted]
    except (StopIteration, LookupError, TypeError):
        raise ValueError(f"message {number} shows the image {wanted!r}, which is not among the {len(images)} images "
                         "that are given") from None
