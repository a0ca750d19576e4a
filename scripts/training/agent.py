"""An agent's training run, from its settings to its checkpoints: the work of `calico train`."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from calico.agent import checkpoint
from calico.agent.agent import Agent, located
from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.hardware import usable_device
from calico.agent.model import Model, matmul_flops_per_token
from calico.agent.sampling import SamplingConfig
from calico.agent.training.agent_loss import agent_loss, counts_of
from calico.agent.training.ranks import Ranks, RanksError, check_same
from calico.agent.training.trainer import PER_SOURCE, Sums, Trainer
from calico.datasets.mixture import Mixture, first_difference, prefetched
from calico.datasets.publish import digest
from calico.envs import scores
from calico.scripts.common import console, sources
from calico.scripts.common.config import config_to_json, save_resolved
from calico.scripts.common.media_inputs import SHOWN
from calico.scripts.common.settings import AgentTraining, RunSettings
from calico.scripts.training import distilling, needs
from calico.scripts.training.runs import (
    CHANGES,
    LENGTH,
    accepted_changes,
    begin_or_continue,
    fall_back,
    ranks_of_run,
    run_with_progress_bar,
    saved_config,
)
from calico.tokenizers.vocabulary import Vocabulary

PLAY = ("training.play_every", "training.play_tasks", "training.play_episodes")
# What a continued run may change. A teacher may be in another folder by now: `distillation.fingerprint` identifies its weights.
FREE = ("out", "teacher", "data.workers", *PLAY, *LENGTH, "training.recompute", "training.shard")
FIRST_PLAYED = 20_000                        # seeds of what is played in training: no data set's and no evaluation's
SOURCES_TOLD = 8                             # by name
HELD_OUT_BATCHES = 4                         # that are measured, where sources hold something out; the same ones each time


def train(settings: RunSettings, device: str = "cpu", data_changed: bool = False, last_good: bool = False,
          profile: int = 0) -> Path:
    """`train_ranks` of this process and those that torchrun started with it; see there."""
    device = str(usable_device(device))
    with ranks_of_run(device) as ranks:
        return train_ranks(settings, device, data_changed, last_good, ranks, profile)


def train_ranks(settings: RunSettings, device: str, data_changed: bool, last_good: bool, ranks: Ranks,
                profile: int = 0) -> Path:
    """Train to the last step, continuing from the run's latest checkpoint if there is one; returns the run's folder.

    Args:
        data_changed: continue though the data of a source are others than when the run began.
        last_good: continue from the newest checkpoint that is whole.
        profile: steps whose time is recorded in the run's profile.json.
        ranks: this process among those that train together; the first one writes and speaks.
    Raises:
        ValueError: no such device, an empty mixture, data that cannot be read or that differ from those the run began with;
            ranks with other settings, data or versions than the first, or more of them than rows; a teacher with another
            vocabulary, or that lacks a task of the data.
        checkpoint.CheckpointError: a damaged checkpoint.
    """
    rows = ranks.rows(settings.data.batch_size)
    teacher = distilling.load_teacher(settings, device)
    settings = distilling.with_fingerprint(settings, teacher)
    settings = replace(settings, data=replace(settings.data, sources=sources.expanded(settings.data.sources)))
    run, training = Path(settings.out), settings.training
    if last_good:
        fall_back(run)
    opened = sources.open_sources(settings)
    settings = needs.resolved(settings, [source.data.task["name"] for source in opened if source.data.task is not None])
    opened = needs.weighted(settings, opened)
    for line in sources.resampled(opened):
        console.note(line)
    if teacher is not None:
        distilling.check_teacher(settings, opened, teacher)
    before = saved_config("train", ("config", "mixture"), RunSettings)
    check_same(ranks, first_difference, data={source.name: source.data.fingerprint for source in opened})
    with begin_or_continue(run, config_to_json(settings), FREE, device=device, before=before, any_order=True,
                           ranks=ranks) as saved:
        start = checkpoint.load(located(settings.init), only=("model",)) if saved is None and settings.init else None
        if saved is None:
            agent = initial_agent(settings, opened, device, Agent.from_checkpoint(start, device) if start else None, teacher)
        else:
            agent = Agent.from_checkpoint(saved, device)
        mixture = sources.build_mixture(opened, settings, agent.vocabulary, agent.text)
        loss = agent_loss(mixture.names, distilling.teaching(settings, opened, teacher) if teacher else None)
        trainer = Trainer(agent.model, loss, settings.optimizer, training, ranks=ranks, counts=counts_of,
                          flops_of=training_flops(agent))
        check_playable(trainer, training)
        kept: dict[str, Any] = {} if start is None else {checkpoint.BEFORE: checkpoint.spent(start)}
        if saved is not None:
            kept = {stem: saved.documents[stem] for stem in (checkpoint.BEFORE,) if stem in saved.documents}
            changes = mixture.check_state(saved.documents["mixture"], data_changed)
            kept |= {CHANGES: found} if (found := accepted_changes(saved, changes)) else {}
            others = {change["source"] for change in changes}      # documents of the same numbers are not the same there
            mixture.skip({name: numbers for name, numbers in saved.documents.get("skipped", {}).items() if name not in others})
            trainer.restore(saved)
        check_same(ranks, first_difference, mixture=mixture.state(), text=digest(list(agent.text.to_bytes())))
        for line in (*sources.remarked(opened), *sources.passed_over(mixture)):
            console.note(line)
        for line in described(settings, agent, opened, training.steps - trainer.step, device):
            console.note(line)
        if ranks.is_first:
            save_resolved(settings, run / "config.json")
        documents = {**agent.documents(), "config": config_to_json(settings), "mixture": mixture.state(),
                     "skipped": mixture.skipped, SHOWN: {"pictures": any(one.data.has_pictures for one in opened)}, **kept}
        batch_of = prefetched(mixture, trainer.step * training.accumulate, training.steps * training.accumulate,
                              settings.data.workers, rows=rows)
        run_with_progress_bar(trainer, f"train {run.name}", batch_of, run, documents, agent.files(),
                              evaluate=held_out_loss(opened, settings, agent), play=player(training, agent),
                              play_every=training.play_every, profile=profile)
    console.note(f"next: {next_command(run, agent, opened)}")
    return run


def check_playable(trainer: Trainer[Model], training: AgentTraining) -> None:
    """Raise ValueError where the run is to play now and then, and no process has the whole network."""
    if training.play_every and trainer.ranks.together and trainer.shard == "fsdp":
        raise RanksError(f"training.play_every={training.play_every} needs a rank with the whole network, and "
                         "training.shard=fsdp gives each a part; set play_every=0, or shard=ddp where the network fits")


def initial_agent(settings: RunSettings, opened: list[sources.OpenedSource], device: str, base: Agent | None,
                  teacher: Agent | None = None) -> Agent:
    """The agent before its first step: with random weights, or those of `base`, the run that `settings.init` names."""
    text = base.text if base else distilling.text_of(settings, opened, teacher)
    vocabulary = Vocabulary(settings.vocabulary)
    specs = sources.task_specs(opened, settings, vocabulary, text)
    config = sources.model_config(opened, settings)
    agent = Agent.build(config, vocabulary, text, specs, seed=settings.training.seed, device=device)
    if base:
        check_same_tasks(settings.init, base, specs)
        # what it lacks, such as the block for sounds where it has heard none, stays as it was drawn
        agent.model.load_state_dict(base.model.state_dict(), strict=False)
    return agent


def described(settings: RunSettings, agent: Agent, opened: Sequence[sources.OpenedSource], steps: int,
              device: str) -> Iterator[str]:
    """What is about to be trained, in a few lines."""
    backbone, data = settings.backbone, settings.data
    yield (f"{Path(settings.out).name}: {agent.model.parameter_count():,} parameters ({backbone.kind}, width {backbone.width}, "
           f"depth {backbone.depth}), {agent.text.size:,} text pieces; {steps:,} steps of {data.batch_size} rows of "
           f"{backbone.context} tokens on {device}")
    if settings.teacher:
        yield distilling.described(settings)
    total = sum(source.settings.weight for source in opened)
    told = [f"{source.name} ({len(source.data):,}, {source.settings.weight / total:.0%})" for source in opened[:SOURCES_TOLD]]
    more = f", and {len(opened) - SOURCES_TOLD} more" if len(opened) > SOURCES_TOLD else ""
    yield f"{len(opened)} source{'s' * (len(opened) != 1)} (items, share of the rows): {', '.join(told)}{more}"


def next_command(run: Path, agent: Agent, opened: Sequence[sources.OpenedSource]) -> str:
    """What to type once the run is trained."""
    if agent.tasks:
        return f"calico rollout {shlex.quote(str(run))} {sorted(agent.tasks)[0]}"
    return f"calico {'caption' if any(source.data.has_pictures for source in opened) else 'chat'} {shlex.quote(str(run))}" + (
        " IMAGE" if any(source.data.has_pictures for source in opened) else "")


def training_flops(agent: Agent) -> Callable[[float], float] | None:
    """See Trainer; None where they are not counted. A step costs three forward passes."""
    if not isinstance(agent.model.config.backbone, DecoderConfig):
        return None
    return lambda share: 3 * matmul_flops_per_token(agent.model.config, agent.vocabulary.size, share)


def player(training: AgentTraining, agent: Agent) -> Callable[[Model], Mapping[str, float]]:
    """Scores of some of the tasks in play, task -> per cent of expert."""
    from calico.scripts.evaluation.control import play  # late: what it loads takes a second, and most runs never play

    known = [name for name in sorted(agent.tasks) if scores.reference(name).normalise(0.0) is not None]
    chosen = known[:: max(1, len(known) // training.play_tasks)][: training.play_tasks]
    seeds = range(FIRST_PLAYED, FIRST_PLAYED + training.play_episodes)

    def scores_of(model: Model) -> dict[str, float]:
        now, found = replace(agent, model=model), dict[str, float]()
        for name in chosen:
            result = play(now, name, seeds, SamplingConfig(), num_envs=len(seeds), progress=False)
            found[name] = result.normalised or 0.0
        return found

    return scores_of


def check_same_tasks(init: str, base: Agent, specs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError where the network sees a task in another way than these data show it."""
    for name, spec in specs.items():
        if name in base.tasks and (difference := first_difference(spec["codec"], base.tasks[name]["codec"])):
            raise ValueError(f"init={init} knows {name} otherwise than these data show it: {difference}; collect them in its "
                             "view (with or without --compact), or train from the start")


def held_out_loss(opened: list[sources.OpenedSource], settings: RunSettings,
                  agent: Agent) -> Callable[[Model], Mapping[str, float]] | None:
    """Mean loss on what the sources hold out, in nats: of all targets, and per source; None where nothing is held out."""
    kept = [source for source in opened if len(source.splits[1].numbers) and source.settings.weight]
    if not kept:
        return None
    mixture: Mixture = sources.build_mixture(kept, settings, agent.vocabulary, agent.text, held_out=True)
    batches, loss = [mixture.batch(number) for number in range(HELD_OUT_BATCHES)], agent_loss(mixture.names)

    def evaluate(model: Model) -> dict[str, float]:
        torch.manual_seed(0)         # for backbones that draw some of the targets
        sums = Sums()
        for batch in batches:
            total, numbers = loss(model, batch)
            sums.add(total, numbers)  # type: ignore[arg-type]
        found = {name: mean for name, mean in sums.numbers.items() if name.startswith(PER_SOURCE) and mean.count}
        return {"loss": sums.loss.value} | {name: mean.value for name, mean in found.items()} if found else {}

    return evaluate
