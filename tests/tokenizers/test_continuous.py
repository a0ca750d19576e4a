import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico.tokenizers.continuous import decode_bins, encode_bins, inverse_mu_law, mu_law

BINS = 1024


ENDS = [(-1.0, 0), (1.0, 1023), (0.0, 512), (1e9, 1023), (-1e9, 0), (math.inf, 1023), (-math.inf, 0)]
EDGES = [(np.nextafter(1, 0), 1023), (-1 + 2 / 1024, 1), (np.nextafter(-1 + 2 / 1024, -1), 0)]  # float64 only


@pytest.mark.parametrize("value, number", ENDS + EDGES)
def test_ends_stay_in_range(value: float, number: int) -> None:
    assert encode_bins(np.array([value]), BINS).tolist() == [number]


@pytest.mark.parametrize("value, number", ENDS)
def test_ends_stay_in_range_in_float32(value: float, number: int) -> None:
    assert encode_bins(np.array([value], np.float32), BINS).tolist() == [number]


def test_a_bin_decodes_to_its_centre() -> None:
    centres = decode_bins(np.arange(BINS), BINS)
    np.testing.assert_allclose(centres, (np.linspace(-1, 1, BINS + 1)[1:] + np.linspace(-1, 1, BINS + 1)[:-1]) / 2)
    np.testing.assert_array_equal(encode_bins(centres, BINS), np.arange(BINS))


def test_nan_has_no_bin() -> None:
    with pytest.raises(ValueError, match="2 of 3 values are NaN"):
        encode_bins(np.array([math.nan, 0, math.nan]), BINS)


@given(value=st.floats(-1, 1), bins=st.integers(1, 4096))
def test_bins_are_right_within_half_a_bin(value: float, bins: int) -> None:
    number = encode_bins(np.array([value]), bins)
    assert 0 <= number[0] < bins
    assert abs(decode_bins(number, bins)[0] - value) <= 1 / bins * (1 + 1e-9)


def test_mu_law_is_the_papers_formula() -> None:
    values = np.array([-256, -3.5, -0.01, 0, 1e-6, 0.1, 1, 255.9, 256])
    formula = np.sign(values) * np.log(np.abs(values) * 100 + 1) / np.log(100 * 256 + 1)
    np.testing.assert_allclose(mu_law(values), formula, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(mu_law(values.astype(np.float32)), formula, rtol=1e-5, atol=1e-7)


@given(value=st.floats(-256, 256))
def test_mu_law_inverts(value: float) -> None:
    assert inverse_mu_law(mu_law(np.array([value])))[0] == pytest.approx(value, rel=1e-9, abs=1e-12)


@given(value=st.floats(0.1, 255))
def test_a_mu_law_bin_is_right_within_about_one_percent(value: float) -> None:
    decoded = inverse_mu_law(decode_bins(encode_bins(mu_law(np.array([value])), BINS), BINS))[0]
    assert decoded == pytest.approx(value, rel=0.0115)


@settings(max_examples=200)
@given(value=st.floats(allow_nan=False, width=64) | st.floats(allow_nan=False, width=32), kind=st.sampled_from("dfe"))
def test_mu_law_stays_in_range_for_every_float(value: float, kind: str) -> None:
    with np.errstate(over="ignore"):
        compressed = mu_law(np.array([value], kind))
    assert -1 <= compressed[0] <= 1
    assert 0 <= encode_bins(compressed, BINS)[0] < BINS


def test_mu_law_takes_integers_to_the_end_of_their_range() -> None:
    assert mu_law(np.array([np.iinfo(np.int64).min, np.iinfo(np.int64).max])).tolist() == [-1, 1]
    assert math.isnan(mu_law(np.array([math.nan]))[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_value_has_the_same_bin_alone_and_among_others(dtype: type) -> None:
    values: np.ndarray = np.random.default_rng(0).normal(scale=3, size=4099).astype(dtype)
    together = encode_bins(mu_law(values), BINS)
    alone = [int(encode_bins(mu_law(values[i : i + 1]), BINS)[0]) for i in range(len(values))]
    assert together.tolist() == alone
