"""A trained Perceiver on the disk: a run of `calico perceive`, or the folder of a Hugging Face checkpoint.

What a run keeps beside its weights is one document, "perceive": the task, the model's configuration, how samples are prepared,
the names of the classes, and whatever else the task needs. Configurations are written with the names of their classes, so
that any mixture of readers is rebuilt.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import torch

from .. import checkpoint
from ..config_json import from_json, is_config, to_json
from ..hardware import usable_device
from . import inputs, layers, samples, tasks
from .hugging_face import load_hf
from .inputs import ImageConfig, TextConfig
from .samples import PictureInput, SampleInput, TextInput
from .sizes import on_meta
from .tasks import Autoencoder, Classifier, Flow, MaskedLanguage, TaskModel

DOCUMENT = "perceive"    # of a checkpoint
CONFIGS: Any = Union[tuple(   # noqa: UP007 - a tuple of members has no other spelling
    cls for module in (layers, tasks, inputs, samples) for cls in vars(module).values() if is_config(cls))]


def config_to_json(value: Any) -> Any:
    """A configuration as plain JSON values, with the names of its classes; `config_from_json` reads it back."""
    return to_json(value, class_names=True)


def config_from_json(value: Any) -> Any:
    """Inverse of `config_to_json`; fields that are newer than the file take their defaults.

    Raises:
        ValueError: a class or a field that this version does not know, or a value that the class refuses.
    """
    return from_json(CONFIGS, value)


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode, its task, and the run's document (of a foreign checkpoint: what its files tell)."""

    model: TaskModel
    task: str
    document: Mapping[str, Any]


def load_trained(folder: Path | str, tasks: Collection[str], device: str = "cpu") -> Trained:
    """The model of a run, or of a Hugging Face folder.

    Args:
        tasks: those that are wanted.
    Raises:
        ValueError: nothing is there, it was trained for another task, its files are damaged or do not fit.
    """
    folder, target = Path(folder), usable_device(device)
    trained = load_foreign(folder) if is_foreign(folder) else load_run(folder, target)
    if trained.task not in tasks:
        raise ValueError(f"{folder} is a checkpoint of {trained.task}, one of {' or '.join(tasks)} was expected")
    trained.model.to(target).eval()
    return trained


def is_foreign(folder: Path) -> bool:
    """Whether it is a Hugging Face folder and no run of ours."""
    return (folder / "config.json").is_file() and not (folder / "checkpoints").exists() and not (
        folder / checkpoint.MANIFEST).exists()


def load_run(folder: Path, device: torch.device) -> Trained:
    """From our own checkpoint."""
    saved = checkpoint.load(folder, map_location=device, only=("model",))
    document = saved.documents.get(DOCUMENT)
    if not document:
        raise ValueError(f"{saved.path} is a checkpoint of another kind; give a run of `calico perceive`")
    model = on_meta(config_from_json(document["model"]))
    model.load_state_dict(saved.tensors["model"], assign=True)
    return Trained(model, document["task"], document)


def load_foreign(folder: Path) -> Trained:
    """From a Hugging Face folder: the task follows from the head, the classes from config.json."""
    model = load_hf(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    classes = [name for _, name in sorted((int(i), str(name)) for i, name in config.get("id2label", {}).items())]
    match model:
        case MaskedLanguage():
            task = "fill-mask"
        case Classifier():
            task = "classify-text" if isinstance(model.config.reader, TextConfig) else "classify-image"
        case Flow():
            task = "flow"
        case Autoencoder():
            task = "autoencode"
    return Trained(model, task, {"task": task, "model": config_to_json(model.config), "classes": classes})


def preparation(trained: Trained) -> SampleInput:
    """How a classifier's or language model's samples are prepared: from its run, or from what a foreign checkpoint tells."""
    if "input" in trained.document:
        prepared: SampleInput = config_from_json(trained.document["input"])
        return prepared
    assert isinstance(trained.model, MaskedLanguage | Classifier)
    reader = trained.model.config.text if isinstance(trained.model, MaskedLanguage) else trained.model.config.reader
    if isinstance(reader, TextConfig):
        return TextInput(positions=reader.positions)
    assert isinstance(reader, ImageConfig)
    side = 224 if reader.kind == "conv" else reader.size[0]     # of `conv`, size is that of the grid of elements
    return PictureInput(side=side, shift=side // 8)
