"""The side on which a key falls depends on the key alone."""

import numpy as np
import pytest

from calico.datasets.documents import Caption, Dialogue
from calico.datasets.splits import document_key, split


def test_growing_data_keep_their_split() -> None:
    small, large = split(range(300), 0.2), split(range(1000), 0.2)
    assert sorted([*large[0], *large[1]]) == list(range(1000))
    assert set(small[1]) == {i for i in large[1] if i < 300}
    assert 150 < len(large[1]) < 250
    assert split(np.arange(300), 0.2)[1].tolist() == small[1].tolist()      # NumPy seeds are the same keys
    assert split(range(300), 0.2, salt="b")[1].tolist() != small[1].tolist()


@pytest.mark.parametrize(("keys", "share", "message"), [
    (range(10), 0.0, "not between"), (range(10), 1.0, "not between"), (range(3), 1e-9, "one side empty"),
    ([], 0.5, "0 keys"),
])
def test_no_split_is_an_error(keys: list[int], share: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split(keys, share)


def test_equal_pictures_share_a_key() -> None:
    image, other = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2, 3), np.uint8)
    one = document_key(Caption(name="a", image=image, captions=("x",)))
    assert one == document_key(Caption(name="b", image=image.copy(), captions=("y",)))
    assert one != document_key(Caption(name="a", image=other, captions=("x",)))
    assert one == document_key(Dialogue(messages=[], images={"q": image}))
    assert document_key("text") != document_key("texts")
    assert document_key(Dialogue(messages=[{"role": "user", "content": "a"}])) != document_key(
        Dialogue(messages=[{"role": "user", "content": "b"}]))
