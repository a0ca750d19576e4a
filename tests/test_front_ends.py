"""Pre-trained encoders in front of the agent, as a user gets there: pre-train, train, play; then the encoder's run may go."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calico.agent.agent import Agent
from calico.agent.data2vec.pretrained import load_encoder
from calico.scripts.main import main

from .conftest import SmallRun

PRETRAIN = """
{field}: {{width: 16, depth: 1, heads: 2, feedforward: 24, {more}}}
modality: {field}
data: {{batch_size: 4, paths: ["{data}"]}}
objective: {{copies: 2, top_layers: 1, tau_start: 0.9, decoder: {{axes: {axes}, channels: 16, depth: 1, kernel: 3, groups: 4}}}}
training: {{steps: 2, save_every: 2, evaluate_every: 2}}
"""


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory, small_run: SmallRun) -> dict[str, Path]:
    """Two steps of data2vec on pictures and on missions."""
    folder = tmp_path_factory.mktemp("encoders")
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for number in range(16):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(folder / "pictures" / f"{number}.png")
    missions = [f"go to the {colour} {kind}" for colour in ("red", "green", "blue") for kind in ("ball", "box", "key", "door")]
    (folder / "missions.jsonl").write_text("".join(json.dumps({"text": mission}) + "\n" for mission in missions))
    runs = {}
    for field, data, axes, more in (("vision", "pictures", 2, "image_size: 16, patch_size: 8, layer_scale: 0.0"),
                                    ("text", "missions.jsonl", 1, "max_length: 12")):
        runs[field], config = folder / field, folder / f"{field}.yaml"
        config.write_text(PRETRAIN.format(field=field, data=folder / data, axes=axes, more=more))
        assert main(["pretrain", str(config), f"out={runs[field]}", *(["data.pieces=300"] if field == "text" else [])]) == 0
    return runs


def test_pre_train_train_and_play(encoders: dict[str, Path], small_run: SmallRun, tmp_path: Path,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    data, run = small_run.data / "BabyAI-GoToLocal-v0", tmp_path / "run"
    moved = {name: Path(shutil.copytree(folder, tmp_path / name)) for name, folder in encoders.items()}
    words = ["train", str(small_run.config), f"data.sources=[{{path: {data}}}]", "data.observation_text_loss=false",
             f"embedding.vision.encoder={moved['vision']}", f"embedding.text.encoder={moved['text']}", f"out={run}"]
    assert main([*words, "training.steps=2"]) == 0
    for folder in moved.values():
        shutil.rmtree(folder)
    assert main([*words, "training.steps=4"]) == 0                     # goes on without them
    embedding = Agent.load(run).model.embedding
    for name, folder in encoders.items():                              # frozen: still what was pre-trained
        theirs, ours = load_encoder(folder).state_dict(), embedding.front_end(name).encoder.state_dict()
        assert all(np.array_equal(theirs[key], ours[key]) for key in theirs), name
    assert embedding.patch_block is None
    assert main(["rollout", str(run), "BabyAI-GoToLocal-v0", "--episodes", "2", "--json"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("front, says", [
    ("vision.encoder={text}", "holds a text encoder, vision was asked for"),
    ("audio.encoder={vision}", "holds a vision encoder, speech was asked for"),
    ("vision.encoder=nowhere", "nowhere"),
    ("vision={{freeze: true}}", "embedding.vision.encoder is missing"),
    ("text.encoder={text}", "which are targets in this run; set data.observation_text_loss=false"),
])
def test_wrong_front_ends_are_one_line(encoders: dict[str, Path], small_run: SmallRun, tmp_path: Path, front: str, says: str,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    data = small_run.data / "BabyAI-GoToLocal-v0"
    assert main(["train", str(small_run.config), f"data.sources=[{{path: {data}}}]", f"out={tmp_path / 'run'}",
                 f"embedding.{front.format(**encoders)}"]) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
