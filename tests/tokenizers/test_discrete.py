import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico.tokenizers.discrete import decode_discrete, encode_discrete, join_digits, split_digits


def test_values_shift_to_zero_and_back() -> None:
    low, count = np.array([-2, 10]), np.array([3, 1])
    values = np.array([[-2, 10], [0, 10]], np.int8)
    numbers = encode_discrete(values, low, count)
    assert numbers.tolist() == [[0, 0], [2, 0]]
    np.testing.assert_array_equal(decode_discrete(numbers, low), values)


@pytest.mark.parametrize("value", [-3, 1])
def test_a_value_outside_is_named(value: int) -> None:
    with pytest.raises(ValueError, match=rf"value {value} at index \(1, 0\) is outside \[-2, 1\)"):
        encode_discrete(np.array([[0], [value]]), -2, 3)


@pytest.mark.parametrize("values", [np.array([[1.0]]), np.array([["1"]]), np.array([[None]])])
def test_only_integers_are_discrete(values: np.ndarray) -> None:
    with pytest.raises(TypeError, match="must be integers"):
        encode_discrete(values, 0, 3)


@given(number=st.integers(0, 2**62), base=st.integers(2, 2048))
def test_digits_join_to_the_number(number: int, base: int) -> None:
    digits = 1
    while base**digits <= number:
        digits += 1
    split = split_digits(np.array([[number]]), base, digits)
    assert ((split >= 0) & (split < base)).all()
    assert join_digits(split, base).tolist() == [[number]]


def test_digits_are_most_significant_first() -> None:
    assert split_digits(np.array([1234]), 10, 5).tolist() == [[0, 1, 2, 3, 4]]
