"""`calico bench perceiver-shortcuts RUN DATA [key=value ...]`: what early exit and fewer latents cost, and what they save.

    calico perceive classify-text train reviews.jsonl --out runs/reviews
    calico bench perceiver-shortcuts runs/reviews reviews.jsonl
    calico bench perceiver-shortcuts runs/reviews reviews.jsonl --early-exit 0.8 0.95 --keep-latents 0.5 --batch 32 --json

RUN is one of `calico perceive classify-...`, DATA what it was trained on: the fifth that was held out is classified with all
layers and latents and with each shortcut (agent/perceiver/shortcuts.py), in turns within one run. For each:

    accuracy        of the held-out samples
    same_answer     fraction of them that are given the class that they are given without shortcuts
    layers          applied to a sample, on average
    times_as_fast   median seconds without shortcuts / with it, with --batch samples at a time (default 1); on a CPU seconds of
                    this process's own work, which others on the machine do not change
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calico.agent.perceiver.runs import load_trained, preparation
from calico.agent.perceiver.shortcuts import Shortcuts, Shortened
from calico.agent.perceiver.tasks import Classifier
from calico.scripts.benchmarks.interleaved import interleaved
from calico.scripts.common import console
from calico.scripts.perceiver_tasks.classify import KINDS
from calico.scripts.perceiver_tasks.training import HELD_OUT, load_task_settings
from calico.scripts.training.encoder_data import by_length

EXITS, KEPT = (0.7, 0.8, 0.9, 0.95), (0.5, 0.25, 0.125)
FIGURES = ("accuracy", "same_answer", "layers", "times_as_fast")


def main(argv: Sequence[str]) -> int:
    parser = console.make_parser("bench perceiver-shortcuts", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--early-exit", type=float, nargs="+", default=EXITS, metavar="PROBABILITY")
    parser.add_argument("--keep-latents", type=float, nargs="+", default=KEPT, metavar="FRACTION")
    parser.add_argument("--batch", type=int, default=1, help="samples at a time (default 1)")
    parser.add_argument("--turns", type=int, default=3, help="how often each is measured (default 3)")
    console.add_common(parser, "overrides", "--device", "--json")
    options = parser.parse_args(argv)
    console.check_positive(options, "batch", "turns")
    variants = {"all": Shortcuts(), **{f"early_exit {value:g}": Shortcuts(early_exit=value) for value in options.early_exit},
                **{f"keep_latents {value:g}": Shortcuts(keep_latents=value) for value in options.keep_latents}}
    trained = load_trained(options.run, tuple(KINDS), console.chosen_device(options.device))
    kind, fit_in = KINDS[trained.task], preparation(trained)
    assert isinstance(trained.model, Classifier)
    data, _ = kind.read(options.data, load_task_settings(kind.settings, options.overrides), fit_in)
    if list(data.classes) != list(trained.document["classes"]):
        raise ValueError(f"{options.data} has the classes {', '.join(data.classes)}, and {options.run} knows "
                         f"{', '.join(trained.document['classes'])}; give the data that it was trained on")
    held_out = data.split(HELD_OUT)[1]
    found = measured(trained.model, fit_in, [data.samples[row] for row in held_out], data.labels[held_out], variants,
                     options.batch, options.turns)
    console.print_result({"task": trained.task, "held_out": len(held_out), "batch": options.batch, "shortcuts": found},
                         options.json, ("shortcut", *FIGURES), [[name, *row.values()] for name, row in found.items()])
    return 0


def measured(model: Classifier, prepare: Any, samples: Sequence[Any], labels: np.ndarray, variants: dict[str, Shortcuts],
             batch: int, turns: int) -> dict[str, dict[str, float]]:
    """FIGURES of each variant; the first one is what the others are compared with."""
    device = next(model.parameters()).device
    order = list(by_length(samples, batch))
    batches = [[part.to(device) for part in prepare([samples[i] for i in rows], None).values()] for rows in order]
    rows = np.concatenate([np.asarray(part) for part in order])
    answers: dict[str, np.ndarray] = {}
    layers: dict[str, float] = {}

    clock = time.process_time if device.type == "cpu" else time.perf_counter

    def answer(name: str) -> float:
        """Seconds."""
        began = clock()
        shortened = Shortened(model, variants[name]).eval()
        classes, depths = [], []
        for inputs in batches:
            classes.append(shortened(*inputs).argmax(dim=1).cpu())
            depths.append(shortened.depths.cpu())
        answers[name], layers[name] = torch.cat(classes).numpy(), float(torch.cat(depths).float().mean())
        return clock() - began

    with torch.inference_mode():
        taken = interleaved(turns, *(partial(answer, name) for name in variants))
    first = next(iter(variants))
    return {name: {"accuracy": float((answers[name] == labels[rows]).mean()),
                   "same_answer": float((answers[name] == answers[first]).mean()), "layers": layers[name],
                   "times_as_fast": taken[0] / own} for name, own in zip(variants, taken, strict=True)}
