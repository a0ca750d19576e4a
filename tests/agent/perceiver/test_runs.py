"""Trained Perceivers on the disk: configurations come back as they were, and another task's run is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from calico.agent import checkpoint
from calico.agent.perceiver.inputs import AudioConfig, LabelConfig, MixtureConfig, PatchesConfig, TextConfig
from calico.agent.perceiver.layers import LatentConfig
from calico.agent.perceiver.runs import (
    DOCUMENT,
    check_one_class_of_several,
    config_from_json,
    config_to_json,
    load_trained,
    preparation,
)
from calico.agent.perceiver.samples import CloudInput, CroppedPictureInput, TextInput
from calico.agent.perceiver.sizes import SIZES, SMALL, SMALL_LANGUAGE
from calico.agent.perceiver.tasks import Classifier, ClassifierConfig, LanguageConfig, MaskedLanguage

LATENT = LatentConfig(latents=4, width=16, layers=1, heads=2)
TEXT = TextConfig(width=16, positions=64, grams=(2, 3), buckets=64, stride=2)


@pytest.mark.parametrize("config", [
    *SIZES.values(), SMALL_LANGUAGE, *(c for sizes in SMALL.values() for c in sizes.values()), CloudInput(dims=3),
    ClassifierConfig(reader=MixtureConfig(modalities={"a": AudioConfig(), "l": LabelConfig(), "v": PatchesConfig()},
                                          mask_probs={"a": 0.5})),
])
def test_configurations_come_back(config: object) -> None:
    written = json.loads(json.dumps(config_to_json(config)))
    assert config_from_json(written) == config


def test_a_document_of_an_earlier_version_comes_back() -> None:
    latent = {"class": "LatentConfig", "latents": 256, "width": 1280, "blocks": 1, "layers": 26, "heads": 8, "cross_attends": 1,
              "cross_heads": 8, "qk_channels": 256, "v_channels": 1280, "cross_shape": "kv", "widening": 1, "cross_widening": 1,
              "query_residual": True, "gelu": "none", "wipe_masked": False}
    text = {"class": "TextConfig", "vocab_size": 262, "positions": 2048, "width": 768, "grams": [], "buckets": 8192,
            "stride": 1}
    document = {"class": "LanguageConfig", "latent": latent, "text": text, "near": 0}
    config = config_from_json(document)
    assert config == LanguageConfig(latent=LatentConfig(width=1280, layers=26, cross_heads=8, qk_channels=256, v_channels=1280))
    assert json.dumps(config_to_json(config)) == json.dumps(document)
    older = {"class": "LanguageConfig", "latent": {"class": "LatentConfig", "width": 1280, "heads": 8}}   # before newer fields
    assert config_from_json(older) == LanguageConfig(latent=LatentConfig(width=1280))


def test_a_newer_configuration_is_named() -> None:
    with pytest.raises(ValueError, match="'QuantumConfig' is no configuration"):
        config_from_json({"class": "QuantumConfig"})
    with pytest.raises(ValueError, match="TextConfig cannot be rebuilt .*'smell'.*newer version"):
        config_from_json({"class": "TextConfig", "smell": 1})
    with pytest.raises(ValueError, match="must be of at least 2 bytes"):
        config_from_json({"class": "TextConfig", "grams": [1]})


def save(run: Path, task: str = "fill-mask") -> MaskedLanguage:
    model = MaskedLanguage(LanguageConfig(latent=LATENT, text=TEXT))
    document = {"task": task, "model": config_to_json(model.config), "input": config_to_json(TextInput(positions=64))}
    checkpoint.save(run, 3, tensors={"model": model.state_dict()}, documents={DOCUMENT: document})
    return model


def test_a_run_gives_its_model_back(tmp_path: Path) -> None:
    model = save(tmp_path).eval()
    trained = load_trained(tmp_path, ("fill-mask",))
    ids = torch.randint(262, (2, 10))
    assert torch.equal(model(ids), trained.model(ids)) and not trained.model.training
    assert preparation(trained) == TextInput(positions=64)


def test_a_run_of_another_task_or_kind_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a")
    with pytest.raises(ValueError, match="is a checkpoint of fill-mask, one of classify-image was expected"):
        load_trained(tmp_path / "a", ("classify-image",))
    checkpoint.save(tmp_path / "b", 0, tensors={"model": {"x": torch.zeros(1)}}, documents={"config": {}})
    with pytest.raises(ValueError, match="is a checkpoint of another kind; give a run of `calico perceive`"):
        load_trained(tmp_path / "b", ("classify-image",))
    with pytest.raises(ValueError, match="does not exist"):
        load_trained(tmp_path / "c", ("classify-image",))


def test_a_hugging_face_folder_tells_its_task_and_classes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.PerceiverConfig(num_latents=4, d_latents=32, d_model=16, num_self_attends_per_block=1,
                                          num_self_attention_heads=2, num_cross_attention_heads=2, vocab_size=262,
                                          max_position_embeddings=64, id2label={0: "bad", 1: "good", 2: "so so"})
    theirs = transformers.PerceiverForSequenceClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    trained = load_trained(tmp_path, ("classify-text",))
    assert trained.document["classes"] == ["bad", "good", "so so"] and preparation(trained) == TextInput(positions=64)
    assert isinstance(trained.model, Classifier)
    ids = torch.randint(262, (2, 64))
    torch.testing.assert_close(trained.model(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="is a checkpoint of classify-text, one of fill-mask"):
        load_trained(tmp_path, ("fill-mask",))


def test_a_foreign_checkpoint_with_other_tensors_names_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "perceiver", "num_cross_attention_heads": 1}')
    save_file({"perceiver.decoder.decoder.final_layer.weight": torch.zeros(3, 1280)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"tensors: .* is missing"):
        load_trained(tmp_path, ("classify-image",))


@pytest.mark.parametrize("changes", [{"num_labels": 1}, {"num_labels": 3, "problem_type": "multi_label_classification"}])
def test_outputs_that_are_no_classes_are_not_told_as_such(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A regression's one output had the probability 1, whatever it said."""
    transformers = pytest.importorskip("transformers")
    config = transformers.PerceiverConfig(num_latents=4, d_latents=32, d_model=32, num_self_attends_per_block=1,
                                          num_self_attention_heads=2, num_cross_attention_heads=2, max_position_embeddings=64,
                                          qk_channels=32, v_channels=32, **changes)
    transformers.PerceiverForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="it has . outputs for (regression|multi_label_classification); one class of several"):
        check_one_class_of_several(load_trained(tmp_path, ("classify-text",)))


def test_two_classes_without_names_and_an_image_processor_are_read(tmp_path: Path) -> None:
    """transformers leaves id2label out of config.json where there are two classes with its own names."""
    transformers = pytest.importorskip("transformers")
    config = transformers.PerceiverConfig(num_latents=4, d_latents=32, num_self_attends_per_block=1, image_size=16,
                                          num_self_attention_heads=2, num_cross_attention_heads=2, num_labels=2)
    transformers.PerceiverForImageClassificationLearned(config).save_pretrained(tmp_path)
    assert "id2label" not in json.loads((tmp_path / "config.json").read_text())
    transformers.PerceiverImageProcessorPil(size={"height": 16, "width": 16}, crop_size={"height": 20, "width": 20},
                                            image_std=[0.5, 0.5, 0.5]).save_pretrained(tmp_path)
    trained = load_trained(tmp_path, ("classify-image",))
    assert trained.document["classes"] == ["LABEL_0", "LABEL_1"]
    fit = preparation(trained)
    assert isinstance(fit, CroppedPictureInput) and (fit.side, fit.crop, fit.std) == (16, 0.8, (0.5, 0.5, 0.5))
    assert trained.model(**fit([np.zeros((30, 40, 3), np.uint8)])).shape == (1, 2)
