"""Values against their spaces: all rows at once and cheaply, and one by one only where that raises a doubt.

A full test of one value takes several microseconds, as long as a step of a small environment; the same test of sixteen
values together takes hardly longer.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from ..tokenizers.spaces import flatten, is_text, leaf_spaces


def all_fit(space: gym.Space, *, bounds: bool) -> Callable[[Sequence[Any]], bool]:
    """A test of several values of one space; False means that at least one must be looked at closer.

    Args:
        bounds: enforce the bounds of floats, as for actions. Several of Gymnasium's own environments leave those of their
            observations (the lander's speeds do).
    """
    match space:
        case gym.spaces.Dict():
            parts = {key: all_fit(part, bounds=bounds) for key, part in space.spaces.items()}
            return lambda values: (all(isinstance(value, dict) and value.keys() == parts.keys() for value in values)
                                   and all(fit([value[key] for value in values]) for key, fit in parts.items()))
        case gym.spaces.Tuple():
            elements = [all_fit(part, bounds=bounds) for part in space.spaces]
            return lambda values: (all(isinstance(value, tuple) and len(value) == len(elements) for value in values)
                                   and all(fit([value[i] for value in values]) for i, fit in enumerate(elements)))
        case gym.spaces.Discrete():
            legal = range(int(space.start), int(space.start + space.n))
            return lambda values: (all(map(legal.__contains__, values)) if set(map(type, values)) == {int} else
                                   all(isinstance(value, (int, np.integer)) and int(value) in legal for value in values))
        case gym.spaces.Box() if any_byte(space):
            return lambda values: all(isinstance(value, np.ndarray) and value.shape == space.shape and value.dtype == np.uint8
                                      for value in values)
        case gym.spaces.Box():
            return _all_in_box(space, bounds)
        case _ if is_text(space):
            return lambda values: all(isinstance(value, str) for value in values)
        case _:
            return lambda values: all(space.contains(value) for value in values)


def _all_in_box(space: gym.spaces.Box, bounds: bool) -> Callable[[Sequence[Any]], bool]:
    is_float, shape = space.dtype.kind == "f", space.shape

    def fit(values: Sequence[Any]) -> bool:
        try:
            stacked = np.array(values)
        except (ValueError, TypeError):   # of several shapes
            return False
        if stacked.shape[1:] != shape or stacked.dtype != space.dtype:
            return False
        if bounds or not is_float:
            return bool((stacked >= space.low).all() and (stacked <= space.high).all())
        total = stacked.sum()    # infinities of both signs make a NaN too: looked at closer, and found right
        return bool(total == total)                 # a NaN is not

    return fit


def complaint(space: gym.Space) -> Callable[[Any], str | None]:
    """A test of one observation that says what is wrong with it, or gives None."""
    checks = {name: _leaf_complaint(leaf) for name, leaf in leaf_spaces(space).items()}

    def look(observation: Any) -> str | None:
        try:
            leaves = flatten(space, observation)
        except ValueError as error:
            return f"the observation does not fit {space}: {error}"
        for name, leaf in leaves.items():
            if said := checks[name](leaf):
                return f"observation {name!r} {said}" if name else f"the observation {said}"
        return None

    return look


def _leaf_complaint(space: gym.Space) -> Callable[[Any], str | None]:
    if is_text(space):
        return lambda leaf: None if isinstance(leaf, str) else f"is a {type(leaf).__name__}, expected a string"
    shape, dtype = space.shape, np.dtype(space.dtype)
    bounded = dtype.kind != "f" and not any_byte(space)

    def check(leaf: Any) -> str | None:
        if isinstance(leaf, str):
            return f"is the string {leaf!r}, expected {space}"
        if leaf.shape != shape:
            return f"has shape {leaf.shape}, expected {shape}"
        if leaf.dtype != dtype and leaf.dtype.kind != dtype.kind:
            return f"has dtype {leaf.dtype}, expected {dtype}"
        if dtype.kind == "f" and np.isnan(leaf).any():
            return f"holds {int(np.isnan(leaf).sum())} NaN of {leaf.size} values"
        if bounded and not space.contains(leaf.astype(dtype)):
            return f"is {leaf.tolist() if leaf.size < 9 else 'a value'}, outside {space}"
        return None

    return check


def any_byte(space: gym.Space) -> bool:
    """True for pictures: every byte is legal."""
    return (isinstance(space, gym.spaces.Box) and space.dtype == np.uint8
            and bool((space.low == 0).all() and (space.high == 255).all()))
