"""Sidecars and documents of checkpoints whose fields are missing or of another type, with digests that fit: one line each."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calico.agent import checkpoint
from calico.agent.agent import Agent
from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.embedding import EmbeddingConfig
from calico.agent.model import ModelConfig
from calico.datasets.episodes import EpisodeReader, EpisodeWriter
from calico.datasets.formats.parquet_part import sidecar_digest
from calico.datasets.publish import digest
from calico.tokenizers.episode import Episode
from calico.tokenizers.text import TextTokenizer

from ..agent.conftest import VOCABULARY

WRONG: tuple[Any, ...] = (None, -1, 1 << 70, 1.5, "x", "\x1b[2J", [], {}, [[]], {"a": 1}, True)


def mutations(value: Any) -> Iterator[Any]:
    """The tree with one entry left out, or replaced by something of another kind; the first entry of a list stands for all."""
    if isinstance(value, dict):
        for key in value:
            yield {name: inner for name, inner in value.items() if name != key}
            for other in (*WRONG, *mutations(value[key])):
                yield {**value, key: other}
    elif isinstance(value, list) and value:
        for other in (*WRONG, *mutations(value[0])):
            yield [other, *value[1:]]


def episode() -> Episode:
    return Episode(task="t", seed=0, observations={"": np.zeros((4, 2), np.float32)}, actions={"": np.zeros(3, np.int64)},
                   demonstrated=np.ones(3, bool), rewards=np.ones(3), terminated=True, truncated=False)


def test_every_field_of_a_sidecar_may_lie(tmp_path: Path) -> None:
    task = {"name": "t", "observation_space": {"type": "Box", "low": -1.0, "high": 1.0, "shape": [2], "dtype": "float32"},
            "action_space": {"type": "Discrete", "n": 2, "start": 0, "dtype": "int64"}}
    with EpisodeWriter(tmp_path, task) as writer:
        writer.append(episode())
    side = tmp_path / "_part-00000.json"
    good = json.loads(side.read_text())
    refused = opened = 0
    for wrong in mutations(copy.deepcopy(good)):
        wrong["digest"] = sidecar_digest(wrong)
        side.write_text(json.dumps(wrong))
        try:
            reader = EpisodeReader(tmp_path)
            assert len(reader) >= 0 and reader.fingerprint
            for number in range(len(reader)):
                assert isinstance(reader[number], Episode)
            opened += 1
        except ValueError as error:
            assert str(error)
            refused += 1
    assert refused > 200 and opened > 20     # what only describes, such as versions, may say anything


def replaced(folder: Path, name: str, document: Any) -> None:
    """Another document in a checkpoint, with the digests of a stranger who knows how to make them."""
    data = json.dumps(document).encode()
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": checkpoint.sha256_now(folder / name)}
    manifest["sha256"] = digest({key: value for key, value in manifest.items() if key != "sha256"})
    (folder / checkpoint.MANIFEST).write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def agent() -> Agent:
    config = ModelConfig(embedding=EmbeddingConfig(observation_positions=8, patch_channels=4),
                         backbone=DecoderConfig(width=16, depth=1, heads=1, context=16))
    return Agent.build(config, VOCABULARY, TextTokenizer.train(["a red ball on the left"], 300), {})


@pytest.mark.parametrize("name", ["model", "vocabulary", "tasks", "encoders"])
def test_every_field_of_a_checkpoints_documents_may_lie(agent: Agent, tmp_path: Path, name: str) -> None:
    folder = checkpoint.save(tmp_path, 1, tensors={"model": agent.model.state_dict()},
                             documents={**agent.documents(), "state": {}}, files=agent.files())
    good = json.loads((folder / f"{name}.json").read_text())
    for wrong in (*WRONG, *mutations(good)):
        replaced(folder, f"{name}.json", wrong)
        try:
            Agent.load(folder)
        except ValueError as error:
            assert str(folder) in str(error)


@pytest.mark.parametrize("change", [
    {"step": "x"}, {"step": -1}, {"files": []}, {"files": {"../x": {"bytes": 1, "sha256": "a"}}}, {"files": {"a": 1}},
    {"files": {"a": {"bytes": "1", "sha256": 3}}}, {"versions": [1]}, {"versions": {"torch": 2}}, {"format": "1"},
    {"format": 9}, {"extra": 1}, {"files": {1: {"bytes": 1, "sha256": "a"}}}])
def test_every_field_of_a_manifest_may_lie(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = checkpoint.save(tmp_path, 1, tensors={}, documents={"a": 1})
    manifest = json.loads((folder / checkpoint.MANIFEST).read_text()) | change
    manifest["sha256"] = digest({key: value for key, value in manifest.items() if key != "sha256"})
    (folder / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(checkpoint.CheckpointError, match=str(folder)):
        checkpoint.load(folder)
