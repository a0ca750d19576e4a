"""Gymnasium spaces as flat lists of leaves, and as JSON.

A tree of Dict and Tuple spaces has one leaf per plain space, named by its keys joined with "/"; a plain space is its
own leaf "". Leaves stand in the paper's order (Gato, arXiv:2205.06175, section 2.1): keys in lexicographic order, level
by level, and the parts of a Tuple by their index.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from .budget import check_shape

SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict and Tuple"


class AnyText(spaces.Space[str]):
    """Strings of any length and any characters: what a space of strings that is not a `Text` becomes in JSON.

    MiniGrid's MissionSpace holds a Python function, which no JSON can keep.
    """

    def __init__(self, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(dtype=np.str_, seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Up to 16 lower case letters and spaces."""
        letters = list("abcdefghijklmnopqrstuvwxyz ")
        return "".join(letters[i] for i in self.np_random.integers(len(letters), size=self.np_random.integers(17)))

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string."""
        return isinstance(x, str)

    def __repr__(self) -> str:
        return "AnyText()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyText)


def is_text(space: spaces.Space[Any]) -> bool:
    """Whether the space's values are strings: Text, or another space of dtype str such as MiniGrid's MissionSpace."""
    return isinstance(space, spaces.Text) or (space.dtype is not None and space.dtype.kind == "U")


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether observations become patches: a uint8 Box (H, W, C) or (H, W), H and W >= 16, C <= 4, bounds 0..255."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return False
    if min(space.shape[:2]) < 16 or not 1 <= (*space.shape, 1)[2] <= 4:
        return False
    return bool((space.low == 0).all() and (space.high == 255).all())


def leaf_spaces(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    """Leaf name -> space, in order.

    Raises:
        ValueError: the tree holds a space that has no tokens (Graph, Sequence, OneOf, ...), a key that is no string, or
            two leaves of the same name ("a/b" beside "a" with a "b" inside).
    """
    found: dict[str, spaces.Space[Any]] = {}
    for name, leaf in _walk(space, ""):
        if name in found:
            raise ValueError(f"two leaves are named {name!r}; rename a key that holds '/' in {space}")
        found[name] = leaf
    return found


def _walk(space: spaces.Space[Any], name: str) -> Iterator[tuple[str, spaces.Space[Any]]]:
    match space:
        case spaces.Dict():
            wrong = [key for key in space.spaces if not isinstance(key, str)]
            if wrong:
                raise ValueError(f"Dict space {name!r} has the key {wrong[0]!r}; keys must be strings")
            for key in sorted(space.spaces):
                yield from _walk(space.spaces[key], join(name, key))
        case spaces.Tuple():
            for index, part in enumerate(space.spaces):
                yield from _walk(part, join(name, str(index)))
        case spaces.Box() | spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary():
            yield name, space
        case _ if is_text(space):
            yield name, space
        case _:
            raise ValueError(f"space {name!r} is {space}, which has no tokens; use {SUPPORTED}")


def join(name: str, key: str) -> str:
    """Name of the leaf or branch `key` under `name`."""
    return f"{name}/{key}" if name else key


def flatten(space: spaces.Space[Any], value: Any) -> dict[str, Any]:
    """Take a value of the space apart.

    Returns:
        leaf name -> str for text, np.ndarray for everything else, in the order of `leaf_spaces`.
    Raises:
        ValueError: a Dict lacks a key or has one too many, or a Tuple has the wrong length.
    """
    leaves: dict[str, Any] = {}
    _flatten(space, value, "", leaves)
    return leaves


def _flatten(space: spaces.Space[Any], value: Any, name: str, leaves: dict[str, Any]) -> None:
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or value.keys() != space.spaces.keys():
            came = sorted(map(str, value)) if isinstance(value, Mapping) else f"a {type(value).__name__}"
            raise ValueError(f"value {name!r} must have the keys {sorted(space.spaces)}, got {came}")
        for key in sorted(space.spaces):
            _flatten(space.spaces[key], value[key], join(name, key), leaves)
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
            came = f"{len(value)} parts" if isinstance(value, (tuple, list)) else f"a {type(value).__name__}"
            raise ValueError(f"value {name!r} must be a tuple of {len(space.spaces)} parts, got {came}")
        for index, part in enumerate(space.spaces):
            _flatten(part, value[index], join(name, str(index)), leaves)
    else:
        leaves[name] = value if isinstance(value, (str, np.ndarray)) else np.asarray(value)


def unflatten(space: spaces.Space[Any], leaves: Mapping[str, Any]) -> Any:
    """Inverse of `flatten`: a value with the types that the space's `sample` has.

    Raises:
        ValueError: a leaf is missing.
    """
    return _unflatten(space, leaves, "")


def _unflatten(space: spaces.Space[Any], leaves: Mapping[str, Any], name: str) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _unflatten(part, leaves, join(name, key)) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_unflatten(part, leaves, join(name, str(index))) for index, part in enumerate(space.spaces))
    if name not in leaves:
        raise ValueError(f"leaf {name!r} is missing; there are {sorted(leaves)}")
    if is_text(space):
        return str(leaves[name])
    value = np.asarray(leaves[name], dtype=space.dtype)
    return value[()] if isinstance(space, spaces.Discrete) else value      # a NumPy integer, as sample() gives


def stack_leaves(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Join the flattened values of several steps.

    Returns:
        leaf name -> array (steps, ...); text is an object array of str (steps,).
    Raises:
        ValueError: the rows have different leaves, or a leaf changes its shape.
    """
    if not rows:
        return {}
    stacked = {}
    for name, first in rows[0].items():
        try:
            values = [row[name] for row in rows]
            if isinstance(first, str):
                stacked[name] = np.array(values, dtype=object)
            elif len(values) == 1:
                stacked[name] = np.asarray(first)[None]
            else:
                stacked[name] = np.stack(values)
        except KeyError:
            raise ValueError(f"leaf {name!r} is missing in one of the {len(rows)} steps") from None
        except ValueError as error:
            shapes = sorted({str(np.shape(value)) for value in values})
            raise ValueError(f"leaf {name!r} has several shapes: {', '.join(shapes)}") from error
    return stacked


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """The space as plain JSON values; infinities are the strings "inf" and "-inf".

    Raises:
        ValueError: a space that has no tokens.
    """
    match space:
        case spaces.Dict():
            return {"type": "Dict", "spaces": {key: space_to_json(part) for key, part in space.spaces.items()}}
        case spaces.Tuple():
            return {"type": "Tuple", "spaces": [space_to_json(part) for part in space.spaces]}
        case spaces.Box():
            return {"type": "Box", "low": _bound_to_json(space.low), "high": _bound_to_json(space.high),
                    "shape": list(space.shape), "dtype": str(space.dtype)}
        case spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
        case spaces.MultiDiscrete():
            return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist(),
                    "dtype": str(space.dtype)}
        case spaces.MultiBinary():
            n = space.n if isinstance(space.n, int) else [int(side) for side in space.n]
            return {"type": "MultiBinary", "n": n}
        case spaces.Text():
            return {"type": "Text", "min_length": space.min_length, "max_length": space.max_length,
                    "charset": "".join(space.character_list)}
        case _ if is_text(space):
            return {"type": "AnyText"}
    raise ValueError(f"{space} cannot be written as JSON; use {SUPPORTED}")


def space_from_json(values: Mapping[str, Any]) -> spaces.Space[Any]:
    """Inverse of `space_to_json`; a space of strings that is no Text comes back as `AnyText`.

    Raises:
        ValueError: an unknown type, or values that make no such space.
    """
    parts = values.get("spaces") if isinstance(values, Mapping) else None
    match values:
        case {"type": "Dict"} if isinstance(parts, Mapping):
            return spaces.Dict({key: space_from_json(part) for key, part in parts.items()})
        case {"type": "Tuple"} if isinstance(parts, Sequence):
            return spaces.Tuple([space_from_json(part) for part in parts])
        case {"type": "Box" | "Discrete" | "MultiDiscrete" | "MultiBinary" | "Text" | "AnyText"}:
            try:
                return _leaf_from_json(values)
            except (KeyError, TypeError, ValueError, AssertionError, OverflowError) as error:
                raise ValueError(f"{values!r} describes no space: {type(error).__name__}: {error}") from error
    raise ValueError(f"{values!r} describes no space; use {SUPPORTED}")


def _leaf_from_json(values: Mapping[str, Any]) -> spaces.Space[Any]:
    match values["type"]:
        case "Box":
            dtype, shape = np.dtype(values["dtype"]), tuple(values["shape"])
            check_shape((*shape, 2), dtype, "the bounds of a Box")
            low, high = (_bound_from_json(values[key], shape, dtype) for key in ("low", "high"))
            return spaces.Box(low, high, shape, dtype=dtype.type)
        case "Discrete":
            return spaces.Discrete(values["n"], start=values["start"], dtype=np.dtype(values["dtype"]).type)
        case "MultiDiscrete":
            dtype = np.dtype(values["dtype"])
            return spaces.MultiDiscrete(np.array(values["nvec"], dtype), start=np.array(values["start"], dtype),
                                        dtype=dtype.type)
        case "MultiBinary":
            sides = values["n"] if isinstance(values["n"], list) else [values["n"]]
            check_shape(sides, np.int8, "a MultiBinary")
            return spaces.MultiBinary(values["n"])
        case "Text":
            return spaces.Text(values["max_length"], min_length=values["min_length"], charset=values["charset"])
        case _:
            return AnyText()


def _bound_to_json(bound: np.ndarray) -> Any:
    """One number where all are equal, else nested lists."""
    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(part) for part in value]
        return str(value) if isinstance(value, float) and np.isinf(value) else value

    same = bound.size > 0 and bool((bound == bound.flat[0]).all())
    return plain(bound.flat[0].item() if same else bound.tolist())


def _bound_from_json(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    def number(value: Any) -> Any:
        if isinstance(value, list):
            return [number(part) for part in value]
        return float(value) if isinstance(value, str) else value

    return np.broadcast_to(np.array(number(value), dtype), shape).copy()
