"""Reading encoders back: from runs, from Hugging Face's folders, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from calico.agent import checkpoint
from calico.agent.data2vec import encoders
from calico.agent.data2vec.encoders import Encoder
from calico.agent.data2vec.pretrained import encoder_document, load_encoder, load_pretrained

SMALL: dict[str, Any] = {"width": 32, "depth": 1, "heads": 2, "feedforward": 48}
ENCODERS: dict[str, Encoder] = {
    "vision": encoders.VisionEncoder(encoders.VisionEncoderConfig(**SMALL, image_size=16, patch_size=4)),
    "speech": encoders.SpeechEncoder(encoders.SpeechEncoderConfig(
        **SMALL, sample_rate=8000, conv_channels=(8, 8), conv_kernels=(4, 2), conv_strides=(2, 2))),
    "text": encoders.TextEncoder(encoders.TextEncoderConfig(**SMALL, vocab_size=30, max_length=9, mask=29, pad=0))}


def save(encoder: Encoder, run: Path, **documents: Any) -> Path:
    """As a run does: the encoder among other things."""
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()} | {"head.weight": torch.zeros(3)}
    return checkpoint.save(run, 7, tensors={"model": weights}, documents={"encoder": encoder_document(encoder), **documents})


@pytest.mark.parametrize("modality", ENCODERS)
def test_an_encoder_comes_back_from_a_runs_folder(modality: Any, tmp_path: Path) -> None:
    encoder = ENCODERS[modality]
    step = save(encoder, tmp_path)
    for folder in (tmp_path, step, str(tmp_path)):
        found = load_encoder(folder, modality)
        assert type(found) is type(encoder) and found.config == encoder.config and not found.training
        assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in encoder.state_dict().items())


def test_another_modality_is_refused(tmp_path: Path) -> None:
    save(ENCODERS["speech"], tmp_path)
    with pytest.raises(ValueError, match="holds a speech encoder, vision was asked for; choose another run"):
        load_encoder(tmp_path, "vision")


def test_what_holds_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(checkpoint.CheckpointError, match="does not exist"):
        load_encoder(tmp_path / "none")
    checkpoint.save(tmp_path, 1, tensors={"model": {"x": torch.zeros(1)}}, documents={})
    with pytest.raises(checkpoint.CheckpointError, match="holds no pre-trained encoder"):
        load_encoder(tmp_path)
    document = encoder_document(ENCODERS["vision"])
    document["config"]["colour"] = "blue"
    checkpoint.save(tmp_path, 2, tensors={"model": {"x": torch.zeros(1)}}, documents={"encoder": document})
    with pytest.raises(checkpoint.CheckpointError, match="holds no encoder that this Calico can rebuild"):
        load_encoder(tmp_path)


def test_hugging_faces_folders_are_read_too(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Data2VecVisionConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
                                               image_size=16, patch_size=4, use_mean_pooling=False)
    transformers.Data2VecVisionModel(config).save_pretrained(tmp_path)
    found = load_pretrained(tmp_path, "vision")
    assert found.modality == "vision" and found.text is None and found.encoder.width == 32
    with pytest.raises(ValueError, match="is a vision encoder, text was asked for"):
        load_pretrained(tmp_path, "text")
