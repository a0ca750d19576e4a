"""Data2Vec checkpoints: outputs equal transformers' on random models, with padding, masks and other sizes."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from calico.agent.data2vec import encoders
from calico.agent.data2vec.encoders import Encoded
from calico.agent.data2vec.hugging_face import MODALITIES, build_encoder, load_data2vec
from calico.agent.data2vec.pretrained import load_encoder

transformers = pytest.importorskip("transformers")

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
VISION: dict[str, Any] = {**SMALL, "image_size": 32, "patch_size": 8, "use_mask_token": True, "use_mean_pooling": False,
                          "layer_scale_init_value": 0.1, "layer_norm_eps": 1e-6}
SPEECH: dict[str, Any] = {**SMALL, "conv_dim": (16,) * 7, "num_conv_pos_embedding_groups": 4}
TEXT: dict[str, Any] = {**SMALL, "vocab_size": 60, "max_position_embeddings": 40, "type_vocab_size": 1}


def reference(kind: str, folder: Path, model: str = "Model", shard: str = "1GB", **options: Any) -> Any:
    """A random model of transformers with every tensor shaken, so that no forgotten bias goes unseen; saved in folder."""
    torch.manual_seed(0)
    config = getattr(transformers, f"Data2Vec{kind}Config")(**options)
    made = getattr(transformers, f"Data2Vec{kind}{model}")(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made.save_pretrained(folder, max_shard_size=shard)
    return made


def assert_equal(ours: Encoded, theirs: Any) -> None:
    torch.testing.assert_close(ours.hidden, theirs.last_hidden_state, atol=1e-5, rtol=0)
    assert len(ours.states) == len(theirs.hidden_states) == 4
    for mine, state in zip(ours.states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(mine, state, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["use_shared_relative_position_bias", "use_relative_position_bias",
                                       "use_absolute_position_embeddings"])
@pytest.mark.parametrize("size", [(32, 32), (48, 48), (24, 48)])
def test_pictures_give_the_same_states(positions: str, size: tuple[int, int], tmp_path: Path) -> None:
    theirs = reference("Vision", tmp_path, **(VISION | {positions: True}))
    ours = load_data2vec(tmp_path, "vision")
    assert isinstance(ours, encoders.VisionEncoder)
    images = torch.randn(2, 3, *size)
    masked = torch.rand(2, size[0] // 8 * size[1] // 8) < 0.5
    assert_equal(ours(images), theirs(images, output_hidden_states=True))
    assert_equal(ours.encode(ours.features(images), masked), theirs(images, bool_masked_pos=masked, output_hidden_states=True))


@torch.no_grad()
def test_pictures_without_layer_scale_final_norm_and_mask_token(tmp_path: Path) -> None:
    options = VISION | {"layer_scale_init_value": 0.0, "use_mean_pooling": True, "use_mask_token": False}
    theirs = reference("Vision", tmp_path, **options)
    images = torch.randn(2, 3, 32, 32)
    ours = load_data2vec(tmp_path)
    assert isinstance(ours, encoders.VisionEncoder)
    assert_equal(ours(images), theirs(images, output_hidden_states=True))


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"conv_bias": True, "conv_pos_kernel_size": 6}])
def test_sounds_give_the_same_states(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = reference("Audio", tmp_path, **SPEECH, **changes)
    ours = load_data2vec(tmp_path, "speech")
    assert isinstance(ours, encoders.SpeechEncoder)
    waveforms, lengths = torch.randn(3, 6000), torch.tensor([6000, 3210, 400])
    attention = (torch.arange(6000) < lengths[:, None]).long()
    whole = theirs(waveforms, output_hidden_states=True)
    assert_equal(ours(waveforms), whole)
    assert_equal(ours(waveforms * attention, lengths),
                 theirs(waveforms * attention, attention_mask=attention, output_hidden_states=True))
    masked = torch.rand(whole.last_hidden_state.shape[:2]) < 0.5
    assert_equal(ours.encode(ours.features(waveforms), masked),
                 theirs(waveforms, mask_time_indices=masked, output_hidden_states=True))


@torch.no_grad()
@pytest.mark.parametrize("model", ["Model", "ForSequenceClassification"])
def test_texts_give_the_same_states(model: str, tmp_path: Path) -> None:
    theirs = reference("Text", tmp_path, model, **TEXT)
    theirs = getattr(theirs, "data2vec_text", theirs)
    ours = load_data2vec(tmp_path, "text")
    assert isinstance(ours, encoders.TextEncoder)
    ids = torch.randint(3, 60, (3, 38))
    ids[1, 12:], ids[2, 1:] = 1, 1
    assert_equal(ours(ids), theirs(ids, attention_mask=(ids != 1).long(), output_hidden_states=True))
    masked = (torch.rand(ids.shape) < 0.5) & (ids != 1)
    replaced = torch.where(masked, 59, ids)
    assert_equal(ours.encode(ours.features(ids), masked),
                 theirs(replaced, attention_mask=(ids != 1).long(), output_hidden_states=True))


def test_released_sizes_have_the_stated_number_of_parameters() -> None:
    # the published models': 85.7 M, 93.2 M and 124.6 M with the pooler (0.59 M), which is left out here
    with torch.device("meta"):
        counts = [sum(p.numel() for p in encoder.parameters()) / 1e6 for encoder in (
            encoders.VisionEncoder(encoders.VisionEncoderConfig()), encoders.SpeechEncoder(encoders.SpeechEncoderConfig()),
            encoders.TextEncoder(encoders.TextEncoderConfig()))]
    assert [round(count, 1) for count in counts] == [85.7, 93.2, 124.1]


def test_a_checkpoint_of_another_modality_is_refused(tmp_path: Path) -> None:
    reference("Text", tmp_path, **TEXT)
    with pytest.raises(ValueError, match="is a text encoder, speech was asked for"):
        load_data2vec(tmp_path, "speech")


@pytest.mark.parametrize(("change", "message"), [
    ("drop", "the text checkpoint has no 'embeddings.LayerNorm.bias'"),
    ("add", "has 1 unknown tensors: encoder.layer.9.surprise"),
    ("reshape", r"tensor for norm.bias is \(31,\), its config.json says \(32,\)"),
])
def test_weights_that_do_not_fit_are_named(change: str, message: str, tmp_path: Path) -> None:
    reference("Text", tmp_path, **TEXT)
    weights = load_file(tmp_path / "model.safetensors")
    name = "embeddings.LayerNorm.bias"
    match change:
        case "drop":
            del weights[name]
        case "add":
            weights["encoder.layer.9.surprise"] = torch.zeros(1)
        case "reshape":
            weights[name] = torch.zeros(31)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_data2vec(tmp_path)


@torch.no_grad()
def test_shards_are_read_and_load_encoder_knows_their_folder(tmp_path: Path) -> None:
    theirs = reference("Text", tmp_path, shard="20KB", **TEXT)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ids = torch.randint(2, 60, (2, 9))
    ours = load_encoder(tmp_path, "text")
    assert_equal(ours.encode(ours.features(ids)), theirs(ids, output_hidden_states=True))
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(ValueError, match=r"\.safetensors is missing; download it again"):
        load_encoder(tmp_path)


def test_folders_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no config.json"):
        load_data2vec(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ValueError, match="pytorch_model.bin is a pickle, which is never loaded"):
        load_data2vec(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ValueError, match="cannot be read"):
        load_data2vec(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="is a 'bert' checkpoint, expected one of data2vec-vision"):
        load_data2vec(tmp_path)


FIXTURES = Path(os.environ.get("CALICO_SHARED_DATA", "../shared/data")).parent / "oracles" / "fixtures"


def oracle(name: str) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    """A reference model rebuilt from a fixture: encoder, inputs, outputs."""
    path = FIXTURES / f"data2vec_{name}.pt"
    if not path.is_file():
        pytest.skip(f"no {path}; set CALICO_SHARED_DATA")
    fixture = torch.load(path, weights_only=True)
    encoder = build_encoder(MODALITIES[fixture["config"]["model_type"]], fixture["config"], fixture["state_dict"])
    return encoder, fixture["inputs"], fixture["outputs"]


def assert_close(ours: Tensor | tuple[Tensor, ...], theirs: Tensor | list[Tensor]) -> None:
    torch.testing.assert_close(list(ours) if isinstance(ours, tuple) else ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.shared
@torch.no_grad()
@pytest.mark.parametrize("positions", ["shared", "perlayer", "abspos"])
def test_vision_oracles(positions: str) -> None:
    encoder, inputs, outputs = oracle(f"vision_{positions}")
    masked = encoder.encode(encoder.features(inputs["pixel_values"]), inputs["bool_masked_pos"])
    assert_close(masked.hidden, outputs["masked"])
    assert_close(masked.states, outputs["hidden_states"])
    assert_close(encoder(inputs["pixel_values"]).hidden, outputs["unmasked"])


@pytest.mark.shared
@torch.no_grad()
def test_speech_oracle() -> None:
    encoder, inputs, outputs = oracle("audio")
    x, attention = inputs["input_values"], inputs["attention_mask"]
    full = encoder(x)
    assert_close(full.hidden, outputs["full"])
    assert_close(full.states, outputs["hidden_states"])
    assert_close(encoder(x * attention, attention.sum(1)).hidden, outputs["padded"])
    assert_close(encoder.encode(encoder.features(x), inputs["mask_time_indices"]).hidden, outputs["masked"])


@pytest.mark.shared
@torch.no_grad()
def test_text_oracle() -> None:
    encoder, inputs, outputs = oracle("text")
    encoded = encoder(inputs["input_ids"])
    assert_close(encoded.hidden, outputs["last_hidden_state"])
    assert_close(encoded.states, outputs["hidden_states"])
