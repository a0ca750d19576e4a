"""Published sizes have the published number of parameters, and Hugging Face's details are set together."""

import pytest

from calico.agent.perceiver.hugging_face import copy_trunk
from calico.agent.perceiver.inputs import ImageConfig
from calico.agent.perceiver.sizes import SIZES, SMALL, SMALL_LANGUAGE, hf_exact, named_size, on_meta
from calico.agent.perceiver.tasks import AutoencoderConfig, ClassifierConfig, build


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
    copy_trunk(build(SMALL_LANGUAGE), build(SMALL["classify-text"]["bytes"]))


@pytest.mark.parametrize("name", SIZES)
def test_hugging_faces_details_are_set_together(name: str) -> None:
    made = hf_exact(SIZES[name])
    assert made.latent.gelu == "none" and not made.latent.wipe_masked and hf_exact(made) == made
    if isinstance(made, AutoencoderConfig):
        assert made.label_mask_prob == 1
    if isinstance(made, ClassifierConfig):
        assert made.query_residual and isinstance(made.reader, ImageConfig) and made.reader.padding == "even"
