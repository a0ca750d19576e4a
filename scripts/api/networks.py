"""Perceivers and data2vec encoders as plain torch modules: of a published or a small size, or with trained weights.

    model = calico.perceiver("deepmind/vision-perceiver-learned")     # Hugging Face's weights by name, or a run's folder
    model(pictures)                                                   # logits (batch, classes)
    calico.features(model, pictures)                                  # latents (batch, latents, width)

    encoder = calico.data2vec("runs/pictures")                        # or "vision", with random weights
    calico.features(encoder, pictures)                                # (batch, positions, width)
"""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from calico.agent import checkpoint
from calico.agent.data2vec import pretrained
from calico.agent.data2vec.encoders import Encoder
from calico.agent.data2vec.hugging_face import Modality
from calico.agent.perceiver import runs, sizes
from calico.agent.perceiver.tasks import TaskConfig, TaskModel, build
from calico.datasets.formats.hub import hub_name
from calico.tokenizers.spelling import did_you_mean

TASKS = ("classify-text", "classify-image", "classify-audio", "classify-points", "fill-mask", "flow", "autoencode")
SIZES: dict[str, TaskConfig] = {
    **sizes.SIZES, "small-flow": sizes.SMALL_FLOW, "small-autoencode": sizes.SMALL_AUTOENCODER,
    "small-fill-mask": sizes.SMALL_LANGUAGE,
    **{f"small-{task}-{reader}": config for task, readers in sizes.SMALL.items() for reader, config in readers.items()}}


def perceiver(which: str | Path, *, device: str = "cpu") -> TaskModel:
    """A Perceiver.

    Args:
        which: one of SIZES, with random weights; the folder of a run of `calico perceive` or of a Hugging Face checkpoint; or
            "owner/name[@revision]" of the Hub, where there is no such folder.
    Returns:
        a module in evaluation mode: a Classifier, MaskedLanguage, Flow or Autoencoder of agent/perceiver/tasks.py, whose
        `forward` says what goes in and comes out.
    Raises:
        ValueError: none of these, a damaged file, or no such device.
    """
    if str(which) in SIZES and not Path(which).exists():
        return build(SIZES[str(which)]).to(device).eval()
    return runs.load_trained(_folder(which, [*SIZES]), TASKS, device).model


def data2vec(which: str | Path, modality: Modality | None = None, *, device: str = "cpu", **settings: Any) -> Encoder:
    """A data2vec encoder.

    Args:
        which: "vision", "speech" or "text", with random weights; the folder of a run of `calico pretrain` or `finetune` or of
            a Hugging Face Data2Vec checkpoint; or "owner/name[@revision]" of the Hub, where there is no such folder.
        modality: the one that is needed; None: any.
        settings: fields of the configuration where the weights are random, such as width=192, depth=6.
    Returns:
        a module in evaluation mode; its `forward` gives an `Encoded` (hidden states of every layer).
    Raises:
        ValueError: none of these, settings that do not exist, an encoder of another modality, or a damaged file.
    """
    if str(which) in pretrained.ENCODERS and not Path(which).exists():
        config, encoder = pretrained.ENCODERS[which]   # type: ignore[index]
        try:
            return encoder(config(**settings)).to(device).eval()
        except TypeError as error:
            raise ValueError(f"data2vec({which!r}): {error}; see {config.__module__.replace('.', '/')}.py") from error
    if settings:
        raise ValueError(f"{which} brings its own {', '.join(settings)}; settings are for random weights: "
                         f"{', '.join(pretrained.ENCODERS)}")
    return pretrained.load_encoder(_folder(which, [*pretrained.ENCODERS]), modality).to(device)


def features(model: nn.Module, *inputs: Any, **named: Any) -> Tensor:
    """What a Perceiver or an encoder makes of its inputs before any head.

    Args:
        model: what `perceiver` or `data2vec` gives.
        inputs, named: of its `forward`.
    Returns:
        a Perceiver's latents (batch, latents, width), or an encoder's hidden states (batch, positions, width).
    Raises:
        ValueError: a model of another kind.
    """
    if isinstance(model, Encoder):
        return model(*inputs, **named).hidden
    inner = getattr(model, "encoder", None)
    if not isinstance(inner, nn.Module):
        raise ValueError(f"a {type(model).__name__} has no features; give what calico.perceiver or calico.data2vec made")
    seen: list[Tensor] = []
    hook = inner.register_forward_hook(lambda module, given, out: seen.append(out))
    try:
        model(*inputs, **named)
    finally:
        hook.remove()
    return seen[0]


def _folder(which: str | Path, names: list[str]) -> Path:
    """The folder that is meant, downloaded if it is one of the Hub's."""
    if name := hub_name(which):
        return checkpoint.hub_folder(*name)
    if not Path(which).exists():
        raise ValueError(f"{which} does not exist{did_you_mean(str(which), names)}; give a folder, owner/name of the Hugging "
                         f"Face Hub, or one of {', '.join(names)}")
    return Path(which)
