"""Configs: a frozen dataclass's defaults, then a YAML file, then `key=value`; out comes the frozen dataclass.

    settings = load_config(RunSettings, "demo", ["backbone.depth=4", "training.steps=1e4"])

A mapping in the file fills in a nested dataclass, but replaces a dict: `mixture: {pong: 1}` is that one task, whatever
the default was. A dotted override goes into the dict: `mixture.pong=2` changes one entry and keeps the others.

A field may be one of several dataclasses that tell each other apart by a field `kind: Literal["..."]`. `backbone: perceiver`
is short for `backbone: {kind: perceiver}`; another kind than before keeps the values of the fields that both have.

OmegaConf reads the values and pydantic checks them. What lies between is our own, because OmegaConf's merge would fill in
dicts too, takes `[x]` for text inside containers and turns the YAML word `no` into the text "False". Every error is one line
that names the key, what came and what was expected.
"""

import functools
import json
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, overload

from calico.agent.config_json import OPEN_UNIONS, field_types, is_config, kinds, options, to_json
from calico.datasets.publish import replace_file
from calico.scripts.common.safe_yaml import read_yaml
from calico.tokenizers.spelling import did_you_mean, nearest

T = TypeVar("T")

SHIPPED = Path(__file__).parents[1] / "configs"
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
    built: T = _resolve(cls, _defaults(cls) if isinstance(schema, type) else to_json(schema), _layers(path, overrides))
    return built


def given(path: Path | str | None, overrides: Sequence[str], key: str) -> Any:
    """What the file and the overrides say about a dotted key, the last of them that does; None: none.

    `kind` also finds the short form: `backbone: perceiver` says perceiver about "backbone.kind".

    Raises:
        ValueError: as load_config, for what stands on the way.
    """
    found, names = None, key.split(".")
    for keys, value in _layers(path, overrides):
        if keys != names[: len(keys)]:
            continue
        value = _parsed(value, ".".join(keys))
        for name in names[len(keys):]:
            short = isinstance(value, str) and name == "kind"
            value = value if short else value.get(name) if isinstance(value, Mapping) else None
        found = found if value is None else value
    return found


def config_from_json(schema: type[T], values: Mapping[str, Any]) -> T:
    """Rebuild a config from what config_to_json gave; fields that it lacks take their defaults.

    Raises:
        ValueError: as load_config.
    """
    built: T = _resolve(schema, _defaults(schema), [([], values)])
    return built


def config_to_json(config: Any) -> dict[str, Any]:
    """The config as plain JSON values; infinite numbers become the text "inf", which config_from_json reads back."""
    values: dict[str, Any] = to_json(config)
    return values


def save_resolved(config: Any, path: Path | str) -> None:
    """Write the config as JSON, every default spelled out: enough to run the same again."""
    replace_file(Path(path), json.dumps(config_to_json(config), indent=2, allow_nan=False) + "\n")


def shipped_configs() -> list[str]:
    """Bare names of the configs that come with Calico."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


# ---- layers of plain values


class _Unread(str):
    """The right side of `key=value`: read as YAML once the field's type is known, or taken as it is if that is text."""


def _parsed(value: Any, key: str, hint: Any = Any) -> Any:
    """The value, an unread one as the field's type wants it."""
    if not isinstance(value, _Unread) or (hint is str and value[:1] not in ("'", '"')):
        return value
    return read_yaml(value, key)


def _layers(path: Path | str | None, overrides: Sequence[str]) -> list[tuple[list[str], Any]]:
    """(dotted path, value) of the file, then of each override."""
    layers: list[tuple[list[str], Any]] = [] if path is None else [([], _read_file(_locate(path)))]
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ValueError(f"{override!r} is not an override; write key=value, such as seed=1")
        layers.append((key.split("."), _Unread(text)))
    return layers


def _assign(hint: Any, tree: Any, path: list[str], value: Any, key: str) -> Any:
    """`tree` with the value at the dotted `path` replaced. An unknown key is put in all the same; the check refuses it."""
    if not path or (path == ["kind"] and kinds(hint)):
        return _overlay(hint, tree, value, key)
    name, *rest = path
    if cls := _dataclass_at(hint, tree):
        before: dict[str, Any] = tree if isinstance(tree, dict) else _defaults(cls)
        if name in field_types(cls):
            value = _assign(field_types(cls)[name], before.get(name), rest, value, _join(key, name))
        return before | {name: value}
    for inner in (get_args(option)[1] for option in options(hint) if get_origin(option) is dict):
        # A dict of plain values takes the rest as one key, so that names with dots need no quotes.
        size = 1 if any(is_config(option) or get_origin(option) is dict for option in options(inner)) else len(path)
        name, before = ".".join(path[:size]), tree if isinstance(tree, dict) else {}
        return before | {name: _assign(inner, before.get(name), path[size:], value, _join(key, name))}
    raise ValueError(f"{_join(key, '.'.join(path))} does not exist: {key} is {_name(hint)}; write {key}=...")


def _overlay(hint: Any, tree: Any, layer: Any, key: str) -> Any:
    """`tree` with `layer` on top: key by key where the field is a dataclass, as a whole elsewhere."""
    layer = _parsed(layer, key, hint)
    if known := kinds(hint):
        layer = {"kind": layer} if isinstance(layer, str) else layer
        if isinstance(layer, Mapping) and "kind" in layer:
            if not isinstance(kind := layer["kind"], str) or kind not in known:
                raise ValueError(f"{_join(key, 'kind')} must be one of {', '.join(known)}, not {kind!r}"
                                 + did_you_mean(str(kind), known))
            before, after = _dataclass_at(hint, tree), known[kind]   # a key that neither has stays, and is refused in the end
            lost = field_types(before).keys() - field_types(after).keys() if before else set()
            tree = _defaults(after) | {name: old for name, old in (tree if before else {}).items() if name not in lost}
    cls = _dataclass_at(hint, tree)
    if cls is None or not isinstance(layer, Mapping):
        return layer
    tree = tree if isinstance(tree, dict) else _defaults(cls)
    for name, value in layer.items():
        tree = _assign(cls, tree, [str(name)], value, key)
    return tree


def _dataclass_at(hint: Any, tree: Any) -> Any:
    """The dataclass whose fields `tree` holds: the only one of the type, or that of its kind; else None."""
    if known := kinds(hint):
        return known.get(str(tree.get("kind"))) if isinstance(tree, dict) else None
    members = options(hint)
    return members[0] if len(members) == 1 and is_config(members[0]) else None


def _defaults(cls: Any) -> dict[str, Any]:
    """A dataclass's defaults as plain values; fields without one are left out."""
    return {field.name: to_json(field.default if field.default_factory is MISSING else field.default_factory())
            for field in fields(cls) if field.init and not field.default is field.default_factory is MISSING}


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


# ---- checking them


def _resolve(cls: Any, tree: Any, layers: Iterable[tuple[list[str], Any]]) -> Any:
    """Put the layers on the tree of plain values, then build the object once."""
    from pydantic import ValidationError

    for path, value in layers:
        tree = _assign(cls, tree, path, value, "")
    adapter = _adapter(cls, tuple(len(known()) for known in OPEN_UNIONS.values()))
    try:   # strict JSON mode: a list for a tuple and an object for a dataclass, but no "1" for 1 and no true for 1.0
        return adapter.validate_json(json.dumps(_json_values(cls, tree)), strict=True, extra="forbid")
    except ValidationError as error:
        raise ValueError(_one_line(cls, tree, error.errors(include_url=False))) from None
    except TypeError as error:   # of a __post_init__
        raise ValueError(str(error)) from None


@functools.cache
def _adapter(cls: Any, known: tuple[int, ...]) -> Any:
    """Of a dataclass, while so many kinds of backbones are known."""
    from pydantic import TypeAdapter  # late: what only reads --help does not wait for it

    for protocol in OPEN_UNIONS:   # which pydantic would take for a class to be an instance of
        protocol.__get_pydantic_core_schema__ = lambda source, build: build.generate_schema(Union[options(source)])   # noqa: UP007
    return TypeAdapter(cls)


def _json_values(hint: Any, value: Any) -> Any:
    """The values that strict JSON mode takes: 1e6, a float in YAML, for an integer; "inf", of config_to_json, for a float.
    null stands for what it would take and should not: true or 1.0 for Literal[1], and keys that are no text."""
    hint = options(hint)[0] if len(options(hint)) == 1 else hint
    if isinstance(value, Mapping):
        named = all(isinstance(name, str) for name in value)
        return {name: _json_values(_inner(hint, value, name), entry) for name, entry in value.items()} if named else None
    if isinstance(value, list):
        return [_json_values(_inner(hint, value, index), entry) for index, entry in enumerate(value)]
    if get_origin(hint) is Literal:
        return value if type(value) in map(type, get_args(hint)) else None
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return float(value) if hint is float and value in ("inf", "-inf", "nan") else value


def _inner(hint: Any, value: Any, name: Any) -> Any:
    """The type of one field, entry or element of a value; Any where the type has none such."""
    if cls := _member(hint, value):
        return field_types(cls).get(name, Any)
    args = get_args(options(hint)[0])
    at = 1 if isinstance(value, Mapping) else 0 if args[1:] in ((), (...,)) else name
    return args[at] if at < len(args) else Any


def _member(hint: Any, value: Any) -> Any:
    """As _dataclass_at; of dataclasses without kinds the first one that has all that are given."""
    members = [] if kinds(hint) or not isinstance(value, Mapping) else filter(is_config, options(hint))
    return _dataclass_at(hint, value) or next((cls for cls in members if value.keys() <= field_types(cls).keys()), None)


# ---- what is wrong, in one line


def _one_line(root: type, tree: Any, errors: Sequence[Any]) -> str:
    """The error that helps most, in our words and with the key as it is written here: an unknown key comes before a wrong
    value, a missing one last."""
    rank = {"unexpected_keyword_argument": 0, "missing": 2}
    return min((found for error in errors if (found := _described(root, tree, error))),
               key=lambda found: rank.get(found[0], 1))[1]


def _described(root: type, tree: Any, error: Any) -> tuple[str, str] | None:
    """Type and message of one of pydantic's errors; None: of a member of a union that was not meant."""
    hint, value, key = root, tree, ""
    for part in error["loc"]:
        if len(options(hint)) > 1:   # pydantic names the member
            hint = _member(hint, value) or hint
            if not is_config(hint):
                break                # the value fits no member: say what they are
            if part != hint.__name__:
                return None
            continue
        (hint,) = options(hint)
        if is_config(hint) and part not in field_types(hint):
            return error["type"], _unknown_key(root, hint, str(part), key)
        if is_config(hint) and part not in value:
            return error["type"], f"{_join(key, part)} is missing and has no default; give {_name(field_types(hint)[part])}"
        if isinstance(value, list) and part >= len(value):
            break                    # too short a list
        key = f"{key}[{part}]" if isinstance(value, list) else _join(key, part)
        hint, value = _inner(hint, value, part), value[part]
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
        return error["type"], f"{key}: {message}" if key and key not in message else message
    hint = options(hint)[0] if len(options(hint)) == 1 else hint
    text = json.dumps(value, default=str)   # as it would stand in a file
    text = text if len(text) <= 60 else text[:57] + "..."
    came = "" if value is None else f" ({type(value).__name__})"
    advice = "; put it in quotes" if hint in (str, Path) and isinstance(value, bool | int | float) else ""
    return error["type"], f"{key or 'the config'} must be {_name(hint)}, not {text}{came}{advice}"


def _unknown_key(root: type, cls: type, name: str, parent: str) -> str:
    """What to write instead: a neighbour of like spelling, else the same word elsewhere, else a like word elsewhere."""
    asked, neighbours, everywhere = _join(parent, name), list(field_types(cls)), list(_dotted(root))
    known = get_args(field_types(cls).get("kind"))
    kind = f" of kind {known[0]}" if len(known) == 1 else ""
    if asked in everywhere and "." in name:   # `backbone.depth: 4` in a file
        nested = asked.replace(".", ": {") + ": ..." + "}" * asked.count(".")
        return f"key {asked!r} holds a dot; in a file, nest it: {nested}"
    everywhere = [dotted for dotted in everywhere if dotted != asked]   # it may be a key of another kind
    word, last = name.rpartition(".")[2], {dotted: dotted.rpartition(".")[2] for dotted in everywhere}
    near = ([_join(parent, neighbour) for neighbour in nearest(name, neighbours)]
            or [dotted for dotted in everywhere if last[dotted] == word]
            or [dotted for dotted in everywhere if nearest(word, [last[dotted]])])
    there = ", ".join(_join(parent, neighbour) for neighbour in neighbours)
    return f"unknown key {asked}{kind}; " + (f"did you mean {' or '.join(near[:2])}?" if near else f"there are: {there}")


def _dotted(cls: Any) -> Iterator[str]:
    """Every key of a config, the nested ones with dots."""
    for name, hint in field_types(cls).items():
        yield name
        inner = list(kinds(hint).values()) or [option for option in options(hint) if len(options(hint)) == 1]
        yield from dict.fromkeys(f"{name}.{key}" for one in inner if is_config(one) for key in _dotted(one))


def _name(hint: Any) -> str:
    """The type in words."""
    args = get_args(hint)
    if known := kinds(hint):
        return f"one of {', '.join(known)}, or a mapping of its keys"
    if options(hint) != (hint,):
        return " or ".join(map(_name, args))
    if is_config(hint):
        return f"a mapping with the keys {', '.join(field_types(hint))}"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, args))}"
    if get_origin(hint) is dict:
        return f"a mapping of names to {_name(args[1])}"
    if get_origin(hint) is list:
        return f"a list [...] of {_name(args[0])}"
    if get_origin(hint) is tuple:
        return f"a list of the form [{', '.join('...' if arg is ... else _name(arg) for arg in args)}]"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text", types.NoneType: "null",
            Path: "a path"}.get(hint, str(hint))


# ---- files


def _locate(path: Path | str) -> Path:
    """The file itself, or the shipped one of that bare name."""
    own = Path(path)
    shipped = SHIPPED / f"{own.name.removesuffix('.yaml')}.yaml"
    if own.is_file():
        return own
    if own.name == str(path) and shipped.is_file():
        return shipped
    names = shipped_configs()
    there = f"; there are: {', '.join(names)}"
    raise ValueError(f"config {path} does not exist{did_you_mean(own.stem, names, there, cutoff=0.4)}")


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
