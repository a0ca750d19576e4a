"""What a token says, in words, for people: `calico inspect` prints it beside each id."""

from collections.abc import Iterator

import numpy as np

from .continuous import decode_bins, inverse_mu_law
from .leaves import VectorLeaf
from .task import TaskCodec
from .text import TextTokenizer
from .tokens import ACTION, CONTENTS, MODALITIES, Kind, Tokens
from .vocabulary import Vocabulary


def meaning(token: int, kind: int, vocabulary: Vocabulary, text: TextTokenizer | None, codec: TaskCodec | None = None,
            place: int | None = None, action: bool = False) -> str:
    """Meaning of one token: a piece of text in quotes, an integer, a real value, "patch", "audio",
    "vector", or a special token's name.

    Args:
        codec, place: with them a number reads as the task's own value (start of a Discrete space, bounds of a Box):
            `place` is its index among the numbers of the observation, or with `action` among the action tokens. Without
            them integers count from zero and bins are expanded by the mu-law.
    Raises:
        ValueError: the id does not belong to the kind.
        KeyError: no such kind.
    """
    name = MODALITIES[kind].name
    start, stop = vocabulary.range_of(kind)
    if kind == Kind.TEXT and token == vocabulary.end:                  # fills up text actions
        return "end"
    if not start <= token < stop:
        raise ValueError(f"id {token} is not of kind {name.upper()}, whose ids are [{start}, {stop})")
    if codec is not None and place is not None and (action or kind in (Kind.DISCRETE, Kind.CONTINUOUS)):
        for leaf in codec.leaves_after_separator if action else codec.leaves_before_separator:
            if place < leaf.tokens:
                return "vector" if isinstance(leaf, VectorLeaf) else leaf.describe(token, place)
            place -= leaf.tokens
    match kind:
        case Kind.TEXT:
            known = text is not None and token - start < text.size
            return repr(text.piece(token - start)) if known and text is not None else f"piece {token - start}"
        case Kind.DISCRETE:
            return str(token - start)
        case Kind.CONTINUOUS:
            return f"{inverse_mu_law(decode_bins(np.array(token - start), stop - start)):.4g}"
        case Kind.SPECIAL:
            return vocabulary.special_name(token)
        case _:
            return name


def meanings(tokens: Tokens, vocabulary: Vocabulary, text: TextTokenizer | None,
             codec: TaskCodec | None = None) -> list[str]:
    """Meaning of each token of one sequence, patches with their place in the image, sounds with their time,
    vectors with their numbers as they stand in the token, in [-1, 1].

    The place of a number is found from the separators: an observation's numbers end at one, an action begins after it.

    Raises:
        ValueError: a batch, or an id that does not belong to its kind.
    """
    if tokens.ids.ndim != 1:
        raise ValueError(f"meanings are given for one sequence, got a batch of shape {tokens.ids.shape}")
    counts = dict.fromkeys(CONTENTS, 0)
    out = []
    for token, kind, place, action in zip(tokens.ids.tolist(), tokens.kind.tolist(), _places(tokens, vocabulary, codec),
                                          (tokens.position == ACTION).tolist(), strict=True):
        words = meaning(token, kind, vocabulary, text, codec, place, action)
        describe = MODALITIES[kind].describe
        if kind in CONTENTS:
            index, counts[kind] = counts[kind], counts[kind] + 1
            if describe is not None:
                words = describe({name: getattr(tokens, name)[index] for name in CONTENTS[kind]})
        out.append(words)
    return out


def _places(tokens: Tokens, vocabulary: Vocabulary, codec: TaskCodec | None) -> Iterator[int | None]:
    """For each token its index among its observation's numbers, or among its action's tokens; None: not known."""
    if codec is None:
        yield from [None] * len(tokens)
        return
    count = sum(leaf.tokens for leaf in codec.leaves_before_separator)
    separators = np.flatnonzero((tokens.ids == vocabulary.separator) & (tokens.kind == Kind.SPECIAL))
    following = np.searchsorted(separators, np.arange(len(tokens)))    # the separator at or after each token
    for i, number in enumerate(following.tolist()):
        if tokens.position[i] == ACTION:
            yield i - int(separators[number - 1]) - 1 if number else None
        elif tokens.position[i] >= 0 and number < len(separators) and count >= separators[number] - i > 0:
            yield count - (int(separators[number]) - i)
        else:
            yield None
