"""calico perceive classify-...: every kind of data is trained on, measured, continued and asked; what is wrong is one line."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from calico.agent import checkpoint
from calico.agent.perceiver.layers import LatentConfig
from calico.agent.perceiver.samples import PictureInput, TextInput
from calico.agent.perceiver.sizes import SMALL
from calico.agent.training.trainer import Trainer
from calico.datasets.images import encode_file
from calico.datasets.streams import stream
from calico.scripts.main import main
from calico.scripts.perceiver_tasks.classify import for_views
from calico.scripts.training.classification import averaged_over_views, open_text

from ...datasets.test_sounds import tone, wav

RNG = np.random.default_rng(0)
TINY = LatentConfig(latents=4, width=16, layers=1, heads=2)


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped sizes with hardly any latents."""
    from dataclasses import replace

    for task, sizes in SMALL.items():
        for name, config in sizes.items():
            monkeypatch.setitem(SMALL[task], name, replace(config, latent=TINY))


def make_data(task: str, folder: Path) -> tuple[Path, list[str]]:
    """Two classes that are easy to tell apart: the data, and one example of each to ask about."""
    if task == "classify-text":
        lines = [{"text": f"{word} {i} " * (1 + i % 5), "label": word} for i in range(40) for word in ("good", "terrible")]
        (folder / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder / "t.jsonl", ["good 3 good 3 ", "terrible 3 terrible 3 "]
    if task == "classify-points":
        flat = np.ones(6) * [1, 1, 0.05, 1, 1, 1]
        clouds = [RNG.normal(size=(40, 6)) * (flat if i % 2 else 1) for i in range(60)]
        np.savez(folder / "c.npz", points=np.array(clouds, np.float32), labels=np.arange(60) % 2, classes=["ball", "disc"])
        for i, name in enumerate(("ball", "disc")):
            np.save(folder / f"{name}.npy", clouds[i])
        return folder / "c.npz", [str(folder / "ball.npy"), str(folder / "disc.npy")]
    files: dict[str, bytes] = {}
    for i in range(40):
        dark = RNG.integers(60, size=(12, 12, 3), dtype=np.uint8)
        if task == "classify-image":
            files |= {f"dark/{i}.png": encode_file(dark), f"light/{i}.png": encode_file(255 - dark)}
        else:
            files |= {f"high/{i}.wav": wav(tone(1500 + i, 0.2)), f"low/{i}.wav": wav(tone(200 + i, 0.2))}
    with zipfile.ZipFile(folder / "f.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    asked = [name for name in files if "/7." in name]
    for name in asked:
        (folder / name.replace("/", "_")).write_bytes(files[name])
    return folder / "f.zip", [str(folder / name.replace("/", "_")) for name in asked]


OPTIONS = {"classify-text": ["length=64"], "classify-image": ["side=8", "mirror=false"], "classify-audio": [],
           "classify-points": ["points=32", "turn=none"]}


@pytest.mark.parametrize("task", OPTIONS)
def test_it_learns_measures_and_answers(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if task == "classify-audio":
        pytest.importorskip("av")
    data, asked = make_data(task, tmp_path)
    run = str(tmp_path / "run")
    words = ["perceive", task, "train", str(data), "training.steps=40", "batch_size=16",
             "optimizer.learning_rate=3e-3", *OPTIONS[task], "--out", run]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "held-out samples, trained on" in shown.out and shown.err.splitlines()[-1].startswith(f"wrote {run}")
    report = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert report["accuracy"] > 0.9 and report["steps"] == 40 and np.sum(report["confusion"]) == report["held_out"]
    assert (tmp_path / "run" / "confusion.png").stat().st_size > 1000

    assert main(["perceive", task, "predict", run, *asked, "--json", "--top", "2"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [answer["class"] for answer in answers] == report["classes"]
    assert all(answer["probability"] > 0.5 and sum(e["probability"] for e in answer["top"]) == pytest.approx(1, abs=1e-4)
               for answer in answers)
    assert main(["perceive", task, "predict", run, *asked]) == 0
    assert "probability" in capsys.readouterr().out

    assert main([*words, "--json"]) == 0                       # the same command: nothing more to train, the same report
    assert json.loads(capsys.readouterr().out)["accuracy"] == report["accuracy"]

    one = answers[0]["probability"]
    of_views = [answered_with(capsys, task, run, *asked[:number], "--views", "3")[0]["probability"] for number in (1, 2)]
    assert of_views[0] == pytest.approx(of_views[1], rel=1e-5)                               # whatever else is asked about
    assert (of_views[0] == pytest.approx(one, rel=1e-5)) == (task == "classify-text")   # a short text is whole in each
    assert answered_with(capsys, task, run, asked[0], "--views", "1")[0]["probability"] == pytest.approx(one, rel=1e-4)
    assert main([*words, "views=3", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["views"] == 3 and again["accuracy_of_views"] > 0.9 and again["accuracy"] == report["accuracy"]


def answered_with(capsys: pytest.CaptureFixture[str], task: str, *words: str) -> Any:
    assert main(["perceive", task, "predict", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_views_are_the_one_of_use_and_some_of_training() -> None:
    """A model that answers with the mean of its input: of four views the plain one and three that are drawn."""
    class Mean(torch.nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.stack([inputs.mean(dim=(1, 2, 3)), torch.zeros(len(inputs))], dim=1)

    fit, picture = PictureInput(side=8, shift=2), RNG.integers(256, size=(8, 8, 3), dtype=np.uint8)
    views = [fit([picture])["inputs"], fit([picture] * 3, stream(0, "views of use"))["inputs"]]
    wanted = Mean(1, 1)(torch.cat(views)).softmax(dim=1)
    assert len({round(float(row[0]), 5) for row in wanted}) == 4
    found = averaged_over_views(Mean(1, 1), fit, [picture, picture], 4)
    np.testing.assert_allclose(found, wanted.mean(dim=0).detach().expand(2, 2), rtol=1e-5)


def test_no_words_are_hidden_in_views() -> None:
    assert for_views(TextInput(positions=9, hidden=0.2)) == TextInput(positions=9)
    assert for_views(PictureInput()) == PictureInput()


def test_stopping_and_continuing_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = make_data("classify-image", tmp_path)
    words = ["perceive", "classify-image", "train", str(data), "training.steps=12", "batch_size=8", "side=8"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    step = Trainer.train_step

    def interrupted(self: Any, batches: Any) -> Any:
        if self.step == 7:
            raise KeyboardInterrupt                            # a kill: what was saved at step 7 is all that is left
        return step(self, batches)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    assert main([*words, "--out", str(tmp_path / "parts")]) == 130
    monkeypatch.setattr(Trainer, "train_step", step)
    assert main([*words, "--out", str(tmp_path / "parts")]) == 0
    one, other = (load_file(checkpoint.find(tmp_path / name) / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "parts"), "mirror=false"]) == 2
    assert "holds a run with other settings: mirror is false but was true" in capsys.readouterr().err
    assert main(["perceive", "classify-image", "train", str(data), "--out", str(tmp_path / "tuned"),
                 f"init={tmp_path / 'whole'}", "training.steps=1", "batch_size=8"]) == 0
    tuned = load_file(checkpoint.find(tmp_path / "tuned") / "model.safetensors")
    assert (tuned["encoder.latents"] - one["encoder.latents"]).abs().max() < 0.01    # one step from where `whole` stopped


def test_mended_data_are_accepted_when_the_user_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, _ = make_data("classify-image", tmp_path)
    words = ["classify-image", "train", str(data), "batch_size=8", "side=8", "--out", str(tmp_path / "run")]
    assert main(["perceive", *words, "training.steps=1"]) == 0
    remove_one(data)
    assert "began with other data than DATA holds now" in refused(capsys, *words, "training.steps=2")
    assert main(["perceive", *words, "training.steps=2", "--data-changed"]) == 0
    (change,) = checkpoint.load(tmp_path / "run").documents["data_changes"]
    assert change["step"] == 1 and change["before"] != change["after"]


def remove_one(archive: Path) -> None:
    """Take the last file out of a zip."""
    with zipfile.ZipFile(archive) as file:
        kept = {name: file.read(name) for name in file.namelist()[:-1]}
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in kept.items():
            file.writestr(name, content)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["perceive", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("calico perceive")
    return error


def test_no_views_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["perceive", "classify-image", "predict", str(tmp_path), "x.png", "--views", "0"]) == 2
    assert "--views" in capsys.readouterr().err
    data, _ = make_data("classify-image", tmp_path)
    assert "views=0 must be at least 1" in refused(capsys, "classify-image", "train", str(data), "views=0", "--out", "run")


def test_wrong_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, asked = make_data("classify-image", tmp_path)
    run, out = str(tmp_path / "run"), str(tmp_path / "other")
    words = ["perceive", "classify-image", "train", str(data), "--out", run, "training.steps=1", "batch_size=4", "side=8"]
    assert main(words) == 0
    (tmp_path / "junk.png").write_bytes(b"junk")
    np.savez(tmp_path / "nan.npz", images=np.full((2, 4, 4), np.nan))
    predict = ("classify-image", "predict", run)
    assert "junk.png: not a readable image" in refused(capsys, *predict, *asked, str(tmp_path / "junk.png"))
    assert "nan.npz: 2 of 2 pictures hold NaN" in refused(capsys, *predict, str(tmp_path / "nan.npz"))
    assert "nothing.png: there is no such file" in refused(capsys, *predict, "nothing.png")
    assert "is a checkpoint of classify-image" in refused(capsys, "classify-audio", "predict", run, "x.wav")
    assert "is a checkpoint of classify-image, one of classify-text or fill-mask" in refused(
        capsys, "classify-text", "train", str(make_data("classify-text", tmp_path)[0]), "--out", out, f"init={run}")
    assert "does not split into patches of 4 pixels" in refused(
        capsys, "classify-image", "train", str(data), "--out", out, "side=30", "size=patches")
    said = refused(capsys, "classify-image", "train", str(data), "--out", out, "batch_size=0")
    assert "batch_size=0 must be at least 1" in said
    assert "neither a folder nor a .zip" in refused(capsys, "classify-image", "train", "nowhere", "--out", out)
    assert not (tmp_path / "other").exists()


def test_long_texts_are_cut_and_sounds_resampled_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    text, _ = make_data("classify-text", tmp_path)
    run = str(tmp_path / "text")
    assert main(["perceive", "classify-text", "train", str(text), "--out", run, "training.steps=1", "batch_size=4",
                 "length=16"]) == 0
    assert "of 80 texts are longer than 16 bytes and are cut" in capsys.readouterr().err
    assert main(["perceive", "classify-text", "predict", run, "good " * 20]) == 0
    assert "1 of 1 texts are longer than 16 bytes and are cut" in capsys.readouterr().err
    sounds, _ = make_data("classify-audio", tmp_path)
    run = str(tmp_path / "sound")
    assert main(["perceive", "classify-audio", "train", str(sounds), "--out", run, "training.steps=1", "batch_size=4"]) == 0
    (tmp_path / "fast.wav").write_bytes(wav(tone(300, 0.2, 44100), 44100))
    capsys.readouterr()
    assert main(["perceive", "classify-audio", "predict", run, str(tmp_path / "fast.wav")]) == 0
    assert "resampled from 44100 to 8000 Hz" in capsys.readouterr().err


def test_a_hugging_face_model_is_asked_and_fine_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.PerceiverConfig(num_latents=4, d_latents=32, d_model=16, num_self_attends_per_block=1,
                                          num_self_attention_heads=2, num_cross_attention_heads=1, image_size=8,
                                          id2label={0: "dark", 1: "light"})
    transformers.PerceiverForImageClassificationLearned(config).save_pretrained(tmp_path / "hf")
    data, asked = make_data("classify-image", tmp_path)
    assert main(["perceive", "classify-image", "predict", str(tmp_path / "hf"), *asked, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert {answer["class"] for answer in answers} <= {"dark", "light"}
    assert main(["perceive", "classify-image", "train", str(data), f"init={tmp_path / 'hf'}", "--out",
                 str(tmp_path / "run"), "training.steps=30", "batch_size=16", "optimizer.learning_rate=3e-3"]) == 0
    assert json.loads((tmp_path / "run" / "held_out.json").read_text())["accuracy"] > 0.9


def test_texts_to_predict_are_those_of_files_and_never_their_names(tmp_path: Path) -> None:
    """`predict RUN reviews.csv` gave the class of the words "reviews.csv"."""
    (tmp_path / "r.csv").write_text("review,stars\nfine,4\n")
    (tmp_path / "r.json").write_text('[{"text": "fine"}, {"text": "bad"}]')
    (tmp_path / "r.txt").write_bytes("\ufefffine".encode())
    assert [text for _, text in open_text(str(tmp_path / "r.csv"))] == ["fine"]
    assert open_text(str(tmp_path / "r.json")) == [(f"{tmp_path}/r.json:1", "fine"), (f"{tmp_path}/r.json:2", "bad")]
    assert open_text(str(tmp_path / "r.txt")) == [(f"{tmp_path}/r.txt", "fine")]
    assert open_text("see r.txt") == [("see r.txt", "see r.txt")] and open_text("fine.") == [("fine.", "fine.")]
    (tmp_path / "latin.txt").write_bytes("né".encode("latin-1"))
    for name, message in (("lost.csv", "there is no such file"), ("latin.txt", "it is not UTF-8")):
        with pytest.raises(ValueError, match=message):
            open_text(str(tmp_path / name))
