"""`calico perceive classify-text|classify-image|classify-audio|classify-points train|predict`.

What the four do differently stands in KINDS: how files are read, how samples are prepared, which sizes there are.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from calico.agent.hardware import autocast, usable_device
from calico.agent.perceiver.hugging_face import copy_trunk
from calico.agent.perceiver.inputs import AudioConfig, ImageConfig, MelConfig, PatchesConfig, PointsConfig, TextConfig
from calico.agent.perceiver.runs import Trained, config_to_json, load_trained, preparation
from calico.agent.perceiver.samples import CloudInput, PictureInput, SampleInput, SoundInput, TextInput
from calico.agent.perceiver.sizes import SMALL
from calico.agent.perceiver.tasks import Classifier, ClassifierConfig, MaskedLanguage
from calico.agent.training.supervised import Batch
from calico.datasets.file_store import MAX_FILE_BYTES
from calico.datasets.images import decode_file
from calico.datasets.records import JsonLines, require_text
from calico.datasets.samples import labelled
from calico.datasets.samples.labelled import Labelled
from calico.datasets.samples.point_clouds import decode_cloud
from calico.datasets.sounds import decode_sound
from calico.datasets.streams import shuffled, stream
from calico.scripts.common import console
from calico.scripts.perceiver_tasks import training as runs
from calico.scripts.perceiver_tasks.training import EVALUATIONS, HELD_OUT, training_parser

HIDDEN = 0.2         # of a text's words in training, so that no single one decides
SMOOTHING = 0.1      # of labels, as the paper's ImageNet recipe

TRAIN = """Train a Perceiver IO to tell the classes of {what} apart.

    calico perceive {task} train {example} --out runs/{task}
    calico perceive {task} train {example} --out runs/{task} --steps 500 --minutes 10
    calico perceive {task} train {example} --out runs/tuned --init FOLDER         # a run, or a Hugging Face checkpoint
{data}
A fifth of the samples, by a hash of their content, is held out and measured {evaluations} times and at the end:
RUN/held_out.json and RUN/confusion.png. With --minutes the learning rate is annealed by then. The same command continues.
"""
PREDICT = """The class of each of some {what}, and how sure the model is of it.

    calico perceive {task} predict runs/{task} {file} --json

RUN is what `calico perceive {task} train` made, or the folder of a Hugging Face Perceiver with such a head.
"""


# ---- what the tasks do differently -----------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Kind:
    """One task.

    Attributes:
        what, example, file, data: words for the help.
        options: adds the task's own options to the parser of `train`.
        read: (path, options, how samples are prepared by the model to start from or None) -> samples and preparation.
        fit: a size's configuration, made to fit the preparation.
        open: a file (or text) given to `predict` -> named samples.
        steps, batch, learning_rate: defaults.
    """

    what: str
    example: str
    file: str
    data: str
    options: Callable[[argparse.ArgumentParser], None]
    read: Callable[[Path, argparse.Namespace, Any], tuple[Labelled, SampleInput]]
    fit: Callable[[ClassifierConfig, Any], ClassifierConfig]
    open: Callable[[str, Any], list[tuple[str, Any]]]
    steps: int
    batch: int = 64
    learning_rate: float = 1e-3


def picture_options(parser: argparse.ArgumentParser) -> None:
    """Of classify-image."""
    parser.add_argument("--side", type=int, default=32, help="pixels that pictures are scaled to (default 32)")
    parser.add_argument("--mirror", action=argparse.BooleanOptionalAction, default=True,
                        help="show pictures mirrored, too; --no-mirror for digits and letters")


def read_pictures(path: Path, options: argparse.Namespace, known: PictureInput | None) -> tuple[Labelled, PictureInput]:
    """Pictures scaled to --side, or to what the model to start from was trained with."""
    if options.side < 8:
        raise ValueError(f"--side {options.side} must be at least 8 pixels")
    fit = known or PictureInput(side=options.side, shift=max(1, options.side // 8))
    data = labelled.read_pictures(path, 2 * fit.side, console.with_progress("read", "pictures"))
    return data, replace(fit, mirror=options.mirror)


def fit_picture(config: ClassifierConfig, fit: PictureInput) -> ClassifierConfig:
    """Fourier frequencies up to what a grid of elements 4 pixels wide can show."""
    grid = (fit.side // 4, fit.side // 4)
    if isinstance(config.reader, ImageConfig):
        return replace(config, reader=replace(config.reader, size=grid))
    if fit.side % 4:
        raise ValueError(f"--side {fit.side} does not split into patches of 4 pixels; choose a multiple of 4, or --size stem")
    assert isinstance(config.reader, PatchesConfig)
    return replace(config, reader=replace(config.reader, resolution=grid))


def open_picture(name: str, fit: PictureInput) -> list[tuple[str, np.ndarray]]:
    """A picture, or all of a .npz."""
    if name.endswith(".npz"):
        return numbered(name, labelled.check_pictures(labelled.load_arrays(Path(name), ("images",))["images"]))
    return [(name, decode_file(file_bytes(name), fit.decode_side))]


def sound_options(parser: argparse.ArgumentParser) -> None:
    """Of classify-audio."""
    parser.add_argument("--rate", type=int, help="samples per second (default: the first file's, at most 16000)")
    parser.add_argument("--seconds", type=float, help="that are listened to (default: 19 of 20 sounds fit in)")
    parser.add_argument("--label", default="label", metavar="FIELD", help="of a manifest, with the class (default label)")


def read_sounds(path: Path, options: argparse.Namespace, known: SoundInput | None) -> tuple[Labelled, SoundInput]:
    """Sounds at one rate."""
    if (options.rate or 8000) < 1000 or (options.seconds or 1.0) <= 0:
        raise ValueError(f"--rate {options.rate} must be at least 1000 Hz and --seconds {options.seconds} above 0")
    data, rate = labelled.read_sounds(path, known.rate if known else options.rate, options.label,
                                      console.with_progress("read", "sounds"))
    length = float(np.quantile([len(sound) for sound in data.samples], 0.95)) / rate
    return data, known or SoundInput(rate=rate, samples=round((options.seconds or length) * rate / 1024 + 0.5) * 1024)


def fit_sound(config: ClassifierConfig, fit: SoundInput) -> ClassifierConfig:
    """Frames of 32 ms every 10 ms; Fourier frequencies up to what the elements of a clip can show."""
    if isinstance(config.reader, AudioConfig):
        return replace(config, reader=replace(config.reader, resolution=fit.samples // config.reader.patch))
    assert isinstance(config.reader, MelConfig)
    hop = fit.rate // 100
    return replace(config, reader=replace(config.reader, rate=fit.rate, window=2 ** round(np.log2(0.032 * fit.rate)), hop=hop,
                                          resolution=max(2, fit.samples // hop // config.reader.stack)))


def open_sound(name: str, fit: SoundInput) -> list[tuple[str, np.ndarray]]:
    """A sound; another sample rate is resampled, and said."""
    sound, own = decode_sound(file_bytes(name), fit.rate)
    if own != fit.rate:
        console.note(f"{console.printable(name)}: resampled from {own} to {fit.rate} Hz, which the model was trained with")
    return [(name, sound)]


def cloud_options(parser: argparse.ArgumentParser) -> None:
    """Of classify-points."""
    parser.add_argument("--points", type=int, default=512, help="of each cloud that are read (default 512)")
    parser.add_argument("--turn", choices=("none", "vertical", "any", "axes"), default="axes",
                        help="to a cloud's principal axes, always (default); in training about the z axis, any, or not")


def read_clouds(path: Path, options: argparse.Namespace, known: CloudInput | None) -> tuple[Labelled, CloudInput]:
    """Clouds with their normals where all have them."""
    if options.points < 8:
        raise ValueError(f"--points {options.points} must be at least 8")
    data = labelled.read_clouds(path, console.with_progress("read", "point clouds"))
    dims = 6 if all(cloud.shape[1] >= 6 for cloud in data.samples) else 3
    return data, replace(known or CloudInput(points=options.points, dims=dims), turn=options.turn)


def fit_cloud(config: ClassifierConfig, fit: CloudInput) -> ClassifierConfig:
    """Normals are read as they are."""
    assert isinstance(config.reader, PointsConfig)
    return replace(config, reader=replace(config.reader, extra=fit.dims - 3))


def open_cloud(name: str, fit: CloudInput) -> list[tuple[str, np.ndarray]]:
    """A cloud or a mesh, or all of a .npz."""
    if name.endswith(".npz"):
        return numbered(name, labelled.check_clouds(labelled.load_arrays(Path(name), ("points",))["points"]))
    return [(name, decode_cloud(file_bytes(name), Path(name).suffix.lower()))]


def text_options(parser: argparse.ArgumentParser) -> None:
    """Of classify-text."""
    parser.add_argument("--length", type=int, default=2048, help="bytes that are read of a text (default 2048)")
    parser.add_argument("--label", default="label", metavar="FIELD", help="with the class (default label)")


def read_texts(path: Path, options: argparse.Namespace, known: TextInput | None) -> tuple[Labelled, TextInput]:
    """Texts, with how many are cut."""
    if options.length < 16:
        raise ValueError(f"--length {options.length} must be at least 16 bytes")
    return labelled.read_texts(path, options.label), replace(known or TextInput(positions=options.length), hidden=HIDDEN)


def fit_text(config: ClassifierConfig, fit: TextInput) -> ClassifierConfig:
    """As many positions as bytes are read."""
    assert isinstance(config.reader, TextConfig)
    return replace(config, reader=replace(config.reader, positions=fit.positions))


def open_text(name: str, fit: TextInput) -> list[tuple[str, str]]:
    """A .txt file, the records of a .jsonl file, or else the words themselves are the text."""
    path = Path(name)
    if path.suffix == ".jsonl" and path.is_file():
        records = JsonLines(path, has_text)
        return [(f"{name}:{line}", record["text"]) for line, record in zip(records.lines, records, strict=True)]
    if path.suffix == ".txt" and path.is_file():
        return [(name, file_bytes(name).decode("utf-8", errors="replace"))]
    return [(name, name)]


def has_text(record: Mapping[str, Any]) -> None:
    """Raise ValueError unless a record has a text."""
    require_text(record.get("text"), "text")


def numbered(name: str, samples: Iterable[Any]) -> list[tuple[str, Any]]:
    """The samples of one file."""
    return [(f"{name}[{i}]", sample) for i, sample in enumerate(samples)]


def file_bytes(name: str) -> bytes:
    """What is in a file that a user named.

    Raises:
        ValueError: it is none, or larger than MAX_FILE_BYTES.
    """
    path = Path(name)
    if not path.is_file():
        raise ValueError("there is no such file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES} bytes")
    return path.read_bytes()


KINDS = {
    "classify-text": Kind(
        "texts", "reviews.jsonl", '"A waste of an evening."',
        '\nDATA is a .jsonl file of {"text": ..., "label": ...}; texts are read as UTF-8 bytes, without a tokenizer.\n',
        text_options, read_texts, fit_text, open_text, steps=1500, batch=32),
    "classify-image": Kind(
        "pictures", "pictures.zip", "cat.jpg dog.png",
        "\nDATA is a folder or zip of <class>/<file> (PNG, JPEG, WebP), or a .npz with images and labels.\n",
        picture_options, read_pictures, fit_picture, open_picture, steps=3000),
    "classify-audio": Kind(
        "sounds", "sounds.jsonl", "seven.wav",
        '\nDATA is a folder or zip of <class>/<file>, or a .jsonl of {"file": ..., "label": ...} beside sounds.zip.\n',
        sound_options, read_sounds, fit_sound, open_sound, steps=1000, batch=32),
    "classify-points": Kind(
        "point clouds", "clouds.npz", "part.npy",
        "\nDATA is a .npz with points (n, M, 3 or 6) and labels, or a folder or zip of <class>/<file> (.npy, meshes).\n",
        cloud_options, read_clouds, fit_cloud, open_cloud, steps=2000, batch=32),
}


# ---- train -----------------------------------------------------------------------------------------------------------------

def train(task: str, argv: Sequence[str]) -> int:
    """Parse, read, train, report."""
    options = classify_parser(task).parse_args(argv)
    report = fit(task, options)
    if options.json:
        console.print_json(report)
    else:
        print_report(report)
    console.wrote(options.out)
    return 0


def classify_parser(task: str) -> console.Parser:
    """The parser of `train`."""
    kind = KINDS[task]
    parser = training_parser(task, TRAIN.format(task=task, evaluations=EVALUATIONS, **words(kind)), steps=kind.steps,
                             batch=kind.batch, learning_rate=kind.learning_rate)
    parser.add_argument("--size", choices=SMALL[task], default=next(iter(SMALL[task])), help="default %(default)s")
    kind.options(parser)
    return parser


def words(kind: Kind) -> dict[str, str]:
    """For the help."""
    return {"what": kind.what, "example": kind.example, "file": kind.file, "data": kind.data}


def fit(task: str, options: argparse.Namespace, network: Callable[[ClassifierConfig], Any] = Classifier) -> dict[str, Any]:
    """Train to the end, continuing what is in the run's folder; returns the held-out report, which is also written there.

    Args:
        network: makes what is trained where there is no model to start from; `calico bench perceiver-scores` has others.
    Raises:
        ValueError: data or the model to start from cannot be read or do not fit, or the run began with other settings.
    """
    kind, run, device = KINDS[task], options.out, usable_device(options.device)
    if options.batch < 1:
        raise ValueError(f"--batch {options.batch} must be at least 1")
    start = load_trained(options.init, (task, "fill-mask") if task == "classify-text" else (task,)) if options.init else None
    data, fit_in = kind.read(options.data, options, preparation(start) if start else None)
    for remark in (*data.remarks, *cut_texts(data.samples, fit_in)):
        console.note(remark)
    training, held_out = data.split(HELD_OUT)
    kept = [data.samples[row] for row in held_out]
    torch.manual_seed(options.seed)
    model = build(SMALL[task][options.size], kind, fit_in, len(data.classes), start, network).to(device)

    def batch_of(step: int) -> Batch:
        rows = training[shuffled(len(training), options.batch, step, options.seed)]
        rng = stream(options.seed, "views", step)
        return {**fit_in([data.samples[row] for row in rows], rng), "labels": torch.from_numpy(data.labels[rows])}

    def evaluate(model: Classifier) -> dict[str, float]:
        return {"accuracy": float((probabilities(model, fit_in, kept).argmax(axis=1) == data.labels[held_out]).mean())}

    document = {"task": task, "model": config_to_json(model.config), "input": config_to_json(fit_in), "classes": data.classes,
                "data": data.fingerprint}
    trainer = runs.train(model, loss_of, batch_of, evaluate, document, options)
    with torch.inference_mode(), autocast(device, trainer.config.precision):
        chances = probabilities(trainer.final, fit_in, kept)
    report = held_out_report(chances, data.labels[held_out], data.classes) | {
        "task": task, "train": len(training), "steps": trainer.step, "minutes": round(trainer.seconds / 60, 2),
        "core_minutes": round(trainer.core_seconds / 60, 2), "parameters": sum(p.numel() for p in model.parameters())}
    (run / "held_out.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    draw_confusion(report, run / "confusion.png")
    return report


def cut_texts(samples: Sequence[Any] | np.ndarray, fit_in: SampleInput) -> list[str]:
    """A remark where texts are longer than what is read of them."""
    number = fit_in.too_long(samples) if isinstance(fit_in, TextInput) else 0
    return [f"{number} of {len(samples)} texts are longer than {fit_in.positions} bytes and are cut: training reads any "  # type: ignore[union-attr]
            "stretch of them, else the beginning is read"] if number else []


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


def loss_of(model: Classifier, batch: Batch) -> tuple[Tensor, Mapping[str, Any]]:
    """Cross-entropy with smoothed labels."""
    logits = model(batch["inputs"], batch.get("mask")).float()
    right = (logits.argmax(dim=1) == batch["labels"]).float().mean()
    return F.cross_entropy(logits, batch["labels"], label_smoothing=SMOOTHING), {"accuracy": right}


# ---- measure ---------------------------------------------------------------------------------------------------------------

def probabilities(model: Classifier, fit_in: SampleInput, samples: Sequence[Any], size: int = 128) -> np.ndarray:
    """float32 (n, classes)."""
    device = next(model.parameters()).device
    made = []
    for at in range(0, len(samples), size):
        batch = {name: tensor.to(device) for name, tensor in fit_in(samples[at:at + size]).items()}
        made.append(model(batch["inputs"], batch.get("mask")).float().softmax(dim=1).cpu())
    return torch.cat(made).numpy()


def held_out_report(chances: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy, top-5 accuracy where there are more than ten classes, per class, and the confusion (rows: true class)."""
    predicted = chances.argmax(axis=1)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    top = {} if len(classes) <= 10 else {
        "top_5": float((np.argsort(-chances, axis=1)[:, :5] == labels[:, None]).any(axis=1).mean())}
    return {"accuracy": float((predicted == labels).mean()), **top, "held_out": len(labels), "classes": list(classes),
            "confusion": confusion.tolist()}


def print_report(report: Mapping[str, Any]) -> None:
    """Each class with how often it was right, and what it was most often taken for instead."""
    confusion, classes = np.array(report["confusion"]), report["classes"]
    rows = []
    for i, name in enumerate(classes):
        total, wrong = confusion[i].sum(), confusion[i].copy()
        wrong[i] = 0
        taken = f"{classes[wrong.argmax()]} ({wrong.max()})" if wrong.any() else None
        rows.append([name, int(total), float(confusion[i, i] / total) if total else None, taken])
    top = f", top-5 {report['top_5']:.1%}" if "top_5" in report else ""
    console.print_table(("class", "held out", "right", "most often taken for"), rows)
    print(f"accuracy {report['accuracy']:.1%}{top} of {report['held_out']} held-out samples, trained on {report['train']} in "
          f"{report['steps']} steps, {report['minutes']:.1f} minutes, {report['core_minutes']:.1f} of one core's work")


def draw_confusion(report: Mapping[str, Any], path: Path) -> None:
    """Rows: true class; columns: predicted; shares of each row."""
    from matplotlib.figure import Figure  # late: it loads for a second

    confusion = np.array(report["confusion"], float)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = 2.5 + 0.3 * len(shares)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot(title=f"{report['task']}: {report['accuracy']:.1%} of {report['held_out']} held-out samples",
                              xlabel="predicted", ylabel="true class")
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    ticks = range(len(shares))
    axes.set_xticks(ticks, report["classes"], rotation=90)
    axes.set_yticks(ticks, report["classes"])
    figure.savefig(path, dpi=100)


# ---- predict ---------------------------------------------------------------------------------------------------------------

def predict(task: str, argv: Sequence[str]) -> int:
    """Parse, read, classify, print."""
    kind = KINDS[task]
    parser = console.make_parser(f"perceive {task} predict", PREDICT.format(task=task, **words(kind)))
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("files", nargs="+", metavar="TEXT" if task == "classify-text" else "FILE")
    parser.add_argument("--top", type=int, default=1, help="classes per sample (default 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.top < 1:
        raise ValueError(f"--top {options.top} must be at least 1")
    trained = load_trained(options.run, (task,), options.device)
    fit_in, classes = preparation(trained), trained.document["classes"]
    named = [pair for name in options.files for pair in open_named(kind, name, fit_in)]
    names, samples = [name for name, _ in named], [sample for _, sample in named]
    for remark in cut_texts(samples, fit_in):
        console.note(remark)
    assert isinstance(trained.model, Classifier)
    with torch.inference_mode():
        chances = probabilities(trained.model, fit_in, samples)
    best = np.argsort(-chances, axis=1)[:, :options.top]
    if options.json:
        console.print_json([{"sample": name, "class": classes[order[0]], "probability": float(row[order[0]]),
                             "top": [{"class": classes[i], "probability": float(row[i])} for i in order]}
                            for name, row, order in zip(names, chances, best, strict=True)])
    else:
        console.print_table((parser_word(task), "class", "probability"),
                            [[name, classes[i], float(row[i])] for name, row, order in zip(names, chances, best, strict=True)
                             for i in order])
    return 0


def parser_word(task: str) -> str:
    """The first column's name."""
    return "text" if task == "classify-text" else "file"


def open_named(kind: Kind, name: str, fit_in: SampleInput) -> list[tuple[str, Any]]:
    """The samples in a file; an error names it."""
    try:
        return kind.open(name, fit_in)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
