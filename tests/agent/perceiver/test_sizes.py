"""Published sizes have the published number of parameters."""

import pytest

from calico.agent.perceiver.hugging_face import copy_trunk
from calico.agent.perceiver.sizes import SIZES, SMALL, SMALL_LANGUAGE, named_size, on_meta
from calico.agent.perceiver.tasks import build


@pytest.mark.parametrize("name, parameters", [
    ("language-perceiver", 201_108_230),
    ("vision-perceiver-learned", 62_255_848),
    ("vision-perceiver-fourier", 48_440_627),
    ("vision-perceiver-conv", 48_646_522),
    ("optical-flow-perceiver", 41_057_134),
    ("multimodal-perceiver", 19_858_855),
    ("perceiver-imagenet", 44_912_254),      # 44.9M in the paper
])
def test_parameters(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in on_meta(named_size(name)).parameters()) == parameters


def test_every_size_is_counted_and_another_is_named() -> None:
    assert len(SIZES) == 7
    with pytest.raises(ValueError, match="size 'perceiver-giant' is unknown; choose one of language-perceiver"):
        named_size("perceiver-giant")


@pytest.mark.parametrize("task, name", [(task, name) for task, sizes in SMALL.items() for name in sizes])
def test_small_sizes_are_small(task: str, name: str) -> None:
    model = on_meta(SMALL[task][name])
    assert 2e5 < sum(p.numel() for p in model.parameters()) < 6e6


def test_a_language_model_s_trunk_serves_a_classifier_of_texts() -> None:
    language, classifier = build(SMALL_LANGUAGE), build(SMALL["classify-text"]["bytes"])
    copy_trunk(language, classifier)
    ours, theirs = classifier.state_dict(), language.state_dict()
    trunk = [name for name in ours if name.startswith(("reader.", "encoder."))]
    assert trunk and all(ours[name].equal(theirs[name]) for name in trunk)
