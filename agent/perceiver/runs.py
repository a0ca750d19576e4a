"""A trained Perceiver on the disk: a run of `calico perceive`, or the folder of a Hugging Face checkpoint.

Beside its weights a run has one document, "perceive": the task, the model's configuration, how samples are prepared, the names
of the classes, and other fields of the task. Configurations are written with the names of their classes, so that any mixture of
readers can be rebuilt.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Union

import torch

from .. import checkpoint
from ..config_json import from_json, is_config, to_json
from ..hardware import usable_device
from ..hugging_face_folder import is_hugging_face, read_object
from . import inputs, layers, samples, tasks
from .hugging_face import class_names, load_hf, picture_input
from .inputs import ImageConfig, TextConfig
from .samples import SampleInput, TextInput
from .sizes import on_meta
from .tasks import Autoencoder, Classifier, Flow, MaskedLanguage, TaskModel

DOCUMENT = "perceive"    # of a checkpoint
CONFIGS: Any = Union[tuple(   # noqa: UP007 - a tuple of members has no other spelling
    cls for module in (layers, tasks, inputs, samples) for cls in vars(module).values() if is_config(cls))]


config_to_json = partial(to_json, class_names=True)
config_from_json = partial(from_json, CONFIGS)


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode, its task, and the run's document (for Hugging Face: made from the folder's files)."""

    model: TaskModel
    task: str
    document: Mapping[str, Any]


def load_trained(folder: Path | str, tasks: Collection[str], device: str = "cpu") -> Trained:
    """The model of a run, or of a Hugging Face folder. Raises ValueError where there is none, it is not for one of the
    `tasks`, or its files are damaged or do not fit."""
    folder, target = checkpoint.here(folder), usable_device(device)
    trained = load_hugging_face(folder) if is_hugging_face(folder) else load_run(folder, target)
    if trained.task not in tasks:
        raise ValueError(f"{folder} is a checkpoint of {trained.task}, one of {' or '.join(tasks)} was expected")
    trained.model.to(target).eval()
    return trained


def load_run(folder: Path, device: torch.device) -> Trained:
    """From our own checkpoint."""
    saved = checkpoint.load(folder, map_location=device, only=("model",))
    document = saved.documents.get(DOCUMENT)
    if not document:
        raise ValueError(f"{saved.path} is a checkpoint of another kind; give a run of `calico perceive`")
    try:
        checkpoint.check_layers(document["model"], len(saved.tensors["model"]))
        model = on_meta(config_from_json(document["model"]))
        model.load_state_dict(saved.tensors["model"], assign=True)
        return Trained(model, document["task"], document)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise checkpoint.CheckpointError(f"{saved.path} holds no model that this Calico can rebuild ({error!r})") from error


def load_hugging_face(folder: Path) -> Trained:
    """From a Hugging Face folder: the task follows from the head, the classes and the preparation of samples from its files."""
    model = load_hf(folder)
    prepared: SampleInput | None = None
    match model:
        case MaskedLanguage():
            task, prepared = "fill-mask", TextInput(positions=model.config.text.positions)
        case Classifier() if isinstance(model.config.reader, TextConfig):
            task, prepared = "classify-text", TextInput(positions=model.config.reader.positions)
        case Classifier():
            assert isinstance(model.config.reader, ImageConfig)
            task, prepared = "classify-image", picture_input(folder, model.config.reader)
        case Flow():
            task = "flow"
        case Autoencoder():
            task = "autoencode"
    config = read_object(folder / "config.json")
    return Trained(model, task, {"task": task, "model": config_to_json(model.config), "input": config_to_json(prepared),
                                 "classes": class_names(config), "problem": config.get("problem_type")})


def check_one_class_of_several(trained: Trained) -> None:
    """Raise ValueError where of a checkpoint's outputs not one is right: as probabilities they mean nothing."""
    problem, classes = trained.document.get("problem"), trained.document["classes"]
    if len(classes) < 2 or problem in ("regression", "multi_label_classification"):
        raise ValueError(f"it has {len(classes)} outputs for {problem or 'regression'}; one class of several can be told: give "
                         "a checkpoint of single_label_classification")


def preparation(trained: Trained) -> SampleInput:
    """How a classifier's or language model's samples are prepared."""
    prepared: SampleInput = config_from_json(trained.document["input"])
    return prepared
