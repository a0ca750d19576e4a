"""The side on which a key falls depends on the key alone."""

import numpy as np
import pytest

from calico.datasets.documents import Caption, Dialogue
from calico.datasets.splits import LONG, document_key, split, split_texts


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


def test_a_long_text_gives_away_its_end_and_short_ones_stand_on_one_side() -> None:
    book = "".join(f"line {n}\n" for n in range(LONG // 4))
    texts = [f"review {n}" for n in range(200)] + [book, "x" * (LONG + 1)]
    train, held = split_texts(texts, 0.2)
    assert sorted([*train, *held]) == sorted([*texts[:200], *(side[-2] for side in (train, held)), "x" * 8000, "x" * 2001])
    assert train[-2] + held[-2] == book and train[-2].endswith("\n") and 0.19 < len(held[-2]) / len(book) < 0.21
    assert 20 < len(held) < 70
    assert train.characters.tolist() == [len(text) for text in train] and train.fingerprint != held.fingerprint
    grown, _ = split_texts([*texts, "one more review"], 0.2)
    assert set(train) <= set(grown)


@pytest.mark.parametrize(("texts", "share", "message"), [
    (["a"], 0.5, "of 1 texts leaves one side empty"), ([], 0.5, "of 0 texts"), (["a" * 2 * LONG], 1.0, "not between")])
def test_texts_that_cannot_be_divided(texts: list[str], share: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_texts(texts, share)
