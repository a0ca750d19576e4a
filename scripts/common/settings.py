"""The config of a training run: everything that `calico train` can be told, in one tree.

    size: small                       # tiny, small, medium, gato-79m, gato-364m, gato-1.18b
    init: calico-small                # or another run: its weights, shape, vocabulary and text pieces instead of random ones
    teacher: runs/large               # a run of the same vocabulary, whose probabilities of actions are learnt, too
    backbone: {context: 1024}         # any field of the size can be changed
    # backbone: perceiver             # or perceiver-ar, data2vec: another kind of the same width and depth
    # backbone: {kind: perceiver, latents: 32}
    data: {sources: [{path: data/CartPole-v1}, {path: data/captions, weight: 2.0}]}
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from calico.agent import checkpoint
from calico.agent.agent import located
from calico.agent.backbones import BackboneConfig
from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.config_json import at_least, from_json
from calico.agent.embedding import EmbeddingConfig
from calico.agent.model import SIZES, ModelConfig, named_size
from calico.agent.training.distillation import DistillationConfig
from calico.agent.training.optimizer import OptimizerConfig
from calico.agent.training.trainer import TrainingConfig
from calico.scripts.common.config import given, load_config
from calico.tokenizers.task import Numbers
from calico.tokenizers.vocabulary import Vocabulary, VocabularyConfig

FORM = ("numbers", "text_every", "titles", "observation_text_loss", "max_text_tokens", "tokenizer")   # how a network sees


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """One data set of the mixture."""

    path: str            # a folder or file: episodes, captions, dialogues or text
    weight: float = 1.0  # share of the batches' rows, relative to the other sources
    images: str = ""     # folder or zip of a manifest's images or sounds; empty: beside it
    max_side: int = 64   # larger images are shrunk to so many pixels: a 64 x 64 one costs 16 tokens
    max_seconds: float = 10.0     # longer sounds are cut: a second costs 25 tokens
    memory: bool | None = None    # a task's steps see those before; null: where pictures or words are observed
    mirror: bool = False          # captioned pictures are mirrored half of the time: few photographs go further
    crop: float = 1.0             # captioned pictures are seen through a frame of at least this share of their sides
    held_out: float = 0.0         # share that is not trained on, by picture, dialogue or episode; `calico evaluate` judges it

    def __post_init__(self) -> None:
        if self.max_side < 1:
            raise ValueError(f"{self.path}: max_side={self.max_side} must be at least 1 pixel")
        if not self.max_seconds >= 0.04:
            raise ValueError(f"{self.path}: max_seconds={self.max_seconds} must be at least 0.04, which is one token")
        if not 0 < self.crop <= 1:
            raise ValueError(f"{self.path}: crop={self.crop} must be a share of the sides: more than 0, at most 1")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"{self.path}: held_out={self.held_out} must be a share: at least 0, less than 1")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What is trained on, and how it is laid into rows."""

    sources: list[SourceSettings] = field(default_factory=list)
    batch_size: int = 8                   # rows per batch
    prompt_probability: float = 0.25      # control rows that begin with another episode of the task (Gato: 0.25)
    observation_text_loss: bool = True    # observed text (missions) is a target, as in the paper
    numbers: Numbers = "binned"           # observed real numbers: a token each, as in the paper, or "vector": 32 in one
    titles: bool = False                  # a task's name stands before its observed text, one piece of the vocabulary
    text_every: int = 1                   # steps after which observed text that stays the same (missions) is written again
    max_text_tokens: int = 64             # longest observed text, and the places of an acted one
    tokenizer: str = ""                   # a SentencePiece model; empty: learnt from the text of the sources
    by_need: bool = False                 # tasks that `init` plays badly, by its latest evaluation, have more rows
    needs: dict[str, float] = field(default_factory=dict)   # task -> number that its sources' weights are multiplied by;
                                          # by_need fills it in
    workers: int = 0                      # processes that prepare batches; 0: the training process does it, which is
                                          # faster where there are only as many cores as threads that train

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise ValueError(f"data.batch_size={self.batch_size} must be at least 1 and workers={self.workers} at least 0")
        if self.max_text_tokens < 1 or self.text_every < 1:
            raise ValueError(f"data.max_text_tokens={self.max_text_tokens} and text_every={self.text_every} must be at least 1")
        if bad := next((task for task, weight in self.needs.items() if not 0 <= weight < math.inf), None):
            raise ValueError(f"data.needs.{bad}={self.needs[bad]:g} must be a finite number of at least 0")


@dataclass(frozen=True, kw_only=True)
class AgentTraining(TrainingConfig):
    """How an agent is trained, and how often it plays meanwhile: a low loss does not say that it plays well."""

    play_every: int = 0          # steps between two looks at some of its tasks in play, in TensorBoard under play/; 0: never
    play_tasks: int = 6          # that are played, evenly chosen from those with reference scores
    play_episodes: int = 2       # of each

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "training.", play_every=0, play_tasks=1, play_episodes=1)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """A training run."""

    out: str = "runs/run"                 # the run's folder: checkpoints, TensorBoard, resolved config
    init: str = ""                        # a run whose network this one starts from, in its shape and vocabulary
    teacher: str = ""                     # a run whose probabilities of the actions are learnt beside the data; its text pieces
                                          # are taken where data.tokenizer names no others
    size: str = "tiny"                    # where backbone and embedding start from
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    backbone: BackboneConfig = field(default_factory=DecoderConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    training: AgentTraining = field(default_factory=AgentTraining)
    data: DataSettings = field(default_factory=DataSettings)

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            named_size(self.size)         # raises with the names that exist

    @property
    def model(self) -> ModelConfig:
        """What agent/ calls it."""
        return ModelConfig(embedding=self.embedding, backbone=self.backbone)


def load_settings(config: str | Path | None, overrides: list[str]) -> RunSettings:
    """Field defaults, then those of `size` for the backbone's kind, then the YAML file, then `key=value`.

    Raises:
        ValueError: an unknown key, a wrong value or a file that cannot be read; see load_config.
    """
    size, kind = (given(config, overrides, key) for key in ("size", "backbone.kind"))
    shape = named_size(str(size or RunSettings.size), kind=str(kind or "decoder"))
    start = RunSettings(embedding=shape.embedding, backbone=shape.backbone)
    settings = load_config(start, config, overrides)
    return like_run(settings, overrides) if settings.init else settings


def like_run(settings: RunSettings, overrides: Sequence[str]) -> RunSettings:
    """The settings with shape, vocabulary and form of the observations of the run that `init` names.

    Raises:
        ValueError: an override asks for another shape or form.
        CheckpointError: there is no such run.
    """
    own = ("size", *(f"data.{name}" for name in FORM))
    for override in overrides:
        key = override.partition("=")[0]
        if key in own or key.partition(".")[0] in ("vocabulary", "embedding", "backbone"):
            raise ValueError(f"init={settings.init} brings its own {key}; leave {override} out, or train from the start")
    saved = checkpoint.load(located(settings.init), only=())
    model: ModelConfig = from_json(ModelConfig, saved.documents["model"])
    tasks: list[dict[str, Any]] = list(saved.documents["tasks"].values())
    codec = tasks[0]["codec"] if tasks else {}
    form = {name: codec[name] for name in FORM if name in codec} | {"titles": bool(codec.get("title"))}
    return replace(settings, embedding=model.embedding, backbone=model.backbone, data=replace(settings.data, **form),
                   vocabulary=Vocabulary.from_json(saved.documents["vocabulary"]).config)


def without_gone(document: dict[str, Any]) -> dict[str, Any]:
    """A saved config without the settings that this version has no more.

    `shuffle_steps` of a source is one: Mixture.check_state refuses to continue runs that used it.
    """
    data = document.get("data")
    if not isinstance(data, dict) or "sources" not in data:
        return document
    sources = [{key: value for key, value in source.items() if key != "shuffle_steps"} for source in data["sources"]]
    return {**document, "data": {**data, "sources": sources}}
