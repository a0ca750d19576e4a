"""The nearest word, and the end of an error that names it."""

from calico.tokenizers.spelling import did_you_mean, nearest

VERBS = ("train", "evaluate", "rollout")


def test_the_nearest_come_first_and_only_so_many() -> None:
    assert nearest("trian", VERBS) == ["train"]
    assert nearest("train", ("trains", "train", "rain"), count=2)[0] == "train"
    assert len(nearest("train", ("trains", "train", "rain"), count=2)) == 2
    assert nearest("xyz", VERBS) == [] and nearest("train", ()) == []


def test_a_lower_cutoff_reaches_further() -> None:
    assert nearest("roll", VERBS, cutoff=0.9) == [] and nearest("roll", VERBS, cutoff=0.5) == ["rollout"]


def test_the_end_of_an_error() -> None:
    assert did_you_mean("evalute", dict.fromkeys(VERBS)) == "; did you mean evaluate?"
    assert did_you_mean("xyz", VERBS) == "" and did_you_mean("xyz", VERBS, otherwise="; there are: a") == "; there are: a"
