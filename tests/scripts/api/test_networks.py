"""Perceivers and encoders as torch modules, from names, folders and the Hub."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import calico
from calico.agent import checkpoint
from calico.agent.data2vec.encoders import TextEncoder, VisionEncoder
from calico.agent.perceiver.runs import DOCUMENT, config_to_json
from calico.datasets.formats.hub import hub_name
from calico.scripts.api.networks import SIZES

SMALL: dict[str, Any] = {"width": 32, "depth": 2, "heads": 2}


def test_every_small_size_gives_logits_and_latents() -> None:
    model = calico.perceiver("small-classify-image-stem")
    pictures = torch.rand(2, 3, 32, 32)
    latents = calico.features(model, pictures)
    assert model(pictures).shape == (2, SIZES["small-classify-image-stem"].labels) and not model.training   # type: ignore[union-attr]
    assert latents.shape == (2, 32, 128) and not model.encoder._forward_hooks
    ids = torch.randint(6, 200, (1, 64))
    assert calico.features(calico.perceiver("small-fill-mask"), ids).shape == (1, 64, 128)


def test_a_run_and_a_folder_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = calico.perceiver("small-classify-points-points")
    document = {"task": "classify-points", "model": config_to_json(model.config), "input": None, "classes": ["a", "b"]}
    checkpoint.save(tmp_path / "run", 1, tensors={"model": model.state_dict()}, documents={DOCUMENT: document})
    again = calico.perceiver(tmp_path / "run")
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))
    asked: list[tuple[str, str | None]] = []

    def downloaded(name: str, revision: str | None) -> Path:
        asked.append((name, revision))
        return tmp_path / "run"

    monkeypatch.setattr(checkpoint, "hub_folder", downloaded)
    assert type(calico.perceiver("somebody/points@v2")) is type(model) and asked == [("somebody/points", "v2")]


def test_encoders_with_random_weights_and_from_a_run(tmp_path: Path) -> None:
    encoder = calico.data2vec("vision", **SMALL)
    assert isinstance(encoder, VisionEncoder) and not encoder.training
    hidden = calico.features(encoder, torch.rand(2, 3, 32, 32))
    assert hidden.shape[0] == 2 and hidden.shape[2] == 32
    from calico.agent.data2vec.pretrained import encoder_document

    checkpoint.save(tmp_path / "run", 1, documents={"encoder": encoder_document(encoder)},
                    tensors={"model": {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}})
    again = calico.data2vec(tmp_path / "run")
    torch.testing.assert_close(calico.features(again, torch.ones(1, 3, 32, 32)),
                               calico.features(encoder, torch.ones(1, 3, 32, 32)))
    assert isinstance(calico.data2vec("text", **SMALL), TextEncoder)
    with pytest.raises(ValueError, match="holds a vision encoder, speech was asked for"):
        calico.data2vec(tmp_path / "run", "speech")
    with pytest.raises(ValueError, match="brings its own width"):
        calico.data2vec(tmp_path / "run", width=64)


def test_what_there_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="vision-perceiver-lerned does not exist.*vision-perceiver-learned"):
        calico.perceiver("vision-perceiver-lerned")
    with pytest.raises(ValueError, match="visoin does not exist.*vision"):
        calico.data2vec("visoin")
    with pytest.raises(ValueError, match=r"data2vec\('vision'\): .*widht"):
        calico.data2vec("vision", widht=3)
    with pytest.raises(checkpoint.CheckpointError, match="Hugging Face Hub, 'nobody/nothing'"):
        calico.perceiver("nobody/nothing")
    with pytest.raises(ValueError, match="a Linear has no features"):
        calico.features(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError):
        calico.perceiver(folder)


@pytest.mark.parametrize("word, meant", [
    ("a/b", ("a/b", None)), ("a/b@main", ("a/b", "main")), ("a/b@refs/pr/1", ("a/b", "refs/pr/1")), ("a", None),
    ("a/b/c", None), ("here/b", None), ("here/b@v1", None), ("/a/b", None)])
def test_names_of_the_hub(word: str, meant: tuple[str, str | None] | None, tmp_path: Path,
                          monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub_name(word) == meant
