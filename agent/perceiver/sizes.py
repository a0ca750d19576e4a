"""Published sizes of Perceivers, and small sizes for a laptop.

Perceiver IO (arXiv:2107.14795): six released models. Perceiver (2103.03206): the ImageNet model, never released.
"""

from dataclasses import replace

import torch

from .inputs import AudioConfig, ImageConfig, MelConfig, PatchesConfig, PointsConfig, TextConfig
from .layers import LatentConfig
from .tasks import AutoencoderConfig, ClassifierConfig, FlowConfig, LanguageConfig, TaskConfig, TaskModel, build

_IMAGE = LatentConfig(latents=512, width=1024, blocks=8, layers=6, heads=8)


def _image(reader: ImageConfig) -> ClassifierConfig:
    return ClassifierConfig(latent=_IMAGE, reader=reader, labels=1000)


SIZES: dict[str, TaskConfig] = {
    "language-perceiver": LanguageConfig(
        latent=LatentConfig(latents=256, width=1280, layers=26, heads=8, cross_heads=8, qk_channels=256, v_channels=1280),
        text=TextConfig()),
    "vision-perceiver-learned": _image(ImageConfig(kind="conv1x1")),
    "vision-perceiver-fourier": _image(ImageConfig(kind="pixels")),
    "vision-perceiver-conv": _image(ImageConfig(kind="conv", size=(56, 56))),
    "optical-flow-perceiver": FlowConfig(latent=LatentConfig(latents=2048, width=512, layers=24, heads=16)),
    "multimodal-perceiver": AutoencoderConfig(latent=LatentConfig(latents=784, width=512, layers=8, heads=8)),
    # cross-attends to the picture before each of its eight blocks, with the same weights from the second one on
    "perceiver-imagenet": ClassifierConfig(latent=replace(_IMAGE, cross_attends=8), reader=ImageConfig(kind="pixels"),
                                           labels=1000, decoder="mean"),
}


def named_size(name: str) -> TaskConfig:
    """One of SIZES. Raises ValueError where the name is unknown."""
    if name not in SIZES:
        raise ValueError(f"Perceiver size {name!r} is unknown; choose one of {', '.join(SIZES)}")
    return SIZES[name]


# Small sizes, trained from scratch on some thousand samples in minutes on a CPU; docs/results/perceiver.md has their scores.
_SMALL = LatentConfig(latents=64, width=128, layers=4, heads=4, widening=2)
_BYTES = TextConfig(width=128, grams=(3, 4, 5, 6), stride=4)
_READS_TEXT = replace(_SMALL, cross_heads=8)     # as the published language model
SMALL: dict[str, dict[str, ClassifierConfig]] = {
    "classify-image": {
        "stem": ClassifierConfig(latent=replace(_SMALL, latents=32), reader=ImageConfig(kind="stem", size=(8, 8), bands=8)),
        "patches": ClassifierConfig(latent=_SMALL, reader=PatchesConfig(
            block=(1, 4, 4), bands=8, resolution=(8, 8), project=96)),
    },
    "classify-audio": {
        "mel": ClassifierConfig(latent=_SMALL, reader=MelConfig()),
        "raw": ClassifierConfig(latent=_SMALL, reader=AudioConfig(patch=64, bands=64, resolution=512)),
    },
    "classify-points": {"points": ClassifierConfig(latent=_SMALL, reader=PointsConfig(extra=3, bands=16, resolution=32))},
    "classify-text": {"bytes": ClassifierConfig(latent=_READS_TEXT, reader=_BYTES)},
}
SMALL_FLOW = FlowConfig(latent=replace(_SMALL, layers=3), size=(24, 32), bands=12, project=32, search=4, query_residual=True)
# 40 patches of sound and 4 x 4 x 4 blocks of video are read and decoded: one for each latent, see spread.py
SMALL_AUTOENCODER = AutoencoderConfig(
    latent=replace(_SMALL, latents=104, layers=3), size=(48, 48), block=(4, 12, 12), video_patch=(4, 12, 12), project=128,
    resolution=(12, 12), video_bands=12, samples_per_frame=320, patch=128, audio_resolution=40, audio_bands=20,
    label_channels=126, channels=128, decoder_widening=2, query_residual=True,
    label_queries=8, label_mask_prob=0.9)     # hidden in half of the clips, as published, it is learned from half of them
SMALL_LANGUAGE = LanguageConfig(latent=_READS_TEXT, text=_BYTES, near=16)     # of fill-mask, for classify-text to start from


def on_meta(config: TaskConfig) -> TaskModel:
    """The model without memory for its weights, to count parameters and to load weights into."""
    with torch.device("meta"):
        return build(config)
