"""Hugging Face's Data2Vec checkpoints, read exactly.

    encoder = load_data2vec("data2vec-vision-base")     # VisionEncoder, SpeechEncoder or TextEncoder, in eval mode

Names are translated, query, key and value are stacked, and the embedding of RoBERTa's one token type is added to the
positions. Heads on top of the encoder (pooler, classifiers, the masked-token head) are left out; any other missing or unknown
name is an error.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..hugging_face_folder import read_folder
from . import encoders
from .encoders import Encoder, RelativePositions

Modality = Literal["vision", "speech", "text"]
MODALITIES: dict[str, Modality] = {"data2vec-vision": "vision", "data2vec-audio": "speech", "data2vec-text": "text"}

# The encoder's own name inside a model with a head; heads; tables that are computed here.
PREFIX = re.compile(r"^data2vec_(vision|audio|text)\.")
LEFT_OUT = re.compile(r"^(pooler|classifier|lm_head|qa_outputs|projector|tdnn|objective|layer_weights|decode_head"
                      r"|auxiliary_head|fpn\d)\b|relative_position_index$|position_ids$|token_type_ids$")

# Our name inside a block -> theirs; several are stacked.
BLOCKS: dict[Modality, str] = {"vision": "encoder.layer", "speech": "encoder.layers", "text": "encoder.layer"}
BLOCK: dict[Modality, dict[str, tuple[str, ...]]] = {
    "vision": {
        "qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        "out": ("attention.output.dense",), "norm_attention": ("layernorm_before",),
        "up": ("intermediate.dense",), "down": ("output.dense",), "norm_feedforward": ("layernorm_after",),
    },
    "speech": {
        "qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        "out": ("attention.out_proj",), "norm_attention": ("layer_norm",),
        "up": ("feed_forward.intermediate_dense",), "down": ("feed_forward.output_dense",),
        "norm_feedforward": ("final_layer_norm",),
    },
    "text": {
        "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
        "out": ("attention.output.dense",), "norm_attention": ("attention.output.LayerNorm",),
        "up": ("intermediate.dense",), "down": ("output.dense",), "norm_feedforward": ("output.LayerNorm",),
    },
}


def load_data2vec(folder: Path | str, modality: Modality | None = None) -> Encoder:
    """Build the encoder that a checkpoint describes and fill it.

    Args:
        folder: as `save_pretrained` writes it, in one file or in shards.
        modality: the one that the caller needs; None: any.
    Returns:
        VisionEncoder, SpeechEncoder or TextEncoder in eval mode, fp32.
    Raises:
        ValueError: a file is missing or damaged, or the modality, names, shapes or options do not fit.
    """
    folder = Path(folder)
    config, weights = read_folder(folder)
    found = MODALITIES.get(config.get("model_type", ""))
    if found is None:
        raise ValueError(f"{folder} is a {config.get('model_type')!r} checkpoint, expected one of {', '.join(MODALITIES)}")
    if modality not in (None, found):
        raise ValueError(f"{folder} is a {found} encoder, {modality} was asked for; choose another checkpoint")
    return build_encoder(found, config, weights)


def build_encoder(modality: Modality, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Encoder:
    """The encoder of a Hugging Face config and state dict; errors as load_data2vec's."""
    if config.get("hidden_act", "gelu") != "gelu" or config.get("feat_extract_activation", "gelu") != "gelu":
        raise ValueError(f"the checkpoint's activation {config.get('hidden_act')!r} is not supported, only 'gelu' is")
    left = {PREFIX.sub("", name): tensor.float() for name, tensor in weights.items()}
    left = {name: tensor for name, tensor in left.items() if not LEFT_OUT.search(name)}
    build = {"vision": _vision, "speech": _speech, "text": _text}[modality]
    try:
        encoder, state = build(config, left)
        for i in range(config.get("num_hidden_layers", 12)):
            for ours, names in BLOCK[modality].items():
                _move(left, state, f"transformer.blocks.{i}.{ours}", *(f"{BLOCKS[modality]}.{i}.{name}" for name in names))
    except KeyError as error:
        raise ValueError(f"the {modality} checkpoint has no {error.args[0]!r}; was it written by another program?") from None
    if left:
        raise ValueError(f"the {modality} checkpoint has {len(left)} unknown tensors: {', '.join(sorted(left)[:3])}")
    expected = encoder.state_dict()
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(f"the checkpoint's tensor for {name} is {tuple(tensor.shape)}, its config.json says "
                             f"{tuple(expected[name].shape)}; the two files belong to different models")
    encoder.load_state_dict(state)
    return encoder.eval()


def _vision(config: Mapping[str, Any], left: dict[str, Tensor]) -> tuple[Encoder, dict[str, Tensor]]:
    shared, per_layer = config.get("use_shared_relative_position_bias", False), config.get("use_relative_position_bias", False)
    if shared and per_layer:
        raise ValueError("the checkpoint has shared and per-layer position tables at once; only one of the two is supported")
    relative: RelativePositions = "shared" if shared else "per-layer" if per_layer else "none"
    encoder = encoders.VisionEncoder(encoders.VisionEncoderConfig(
        **_common(config, "hidden_dropout_prob"), drop_path=config.get("drop_path_rate", 0.1),
        channels=config.get("num_channels", 3), patch_size=config.get("patch_size", 16),
        image_size=config.get("image_size", 224),
        absolute_positions=config.get("use_absolute_position_embeddings", False), relative_positions=relative,
        layer_scale=config.get("layer_scale_init_value", 0.1), final_norm=not config.get("use_mean_pooling", True)))
    state = {"class_token": left.pop("embeddings.cls_token").flatten()}
    # a model that was never trained with masks has none; ours starts from zeros, as Hugging Face's does
    state["mask_token"] = left.pop("embeddings.mask_token", torch.zeros(1, 1, encoder.width)).flatten()
    _move(left, state, "patches", "embeddings.patch_embeddings.projection")
    if encoder.config.absolute_positions:
        state["positions"] = left.pop("embeddings.position_embeddings")[0]
    table = "relative_position_bias.relative_position_bias_table"
    for i in range(len(encoder.tables)):
        name = f"encoder.{table}" if shared else f"encoder.layer.{i}.attention.attention.{table}"
        state[f"tables.{i}"] = left.pop(name)
    for i in range(encoder.config.depth):
        left[f"encoder.layer.{i}.attention.attention.key.bias"] = torch.zeros(encoder.width)
        if encoder.config.layer_scale:
            scales = [left.pop(f"encoder.layer.{i}.lambda_{n}") for n in (1, 2)]
            state[f"transformer.blocks.{i}.scales"] = torch.stack(scales)
    if encoder.config.final_norm:
        _move(left, state, "transformer.norm", "layernorm")
    return encoder, state


def _speech(config: Mapping[str, Any], left: dict[str, Tensor]) -> tuple[Encoder, dict[str, Tensor]]:
    if config.get("add_adapter"):
        raise ValueError("the checkpoint has an adapter on top of the encoder (add_adapter), which is not supported")
    default = encoders.SpeechEncoderConfig()
    encoder = encoders.SpeechEncoder(encoders.SpeechEncoderConfig(
        **_common(config, "hidden_dropout"),
        conv_channels=tuple(config.get("conv_dim", default.conv_channels)),
        conv_kernels=tuple(config.get("conv_kernel", default.conv_kernels)),
        conv_strides=tuple(config.get("conv_stride", default.conv_strides)),
        conv_bias=config.get("conv_bias", False),
        position_layers=config.get("num_conv_pos_embeddings", default.position_layers),
        position_kernel=config.get("conv_pos_kernel_size", default.position_kernel),
        position_groups=config.get("num_conv_pos_embedding_groups", default.position_groups)))
    # absent where masking in time is switched off; the vector is then unused
    state = {"mask_token": left.pop("masked_spec_embed", encoder.mask_token.detach())}
    for i in range(len(encoder.convs)):
        _move(left, state, f"convs.{i}", f"feature_extractor.conv_layers.{i}.conv", bias=encoder.config.conv_bias)
        _move(left, state, f"conv_norms.{i}", f"feature_extractor.conv_layers.{i}.layer_norm")
    _move(left, state, "projection_norm", "feature_projection.layer_norm")
    _move(left, state, "projection", "feature_projection.projection")
    for i in range(len(encoder.position_convs)):
        _move(left, state, f"position_convs.{i}", f"encoder.pos_conv_embed.layers.{i}.conv")
    _move(left, state, "norm", "encoder.layer_norm")
    return encoder, state


def _text(config: Mapping[str, Any], left: dict[str, Tensor]) -> tuple[Encoder, dict[str, Tensor]]:
    pad, vocab_size = config.get("pad_token_id", 1), config.get("vocab_size", 30_522)
    encoder = encoders.TextEncoder(encoders.TextEncoderConfig(
        **_common(config, "hidden_dropout_prob"), vocab_size=vocab_size, pad=pad,
        max_length=config.get("max_position_embeddings", 512) - pad - 1,
        mask=vocab_size - 1))   # RoBERTa's <mask> is the last id; config.json does not say
    types = left.pop("embeddings.token_type_embeddings.weight")
    state = {"table.weight": left.pop("embeddings.word_embeddings.weight"),
             "positions.weight": left.pop("embeddings.position_embeddings.weight") + types[0]}
    _move(left, state, "norm", "embeddings.LayerNorm")
    return encoder, state


def _common(config: Mapping[str, Any], dropout: str) -> dict[str, Any]:
    """What TransformerConfig needs; transformers leaves out of config.json what equals its defaults."""
    return {
        "width": config.get("hidden_size", 768),
        "depth": config.get("num_hidden_layers", 12),
        "heads": config.get("num_attention_heads", 12),
        "feedforward": config.get("intermediate_size", 3072),
        "epsilon": config.get("layer_norm_eps", 1e-5 if config.get("model_type") == "data2vec-audio" else 1e-12),
        "dropout": config.get(dropout, 0.0),
    }


def _move(left: dict[str, Tensor], state: dict[str, Tensor], ours: str, *theirs: str, bias: bool = True) -> None:
    """One layer's weight and bias."""
    for kind in ("weight", "bias") if bias else ("weight",):
        state[f"{ours}.{kind}"] = torch.cat([left.pop(f"{name}.{kind}") for name in theirs])
