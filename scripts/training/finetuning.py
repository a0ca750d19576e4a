"""A fine-tuning run and its answers: the work of `calico finetune`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calico.agent import checkpoint
from calico.agent.data2vec.batches import Inputs
from calico.agent.data2vec.classifier import EncoderClassifier, classification_loss
from calico.agent.data2vec.encoders import SpeechEncoder
from calico.agent.data2vec.pretrained import TOKENIZER_FILE, Pretrained, build_encoder, encoder_document, load_pretrained
from calico.agent.hardware import usable_device
from calico.agent.training.batch_part import own_rows, row_counts
from calico.agent.training.optimizer import OptimizerConfig
from calico.agent.training.ranks import Ranks, check_same
from calico.agent.training.trainer import Trainer, TrainingConfig
from calico.datasets.images import decode_file
from calico.datasets.mixture import first_difference
from calico.datasets.sounds import decode_sound
from calico.datasets.streams import ORDER
from calico.scripts.common.config import config_to_json, save_resolved
from calico.scripts.training import classification, runs
from calico.scripts.training.classification import file_bytes, open_text
from calico.scripts.training.encoder_data import HELD_OUT, open_labelled, some_per_class


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """A fine-tuning run; training.seed is also that of the new weights and of the choice of labels."""

    label: str = "label"           # field of a .jsonl record that has the class
    labels_per_class: int | None = None    # learn from so many samples of each class only
    from_scratch: bool = False     # the same encoder with random weights, to compare
    batch_size: int = 32
    seconds: float = 10.0          # longest clip of a sound
    smoothing: float = 0.1         # fraction of a target that goes to all classes
    augment: bool = True           # crops, mirrored pictures, clips of long sounds and texts
    hidden: float = 0.2            # fraction of a text's tokens that training hides, so that no single one decides
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=5e-4, final_share=0.01))
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=1000, log_every=20, save_every=200))

    def __post_init__(self) -> None:
        if not 0 <= self.hidden < 1:
            raise ValueError(f"hidden={self.hidden} must be a fraction: at least 0, less than 1")


def finetune(encoder: str, data: str, run: Path, settings: FinetuneSettings, device: str = "cpu",
             data_changed: bool = False) -> dict[str, Any]:
    """Train to the last step, continuing from the run's latest checkpoint if there is one.

    Args:
        data_changed: continue though the data are others than when the run began; the classes must be the same.
    Returns:
        the held-out report, which is also written into the run's folder.
    Raises:
        ValueError: encoder, data or settings that cannot be used or do not fit each other.
    """
    with runs.ranks_of_run(str(usable_device(device))) as ranks:
        return finetune_ranks(encoder, data, run, settings, device, data_changed, ranks)


def finetune_ranks(encoder: str, data: str, run: Path, settings: FinetuneSettings, device: str, data_changed: bool,
                   ranks: Ranks) -> dict[str, Any]:
    """`finetune` of this process, one of `ranks`: the first one writes and speaks."""
    where, pretrained, seed = usable_device(device), load_pretrained(encoder), settings.training.seed
    rows = ranks.rows(settings.batch_size, "batch_size")
    labelled = open_labelled(data, Inputs(pretrained.encoder, pretrained.text), settings.label)
    learnt, held_out = labelled.split(HELD_OUT)
    if settings.labels_per_class is not None:
        learnt = some_per_class(learnt, labelled.labels, settings.labels_per_class, seed)
    classifier = fresh_classifier(pretrained, len(labelled.classes), settings.from_scratch, seed).to(where)
    inputs = Inputs(classifier.encoder, pretrained.text, settings.seconds, settings.hidden)
    work = classification.Task(labelled, learnt, held_out, named(inputs), varied=settings.augment)
    config, files = config_to_json(settings), {} if pretrained.text is None else {TOKENIZER_FILE: pretrained.text.to_bytes()}
    documents: dict[str, Any] = {
        "encoder": encoder_document(classifier.encoder), "classes": labelled.classes, "seconds": settings.seconds,
        "config": config, "finetuning": {"data": labelled.fingerprint}, "order": ORDER}
    before = runs.saved_config("finetune", ("finetuning", "classes"), FinetuneSettings)
    check_same(ranks, first_difference, data={"fingerprint": labelled.fingerprint})
    with runs.begin_or_continue(run, config, before=before, device=device, ranks=ranks) as saved:
        trainer = Trainer(classifier, classification_loss(settings.smoothing), settings.optimizer, settings.training,
                          ranks=ranks, counts=row_counts)
        if saved is not None:
            if changes := runs.check_same_data(run, saved, data, saved.documents["finetuning"]["data"], labelled.fingerprint,
                                               data_changed):
                documents[runs.CHANGES] = changes
            runs.check_same_run(run, {"classes": labelled.classes}, {"classes": saved.documents["classes"]})
            trainer.restore(saved)
        if ranks.is_first:
            save_resolved(settings, run / "config.json")
        made = work.batches(settings.batch_size, seed)
        runs.run_with_progress_bar(trainer, f"finetune {run.name}", lambda number: own_rows(made(number), rows), run, documents,
                                   files, evaluate=work.accuracy)
        return work.report(trainer, run, "finetune")


def named(inputs: Inputs) -> classification.Prepare:
    """What an encoder reads, by number."""
    def prepare(samples: list[Any], views: np.random.Generator | None) -> dict[str, Tensor]:
        return {str(i): tensor for i, tensor in enumerate(inputs(samples, views))}
    return prepare


def fresh_classifier(pretrained: Pretrained, classes: int, from_scratch: bool, seed: int) -> EncoderClassifier:
    """The encoder with a new head, or all of it new."""
    torch.manual_seed(seed)
    encoder = build_encoder(encoder_document(pretrained.encoder)) if from_scratch else pretrained.encoder
    return EncoderClassifier(encoder, classes)


# ---- predict

def predict(run: str, items: Sequence[str], device: str = "cpu") -> list[dict[str, Any]]:
    """The class of each file or text, and how sure the classifier is.

    Raises:
        ValueError: not a fine-tuned run, a file that cannot be read or is of another kind.
    """
    where, pretrained = usable_device(device), load_pretrained(run)
    saved = checkpoint.load(run, only=("model",))
    if "classes" not in saved.documents:
        raise ValueError(f"{run} was pre-trained but not fine-tuned, so it knows no classes; run `calico finetune` first")
    classes = saved.documents["classes"]
    model = EncoderClassifier(pretrained.encoder, len(classes))
    model.load_state_dict(saved.tensors["model"])
    inputs = Inputs(model.encoder, pretrained.text, saved.documents["seconds"])
    names, samples = classification.open_named(items, lambda item: open_samples(item, inputs))
    chances = classification.probabilities(model.to(where), named(inputs), samples, "auto")
    return [{**answer, "item": answer["sample"], "probabilities": {entry["class"]: entry["probability"]
                                                                   for entry in answer["top"]}}
            for answer in classification.answers(names, chances, classes, top=len(classes))]


def open_samples(item: str, inputs: Inputs) -> list[tuple[str, Any]]:
    """What one word of the command line stands for."""
    if inputs.text is not None:
        found: list[tuple[str, Any]] = [*open_text(item)]
    elif isinstance(inputs.encoder, SpeechEncoder):
        found = [(item, decode_sound(file_bytes(item), inputs.encoder.config.sample_rate)[0])]
    else:
        found = [(item, decode_file(file_bytes(item)))]
    for _, sample in found:
        if reason := inputs.problem(sample, 1):
            raise ValueError(reason)
    return found
