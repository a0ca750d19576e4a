"""Frozen dataclasses as plain JSON and back: the one codec of configs, checkpoints, encoders and Perceivers.

A dataclass becomes an object of its fields, an enum its member's name, a path text, a tuple a list, and a number that JSON
lacks the text "inf", "-inf" or "nan". Where a field may be one of several dataclasses, the object says which one it is: by
"class", the name of the class, where `to_json` was asked to write it; by the dataclass's own field `kind`; else by its fields.

`from_json` does not check the types of values: the document was written from a checked object, and reading a checkpoint should
not import a validating library. What people write is checked by scripts/common/config.py.
"""

import enum
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin

# protocol -> the dataclasses that are known of it: a union to which code outside this package may add, see backbones/
OPEN_UNIONS: dict[Any, Callable[[], Mapping[str, Any]]] = {}


def to_json(value: Any, class_names: bool = False) -> Any:
    """The value as plain JSON; class_names: every dataclass is written with its name, so that `from_json` needs no union."""
    inner = functools.partial(to_json, class_names=class_names)
    if is_dataclass(value):
        named = {"class": type(value).__name__} if class_names else {}
        return named | {field.name: inner(getattr(value, field.name)) for field in fields(value) if field.init}
    if isinstance(value, Mapping):
        return {name: inner(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [inner(entry) for entry in value]
    if isinstance(value, enum.Enum):
        return value.name
    return str(value) if isinstance(value, Path) or (isinstance(value, float) and not math.isfinite(value)) else value


def from_json(hint: Any, value: Any) -> Any:
    """Inverse of `to_json`; fields that are newer than the document take their defaults.

    Args:
        hint: the type to build: a dataclass, a union of some, or anything that a field of one may be.
    Raises:
        ValueError: a class, kind or field that is not known here, a field that is missing, what the class refuses.
    """
    members = options(hint)
    if value is None and types.NoneType in get_args(hint):
        return None
    if all(map(is_config, members)):
        return _build(dataclass_of(hint, value), value)
    hint = members[0] if len(members) == 1 else hint
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(value, Mapping):
        return {name: from_json(args[1] if args else Any, entry) for name, entry in value.items()}
    if isinstance(value, list) and origin in (list, tuple):
        inner = args if origin is tuple and args[1:] != (...,) else args[:1] * len(value)
        if len(inner) != len(value):
            raise ValueError(f"{value} should hold {len(inner)} values, not {len(value)}")
        return origin(map(from_json, inner, value))
    if isinstance(value, str) and isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value not in hint.__members__:
            raise ValueError(f"{value!r} is none of {', '.join(hint.__members__)}")
        return hint[value]
    return hint(value) if isinstance(value, str) and hint in (float, Path) else value


def _build(cls: Any, values: Mapping[str, Any]) -> Any:
    known = field_types(cls)
    inner = {name: from_json(known.get(name, Any), value) for name, value in values.items() if name != "class"}
    try:
        return cls(**inner)
    except TypeError as error:
        raise ValueError(f"{cls.__name__} cannot be rebuilt ({error}); was it written by a newer version?") from None


def dataclass_of(hint: Any, values: Any) -> Any:
    """The dataclass that a document was written from: the type itself, or one of a union.

    A document without `kind` is of the first class, the only one when documents did not have `kind` yet; of classes without
    kinds it is of the first that has all its fields, or else of the first.

    Raises:
        ValueError: a class or a kind that is not known here.
    """
    members = options(hint)
    asked = values
    if isinstance(values, Mapping):
        by_name = {cls.__name__: cls for cls in members} if "class" in values else kinds(hint)
        if not by_name:
            return next((cls for cls in members if values.keys() <= field_types(cls).keys()), members[0])
        asked = values["class"] if "class" in values else values.get("kind", next(iter(by_name)))
        if isinstance(asked, str) and asked in by_name:
            return by_name[asked]
    raise ValueError(f"{asked!r} is no configuration that is known here; was it written by a newer version?")


def at_least(config: Any, path: str = "", **lowest: float) -> None:
    """Raises ValueError, which names `path` and the field, where a field of a config is below its lowest value."""
    for name, limit in lowest.items():
        if getattr(config, name) < limit:
            raise ValueError(f"{path}{name}={getattr(config, name)} must be at least {limit}")


def is_config(hint: Any) -> bool:
    """Whether a type is a dataclass."""
    return isinstance(hint, type) and is_dataclass(hint)


@functools.cache
def field_types(cls: Any) -> dict[str, Any]:
    """Field name -> type, for the fields that can be set."""
    known = typing.get_type_hints(cls)
    return {field.name: known[field.name] for field in fields(cls) if field.init}


def options(hint: Any) -> tuple[Any, ...]:
    """The members of a union, None left out; the type itself if it is none."""
    if isinstance(hint, type) and hint in OPEN_UNIONS:
        return tuple(OPEN_UNIONS[hint]().values())
    if get_origin(hint) not in (Union, types.UnionType):
        return (hint,)
    return tuple(member for member in get_args(hint) if member is not types.NoneType)


def kinds(hint: Any) -> dict[str, Any]:
    """Of a union of dataclasses with a field `kind: Literal[...]` each: kind -> dataclass; else nothing."""
    members = options(hint)
    if len(members) < 2 or not all(is_config(cls) and "kind" in field_types(cls) for cls in members):
        return {}
    return {kind: cls for cls in members for kind in get_args(field_types(cls)["kind"])}
