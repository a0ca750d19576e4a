"""Classification, whatever the network: labelled data in batches, held-out report, confusion picture, and answers.

`calico perceive classify-...` (Perceivers from nothing) and `calico finetune` (data2vec encoders) both stand on it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from calico.agent.hardware import Precision, autocast
from calico.agent.training.ranks import from_environment
from calico.agent.training.trainer import Batch, Trainer
from calico.datasets.documents import open_records
from calico.datasets.file_store import MAX_FILE_BYTES
from calico.datasets.publish import replace_file, replacing
from calico.datasets.records import format_of, plain_file, require_text
from calico.datasets.samples.labelled import MANIFESTS, Labelled, text_of
from calico.datasets.streams import shuffled, stream
from calico.scripts.common import console
from calico.scripts.training.encoder_data import by_length

BATCH = 128      # samples that are classified together

# samples, and a generator for a varied view of each (None: the one view of use) -> what the network reads, in its order
Prepare = Callable[[list[Any], np.random.Generator | None], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Task:
    """What is learnt from and what is held out.

    Attributes:
        learnt, held_out: int64, indices into `data`.
        prepare: samples -> inputs of the network.
        varied: training shows varied views.
    """

    data: Labelled
    learnt: np.ndarray
    held_out: np.ndarray
    prepare: Prepare
    varied: bool = True

    def batches(self, size: int, seed: int) -> Callable[[int], Batch]:
        """The batch of a number: each epoch a new order, each time new views."""
        def batch_of(number: int) -> Batch:
            rows = self.learnt[shuffled(len(self.learnt), size, number, seed)]
            views = stream(seed, "views", number) if self.varied else None
            made = self.prepare([self.data.samples[row] for row in rows], views)
            return {**made, "labels": torch.from_numpy(self.data.labels[rows])}
        return batch_of

    @cached_property
    def kept(self) -> list[Any]:
        return [self.data.samples[row] for row in self.held_out]

    def accuracy(self, model: nn.Module) -> dict[str, float]:
        """On the held-out samples."""
        found = probabilities(model, self.prepare, self.kept)
        return {"accuracy": float((found.argmax(axis=1) == self.data.labels[self.held_out]).mean())}

    def report(self, trainer: Trainer[Any], run: Path, name: str, views: int = 1, prepare: Prepare | None = None,
               ) -> dict[str, Any]:
        """The held-out report of a run that has ended, which is also written there, with a picture of the confusion.

        Args:
            views, prepare: above 1, the accuracy of so many views is added, see `averaged_over_views`.
        """
        labels, precision = self.data.labels[self.held_out], trainer.config.precision
        found = held_out_report(probabilities(trainer.final, self.prepare, self.kept, precision), labels, self.data.classes) | {
            "task": name, "train": len(self.learnt), **costs(trainer)}
        if views > 1:
            chances = averaged_over_views(trainer.final, prepare or self.prepare, self.kept, views, precision)
            found |= {"views": views, "accuracy_of_views": float((chances.argmax(axis=1) == labels).mean())}
        write_report(found, run)
        if trainer.ranks.is_first:
            draw_confusion(found, run / "confusion.png")
        return found


def costs(trainer: Trainer[Any]) -> dict[str, Any]:
    """What a run took, for its report."""
    return {"steps": trainer.step, "minutes": round(trainer.seconds / 60, 2),
            "core_minutes": round(trainer.core_seconds / 60, 2),
            "parameters": sum(p.numel() for p in trainer.model.parameters())}


def write_report(report: Mapping[str, Any], run: Path) -> None:
    """RUN/held_out.json; by the first of several ranks."""
    if from_environment().is_first:
        replace_file(run / "held_out.json", json.dumps(report, indent=1) + "\n")


@torch.inference_mode()
def probabilities(model: nn.Module, prepare: Prepare, samples: Sequence[Any],
                  precision: Precision | None = None) -> np.ndarray:
    """float32 (n, classes) of whole samples; those of like length are classified together, which saves padding.

    precision: None: as the caller has set it.
    """
    device = next(model.parameters()).device
    rows: dict[int, np.ndarray] = {}
    for chosen in by_length(samples, BATCH):
        inputs = [tensor.to(device) for tensor in prepare([samples[i] for i in chosen], None).values()]
        with nullcontext() if precision is None else autocast(device, precision):
            logits: Tensor = model.eval()(*inputs)
        rows |= dict(zip(chosen, logits.float().softmax(dim=1).cpu().numpy(), strict=True))
    return np.stack([rows[i] for i in range(len(samples))])


@torch.inference_mode()
def averaged_over_views(model: nn.Module, prepare: Prepare, samples: Sequence[Any], views: int,
                        precision: Precision | None = None) -> np.ndarray:
    """float32 (n, classes): the mean probabilities over the one view of use and `views` - 1 of training's.

    A batch is the views of one sample, so that its answer does not depend on what else is asked about.
    """
    device = next(model.parameters()).device
    found = []
    for sample in samples:
        batches = [prepare([sample], None), prepare([sample] * (views - 1), stream(0, "views of use"))]
        chances = []
        for batch in batches:
            inputs = [tensor.to(device) for tensor in batch.values()]
            with nullcontext() if precision is None else autocast(device, precision):
                logits: Tensor = model.eval()(*inputs)
            chances.append(logits.float().softmax(dim=1).cpu())
        found.append(torch.cat(chances).mean(dim=0).numpy())
    return np.stack(found)


def held_out_report(chances: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy, top-5 accuracy where there are more than ten classes, per class, and the confusion (rows: true class)."""
    predicted = chances.argmax(axis=1)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    top = {} if len(classes) <= 10 else {
        "top_5": float((np.argsort(-chances, axis=1)[:, :5] == labels[:, None]).any(axis=1).mean())}
    return {"accuracy": float((predicted == labels).mean()), **top, "held_out": len(labels), "classes": list(classes),
            "confusion": confusion.tolist()}


def show_report(report: Mapping[str, Any], as_json: bool) -> None:
    """Each class with how often it was right, and what it was most often taken for instead."""
    if as_json:
        console.print_json(report)
        return
    confusion, classes = np.array(report["confusion"]), report["classes"]
    rows = []
    for i, name in enumerate(classes):
        total, wrong = confusion[i].sum(), confusion[i].copy()
        wrong[i] = 0
        taken = f"{classes[wrong.argmax()]} ({wrong.max()})" if wrong.any() else None
        rows.append([name, int(total), float(confusion[i, i] / total) if total else None, taken])
    top = f", top-5 {report['top_5']:.1%}" if "top_5" in report else ""
    console.print_table(("class", "held out", "right", "most often taken for"), rows)
    views = f", of {report['views']} views of each {report['accuracy_of_views']:.1%}" if "views" in report else ""
    console.say(f"accuracy {report['accuracy']:.1%}{top}{views} of {report['held_out']} held-out samples, trained on "
                f"{report['train']} in {report['steps']} steps, {report['minutes']:.1f} minutes, "
                f"{report['core_minutes']:.1f} of one core's work")


def draw_confusion(report: Mapping[str, Any], path: Path) -> None:
    """Rows: true class; columns: predicted; fractions of each row."""
    from matplotlib.figure import Figure  # late: it loads for a second

    confusion = np.array(report["confusion"], float)
    fractions = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = 2.5 + 0.3 * len(fractions)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot(title=f"{report['task']}: {report['accuracy']:.1%} of {report['held_out']} held-out samples",
                              xlabel="predicted", ylabel="true class")
    axes.imshow(fractions, vmin=0, vmax=1, cmap="Blues")
    ticks = range(len(fractions))
    axes.set_xticks(ticks, report["classes"], rotation=90)
    axes.set_yticks(ticks, report["classes"])
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100, format=path.suffix.removeprefix(".") or "png")


# ---- what is asked about -----------------------------------------------------------------------------------------------------

def answers(names: Sequence[str], chances: np.ndarray, classes: Sequence[str], top: int) -> list[dict[str, Any]]:
    """Per sample its class, how sure the model is of it, and the `top` likeliest classes."""
    best = np.argsort(-chances, axis=1)[:, :top]
    return [{"sample": name, "class": classes[order[0]], "probability": float(row[order[0]]),
             "top": [{"class": classes[i], "probability": float(row[i])} for i in order]}
            for name, row, order in zip(names, chances, best, strict=True)]


def show_answers(found: list[dict[str, Any]], word: str, as_json: bool) -> None:
    """What `answers` gave; `word` is what a sample is called."""
    console.print_result(found, as_json, (word, "class", "probability"), [
        [answer["sample"], entry["class"], entry["probability"]] for answer in found for entry in answer["top"]])


def open_named(names: Sequence[str], open_one: Callable[[str], list[tuple[str, Any]]]) -> tuple[list[str], list[Any]]:
    """Names and samples of the files or texts that a user gave; an error names the file."""
    found = []
    for name in names:
        try:
            found += open_one(name)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return [name for name, _ in found], [sample for _, sample in found]


def open_text(name: str) -> list[tuple[str, str]]:
    """A .txt file, the records of a manifest, or else the words themselves are the text.

    Raises:
        ValueError: a file that is not there, or holds no such texts; it would be no words that are meant.
    """
    path = Path(name)
    kind = format_of(path)
    if kind not in (*MANIFESTS, ".txt") or any(letter.isspace() for letter in name):
        return [(name, name)]
    if not path.is_file():
        raise ValueError("there is no such file")
    if kind == ".txt":
        try:
            return [(name, file_bytes(str(plain_file(path))).decode("utf-8-sig"))]
        except UnicodeDecodeError as error:
            raise ValueError(f"it is not UTF-8 (byte {error.start}); convert it first") from None

    def check(record: dict[str, Any]) -> None:
        require_text(record.get(text_of(record)), text_of(record))

    records = open_records(path, "", check)
    return [(f"{name}:{records.location(number).rpartition(' ')[2]}", record[text_of(record)])
            for number, record in enumerate(records)]


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
