"""`calico train`: a run holds what it was told, continues as if it had never stopped, and refuses what cannot be right."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from calico.agent import checkpoint
from calico.agent.agent import Agent
from calico.agent.training import trainer as training
from calico.datasets import publish
from calico.datasets.episodes import EpisodeReader, EpisodeWriter
from calico.scripts.common.settings import RunSettings, load_settings
from calico.scripts.main import main
from calico.tokenizers.text import TextTokenizer

from ..conftest import SmallRun

Refused = Callable[..., str]


SOURCES = ("CartPole-v1", "minigrid-captions")


def words(small: SmallRun, out: Path, *overrides: str, sources: tuple[str, ...] = SOURCES) -> list[str]:
    """`calico train` with the small config, for four steps."""
    listed = ", ".join(f"{{path: {small.data / name}}}" for name in sources)
    return ["train", str(small.config), f"data.sources=[{listed}]", "training.steps=4", f"out={out}", *overrides]


def losses(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Curves of the run's TensorBoard: tag -> (step, loss). Its files are told apart by the second, ours may share one."""
    found: dict[str, set[tuple[int, float]]] = {}
    for file in (run / "tensorboard").iterdir():
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            if tag.startswith("loss/"):
                found.setdefault(tag, set()).update((event.step, event.value) for event in events.Scalars(tag))
    return {tag: sorted(points) for tag, points in found.items()}


def assert_same_run(one: Path, other: Path) -> None:
    """The same losses and, bit for bit, the same weights and optimizer."""
    assert losses(one) == losses(other)
    ours, theirs = checkpoint.load(one), checkpoint.load(other)
    assert ours.step == theirs.step
    for stem in ("model", "optimizer"):
        assert ours.tensors[stem].keys() == theirs.tensors[stem].keys()
        assert all(torch.equal(tensor, theirs.tensors[stem][name]) for name, tensor in ours.tensors[stem].items())


@pytest.fixture(scope="module")
def whole(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps without a stop."""
    run = tmp_path_factory.mktemp("train") / "whole"
    assert main(words(small_run, run)) == 0
    return run


def test_a_run_holds_config_tasks_tokenizer_and_curves(small_run: SmallRun) -> None:
    run, saved = small_run.run, checkpoint.load(small_run.run)
    settings = load_settings(run / "config.json", [])
    assert settings.backbone.width == 32 and len(settings.data.sources) == 4 and settings.out == str(run)
    assert (saved.step, saved.documents["state"]["tokens"]) == (6, 6 * 4 * 128)
    assert saved.documents["tasks"].keys() == {"CartPole-v1", "BabyAI-GoToLocal-v0"}
    assert saved.documents["tasks"]["CartPole-v1"]["data"]["expert"] == "cartpole-lqr"
    text = TextTokenizer.from_bytes(saved.files["tokenizer.model"])
    assert len(text.encode("go to the")) < 5   # learnt from the missions
    curves = losses(run)
    assert curves.keys() == {"loss/all", "loss/CartPole-v1", "loss/BabyAI-GoToLocal-v0", "loss/minigrid-captions",
                             "loss/minigrid-dialogues"}
    assert [step for step, _ in curves["loss/all"]] == [1, 2, 3, 4, 5, 6]
    assert curves["loss/all"][-1][1] < curves["loss/all"][0][1]


def test_a_finished_run_is_left_as_it_is_and_may_be_made_longer(small_run: SmallRun, whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "whole"))
    assert main(words(small_run, run)) == 0
    assert_same_run(run, whole)
    assert main(words(small_run, run, "training.steps=5")) == 0
    assert checkpoint.load(run).step == 5 and len(losses(run)["loss/all"]) == 5


def test_a_run_from_before_a_setting_existed_goes_on(small_run: SmallRun, whole: Path, tmp_path: Path) -> None:
    run, saved = Path(shutil.copytree(whole, tmp_path / "whole")), checkpoint.load(whole)
    del saved.documents["config"]["data"]["max_text_tokens"]
    checkpoint.save(run, 4, tensors=saved.tensors, documents=saved.documents, files=saved.files)
    assert main(words(small_run, run, "training.steps=5")) == 0


def test_stopped_and_continued_equals_never_stopped(
        small_run: SmallRun, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    """SIGTERM in step 1, Ctrl-C in step 3: the steps under way are finished and saved, then the command goes on."""
    signals, log = {1: signal.SIGTERM, 3: signal.SIGINT}, training.log

    def log_and_signal(writer: Any, report: training.TrainingReport) -> None:
        log(writer, report)
        if report.step in signals:
            os.kill(os.getpid(), signals.pop(report.step))

    monkeypatch.setattr(training, "log", log_and_signal)
    for reached, code in ((1, 130), (3, 130), (4, 0)):
        assert main(words(small_run, tmp_path / "run")) == code
        assert checkpoint.load(tmp_path / "run").step == reached
    assert "calico train: stopped" in capsys.readouterr().err
    assert_same_run(tmp_path / "run", whole)


@pytest.fixture(scope="module")
def compact_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy episodes with the experts' labels, in the compact views."""
    data = tmp_path_factory.mktemp("compact")
    for name in ("Pendulum-v1", "BabyAI-GoToLocal-v0"):
        words = ["collect", name, "--compact", "--noise", "0.3", "--episodes", "4", "--workers", "0", "--out", str(data)]
        assert main(words) == 0
    return data


def test_a_run_with_vectors_stops_continues_and_plays(small_run: SmallRun, compact_data: Path, tmp_path: Path, refused: Refused,
                                                      answered: Callable[..., Any]) -> None:
    small, sources = SmallRun(compact_data, small_run.config, small_run.run), ("Pendulum-v1", "BabyAI-GoToLocal-v0")
    vectors = ["data.numbers=vector", "embedding.observation_positions=72", "data.text_every=8"]
    for out, steps in (("whole", 4), ("parts", 2), ("parts", 4)):
        assert main(words(small, tmp_path / out, *vectors, f"training.steps={steps}", sources=sources)) == 0
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    assert main(words(small, tmp_path / "workers", *vectors, "data.workers=2", sources=sources)) == 0
    assert_same_run(tmp_path / "workers", tmp_path / "whole")
    saved = checkpoint.load(tmp_path / "whole")
    codecs = [task["codec"] for task in saved.documents["tasks"].values()]
    assert [(codec["numbers"], codec["text_every"]) for codec in codecs] == [("vector", 8), ("vector", 8)]
    said = refused(*words(small, tmp_path / "whole", *vectors[1:], sources=sources))
    assert 'data.numbers is "binned" but was "vector"; give the old value' in said
    said = refused(*words(small, tmp_path / "whole", *vectors[:2], sources=sources))
    assert "data.text_every is 1 but was 8; give the old value" in said
    scores = answered("rollout", tmp_path / "whole", "--episodes", 2)              # in the view that was recorded
    assert {score["task"] for score in scores} == set(sources) and all(score["failed"] == 0 for score in scores)
    seen = answered("inspect", "BabyAI-GoToLocal-v0", "--run", tmp_path / "whole", "--steps", 2)["tokens"]
    assert [token["kind"] for token in seen].count("patch") == 2                   # one for each step
    other = small_run.data / "BabyAI-GoToLocal-v0"
    said = refused("rollout", tmp_path / "whole", "BabyAI-GoToLocal-v0", "--episodes", 1, "--prompt", other)
    assert "looks like Dict(" in said and "(56, 56, 3)" in said and "collect it again in the agent's view" in said


def test_one_task_in_two_views_is_refused(small_run: SmallRun, compact_data: Path, tmp_path: Path, refused: Refused) -> None:
    paths = [folder / "BabyAI-GoToLocal-v0" for folder in (small_run.data, compact_data)]
    said = refused(*words(small_run, tmp_path / "run", f"data.sources=[{{path: {paths[0]}}}, {{path: {paths[1]}}}]"))
    assert "holds BabyAI-GoToLocal-v0 with other spaces than a source before it" in said and "shape is [16, 16, 3]" in said


def test_vectors_are_not_the_papers_layout(small_run: SmallRun, compact_data: Path, tmp_path: Path, refused: Refused) -> None:
    small = SmallRun(compact_data, small_run.config, small_run.run)
    said = refused(*words(small, tmp_path / "run", "data.numbers=vector", "vocabulary.layout=gato", sources=("Pendulum-v1",)))
    assert "numbers='vector' is not the paper's form" in said and not (tmp_path / "run").exists()
    assert "data.numbers" in refused(*words(small, tmp_path / "run", "data.numbers=binary", sources=("Pendulum-v1",)))


KILLED = """
import os, signal, sys
from calico.scripts.main import main

rename = os.rename
def rename_or_die(source, target, **more):   # a finished save takes its name by a rename
    if str(target).endswith("step_00000004"):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target, **more)
os.rename = rename_or_die
main(sys.argv[1:])
"""


def test_killed_in_a_save_the_last_good_checkpoint_plays_and_continues(small_run: SmallRun, whole: Path, tmp_path: Path,
                                                                       answered: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    killed = subprocess.run([sys.executable, "-c", KILLED, *words(small_run, run)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert any(path.name.startswith(".saving_step_00000004") for path in (run / "checkpoints").iterdir())
    assert checkpoint.load(run).step == 2
    (played,) = answered("rollout", run, "CartPole-v1", "--episodes", 1)
    assert played["episodes"] == 1
    assert main(words(small_run, run)) == 0
    assert_same_run(run, whole)
    assert not any(path.name.startswith(".saving") for path in (run / "checkpoints").iterdir())


def test_loader_processes_change_nothing(small_run: SmallRun, whole: Path, tmp_path: Path) -> None:
    assert main(words(small_run, tmp_path / "run", "data.workers=2")) == 0
    assert_same_run(tmp_path / "run", whole)


def test_a_given_tokenizer_is_used(small_run: SmallRun, tmp_path: Path) -> None:
    given = TextTokenizer.train(["zebras and giraffes"], 300)
    given.save(tmp_path / "zoo.model")
    assert main(words(small_run, tmp_path / "run", f"data.tokenizer={tmp_path / 'zoo.model'}", "training.steps=1")) == 0
    assert checkpoint.load(tmp_path / "run").files["tokenizer.model"] == given.to_bytes()


def test_two_data_sets_of_one_task_are_two_sources(small_run: SmallRun, tmp_path: Path) -> None:
    assert main(["collect", "CartPole-v1", "--policy", "random", "--episodes", "3", "--out", str(tmp_path / "random")]) == 0
    second = tmp_path / "random" / "CartPole-v1"
    overrides = [f"data.sources=[{{path: {small_run.data / 'CartPole-v1'}}}, {{path: {second}}}]", "training.steps=1"]
    assert main(words(small_run, tmp_path / "run", *overrides)) == 0
    saved = checkpoint.load(tmp_path / "run")
    assert list(saved.documents["mixture"]["sources"]) == ["CartPole-v1", str(second)]
    assert list(saved.documents["tasks"]) == ["CartPole-v1"]


# ---- what cannot be right


@pytest.mark.parametrize("overrides, says", [
    (["data.sources=[]"], "the mixture is empty; name data sets"),
    (["data.sources=[{path: nowhere/at-all}]"], "nowhere/at-all does not exist here; Hugging Face Hub"),
    (["data.sources=[{path: DATA}]"], "data/BabyAI-GoToLocal-v0, "),
    (["optimizer.learning_rate=1e30", "optimizer.clip=0"], "the loss of step 1 is not finite (sources: "),
    (["backbone.widht=64"], "did you mean backbone.width?"),
    (["trainign.steps=3"], "unknown key trainign; did you mean training?"),
    (["training.steps=many"], "training.steps must be an integer"),
    (["training.steps=0"], "training.steps=0 must be at least 1"),
    (["size=tyni"], "model size 'tyni' is unknown; choose one of tiny"),
    (["backbone.heads=3"], "backbone.width=32 does not split into 3 heads"),
    (["steps"], "'steps' is not an override; write key=value"),
    (["data.tokenizer=nothing.model"], "No such file or directory: nothing.model"),
    (["vocabulary.text=300", "data.tokenizer=CONFIG"], "small.yaml is not a SentencePiece model"),
    (["--device", "abacus"], "device 'abacus' cannot be used here"),
])
def test_wrong_settings_are_one_line_and_start_no_run(small_run: SmallRun, tmp_path: Path, refused: Refused,
                                                      overrides: list[str], says: str) -> None:
    real = {"CONFIG": str(small_run.config), "DATA": str(small_run.data)}
    overrides = [re.sub("CONFIG|DATA", lambda found: real[found[0]], override) for override in overrides]
    assert says in refused(*words(small_run, tmp_path / "run", *overrides))
    assert not checkpoint.checkpoints(tmp_path / "run")


def test_a_config_that_does_not_exist_names_the_nearest(refused: Refused) -> None:
    assert "config tiyn does not exist; did you mean tiny?" in refused("train", "tiyn")
    assert "the following arguments are required: config (see" in refused("train")


@pytest.mark.parametrize("override, says", [
    ("vocabulary.discrete=1", "CartPole-v1: action space Discrete(2) needs 2 ids but the vocabulary has 1 for discrete "
                              "values; set vocabulary.discrete=2"),
    ("vocabulary.text=200", "vocabulary.text=200"),
    ("backbone.context=4", "a step takes up to 6 tokens, which does not fit the context of 4"),
    ("embedding.observation_positions=3", "raise embedding.observation_positions"),
    ("data.max_text_tokens=2", "more than max_text_tokens=2: 'go to"),
])
def test_a_task_that_does_not_fit_the_model_says_what_to_set(small_run: SmallRun, tmp_path: Path, refused: Refused,
                                                             override: str, says: str) -> None:
    sources = ("BabyAI-GoToLocal-v0" if "text_tokens" in override else "CartPole-v1",)
    assert says in refused(*words(small_run, tmp_path / "run", override, sources=sources))
    assert not checkpoint.checkpoints(tmp_path / "run")


@pytest.mark.parametrize("name, damage", [
    ("part-00000.parquet", lambda data: data[:-100]),
    ("part-00000.parquet", lambda data: data[:500] + bytes([data[500] ^ 8]) + data[501:]),
    ("part-00000.parquet", lambda data: b""),
    ("_part-00000.json", lambda data: data[: len(data) // 2]),
])
def test_damaged_episodes_are_named(small_run: SmallRun, tmp_path: Path, refused: Refused, name: str,
                                    damage: Callable[[bytes], bytes]) -> None:
    folder = Path(shutil.copytree(small_run.data / "CartPole-v1", tmp_path / "broken"))
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    publish._digests.clear()   # as a new process would find it
    said = refused(*words(small_run, tmp_path / "run", f"data.sources=[{{path: {folder}}}]"))
    assert str(folder / name) in said


def test_a_broken_caption_is_named_with_its_line(small_run: SmallRun, tmp_path: Path, refused: Refused) -> None:
    folder = Path(shutil.copytree(small_run.data / "minigrid-captions", tmp_path / "broken"))
    lines = (folder / "captions.jsonl").read_text().splitlines()
    (folder / "captions.jsonl").write_text("\n".join([*lines[:3], '{"image": "0.png"}', *lines[3:]]))
    said = refused(*words(small_run, tmp_path / "run", f"data.sources=[{{path: {folder}}}]"))
    assert "captions.jsonl, line 4: " in said


def test_spaces_of_one_task_must_agree(small_run: SmallRun, tmp_path: Path, refused: Refused) -> None:
    reader = EpisodeReader(small_run.data / "CartPole-v1")
    narrow = reader.task["observation_space"] | {"low": [-1] * 4, "high": [1] * 4}
    with EpisodeWriter(tmp_path / "narrow", reader.task | {"observation_space": narrow}) as writer:
        writer.append(reader[0])
    both = f"data.sources=[{{path: {reader.path}}}, {{path: {tmp_path / 'narrow'}}}]"
    said = refused(*words(small_run, tmp_path / "run", both))
    assert "narrow holds CartPole-v1 with other spaces than a source before it: observation_space." in said


def test_a_run_is_not_continued_with_other_settings_or_data(small_run: SmallRun, whole: Path, tmp_path: Path,
                                                            refused: Refused) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "whole"))
    said = refused(*words(small_run, run, "backbone.width=64"))
    assert "holds a run with other settings: backbone.width is 64 but was 32" in said and "another out" in said
    assert "device 'cuda:99' cannot be used here" in refused(*words(small_run, run, "--device", "cuda:99"))
    said = refused(*words(small_run, run, "training.seed=1"))
    assert "training.seed is 1 but was 0" in said
    more = tmp_path / "data"
    shutil.copytree(small_run.data, more)
    settings = json.loads((run / "config.json").read_text())
    changed = str(settings["data"]["sources"]).replace(str(small_run.data), str(more))
    assert "data.sources" in refused(*words(small_run, run, f"data.sources={changed}"))
    assert_same_run(run, whole)


def test_another_accumulation_or_average_is_not_continued(small_run: SmallRun, whole: Path, tmp_path: Path,
                                                          refused: Refused) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "whole"))
    assert "training.accumulate is 2 but was 1" in refused(*words(small_run, run, "training.accumulate=2"))
    assert "training.ema is 0.5 but was 0.0" in refused(*words(small_run, run, "training.ema=0.5"))
    assert_same_run(run, whole)


def test_an_averaged_agent_is_measured_on_what_is_held_out_and_continues_exactly(small_run: SmallRun, tmp_path: Path) -> None:
    """The average is what acts; the weights under it are kept to go on with."""
    listed = ", ".join(f"{{path: {small_run.data / name}, held_out: 0.3}}" for name in SOURCES)
    changes = (f"data.sources=[{listed}]", "training.ema=0.9", "training.evaluate_every=2", "training.accumulate=2")
    for name, lengths in (("once", (4,)), ("twice", (2, 4))):
        for steps in lengths:
            assert main(words(small_run, tmp_path / name, *changes, f"training.steps={steps}")) == 0
    once, twice = (checkpoint.load(tmp_path / name) for name in ("once", "twice"))
    assert once.documents["state"]["evaluation"].keys() == {"loss", "loss/CartPole-v1", "loss/minigrid-captions"}
    assert 0 < once.documents["state"]["evaluation"]["loss"] < 10
    moved = [name for name, tensor in once.tensors["training"].items() if not torch.equal(tensor, once.tensors["model"][name])]
    assert moved and once.documents["state"]["tokens"] == 4 * 2 * 4 * 128
    agent = Agent.load(tmp_path / "once")
    assert all(torch.equal(tensor, once.tensors["model"][name]) for name, tensor in agent.model.state_dict().items())
    assert twice.tensors.keys() == once.tensors.keys() == {"model", "training", "optimizer"} and twice.step == 4


def test_the_clock_ends_a_run(small_run: SmallRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(words(small_run, run, "training.steps=100000", "training.minutes=0.02")) == 0
    saved = checkpoint.load(run)
    assert 0 < saved.step < 100000 and saved.documents["state"]["seconds"] >= 1.2
    assert main(words(small_run, run, "training.steps=100000", "training.minutes=0.02")) == 0      # its time is up
    assert checkpoint.load(run).step == saved.step


def test_data_that_changed_under_a_run_is_refused(small_run: SmallRun, tmp_path: Path, refused: Refused) -> None:
    own = SmallRun(Path(shutil.copytree(small_run.data, tmp_path / "data")), small_run.config, small_run.run)
    assert main(words(own, tmp_path / "run", "training.steps=1")) == 0
    assert main(["collect", "CartPole-v1", "--episodes", "5", "--out", str(own.data)]) == 0
    said = refused(*words(own, tmp_path / "run"))
    assert "the data are not those of the run that is resumed: sources.CartPole-v1.data" in said
    assert "or accept the change with --data-changed" in said
    assert main([*words(own, tmp_path / "run"), "--data-changed"]) == 0


def captioned(folder: Path, broken: int) -> Path:
    """40 captioned pictures, one of them cut short, one animated."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for i in range(40):
        Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(folder / "images" / f"{i}.png")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "images" / "8.png", save_all=True, append_images=frames[1:])
    damaged = folder / "images" / f"{broken}.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    lines = [json.dumps({"image": f"{i}.png", "caption": f"picture {i}"}) for i in range(40)]
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder / "captions.jsonl"


@pytest.mark.filterwarnings("ignore:.*passed over:UserWarning", "ignore:.*left out:UserWarning")
@pytest.mark.parametrize("held_out", [0, 0.3])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_passed_over_and_may_be_removed(small_run: SmallRun, tmp_path: Path, held_out: float, workers: int,
                                                            refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    path, run = captioned(tmp_path / "data", 17), tmp_path / "run"

    def command(out: Path, *more: str) -> list[str]:
        return ["train", str(small_run.config), f"data.sources=[{{path: {path}, held_out: {held_out}}}]", f"out={out}",
                f"data.workers={workers}", *more]

    assert main(command(run, "training.steps=2")) == 0
    said = capsys.readouterr().err
    assert "captions: of the pictures and sounds read so far 1 holds several pictures, the first one is used\n" in said
    saved = checkpoint.load(run).documents["skipped"]["captions"]
    assert list(saved) == ([] if held_out else ["17"])          # with held-out ones, it is on neither side
    assert held_out or "line 18: image '17.png'" in saved["17"]
    assert main(command(run, "training.steps=4")) == 0
    assert main(command(tmp_path / "whole", "training.steps=4")) == 0
    assert_same_run(run, tmp_path / "whole")

    kept = [line for line in path.read_text().splitlines() if "17.png" not in line]
    path.write_text("\n".join(kept))
    assert "sources.captions.data is" in refused(*command(run, "training.steps=6"))
    assert main(command(run, "training.steps=6", "--data-changed")) == 0
    assert "captions: the data changed since step 4: " in capsys.readouterr().err
    saved = checkpoint.load(run).documents
    (change,) = saved["data_changes"]
    assert (change["step"], change["source"]) == (4, "captions") and change["before"] != change["after"]
    assert saved["skipped"] == {"captions": {}}
    assert main(command(run, "training.steps=7")) == 0          # from then on the data are those
    path.write_text("\n".join([*kept, kept[0].replace("picture 0", "picture again")]))
    assert main(command(run, "training.steps=8", "--data-changed")) == 0
    assert [change["step"] for change in checkpoint.load(run).documents["data_changes"]] == [4, 7]


@pytest.mark.filterwarnings("ignore:.*passed over:UserWarning")
def test_what_was_passed_over_once_is_passed_over_to_the_end(small_run: SmallRun, tmp_path: Path) -> None:
    """A picture that could not be read for a moment: a run that resumes draws as the one that never stopped."""
    path = captioned(tmp_path / "data", 17)
    picture = path.parent / "images" / "17.png"
    command = ["train", str(small_run.config), f"data.sources=[{{path: {path}}}]"]
    assert main([*command, f"out={tmp_path / 'whole'}", "training.steps=4"]) == 0
    assert main([*command, f"out={tmp_path / 'run'}", "training.steps=2"]) == 0
    size = picture.stat().st_size
    Image.new("RGB", (1, 1)).save(picture)                       # it can be read again
    picture.write_bytes(picture.read_bytes().ljust(size, b"\0"))
    assert picture.stat().st_size == size
    assert main([*command, f"out={tmp_path / 'run'}", "training.steps=4"]) == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_checkpoint_of_another_program_is_not_continued(small_run: SmallRun, tmp_path: Path, refused: Refused) -> None:
    checkpoint.save(tmp_path / "run", 1, tensors={}, documents={"notes": []})
    assert "was not written by `calico train`" in refused(*words(small_run, tmp_path / "run"))


def test_a_run_that_is_in_use_names_the_process(small_run: SmallRun, tmp_path: Path, refused: Refused) -> None:
    with checkpoint.run_lock(tmp_path / "run"):
        assert f"is in use by process {os.getpid()}" in refused(*words(small_run, tmp_path / "run"))


def test_every_default_can_be_built() -> None:
    assert load_settings("tiny", []).backbone.width == RunSettings().backbone.width


def test_a_run_starts_from_another_ones_network(small_run: SmallRun, tmp_path: Path, refused: Refused) -> None:
    """Shape, vocabulary, text pieces and weights are its; tasks are those of the new data; resuming needs nothing more."""
    out = tmp_path / "more"
    given = words(small_run, out, f"init={small_run.run}", "optimizer.learning_rate=1e-9", sources=("CartPole-v1",))
    given[1] = "tiny"                                             # whose shape and vocabulary are others
    assert main(given) == 0
    before, after = Agent.load(small_run.run), Agent.load(out)
    assert after.model.config == before.model.config and after.vocabulary.to_json() == before.vocabulary.to_json()
    assert after.text.to_bytes() == before.text.to_bytes() and set(after.tasks) == {"CartPole-v1"}
    for name, tensor in before.model.state_dict().items():
        torch.testing.assert_close(after.model.state_dict()[name], tensor, atol=1e-4, rtol=0)
    assert main([*given, "training.steps=6"]) == 0 and checkpoint.load(out).step == 6
    base, saved = checkpoint.load(small_run.run), checkpoint.load(out)
    assert checkpoint.spent(saved)["tokens"] == base.documents["state"]["tokens"] + saved.documents["state"]["tokens"] > 0
    again = tmp_path / "again"
    assert main(["train", "tiny", *given[2:4], f"out={again}", f"init={out}"]) == 0
    assert checkpoint.spent(checkpoint.load(again))["tokens"] > checkpoint.spent(saved)["tokens"]
    said = refused(*given[:-2], f"init={small_run.run}", "backbone.width=64")
    assert "brings its own backbone.width; leave backbone.width=64 out" in said
    assert "does not exist" in refused(*words(small_run, tmp_path / "none", "init=runs/none"))


def test_a_network_that_sees_a_task_otherwise_is_refused(small_run: SmallRun, tmp_path: Path, refused: Refused) -> None:
    assert main(["collect", "BabyAI-GoToLocal-v0", "--compact", "--episodes", "3", "--out", str(tmp_path)]) == 0
    said = refused("train", "tiny", f"data.sources=[{{path: {tmp_path}/BabyAI-GoToLocal-v0}}]", f"init={small_run.run}",
                   f"out={tmp_path}/run")
    assert "knows BabyAI-GoToLocal-v0 otherwise than these data show it" in said and "--compact" in said


def test_it_says_what_it_trains_and_what_to_type_next(small_run: SmallRun, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(small_run, tmp_path / "run", "training.steps=1")) == 0
    err = capsys.readouterr().err
    count = Agent.load(tmp_path / "run").model.parameter_count()
    assert f"run: {count:,} parameters (decoder, width 32, depth 1)" in err
    assert "1 steps of 4 rows of 128 tokens on cpu" in err
    assert "2 sources (items, share of the rows): CartPole-v1 (4, 50%), minigrid-captions (24, 50%)" in err
    assert f"next: calico rollout {tmp_path / 'run'} CartPole-v1\nwrote" in err
    assert main(words(small_run, tmp_path / "eyes", "training.steps=1", sources=("minigrid-captions",))) == 0
    assert f"next: calico caption {tmp_path / 'eyes'} IMAGE" in capsys.readouterr().err


def test_some_tasks_are_played_meanwhile_and_training_is_the_same(small_run: SmallRun, tmp_path: Path,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    given = words(small_run, tmp_path / "played", "training.play_every=2", "training.play_episodes=1",
                  sources=("BabyAI-GoToLocal-v0", "CartPole-v1"))
    assert main(given) == 0
    assert re.search(r"in play -?\d+ % of expert", capsys.readouterr().err)
    events = EventAccumulator(str(tmp_path / "played" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("play/CartPole-v1")][:2] == [2, 3]     # and in each report after it
    assert main(words(small_run, tmp_path / "plain", sources=("BabyAI-GoToLocal-v0", "CartPole-v1"))) == 0
    one, other = (checkpoint.load(tmp_path / name).tensors["model"] for name in ("played", "plain"))
    assert all(torch.equal(one[name], other[name]) for name in one)
