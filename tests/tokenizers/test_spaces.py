import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from minigrid.core.mission import MissionSpace

from calico.tokenizers.spaces import (
    AnyText,
    flatten,
    is_image,
    is_text,
    leaf_spaces,
    space_from_json,
    space_to_json,
    stack_leaves,
    unflatten,
)


def assert_equal(one: Any, other: Any) -> None:
    """Trees of the same structure, types and values."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, tuple):
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        np.testing.assert_array_equal(one, other)
        assert np.asarray(one).dtype == np.asarray(other).dtype


def test_unflatten_gives_back_what_was_flattened(space: spaces.Space[Any]) -> None:
    for _ in range(5):
        value = space.sample()
        leaves = flatten(space, value)
        assert list(leaves) == list(leaf_spaces(space))
        again = unflatten(space, leaves)
        assert_equal(again, value)
        assert space.contains(again)


def test_json_gives_back_the_same_space(space: spaces.Space[Any]) -> None:
    values = json.loads(json.dumps(space_to_json(space), allow_nan=False))
    again = space_from_json(values)
    assert space_to_json(again) == values
    for (name, one), (name_again, other) in zip(leaf_spaces(space).items(), leaf_spaces(again).items(), strict=True):
        assert name == name_again
        assert (is_text(other) and is_text(one)) if type(one).__name__ == "MissionSpace" else one == other
        assert one.dtype == other.dtype


def test_leaves_stand_in_lexicographic_order_and_tuples_by_index(all_spaces: dict[str, spaces.Space[Any]]) -> None:
    assert list(leaf_spaces(all_spaces["nested"])) == ["a/image", "a/mission", "z/0/y", "z/1"]
    assert list(leaf_spaces(all_spaces["tuple"])) == [str(i) for i in range(12)]
    assert list(leaf_spaces(spaces.Discrete(2))) == [""]
    kept = spaces.Dict([("b", spaces.Discrete(2)), ("a", spaces.Discrete(3))])  # Gymnasium keeps this order
    assert list(kept.spaces) == ["b", "a"]
    assert list(leaf_spaces(kept)) == list(flatten(kept, {"b": 1, "a": 2})) == ["a", "b"]
    assert list(
        leaf_spaces(spaces.Dict({"B": spaces.Discrete(2), "a": spaces.Discrete(2), "_": spaces.Discrete(2)}))
    ) == ["B", "_", "a"]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Sequence(spaces.Discrete(3)),
        spaces.Graph(spaces.Discrete(3), None),
        spaces.OneOf([spaces.Discrete(2), spaces.Discrete(3)]),
    ],
    ids=["sequence", "graph", "one_of"],
)
def test_a_space_without_tokens_is_named(space: spaces.Space[Any]) -> None:
    nested = spaces.Dict({"a": spaces.Discrete(2), "deep": spaces.Tuple([space])})
    with pytest.raises(ValueError, match=f"'deep/0' is {type(space).__name__}.*use Box, Discrete"):
        leaf_spaces(nested)
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        space_to_json(nested)


def test_two_leaves_of_one_name_are_refused() -> None:
    clash = spaces.Dict({"a/b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(3)})})
    with pytest.raises(ValueError, match="two leaves are named 'a/b'"):
        leaf_spaces(clash)


def test_values_that_are_not_of_the_tree_are_named(all_spaces: dict[str, spaces.Space[Any]]) -> None:
    with pytest.raises(ValueError, match=r"must have the keys \['a', 'b', 'c'\], got \['a', 'b'\]"):
        flatten(all_spaces["dict"], {"a": np.zeros(2), "b": 0})
    with pytest.raises(ValueError, match="value 'z' must be a tuple of 2 parts, got 1 parts"):
        flatten(all_spaces["nested"], {"a": {"image": 0, "mission": ""}, "z": (1,)})
    with pytest.raises(ValueError, match="leaf 'b' is missing"):
        unflatten(all_spaces["dict"], {"a": np.zeros(2), "c": "x"})


def test_leaves_stack_over_steps() -> None:
    rows = [{"a": np.array([1, 2]), "t": "one"}, {"a": np.array([3, 4]), "t": "three"}]
    stacked = stack_leaves(rows)
    assert stacked["a"].tolist() == [[1, 2], [3, 4]]
    assert stacked["t"].dtype == object
    assert stacked["t"].tolist() == ["one", "three"]
    assert stack_leaves([]) == {}
    with pytest.raises(ValueError, match=r"leaf 'a' has several shapes: \(2,\), \(3,\)"):
        stack_leaves([{"a": np.zeros(2)}, {"a": np.zeros(3)}])
    with pytest.raises(ValueError, match="leaf 'a' is missing in one of the 2 steps"):
        stack_leaves([{"a": np.zeros(2)}, {}])


@given(
    low=st.floats(-1e6, 1e6),
    width=st.floats(0, 1e6),
    bounded=st.tuples(st.booleans(), st.booleans()),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_bounds_survive_json_exactly(low: float, width: float, bounded: tuple[bool, bool], dtype: str) -> None:
    lows = np.array([low if bounded[0] else -np.inf, low], dtype)
    highs = np.array([low + width if bounded[1] else np.inf, low + width], dtype)
    box = spaces.Box(lows, highs, dtype=np.dtype(dtype).type)
    again = space_from_json(json.loads(json.dumps(space_to_json(box), allow_nan=False)))
    assert isinstance(again, spaces.Box)
    np.testing.assert_array_equal(again.low, box.low)
    np.testing.assert_array_equal(again.high, box.high)


def test_infinities_are_strings_in_json() -> None:
    assert space_to_json(spaces.Box(-np.inf, np.inf, (2,))) == {
        "type": "Box",
        "low": "-inf",
        "high": "inf",
        "shape": [2],
        "dtype": "float32",
    }


def test_minigrids_missions_are_text() -> None:
    mission = MissionSpace(lambda color: f"go to the {color} ball", [["red", "blue"]])
    assert is_text(mission)
    assert space_to_json(mission) == {"type": "AnyText"}
    assert space_from_json({"type": "AnyText"}) == AnyText()
    assert all(AnyText(seed).sample() in AnyText() for seed in range(5))
    assert 3 not in AnyText()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"type": "Blob"}, "'Blob'.* describes no space; use Box"),
        ({}, "describes no space"),
        ({"type": "Dict"}, "describes no space"),
        ({"type": "Tuple", "spaces": 3}, "describes no space"),
        ({"type": "Tuple", "spaces": [None]}, "None describes no space"),
        ({"type": "Box", "low": 0}, "describes no space: KeyError: 'dtype'"),
        ({"type": "Box", "low": [0, 0], "high": 1, "shape": [3], "dtype": "float32"}, "broadcast"),
        ({"type": "Discrete", "n": "3", "start": 0, "dtype": "int64"}, "n"),
        ({"type": "MultiDiscrete", "nvec": [-1], "start": [0], "dtype": "int64"}, "have to be positive"),
    ],
)
def test_json_that_is_no_space_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        space_from_json(values)


def test_what_counts_as_an_image(all_spaces: dict[str, spaces.Space[Any]]) -> None:
    images = {name for name, space in all_spaces.items() if is_image(space)}
    assert images == {"image", "image_grey", "image_four"}
    assert not is_image(spaces.Box(0, 255, (15, 64, 3), np.uint8))
    assert not is_image(spaces.Box(0, 255, (64, 64, 5), np.uint8))
    assert not is_image(spaces.Box(0, 7, (64, 64, 3), np.uint8))
    assert not is_image(spaces.Box(0, 255, (64, 64, 3), np.int64))
    assert not is_image(spaces.Box(0, 1, (64, 64, 3)))
