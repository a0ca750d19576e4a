"""calico perceive flow: trained on textures, continued, applied to two frames of any size, measured on pairs with truth."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from calico.agent.perceiver.layers import LatentConfig
from calico.agent.perceiver.tasks import FlowConfig
from calico.datasets.samples.flow import read_flow, write_flo
from calico.scripts.main import main

TINY = FlowConfig(latent=LatentConfig(latents=8, width=16, layers=1, heads=2), size=(8, 12), bands=2, project=8, search=1,
                  query_residual=True)
FLOW = "perceive", "flow"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calico.scripts.perceiver_tasks.flow.SMALL_FLOW", TINY)
    monkeypatch.setattr("calico.scripts.perceiver_tasks.flow.BANK", 8)
    monkeypatch.setattr("calico.scripts.perceiver_tasks.flow.HELD_OUT", (1, 4))


def write_frames(folder: Path, second: tuple[int, int] = (20, 30)) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    paths = folder / "a.png", folder / "b.png"
    for path, size in zip(paths, ((20, 30), second), strict=True):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
    return paths


def write_pairs(folder: Path) -> Path:
    write_frames(folder)
    flow = np.full((20, 30, 2), 3, np.float32)
    flow[0] = np.nan
    np.savez(folder / "f.npz", flow=flow)
    manifest = folder / "pairs.jsonl"
    manifest.write_text(json.dumps({"img0": "a.png", "img1": "b.png", "flow": "f.npz", "id": "one"}))
    return manifest


def test_a_run_is_trained_continued_and_used(tmp_path: Path, answered: Callable[..., Any]) -> None:
    run, (first, second) = tmp_path / "run", write_frames(tmp_path)
    common = (*FLOW, "train", "textures", "--out", run, "batch_size=2",
              f"pairs={write_pairs(tmp_path)}", "scales=[2, 1]")
    answered(*common, "training.steps=2")
    report = answered(*common, "training.steps=3")
    assert report["steps"] == 3 and report == json.loads((run / "held_out.json").read_text())
    assert report["end_point_error"] > 0 and report["zero_flow"] > 0
    (pair,) = report["pairs"]
    assert pair["pair"] == "one" and pair["zero_flow"] == pytest.approx(18**0.5, rel=1e-4)
    assert pair["mean_flow"] == pytest.approx(0, abs=1e-3)
    measured = answered(*FLOW, "predict", run, "--pairs", tmp_path / "pairs.jsonl")
    assert measured["pairs"][0]["end_point_error"] == pytest.approx(pair["end_point_error"], rel=1e-5)

    out = tmp_path / "out"
    answered(*FLOW, "predict", run, first, second, "--out", out)
    flow = read_flow(out / "flow.flo")
    assert flow.shape == (20, 30, 2) and np.isfinite(flow).all()
    assert Image.open(out / "flow.png").size == (30, 20)
    write_flo(tmp_path / "true.flo", flow)
    found = answered(*FLOW, "predict", run, first, second, "--out", out, "--truth", tmp_path / "true.flo")
    assert found["end_point_error"] == pytest.approx(0, abs=1e-3)


def test_pictures_are_shown_beside_textures(tmp_path: Path, answered: Callable[..., Any], refused: Callable[..., str]) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    assert "holds no PNG" in refused(*FLOW, "train", pictures, "--out", tmp_path / "run")
    write_frames(pictures)
    common = (*FLOW, "train", pictures, "--out", tmp_path / "run", "batch_size=2", "training.steps=1")
    assert answered(*common)["steps"] == 1
    assert "holds a run with other settings" in refused(*common[:2], "train", "textures", *common[4:])


def test_a_published_checkpoint_sees_frames_larger_than_its_tiles(tmp_path: Path, answered: Callable[..., Any]) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.PerceiverForOpticalFlow(transformers.PerceiverConfig(
        num_latents=4, d_latents=8, num_self_attends_per_block=1, num_self_attention_heads=2, num_cross_attention_heads=1,
        train_size=[12, 18]))
    folder, (first, second) = tmp_path / "hf", write_frames(tmp_path)
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    answered(*FLOW, "predict", folder, first, second, "--out", tmp_path / "out")
    assert read_flow(tmp_path / "out" / "flow.flo").shape == (20, 30, 2)


def test_wrong_input_is_one_line(tmp_path: Path, refused: Callable[..., str], answered: Callable[..., Any]) -> None:
    first, second = write_frames(tmp_path, second=(20, 29))
    run = tmp_path / "run"
    answered(*FLOW, "train", "textures", "--out", run, "training.steps=1", "batch_size=2")
    assert "two of the same size" in refused(*FLOW, "predict", run, first, second, "--out", tmp_path / "out")
    assert "1 frames came" in refused(*FLOW, "predict", run, first, "--out", tmp_path / "out")
    assert "is not a file" in refused(*FLOW, "predict", run, first, tmp_path / "c.png", "--out", tmp_path / "out")
    write_flo(tmp_path / "t.flo", np.zeros((5, 5, 2)))
    assert "give the truth of these frames" in refused(*FLOW, "predict", run, first, first, "--out", tmp_path / "o", "--truth",
                                                       tmp_path / "t.flo")
    assert not (tmp_path / "out").exists() and not (tmp_path / "o").exists()
    assert "batch_size=1 must be at least 2" in refused(*FLOW, "train", "textures", "--out", run, "batch_size=1")
    assert "neither a folder nor" in refused(*FLOW, "train", tmp_path / "none.zip", "--out", run)


def test_scales_must_be_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*FLOW, "predict", "run", "--scales", "8,x"])
    assert "invalid numbers value: '8,x'" in capsys.readouterr().err
