"""The agent's network: embedding, backbone and tied output head, with the named sizes.

Backbones share a protocol, `Backbone` in backbones/__init__.py. The cache of a history that grows token by token is a value
that the caller holds.

One table serves input and output (`F.linear(x, table.weight)`): a separate head module breaks sharding and saving.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tokenizers.tokens import Kind, Tokens
from ..tokenizers.vocabulary import Vocabulary
from .backbones import KINDS, BackboneConfig, build_backbone, keeps_segments
from .backbones.cache import Cache
from .backbones.decoder import DecoderConfig
from .data2vec.encoders import Encoder
from .embedding import Embedding, EmbeddingConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that determines the shapes of the weights, except the vocabulary."""

    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    backbone: BackboneConfig = field(default_factory=DecoderConfig)


def _size(width: int, depth: int, heads: int, patch_channels: int, **more: float) -> ModelConfig:
    return ModelConfig(embedding=EmbeddingConfig(patch_channels=patch_channels),
                       backbone=DecoderConfig(width=width, depth=depth, heads=heads, **more))  # type: ignore[arg-type]


# In the paper's sizes (Table 5) every layer attends to the whole context of 1,024 tokens. With rotary positions instead of
# Transformer-XL's they have 3 to 8 % fewer parameters than the paper says: one width x width matrix less per block.
SIZES: dict[str, ModelConfig] = {
    "tiny": _size(128, 4, 4, 16, segments=True),   # one head: a third faster, but its loss falls more slowly even per second
    "small": _size(256, 6, 4, 16, segments=True),
    "medium": _size(512, 8, 8, 32, segments=True),
    "gato-79m": _size(768, 8, 24, 64, context=1024, window=1024, stochastic_depth=0.1),
    "gato-364m": _size(1536, 12, 12, 64, context=1024, window=1024, stochastic_depth=0.1),
    "gato-1.18b": _size(2048, 24, 16, 64, context=1024, window=1024, stochastic_depth=0.1),
}


def named_size(name: str, context: int | None = None, kind: str = "decoder") -> ModelConfig:
    """One of SIZES, with another context length if given, or a backbone of another kind of the same width and depth. Raises
    ValueError where the name or the kind is unknown."""
    if name not in SIZES:
        raise ValueError(f"model size {name!r} is unknown; choose one of {', '.join(SIZES)}")
    if kind not in KINDS:
        raise ValueError(f"backbone {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    size = SIZES[name].backbone
    assert isinstance(size, DecoderConfig), size
    context = context or size.context
    if kind == size.kind:
        return replace(SIZES[name], backbone=replace(size, context=context))
    backbone = KINDS[kind].config(width=size.width, depth=size.depth, heads=size.heads, context=context,
                                  **KINDS[kind].sized(name, context))
    return replace(SIZES[name], backbone=backbone)


class Model(nn.Module):
    """Tokens in, hidden states out; `logits` turns chosen hidden states into scores over the vocabulary."""

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary, encoders: Mapping[str, Encoder] | None = None) -> None:
        """encoders: those that `config.embedding` asks for, see front_end.py; they become part of the model as they are."""
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.embedding, config.backbone.width, vocabulary)
        self.backbone = build_backbone(config.backbone)
        self.apply(_initialise)
        start, stop = vocabulary.range_of(Kind.CONTINUOUS)
        with torch.no_grad():
            self.embedding.table.weight[start:stop] = smooth_rows(stop - start, config.backbone.width)
        self.embedding.attach(encoders or {})

    def forward(self, tokens: Tokens, where: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Whole sequences (B, S) -> hidden states (B, S, width), or (n, width) of the positions `where` alone."""
        if keeps_segments(self.config.backbone):
            return self.backbone(self.embedding(tokens), where, tokens.segment)  # type: ignore[call-arg]
        return self.backbone(self.embedding(tokens), where)

    def extend(self, tokens: Tokens, cache: Cache, counts: Tensor | None = None,
               where: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Cache]:
        """Append tokens (B, S) to the rows of a cache; see Backbone.extend."""
        return self.extend_embedded(self.embedding(tokens), cache, counts, where)

    def extend_embedded(self, x: Tensor, cache: Cache, counts: Tensor | None = None,
                        where: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Cache]:
        """The same for tokens that `embedding` has embedded, (B, S, width)."""
        return self.backbone.extend(x.to(cache.keys[0].dtype), cache, counts, where)

    def logits(self, hidden: Tensor, ids: Tensor | None = None) -> Tensor:
        """hidden (..., width) -> (..., vocab_size), or just the columns `ids` (n,) -> (..., n)."""
        table = self.embedding.table.weight
        return F.linear(hidden, table if ids is None else table[ids])

    def parameter_count(self) -> int:
        """All trained numbers, the shared table once."""
        return sum(p.numel() for p in self.parameters())


def _initialise(module: nn.Module) -> None:
    """Tables: normal with std 0.02. Matrices: 1 / sqrt(fan-in), projections into the residual stream scaled down by the depth.
    GPT-2's 0.02 for all suits a width of 2,500 and is too small for 128 (Pendulum's loss after 450 steps: 2.66 nats, with
    fan-in 2.30)."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5 * getattr(module, "residual_scale", 1.0))
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def smooth_rows(count: int, width: int) -> Tensor:
    """Initial embeddings (count, width) of the bins of a real value: waves of many lengths over the bins, std 0.02.

    Neighbouring bins begin with similar embeddings, so what is learned for one value generalises to the next; independent rows
    would have to be learned one by one. The table stays a learned lookup as in the paper.
    """
    waves = torch.logspace(math.log10(0.5), math.log10(16), width // 2)   # cycles over all bins
    phases = 2 * math.pi * (torch.linspace(0, 1, count)[:, None] * waves + torch.rand(width // 2))
    return 0.02 * math.sqrt(2) * torch.cat([phases.sin(), phases.cos()], dim=-1)


def matmul_flops_per_token(config: ModelConfig, vocab_size: int, target_share: float = 1.0) -> float:
    """Multiply-adds x 2 of a decoder's forward pass per token: matrices, attention within the window, and the head and the last
    feed-forward at targets only, which are `target_share` of the tokens.

    For the fraction of the machine's peak that training reaches, where a step counts as three forward passes.
    """
    b = config.backbone
    assert isinstance(b, DecoderConfig), b
    context, window = b.context, min(b.attention_window, b.context)
    keys = (window * (window + 1) / 2 + (context - window) * window) / context      # per query, on average
    feedforward = math.ceil(1.5 * b.feedforward) * b.width**2
    matrices = b.depth * 4 * b.width**2 + (b.depth - 1 + target_share) * feedforward
    return 2 * (matrices + b.depth * 2 * keys * b.width + target_share * vocab_size * b.width)


def on_meta(config: ModelConfig, vocabulary: Vocabulary) -> Model:
    """The model without memory for its weights, to count parameters of sizes that do not fit."""
    with torch.device("meta"):
        return Model(config, vocabulary)
