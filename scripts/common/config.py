"""Configs: a frozen dataclass's defaults, then a YAML file, then `key=value`; out comes the frozen dataclass.

    settings = load_config(RunSettings, "demo", ["backbone.depth=4", "training.steps=1e4"])

A mapping in the file fills in a nested dataclass, but replaces a dict: `mixture: {pong: 1}` is that one task, whatever
the default was. A dotted override goes into the dict: `mixture.pong=2` changes one entry and keeps the others.

A field may be one of several dataclasses that tell each other apart by a field `kind: Literal["..."]`. `backbone: perceiver`
is short for `backbone: {kind: perceiver}`; another kind than before keeps the values of the fields that both have.

The object is built here rather than by `OmegaConf.to_object`, which merges dicts, takes `[x]` for text inside
containers, turns the YAML word `no` into the text "False" and does not say which nested config refused a value. Every
error is one line that names the key.
"""

import difflib
import enum
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, overload

from calico.scripts.common.safe_yaml import read_yaml

T = TypeVar("T")

SHIPPED = Path(__file__).parents[1] / "configs"
OPEN_UNIONS: dict[Any, Callable[[], dict[str, Any]]] = {}   # type of a field -> its dataclasses by kind, asked when it is read
MAX_BYTES = 100_000   # ours have a few hundred


@overload
def load_config(schema: type[T], path: Path | str | None = None, overrides: Sequence[str] = ()) -> T: ...
@overload
def load_config(schema: T, path: Path | str | None = None, overrides: Sequence[str] = ()) -> T: ...
def load_config(schema: type[T] | T, path: Path | str | None = None, overrides: Sequence[str] = ()) -> T:
    """Build a config.

    Args:
        schema: a dataclass, or an instance of one whose values are the defaults.
        path: a YAML (or resolved JSON) file, or the bare name of one that comes with Calico: "demo".
        overrides: `key=value` with dotted keys; the value is YAML, or any text where the field is text. Later ones win.
    Raises:
        ValueError: an unknown key, a wrong type, a file that is missing or not plain YAML, what the dataclass refuses.
    """
    cls: type[T] = schema if isinstance(schema, type) else type(schema)
    return _resolve(cls, _defaults(cls) if isinstance(schema, type) else _plain(schema), _layers(path, overrides))


def given(path: Path | str | None, overrides: Sequence[str], key: str) -> Any:
    """What the file and the overrides say about a dotted key, the last of them that does; None: none.

    `kind` also finds the short form: `backbone: perceiver` says perceiver about "backbone.kind".

    Raises:
        ValueError: as load_config, for what stands on the way.
    """
    found = None
    for place, value in _layers(path, overrides):
        names = key.split(".")
        if place != names[: len(place)]:
            continue
        if isinstance(value, _Unread):
            value = read_yaml(value, ".".join(place))
        for name in names[len(place):]:
            short = isinstance(value, str) and name == "kind"
            value = value if short else value.get(name) if isinstance(value, Mapping) else None
        found = found if value is None else value
    return found


def config_from_json(schema: type[T], values: Mapping[str, Any]) -> T:
    """Rebuild a config from what config_to_json gave; fields that it lacks take their defaults.

    Raises:
        ValueError: as load_config.
    """
    return _resolve(schema, _defaults(schema), [([], values)])


def config_to_json(config: Any) -> dict[str, Any]:
    """The config as plain JSON values; infinite numbers become the text "inf", which config_from_json reads back."""
    values: dict[str, Any] = _finite(_plain(config))
    return values


def save_resolved(config: Any, path: Path | str) -> None:
    """Write the config as JSON, every default spelled out: enough to run the same again."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(config_to_json(config), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def shipped_configs() -> list[str]:
    """Bare names of the configs that come with Calico."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def _layers(path: Path | str | None, overrides: Sequence[str]) -> list[tuple[list[str], Any]]:
    """(dotted path, value) of the file, then of each override."""
    layers: list[tuple[list[str], Any]] = [] if path is None else [([], _read_file(_locate(path)))]
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ValueError(f"{override!r} is not an override; write key=value, such as seed=1")
        layers.append((key.split("."), _Unread(text)))
    return layers


class _Unread(str):
    """The right side of `key=value`: read as YAML once the field's type is known, or taken as it is if that is text."""


class _UnknownKey(ValueError):
    """A key that the dataclass at hand lacks; `_resolve` knows the whole config and can name the nearest."""

    def __init__(self, cls: type, name: str, parent: str) -> None:
        super().__init__(name)
        self.cls, self.name, self.parent = cls, name, parent


def _resolve(cls: type[T], tree: Any, layers: Iterable[tuple[list[str], Any]]) -> T:
    """Put (dotted path, value) layers on the tree of plain values, then build the object once."""
    try:
        for path, value in layers:
            tree = _assign(cls, tree, path, value, "")
        config: T = _build(cls, tree, "")
    except _UnknownKey as error:
        raise ValueError(_nearest(cls, error)) from None
    return config


def _overlay(hint: Any, tree: Any, layer: Any, key: str) -> Any:
    """`tree` with `layer` on top: key by key where the field is a dataclass, as a whole elsewhere."""
    if isinstance(layer, _Unread):
        layer = _unquote(layer, key) if hint is str else read_yaml(layer, key)
    if kinds := _kinds(hint):
        layer = {"kind": layer} if isinstance(layer, str) else layer
        if isinstance(layer, Mapping) and "kind" in layer:
            cls = _checked_kind(kinds, layer["kind"], key)
            kept = tree if isinstance(tree, dict) else {}
            tree = _defaults(cls) | {name: kept[name] for name in _hints(cls).keys() & kept.keys() - {"kind"}}
    cls = _dataclass_of(hint, tree)
    if cls is None or not isinstance(layer, Mapping):
        return layer
    for name, value in layer.items():
        tree = _assign(cls, tree, [str(name)], value, key)
    return tree


def _assign(hint: Any, tree: Any, path: list[str], value: Any, key: str) -> Any:
    """`tree` with the value that stands at the dotted `path` replaced."""
    if not path:
        return _overlay(hint, tree, value, key)
    if path == ["kind"] and _kinds(hint):
        return _overlay(hint, tree, value, key)
    if cls := _dataclass_of(hint, tree):
        name = path[0]
        inner = _known_field(cls, name, key)
        before: dict[str, Any] = tree if isinstance(tree, dict) else _defaults(cls)
        return before | {name: _assign(inner, before.get(name), path[1:], value, _join(key, name))}
    if (inner := _dict_value(hint)) is not None:
        # A dict of plain values takes the rest as one key, so that names with dots need no quotes.
        size = 1 if _dataclass_in(inner) or _dict_value(inner) else len(path)
        name, before = ".".join(path[:size]), tree if isinstance(tree, dict) else {}
        return before | {name: _assign(inner, before.get(name), path[size:], value, _join(key, name))}
    raise ValueError(f"{_join(key, '.'.join(path))} does not exist: {key} is {_name(hint)}; write {key}=...")


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Field name -> type, for the fields that can be set."""
    known = typing.get_type_hints(cls)
    return {field.name: known[field.name] for field in fields(cls) if field.init}


def _dataclass_in(hint: Any) -> Any:
    """The dataclass that `hint` is, or that it may be besides None; else None."""
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    members = [arg for arg in get_args(hint) if arg is not types.NoneType] if _is_union(hint) else []
    return _dataclass_in(members[0]) if len(members) == 1 else None


def _kinds(hint: Any) -> dict[str, Any]:
    """Of a union of dataclasses with a field `kind` each: kind -> dataclass; else nothing."""
    if isinstance(hint, type) and hint in OPEN_UNIONS:
        return OPEN_UNIONS[hint]()
    members: tuple[Any, ...] = get_args(hint) if _is_union(hint) else ()
    if not members or not all(_dataclass_in(member) and "kind" in _hints(member) for member in members):
        return {}
    return {kind: member for member in members for kind in get_args(_hints(member)["kind"])}


def _checked_kind(kinds: dict[str, Any], kind: Any, key: str) -> Any:
    """The dataclass of that kind."""
    if not isinstance(kind, str) or kind not in kinds:
        near = difflib.get_close_matches(str(kind), kinds, n=1)
        raise ValueError(f"{_join(key, 'kind')} must be one of {', '.join(kinds)}, not {kind!r}"
                         + (f"; did you mean {near[0]}?" if near else ""))
    return kinds[kind]


def _dataclass_of(hint: Any, tree: Any) -> Any:
    """As `_dataclass_in`, and for one of several kinds the one that `tree` has."""
    kinds = _kinds(hint)
    return kinds.get(str(tree.get("kind"))) if kinds and isinstance(tree, dict) else _dataclass_in(hint)


def _dict_value(hint: Any) -> Any:
    """The type of the values if `hint` is a dict with text keys, or None."""
    if _is_union(hint):
        return next((found for arg in get_args(hint) if (found := _dict_value(arg)) is not None), None)
    return get_args(hint)[1] if get_origin(hint) is dict else None


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _name(hint: Any) -> str:
    """The type in words."""
    if kinds := _kinds(hint):
        return f"one of {', '.join(kinds)}, or a mapping of its keys"
    if _is_union(hint):
        return " or ".join(map(_name, get_args(hint)))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(member.name for member in hint)
    if get_origin(hint) is dict:
        return f"a mapping of names to {_name(get_args(hint)[1])}"
    if get_origin(hint) is list:
        return f"a list [...] of {_name(get_args(hint)[0])}"
    if get_origin(hint) is tuple:
        return f"a list of the form [{', '.join('...' if arg is ... else _name(arg) for arg in get_args(hint))}]"
    if _dataclass_in(hint):
        return f"a mapping with the keys {', '.join(_hints(hint))}"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text", types.NoneType: "null",
            Path: "a path"}.get(hint, str(hint))


def _known_field(cls: type, name: str, parent: str) -> Any:
    if name not in _hints(cls):
        raise _UnknownKey(cls, name, parent)
    return _hints(cls)[name]


def _nearest(root: type, unknown: _UnknownKey) -> str:
    """What to write instead: a neighbour of like spelling, else the same word elsewhere, else a like word elsewhere."""
    asked = _join(unknown.parent, unknown.name)
    neighbours = {name: _join(unknown.parent, name) for name in _hints(unknown.cls)}
    everywhere = list(_dotted(root))
    kinds = get_args(_hints(unknown.cls).get("kind"))
    kind = f" of kind {kinds[0]}" if len(kinds) == 1 else ""
    if asked in everywhere and "." in unknown.name:   # `backbone.depth: 4` in a file
        nested = asked.replace(".", ": {") + ": ..." + "}" * asked.count(".")
        return f"key {asked!r} holds a dot; in a file, nest it: {nested}"
    everywhere = [dotted for dotted in everywhere if dotted != asked]   # it may be a key of another kind
    word = unknown.name.rpartition(".")[2]
    near = ([neighbours[name] for name in difflib.get_close_matches(unknown.name, neighbours, n=1)]
            or [dotted for dotted in everywhere if dotted.rpartition(".")[2] == word]
            or [dotted for dotted in everywhere if difflib.get_close_matches(word, [dotted.rpartition(".")[2]])])
    hint = f"did you mean {' or '.join(near[:2])}?" if near else f"there are: {', '.join(neighbours.values())}"
    return f"unknown key {asked}{kind}; {hint}"


def _dotted(cls: type) -> Iterator[str]:
    """Every key of a config, the nested ones with dots."""
    for name, hint in _hints(cls).items():
        yield name
        inner = _dataclass_in(hint)
        kinds = _kinds(hint).values() if inner is None else [inner]
        yield from dict.fromkeys(f"{name}.{deeper}" for one in kinds for deeper in _dotted(one))


def _build(hint: Any, value: Any, key: str) -> Any:
    """The value as its field's type wants it."""
    origin, args = get_origin(hint), get_args(hint)
    if kinds := _kinds(hint):
        _checked(isinstance(value, Mapping), hint, value, key)
        return _build_dataclass(_checked_kind(kinds, value.get("kind"), key), value, key)
    if _is_union(hint):
        return _build_union(args, value, key)
    if isinstance(hint, type) and is_dataclass(hint):
        return _build_dataclass(hint, value, key)
    if origin is Literal:
        return _checked(any(value == arg and type(value) is type(arg) for arg in args), hint, value, key)
    if origin is dict:
        _checked(isinstance(value, Mapping) and all(isinstance(name, str) for name in value), hint, value, key)
        return {name: _build(args[1], inner, _join(key, name)) for name, inner in value.items()}
    if origin in (list, tuple):
        _checked(isinstance(value, list), hint, value, key)
        inner = [args[0]] * len(value) if origin is list or args[1:] == (...,) else list(args)
        _checked(len(inner) == len(value), hint, value, key)
        return origin(_build(one, item, f"{key}[{i}]") for i, (one, item) in enumerate(zip(inner, value, strict=True)))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint[_checked(value in hint.__members__, hint, value, key)]
    if hint in _SIMPLE:
        return _SIMPLE[hint](value, key)
    raise TypeError(f"{key}: config fields of type {hint} are not supported")


def _build_dataclass(cls: type, value: Any, key: str) -> Any:
    _checked(isinstance(value, Mapping), cls, value, key)
    values = {str(name): _build(_known_field(cls, str(name), key), inner, _join(key, str(name)))
              for name, inner in value.items()}
    for field in fields(cls):
        if field.init and field.name not in values and not _has_default(field):
            wanted = _name(_hints(cls)[field.name])
            raise ValueError(f"{_join(key, field.name)} is missing and has no default; give {wanted}")
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:   # what __post_init__ refuses
        raise ValueError(f"{key}: {error}" if key and key not in str(error) else str(error)) from None


def _build_union(members: tuple[Any, ...], value: Any, key: str) -> Any:
    """The member that fits as it is, else the first that the value can be turned into."""
    failures = {}
    for hint in sorted(members, key=lambda hint: type(value) is not hint):
        try:
            return _build(hint, value, key)
        except ValueError as error:
            failures[hint] = error
    failures.pop(types.NoneType, None)
    # What says something of the value itself and not only that its keys belong to another member.
    told = {str(error): error for error in failures.values() if len(failures) == 1 or not isinstance(error, _UnknownKey)}
    if len(told) == 1:
        raise told.popitem()[1]
    raise _wrong(Union[members], value, key)   # noqa: UP007 - a tuple of members has no other spelling


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _checked(fits: bool, hint: Any, value: Any, key: str) -> Any:
    if not fits:
        raise _wrong(hint, value, key)
    return value


def _wrong(hint: Any, value: Any, key: str) -> ValueError:
    shown = json.dumps(value, default=str)   # as it would stand in a file
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    kind = "" if value is None else f" ({type(value).__name__})"
    advice = "; put it in quotes" if hint is str and isinstance(value, bool | int | float) else ""
    return ValueError(f"{key or 'the config'} must be {_name(hint)}, not {shown}{kind}{advice}")


def _integer(value: Any, key: str) -> int:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())   # 1e6 is a float in YAML
    return int(_checked(whole and not isinstance(value, bool), int, value, key))


def _number(value: Any, key: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    written_out = value in ("inf", "-inf", "nan")   # as config_to_json does
    return float(_checked(number or written_out, float, value, key))


def _text(value: Any, key: str) -> str:
    return str(_checked(isinstance(value, str), str, value, key))


_SIMPLE: dict[Any, Callable[[Any, str], Any]] = {
    int: _integer,
    float: _number,
    str: _text,
    bool: lambda value, key: _checked(isinstance(value, bool), bool, value, key),
    Path: lambda value, key: Path(_text(value, key)),
    types.NoneType: lambda value, key: _checked(value is None, types.NoneType, value, key),
}


def _defaults(cls: type) -> dict[str, Any]:
    """A dataclass's defaults as plain values; fields without one are left out."""
    return {field.name: _plain(field.default if field.default_factory is MISSING else field.default_factory())
            for field in fields(cls) if field.init and _has_default(field)}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value) if field.init}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _finite(tree: Any) -> Any:
    """Infinite numbers as text: JSON has none."""
    if isinstance(tree, dict):
        return {name: _finite(inner) for name, inner in tree.items()}
    if isinstance(tree, list):
        return [_finite(inner) for inner in tree]
    return str(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree


def _locate(path: Path | str) -> Path:
    """The file itself, or the shipped one of that bare name."""
    given = Path(path)
    shipped = SHIPPED / f"{given.name.removesuffix('.yaml')}.yaml"
    if given.is_file():
        return given
    if given.name == str(path) and shipped.is_file():
        return shipped
    near = difflib.get_close_matches(given.stem, shipped_configs(), n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(shipped_configs())}"
    raise ValueError(f"config {path} does not exist; {hint}")


def _read_file(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a config has at most {MAX_BYTES:,}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}") from None
    values = read_yaml(text, str(path))
    if values is not None and not isinstance(values, Mapping):
        raise ValueError(f"{path} must hold a mapping such as `seed: 1`, not {type(values).__name__}")
    return values or {}


def _unquote(text: str, key: str) -> Any:
    return read_yaml(text, key) if text[:1] in ("'", '"') else str(text)
