"""`calico bench perceiver-scores TASK DATA [key=value ...]`: scores of other libraries' Perceivers.

    calico bench perceiver-scores classify-image cifar10.zip training.minutes=4
    calico bench perceiver-scores classify-audio sounds.jsonl label=digit training.minutes=0.5 --json

Calico and each installed library with such a model train one after another for `training.minutes`: with the same samples,
preparation, augmentation, optimiser, schedule, EMA of the weights and held-out fifth, and as many latents of the same width and
layers. The rest is each library's own: `transformers`, `perceiver-pytorch` and `perceiver-io` (from its source).
Settings are those of `calico perceive TASK train`. Run it with one thread on a quiet machine.
"""

import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calico.agent.perceiver.inputs import ImageConfig, PatchesConfig, TextConfig, build_reader
from calico.agent.perceiver.tasks import Classifier, ClassifierConfig, LanguageConfig, MaskedLanguage
from calico.scripts.benchmarks.perceiver import krasserm_classifier
from calico.scripts.common import console
from calico.scripts.perceiver_tasks import classify, fill_mask
from calico.scripts.perceiver_tasks.classify import KINDS
from calico.scripts.perceiver_tasks.training import load_task_settings, training_parser

FILL_MASK = "fill-mask"
BYTES = 262                     # ids of the released models: bytes and six special ids
STEM = 4                        # pixels a side of an element of Calico's small picture models
FIGURES = ("accuracy", "bits_per_byte", "steps", "core_minutes", "parameters")     # of the reports, where they have them
Config = ClassifierConfig | LanguageConfig


def main(argv: Sequence[str]) -> int:
    parser = console.make_parser("bench perceiver-scores", __doc__)
    parser.add_argument("task", choices=[*KINDS, FILL_MASK])
    parser.add_argument("more", nargs="*", metavar="DATA ...", help="as in `calico perceive TASK train`")
    task = parser.parse_args(argv[:1]).task
    fit: Any = fill_mask.fit if task == FILL_MASK else classify.fit
    with tempfile.TemporaryDirectory() as folder:
        defaults = fill_mask.LanguageSettings() if task == FILL_MASK else KINDS[task].settings
        arguments = training_parser(task, __doc__ or "", defaults).parse_args([*argv[1:], "--out", folder])
        settings = load_task_settings(defaults, [*arguments.overrides, "training.steps=1000000"])     # the clock ends each run
        if settings.training.minutes <= 0:
            raise ValueError("training.minutes is missing; say how long each library may train")
        device = console.chosen_device(arguments.device)
        reports: dict[str, dict[str, Any]] = {
            name: fit(task, arguments.data, settings, Path(folder) / name, device, network)
            for name, network in networks(task).items()}
    figures = [figure for figure in FIGURES if figure in reports["calico"]]
    found = {name: {figure: report[figure] for figure in figures} for name, report in reports.items()}
    console.print_result(found, arguments.json, ("library", *figures), [[name, *row.values()] for name, row in found.items()])
    return 0


def networks(task: str) -> dict[str, Callable[[Any], nn.Module]]:
    """Calico's and those of the libraries that are installed and have one for the task."""
    found: dict[str, Callable[[Any], nn.Module]] = {"calico": MaskedLanguage if task == FILL_MASK else Classifier}
    for name, package, peer, tasks in (
            ("transformers", "transformers", TransformersPerceiver, ("classify-image", "classify-text", FILL_MASK)),
            ("perceiver-pytorch", "perceiver_pytorch", PerceiverPytorch, tuple(KINDS)),
            ("perceiver-io", "perceiver", PerceiverIO, ("classify-image",))):
        if task in tasks and find_spec(package):
            found[name] = peer
        elif task in tasks:
            console.note(f"{package} is not installed and is left out")
    return found


class TransformersPerceiver(nn.Module):
    """Hugging Face's: the classifier with convolutions for pictures, the one of bytes for texts, the masked language model."""

    def __init__(self, config: Config) -> None:
        import transformers

        super().__init__()
        self.config, latent = config, config.latent
        reader = config.text if isinstance(config, LanguageConfig) else config.reader
        sizes: dict[str, Any] = {
            "num_latents": latent.latents, "d_latents": latent.width, "num_blocks": 1,
            "num_self_attends_per_block": latent.layers, "num_self_attention_heads": latent.heads,
            "num_cross_attention_heads": latent.cross_heads, "self_attention_widening_factor": latent.widening,
            "attention_probs_dropout_prob": 0.0}
        if isinstance(reader, TextConfig):
            sizes |= {"d_model": reader.width, "max_position_embeddings": reader.positions}
        if isinstance(config, LanguageConfig):
            made: Any = transformers.PerceiverForMaskedLM
        else:
            sizes["num_labels"] = config.labels
            made = transformers.PerceiverForSequenceClassification if isinstance(reader, TextConfig) else (
                transformers.PerceiverForImageClassificationConvProcessing)
        self.model = made(transformers.PerceiverConfig(**sizes))

    def forward(self, inputs: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Scores (B, labels), or of bytes at positions (B, Q): (B, Q, BYTES). It decodes every position."""
        scores = self.model(inputs=inputs, attention_mask=None if mask is None else mask.long()).logits
        return scores if positions is None else scores.gather(1, positions[..., None].expand(-1, -1, scores.shape[2]))


class PerceiverPytorch(nn.Module):
    """lucidrains' Perceiver, which reads the input twice; for texts its Perceiver IO.

    It reads pictures itself. Texts are embedded for it, byte by byte, and sounds and point clouds read as Calico reads them.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        import perceiver_pytorch

        super().__init__()
        self.config, self.reader = config, None
        latent, reader = config.latent, config.reader
        sizes = {"num_latents": latent.latents, "latent_dim": latent.width, "latent_heads": latent.heads,
                 "latent_dim_head": latent.width // latent.heads}
        match reader:
            case TextConfig():
                self.table, self.positions = nn.Embedding(BYTES, reader.width), nn.Embedding(reader.positions, reader.width)
                self.query = nn.Parameter(0.02 * torch.randn(1, latent.width))
                self.model = perceiver_pytorch.PerceiverIO(depth=latent.layers, dim=reader.width, queries_dim=latent.width,
                                                           logits_dim=config.labels, **sizes)
                return
            case ImageConfig() | PatchesConfig():
                shape: dict[str, Any] = {"input_axis": 2, "input_channels": 3, "num_freq_bands": 6, "max_freq": 10.0}
            case _:
                self.reader = build_reader(reader)
                shape = {"input_axis": 1, "input_channels": self.reader.channels, "fourier_encode_data": False,
                         "num_freq_bands": 0, "max_freq": 0.0}
        self.model = perceiver_pytorch.Perceiver(depth=2, self_per_cross_attn=max(1, latent.layers // 2),
                                                 num_classes=config.labels, **shape, **sizes)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores (B, labels)."""
        if isinstance(self.config.reader, TextConfig):
            positions = torch.arange(inputs.shape[1], device=inputs.device)
            return self.model(self.table(inputs) + self.positions(positions), mask=mask, queries=self.query)[:, 0]
        return self.model(inputs.permute(0, 2, 3, 1) if self.reader is None else self.reader(inputs))


class PerceiverIO(nn.Module):
    """krasserm's picture classifier, over every pixel."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        assert isinstance(config.reader, ImageConfig)
        self.config = config
        self.model = krasserm_classifier(STEM * config.reader.size[0], 32, config.latent, config.labels)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores (B, labels)."""
        return self.model(inputs.permute(0, 2, 3, 1).contiguous())
