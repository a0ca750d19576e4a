"""`calico perceive TASK train` under torchrun: the losses of one process, from batches that ranks cannot halve."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from calico.agent import checkpoint
from calico.agent.perceiver.sizes import SMALL
from calico.scripts.common.local_ranks import on_local_ranks
from calico.scripts.main import main

from ...datasets.samples.test_video import write_video
from . import test_autoencode, test_classify, test_fill_mask, test_flow


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    where = "calico.scripts.perceiver_tasks"
    for task, sizes in SMALL.items():
        for name, config in sizes.items():
            monkeypatch.setitem(SMALL[task], name, replace(config, latent=test_classify.TINY))
    language = test_fill_mask.TINY
    monkeypatch.setattr(f"{where}.fill_mask.SMALL_LANGUAGE", language)
    monkeypatch.setattr(f"{where}.flow.SMALL_FLOW", test_flow.TINY)
    monkeypatch.setattr(f"{where}.flow.BANK", 8)
    monkeypatch.setattr(f"{where}.flow.HELD_OUT", (1, 4))
    monkeypatch.setattr(f"{where}.autoencode.SMALL_AUTOENCODER", test_autoencode.TINY)


def data_of(task: str, folder: Path) -> str:
    if task == "flow":
        return "textures"
    if task == "autoencode":
        pytest.importorskip("av")
        for label, grey in (("dark", 40), ("light", 200)):
            (folder / label).mkdir(parents=True)
            write_video(folder / label / f"{label}.mp4", [grey] * 20, fps=25)
        return str(folder)
    if task == "classify-audio":
        pytest.importorskip("av")
    return str(test_classify.make_data("classify-text" if task == "fill-mask" else task, folder)[0])


def numbers(run: Path) -> dict[str, list[float]]:
    """What every step logged, by its name."""
    (file,) = (run / "tensorboard").iterdir()
    found = EventAccumulator(str(file)).Reload()
    return {name: [event.value for event in found.Scalars(name)] for name in found.Tags()["scalars"] if "speed" not in name}


@pytest.mark.parametrize("task, settings", [
    ("classify-image", ["side=8", "batch_size=5"]), ("classify-text", ["length=64", "batch_size=5"]),
    ("fill-mask", ["length=64", "batch_size=5"]), ("flow", ["batch_size=6"]),
    ("autoencode", ["side=8", "batch_size=3", "optimizer.learning_rate=1e-3"]),
    pytest.param("classify-audio", ["batch_size=5"], marks=pytest.mark.slow),
    pytest.param("classify-points", ["points=32", "batch_size=5"], marks=pytest.mark.slow)],
    ids=lambda value: value if isinstance(value, str) else "")
def test_two_ranks_train_as_one_process_does(task: str, settings: list[str], tmp_path: Path,
                                             capfd: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    command = ["perceive", task, "train", data_of(task, data), *settings, "training.steps=4", "training.log_every=1",
               "training.precision=fp32", "--json"]
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    capfd.readouterr()

    def rank() -> None:
        if code := main([*command, "--out", str(tmp_path / "two")]):
            raise SystemExit(code)

    assert on_local_ranks(2, rank) == [None, None]
    said = capfd.readouterr()
    assert json.loads(said.out)["steps"] == 4 and said.err.count("wrote ") == 1        # of one rank
    one, two = numbers(tmp_path / "one"), numbers(tmp_path / "two")
    assert one.keys() == two.keys() and len(one["loss/train"]) == 4
    np.testing.assert_allclose(two["loss/train"], one["loss/train"], rtol=1e-5)
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-3, atol=1e-6, err_msg=name)
    assert checkpoint.load(tmp_path / "two").step == 4 and (tmp_path / "two" / "held_out.json").exists()


def test_more_ranks_than_rows_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = test_classify.make_data("classify-image", tmp_path)[0]

    def rank() -> None:
        command = ["perceive", "classify-image", "train", str(data), "batch_size=1", "--out", str(tmp_path / "run")]
        raise SystemExit(main(command))

    assert on_local_ranks(2, rank) == [2, 2]
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("calico perceive: ")]
    assert "rank 0: batch_size=1 rows cannot be shared by 2 ranks; raise it to at least 2" in line
