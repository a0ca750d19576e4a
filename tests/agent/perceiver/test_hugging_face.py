"""Hugging Face's checkpoints: equal to transformers for random models of each head, equal to stored outputs, faults named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from calico.agent.perceiver.hugging_face import copy_trunk, hf_parts, load_hf, picture_input
from calico.agent.perceiver.inputs import ImageConfig
from calico.agent.perceiver.samples import CroppedPictureInput
from calico.agent.perceiver.sizes import SIZES, on_meta
from calico.agent.perceiver.tasks import Autoencoder, Classifier, ClassifierConfig, Flow, MaskedLanguage

ORACLES = Path(__file__).parents[4] / "shared" / "oracles"   # ../shared, beside the checkout
SMALL = dict(num_latents=6, d_latents=16, num_self_attends_per_block=2, num_self_attention_heads=2, num_cross_attention_heads=1)
TEXT = SMALL | dict(d_model=12, max_position_embeddings=20)
VIDEO = dict(num_frames=2, image_size=2, audio_samples_per_frame=16, samples_per_patch=4, output_shape=[1, 2, 8, 8],
             output_num_channels=10, num_labels=3)


def reference(head: str, **config: Any) -> Any:
    """A random model of transformers; every parameter is shaken, so that a bias or scale left out shows."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = getattr(transformers, f"PerceiverFor{head}")(transformers.PerceiverConfig(**config)).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer += 0.2 * torch.rand_like(buffer)
    return model


def ours(theirs: Any) -> Any:
    return load_hf(theirs.state_dict(), theirs.config.to_dict())


def check(actual: Tensor, expected: Tensor) -> None:
    """Equal to 1e-5 of the largest output; shaken weights make some large."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("head", ["MaskedLM", "SequenceClassification"])
@pytest.mark.parametrize("change", [
    {},
    {"num_cross_attention_heads": 4, "qk_channels": 8, "v_channels": 16, "num_blocks": 3},
    {"cross_attention_shape_for_attention": "q", "self_attention_widening_factor": 2, "cross_attention_widening_factor": 3},
    {"hidden_act": "gelu_new", "use_query_residual": False, "num_latents": 30},   # more latents than bytes: nothing to fold
], ids=lambda change: ",".join(change) or "plain")
@torch.no_grad()
def test_text_equals_transformers(head: str, change: dict[str, Any]) -> None:
    config = TEXT | ({"num_labels": 5} if head == "SequenceClassification" else {}) | change
    if head == "MaskedLM":
        config["d_model"] = 16     # its decoder has eight heads
    theirs = reference(head, **config)
    model = ours(theirs)
    ids, mask = torch.randint(262, (3, 17)), torch.ones(3, 17, dtype=torch.bool)
    mask[1, 9:] = False
    mask[2] = False                # a row that may read nothing reads all bytes alike
    for given in (None, mask):
        expected = theirs(inputs=ids, attention_mask=None if given is None else given.long()).logits
        check(model(ids, given), expected[:, :17] if head == "MaskedLM" else expected)


@pytest.mark.parametrize("head", ["Learned", "Fourier", "ConvProcessing"])
@torch.no_grad()
def test_pictures_equal_transformers(head: str) -> None:
    theirs = reference(f"ImageClassification{head}", **SMALL, num_blocks=2, image_size=20, num_labels=7)
    model = ours(theirs)
    for height, width in ((20, 20), (25, 13)):
        images = torch.randn(2, 3, height, width)
        more = {"interpolate_pos_encoding": True} if head == "Learned" else {}
        check(model(images), theirs(inputs=images, **more).logits)


@torch.no_grad()
def test_flow_equals_transformers() -> None:
    theirs = reference("OpticalFlow", **SMALL, train_size=[9, 14])
    frames = torch.randn(2, 2, 27, 9, 14)
    check(ours(theirs)(frames, chunk=50), theirs(inputs=frames).logits)


@torch.no_grad()
def test_chunks_of_video_and_sound_equal_transformers() -> None:
    theirs = reference("MultimodalAutoencoding", **SMALL, **VIDEO)
    model = ours(theirs)
    inputs = {"image": torch.rand(2, 2, 3, 8, 8), "audio": torch.randn(2, 32, 1), "label": torch.zeros(2, 3)}
    whole = model.reconstruct(inputs, chunks=4)
    for i in range(4):
        points = {"image": torch.arange(i * 32, (i + 1) * 32), "audio": torch.arange(i * 2, (i + 1) * 2), "label": None}
        expected = theirs(inputs=inputs, subsampled_output_points=points).logits
        for name, part in model(inputs, points).items():
            check(part, expected[name])
        check(whole["image"].movedim(2, -1).flatten(1, 3)[:, i * 32:(i + 1) * 32], expected["image"])
        check(whole["audio"][:, i * 8:(i + 1) * 8], expected["audio"])
        check(whole["label"], expected["label"])


@pytest.mark.parametrize("shard", ["1GB", "20KB"])
@torch.no_grad()
def test_a_folder_is_read_whole_or_in_shards(tmp_path: Path, shard: str) -> None:
    theirs = reference("SequenceClassification", **TEXT, num_labels=4)
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "20KB")
    ids = torch.randint(262, (1, 8))
    check(load_hf(tmp_path)(ids), theirs(inputs=ids).logits)


def test_half_precision_is_widened_and_the_source_is_not_shared() -> None:
    theirs = reference("SequenceClassification", **TEXT).half()
    tensors = theirs.state_dict()
    model = load_hf(tensors, theirs.config.to_dict())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    before = tensors["perceiver.embeddings.latents"].clone()
    model.encoder.latents.data.zero_()
    assert torch.equal(tensors["perceiver.embeddings.latents"], before)


def test_tensors_that_do_not_fit_are_named_with_their_shapes() -> None:
    theirs = reference("SequenceClassification", **TEXT)
    config, tensors = theirs.config.to_dict(), theirs.state_dict()
    gone = "perceiver.encoder.self_attends.1.attention.self.key.weight"
    with pytest.raises(ValueError, match=rf"1 of \d+ tensors: {gone} \(16, 16\) is missing"):
        load_hf({name: tensor for name, tensor in tensors.items() if name != gone}, config)
    with pytest.raises(ValueError, match=r"more.weight \(2, 3\) is not part of the model"):
        load_hf(tensors | {"more.weight": torch.zeros(2, 3)}, config)
    with pytest.raises(ValueError, match=r"embeddings.latents is \(6, 16\) and not \(5, 16\)"):
        load_hf(tensors, config | {"num_latents": 5})


@pytest.mark.parametrize("files, message", [
    ({}, "has no config.json"),
    ({"config.json": "{}", "pytorch_model.bin": ""}, "pytorch_model.bin is a pickle, which is never loaded"),
])
def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_hf(tmp_path)


@pytest.mark.parametrize("config, message", [
    ({"model_type": "bert"}, "of type 'bert', not 'perceiver'"),
    ({"architectures": ["PerceiverModel"]}, r"no head of a Perceiver among 1 tensors \(\['PerceiverModel'\]\)"),
])
def test_another_class_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_hf(tmp_path)


def photo(width: int, height: int) -> np.ndarray:
    """A gradient under a fine pattern, uint8 (height, width, 3)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([255 * columns / width, 255 * rows / height, (columns // 7 + rows // 7) % 2 * 200], -1).astype(np.uint8)


@pytest.mark.parametrize("size", [(256, 256), (320, 241), (400, 101), (100, 60)])
@pytest.mark.parametrize("options", [
    {}, {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.4, 0.3]}, {"size": {"height": 96, "width": 96}, "resample": 2},
    {"crop_size": {"height": 300, "width": 300}}, {"do_center_crop": False}, {"do_rescale": False}, {"do_normalize": False},
    {"rescale_factor": 1 / 127.5},
])
def test_pictures_are_prepared_as_the_image_processor_does(
        tmp_path: Path, size: tuple[int, int], options: dict[str, Any]) -> None:
    theirs = pytest.importorskip("transformers").PerceiverImageProcessorPil(**options)
    theirs.save_pretrained(tmp_path)
    picture = photo(*size)
    expected = theirs(Image.fromarray(picture), return_tensors="np")["pixel_values"][0]
    fit = picture_input(tmp_path, ImageConfig())
    assert fit.decode_side is None      # a picture that was shrunk before would have other pixels
    np.testing.assert_allclose(fit([picture])["inputs"][0].numpy(), expected, atol=2e-5 * max(1, np.abs(expected).max()))


def test_sizes_of_older_files_are_numbers_and_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert picture_input(tmp_path, ImageConfig()) == CroppedPictureInput(side=224, shift=28)
    assert picture_input(tmp_path, ImageConfig(kind="conv", size=(56, 56))).side == 224
    learned = picture_input(tmp_path, ImageConfig(kind="conv1x1", size=(32, 32)))
    assert (learned.side, learned.crop) == (32, 0.875)
    (tmp_path / "preprocessor_config.json").write_text('{"crop_size": 128, "size": 96, "image_mean": null}')
    assert picture_input(tmp_path, ImageConfig()) == CroppedPictureInput(side=96, crop=0.75, shift=12)


@pytest.mark.parametrize("text, message", [
    ("{", "preprocessor_config.json is no JSON"),
    ('{"do_resize": false}', "do_resize=False"),
    ('{"size": {"height": 8, "width": 9}}', "is not the size of a square"),
    ('{"size": {"shortest_edge": 8}}', "cannot be applied .*height"),
    ('{"size": 300}', "size=300, crop_size=256"),
    ('{"image_mean": [0.5]}', "not enough values to unpack"),
    ('{"rescale_factor": 0}', "ZeroDivisionError"),
    ('{"resample": 9}', "9 is not a valid Resampling"),
])
def test_a_preparation_that_cannot_be_applied_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        picture_input(tmp_path, ImageConfig())


def test_a_state_dict_needs_its_config_and_a_known_activation() -> None:
    tensors = {"embedding_decoder.bias": torch.zeros(262)}
    with pytest.raises(ValueError, match="state dict came without its config"):
        load_hf(tensors)
    with pytest.raises(ValueError, match="hidden_act='relu' is not supported"):
        load_hf(tensors, {"hidden_act": "relu"})


def test_a_classifier_takes_over_the_trunk_of_a_language_model() -> None:
    theirs = reference("MaskedLM", **TEXT | {"d_model": 16})
    source = ours(theirs)
    latent, text = source.config.latent, source.config.text
    target = Classifier(ClassifierConfig(latent=latent, reader=text, labels=3))
    copy_trunk(source, target)
    ids = torch.randint(262, (1, 9))
    torch.testing.assert_close(target.encoder(target.reader(ids)), source.encoder(source.reader(ids)))
    with pytest.raises(ValueError, match=r"reader.positions.weight is \(20, 16\) in the source and \(8, 16\) in the target"):
        copy_trunk(source, Classifier(ClassifierConfig(latent=latent, reader=replace(text, positions=8))))
    with pytest.raises(ValueError, match=r"encoder.layers.2.\S+ is absent in the source"):
        copy_trunk(source, Classifier(ClassifierConfig(latent=replace(latent, layers=3), reader=text)))


def fixture(name: str) -> dict[str, Any]:
    path = ORACLES / "fixtures" / f"perceiver_{name}.pt"
    if not path.exists():
        pytest.skip(f"no {path}")
    return torch.load(path, weights_only=True)


RUNS: dict[str, tuple[type, Callable[[Any, dict[str, Any]], Tensor | dict[str, Tensor]]]] = {
    "mlm": (MaskedLanguage, lambda model, given: model(given["inputs"], given["attention_mask"].bool())),
    "textclf": (Classifier, lambda model, given: model(given["inputs"])),
    "image_learned": (Classifier, lambda model, given: model(given["inputs"])),
    "image_fourier": (Classifier, lambda model, given: model(given["inputs"])),
    "image_conv": (Classifier, lambda model, given: model(given["inputs"])),
    "flow": (Flow, lambda model, given: model(given["inputs"])),
    "multimodal": (Autoencoder, lambda model, given: model(given["inputs"], given["sub"])),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", RUNS)
@torch.no_grad()
def test_stored_outputs_come_out(name: str) -> None:
    stored = fixture(name)
    kind, run = RUNS[name]
    model = load_hf(stored["state_dict"], stored["config"])
    assert type(model) is kind
    made, expected = run(model, stored["inputs"]), stored["outputs"]["logits"]
    if isinstance(made, Tensor):
        made, expected = {"": made}, {"": expected}
    assert set(made) == set(expected)
    for key, part in made.items():
        check(part, expected[key])


@pytest.mark.shared
@pytest.mark.parametrize("name", [name for name in SIZES if name != "perceiver-imagenet"])
def test_the_released_checkpoints_tensors_are_the_named_sizes(name: str) -> None:
    path = ORACLES / f"keys_released_{name}.txt"
    if not path.exists():
        pytest.skip(f"no {path}")
    listed = dict(line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#"))
    assert {part: str(shape) for group in hf_parts(on_meta(SIZES[name])).values() for part, shape in group} == listed
