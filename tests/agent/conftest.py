"""Small real models and streams that the agent's tests share."""

import numpy as np
import pytest
import torch

from calico.agent.backbones import BackboneConfig
from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.backbones.masked_encoder import MaskedEncoderConfig
from calico.agent.backbones.perceiver import PerceiverConfig
from calico.agent.backbones.perceiver_ar import PerceiverARConfig
from calico.agent.embedding import EmbeddingConfig
from calico.agent.model import Model, ModelConfig
from calico.tokenizers.tokens import PATCH_SIZE, Kind, Tokens
from calico.tokenizers.vocabulary import Vocabulary, VocabularyConfig

VOCABULARY = Vocabulary(VocabularyConfig(text=300, discrete=64, continuous=128))

# Each sees 8 tokens at a time, so that windows slide within a few steps; the first is the decoder.
BACKBONES: tuple[BackboneConfig, ...] = (
    DecoderConfig(width=32, depth=2, heads=2, context=16, window=8),
    PerceiverConfig(width=32, depth=2, heads=2, context=8, latents=3, prefixes=4),
    PerceiverConfig(width=32, depth=2, heads=2, context=8, latents=3, prefixes=2, stride=4),
    PerceiverARConfig(width=32, depth=2, heads=2, context=16, window=8),
    MaskedEncoderConfig(width=32, depth=2, heads=2, context=16, window=8, prefixes=4),
)
every_backbone = pytest.mark.parametrize(
    "backbone", BACKBONES, ids=lambda config: config.kind + ("-stride" if getattr(config, "stride", 1) > 1 else ""))


@pytest.fixture
def vocabulary() -> Vocabulary:
    return VOCABULARY


@pytest.fixture
def model() -> Model:
    return make_model()


def make_model(backbone: BackboneConfig = BACKBONES[0], vectors: bool = False) -> Model:
    torch.manual_seed(0)
    embedding = EmbeddingConfig(observation_positions=48, patch_channels=4, vectors=vectors)
    return Model(ModelConfig(embedding=embedding, backbone=backbone), VOCABULARY).eval()


def stream(length: int, seed: int = 0, patch_share: float = 0.3) -> Tokens:
    """A sequence of random ids, some of them patches, about a third of them targets."""
    rng = np.random.default_rng(seed)
    is_patch = rng.random(length) < patch_share
    n = int(is_patch.sum())
    return Tokens(
        ids=np.where(is_patch, VOCABULARY.patch, rng.integers(0, VOCABULARY.separator, length)).astype(np.int32),
        kind=np.where(is_patch, Kind.PATCH, Kind.TEXT).astype(np.uint8),
        position=rng.integers(-2, 20, length).astype(np.int16),
        timestep=np.zeros(length, np.int32),
        loss_mask=(rng.random(length) < 0.3) & ~is_patch,
        segment=np.zeros(length, np.int32),
        patches=rng.integers(0, 256, (n, 4, PATCH_SIZE, PATCH_SIZE)).astype(np.uint8),
        channels=np.full(n, 3, np.uint8),
        intervals=np.tile(np.array([0, 32, 32, 64], np.uint8), (n, 1)),
    )


def batch_of(*rows: Tokens) -> Tokens:
    return Tokens.stack(rows, VOCABULARY.pad).to_torch()
