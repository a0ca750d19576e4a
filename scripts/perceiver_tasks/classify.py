"""`calico perceive classify-text|classify-image|classify-audio|classify-points train|predict`.

What the four do differently stands in KINDS: how files are read, how samples are prepared, which sizes there are.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from calico.agent.data2vec.classifier import classification_loss
from calico.agent.hardware import usable_device
from calico.agent.perceiver.hugging_face import copy_trunk
from calico.agent.perceiver.inputs import AudioConfig, ImageConfig, MelConfig
from calico.agent.perceiver.runs import Trained, check_one_class_of_several, config_to_json, load_trained, preparation
from calico.agent.perceiver.samples import CloudInput, PictureInput, SampleInput, SoundInput, TextInput
from calico.agent.perceiver.shortcuts import Shortcuts, Shortened
from calico.agent.perceiver.sizes import SMALL
from calico.agent.perceiver.tasks import Classifier, ClassifierConfig, MaskedLanguage
from calico.datasets.images import read_image
from calico.datasets.records import named
from calico.datasets.samples import labelled
from calico.datasets.samples.labelled import Labelled
from calico.datasets.samples.point_clouds import decode_cloud
from calico.datasets.sounds import read_sound
from calico.scripts.common import console
from calico.scripts.perceiver_tasks import training as runs
from calico.scripts.perceiver_tasks.training import EVALUATIONS, HELD_OUT, TaskSettings, load_task_settings
from calico.scripts.training import classification
from calico.scripts.training.classification import file_bytes, open_text

HIDDEN = 0.2         # of a text's words in training, so that no single one decides

TRAIN = """Train a Perceiver IO to tell the classes of {what} apart.

    calico perceive {task} train {example} --out runs/{task}
    calico perceive {task} train {example} training.steps=500 training.minutes=10 --out runs/{task}
    calico perceive {task} train {example} init=FOLDER --out runs/tuned     # a run, or a Hugging Face folder
{data}
A fifth of the samples, by a hash of their content, is held out and measured {evaluations} times and at the end:
RUN/held_out.json and RUN/confusion.png. With training.minutes the learning rate is annealed by then. The same command
continues.
"""
PREDICT = """The class of each of some {what}, and how sure the model is of it.

    calico perceive {task} predict runs/{task} {file} --json
    calico perceive {task} predict runs/{task} {file} --views 8
    calico perceive {task} predict runs/{task} {file} --early-exit 0.9

RUN is what `calico perceive {task} train` made, or the folder of a Hugging Face Perceiver with such a head.
--early-exit and --keep-latents answer sooner and not exactly; `calico bench perceiver-shortcuts` measures what they cost.
"""


# ---- what the tasks do differently -----------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class ClassifierSettings(TaskSettings):
    """What all four have."""

    smoothing: float = 0.1       # fraction of a target that goes to all classes, as the paper's ImageNet recipe
    views: int = 1               # above 1: the report tells the accuracy of so many views of each held-out sample, too

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.views < 1:
            raise ValueError(f"views={self.views} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class PictureSettings(ClassifierSettings):
    """classify-image."""

    size: Literal["stem", "patches"] = "stem"
    side: int = 32               # pixels that pictures are scaled to
    mirror: bool = True          # show pictures mirrored, too; false for digits and letters
    LEAST = {"side": "8 pixels"}


@dataclass(frozen=True, kw_only=True)
class SoundSettings(ClassifierSettings):
    """classify-audio."""

    size: Literal["mel", "raw"] = "mel"
    rate: int | None = None      # samples per second; null: the first file's, at most 16000
    seconds: float | None = None     # that are listened to; null: 19 of 20 sounds fit in
    label: str = "label"         # field of a manifest, with the class

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.rate is not None and self.rate < 1000) or (self.seconds is not None and self.seconds <= 0):
            raise ValueError(f"rate={self.rate} must be at least 1000 Hz and seconds={self.seconds} above 0")


@dataclass(frozen=True, kw_only=True)
class CloudSettings(ClassifierSettings):
    """classify-points."""

    size: Literal["points"] = "points"
    points: int = 512            # of each cloud that are read
    turn: Literal["none", "vertical", "any", "axes"] = "axes"    # see CloudInput
    LEAST = {"points": "8"}


@dataclass(frozen=True, kw_only=True)
class TextSettings(ClassifierSettings):
    """classify-text."""

    size: Literal["bytes"] = "bytes"
    length: int = 2048           # bytes that are read of a text
    label: str = "label"         # field with the class
    LEAST = {"length": "16 bytes"}


@dataclass(frozen=True)
class Kind:
    """One task.

    Attributes:
        what, example, file, data: words for the help.
        settings: the defaults.
        read: (path, settings, how samples are prepared by the model to start from or None) -> samples and preparation.
        fit: a size's configuration, made to fit the preparation.
        open: a file (or text) given to `predict` -> named samples.
    """

    what: str
    example: str
    file: str
    data: str
    settings: ClassifierSettings
    read: Callable[[Path, Any, Any], tuple[Labelled, SampleInput]]
    fit: Callable[[ClassifierConfig, Any], ClassifierConfig]
    open: Callable[[str, Any], list[tuple[str, Any]]]


def read_pictures(path: Path, settings: PictureSettings, known: PictureInput | None) -> tuple[Labelled, PictureInput]:
    """Pictures scaled to `side`, or to what the model to start from was trained with."""
    fit = known or PictureInput(side=settings.side, shift=max(1, settings.side // 8))
    data = labelled.read_pictures(path, 2 * fit.side, console.with_progress("read", "pictures"))
    return data, replace(fit, mirror=settings.mirror)


def with_reader(config: ClassifierConfig, **fields: Any) -> ClassifierConfig:
    """The configuration with other fields of its reader."""
    reader: Any = config.reader
    return replace(config, reader=replace(reader, **fields))


def fit_picture(config: ClassifierConfig, fit: PictureInput) -> ClassifierConfig:
    """Fourier frequencies up to what a grid of elements 4 pixels wide can show."""
    grid = (fit.side // 4, fit.side // 4)
    if isinstance(config.reader, ImageConfig):
        return with_reader(config, size=grid)
    if fit.side % 4:
        raise ValueError(f"side={fit.side} does not split into patches of 4 pixels; choose a multiple of 4, or size=stem")
    return with_reader(config, resolution=grid)


def open_picture(name: str, fit: PictureInput) -> list[tuple[str, np.ndarray]]:
    """A picture, or all of a .npz."""
    if name.endswith(".npz"):
        return numbered(name, labelled.check_pictures(labelled.load_arrays(Path(name), ("images",))["images"]))
    pixels, remark = read_image(file_bytes(name), fit.decode_side)
    if remark:
        console.note(f"{name} {remark}")
    return [(name, pixels)]


def read_sounds(path: Path, settings: SoundSettings, known: SoundInput | None) -> tuple[Labelled, SoundInput]:
    data, rate = labelled.read_sounds(path, known.rate if known else settings.rate, settings.label,
                                      console.with_progress("read", "sounds"))
    length = float(np.quantile([len(sound) for sound in data.samples], 0.95)) / rate
    return data, known or SoundInput(rate=rate, samples=round((settings.seconds or length) * rate / 1024 + 0.5) * 1024)


def fit_sound(config: ClassifierConfig, fit: SoundInput) -> ClassifierConfig:
    """Frames of 32 ms every 10 ms; Fourier frequencies up to what the elements of a clip can show."""
    if isinstance(config.reader, AudioConfig):
        return with_reader(config, resolution=fit.samples // config.reader.patch)
    assert isinstance(config.reader, MelConfig)
    hop = fit.rate // 100
    return with_reader(config, rate=fit.rate, window=2 ** round(np.log2(0.032 * fit.rate)), hop=hop,
                       resolution=max(2, fit.samples // hop // config.reader.stack))


def open_sound(name: str, fit: SoundInput) -> list[tuple[str, np.ndarray]]:
    """A sound; another sample rate is resampled, with a note."""
    sound, own, remark = read_sound(file_bytes(name), fit.rate)
    if remark:
        console.note(f"{name} {remark}")
    if own != fit.rate:
        console.note(f"{name}: resampled from {own} to {fit.rate} Hz, which the model was trained with")
    return [(name, sound)]


def read_clouds(path: Path, settings: CloudSettings, known: CloudInput | None) -> tuple[Labelled, CloudInput]:
    """Clouds with their normals where all have them."""
    data = labelled.read_clouds(path, console.with_progress("read", "point clouds"))
    dims = 6 if all(cloud.shape[1] >= 6 for cloud in data.samples) else 3
    return data, replace(known or CloudInput(points=settings.points, dims=dims), turn=settings.turn)


def open_cloud(name: str, fit: CloudInput) -> list[tuple[str, np.ndarray]]:
    """A cloud or a mesh, or all of a .npz."""
    if name.endswith(".npz"):
        return numbered(name, labelled.check_clouds(labelled.load_arrays(Path(name), ("points",))["points"]))
    return [(name, decode_cloud(file_bytes(name), Path(name).suffix.lower()))]


def read_texts(path: Path, settings: TextSettings, known: TextInput | None) -> tuple[Labelled, TextInput]:
    return labelled.read_texts(path, settings.label), replace(known or TextInput(positions=settings.length), hidden=HIDDEN)


def numbered(name: str, samples: Iterable[Any]) -> list[tuple[str, Any]]:
    return [(f"{name}[{i}]", sample) for i, sample in enumerate(samples)]


KINDS = {
    "classify-text": Kind(
        "texts", "reviews.jsonl", '"A waste of an evening."',
        '\nDATA is a .jsonl file of {"text": ..., "label": ...}; texts are read as UTF-8 bytes, without a tokenizer.\n',
        TextSettings().lasting(1500), read_texts,
        lambda config, fit: with_reader(config, positions=fit.positions), lambda name, fit: open_text(name)),
    "classify-image": Kind(
        "pictures", "pictures.zip", "cat.jpg dog.png",
        "\nDATA is a folder or zip of <class>/<file> (PNG, JPEG, WebP), or a .npz with images and labels.\n",
        PictureSettings(batch_size=64), read_pictures, fit_picture, open_picture),
    "classify-audio": Kind(
        "sounds", "sounds.jsonl", "seven.wav",
        '\nDATA is a folder or zip of <class>/<file>, or a .jsonl of {"file": ..., "label": ...} beside sounds.zip.\n',
        SoundSettings().lasting(1000), read_sounds, fit_sound, open_sound),
    "classify-points": Kind(
        "point clouds", "clouds.npz", "part.npy",
        "\nDATA is a .npz with points (n, M, 3 or 6) and labels, or a folder or zip of <class>/<file> (.npy, meshes).\n",
        CloudSettings().lasting(2000), read_clouds,
        lambda config, fit: with_reader(config, extra=fit.dims - 3), open_cloud),
}


# ---- train -----------------------------------------------------------------------------------------------------------------

def train(task: str, argv: Sequence[str]) -> int:
    kind = KINDS[task]
    parser = runs.training_parser(task, TRAIN.format(task=task, evaluations=EVALUATIONS, **vars(kind)), kind.settings)
    arguments = runs.parse_training(parser, argv)
    settings = load_task_settings(kind.settings, arguments.overrides)
    classification.show_report(fit(task, arguments.data, settings, arguments.out, console.chosen_device(arguments.device),
                                   data_changed=arguments.data_changed), arguments.json)
    console.wrote(arguments.out)
    return 0


def fit(task: str, path: Path, settings: Any, run: Path, device: str = "cpu",
        network: Callable[[ClassifierConfig], Any] = Classifier, data_changed: bool = False) -> dict[str, Any]:
    """Train to the end, continuing what is in the run's folder; returns the held-out report, which is also written there.

    Args:
        settings: those of the task's kind.
        network: makes what is trained where there is no model to start from; `calico bench perceiver-scores` has others.
        data_changed: continue though the data are others than when the run began.
    Raises:
        ValueError: data or the model to start from cannot be read or do not fit, or the run began with other settings.
    """
    kind, where = KINDS[task], usable_device(device)
    start = runs.started_from(settings, (task, "fill-mask") if task == "classify-text" else (task,))
    data, fit_in = kind.read(path, settings, preparation(start) if start else None)
    for remark in (*data.remarks, *cut_texts(data.samples, fit_in)):
        console.note(remark)
    work = classification.Task(data, *data.split(HELD_OUT), fit_in)
    torch.manual_seed(settings.training.seed)
    model = build(SMALL[task][settings.size], kind, fit_in, len(data.classes), start, network).to(where)
    document = {"task": task, "model": config_to_json(model.config), "input": config_to_json(fit_in), "classes": data.classes,
                "data": data.fingerprint}
    trainer = runs.train(model, classification_loss(settings.smoothing),
                         work.batches(settings.batch_size, settings.training.seed), work.accuracy, document, settings, run,
                         device, data_changed)
    return work.report(trainer, run, task, settings.views, for_views(fit_in))


def for_views(fit_in: SampleInput) -> SampleInput:
    """How the views are prepared that are averaged in use: as in training, but no words are hidden."""
    return replace(fit_in, hidden=0.0) if isinstance(fit_in, TextInput) else fit_in


def cut_texts(samples: Sequence[Any] | np.ndarray, fit_in: SampleInput) -> list[str]:
    """A remark where texts are longer than what is read of them."""
    number = fit_in.too_long(samples) if isinstance(fit_in, TextInput) else 0
    return [f"{number} of {len(samples)} texts are longer than {fit_in.positions} bytes and are cut: training reads any "  # type: ignore[union-attr]
            "part of them, else the beginning is read"] if number else []


def build(config: ClassifierConfig, kind: Kind, fit_in: SampleInput, labels: int, start: Trained | None,
          network: Callable[[ClassifierConfig], Any]) -> Any:
    """A new model, or a new head on the reader and encoder of the one to start from."""
    if start is None:
        return network(replace(kind.fit(config, fit_in), labels=labels))
    source = start.model
    if isinstance(source, Classifier):
        model = Classifier(replace(source.config, labels=labels))
    else:
        assert isinstance(source, MaskedLanguage)
        model = Classifier(ClassifierConfig(latent=source.config.latent, reader=source.config.text, labels=labels))
    copy_trunk(source, model)
    return model


# ---- predict ---------------------------------------------------------------------------------------------------------------

def predict(task: str, argv: Sequence[str]) -> int:
    kind = KINDS[task]
    parser = console.make_parser(f"perceive {task} predict", PREDICT.format(task=task, **vars(kind)))
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("files", nargs="+", metavar="TEXT" if task == "classify-text" else "FILE")
    parser.add_argument("--top", type=int, default=1, help="classes per sample (default 1)")
    parser.add_argument("--views", type=int, default=1, help="average over so many views of each: slower, right more often "
                        "(default 1)")
    for option, what in (("--early-exit", "answer after the first layer at which a class has this probability; not exact"),
                         ("--keep-latents", "fraction of the latents that go on after the first layer; not exact")):
        parser.add_argument(option, type=float, default=1.0, metavar="FRACTION", help=f"{what} (default 1: off)")
    console.add_common(parser, "--device", "--json")
    options = parser.parse_args(argv)
    console.check_positive(options, "top", "views")
    shortcuts = Shortcuts(early_exit=options.early_exit, keep_latents=options.keep_latents)
    trained = load_trained(options.run, (task,), console.chosen_device(options.device))
    assert isinstance(trained.model, Classifier)
    with named(options.run):
        check_one_class_of_several(trained)
    model = trained.model if shortcuts.exact else Shortened(trained.model, shortcuts)
    fit_in, classes = preparation(trained), trained.document["classes"]
    names, samples = classification.open_named(options.files, lambda name: kind.open(name, fit_in))
    for remark in cut_texts(samples, fit_in):
        console.note(remark)
    if options.views > 1:
        chances = classification.averaged_over_views(model, for_views(fit_in), samples, options.views, "fp32")
    else:
        chances = classification.probabilities(model, fit_in, samples, "fp32")
    found = classification.answers(names, chances, classes, options.top)
    classification.show_answers(found, "text" if task == "classify-text" else "file", options.json)
    return 0
