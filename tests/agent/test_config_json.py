"""The codec: what a config says comes back, documents of earlier versions are read, and newer ones are refused in one line."""

import enum
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico.agent.backbones import KINDS, BackboneConfig, backbone_kinds
from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.backbones.perceiver import PerceiverConfig
from calico.agent.config_json import dataclass_of, from_json, kinds, options, to_json
from calico.agent.data2vec.encoders import SpeechEncoderConfig
from calico.agent.data2vec.masks import BlockMask, Mask, RandomMask, SpanMask
from calico.agent.embedding import EmbeddingConfig
from calico.agent.front_end import FrontEndConfig
from calico.agent.model import ModelConfig


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True, kw_only=True)
class Car:
    kind: Literal["car"] = "car"
    wheels: int = 4


@dataclass(frozen=True, kw_only=True)
class Boat:
    kind: Literal["boat"] = "boat"
    sails: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.sails:
            raise ValueError("a boat needs a sail")


@dataclass(frozen=True, kw_only=True)
class Trip:
    name: str
    by: Car | Boat = field(default_factory=Car)
    back: Car | Boat | None = None
    size: tuple[int, float] = (1, 2.0)
    cost: float = math.inf
    where: Path = Path("a/b")
    color: Color = Color.RED
    stops: list[Boat] = field(default_factory=list)
    weights: dict[str, tuple[int, ...]] = field(default_factory=dict)


FULL = Trip(name="inf", by=Boat(sails=(2.0, math.inf)), back=Car(wheels=3), size=(3, 4.0), cost=-math.inf, where=Path("/x"),
            color=Color.BLUE, stops=[Boat()], weights={"a": (1, 2), "b": ()})


@pytest.mark.parametrize("trip", [Trip(name="x"), FULL])
@pytest.mark.parametrize("class_names", [False, True])
def test_what_is_written_comes_back(trip: Trip, class_names: bool) -> None:
    written = to_json(trip, class_names)
    assert written == json.loads(json.dumps(written, allow_nan=False))   # nothing but JSON, and no tuple
    again = from_json(Trip, written)
    assert again == trip and repr(again) == repr(trip)


@given(st.floats(), st.lists(st.floats(allow_nan=False), min_size=1), st.text(),
       st.dictionaries(st.text(), st.lists(st.integers())))
def test_any_values_come_back(cost: float, sails: list[float], name: str, weights: dict[str, list[int]]) -> None:
    trip = Trip(name=name, by=Boat(sails=tuple(sails)), cost=cost, weights={key: tuple(w) for key, w in weights.items()})
    assert repr(from_json(Trip, json.loads(json.dumps(to_json(trip), allow_nan=False)))) == repr(trip)


def test_the_shapes_of_documents() -> None:
    assert to_json(Trip(name="x", by=Boat()))["by"] == {"kind": "boat", "sails": [1.0]}
    assert to_json(FULL)["cost"] == "-inf" and to_json(FULL)["color"] == "BLUE" and to_json(FULL)["where"] == "/x"
    assert to_json({"a": (Car(),)}, class_names=True) == {"a": [{"class": "Car", "kind": "car", "wheels": 4}]}


@pytest.mark.parametrize("document, says", [
    ({"name": "x", "by": {"kind": "train"}}, "'train' is no configuration that is known here; was it written"),
    ({"name": "x", "by": {"class": "Train"}}, "'Train' is no configuration that is known here"),
    ({"name": "x", "by": {"class": [1]}}, r"\[1\] is no configuration"),
    ({"name": "x", "by": {"kind": "car", "rails": 2}}, "Car cannot be rebuilt .*'rails'.*; was it written by a newer version?"),
    ({"name": "x", "speed": 2}, "Trip cannot be rebuilt .*'speed'"),
    ({}, "Trip cannot be rebuilt .*missing.*'name'"),
    ({"name": "x", "by": 3}, "3 is no configuration"),
    ({"name": "x", "by": None}, "None is no configuration"),
    ([1], r"\[1\] is no configuration"),
    ({"name": "x", "size": [1]}, r"\[1\] should hold 2 values, not 1"),
    ({"name": "x", "color": "GREEN"}, "'GREEN' is none of RED, BLUE"),
    ({"name": "x", "by": {"kind": "boat", "sails": []}}, "^a boat needs a sail$"),
])
def test_what_cannot_be_rebuilt_is_one_line(document: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        from_json(Trip, document)
    assert "\n" not in str(caught.value) and type(caught.value) is ValueError


def test_newer_fields_take_their_defaults() -> None:
    assert from_json(Trip, {"name": "x", "by": {"kind": "boat"}, "size": [2, 3.0]}) == Trip(name="x", by=Boat(), size=(2, 3.0))


def test_classes_without_kinds_go_by_their_fields() -> None:
    for mask in (RandomMask(share=0.2), SpanMask(), BlockMask()):
        assert from_json(Mask, to_json(mask)) == mask
    assert dataclass_of(Mask, {"share": 0.5}) is RandomMask


def test_members_and_kinds_of_a_type() -> None:
    assert options(int | None) == (int,) and options(int) == (int,) and options(type(None)) == (type(None),)
    assert kinds(Car | Boat | None) == {"car": Car, "boat": Boat} and kinds(Car | None) == kinds(int) == kinds(Mask) == {}
    assert list(kinds(BackboneConfig).items()) == list(backbone_kinds().items()) and next(iter(KINDS)) == "decoder"


def test_documents_of_earlier_versions() -> None:
    """As they stand in checkpoints; no version may lose them."""
    shape = {"width": 128, "depth": 4, "heads": 4, "feedforward": 4, "context": 512, "window": 0}
    before_kinds = {"embedding": {"observation_positions": 512, "patch_channels": 16}, "backbone": shape}
    assert from_json(ModelConfig, before_kinds) == ModelConfig(
        embedding=EmbeddingConfig(observation_positions=512, patch_channels=16),
        backbone=DecoderConfig(width=128, depth=4, heads=4, context=512))
    front = {"observation_positions": 512, "patch_channels": 16, "sounds": False,
             "vision": {"encoder": "runs/x", "freeze": False}, "audio": None, "text": None}
    backbone = {"kind": "perceiver", "width": 128, "depth": 4, "heads": 4, "feedforward": 4, "context": 512, "latents": 16,
                "prefixes": 64}
    model = ModelConfig(embedding=EmbeddingConfig(patch_channels=16, vision=FrontEndConfig(encoder="runs/x", freeze=False)),
                        backbone=PerceiverConfig(width=128, depth=4, heads=4, context=512, latents=16))
    assert from_json(ModelConfig, {"embedding": front, "backbone": backbone}) == model
    assert json.dumps(to_json(model)) == json.dumps({"embedding": front | {"modalities": [], "vectors": False},
                                                 "backbone": backbone | {"stride": 1}})
    speech = {"width": 768, "depth": 12, "heads": 12, "feedforward": 3072, "epsilon": 1e-05, "dropout": 0.0, "drop_path": 0.0,
              "sample_rate": 16000, "conv_channels": [512] * 7, "conv_kernels": [10, 3, 3, 3, 3, 2, 2],
              "conv_strides": [5, 2, 2, 2, 2, 2, 2], "conv_bias": False, "position_layers": 5, "position_kernel": 19,
              "position_groups": 16}
    assert from_json(SpeechEncoderConfig, speech) == SpeechEncoderConfig()
    assert json.dumps(to_json(SpeechEncoderConfig())) == json.dumps(speech)
