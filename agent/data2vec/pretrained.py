"""Loading a pre-trained encoder from a run of `calico pretrain` or `calico finetune`, or from a Hugging Face Data2Vec folder.

    encoder = load_encoder("runs/pictures", "vision")           # VisionEncoder in eval mode: the student
    encoder.encode(encoder.features(pixels)).hidden             # pixels: float (B, 3, height, width) in [-1, 1]

batches.py prepares the inputs of each modality. The checkpoint's document "encoder" has the configuration; the weights are the
tensors of "model" whose names begin with `encoder.`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...tokenizers.text import TextTokenizer
from .. import checkpoint
from ..config_json import from_json, to_json
from ..hugging_face_folder import is_hugging_face
from . import encoders
from .encoders import Encoder
from .hugging_face import Modality, load_data2vec

TOKENIZER_FILE = "tokenizer.model"
ENCODERS: dict[Modality, tuple[type, type[Encoder]]] = {
    "vision": (encoders.VisionEncoderConfig, encoders.VisionEncoder),
    "speech": (encoders.SpeechEncoderConfig, encoders.SpeechEncoder),
    "text": (encoders.TextEncoderConfig, encoders.TextEncoder)}


@dataclass(frozen=True)
class Pretrained:
    """An encoder and what belongs to it.

    Attributes:
        encoder: in eval mode, fp32, on the CPU.
        text: the tokenizer of a text encoder that was pre-trained here, else None.
        source: the checkpoint's folder.
    """

    encoder: Encoder
    modality: Modality
    text: TextTokenizer | None
    source: Path


def load_encoder(folder: Path | str, modality: Modality | None = None) -> Encoder:
    """The encoder alone; see load_pretrained."""
    return load_pretrained(folder, modality).encoder


def load_pretrained(folder: Path | str, modality: Modality | None = None) -> Pretrained:
    """Read an encoder.

    Args:
        folder: a run's folder (its latest checkpoint), one checkpoint's, or one that `save_pretrained` wrote.
        modality: the one that the caller needs; None: any.
    Raises:
        checkpoint.CheckpointError: nothing there, a damaged file, or a checkpoint of something else.
        ValueError: an encoder of another modality, or as load_data2vec.
    """
    folder = checkpoint.here(folder)
    if is_hugging_face(folder):
        encoder = load_data2vec(folder, modality)
        return Pretrained(encoder, modality_of(encoder), None, folder)
    saved = checkpoint.load(folder, only=("model",))
    if "encoder" not in saved.documents:
        raise checkpoint.CheckpointError(f"{saved.path} holds no pre-trained encoder; give a run of `calico pretrain` or "
                                         "`calico finetune`, or a Data2Vec folder of Hugging Face's")
    try:
        weights = {name.removeprefix("encoder."): tensor for name, tensor in saved.tensors["model"].items()
                   if name.startswith("encoder.")}
        checkpoint.check_layers(saved.documents["encoder"], len(weights))
        with torch.device("meta"):
            checkpoint.check_shapes(build_encoder(saved.documents["encoder"]), weights)
        encoder = build_encoder(saved.documents["encoder"])
        encoder.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise checkpoint.CheckpointError(f"{saved.path} holds no encoder that this Calico can rebuild ({error!r}); it was "
                                         f"written by calico-agent {saved.versions.get('calico-agent', 'unknown')}") from error
    found = modality_of(encoder)
    if modality not in (None, found):
        raise ValueError(f"{saved.path} holds a {found} encoder, {modality} was asked for; choose another run")
    text = TextTokenizer.from_bytes(saved.files[TOKENIZER_FILE]) if TOKENIZER_FILE in saved.files else None
    return Pretrained(encoder.eval(), found, text, saved.path)


def encoder_document(encoder: Encoder) -> dict[str, Any]:
    """What `build_encoder` needs, as JSON."""
    return {"modality": modality_of(encoder), "config": to_json(encoder.config)}


def build_encoder(document: Mapping[str, Any]) -> Encoder:
    """A fresh encoder of the same shape. Raises KeyError or ValueError where the document is another one's."""
    config, encoder = ENCODERS[document["modality"]]
    return encoder(from_json(config, document["config"]))


def modality_of(encoder: Encoder) -> Modality:
    """What an encoder reads. Raises KeyError for one that is not among ENCODERS."""
    return {kind: modality for modality, (_, kind) in ENCODERS.items()}[type(encoder)]
