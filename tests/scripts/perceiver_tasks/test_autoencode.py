"""calico perceive autoencode: videos are learned, a clip comes back as film, sound and label, whatever the chunks."""

import json
import wave
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from calico.agent.perceiver.inputs import space_to_depth
from calico.agent.perceiver.layers import LatentConfig
from calico.agent.perceiver.tasks import Autoencoder, AutoencoderConfig
from calico.datasets.samples.moving_shapes import LABELS, MovingShapes
from calico.datasets.samples.video import Format
from calico.scripts.main import main
from calico.scripts.perceiver_tasks.autoencode import MOST_DECIBELS, constant, measure, tensors

from ...datasets.samples.test_video import write_video, write_wav

TINY = AutoencoderConfig(latent=LatentConfig(latents=8, width=16, layers=1, heads=2), frames=4, size=(8, 8), resolution=(2, 2),
                         samples_per_frame=32, patch=16, label_channels=8, channels=8)
AUTOENCODE = "perceive", "autoencode"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    monkeypatch.setattr("calico.scripts.perceiver_tasks.autoencode.SMALL_AUTOENCODER", TINY)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    for label, grey in (("dark", 40), ("light", 200)):
        (folder / label).mkdir(parents=True)
        write_video(folder / label / f"{label}.mp4", [grey] * 20, fps=25)
    write_wav(folder / "light" / "light.wav", 1.0, rate=1600)
    return folder


def test_a_run_is_trained_continued_and_used(videos: Path, tmp_path: Path, answered: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    common = (*AUTOENCODE, "train", videos, "--out", run, "batch_size=2", "side=8")
    answered(*common, "training.steps=1")
    report = answered(*common, "training.steps=3")
    assert report["steps"] == 3 and report["videos"] == 2 and report == json.loads((run / "held_out.json").read_text())
    assert 0 <= report["label_accuracy"] <= 1 and report["video_psnr_of_one_colour"] > 10

    clip, out = videos / "light" / "light.mp4", tmp_path / "out"
    made = [answered(*AUTOENCODE, "predict", run, clip, "--out", out / str(chunks), "--clips", 2, "--start", 0.6,
                     "--chunks", chunks)[0] for chunks in (1, 7)]
    labels = [report.pop("labels") for report in made if report.pop("video") == str(clip)]
    assert made[0] == pytest.approx(made[1], rel=1e-3) and made[0]["frames"] == 5       # of 20, from frame 15 on
    assert labels[0] == pytest.approx(labels[1], rel=1e-3) and set(labels[0]) == {"dark", "light"}
    assert sum(labels[0].values()) == pytest.approx(1, rel=1e-5)
    assert (out / "1" / "light.mp4").stat().st_size > 100
    with wave.open(str(out / "1" / "light.wav")) as file:
        assert file.getframerate() == 800 and file.getnframes() == 5 * 32
        one = file.readframes(1000)
    with wave.open(str(out / "7" / "light.wav")) as file:
        np.testing.assert_allclose(np.frombuffer(one, "<i2"), np.frombuffer(file.readframes(1000), "<i2"), atol=2)


def test_what_was_done_to_the_sound_is_said(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*AUTOENCODE, "train", str(videos), "--out", str(tmp_path / "run"), "training.steps=1", "batch_size=1", "side=8"]
    assert main(words) == 0
    err = capsys.readouterr().err
    assert "dark.mp4 has no sound: silence takes its place" in err
    assert "light.mp4: sound resampled from 1600 to 800 samples per second" in err


def test_wrong_input_is_one_line(videos: Path, tmp_path: Path, refused: Callable[..., str],
                                 answered: Callable[..., Any]) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    assert "side=9 must be a multiple of 4" in refused(*AUTOENCODE, "train", videos, "--out", run, "side=9")
    answered(*AUTOENCODE, "train", videos, "--out", run, "training.steps=1", "batch_size=1", "side=8")
    clip = videos / "dark" / "dark.mp4"
    assert "lies behind its end" in refused(*AUTOENCODE, "predict", run, clip, "--out", out, "--start", 9)
    assert "the same name" in refused(*AUTOENCODE, "predict", run, clip, clip, "--out", out)
    assert "must be at least 1" in refused(*AUTOENCODE, "predict", run, clip, "--out", out, "--chunks", 0)
    assert "is not a file" in refused(*AUTOENCODE, "predict", run, tmp_path / "x.mp4", "--out", out)
    write_video(videos / "short.mp4", [9] * 5, fps=25)
    assert "short.mp4 has 5 frames; 8 at least are needed" in refused(*AUTOENCODE, "train", videos, "--out", run, "side=8")


def test_made_clips_need_no_files(tmp_path: Path, answered: Callable[..., Any], refused: Callable[..., str]) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    common = (*AUTOENCODE, "train", "shapes", "--out", run, "batch_size=2", "side=8")
    answered(*common, "training.steps=1")
    report = answered(*common, "training.steps=2")
    assert report["steps"] == 2 and report["videos"] == MovingShapes.HELD_OUT
    assert report["sound_psnr_of_silence"] > 5 and report["video_psnr_of_one_colour"] < report["video_psnr_of_mean_frame"]
    made = answered(*AUTOENCODE, "predict", run, "shapes", "--out", out, "--clips", 2)
    assert [one["video"] for one in made] == ["shapes-0", "shapes-1"] and all(one["shown"] in LABELS for one in made)
    assert set(made[0]["labels"]) <= set(LABELS) and made[0]["frames"] == 4
    assert {path.name for path in out.iterdir()} == {"shapes-0.mp4", "shapes-0.wav", "shapes-1.mp4", "shapes-1.wav"}
    assert "image_weight" in refused(*AUTOENCODE, "train", "shapes", "--out", run, "image_weight=-1")
    nothing = ("image_weight=0", "audio_weight=0", "label_weight=0")
    assert "not all 0" in refused(*AUTOENCODE, "train", "shapes", "--out", run, *nothing)


def test_what_is_measured_is_measured_right() -> None:
    """A model that is 0.1 too bright and 0.01 too loud, and sees class 1 in clips of class 0 and 1: 20 dB, 40 dB, a half."""
    data = MovingShapes(Format(size=(8, 8), samples_per_frame=32), 4, 16)
    batch = tensors(data.stack([data.clip(9, number) for number in range(20)])) | {"label": torch.arange(20) % 2}
    batch["image"] = batch["image"] / 2

    class Known(Autoencoder):
        def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
            assert not inputs["label"].any()
            return inputs["audio"][:, 0]

        def decode(self, latents: Tensor, points: Mapping[str, Tensor | None], moved: object = None) -> dict[str, Tensor]:
            rows = [int((batch["audio"][:, 0] == one).nonzero()[0, 0]) for one in latents]
            assert points["image"] is not None
            image = space_to_depth(batch["image"][rows], self.config.video_patch).flatten(1, 3)[:, points["image"]]
            return {"image": image + 0.1, "audio": batch["audio"][rows] + 0.01, "label": torch.eye(2)[[1] * len(rows)]}

    batch["audio"][:, 0] = torch.arange(20) / 100
    for model in (Known(replace(TINY, labels=2)), Known(replace(TINY, labels=2, video_patch=(2, 4, 4)))):
        found = measure(model, batch)
        assert found == pytest.approx({"video_psnr": 20, "sound_psnr": 40, "label_accuracy": 0.5}, abs=1e-3)
    still = {**batch, "image": batch["image"][:, :1].expand(-1, 4, -1, -1, -1)}
    assert constant(still)["video_psnr_of_mean_frame"] == MOST_DECIBELS > constant(batch)["video_psnr_of_mean_frame"]
    silent = {**batch, "audio": torch.full_like(batch["audio"], 0.1)}
    assert constant(silent)["sound_psnr_of_silence"] == pytest.approx(20, abs=1e-4)
