"""Folders of Hugging Face checkpoints: one file and shards read alike, everything broken is named, pickles stay closed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from calico.agent.hugging_face_folder import INDEX, is_hugging_face, read_folder

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2), "b.weight": torch.zeros(3, dtype=torch.float16)}


def write_shards(folder: Path, **shard_of: str) -> None:
    """The index says what is given; the shards hold what they should."""
    (folder / "config.json").write_text('{"model_type": "x"}')
    save_file({name: TENSORS[name] for name in ("a.weight", "a.bias")}, folder / "1.safetensors")
    save_file({"b.weight": TENSORS["b.weight"]}, folder / "2.safetensors")
    whole = {"a.weight": "1.safetensors", "a.bias": "1.safetensors", "b.weight": "2.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": whole | shard_of}))


@pytest.mark.parametrize("sharded", [False, True])
def test_a_folder_is_read_whole_or_in_shards(tmp_path: Path, sharded: bool) -> None:
    assert not is_hugging_face(tmp_path)
    write_shards(tmp_path)
    if not sharded:
        save_file(TENSORS, tmp_path / "model.safetensors")
        (tmp_path / "1.safetensors").unlink()      # left over by another save; transformers does not look either
    assert is_hugging_face(tmp_path)
    config, tensors = read_folder(tmp_path)
    assert config == {"model_type": "x"} and tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype


@pytest.mark.parametrize("files, message", [
    ({}, "has no config.json; give the folder of a Hugging Face checkpoint"),
    ({"config.json": "{"}, "config.json is no JSON"),
    ({"config.json": "\udcff"}, "config.json is no JSON"),
    ({"config.json": "[]"}, "holds a list, an object was expected"),
    ({"config.json": "{}"}, "model.safetensors is missing; download it again"),
    ({"config.json": "{}", "pytorch_model.bin": ""}, "pytorch_model.bin is a pickle, which is never loaded: save the"),
    ({"config.json": "{}", "model.safetensors": "?"}, "model.safetensors cannot be read"),
    ({"config.json": "{}", INDEX: "{"}, "index.json is no JSON"),
    ({"config.json": "{}", INDEX: '{"metadata": {}}'}, "has no weight_map from tensors to files"),
    ({"config.json": "{}", INDEX: '{"weight_map": ["a"]}'}, "has no weight_map from tensors to files"),
    ({"config.json": "{}", INDEX: '{"weight_map": {"a": 1}}'}, "names 1, a file beside it was expected"),
    ({"config.json": "{}", INDEX: '{"weight_map": {"a": "../b.safetensors"}}'}, "names '../b.safetensors', a file beside it"),
    ({"config.json": "{}", INDEX: '{"weight_map": {"a": "b.safetensors"}}'}, "b.safetensors is missing; download it again"),
])
def test_what_is_broken_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path)


def test_a_tensor_that_no_shard_holds_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, **{"c.weight": "2.safetensors"})
    with pytest.raises(ValueError, match=r"1 of the 4 tensors in .* are in no shard: c.weight; download the folder again"):
        read_folder(tmp_path)


def test_a_run_of_ours_is_no_hugging_face_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    assert not is_hugging_face(tmp_path)
