"""`calico pretrain`, `probe` and `finetune`: from files to an encoder to classes, continued after a stop; what is refused."""

import json
import math
import os
import shutil
import signal
import struct
import wave
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from calico.agent import checkpoint
from calico.agent.data2vec.objective import OBJECTIVES
from calico.agent.data2vec.pretrained import load_encoder
from calico.agent.training.trainer import Trainer
from calico.scripts.common.config import config_from_json, config_to_json, shipped_configs
from calico.scripts.main import main
from calico.scripts.training.pretraining import PretrainSettings, load_settings

Refused = Callable[..., str]
Answered = Callable[..., Any]

# YAML of a very small run of each modality
CONFIGS = {
    "vision": """
modality: vision
vision: {width: 16, depth: 2, heads: 2, feedforward: 24, image_size: 16, patch_size: 4, layer_scale: 0.0,
         absolute_positions: true, relative_positions: none}
data: {batch_size: 6}
objective: {copies: 2, top_layers: 2, tau_start: 0.9, decoder: {axes: 2, channels: 16, depth: 1, kernel: 3, groups: 4}}
""",
    "speech": """
modality: speech
speech: {width: 16, depth: 2, heads: 2, feedforward: 24, sample_rate: 1000, conv_channels: [8, 8], conv_kernels: [10, 3],
         conv_strides: [5, 2], position_layers: 1, position_groups: 2}
data: {batch_size: 6, seconds: 0.5}
objective: {copies: 2, top_layers: 2, tau_start: 0.9, decoder: {channels: 16, depth: 1, kernel: 3, groups: 4}}
""",
    "text": """
modality: text
text: {width: 16, depth: 2, heads: 2, feedforward: 24, max_length: 12}
data: {batch_size: 6, pieces: 300}
objective: {copies: 2, top_layers: 2, tau_start: 0.9, decoder: {channels: 16, depth: 1, kernel: 3, groups: 4}}
""",
}
RHYTHM = "training: {steps: 4, log_every: 1, save_every: 2, evaluate_every: 2}\noptimizer: {warmup_steps: 2}\n"


def picture(path: Path, value: int, side: int = 16) -> None:
    rng = np.random.default_rng(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(value, value + 100, (side, side, 3)).astype(np.uint8)).save(path)


def sound(path: Path, hertz: float, rate: int = 1000, seconds: float = 0.4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = [int(20_000 * math.sin(2 * math.pi * hertz * i / rate)) for i in range(int(rate * seconds))]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two classes of each modality."""
    where = tmp_path_factory.mktemp("data")
    for i in range(20):
        picture(where / "pictures" / "dark" / f"{i}.png", i)
        picture(where / "pictures" / "light" / f"{i}.png", 120 + i)
        sound(where / "sounds" / "low" / f"{i}.wav", 40 + i)
        sound(where / "sounds" / "high" / f"{i}.wav", 300 + 5 * i)
    reviews = [{"text": f"{word} film number {i}, I {verb} it", "label": label} for i in range(20)
               for word, verb, label in (("a good", "liked", "pos"), ("a bad", "left", "neg"))]
    (where / "reviews.jsonl").write_text("".join(json.dumps(review) + "\n" for review in reviews))
    return {"vision": where / "pictures", "speech": where / "sounds", "text": where / "reviews.jsonl"}


def words(modality: str, path: Path, out: Path, *more: object, config: str | None = None) -> list[str]:
    """The command line of a small run."""
    file = out.parent / f"{out.name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(config or CONFIGS[modality] + RHYTHM)
    return ["pretrain", str(file), f"data.paths=[{path}]", f"out={out}", *map(str, more)]


@pytest.fixture(scope="module")
def runs(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run of four steps of each modality, probed on the way; without PyAV none of speech."""
    made = {}
    for modality, path in data.items():
        if modality == "speech" and find_spec("av") is None:
            continue
        made[modality] = tmp_path_factory.mktemp("runs") / modality
        assert main(words(modality, path, made[modality], "--probe", path)) == 0
    return made


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, set[tuple[int, float]]] = {}
    for file in (run / "tensorboard").iterdir():
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, set()).update((event.step, event.value) for event in events.Scalars(tag))
    return {tag: sorted(points) for tag, points in found.items()}


def assert_same_run(one: Path, other: Path) -> None:
    """The same losses and, bit for bit, the same student, decoder, teacher and optimizer."""
    ours, theirs = checkpoint.load(one), checkpoint.load(other)
    assert ours.step == theirs.step
    for stem in ("model", "optimizer"):
        assert ours.tensors[stem].keys() == theirs.tensors[stem].keys()
        assert all(torch.equal(tensor, theirs.tensors[stem][name]) for name, tensor in ours.tensors[stem].items())
    assert dict(curves(one)["loss/train"]).items() == dict(curves(other)["loss/train"]).items()


EACH = pytest.mark.parametrize("modality", [
    "vision", pytest.param("speech", marks=pytest.mark.skipif(find_spec("av") is None, reason="PyAV decodes sounds")), "text"])


@EACH
def test_a_run_holds_encoder_teacher_and_curves(modality: Any, runs: dict[str, Path]) -> None:
    run = runs[modality]
    saved, found = checkpoint.load(run), curves(run)
    assert saved.step == 4 and int(saved.tensors["model"]["updates"]) == 4
    teachers = {name: tensor for name, tensor in saved.tensors["model"].items() if name.startswith("teacher.")}
    assert teachers and all(tensor.dtype == torch.float32 for tensor in teachers.values())
    assert any(not torch.equal(tensor, saved.tensors["model"][name.replace("teacher.", "encoder.", 1)])
               for name, tensor in teachers.items())
    assert {"loss/train", "train/target_variance", "train/prediction_variance", "train/feature_variance", "train/ema_rate",
            "held_out/knn", "held_out/linear"} <= found.keys()
    assert [step for step, _ in found["loss/train"]] == [1, 2, 3, 4]
    assert {step for step, _ in found["held_out/linear"]} >= {2, 4}
    assert 0.9 <= found["train/ema_rate"][0][1] <= 1
    assert load_encoder(run, modality).width == 16
    assert ("tokenizer.model" in saved.files) == (modality == "text")


def test_stopped_and_continued_equals_never_stopped(data: dict[str, Path], runs: dict[str, Path], tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM in step 1, Ctrl-C in step 3: the steps under way are finished and saved, then the command goes on."""
    signals, train_step = {1: signal.SIGTERM, 3: signal.SIGINT}, Trainer.train_step

    def step_and_signal(self: Trainer[Any], batches: Any) -> Any:
        found = train_step(self, batches)
        if self.step in signals:
            os.kill(os.getpid(), signals.pop(self.step))
        return found

    monkeypatch.setattr(Trainer, "train_step", step_and_signal)
    for reached, code in ((1, 130), (3, 130), (4, 0)):
        assert main(words("vision", data["vision"], tmp_path / "run", "--probe", data["vision"])) == code
        assert checkpoint.load(tmp_path / "run").step == reached
    assert_same_run(tmp_path / "run", runs["vision"])


def test_the_held_out_fifth_is_not_learnt_from(data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples whose numbers appear in batches are those that `finetune` and `probe` learn from, too."""
    from calico.datasets.samples.labelled import read_pictures
    from calico.datasets.samples.unlabelled import Unlabelled

    kept: list[str] = []
    only = Unlabelled.only

    def spy(self: Unlabelled, numbers: Any) -> Unlabelled:
        chosen = only(self, numbers)
        kept.extend(chosen.keys)
        return chosen

    monkeypatch.setattr(Unlabelled, "only", spy)
    assert main(words("vision", data["vision"], tmp_path / "run", "training.steps=1")) == 0
    labelled = read_pictures(data["vision"], 32)
    learnt, held_out = labelled.split(0.2)
    assert set(kept) == {labelled.keys[i] for i in learnt} and not set(kept) & {labelled.keys[i] for i in held_out}


@pytest.mark.parametrize("version", [1, 2])
def test_a_rate_that_is_absurd_is_stopped_within_200_steps(version: int, data: dict[str, Path], tmp_path: Path,
                                                           refused: Refused) -> None:
    decoder = "" if version == 2 else "\nobjective: {top_layers: 2}\nversion: 1\n"
    config = (CONFIGS["vision"] if version == 2 else CONFIGS["vision"].split("objective:")[0] + decoder) + (
        "training: {steps: 200}\noptimizer: {learning_rate: 10.0, warmup_steps: 0}\n")
    message = refused(*words("vision", data["vision"], tmp_path / "run", config=config))
    assert "collapsed" in message and "lower the learning rate" in message


def test_nothing_changes_unnoticed_when_a_run_is_continued(data: dict[str, Path], runs: dict[str, Path], tmp_path: Path,
                                                           refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Path(shutil.copytree(runs["vision"], tmp_path / "run"))
    assert main(words("vision", data["vision"], run, "training.steps=5")) == 0 and checkpoint.load(run).step == 5
    assert "optimizer.learning_rate is 0.1 but was 0.002" in refused(
        *words("vision", data["vision"], run, "optimizer.learning_rate=0.1"))
    with monkeypatch.context() as patch:
        patch.setattr("calico.scripts.training.runs.ORDER", 3)
        assert "samples came in another order (version 2, this Calico has 3)" in refused(*words("vision", data["vision"], run))
    fewer = Path(shutil.copytree(data["vision"], tmp_path / "pictures"))
    for path in sorted(fewer.rglob("*.png"))[:5]:
        path.unlink()
    config = words("vision", data["vision"], run)
    config[2] = f"data.paths=[{fewer}]"
    assert "data.paths[0] is" in refused(*config) or "data.paths is" in refused(*config)


def test_mended_data_are_accepted_when_the_user_says_so(data: dict[str, Path], tmp_path: Path, refused: Refused,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    pictures = Path(shutil.copytree(data["vision"], tmp_path / "pictures"))
    run, classes = tmp_path / "run", tmp_path / "classes"

    def finetune(steps: int) -> list[str]:
        return ["finetune", str(run), str(pictures), f"training.steps={steps}", "batch_size=8", "training.save_every=1",
                "--out", str(classes)]

    assert main(words("vision", pictures, run, "training.steps=2")) == 0 and main(finetune(1)) == 0
    sorted(pictures.rglob("*.png"))[0].unlink()
    for command, out in ((words("vision", pictures, run, "training.steps=3"), run), (finetune(2), classes)):
        said = refused(*command)
        assert f"{out} began with other data than {pictures} holds now" in said and "--data-changed" in said
        before = checkpoint.load(out).step
        assert main([*command, "--data-changed"]) == 0
        assert f"{pictures}: the data changed since step {before}: " in capsys.readouterr().err
        saved = checkpoint.load(out)
        (change,) = saved.documents["data_changes"]
        assert saved.step == before + 1 and (change["step"], change["source"]) == (before, str(pictures))


# ---- wrong input

def test_an_empty_folder_and_no_path(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty holds no images (.png, " in refused(*words("vision", tmp_path / "empty", tmp_path / "run"))
    assert "data.paths is empty" in refused(*words("vision", tmp_path, tmp_path / "run", "data.paths=[]"))


def test_unreadable_files_are_counted_named_and_skipped_up_to_a_limit(data: dict[str, Path], tmp_path: Path, refused: Refused,
                                                                      capsys: pytest.CaptureFixture[str]) -> None:
    pictures = Path(shutil.copytree(data["vision"], tmp_path / "pictures"))
    for i in range(4):
        (pictures / f"broken{i}.png").write_bytes(b"not a picture")
    assert main(words("vision", pictures, tmp_path / "run", "training.steps=1")) == 0
    said = capsys.readouterr().err
    assert "left out: image 'broken0.png' in" in said and "left out: 4 samples in all" in said
    message = refused(*words("vision", pictures, tmp_path / "other", "data.most_skipped=3"))
    assert "4 of 44 samples cannot be used, the limit is 3: image 'broken0.png'" in message
    assert not (tmp_path / "other").exists()


def test_short_sounds_are_left_out_and_other_rates_resampled(data: dict[str, Path], tmp_path: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    sounds = Path(shutil.copytree(data["speech"], tmp_path / "sounds"))
    sound(sounds / "short.wav", 100, seconds=0.015)
    sound(sounds / "fast.wav", 100, rate=8000)
    assert main(words("speech", sounds, tmp_path / "run", "training.steps=1")) == 0
    said = capsys.readouterr().err
    assert "left out: 'short.wav': 15 samples of sound are too short, at least 30 are needed" in said, said
    assert "1 sounds of 8000 Hz were resampled to 1000 Hz" in said


def test_a_mask_that_leaves_nothing_is_refused(data: dict[str, Path], tmp_path: Path, refused: Refused) -> None:
    for share, lacking in ((1.0, "see"), (0.0, "predict")):
        said = refused(*words("vision", data["vision"], tmp_path / "run", f"objective.mask={{share: {share}, block: 3}}"))
        assert f"mask share={share} leaves nothing to {lacking}" in said


def test_settings_that_do_not_fit_are_one_line(data: dict[str, Path], tmp_path: Path, refused: Refused) -> None:
    run = words("vision", data["vision"], tmp_path / "run")
    assert "top_layers=5 of an encoder with 2; lower it" in refused(*run, "objective.top_layers=5")
    assert "did you mean" in refused(*run, "objective.copys=5")
    assert "modality" in refused(*run, "modality=smell")


def test_every_config_that_comes_along_loads_and_comes_back() -> None:
    names = [name for name in shipped_configs() if name.startswith("pretrain_")]
    assert len(names) == 4
    for name in names:
        settings = load_settings(name, [])
        assert config_from_json(PretrainSettings, config_to_json(settings)) == settings


def test_version_1_can_be_chosen_over_a_config_of_version_2() -> None:
    settings = load_settings("pretrain_text", ["version=1", "objective.decoder=null", "objective.copies=1"])
    assert settings.objective.decoder is None and settings.objective.beta == OBJECTIVES["text-v1"].beta


# ---- probe and finetune

@pytest.mark.parametrize("hidden", [-0.1, 1.0, 1.5])
def test_a_text_cannot_be_hidden_whole(hidden: float, runs: dict[str, Path], data: dict[str, Path], tmp_path: Path,
                                       refused: Refused) -> None:
    run = tmp_path / "run"
    said = refused("finetune", runs["text"], data["text"], "--out", run, f"hidden={hidden}")
    assert f"hidden={hidden} must be a fraction" in said and not run.exists()


def test_the_probe_shows_all_sides(runs: dict[str, Path], data: dict[str, Path], answered: Answered) -> None:
    found = answered("probe", runs["vision"], data["vision"])
    assert found.keys() == {"pre-trained", "untrained", "raw pixels"}
    assert found["raw pixels"]["linear"] > 0.9          # light or dark
    assert answered("probe", runs["text"], data["text"], "--labels-per-class", 3).keys() == {"pre-trained", "untrained"}


FINETUNE = ("training.steps=12", "training.evaluate_every=6", "batch_size=8", "optimizer.warmup_steps=2",
            "optimizer.learning_rate=5e-3", "--json")


@EACH
def test_a_fine_tuned_run_answers(modality: str, runs: dict[str, Path], data: dict[str, Path], tmp_path: Path,
                                  capsys: pytest.CaptureFixture[str], answered: Answered) -> None:
    run = tmp_path / "run"
    command = ["finetune", str(runs[modality]), str(data[modality]), "--out", str(run), *FINETUNE]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["classes"]) == 2 and found["train"] + found["held_out"] == 40 and 0 <= found["accuracy"] <= 1
    before = checkpoint.load(run).tensors["model"]
    assert main(command) == 0                                    # finished: nothing is done again
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint.load(run).tensors["model"].items())
    item = {"vision": data["vision"] / "light" / "3.png", "speech": data["speech"] / "low" / "3.wav",
            "text": "a good film"}[modality]
    (answer,) = answered("finetune", run, item, "--predict")
    assert answer["class"] in answer["probabilities"] and sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert load_encoder(run).width == 16                         # a fine-tuned run is an encoder, too


def test_light_and_dark_are_told_apart(runs: dict[str, Path], data: dict[str, Path], tmp_path: Path,
                                       capsys: pytest.CaptureFixture[str], answered: Answered) -> None:
    words = ["finetune", str(runs["vision"]), str(data["vision"]), "--out", str(tmp_path / "run"), *FINETUNE]
    assert main([*words, "training.steps=40"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] > 0.9
    for name in ("light", "dark"):
        (answer,) = answered("finetune", tmp_path / "run", data["vision"] / name / "1.png", "--predict")
        assert answer["class"] == name


def test_few_labels_and_random_weights(runs: dict[str, Path], data: dict[str, Path], tmp_path: Path,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    words = ["finetune", str(runs["vision"]), str(data["vision"]), *FINETUNE, "training.steps=1", "labels_per_class=3"]
    assert main([*words, "--out", str(tmp_path / "few")]) == 0
    assert json.loads(capsys.readouterr().out)["train"] == 6
    assert main([*words, "from_scratch=true", "training.seed=1", "--out", str(tmp_path / "scratch")]) == 0
    few, scratch = (checkpoint.load(tmp_path / name).tensors["model"]["encoder.patches.weight"] for name in ("few", "scratch"))
    trained = load_encoder(runs["vision"]).state_dict()["patches.weight"]
    assert float((few - trained).abs().max()) < 0.02 < float((scratch - trained).abs().max())


def test_the_seed_of_a_fine_tuning_is_the_one_that_was_given(runs: dict[str, Path], data: dict[str, Path],
                                                             tmp_path: Path) -> None:
    words = ["finetune", str(runs["vision"]), str(data["vision"]), *FINETUNE, "training.steps=2", "from_scratch=true"]
    made = []
    for name, more in (("zero", []), ("five", ["training.seed=5"]), ("again", ["training.seed=5"])):
        assert main([*words, *more, "--out", str(tmp_path / name)]) == 0
        saved = checkpoint.load(tmp_path / name)
        assert saved.documents["config"]["training"]["seed"] == (5 if more else 0)
        made.append(saved.tensors["model"]["encoder.patches.weight"])
    assert float((made[0] - made[1]).abs().max()) > 0.01 and torch.equal(made[1], made[2])


def test_a_fine_tuned_run_is_made_longer_and_nothing_else(runs: dict[str, Path], data: dict[str, Path], tmp_path: Path,
                                                          refused: Refused) -> None:
    words = ["finetune", str(runs["vision"]), str(data["vision"]), "--out", str(tmp_path / "run"), *FINETUNE]
    assert main([*words, "training.steps=2"]) == 0
    assert main([*words, "training.steps=4", "training.save_every=1"]) == 0
    assert checkpoint.load(tmp_path / "run").step == 4
    for change in ("training.seed=1", "training.accumulate=2", "training.ema=0.5", "labels_per_class=3", "smoothing=0.2"):
        key = change.partition("=")[0]
        assert f"holds a run with other settings: {key} is" in refused(*words, change)


def test_what_finetune_refuses(runs: dict[str, Path], data: dict[str, Path], tmp_path: Path, refused: Refused) -> None:
    out = ("--out", tmp_path / "run")
    assert "holds no images" in refused("finetune", runs["vision"], data["speech"], *out)
    assert "--out is missing" in refused("finetune", runs["vision"], data["vision"])
    assert "does not exist" in refused("finetune", tmp_path / "none", data["vision"], *out)
    (tmp_path / "gaps.jsonl").write_text('{"text": "good", "label": "pos"}\n{"text": "", "label": "neg"}\n')
    assert "1 of 2 samples in" in (said := refused("finetune", runs["text"], tmp_path / "gaps.jsonl", *out))
    assert "the first is number 1: the text '' is too short; remove them" in said
    said = refused("finetune", runs["vision"], data["vision"], *out, "labels_per_class=0")
    assert "0 labels per class leave nothing" in said
    assert "was pre-trained but not fine-tuned" in refused("finetune", runs["vision"], data["vision"], "--predict")
