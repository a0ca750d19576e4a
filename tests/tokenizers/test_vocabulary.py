import json

import pytest

from calico.tokenizers.tokens import Kind
from calico.tokenizers.vocabulary import SPECIALS, Vocabulary, VocabularyConfig

RANGES = (Kind.TEXT, Kind.DISCRETE, Kind.CONTINUOUS, Kind.SPECIAL)


def test_disjoint_ranges_are_disjoint_and_cover_all_ids() -> None:
    vocabulary = Vocabulary(VocabularyConfig(text=700, discrete=50, continuous=60))
    ids = [i for kind in RANGES for i in range(*vocabulary.range_of(kind))]
    assert sorted(ids) == list(range(vocabulary.size))


def test_the_papers_layout_shares_discrete_ids_with_text() -> None:
    vocabulary = Vocabulary(VocabularyConfig(layout="gato", text=32_000))
    assert vocabulary.range_of(Kind.TEXT) == (0, 32_000)
    assert vocabulary.range_of(Kind.DISCRETE) == (0, 1024)
    assert vocabulary.range_of(Kind.CONTINUOUS) == (32_000, 33_024)
    assert vocabulary.separator == 33_024
    assert vocabulary.size == 33_024 + len(SPECIALS)


def test_special_tokens_have_names(vocabulary: Vocabulary) -> None:
    assert [vocabulary.special_name(getattr(vocabulary, name)) for name in SPECIALS] == list(SPECIALS)
    assert vocabulary.range_of(Kind.PAD) == (vocabulary.pad, vocabulary.pad + 1)
    assert vocabulary.range_of(Kind.PATCH) == (vocabulary.patch, vocabulary.patch + 1)
    with pytest.raises(ValueError, match="id 0 is not a special token"):
        vocabulary.special_name(0)


def test_json_round_trip(vocabulary: Vocabulary) -> None:
    again = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert again.config == vocabulary.config


@pytest.mark.parametrize(
    "values, message",
    [
        ({"text": 0}, "vocabulary.text=0 is not positive"),
        ({"layout": "flat"}, "'flat' is unknown; choose 'disjoint' or 'gato'"),
        ({"layout": "gato", "text": 500}, "only 500 text pieces"),
    ],
)
def test_impossible_sizes_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VocabularyConfig(**values)
