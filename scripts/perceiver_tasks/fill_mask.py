"""`calico perceive fill-mask train|predict`: a masked language model of UTF-8 bytes.

Whole words are masked, 15 of 100, as in the paper (arXiv:2107.14795, section 4.1), and only their bytes are decoded.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from calico.agent.hardware import usable_device
from calico.agent.perceiver.inputs import BYTE_OFFSET, CLS, MASK, SEP, decode_bytes, encode_bytes
from calico.agent.perceiver.runs import config_to_json, load_trained, preparation
from calico.agent.perceiver.samples import TextInput, words_of
from calico.agent.perceiver.sizes import SMALL_LANGUAGE
from calico.agent.perceiver.tasks import LanguageConfig, MaskedLanguage
from calico.agent.training.batch_part import Mean
from calico.agent.training.trainer import Batch, Sums
from calico.datasets.splits import split_texts
from calico.datasets.streams import shuffled, stream
from calico.datasets.texts import TextReader
from calico.scripts.common import console
from calico.scripts.perceiver_tasks import training as runs
from calico.scripts.perceiver_tasks.training import EVALUATIONS, HELD_OUT, TaskSettings, load_task_settings
from calico.scripts.training.classification import costs, write_report

BLANK = "[MASK]"
FRACTION = 0.15             # of the words
MULTIPLE = 32              # masked bytes per text are padded to a multiple of so many: CPU kernels are compiled per shape
IGNORED = -100
MEASURED = 256           # held-out texts, at most
LENGTHS = range(1, 11)   # bytes of a blank that are tried

TRAIN = f"""Train a Perceiver IO to fill in masked words, byte by byte.

    calico perceive fill-mask train reviews.jsonl --out runs/language
    calico perceive fill-mask train books/ training.minutes=30 --out runs/language
    calico perceive classify-text train reviews.jsonl init=runs/language --out runs/reviews      # then fine-tune it

DATA is a .txt, .jsonl or .parquet file of texts, or a folder of them. A fifth of them, by a hash of their content (the same as
classify-text holds out), is held out and measured {EVALUATIONS} times: RUN/held_out.json. The same command continues.
"""
PREDICT = f"""Fill in the blanks of a text.

    calico perceive fill-mask predict runs/language "This is a {BLANK}."
    calico perceive fill-mask predict runs/language "This is a {BLANK}." --length 5 --json

A byte model must know how long a blank is: without --length {LENGTHS[0]} to {LENGTHS[-1]} bytes are tried, the likeliest
first. RUN is what `calico perceive fill-mask train` made, or the folder of a Hugging Face PerceiverForMaskedLM.
"""


# ---- train -----------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class LanguageSettings(TaskSettings):
    length: int = 1024           # bytes that are read of a text
    LEAST = {"length": "16 bytes"}


def train(task: str, argv: Sequence[str]) -> int:
    arguments = runs.parse_training(runs.training_parser(task, TRAIN, LanguageSettings()), argv)
    settings = load_task_settings(LanguageSettings(), arguments.overrides)
    report = fit(task, arguments.data, settings, arguments.out, console.chosen_device(arguments.device),
                 data_changed=arguments.data_changed)
    if arguments.json:
        console.print_json(report)
    else:
        console.say(f"{report['accuracy']:.1%} of masked bytes right, {report['bits_per_byte']:.2f} bits per masked byte in "
                    f"{report['held_out']} held-out texts, trained on {report['train']} in {report['steps']} steps, "
                    f"{report['minutes']:.1f} minutes")
    console.wrote(arguments.out)
    return 0


def fit(task: str, path: Path, settings: LanguageSettings, run: Path, device: str = "cpu",
        network: Callable[[LanguageConfig], Any] = MaskedLanguage, data_changed: bool = False) -> dict[str, Any]:
    """Train to the end, continuing what is in the run's folder; returns the held-out report, which is also written there.

    Args:
        network: makes what is trained where there is no model to start from; `calico bench perceiver-scores` has others.
        data_changed: continue though the data are others than when the run began.
    Raises:
        ValueError: data or the model to start from cannot be read, or the run began with other settings.
    """
    where, seed = usable_device(device), settings.training.seed
    reader = TextReader(path)
    training, held_out = split_texts(reader, HELD_OUT)
    start = runs.started_from(settings, (task,))
    fit_in = preparation(start) if start else TextInput(positions=settings.length)
    assert isinstance(fit_in, TextInput)
    torch.manual_seed(seed)
    fitting = replace(SMALL_LANGUAGE, text=replace(SMALL_LANGUAGE.text, positions=fit_in.positions))
    model: Any = (start.model if start else network(fitting)).to(where)

    def batch_of(number: int) -> Batch:
        rng = stream(seed, "views", number)
        rows = shuffled(len(training), settings.batch_size, number, seed)
        return mask_words(fit_in([training[row] for row in rows], rng), rng)

    rng = np.random.default_rng(0)
    examples = [mask_words(fit_in([held_out[row] for row in rows]), rng) for rows in np.array_split(
        np.arange(min(len(held_out), MEASURED)), max(1, min(len(held_out), MEASURED) // 32))]

    document = {"task": task, "model": config_to_json(model.config), "input": config_to_json(fit_in),
                "data": reader.fingerprint}
    trainer = runs.train(model, loss_of, batch_of, lambda model: measure(model, examples), document, settings, run, device,
                         data_changed)
    report = {**trainer.evaluation, "held_out": min(len(held_out), MEASURED), "task": task, "train": len(training),
              **costs(trainer)}
    write_report(report, run)
    return report


def mask_words(batch: Batch, rng: np.random.Generator) -> Batch:
    """Mask FRACTION of the words, each with all its bytes; at least one per text.

    Returns:
        inputs and mask as they came, with MASK in place of the words' bytes; positions int64 (B, Q) of those bytes, and targets
        int64 (B, Q), IGNORED where a text has fewer than Q.
    """
    ids = batch["inputs"].numpy()
    positions = [words_of(row, FRACTION, rng) for row in ids]
    longest = min(-(-max(map(len, positions)) // MULTIPLE) * MULTIPLE, ids.shape[1])
    padded = np.zeros((len(ids), longest), np.int64)
    inputs, targets = ids.copy(), np.full_like(padded, IGNORED)
    for row, chosen in enumerate(positions):
        padded[row, :len(chosen)] = chosen
        targets[row, :len(chosen)] = ids[row, chosen]
        inputs[row, chosen] = MASK
    made = {"inputs": inputs, "positions": padded, "targets": targets}
    return {**batch, **{name: torch.from_numpy(array) for name, array in made.items()}}


def loss_of(model: MaskedLanguage, batch: Batch) -> tuple[Mean, Mapping[str, Any]]:
    """Cross-entropy of the masked bytes, in nats per byte, and how many of them are right."""
    logits = model(batch["inputs"], batch["mask"], batch["positions"]).flatten(0, 1).float()
    targets = batch["targets"].flatten()
    kept = targets != IGNORED
    count = int(kept.sum())
    right = (logits.argmax(dim=1) == targets)[kept].sum()
    total = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    return Mean(total, count), {"accuracy": Mean(right, count)}


def measure(model: MaskedLanguage, examples: Sequence[Batch]) -> dict[str, float]:
    """Fraction of masked bytes that are right, and bits per masked byte."""
    device, sums = next(model.parameters()).device, Sums()
    for batch in examples:
        sums.add(*loss_of(model, {name: tensor.to(device) for name, tensor in batch.items()}))
    return {"accuracy": sums.numbers["accuracy"].value, "bits_per_byte": sums.loss.value / math.log(2)}


# ---- predict ---------------------------------------------------------------------------------------------------------------

def predict(task: str, argv: Sequence[str]) -> int:
    parser = console.make_parser(f"perceive {task} predict", PREDICT)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("texts", nargs="+", metavar="TEXT", help=f"with {BLANK} where something is missing")
    parser.add_argument("--length", type=int, help="bytes of a blank")
    parser.add_argument("--top", type=int, default=3, help="lengths that are shown (default 3)")
    console.add_common(parser, "--device", "--json")
    options = parser.parse_args(argv)
    console.check_positive(options, "length", "top")
    if missing := [text for text in options.texts if BLANK not in text]:
        raise ValueError(f"there is no {BLANK} in {missing[0]!r}; write it where something is missing")
    trained = load_trained(options.run, (task,), console.chosen_device(options.device))
    fit_in = preparation(trained)
    assert isinstance(trained.model, MaskedLanguage) and isinstance(fit_in, TextInput)
    found = []
    for text in options.texts:
        lengths = [options.length] if options.length else LENGTHS
        filled = [fill(trained.model, text, length, fit_in.positions) for length in lengths]
        found += sorted(filled, key=lambda entry: -entry["probability"])[:options.top]
    console.print_result(found, options.json, ("text", "bytes", "probability of a byte"),
                         [[entry["filled"], entry["length"], entry["probability"]] for entry in found])
    return 0


def fill(model: MaskedLanguage, text: str, length: int, positions: int) -> dict[str, Any]:
    """The likeliest byte at each position of blanks of `length` bytes, all at once.

    Returns:
        text, filled, length, and probability: the geometric mean over the bytes.
    Raises:
        ValueError: the text does not fit; a blank cannot be cut off unseen, so nothing is cut here.
    """
    first, *others = [encode_bytes(part, cls_sep=False) for part in text.split(BLANK)]
    joined = first + [i for part in others for i in [MASK] * length + part]
    ids = torch.tensor([[CLS, *joined, SEP]], device=next(model.parameters()).device)
    if ids.shape[1] > positions:
        raise ValueError(f"the text has {ids.shape[1]} bytes, the model reads {positions}; shorten it")
    blanks = (ids[0] == MASK).nonzero()[:, 0]
    with torch.no_grad():
        logits = model(ids, positions=blanks).float()[0]
    logits[:, :BYTE_OFFSET] = -torch.inf                                # a blank is filled with bytes only
    chances, best = logits.softmax(dim=1).max(dim=1)
    ids[0, blanks] = best
    return {"text": text, "filled": decode_bytes(ids[0].tolist()), "length": length,
            "probability": float(chances.log().mean().exp())}
