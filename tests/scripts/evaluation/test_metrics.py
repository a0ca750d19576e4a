"""Each score against a case from its paper, one worked out by hand, or another program's figure."""

import math

import pytest

from calico.scripts.evaluation.metrics import Likelihood, bleu_4, cider_d, distinct, rouge_l, vqa_accuracy, vqa_normal, words

TEXTS = ["a black dog and a white dog are fighting", "a girl in a wooden playhouse", "a man sits on a bench with a dog"]
REFERENCES = [["A black dog and a spotted dog are fighting", "Two dogs on pavement moving toward each other."],
              ["A little girl climbing into a wooden playhouse.", "A girl going into a wooden building."],
              ["A man lays on a bench while his dog sits by him."]]


def test_words_are_split_as_for_the_caption_scores() -> None:
    assert words("The dog's tail isn't wet.") == ["the", "dog", "'s", "tail", "is", "n't", "wet"]
    assert words('A tri-colored one: can\'t, "I\'m" -- here!') == ["a", "tri-colored", "one", "ca", "n't", "i", "'m", "here"]
    assert words("  ...") == []


@pytest.mark.parametrize(("text", "reference", "expected"), [
    ("a b c d", "a b c d", 10),
    ("a b c d", "a b c e", 10 * (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4),          # all equally rare: the shares of the n-grams
    ("a b c d", "a b c d e", 10 * math.exp(-1 / 72) * sum(k / math.sqrt(k * (k + 1)) for k in (4, 3, 2, 1)) / 4),
    ("a a a a", "a b c d", 10 * (1 / 8) / 4),                             # repeating what is right does not pay
    ("x", "a b c d", 0), ("", "a b c d", 0),
])
def test_cider_by_hand(text: str, reference: str, expected: float) -> None:
    """Of two texts the other is right, with words of its own: it scores 10 and makes every n-gram as rare as log 2."""
    assert cider_d([text, "one two six ten"], [[reference], ["one two six ten"]]) == pytest.approx((expected + 10) / 2)


def test_cider_of_captions() -> None:
    # the published formula, written a second time with dense loops over n-grams, gives this figure to all its digits
    assert cider_d(TEXTS, REFERENCES) == pytest.approx(2.5477824163546905, abs=1e-12)
    assert cider_d(["a b c d"], [["a b c d"]]) == 0      # nothing is rare in a set of one


def test_bleu_by_hand() -> None:
    precisions = 6 / 6, 4 / 5, 3 / 4, 2 / 3
    expected = math.prod(precisions) ** (1 / 4) * math.exp(1 - 7 / 6)
    assert bleu_4(["The cat sat on the mat."], [["the cat sat on the red mat"]]) == pytest.approx(expected)
    assert bleu_4(["the the the the the the the"], [["the cat is on the mat"]]) == 0      # the paper's section 2.1
    assert bleu_4(["a b c d e"], [["a b c d e x", "z z z z"]]) == 1      # of 6 and 4 words, as near: the shorter counts
    assert bleu_4(["a b c d e"], [["a b c d e x", "z z z"]]) == pytest.approx(math.exp(1 - 6 / 5))


def test_bleu_of_captions() -> None:
    # sacrebleu 2.6.0: corpus_bleu(tokenize="none", smooth_method="none") of the same words
    assert 100 * bleu_4(TEXTS, REFERENCES) == pytest.approx(32.28621489959689, abs=1e-10)


@pytest.mark.parametrize(("text", "expected"), [("police kill the gunman", 0.75), ("the gunman kill police", 0.5), ("x", 0)])
def test_rouge_of_the_paper(text: str, expected: float) -> None:
    """Lin (2004), section 3.1: precision equals recall, so any beta gives the figure."""
    assert rouge_l([text], [["police killed the gunman"]]) == pytest.approx(expected)


def test_rouge_takes_the_best_of_the_references() -> None:
    precision, recall = 2 / 2, 2 / 3       # of "a b": precision by any, recall by the shorter
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l(["a b"], [["a c b d", "a b c"]]) == pytest.approx(expected)


@pytest.mark.parametrize("score", [cider_d, bleu_4, rouge_l])
def test_texts_need_references(score) -> None:   # type: ignore[no-untyped-def]
    for texts, references in ((), ()), (("a",), ()), (("a",), ((),)):
        with pytest.raises(ValueError, match="each text needs a group of at least one"):
            score(texts, references)


@pytest.mark.parametrize(("said", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_vqa_accuracy_by_how_many_said_it(said: int, expected: float) -> None:
    """Ten people, each left out once: with three who said it, three times 2/3 and seven times 1."""
    assert vqa_accuracy("cat", ["cat"] * said + [f"dog {i}" for i in range(10 - said)]) == pytest.approx(expected)


def test_vqa_answers_are_normalised_as_by_the_evaluation() -> None:
    for answer, expected in {"The Cat.": "cat", "two dogs": "2 dogs", "none": "0", "1,000": "1000", "3.5": "3.5", "U.S.": "us",
                             "yes, it is": "yes it is", "red/blue": "red blue", "don't": "don t", " a\tb\n": "b"}.items():
        assert vqa_normal(answer) == expected
    assert vqa_accuracy("The 2 dogs", ["two dogs", "2 dogs", "dogs", "two dogs."] + ["x"] * 6) == pytest.approx(0.9)
    assert vqa_accuracy("A cat", ["cat"] * 10) == 0            # where all agree, the evaluation compares as it stands
    assert vqa_accuracy("True.", ["true"]) == 1                # a single answer, as in other sets
    with pytest.raises(ValueError, match="at least one answer"):
        vqa_accuracy("x", [])


def test_distinct_by_hand() -> None:
    assert distinct(["a b a", "A b."], 1) == 2 / 5
    assert distinct(["a b a", "A b."], 2) == 2 / 3             # a b, b a, a b: none across texts
    assert distinct(["a", ""], 2) == 0


def test_likelihood_by_hand() -> None:
    """Every token is one of 16, four bits each, and stands for two bytes."""
    found = Likelihood(nats=2 * math.log(16), tokens=2, bytes=4) + Likelihood(nats=math.log(16), tokens=1, bytes=2)
    assert found.bits_per_byte == pytest.approx(12 / 6)
    assert found.perplexity_per_token == pytest.approx(16)
    assert found.perplexity_per_byte == pytest.approx(4)
