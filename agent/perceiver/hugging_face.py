"""Hugging Face's Perceiver checkpoints with any of their seven heads, read exactly.

The head follows from the names of the tensors, the sizes from config.json. Tensors that are missing, left over or of another
shape are an error that names them. Attention dropout is not carried over: the papers train without.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..hugging_face_folder import read_folder, read_object
from .inputs import ImageConfig, LearnedPixels, TextConfig
from .layers import Gelu, LatentConfig
from .samples import CroppedPictureInput, PictureInput
from .sizes import on_meta
from .tasks import (
    AutoencoderConfig,
    Classifier,
    ClassifierConfig,
    FlowConfig,
    LanguageConfig,
    MaskedLanguage,
    TaskConfig,
    TaskModel,
)

READER = "perceiver.input_preprocessor."
HEADS = {   # a tensor that only this head and those above it have
    "MaskedLM": "embedding_decoder.bias",
    "SequenceClassification": READER + "embeddings.weight",
    "ImageClassificationLearned": READER + "convnet_1x1.weight",
    "ImageClassificationConvProcessing": READER + "convnet.conv.weight",
    "OpticalFlow": READER + "conv_after_patches.weight",
    "MultimodalAutoencoding": READER + "padding.audio",
    "ImageClassificationFourier": "perceiver.decoder.decoder.final_layer.weight",
}

# configuration_perceiver.py of transformers: config.json may leave out what is not changed
DEFAULTS: dict[str, Any] = {
    "num_latents": 256, "d_latents": 1280, "d_model": 768, "num_blocks": 1, "num_self_attends_per_block": 26,
    "num_self_attention_heads": 8, "num_cross_attention_heads": 8, "qk_channels": None, "v_channels": None,
    "cross_attention_shape_for_attention": "kv", "self_attention_widening_factor": 1, "cross_attention_widening_factor": 1,
    "hidden_act": "gelu", "use_query_residual": True, "vocab_size": 262, "max_position_embeddings": 2048, "image_size": 56,
    "train_size": (368, 496), "num_frames": 16, "audio_samples_per_frame": 1920, "samples_per_patch": 16,
    "output_shape": (1, 16, 224, 224), "output_num_channels": 512, "_label_trainable_num_channels": 1024,
}
GELUS: dict[str, Gelu] = {"gelu": "none", "gelu_python": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


def load_hf(source: Path | str | Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> TaskModel:
    """A model with published weights, in evaluation mode and fp32.

    Args:
        source: a folder (see hugging_face_folder.py), or a state dict.
        config: contents of config.json, with a state dict; a folder has its own.
    Raises:
        ValueError: files are missing or are pickles, the checkpoint is of another class, or tensors do not fit.
    """
    if isinstance(source, Mapping):
        if config is None:
            raise ValueError("a state dict came without its config; give config= the contents of the checkpoint's config.json")
        tensors = source
    else:
        config, tensors = read_folder(Path(source))
    model = on_meta(translate_config(config, tensors))
    model.load_state_dict(_translate_tensors(model, tensors), assign=True)
    return model.eval()


def class_names(config: Mapping[str, Any]) -> list[str]:
    """The classes in config.json, in the order of the logits; transformers omits its default names of two classes."""
    names = config.get("id2label") or {i: f"LABEL_{i}" for i in range(config.get("num_labels", 2))}
    return [str(name) for _, name in sorted(names.items(), key=lambda pair: int(pair[0]))]


def copy_trunk(source: TaskModel, target: TaskModel) -> None:
    """Copy the input module and the encoder of `source` into `target`, to fine-tune them under a new head. Raises
    ValueError, and copies nothing, where they are of different sizes."""
    trunk = {name: tensor for name, tensor in source.state_dict().items() if name.startswith(("reader.", "encoder."))}
    wanted = {name: tensor for name, tensor in target.state_dict().items() if name.startswith(("reader.", "encoder."))}
    for name in sorted(trunk.keys() | wanted.keys()):
        came, expected = (tuple(t[name].shape) if name in t else "absent" for t in (trunk, wanted))
        if came != expected:
            raise ValueError(f"{name} is {came} in the source and {expected} in the target; "
                             "build the target with the source's config.latent and its reader's config")
    target.load_state_dict(trunk, strict=False)


def translate_config(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TaskConfig:
    """config.json of a checkpoint with these tensors -> our configuration, as Hugging Face computes it."""
    if config.get("model_type", "perceiver") != "perceiver":
        raise ValueError(f"this checkpoint is of type {config['model_type']!r}, not 'perceiver'; give another folder")
    head = next((head for head, name in HEADS.items() if name in tensors), None)
    if head is None:
        known = config.get("architectures") or "class unknown"
        raise ValueError(f"no head of a Perceiver among {len(tensors)} tensors ({known}); "
                         f"PerceiverFor{', '.join(HEADS)} can be read")
    c = DEFAULTS | {key: value for key, value in config.items() if key in DEFAULTS}
    if c["hidden_act"] not in GELUS:
        raise ValueError(f"hidden_act={c['hidden_act']!r} is not supported; one of {', '.join(GELUS)} is")
    latent = LatentConfig(
        latents=c["num_latents"], width=c["d_latents"], blocks=c["num_blocks"], layers=c["num_self_attends_per_block"],
        heads=c["num_self_attention_heads"], cross_heads=c["num_cross_attention_heads"], qk_channels=c["qk_channels"],
        v_channels=c["v_channels"], cross_shape=c["cross_attention_shape_for_attention"],
        widening=c["self_attention_widening_factor"], cross_widening=c["cross_attention_widening_factor"],
        query_residual=c["use_query_residual"], gelu=GELUS[c["hidden_act"]])
    return _translate_head(head, c, latent, labels=len(class_names(config)))


def _translate_head(head: str, c: Mapping[str, Any], latent: LatentConfig, labels: int) -> TaskConfig:
    text = TextConfig(vocab_size=c["vocab_size"], positions=c["max_position_embeddings"], width=c["d_model"])
    match head:
        case "MaskedLM":
            return LanguageConfig(latent=latent, text=text)
        case "SequenceClassification":
            return ClassifierConfig(latent=latent, reader=text, labels=labels)
        case "ImageClassificationLearned":
            reader = ImageConfig(kind="conv1x1", size=(c["image_size"], c["image_size"]))
        case "ImageClassificationFourier":
            reader = ImageConfig(kind="pixels", size=(224, 224))    # whatever the image_size
        case "ImageClassificationConvProcessing":
            reader = ImageConfig(kind="conv", size=(56, 56))
        case "OpticalFlow":
            return FlowConfig(latent=latent, size=tuple(c["train_size"]))
        case _:
            frames, *size = c["output_shape"][1:]
            if frames != c["num_frames"]:
                raise ValueError(f"output_shape={tuple(c['output_shape'])} has {frames} frames and num_frames is "
                                 f"{c['num_frames']}; they must be the same")
            return AutoencoderConfig(
                latent=latent, frames=frames, size=(size[0], size[1]), resolution=(c["image_size"], c["image_size"]),
                samples_per_frame=c["audio_samples_per_frame"], patch=c["samples_per_patch"], labels=labels,
                channels=c["output_num_channels"], label_channels=c["_label_trainable_num_channels"], label_mask_prob=1.0)
    return ClassifierConfig(latent=latent, reader=reader, labels=labels)


# ---- images ----------------------------------------------------------------------------------------------------------------

# image_processing_perceiver.py of transformers; preprocessor_config.json may leave out what is not changed
PROCESSOR: dict[str, Any] = {
    "do_center_crop": True, "do_resize": True, "do_rescale": True, "do_normalize": True, "size": 224, "crop_size": 256,
    "resample": 3, "rescale_factor": 1 / 255, "image_mean": PictureInput.mean, "image_std": PictureInput.std,
}


def picture_input(folder: Path, reader: ImageConfig) -> CroppedPictureInput:
    """How the checkpoint's own image processor prepares pictures: preprocessor_config.json.

    Where there is none: transformers' defaults, at the size of the model's learned positions if it has such.

    Raises:
        ValueError: the file is damaged, or its settings are not supported.
    """
    path = folder / "preprocessor_config.json"
    learned = {"size": reader.size[0], "crop_size": reader.size[0] * 256 / 224} if reader.kind == "conv1x1" else {}
    given = read_object(path) if path.is_file() else learned
    c = PROCESSOR | {key: value for key, value in given.items() if key in PROCESSOR and value is not None}
    try:
        side, cropped = int(_side(c["size"])), _side(c["crop_size"])
        scale = 255 * c["rescale_factor"] if c["do_rescale"] else 255.0        # of pixels in [0, 1]
        mean, std = (c["image_mean"], c["image_std"]) if c["do_normalize"] else ((0.0,) * 3, (1.0,) * 3)
        (m0, m1, m2), (s0, s1, s2) = mean, std
        if not c["do_resize"] or not 0 < side <= cropped:
            raise ValueError(f"do_resize={c['do_resize']}, size={side}, crop_size={cropped}: pictures resized to a size of at "
                             "most crop_size were expected")
        return CroppedPictureInput(
            side=side, shift=side // 8, crop=side / cropped if c["do_center_crop"] else None,
            resample=int(Image.Resampling(c["resample"])),
            mean=(m0 / scale, m1 / scale, m2 / scale), std=(s0 / scale, s1 / scale, s2 / scale))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{path} cannot be applied ({error!r}); correct it, or delete it to prepare pictures as transformers "
                         "does by default") from None


def _side(size: Any) -> float:
    """The side of a square: older files hold one number, newer ones height and width."""
    height, width = (size["height"], size["width"]) if isinstance(size, dict) else (size, size)
    if height != width:
        raise ValueError(f"{size} is not the size of a square")
    return float(height)


# ---- names -----------------------------------------------------------------------------------------------------------------

def _renames(model: TaskModel) -> list[tuple[str, str]]:
    """Patterns of our names and Hugging Face's names; every pattern that matches a name is applied, in this order."""
    decoder = "perceiver.decoder." if isinstance(model, MaskedLanguage) else "perceiver.decoder.decoder."
    projection = "positions_projection." if isinstance(model, Classifier) and isinstance(model.reader, LearnedPixels) \
        else "conv_after_patches."
    return [
        # within a layer
        (r"\.norm_query\.", ".attention.self.layernorm1."), (r"\.norm_input\.", ".attention.self.layernorm2."),
        (r"^(encoder\.layers\.\d+)\.norm\.", r"\1.attention.self.layernorm1."),
        (r"\.(query|key|value)\.", r".attention.self.\1."), (r"\.out\.", ".attention.output.dense."),
        (r"\.feedforward\.norm\.", ".layernorm."), (r"\.feedforward\.up\.", ".mlp.dense1."),
        (r"\.feedforward\.down\.", ".mlp.dense2."),
        # readers
        (r"^reader\.table\.", READER + "embeddings."), (r"^reader\.positions\.", READER + "position_embeddings."),
        (r"^reader\.positions$", READER + "position_embeddings.position_embeddings"),
        (r"^reader\.mix\.", READER + "convnet_1x1."), (r"^reader\.project\.", READER + projection),
        (r"^reader\.conv\.", READER + "convnet.conv."), (r"^reader\.norm\.", READER + "convnet.batchnorm."),
        (r"^reader\.padding\.", READER + "padding."), (r"^reader\.masks\.", READER + "mask."),
        # encoder and decoder
        (r"^encoder\.latents$", "perceiver.embeddings.latents"),
        (r"^encoder\.cross_attend\.", "perceiver.encoder.cross_attention."),
        (r"^encoder\.layers\.", "perceiver.encoder.self_attends."),
        (r"^decoder\.", decoder + "decoding_cross_attention."), (r"^(shared_)?head\.", decoder + "final_layer."),
        (r"^(query|queries)$", decoder + "output_position_encodings.position_embeddings"),
        (r"^label_query$", "perceiver.decoder.modalities.label.decoder.output_position_encodings.position_embeddings"),
        (r"^padding\.", "perceiver.decoder.padding."),
        (r"^heads\.(\w+)\.", r"perceiver.output_postprocessor.modalities.\1.classifier."),
        (r"^bias$", "embedding_decoder.bias"),
    ]


def _translate_tensors(model: TaskModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from theirs."""
    parts = hf_parts(model)
    wanted = {name: shape for group in parts.values() for name, shape in group}
    faults = [f"{name} {shape} is missing" for name, shape in wanted.items() if name not in tensors]
    faults += [f"{name} {tuple(tensor.shape)} is not part of the model" for name, tensor in tensors.items()
               if name not in wanted]
    faults += [f"{name} is {tuple(tensors[name].shape)} and not {shape}" for name, shape in wanted.items()
               if name in tensors and tuple(tensors[name].shape) != shape]
    if faults:
        listed = "; ".join(faults[:5]) + (" ..." if len(faults) > 5 else "")
        raise ValueError(f"the checkpoint does not fit its config.json, {len(faults)} of {len(wanted)} tensors: {listed}; "
                         "give the config.json that belongs to it")
    ours = {}
    for name, empty in model.state_dict().items():
        joined = torch.cat([tensors[part] for part, _ in parts[name]]) if len(parts[name]) > 1 else tensors[parts[name][0][0]]
        ours[name] = joined.reshape(empty.shape).to(empty.dtype, copy=True)
    return ours


def hf_parts(model: TaskModel) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """Which of Hugging Face's tensors, of what shapes, are concatenated to each of ours."""
    parts: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for name, empty in model.state_dict().items():
        shape = tuple(empty.shape)
        if ".qkv." in name:
            layer = model.encoder.layers[0]
            parts[name] = [(_rename(model, name.replace(".qkv.", f".{part}.")), (rows, *shape[1:]))
                           for part, rows in zip(("query", "key", "value"), layer.split, strict=True)]  # type: ignore[arg-type]
        else:                                                              # reader.mix: a 1x1 convolution there
            parts[name] = [(_rename(model, name), (*shape, 1, 1) if name == "reader.mix.weight" else shape)]
    return parts


def _rename(model: TaskModel, name: str) -> str:
    for pattern, theirs in _renames(model):
        name = re.sub(pattern, theirs, name)
    return name
