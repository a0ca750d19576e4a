"""Observations from JSON, in the types of a Gymnasium space.

    Box, MultiDiscrete, MultiBinary    nested lists of numbers; or {"base64": "..."}, the raw bytes of an array in C order,
                                       little endian, of the space's shape and dtype
    Box that is a picture              also "data:image/png;base64,..."
    Discrete                           a whole number
    Text                               a string
    Dict, Tuple                        an object with the same keys, a list of the same length

Whether the values lie in the space is for envs/checks.py to say.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from calico.datasets.images import decode_file
from calico.tokenizers.spaces import is_text

LISTED = 40      # characters of a wrong value that an error shows


def from_json(space: gym.Space[Any], value: Any, name: str = "observation") -> Any:
    """A value of the space.

    Args:
        name: what errors call it.
    Raises:
        ValueError: another form than the space's.
    """
    if isinstance(space, gym.spaces.Dict):
        if not isinstance(value, Mapping) or value.keys() != space.spaces.keys():
            came = f"the keys {sorted(map(str, value))}" if isinstance(value, Mapping) else shown(value)
            raise ValueError(f"{name} is {came}; give an object with the keys {sorted(space.spaces)}")
        return {key: from_json(part, value[key], f"{name}.{key}") for key, part in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        if not isinstance(value, list) or len(value) != len(space.spaces):
            raise ValueError(f"{name} is {shown(value)}; give a list of {len(space.spaces)} values")
        return tuple(from_json(part, each, f"{name}[{number}]")
                     for number, (part, each) in enumerate(zip(space.spaces, value, strict=True)))
    if is_text(space):
        if not isinstance(value, str):
            raise ValueError(f"{name} is {shown(value)}; give a string")
        return value
    if isinstance(value, Mapping):
        return _from_bytes(space, value, name)
    if isinstance(value, str):
        return _from_picture(space, value, name)
    return _from_numbers(space, value, name)


def shown(value: Any) -> str:
    """A wrong value in a few words."""
    text = repr(value) if isinstance(value, str | int | float | bool) or value is None else ""
    if text and len(text) <= LISTED:
        return text
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, str | list | Mapping) else "")


def _from_numbers(space: gym.Space[Any], value: Any, name: str) -> Any:
    expected = f"give numbers of the shape {tuple(space.shape or ())}"
    try:
        found = np.asarray(value)
    except (ValueError, OverflowError, RecursionError):
        raise ValueError(f"{name} is a list whose parts differ in length or kind; {expected}") from None
    if found.dtype.kind not in "biuf" and found.size:
        raise ValueError(f"{name} holds other things than numbers, or larger ones than 64 bits; {expected}")
    dtype = np.dtype(space.dtype)
    if found.shape != (space.shape or ()):
        raise ValueError(f"{name} has the shape {found.shape}; {expected}")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = found.astype(dtype)
    if dtype.kind == "f":
        changed = bool((np.isfinite(found) & ~np.isfinite(cast)).any())
    else:
        changed = found.dtype.kind == "f" and not np.isfinite(found).all() or bool((cast != found).any())
    if changed:
        raise ValueError(f"{name} holds numbers that are no {dtype}; {expected} within {space}")
    return cast[()] if isinstance(space, gym.spaces.Discrete) else cast


def _from_bytes(space: gym.Space[Any], value: Mapping[str, Any], name: str) -> Any:
    if value.keys() != {"base64"} or not isinstance(value["base64"], str):
        raise ValueError(f'{name} is an object with the keys {sorted(map(str, value))}; give numbers, or {{"base64": "..."}}')
    data, dtype, shape = decode_base64(value["base64"], name), np.dtype(space.dtype), tuple(space.shape or ())
    needed = int(np.prod(shape)) * dtype.itemsize
    if len(data) != needed:
        raise ValueError(f"{name} has {len(data)} bytes; give the {needed} of an array of {dtype} {shape}")
    found = np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
    return found[()] if isinstance(space, gym.spaces.Discrete) else found


def _from_picture(space: gym.Space[Any], value: str, name: str) -> np.ndarray:
    shape = tuple(space.shape or ())
    if not value.startswith("data:image/") or space.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"{name} is the string {shown(value)}; give numbers of the shape {shape}")
    try:
        found = decode_file(decode_data_uri(value, name))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if found.shape != shape:
        raise ValueError(f"{name} is a picture of the shape {found.shape}; give one of {shape}")
    return found


def decode_data_uri(uri: str, name: str) -> bytes:
    """The bytes of "data:...;base64,...". Raises ValueError for anything else."""
    head, comma, body = uri.partition(",")
    if not head.startswith("data:") or not head.endswith(";base64") or not comma:
        raise ValueError(f'{name} is {shown(uri[:LISTED])}; give "data:image/png;base64,...", for nothing is fetched from '
                         "elsewhere")
    return decode_base64(body, name)


def decode_base64(text: str, name: str) -> bytes:
    """Bytes from base64. Raises ValueError for other text."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{name} is not valid base64") from None
