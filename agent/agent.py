"""Agent: a network with its vocabulary, its text tokenizer and the specs of its tasks.

A checkpoint holds all of it, so a run folder alone rebuilds the agent; nothing is guessed from the installed packages.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..tokenizers.spelling import did_you_mean, nearest
from ..tokenizers.task import TaskCodec
from ..tokenizers.text import TextTokenizer
from ..tokenizers.tokens import Tokens
from ..tokenizers.vocabulary import Vocabulary
from . import checkpoint
from .config_json import from_json, to_json
from .data2vec.pretrained import build_encoder
from .front_end import load_encoders
from .hardware import Precision, usable_device
from .model import Model, ModelConfig
from .policy import AgentPolicy
from .sampling import SamplingConfig

TOKENIZER_FILE = "tokenizer.model"
NAMED = 3                 # of the nearest tasks, in an error
ACTING = "acting"         # document of a checkpoint: {"temperature": ...}, at which it was found to play best

# Checkpoints that come with the package, by name: folders like any other checkpoint's, with weights in bf16.
COMES_WITH_CALICO = ("calico-small",)      # each release has it; a copy of the repository alone may not
SHIPPED = {path.parent.name: path.parent for path in (Path(__file__).parent / "shipped").glob(f"*/{checkpoint.MANIFEST}")}


@dataclass(frozen=True)
class Agent:
    """One network, one set of weights.

    Attributes:
        text: its SentencePiece model.
        tasks: task name -> its entry in the checkpoint: "codec" (TaskCodec.to_json) and the description in its data (package
            versions, wrappers, expert, scores).
        about: other facts in the checkpoint: step, tokens read in training, package versions, `temperature` of its actions.
    """

    model: Model
    vocabulary: Vocabulary
    text: TextTokenizer
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def build(config: ModelConfig, vocabulary: Vocabulary, text: TextTokenizer,
              tasks: Mapping[str, Mapping[str, Any]], *, seed: int = 0, device: str = "cpu") -> "Agent":
        """A new agent with random weights, drawn from `seed`, and the weights of its pre-trained encoders (front_end.py).
        Raises ValueError where there is no such device, or an encoder does not fit."""
        where = usable_device(device)
        encoders = load_encoders(config.embedding.front_ends, text)
        torch.manual_seed(seed)
        return Agent(Model(config, vocabulary, encoders).to(where), vocabulary, text, tasks)

    @staticmethod
    def load(path: Path | str, device: str = "cpu") -> "Agent":
        """Rebuild an agent from a run folder, one of its checkpoints or the name of a shipped one (SHIPPED). Raises
        CheckpointError where there is none, or where a file, which is named, is damaged."""
        return Agent.from_checkpoint(checkpoint.load(located(path), only=("model",)), device)

    @staticmethod
    def from_checkpoint(saved: "checkpoint.Checkpoint", device: str = "cpu") -> "Agent":
        """Rebuild an agent from a checkpoint that is in memory.

        Raises:
            checkpoint.CheckpointError: the checkpoint holds something else, or an agent of another version.
            ValueError: there is no such device.
        """
        where = usable_device(device)
        try:
            config: ModelConfig = from_json(ModelConfig, saved.documents["model"])
            vocabulary = Vocabulary.from_json(saved.documents["vocabulary"])
            text = TextTokenizer.from_bytes(saved.files[TOKENIZER_FILE])
            weights, tasks = saved.tensors["model"], saved.documents["tasks"]
            checkpoint.check_layers(saved.documents["model"], len(weights))
            with torch.device("meta"):
                encoders = {name: build_encoder(document) for name, document in saved.documents.get("encoders", {}).items()}
                model = Model(config, vocabulary, encoders)
            checkpoint.check_shapes(model, weights)
            model = model.to_empty(device="cpu")
            model.load_state_dict(weights)
            check_tasks(tasks)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as error:
            writer = saved.versions.get("calico-agent", "unknown")
            raise checkpoint.CheckpointError(f"{saved.path} holds no agent that this Calico can rebuild ({error!r}); it was "
                                             f"written by calico-agent {writer}") from error
        about = {**saved.documents.get("state", {}), **saved.documents.get(ACTING, {}), "versions": saved.versions}
        return Agent(model.to(where).eval(), vocabulary, text, tasks, about)

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits over the weights, which identify the network independently of its checkpoint's path."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def documents(self) -> dict[str, Any]:
        """The JSON documents of a checkpoint; see Trainer.save."""
        return {"model": to_json(self.model.config), "vocabulary": self.vocabulary.to_json(), "tasks": dict(self.tasks),
                "encoders": self.model.embedding.encoder_documents()}

    def files(self) -> dict[str, bytes]:
        """The binary files of a checkpoint."""
        return {TOKENIZER_FILE: self.text.to_bytes()}

    def codec(self, task: str) -> TaskCodec:
        """How this agent turns the task's values into tokens. Raises ValueError where it was not trained on the task."""
        if task not in self.tasks:
            near = ", ".join(nearest(task, self.tasks, count=NAMED, cutoff=0.0))
            hint = did_you_mean(task, self.tasks,
                                otherwise=f"; nearest of its {len(self.tasks)}: {near}" if near else "; it knows none")
            raise ValueError(f"this checkpoint has no spec for the task {task!r}{hint}; `calico improve RUN {task} --out NEW` "
                             "teaches it, where the task has an expert")
        return TaskCodec.from_json(self.tasks[task]["codec"], self.vocabulary, self.text)

    @property
    def temperature(self) -> float:
        """Of its actions, unless somebody asks for another one."""
        return float(self.about.get("temperature", SamplingConfig().temperature))

    def policy(self, task: str, sampling: SamplingConfig | None = None, *, prompt: Tokens | None = None,
               precision: Precision = "auto") -> AgentPolicy:
        """Play a task; see AgentPolicy. sampling: default: at its own temperature."""
        sampling = sampling or SamplingConfig(temperature=self.temperature)
        return AgentPolicy(self.model, self.codec(task), sampling, prompt=prompt, precision=precision)


def check_tasks(tasks: Any) -> None:
    """Raise ValueError unless a checkpoint's tasks are objects with a codec each."""
    if not isinstance(tasks, Mapping) or not all(isinstance(task, Mapping) and "codec" in task for task in tasks.values()):
        raise ValueError("its tasks are no objects with a codec each")


def located(run: Path | str) -> Path:
    """The folder of a run: of a shipped one by its name, unless there is a folder of that name here.

    Raises:
        CheckpointError: one that comes with the package, but not with this copy of it.
    """
    if Path(run).exists():
        return Path(run)
    if str(run) in COMES_WITH_CALICO and str(run) not in SHIPPED:
        raise checkpoint.CheckpointError(f"{run}, the network that comes with Calico, is not in this installation; install a "
                                         "release (pip install --upgrade calico-agent), or name a run, such as runs/demo")
    return SHIPPED.get(str(run), Path(run))
