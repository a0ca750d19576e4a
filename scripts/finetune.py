"""`calico finetune ENCODER DATA --out RUN`: classes on top of a pre-trained encoder, and `--predict` to ask for them.

    calico finetune runs/sounds digits.jsonl --label digit --out runs/digits           # all labels of four fifths of the data
    calico finetune runs/sounds digits.jsonl --label digit --out runs/ten --labels-per-class 10
    calico finetune runs/sounds digits.jsonl --label digit --out runs/scratch --from-scratch   # the same encoder, untrained
    calico finetune runs/digits one.wav two.wav --predict
    calico finetune runs/reviews "a thoughtful, funny film" --predict                  # of a text encoder: texts or .txt files

ENCODER is a run of `calico pretrain`, or a Data2Vec folder of Hugging Face's. DATA as in `calico perceive`: <class>/<file> in a
folder or zip, a .npz with images and labels, a .jsonl manifest. A fifth of it, by a hash of each sample, is held out and
measured; it is the fifth that `calico pretrain` has not seen either.
"""

from collections.abc import Callable
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
from calico.agent.hardware import autocast, usable_device
from calico.agent.run_lock import run_lock
from calico.agent.training.optimizer import OptimizerConfig
from calico.agent.training.supervised import Batch, Progress, Supervised, SupervisedConfig
from calico.datasets.images import decode_file
from calico.datasets.mixture import first_difference
from calico.datasets.samples.labelled import Labelled
from calico.datasets.sounds import decode_sound
from calico.datasets.streams import ORDER, shuffled, stream
from calico.scripts.common import console
from calico.scripts.common.config import config_to_json, load_config, save_resolved
from calico.scripts.common.encoder_data import BATCH, HELD_OUT, by_length, open_labelled, some_per_class


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """A fine-tuning run."""

    batch_size: int = 32
    seconds: float = 10.0          # longest stretch of a sound
    smoothing: float = 0.1         # share of a target that goes to all classes
    augment: bool = True           # crops, mirrored pictures, stretches of long sounds and texts
    hidden: float = 0.2            # share of a text's pieces that training does not show, so that no single one decides
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=5e-4, final_share=0.01))
    training: SupervisedConfig = field(default_factory=lambda: SupervisedConfig(steps=1000))

    def __post_init__(self) -> None:
        if not 0 <= self.hidden < 1:
            raise ValueError(f"hidden={self.hidden} must be a share: at least 0, less than 1")


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, train or predict, report."""
    parser = console.make_parser("finetune", __doc__)
    parser.add_argument("encoder", help="a run of calico pretrain; with --predict one of calico finetune")
    parser.add_argument("data", nargs="+", metavar="DATA [key=value ...]",
                        help="labelled data, then settings such as training.steps=500; with --predict files or texts")
    parser.add_argument("--out", metavar="RUN", help="folder of the new run")
    parser.add_argument("--predict", action="store_true", help="name the classes of files or texts")
    parser.add_argument("--from-scratch", action="store_true", help="the same encoder with random weights, to compare")
    parser.add_argument("--labels-per-class", type=int, metavar="N", help="learn from so many samples of each class only")
    parser.add_argument("--label", default="label", metavar="FIELD", help="field of a .jsonl record that has the class")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the order and the choice of labels (default 0)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.predict:
        show_predictions(predict(arguments.encoder, arguments.data, arguments.device), arguments.json)
        return 0
    if arguments.out is None:
        raise ValueError("--out is missing; name the folder of the new run")
    overrides = [*arguments.data[1:], f"training.seed={arguments.seed}"]
    settings = load_config(FinetuneSettings, None, overrides)
    found = finetune(arguments.encoder, arguments.data[0], Path(arguments.out), settings, label=arguments.label,
                     from_scratch=arguments.from_scratch, per_class=arguments.labels_per_class, device=arguments.device)
    if arguments.json:
        console.print_json(found)
    else:
        console.print_table(("figure", "value"), list(found.items()))
    console.wrote(arguments.out)
    return 0


def finetune(encoder: str, data: str, run: Path, settings: FinetuneSettings, *, label: str = "label",
             from_scratch: bool = False, per_class: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """Train to the last step, continuing from the run's latest checkpoint if there is one.

    Returns:
        accuracy on the held-out fifth, and how many samples were learnt from and measured on.
    Raises:
        ValueError: encoder, data or settings that cannot be used or do not fit each other.
    """
    where, pretrained = usable_device(device), load_pretrained(encoder)
    labelled = open_labelled(data, Inputs(pretrained.encoder, pretrained.text), label)
    learnt, held_out = labelled.split(HELD_OUT)
    if per_class is not None:
        learnt = some_per_class(learnt, labelled.labels, per_class, settings.training.seed)
    classifier = fresh_classifier(pretrained, len(labelled.classes), from_scratch, settings.training.seed).to(where)
    inputs = Inputs(classifier.encoder, pretrained.text, settings.seconds, settings.hidden)
    trainer = Supervised(classifier, classification_loss(settings.smoothing), settings.optimizer, settings.training)
    documents = {"encoder": encoder_document(classifier.encoder), "classes": labelled.classes, "seconds": settings.seconds,
                 "finetuning": {"settings": config_to_json(settings), "data": labelled.fingerprint,
                                "from_scratch": from_scratch, "per_class": per_class, "order": ORDER}}
    with run_lock(run):
        if checkpoint.checkpoints(run):
            saved = checkpoint.load(run)
            if difference := first_difference(documents["finetuning"], saved.documents.get("finetuning")):
                raise ValueError(f"{run} holds another run: {difference}; give the old value to continue it, or another --out")
            trainer.restore(saved)
        save_resolved(settings, run / "config.json")
        files = {} if pretrained.text is None else {TOKENIZER_FILE: pretrained.text.to_bytes()}
        follow(trainer, labelled, learnt, held_out, inputs, run, documents, files, settings)
    return {**trainer.evaluation, "learnt_from": len(learnt), "measured_on": len(held_out), "classes": len(labelled.classes)}


def fresh_classifier(pretrained: Pretrained, classes: int, from_scratch: bool, seed: int) -> EncoderClassifier:
    """The encoder with a new head, or all of it new."""
    torch.manual_seed(seed)
    encoder = build_encoder(encoder_document(pretrained.encoder)) if from_scratch else pretrained.encoder
    return EncoderClassifier(encoder, classes)


def follow(trainer: Supervised[EncoderClassifier], data: Labelled, learnt: np.ndarray, held_out: np.ndarray, inputs: Inputs,
           run: Path, documents: dict[str, Any], files: dict[str, bytes], settings: FinetuneSettings) -> None:
    """Run the trainer with a progress bar."""
    truth = data.labels[held_out]

    def evaluate(model: EncoderClassifier) -> dict[str, float]:
        found = classify(model, inputs, [data.samples[i] for i in held_out])
        return {"accuracy": float((found.argmax(1) == truth).mean())}

    with console.progress(f"finetune {run.name}", total=settings.training.steps, unit="steps", start=trainer.step) as bar:

        def on_report(progress: Progress) -> None:
            held = "".join(f"  held out {value:.3f}" for value in progress.evaluation.values())
            bar.update(progress.step, f"loss {progress.loss:.3f}{held}", progress.steps)

        trainer.run(batches(data, learnt, inputs, settings), run, documents, files, evaluate=evaluate, on_report=on_report)


def batches(data: Labelled, learnt: np.ndarray, inputs: Inputs, settings: FinetuneSettings) -> Callable[[int], Batch]:
    """The batch of a step: each epoch a new order, each time new views."""
    size, seed = settings.batch_size, settings.training.seed

    def batch_of(step: int) -> Batch:
        chosen = learnt[shuffled(len(learnt), size, step, seed)]
        views = stream(seed, "views", step) if settings.augment else None
        made = inputs([data.samples[i] for i in chosen], views)
        return {**{str(i): tensor for i, tensor in enumerate(made)}, "labels": torch.from_numpy(data.labels[chosen])}

    return batch_of


@torch.inference_mode()
def classify(model: EncoderClassifier, inputs: Inputs, samples: list[Any]) -> np.ndarray:
    """Probabilities (n, classes) of whole samples."""
    device = next(model.parameters()).device
    rows = np.zeros((len(samples), model.head.out_features), np.float32)
    for chosen in by_length(samples, BATCH):
        with autocast(device, "auto"):
            logits: Tensor = model.eval()(*(tensor.to(device) for tensor in inputs([samples[i] for i in chosen])))
        rows[chosen] = logits.float().softmax(1).cpu().numpy()
    return rows


# ---- predict

def predict(run: str, items: list[str], device: str = "cpu") -> list[dict[str, Any]]:
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
    found = classify(model.to(where), inputs, [read_sample(item, inputs) for item in items])
    return [{"item": item, "class": classes[int(row.argmax())], "probability": float(row.max()),
             "probabilities": dict(zip(classes, row.tolist(), strict=True))} for item, row in zip(items, found, strict=True)]


def read_sample(item: str, inputs: Inputs) -> Any:
    """What one word of the command line stands for."""
    path = Path(item)
    if inputs.text is not None:
        sample: Any = path.read_text("utf-8") if path.suffix == ".txt" and path.is_file() else item
    elif isinstance(inputs.encoder, SpeechEncoder):
        rate = inputs.encoder.config.sample_rate
        sample = decode(path, lambda data: decode_sound(data, rate)[0])
    else:
        sample = decode(path, decode_file)
    if reason := inputs.problem(sample, 1):
        raise ValueError(f"{item}: {reason}")
    return sample


def decode(path: Path, reader: Callable[[bytes], Any]) -> Any:
    """A file's content; errors name the file."""
    try:
        return reader(path.read_bytes())
    except OSError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def show_predictions(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        console.print_json(found)
    else:
        columns = ("item", "class", "probability")
        console.print_table(columns, [[row[column] for column in columns] for row in found])


if __name__ == "__main__":
    raise SystemExit(main())
