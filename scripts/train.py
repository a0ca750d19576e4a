"""`calico train CONFIG [key=value ...]`: one mixture, one model.

    calico collect CartPole-v1 --episodes 20 --out data
    calico train tiny 'data.sources=[{path: data/CartPole-v1}]' training.steps=300 out=runs/cartpole   # half a minute
    calico rollout runs/cartpole CartPole-v1 --episodes 10                                              # about 500
    tensorboard --logdir runs

A run that was stopped (Ctrl-C, kill, power) continues from its last checkpoint when the same command is given again, with
the same losses, bit for bit, as if it had never stopped.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from calico.agent import checkpoint
from calico.agent.agent import Agent
from calico.agent.hardware import usable_device
from calico.agent.run_lock import run_lock
from calico.agent.training.trainer import Report, Trainer
from calico.datasets.mixture import Mixture, first_difference, loader
from calico.scripts.common import console
from calico.scripts.common.config import config_from_json, config_to_json, save_resolved
from calico.scripts.common.settings import RunSettings, load_settings
from calico.scripts.common.sources import build_mixture, model_config, open_sources, resampled, task_specs, text_tokenizer
from calico.tokenizers.vocabulary import Vocabulary


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, train, report."""
    parser = console.make_parser("train", __doc__)
    parser.add_argument("config", help="a YAML file, or the name of one that comes with Calico: tiny, small, medium, ...")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="settings that win over the file's")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args(argv)
    settings = load_settings(arguments.config, arguments.overrides)
    run = train(settings, arguments.device)
    console.wrote(run)
    return 0


def train(settings: RunSettings, device: str = "cpu") -> Path:
    """Train to the last step, continuing from the run's latest checkpoint if there is one; returns the run's folder.

    Raises:
        ValueError: no such device, an empty mixture, data that cannot be read or that differ from those the run began with.
        checkpoint.CheckpointError: a damaged checkpoint.
    """
    run = Path(settings.out)
    usable_device(device)
    opened = open_sources(settings)
    for line in resampled(opened):
        console.note(line)
    with run_lock(run):
        saved = checkpoint.load(run, map_location=device) if checkpoint.checkpoints(run) else None
        if saved is None:
            text = text_tokenizer(settings, opened)
            vocabulary = Vocabulary(settings.vocabulary)
            specs = task_specs(opened, settings, vocabulary, text)
            agent = Agent.build(model_config(opened, settings), vocabulary, text, specs, seed=settings.training.seed,
                                device=device)
        else:
            check_same_run(settings, saved)
            agent = Agent.from_checkpoint(saved, device)
        mixture = build_mixture(opened, settings, agent.vocabulary, agent.text)
        trainer = Trainer(agent.model, settings.optimizer, settings.training, mixture.names)
        if saved is not None:
            mixture.check_state(saved.documents["mixture"])
            trainer.restore(saved)
        save_resolved(settings, run / "config.json")
        documents = {**agent.documents(), "config": config_to_json(settings), "mixture": mixture.state()}
        follow(trainer, mixture, settings, run, documents, agent.files())
    return run


def check_same_run(settings: RunSettings, saved: checkpoint.Checkpoint) -> None:
    """A run continues with the settings that it began with; only its length and rhythm may change."""
    if not {"config", "mixture", "state"} <= saved.documents.keys():
        raise ValueError(f"{saved.path} was not written by `calico train` and cannot be continued; choose another out=...")
    before = config_from_json(RunSettings, saved.documents["config"])
    same = replace(settings, out=before.out, data=replace(settings.data, workers=before.data.workers),
                   training=replace(before.training, seed=settings.training.seed, precision=settings.training.precision,
                                    accumulate=settings.training.accumulate))
    if difference := first_difference(config_to_json(same), config_to_json(before)):   # settings that are newer: defaults
        raise ValueError(f"{settings.out} holds a run with other settings: {difference}; give the old value to continue it, "
                         "or another out=... for a new run")


def follow(trainer: Trainer, mixture: Mixture, settings: RunSettings, run: Path, documents: dict[str, Any],
           files: dict[str, bytes]) -> None:
    """Run the trainer with a progress bar."""
    training = settings.training
    first, last = trainer.step * training.accumulate, training.steps * training.accumulate
    batches = iter(loader(mixture, first, last, settings.data.workers))
    with console.progress(f"train {run.name}", total=training.steps, unit="steps", start=trainer.step) as bar:

        def on_report(report: Report) -> None:
            bar.update(report.step, f"loss {report.loss:.3f}  {report.tokens_per_second:,.0f} tokens/s")

        trainer.run(batches, run, documents, files, on_report)


if __name__ == "__main__":
    raise SystemExit(main())
