"""A data2vec pre-training run, from its settings to its checkpoints: the work of `calico pretrain`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from calico.agent import checkpoint
from calico.agent.data2vec import encoders
from calico.agent.data2vec.batches import Inputs, text_vocabulary
from calico.agent.data2vec.collapse import CollapseGuard
from calico.agent.data2vec.objective import OBJECTIVES, Data2Vec, Data2VecConfig
from calico.agent.data2vec.pretrained import TOKENIZER_FILE, Modality, encoder_document
from calico.agent.hardware import usable_device
from calico.agent.training.batch_part import Mean, added_up, own_rows, row_counts
from calico.agent.training.optimizer import OptimizerConfig
from calico.agent.training.ranks import ALONE, Ranks, check_same
from calico.agent.training.trainer import Batch, Trainer, TrainingConfig
from calico.datasets.mixture import first_difference
from calico.datasets.publish import digest
from calico.datasets.samples.unlabelled import Unlabelled
from calico.datasets.splits import is_held_out
from calico.datasets.streams import ORDER, shuffled, stream
from calico.datasets.texts import TextReader
from calico.scripts.common.config import config_to_json, given, load_config, save_resolved
from calico.scripts.training import runs
from calico.scripts.training.encoder_data import HELD_OUT, Probe, embed, open_labelled, open_tokens, open_unlabelled
from calico.tokenizers.text import TextTokenizer

FREE = ("out", "data.most_skipped", *runs.LENGTH)      # what a continued run may change
SHOWN = ("target_variance", "prediction_variance", "content_share")     # beside the loss, while it runs

@dataclass(frozen=True, kw_only=True)
class PretrainData:
    paths: list[str] = field(default_factory=list)   # folders, zips, manifests, arrays; see datasets/samples/unlabelled.py
    batch_size: int = 64                             # samples per step
    seconds: float = 10.0                            # longest clip of a sound
    pieces: int = 4000                               # of the text tokenizer that is learnt from the texts
    most_skipped: int = 20                           # samples that cannot be read or used, and are left out

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.seconds <= 0 or self.most_skipped < 0:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1, seconds={self.seconds} positive and "
                             f"most_skipped={self.most_skipped} not negative")


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    out: str = "runs/pretrain"
    modality: Modality = "vision"
    version: Literal[1, 2] = 2                       # of data2vec; where the objective's numbers start from
    data: PretrainData = field(default_factory=PretrainData)
    # the encoder; only the modality's counts. vocab_size, pad and mask of `text` are the tokenizer's
    vision: encoders.VisionEncoderConfig = field(default_factory=encoders.VisionEncoderConfig)
    speech: encoders.SpeechEncoderConfig = field(default_factory=encoders.SpeechEncoderConfig)
    text: encoders.TextEncoderConfig = field(default_factory=encoders.TextEncoderConfig)
    objective: Data2VecConfig = field(default_factory=lambda: OBJECTIVES["vision-v2"])
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(log_every=20, save_every=200))


def load_settings(config: str | Path | None, overrides: list[str]) -> PretrainSettings:
    """Field defaults, then the published objective of modality and version, then the YAML file, then `key=value`.

    Raises:
        ValueError: see load_config.
    """
    start = PretrainSettings()
    modality, version = (given(config, overrides, name) or getattr(start, name) for name in ("modality", "version"))
    objective = OBJECTIVES.get(f"{modality}-v{version}", start.objective)      # of an unknown name, which is refused next
    return load_config(replace(start, objective=objective), config, overrides)


def pretrain(settings: PretrainSettings, probe: str | None = None, label: str = "label", device: str = "cpu",
             data_changed: bool = False) -> Path:
    """`pretrain_ranks` of this process and those that torchrun started with it; see there."""
    with runs.ranks_of_run(str(usable_device(device))) as ranks:
        return pretrain_ranks(settings, probe, label, device, data_changed, ranks)


def pretrain_ranks(settings: PretrainSettings, probe: str | None, label: str, device: str, data_changed: bool,
                   ranks: Ranks) -> Path:
    """Train to the last step, continuing from the run's latest checkpoint if there is one; returns the run's folder.

    Args:
        data_changed: continue though the data are others than when the run began.
        ranks: this process among those that train together; the first one writes and speaks.
    Raises:
        ValueError: data or settings that cannot be used, or that differ from those the run began with.
        CollapseError: the run learns nothing any more.
    """
    run, where = Path(settings.out), usable_device(device)
    rows = ranks.rows(settings.data.batch_size)
    if not settings.data.paths:
        raise ValueError("data.paths is empty; name what to learn from: 'data.paths=[pictures.zip]'")
    torch.manual_seed(settings.training.seed)
    before = runs.saved_config("pretrain", ("config", "encoder", "data"), PretrainSettings)
    with runs.begin_or_continue(run, config_to_json(settings), FREE, before=before, ranks=ranks) as saved:
        text = text_tokenizer(settings, saved) if settings.modality == "text" else None
        encoder = build_encoder(settings, text)
        inputs = Inputs(encoder, text, settings.data.seconds)
        data = open_data(settings, inputs)
        measure = Probe(open_labelled(probe, inputs, label)) if probe else None
        objective = Data2Vec(encoder, settings.objective).to(where)
        guard = CollapseGuard()
        trainer = pretrainer(objective, settings, guard, ranks)
        documents = {"encoder": encoder_document(encoder), "config": config_to_json(settings), "data": data.fingerprint,
                     "order": ORDER}
        if saved is not None:
            if changes := runs.check_same_data(run, saved, ", ".join(settings.data.paths), saved.documents["data"],
                                          data.fingerprint, data_changed):
                documents[runs.CHANGES] = changes
            trainer.restore(saved)
            guard.steps = trainer.step
        if ranks.is_first:
            save_resolved(settings, run / "config.json")
        files = {} if text is None else {TOKENIZER_FILE: text.to_bytes()}
        check_same(ranks, first_difference, data={"fingerprint": data.fingerprint},
                   text={name: digest(list(content)) for name, content in files.items()})
        made = batches(data, inputs, settings)
        evaluate = (lambda model: measure(lambda samples: embed(inputs, samples))) if measure else None
        runs.run_with_progress_bar(trainer, f"pretrain {run.name}", lambda number: own_rows(made(number), rows), run, documents,
                                   files, evaluate=evaluate, shown=SHOWN)
    return run


def pretrainer(objective: Data2Vec, settings: PretrainSettings, guard: CollapseGuard,
               ranks: Ranks = ALONE) -> Trainer[Data2Vec]:
    """The loop around the objective, with the guard that stops a run which collapses; on all ranks in the same step."""
    def loss(model: Data2Vec, batch: Batch) -> tuple[Mean, Mapping[str, Any]]:
        given = [tensor for name, tensor in batch.items() if name != "samples"]
        outcome = model(*given, samples=batch["samples"].tolist())
        guard.check(replace(outcome, loss=added_up(outcome.loss.detach())))
        # Where each picture has equally many targets, the loss of the class token is that of one process as well.
        total = Mean(outcome.loss * outcome.targets, outcome.targets)
        return total, {"targets": Mean(outcome.targets * ranks.size, 1), "target_variance": outcome.target_deviation ** 2,
                       "prediction_variance": outcome.prediction_deviation ** 2,
                       "feature_variance": outcome.feature_deviation ** 2, "content_share": outcome.content_share,
                       "ema_rate": outcome.tau}

    return Trainer(objective, loss, settings.optimizer, settings.training, objective.update_teacher, ranks=ranks,
                   counts=row_counts)


def build_encoder(settings: PretrainSettings, text: TextTokenizer | None) -> encoders.Encoder:
    match settings.modality:
        case "vision":
            return encoders.VisionEncoder(settings.vision)
        case "speech":
            return encoders.SpeechEncoder(settings.speech)
        case "text":
            assert text is not None
            return encoders.TextEncoder(replace(settings.text, **text_vocabulary(text)))


def text_tokenizer(settings: PretrainSettings, saved: checkpoint.Checkpoint | None) -> TextTokenizer:
    """The run's own, or one that is learnt from its texts."""
    if saved is not None and TOKENIZER_FILE in saved.files:
        return TextTokenizer.from_bytes(saved.files[TOKENIZER_FILE])
    reader = TextReader(*settings.data.paths)
    return TextTokenizer.train(reader, settings.data.pieces, seed=settings.training.seed)


def open_data(settings: PretrainSettings, inputs: Inputs) -> Unlabelled:
    """What may be learnt from: without the samples that are held out."""
    if inputs.text is not None:
        found = open_tokens(TextReader(*settings.data.paths), inputs.text, settings.text.max_length)
    else:
        found = open_unlabelled(settings.data.paths, inputs, settings.data.most_skipped)
    learnt = np.flatnonzero(~is_held_out(found.keys, HELD_OUT))
    if not len(learnt):
        raise ValueError(f"all of {len(found)} samples are held out; give more data")
    return found.only(learnt)


def batches(data: Unlabelled, inputs: Inputs, settings: PretrainSettings) -> Callable[[int], Batch]:
    """The batch of a number: each epoch a new order, each time new views."""
    size, seed = settings.data.batch_size, settings.training.seed

    def batch_of(number: int) -> Batch:
        chosen = shuffled(len(data), size, number, seed).tolist()
        made = inputs([data.samples[i] for i in chosen], stream(seed, "views", number))
        return {"samples": torch.tensor(chosen), **{str(i): tensor for i, tensor in enumerate(made)}}

    return batch_of
