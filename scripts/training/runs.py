"""What the verbs that train share: a run that is begun or continued, and its progress.

    settings = load_config(FinetuneSettings, None, arguments.overrides)
    with begin_or_continue(run, config_to_json(settings), free=LENGTH) as saved:
        trainer = Trainer(...)
        if saved is not None:
            trainer.restore(saved)
        run_with_progress_bar(trainer, f"finetune {run.name}", batch_of, run, documents, files)
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from calico.agent import checkpoint
from calico.agent.run_lock import run_lock
from calico.agent.training.ranks import ALONE, Ranks, RanksError, check_same, from_environment, joined_ranks
from calico.agent.training.trainer import Trainer, TrainingReport
from calico.datasets.mixture import first_difference
from calico.datasets.publish import digest, versions
from calico.datasets.streams import ORDER
from calico.scripts.common import console
from calico.scripts.common.config import config_from_json, config_to_json
from calico.scripts.common.settings import without_gone

# What may change between the first start of a run and a later one, in every verb: its length and rhythm.
LENGTH = tuple(f"training.{name}" for name in ("steps", "minutes", "log_every", "evaluate_every", "save_every", "async_save",
                                               "compile", "peak_tflops"))

LAST_GOOD = "--last-good"
CHANGES = "data_changes"      # a checkpoint's document: {step, source, before, after} of each change that was accepted

Net = TypeVar("Net", bound=nn.Module)


@contextmanager
def begin_or_continue(run: Path, document: Mapping[str, Any], free: Collection[str] = LENGTH, *, device: str = "cpu",
                      before: Callable[[checkpoint.Checkpoint], Any] = lambda saved: saved.documents.get("config"),
                      any_order: bool = False, ranks: Ranks = ALONE) -> Iterator[checkpoint.Checkpoint | None]:
    """Hold the run's lock; gives the checkpoint to continue from, or None for a new run.

    Args:
        document: what the run is, as JSON values; usually its config.
        free: dotted keys of the document that may differ from when the run began.
        before: the document of the run that was saved, so written that it can be compared: fields that are newer than the
            checkpoint filled in, for instance. It may raise ValueError.
        any_order: the caller itself continues runs that drew their samples in the order of an earlier version.
        ranks: the processes that train together; the first holds the lock for all.
    Raises:
        ValueError: the run began with another document, or another process trains in the folder; ranks have other documents
            than the first.
        checkpoint.CheckpointError: a damaged checkpoint.
    """
    check_is_run(run)
    check_same(ranks, first_difference, settings=document, versions=versions(checkpoint.PACKAGES))
    with run_lock(run) if ranks.is_first else nullcontext():
        ranks.wait()      # until the first has the lock: what the run holds does not change from here on
        try:
            parts_later = ranks.together      # no rank needs all of what ranks with parts have written
            saved = checkpoint.load(run, map_location=device, parts_later=parts_later) if checkpoint.checkpoints(run) else None
        except checkpoint.CheckpointError as error:
            raise checkpoint.CheckpointError(f"{error}. To continue the run from its newest good checkpoint, give the same "
                                             f"command with {LAST_GOOD}") from None
        if saved is not None:
            current = before(saved)
            if not any_order:
                check_order(run, saved)
            check_same_run(run, document, current, free)
        yield saved


@contextmanager
def ranks_of_run(device: str) -> Iterator[Ranks]:
    """This process among those that torchrun started; only the first speaks. See joined_ranks."""
    with joined_ranks(device) as ranks:
        if not ranks.is_first:
            console.be_silent()
        yield ranks


def refuse_ranks(verb: str) -> None:
    """Raise ValueError under torchrun, for what works in one process."""
    if from_environment().together:
        raise RanksError(f"calico {verb} works in one process; start it without torchrun (train, pretrain, finetune and "
                         "perceive work in several)")


def check_is_run(run: Path) -> None:
    """Raise ValueError for the folder of a checkpoint: a run that began in there would be removed with it."""
    inside = run.parent if run.name == "checkpoints" else run.parent.parent if run.parent.name == "checkpoints" else None
    if inside is not None or (run / checkpoint.MANIFEST).exists():
        raise ValueError(f"{run} is a checkpoint, not the folder of a run; give " + (
            f"{inside}, with {LAST_GOOD} if its latest checkpoint is damaged" if inside else "another folder for the new run"))


def fall_back(run: Path) -> None:
    """What --last-good asks for, before the run is continued."""
    if not from_environment().is_first:
        return            # the others wait for the first one before they read what is there
    check_is_run(run)
    with run_lock(run):
        console.note(f"{run} continues from {checkpoint.fall_back(run).name}")


def check_same_run(run: Path, document: Mapping[str, Any], before: Any, free: Collection[str] = ()) -> None:
    """A run continues with what it began with.

    Raises:
        ValueError: names the first difference.
    """
    new, old = (json.loads(json.dumps(tree)) for tree in (document, before))
    for tree in (new, old):
        for key in free:
            _drop(tree, key.split("."))
    if difference := first_difference(new, old):
        raise ValueError(f"{run} holds a run with other settings: {difference}; give the old value to continue it, or another "
                         "out for a new run")


def check_order(run: Path, saved: checkpoint.Checkpoint) -> None:
    """Raise ValueError where the run drew its samples in the order of another version, see datasets/streams.py."""
    if (order := saved.documents.get("order", 1)) != ORDER:
        raise ValueError(f"{run} holds a run whose samples came in another order (version {order}, this Calico has {ORDER}); "
                         "choose another out for a new run")


def _drop(tree: Any, path: list[str]) -> None:
    """Remove the entry at a dotted path, if it is there."""
    for name in path[:-1]:
        tree = tree.get(name, {}) if isinstance(tree, dict) else {}
    if isinstance(tree, dict):
        tree.pop(path[-1], None)


def saved_config(verb: str, documents: Collection[str], schema: type[Any]) -> Callable[[checkpoint.Checkpoint], dict[str, Any]]:
    """What gives the config of a run of this command; settings that are newer than the run have their defaults."""
    def config_of(saved: checkpoint.Checkpoint) -> dict[str, Any]:
        check_written_by(verb, saved, documents)
        return config_to_json(config_from_json(schema, without_gone(saved.documents.get("config", {}))))
    return config_of


def accepted_changes(saved: checkpoint.Checkpoint, changes: Collection[Mapping[str, str]]) -> list[dict[str, Any]]:
    """What a run's checkpoints keep of changes of its data, those of before included; the new ones are said.

    Args:
        changes: {source, before, after} of each, the last two are fingerprints.
    """
    for change in changes:
        console.note(f"{change['source']}: the data changed since step {saved.step}: {change['before'][:12]} became "
                     f"{change['after'][:12]}; the run goes on with what is there now")
    return [*saved.documents.get(CHANGES, []), *({"step": saved.step, **change} for change in changes)]


def check_same_data(run: Path, saved: checkpoint.Checkpoint, where: str, before: Any, after: Any,
                    data_changed: bool) -> list[dict[str, Any]]:
    """For a run of one source: what its checkpoints keep of changes of the data, see `accepted_changes`.

    Args:
        where: the data's path.
        before, after: their fingerprints, or JSON values that identify them.
        data_changed: other data are accepted.
    Raises:
        ValueError: they are others.
    """
    old, new = (found if isinstance(found, str) else digest(found) for found in (before, after))
    if old != new and not data_changed:
        raise ValueError(f"{run} began with other data than {where} holds now (fingerprint {new[:12]}, before {old[:12]}); "
                         "restore them, accept the change with --data-changed, or choose another out for a new run")
    return accepted_changes(saved, [{"source": where, "before": old, "after": new}] if old != new else [])


def check_written_by(verb: str, saved: checkpoint.Checkpoint, documents: Collection[str]) -> None:
    """Raise ValueError unless the checkpoint has these documents."""
    if not {*documents, "state"} <= saved.documents.keys():
        raise ValueError(f"{saved.path} was not written by `calico {verb}` and cannot be continued; choose another out")


def run_with_progress_bar(trainer: Trainer[Net], what: str, batch_of: Callable[[int], Any], run: Path,
                          documents: Mapping[str, Any], files: Mapping[str, bytes], *,
                          evaluate: Callable[[Net], Mapping[str, float]] | None = None,
                          play: Callable[[Net], Mapping[str, float]] | None = None, play_every: int = 0,
                          shown: Collection[str] | None = None, profile: int = 0) -> None:
    """Train to the end under a progress bar.

    Args:
        what: the bar's words, such as "train demo".
        shown: which of the loss's numbers stand beside the loss; None: all. Those of single sources never do.
        batch_of, documents, files, evaluate, play, play_every, profile: see Trainer.run.
    """
    def note(report: TrainingReport) -> str:
        numbers = {name: value for name, value in report.numbers.items()
                   if "/" not in name and (shown is None or name in shown)}
        parts = [f"loss {report.loss:.3f}", *(f"{words(name)} {value:.3g}" for name, value in numbers.items()),
                 *(f"held-out {words(name)} {value:.3g}" for name, value in report.evaluation.items() if "/" not in name)]
        if report.played:
            parts.append(f"in play {sum(report.played.values()) / len(report.played):.0f} % of expert")
        parts += [f"{report.tokens_per_second:,.0f} tokens/s"] if report.tokens else []
        return "  ".join([*parts, *([f"MFU {report.mfu:.1%}"] if report.mfu is not None else [])])

    def words(name: str) -> str:
        return name.replace("_", " ")

    with console.progress(what, total=trainer.steps, unit="steps", start=trainer.step) as bar:
        def tell(report: TrainingReport) -> None:
            for text in report.skipped:
                console.note(text)
            bar.update(report.step, note(report), report.steps)

        trainer.run(batch_of, run, documents, files, evaluate=evaluate, play=play, play_every=play_every, on_report=tell,
                    profile=profile)
