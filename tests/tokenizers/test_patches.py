import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from calico.tokenizers.patches import encode_image, patch_intervals

from .conftest import joined


@settings(max_examples=60, deadline=None)
@example(height=1, width=1, channels=1, number=1)
@example(height=16, width=17, channels=4, number=2)
@given(height=st.integers(1, 70), width=st.integers(1, 70), channels=st.integers(1, 4), number=st.integers(0, 3))
def test_images_of_any_size_come_back(height: int, width: int, channels: int, number: int) -> None:
    images = np.random.default_rng(height * width).integers(0, 256, (number, height, width, channels), dtype=np.uint8)
    patches, intervals = encode_image(images)
    rows, columns = -(-height // 16), -(-width // 16)
    assert patches.shape == (number, rows * columns, 4, 16, 16)
    assert intervals.shape == (rows * columns, 4)
    assert not patches[:, :, channels:].any()
    np.testing.assert_array_equal(joined(patches, height, width, channels), images)


def test_patches_stand_in_raster_order_padded_with_zeros() -> None:
    image = np.zeros((1, 18, 33, 2), np.uint8)
    image[0, :, :, 0], image[0, :, :, 1] = np.arange(33), np.arange(18)[:, None]
    patches, _ = encode_image(image)
    np.testing.assert_array_equal(patches[0, 1, 0], np.tile(np.arange(16, 32), (16, 1)))  # second: to the right
    assert patches[0, 3, 1, :2].tolist() == [[16] * 16, [17] * 16]  # fourth: second row
    assert not patches[0, 3, :, 2:].any()
    assert patches[0, 2, 0, :, 0].tolist() == [32] * 16
    assert not patches[0, 2, :, :, 1:].any()


def test_intervals_of_a_small_image() -> None:
    assert patch_intervals(32, 48).tolist() == [
        [0, 64, 0, 42],
        [0, 64, 42, 85],
        [0, 64, 85, 128],
        [64, 128, 0, 42],
        [64, 128, 42, 85],
        [64, 128, 85, 128],
    ]


@given(rows=st.integers(1, 300), columns=st.integers(1, 300))
@settings(max_examples=50, deadline=None)
def test_intervals_are_never_empty_and_stay_inside(rows: int, columns: int) -> None:
    intervals = patch_intervals(rows * 16, columns * 16 - 15).astype(int)
    assert (intervals[:, 0] < intervals[:, 1]).all()
    assert (intervals[:, 2] < intervals[:, 3]).all()
    assert intervals.min() == 0 and intervals.max() == 128


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 16, 16, 3)),
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((1, 16, 16, 5), np.uint8),
        np.zeros((1, 0, 16, 3), np.uint8),
        np.zeros((1, 16, 16, 0), np.uint8),
    ],
    ids=["float", "rank", "channels", "no_rows", "no_channels"],
)
def test_what_is_no_image_is_refused(images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"images must be uint8 \(N, H, W, C\) with 1 to 4 channels"):
        encode_image(images)
