"""The nearest of known words, for errors that name what was probably meant."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Those of `known` that are spelled like `word`, the nearest first.

    Args:
        count: at most so many.
        cutoff: least likeness, from 0 to 1; see difflib.get_close_matches.
    """
    return difflib.get_close_matches(word, list(known), count, cutoff)


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "", cutoff: float = 0.6) -> str:
    """`; did you mean ...?` to end an error with, or `otherwise` where nothing is near."""
    near = nearest(word, known, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else otherwise
