"""What the Perceiver's training commands share: their options, and a run that is begun or continued.

    parser = training_parser("classify-image", __doc__, steps=3000, batch=64, learning_rate=1e-3)
    options = parser.parse_args(argv)
    trainer = train(model, loss_of, batch_of, evaluate, document, options)
    trainer.final                                                   # the model to measure
"""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from calico.agent import checkpoint
from calico.agent.perceiver.runs import DOCUMENT
from calico.agent.run_lock import run_lock
from calico.agent.training.optimizer import OptimizerConfig
from calico.agent.training.supervised import Batch, Progress, Supervised, SupervisedConfig
from calico.datasets.mixture import first_difference
from calico.datasets.streams import ORDER
from calico.scripts.common import console

HELD_OUT = 0.2       # share of the samples, chosen by a hash of their content
EVALUATIONS = 10     # of the held-out samples, in a run
EMA = 0.995          # decay of the averaged weights: they see the last 200 steps, and spare a choice among checkpoints
WARM_UP, SHORT_WARM_UP = 100, 20    # steps, at most a tenth of all

Net = TypeVar("Net", bound=nn.Module)


def training_parser(task: str, doc: str, *, steps: int, batch: int, learning_rate: float) -> console.Parser:
    """The parser of `calico perceive TASK train`; the task adds its own options."""
    parser = console.make_parser(f"perceive {task} train", doc)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--init", type=Path, metavar="FOLDER", help="start from this run or Hugging Face checkpoint")
    parser.add_argument("--steps", type=int, default=steps, help="default %(default)s")
    parser.add_argument("--minutes", type=float, default=0.0, help="end after so many, at the latest")
    parser.add_argument("--batch", type=int, default=batch, help="samples per step (default %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=learning_rate, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", action="store_true")
    return parser


def train(model: Net, loss: Callable[[Net, Batch], tuple[Tensor, Mapping[str, Any]]], batch_of: Callable[[int], Batch],
          evaluate: Callable[[Net], Mapping[str, float]], document: Mapping[str, Any], options: argparse.Namespace,
          ) -> Supervised[Net]:
    """Train to the end, continuing what is in the run's folder.

    Args:
        document: everything that shapes the run, as JSON values; kept in its checkpoints, see agent/perceiver/runs.py.
        options: what `training_parser` parsed.
    Raises:
        ValueError: the run in the folder began with other settings, or is another process's.
    """
    every = max(1, options.steps // EVALUATIONS)
    config = SupervisedConfig(steps=options.steps, minutes=options.minutes, seed=options.seed, ema=EMA,
                              evaluate_every=every, save_every=every)
    # AdamW: LAMB, which the papers use, is for batches of thousands
    warm_up = SHORT_WARM_UP if options.minutes else WARM_UP      # a clock may end the run after few steps
    optimizer = OptimizerConfig(learning_rate=options.learning_rate, warmup_steps=min(warm_up, options.steps // 10),
                                final_share=0.01, beta2=0.98, weight_decay=0.05)
    document = {**document, "batch": options.batch, "seed": options.seed, "optimizer": asdict(optimizer), "order": ORDER}
    run = options.out
    with run_lock(run):
        trainer = Supervised(model, loss, optimizer, config)
        if checkpoint.checkpoints(run):
            saved = checkpoint.load(run, map_location=options.device)
            check_same_run(run, document, saved)
            trainer.restore(saved)
        with console.progress(f"train {run.name}", total=trainer.steps, unit="steps", start=trainer.step) as bar:
            trainer.run(batch_of, run, {DOCUMENT: document}, {}, evaluate=evaluate,
                        on_report=lambda progress: bar.update(progress.step, note(progress), progress.steps))
    return trainer


def check_same_run(run: Path, document: Mapping[str, Any], saved: checkpoint.Checkpoint) -> None:
    """A run continues with the settings that it began with; only its length may change."""
    if difference := first_difference(json.loads(json.dumps(document)), saved.documents.get(DOCUMENT, {})):
        raise ValueError(f"{run} holds a run with other settings: {difference}; give the old value to continue it, or another "
                         "--out")


def note(progress: Progress) -> str:
    """What the bar shows besides the step."""
    parts = [f"loss {progress.loss:.3f}", *(f"{name} {value:.3g}" for name, value in progress.numbers.items())]
    return "  ".join([*parts, *(f"held-out {name} {value:.3g}" for name, value in progress.evaluation.items())])
