"""Configs: defaults, file, overrides; every mistake is one line that names the key."""

import json
import math
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico.scripts.common import config as module
from calico.scripts.common.config import config_from_json, config_to_json, load_config, save_resolved, shipped_configs


@dataclass(frozen=True, kw_only=True)
class Backbone:
    width: int = 8
    heads: int = 4
    kind: Literal["plain", "off"] = "plain"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width={self.width} is not divisible by heads={self.heads}")


@dataclass(frozen=True, kw_only=True)
class Source:
    path: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Training:
    learning_rate: float = 1e-3
    steps: int = 100
    clip: float = math.inf
    betas: tuple[float, float] = (0.9, 0.95)
    resume: bool = False
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Config:
    name: str = "run"
    out: Path = Path("runs/run")
    seed: int = 0
    backbone: Backbone = field(default_factory=lambda: Backbone(width=16))   # not Backbone's own default
    teacher: Backbone | None = None
    training: Training = field(default_factory=Training)
    mixture: dict[str, float] = field(default_factory=lambda: {"toy": 1.0})
    sources: list[Source] = field(default_factory=list)
    stages: dict[str, Source] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    precision: int | str = "auto"


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_then_file_then_overrides(tmp_path: Path) -> None:
    path = written(tmp_path, "seed: 3\nbackbone: {heads: 2}\ntraining: {learning_rate: 1e-4, steps: 5}")
    config = load_config(Config, path, ["training.steps=7", "seed=4", "seed=5"])
    assert config == Config(seed=5, backbone=Backbone(width=16, heads=2),
                            training=Training(learning_rate=1e-4, steps=7))
    assert type(config.training.learning_rate) is float
    assert load_config(Config) == Config()


def test_an_instance_gives_the_defaults(tmp_path: Path) -> None:
    start = Config(seed=9, training=Training(steps=1))
    config = load_config(start, written(tmp_path, "training: {limit: 2}"), ["name=x"])
    assert config == Config(seed=9, name="x", training=Training(steps=1, limit=2))
    assert start == Config(seed=9, training=Training(steps=1))


@pytest.mark.parametrize("override, key, value", [
    ("training.learning_rate=1", "learning_rate", 1.0), ("training.steps=1e6", "steps", 1_000_000),
    ("training.clip=inf", "clip", math.inf), ("training.limit=null", "limit", None), ("training.limit=3", "limit", 3),
    ("training.resume=yes", "resume", True), ("training.betas=[0, 1]", "betas", (0.0, 1.0)),
])
def test_values_of_training(override: str, key: str, value: Any) -> None:
    found = getattr(load_config(Config, None, [override]).training, key)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("override, key, value", [
    ("name=a: b [c]", "name", "a: b [c]"), ("name=007", "name", "007"), ("name=no", "name", "no"),
    ("name=", "name", ""), ("name='x y'", "name", "x y"), ("name=a=b", "name", "a=b"),
    ("out=/tmp/x", "out", Path("/tmp/x")),
    ("tags=[a, b]", "tags", ("a", "b")), ("precision=16", "precision", 16),
    ("precision=bf16", "precision", "bf16"), ("teacher.heads=2", "teacher", Backbone(heads=2)),
    ("teacher=null", "teacher", None), ("teacher={}", "teacher", Backbone()),
    ("sources=[{path: a}]", "sources", [Source(path="a")]),
    ("sources=[{path: a}, {path: b, weight: 2}]", "sources", [Source(path="a"), Source(path="b", weight=2.0)]),
    ("backbone={width: 4}", "backbone", Backbone(width=4)), ("stages.one.path=x", "stages", {"one": Source(path="x")}),
])
def test_values_at_the_root(override: str, key: str, value: Any) -> None:
    found = getattr(load_config(Config, None, [override]), key)
    assert found == value and type(found) is type(value)


def test_a_mapping_replaces_a_dict_and_a_dotted_key_changes_one_entry(tmp_path: Path) -> None:
    path = written(tmp_path, "mixture: {pong: 1, cartpole: 2}")
    assert load_config(Config, path).mixture == {"pong": 1.0, "cartpole": 2.0}   # `toy` is gone
    assert load_config(Config, path, ["mixture={breakout: 3}"]).mixture == {"breakout": 3.0}
    assert load_config(Config, path, ["mixture.pong=5"]).mixture == {"pong": 5.0, "cartpole": 2.0}
    assert load_config(Config, None, ["mixture.ALE/Pong-v5=1", "mixture.mini.grid.v0=2"]).mixture == {
        "toy": 1.0, "ALE/Pong-v5": 1.0, "mini.grid.v0": 2.0}
    assert load_config(Config, path, ["mixture={}"]).mixture == {}


def test_two_overrides_are_judged_together() -> None:
    assert load_config(Config, None, ["backbone.width=6", "backbone.heads=3"]).backbone == Backbone(width=6, heads=3)


@pytest.mark.parametrize("override, says", [
    ("backbone.widht=3", "unknown key backbone.widht; did you mean backbone.width?"),
    ("widht=3", "did you mean backbone.width or teacher.width?"),
    ("learning_rate=1", "did you mean training.learning_rate?"),
    ("backbone.learning_rate=1", "did you mean training.learning_rate?"),
    ("traning.steps=1", "did you mean training?"),
    ("seeed=1", "did you mean seed?"),
    ("training.lr=1", "unknown key training.lr; there are: training.learning_rate, training.steps"),
    ("zzz=1", "unknown key zzz; there are: name, out, seed, backbone"),
    ("sources=[{path: a, wieght: 1}]", r"unknown key sources\[0\].wieght; did you mean sources\[0\].weight?"),
    ("stages.one.pathh=x", "did you mean stages.one.path?"),
    ("seed.x=1", "seed.x does not exist: seed is an integer; write seed=..."),
    ("mixture.a.b={c: 1}", "mixture.a.b must be a number"),
    ("backbone.width=x", r'backbone.width must be an integer, not "x" \(str\)'),
    ("backbone.width=2.5", r"backbone.width must be an integer, not 2.5 \(float\)"),
    ("backbone.width=true", "must be an integer, not true"),
    ("training.learning_rate=fast", 'training.learning_rate must be a number, not "fast"'),
    ("training.learning_rate=true", "must be a number"),
    ("training.learning_rate=", "must be a number, not null"),
    ("training.resume=1", "training.resume must be true or false, not 1"),
    ("training.limit=x", "training.limit must be an integer"),
    ("training.betas=[1]", r"training.betas must be a list of the form \[a number, a number\], not \[1\]"),
    ("training.betas=[1, x]", r"training.betas\[1\] must be a number"),
    ("backbone.kind=other", "backbone.kind must be one of plain, off"),
    ("backbone.kind=off", r"must be one of plain, off, not false"),
    ("tags=a", r"tags must be a list of the form"),
    ("tags=[a, [b]]", r"tags\[1\] must be text, not \[\"b\"\] \(list\)"),
    ("tags=[no]", r"tags\[0\] must be text, not false \(bool\); put it in quotes"),
    ("mixture=3", "mixture must be a mapping of names to a number, not 3"),
    ("mixture={1: 2}", "mixture must be a mapping of names"),
    ("mixture={a: [1]}", r"mixture.a must be a number, not \[1\]"),
    ("backbone=3", "backbone must be a mapping with the keys width, heads, kind, not 3"),
    ("backbone=null", "backbone must be a mapping"),
    ("precision=[1]", "precision must be an integer or text"),
    ("sources=[{weight: 1}]", r"sources\[0\].path is missing and has no default; give text"),
    ("backbone.heads=3", "backbone: width=16 is not divisible by heads=3"),
    ("teacher={heads: 3}", "teacher: width=8 is not divisible by heads=3"),
    ("seed", "'seed' is not an override; write key=value"),
    ("=3", "is not an override"),
    ("seed=[1", "seed: .*line 1"),
    ("seed=${oc.env:HOME}", r"seed: \$\{...\} is not read"),
])
def test_every_mistake_is_one_line_that_names_the_key(override: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        load_config(Config, None, [override])
    assert "\n" not in str(caught.value) and type(caught.value) is ValueError


@dataclass(frozen=True, kw_only=True)
class Ball:
    radius: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Box:
    radius: float = 0.0
    height: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Shapes:
    version: Literal[1, 2] = 1
    shape: Ball | Box = field(default_factory=Box)    # told apart by their fields


@pytest.mark.parametrize("override, expected", [
    ("version=2", Shapes(version=2)), ("shape={radius: 3}", Shapes(shape=Ball(radius=3.0))), ("shape={}", Shapes(shape=Ball())),
    ("shape={radius: 3, height: 1}", Shapes(shape=Box(radius=3.0, height=1.0))),
    ("shape={height: 1}", Shapes(shape=Box(height=1.0))),
])
def test_values_that_a_lenient_check_would_confuse(override: str, expected: Shapes) -> None:
    assert repr(load_config(Shapes, None, [override])) == repr(expected)
    assert config_from_json(Shapes, config_to_json(expected)) == expected


@pytest.mark.parametrize("override, says", [
    ("version=true", "version must be one of 1, 2, not true (bool)"), ("version=1.0", "version must be one of 1, 2, not 1.0"),
    ("version='1'", 'version must be one of 1, 2, not "1" (str)'), ("version=3", "version must be one of 1, 2, not 3 (int)"),
    ("shape={height: x}", 'shape.height must be a number, not "x" (str)'),
    ("shape={width: 1}", "shape must be a mapping with the keys radius or a mapping with the keys radius, height, not"),
    ("shape=3", "shape must be a mapping with the keys radius or"),
])
def test_mistakes_that_a_lenient_check_would_let_pass(override: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_config(Shapes, None, [override])
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)


def test_only_what_loads_configs_waits_for_pydantic() -> None:
    script = ("import sys; from calico.scripts.common import config; from calico.scripts import main; main.main(['--help']); "
              "assert 'pydantic' not in sys.modules and 'pydantic_core' not in sys.modules")
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("text, says", [
    ("backbone: {widht: 3}", "unknown key backbone.widht; did you mean backbone.width?"),
    ("backbone.width: 3", r"holds a dot; in a file, nest it: backbone: \{width: ...\}"),
    ("seed: 1\nseed: 2", "config.yaml: .*duplicate key seed"),
    ("name: no", 'name must be text, not false .*put it in quotes'),
    ("name: ${oc.env:HOME}", r"config.yaml: \$\{...\} is not read"),
    ("- 1", "must hold a mapping"),
    ("just text", "must hold a mapping"),
    ("a: !!python/name:os.system x", "tag"),
    ("# x\n" * 50_000, "200,000 bytes; a config has at most 100,000"),
])
def test_mistakes_in_a_file(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        load_config(Config, written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ValueError, match="not UTF-8 text: byte 9 is 0xe9"):
        load_config(Config, tmp_path / "config.yaml")


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load_config(Config, written(tmp_path, "# nothing yet\n")) == Config()


def test_shipped_configs_go_by_bare_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "configs"
    shipped.mkdir()
    (shipped / "demo.yaml").write_text("seed: 11")
    (shipped / "debug.yaml").write_text("seed: 12")
    monkeypatch.setattr(module, "SHIPPED", shipped)
    monkeypatch.chdir(tmp_path)
    assert shipped_configs() == ["debug", "demo"]
    assert load_config(Config, "demo").seed == load_config(Config, "demo.yaml").seed == 11
    with pytest.raises(ValueError, match="config dmo does not exist; did you mean demo?"):
        load_config(Config, "dmo")
    with pytest.raises(ValueError, match="elsewhere/demo.yaml does not exist; did you mean demo?"):
        load_config(Config, "elsewhere/demo.yaml")
    with pytest.raises(ValueError, match="config zzzz does not exist; there are: debug, demo"):
        load_config(Config, "zzzz")
    (tmp_path / "demo.yaml").write_text("seed: 1")   # a file of one's own wins
    assert load_config(Config, "demo.yaml").seed == 1 and load_config(Config, "demo").seed == 11


FULL = Config(name="naïve", out=Path("a/b"), backbone=Backbone(heads=2), teacher=Backbone(kind="off"), tags=("x", "y"),
              training=Training(clip=math.inf, limit=4), mixture={"a.b": 2.0}, sources=[Source(path="p")],
              stages={"s": Source(path="q", weight=0.5)}, precision=16)


def test_a_saved_config_rebuilds_itself(tmp_path: Path) -> None:
    save_resolved(FULL, tmp_path / "run" / "config.json")
    values = json.loads((tmp_path / "run" / "config.json").read_text(), parse_constant=pytest.fail)   # strict JSON
    assert config_from_json(Config, values) == FULL
    assert values == config_to_json(FULL) and values["training"]["clip"] == "inf"
    assert load_config(Config, tmp_path / "run" / "config.json") == FULL   # JSON is YAML


def test_json_is_taken_at_its_word_and_checked() -> None:
    assert config_from_json(Config, {"name": "${oc.env:HOME}"}).name == "${oc.env:HOME}"   # never resolved
    assert config_from_json(Config, {"mixture": {"a": 1}}).mixture == {"a": 1.0}
    with pytest.raises(ValueError, match="unknown key backbone.depth"):
        config_from_json(Config, {"backbone": {"depth": 1}})
    with pytest.raises(ValueError, match="seed must be an integer"):
        config_from_json(Config, {"seed": "1"})


def test_required_fields() -> None:
    with pytest.raises(ValueError, match="path is missing and has no default; give text"):
        load_config(Source)
    assert load_config(Source, None, ["path=x"]) == Source(path="x")


def test_a_schema_that_cannot_be_written_in_yaml_is_our_own_mistake() -> None:
    class Plain:
        pass

    @dataclass(frozen=True)
    class Odd:
        thing: Plain | None = None

    with pytest.raises(RuntimeError, match="schema for <class '.*Plain'>"):
        load_config(Odd)


NUMBERS = st.floats(allow_nan=False)


@given(st.builds(Training, learning_rate=NUMBERS, steps=st.integers(), limit=st.none() | st.integers(), clip=NUMBERS),
       st.dictionaries(st.text(), NUMBERS), st.text())
def test_any_config_survives_json(training: Training, mixture: dict[str, float], name: str) -> None:
    config = Config(training=training, mixture=mixture, name=name)
    assert config_from_json(Config, json.loads(json.dumps(config_to_json(config)))) == config


KEYS = st.sampled_from(["seed", "backbone", "width", "training", "sources", "path", "x"])


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)))
def test_any_json_is_a_config_or_a_value_error(values: Any) -> None:
    try:
        assert isinstance(config_from_json(Config, values), Config)
    except ValueError as error:
        assert "\n" not in str(error)


# ---- one of several dataclasses


@dataclass(frozen=True, kw_only=True)
class Car:
    kind: Literal["car"] = "car"
    wheels: int = 4
    doors: int = 5


@dataclass(frozen=True, kw_only=True)
class Boat:
    kind: Literal["boat"] = "boat"
    doors: int = 1
    sails: int = 2


@dataclass(frozen=True, kw_only=True)
class Trip:
    by: Car | Boat = field(default_factory=Car)


def test_a_kind_chooses_among_dataclasses(tmp_path: Path) -> None:
    for overrides, expected in (([], Car()), (["by.wheels=3"], Car(wheels=3)), (["by=boat"], Boat(doors=5)),
                                (["by={kind: boat, sails: 7}"], Boat(doors=5, sails=7)),
                                (["by.kind=boat", "by.sails=1"], Boat(doors=5, sails=1)),
                                (["by.doors=2", "by=boat", "by=car"], Car(doors=2))):
        trip = load_config(Trip, None, overrides)
        assert trip == Trip(by=expected)
        assert config_from_json(Trip, config_to_json(trip)) == trip
    path = written(tmp_path, "by: {kind: boat, sails: 3}")
    assert load_config(Trip, path).by == Boat(doors=5, sails=3)
    assert load_config(Trip(by=Boat()), path, ["by.doors=0"]).by == Boat(doors=0, sails=3)


@pytest.mark.parametrize("override, says", [
    ("by=boot", "by.kind must be one of car, boat, not 'boot'; did you mean boat?"),
    ("by={kind: [1]}", "by.kind must be one of car, boat, not [1]"),
    ("by=3", "by must be one of car, boat, or a mapping of its keys, not 3 (int)"),
    ("by.sails=3", "unknown key by.sails of kind car; there are: by.kind, by.wheels, by.doors"),
    ("by={kind: boat, sial: 3}", "unknown key by.sial of kind boat; did you mean by.sails?"),
    ("by={kind: boat, sails: many}", "by.sails must be an integer"),
])
def test_mistakes_in_a_kind_are_one_line(override: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_config(Trip, None, [override])
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)


def test_a_mistyped_key_is_refused_though_the_kind_changes_later(tmp_path: Path) -> None:
    path = written(tmp_path, "by: {kind: car, whels: 3}")
    with pytest.raises(ValueError, match="unknown key by.whels of kind boat"):
        load_config(Trip, path, ["by=boat"])
    assert load_config(Trip, written(tmp_path, "by: {kind: car, wheels: 3}"), ["by=boat"]).by == Boat(doors=5)


def test_what_was_given_is_found_without_building_anything(tmp_path: Path) -> None:
    path = written(tmp_path, "by: {kind: boat, sails: 3}")
    assert module.given(path, ["by.sails=4"], "by.sails") == 4
    assert module.given(path, ["by=car"], "by.kind") == "car"
    assert module.given(path, ["by={doors: 1}"], "by.kind") == "boat"
    assert module.given(None, ["by=car"], "by.sails") is None
    assert module.given(None, [], "by") is None
