"""What the Perceiver's training commands share: their settings and options, and a run that is begun or continued.

    parser = training_parser("classify-image", __doc__, PictureSettings())
    arguments = parser.parse_args(argv)
    settings = load_task_settings(PictureSettings(), arguments.overrides)
    trainer = train(model, loss_of, batch_of, evaluate, document, settings, arguments.out, arguments.device)
    trainer.final                                                   # the model to measure
"""

import json
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import nn

from calico.agent import checkpoint
from calico.agent.perceiver.runs import DOCUMENT, Trained, load_trained
from calico.agent.perceiver.runs import config_from_json as model_from_json
from calico.agent.perceiver.runs import config_to_json as model_to_json
from calico.agent.training.batch_part import own_rows, row_counts
from calico.agent.training.optimizer import OptimizerConfig
from calico.agent.training.ranks import Ranks, check_same
from calico.agent.training.trainer import Batch, LossFunction, Trainer, TrainingConfig
from calico.datasets.formats.hub import local
from calico.datasets.mixture import first_difference
from calico.datasets.streams import ORDER
from calico.scripts.common import console
from calico.scripts.common.config import config_to_json, given, load_config
from calico.scripts.training import runs

HELD_OUT = 0.2       # fraction of the samples, chosen by a hash of their content
EVALUATIONS = 10     # of the held-out samples, in a run
EMA = 0.995          # decay of the averaged weights: they see the last 200 steps, and spare a choice among checkpoints
WARM_UP, SHORT_WARM_UP = 100, 20    # steps, at most a tenth of all
# what a continued run may change; the warm-up follows from the steps
FREE = ("init", "pairs", "views", "optimizer.warmup_steps", *runs.LENGTH)

# options that were, for the line that names their new spelling
SPELLINGS = {"--steps": "training.steps", "--minutes": "training.minutes", "--seed": "training.seed", "--batch": "batch_size",
             "--learning-rate": "optimizer.learning_rate", "--mirror": "mirror=true", "--no-mirror": "mirror=false",
             **{f"--{name}": name for name in ("init", "size", "side", "rate", "seconds", "label", "points", "turn", "length",
                                               "pairs", "reach", "scales")}}

Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """A run of `calico perceive TASK train`; each task adds its own fields."""

    init: str = ""                 # start from this run or Hugging Face checkpoint
    batch_size: int = 32           # samples per step
    # AdamW: LAMB, which the papers use, is for batches of thousands
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(
        learning_rate=1e-3, final_share=0.01, beta2=0.98, weight_decay=0.05))
    # unless they are given, a tenth of the steps lies between evaluations and between checkpoints
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=3000, ema=EMA, log_every=20))

    LEAST: ClassVar[Mapping[str, str]] = {}     # of the task's own fields: name -> least value and its unit, "8 pixels"

    def __post_init__(self) -> None:
        for name, least in {"batch_size": "1", **self.LEAST}.items():
            if getattr(self, name) < int(least.split()[0]):
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")

    def lasting(self: "Settings", steps: int) -> "Settings":
        """The same with so many steps, for a task's defaults."""
        return replace(self, training=replace(self.training, steps=steps))


Settings = TypeVar("Settings", bound=TaskSettings)


def load_task_settings(defaults: Settings, overrides: Sequence[str]) -> Settings:
    """The defaults with `key=value`; warm-up and the steps between evaluations follow from the length unless they are given.

    Raises:
        ValueError: see load_config.
    """
    settings = load_config(defaults, None, overrides)
    training, optimizer = settings.training, settings.optimizer
    every = max(1, training.steps // EVALUATIONS)
    rhythm: dict[str, Any] = {name: every for name in ("evaluate_every", "save_every")
                              if given(None, overrides, f"training.{name}") is None}
    if given(None, overrides, "optimizer.warmup_steps") is None:
        warm_up = SHORT_WARM_UP if training.minutes else WARM_UP      # a clock may end the run after few steps
        optimizer = replace(optimizer, warmup_steps=min(warm_up, training.steps // 10))
    return replace(settings, training=replace(training, **rhythm), optimizer=optimizer)


def training_parser(task: str, doc: str, defaults: TaskSettings) -> console.Parser:
    """The parser of `calico perceive TASK train`, whose help ends with the settings and their defaults.

    What is trained is a field of the settings and written `key=value`; where the run lies (--out), where it is computed
    (--device) and how it is reported (--json) is none of them.
    """
    settings = " ".join(f"{key}={value if isinstance(value, str) else json.dumps(value)}"
                        for key, value in flat(config_to_json(defaults)))
    listed = textwrap.fill(settings, 120, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    parser = console.make_parser(f"perceive {task} train", f"{doc}\nsettings and their defaults (optimizer.warmup_steps, "
                                 f"evaluate_every and save_every: a tenth of the steps, unless given):\n{listed}")
    parser.add_argument("data", type=Path, metavar="DATA")
    console.add_common(parser, "overrides", "--device", "--json")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    console.add_common(parser, "--data-changed", "--last-good")
    console.add_old_spellings(parser, SPELLINGS)
    return parser


def parse_training(parser: console.Parser, argv: Sequence[str]) -> Any:
    """The arguments; the run has fallen back to its last good checkpoint where they ask for that."""
    arguments = parser.parse_args(argv)
    arguments.data = local(arguments.data)
    if arguments.last_good:
        runs.fall_back(arguments.out)
    return arguments


def flat(tree: Mapping[str, Any], parent: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{parent}{name}.")
        else:
            yield parent + name, value


def started_from(settings: TaskSettings, tasks: Sequence[str]) -> Trained | None:
    """The model that `init` names."""
    return load_trained(settings.init, tasks) if settings.init else None


def train(model: Net, loss: LossFunction[Net], batch_of: Callable[[int], Any],
          evaluate: Callable[[Net], Mapping[str, float]], document: Mapping[str, Any], settings: TaskSettings, run: Path,
          device: str, data_changed: bool = False, shared: Collection[str] = ()) -> Trainer[Net]:
    """Train to the end, continuing what is in the run's folder; under torchrun each rank takes its rows of every batch.

    Args:
        shared: tensors of a batch that have no rows.
        document: what the run is besides its settings, as JSON values; kept in its checkpoints, see agent/perceiver/runs.py.
        data_changed: continue though the document's "data" are others than when the run began.
    Raises:
        ValueError: the run in the folder began with other settings or data, or is another process's.
    """
    config = config_to_json(settings)
    before = runs.saved_config("perceive", (DOCUMENT,), type(settings))
    with (runs.ranks_of_run(device) as ranks,
          runs.begin_or_continue(run, config, FREE, device=device, before=before, ranks=ranks) as saved):
        ranks.rows(settings.batch_size, "batch_size")
        check_same(ranks, first_difference, data=document)
        trainer = Trainer(model, loss, settings.optimizer, settings.training, ranks=ranks, counts=row_counts)
        documents = {DOCUMENT: document, "config": config, "order": ORDER}
        if saved is not None:
            old = document_of(saved)
            if changes := runs.check_same_data(run, saved, "DATA", old.get("data"), document.get("data"), data_changed):
                documents[runs.CHANGES] = changes
            runs.check_same_run(run, document, old, free=("data",))
            trainer.restore(saved)
        runs.run_with_progress_bar(trainer, f"train {run.name}", rows_of(batch_of, ranks, shared), run, documents, {},
                                   evaluate=evaluate)
    return trainer


def rows_of(batch_of: Callable[[int], Batch], ranks: Ranks, shared: Collection[str]) -> Callable[[int], Batch]:
    """This rank's rows of every batch, which each rank makes as a whole: what is drawn for a row depends on those before it."""
    def own(number: int) -> Batch:
        batch = batch_of(number)
        return own_rows(batch, ranks.rows(len(next(iter(batch.values()))), "batch_size"), shared)
    return own


def document_of(saved: checkpoint.Checkpoint) -> dict[str, Any]:
    """The document of a run; fields of configurations that are newer than the run have their defaults."""
    return {name: model_to_json(model_from_json(value)) if isinstance(value, Mapping) and "class" in value else value
            for name, value in saved.documents[DOCUMENT].items()}
