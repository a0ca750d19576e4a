"""Backbones: the networks between the embedding and the output head, and the one table of their kinds.

A new kind needs a file with a configuration and an `nn.Module` that satisfy `BackboneConfig` and `Backbone`, and an entry in
KINDS; code outside this package adds its entry by `register_backbone` (docs/extending.md). Configurations, named sizes,
checkpoints and the shared tests (tests/agent/test_backbones.py) read the table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from ..config_json import OPEN_UNIONS
from .cache import Cache
from .decoder import Decoder, DecoderConfig
from .masked_encoder import MaskedEncoder, MaskedEncoderConfig
from .perceiver import Perceiver, PerceiverConfig
from .perceiver_ar import PerceiverAR, PerceiverARConfig


class BackboneConfig(Protocol):
    """A frozen dataclass, all of its fields keyword-only and with defaults; it may have more fields than these."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def kind(self) -> str:
        """A field `kind: Literal["..."] = "..."`: the key in KINDS."""
    @property
    def width(self) -> int:
        """Size of the vectors that come in and go out."""
    @property
    def depth(self) -> int:
        """Number of layers."""
    @property
    def heads(self) -> int:
        """Heads of attention per layer."""
    @property
    def context(self) -> int:
        """Tokens per training sequence, at least 2."""
    @property
    def limit(self) -> int | None:
        """Longest history that can be read, where training has no longer ones; None: any, because old tokens leave the window
        in training, too. Need not be a field."""


class Backbone(Protocol):
    """An `nn.Module`. The state at position t depends on the tokens up to t alone and predicts token t + 1.

    B batch, S seq, n requested positions.
    """

    def __call__(self, x: Tensor, where: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """`forward`: whole sequences; position 0 is the first token of each row.

        Args:
            x: embedded tokens (B, S, width).
            where: (rows, positions), int64 (n,) each: the states to return, duplicates allowed; None: all.
        Returns:
            (n, width), or (B, S, width).
        """

    def sample_targets(self, targets: Tensor) -> Tensor:
        """Which of the targets, bool (B, S), a training step learns from, bool (B, S): all, or a random choice by torch's
        generator where each target costs a pass."""

    def new_cache(self, batch: int, chunk: int, dtype: torch.dtype = ...) -> Cache:
        """An empty cache for `batch` rows that are extended by at most `chunk` tokens at a time."""

    def extend(self, x: Tensor, cache: Cache, counts: Tensor | None = None,
               where: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Cache]:
        """Append tokens to each row's history; the same states as `forward` gives over the row's whole history.

        Args:
            x: (B, S, width), padded on the right where rows differ; S at most the `chunk` that the cache was made for.
            cache: not to be used afterwards.
            counts: int64 (B,), how many tokens of each row are real; None: all.
            where: as in `forward`, indices into S, row by row and rising.
        Returns:
            hidden states (n, width), or (B, S, width), meaningless at padding; and the cache after these tokens.
        """

    def train(self, mode: bool = True) -> Self:
        """Of nn.Module."""
    def eval(self) -> Self:
        """Of nn.Module."""


@dataclass(frozen=True)
class BackboneKind:
    """A row of the table.

    Attributes:
        config, network: the classes.
        sized: (name of a size, context) -> the fields that a named size sets beside width, depth, heads and context.
    """

    config: type[Any]
    network: Callable[[Any], Any]
    sized: Callable[[str, int], Mapping[str, Any]] = lambda name, context: {}


LATENTS = {"tiny": 16, "small": 32, "medium": 64, "gato-79m": 64, "gato-364m": 128, "gato-1.18b": 128}   # of `perceiver`
KINDS: dict[str, BackboneKind] = {
    "decoder": BackboneKind(DecoderConfig, Decoder),
    "perceiver": BackboneKind(PerceiverConfig, Perceiver, lambda name, context: {"latents": LATENTS[name]}),
    "perceiver-ar": BackboneKind(PerceiverARConfig, PerceiverAR, lambda name, context: {"window": context // 2}),
    "data2vec": BackboneKind(MaskedEncoderConfig, MaskedEncoder, lambda name, context: {"window": context // 4}),
}


def register_backbone(config: type[Any], network: Callable[[Any], Any],
                      sized: Callable[[str, int], Mapping[str, Any]] = lambda name, context: {}) -> None:
    """Make a backbone from outside this package known, under the default of its configuration's field `kind`.

    Call it where the module of the backbone is imported, before a config or a checkpoint that names it is read.

    Raises:
        ValueError: the kind belongs to another backbone.
    """
    kind = config().kind
    if kind in KINDS and KINDS[kind].config is not config:
        raise ValueError(f"backbone kind {kind!r} is {KINDS[kind].config.__name__} already; give {config.__name__} another one")
    KINDS[kind] = BackboneKind(config, network, sized)


def backbone_kinds() -> dict[str, type[Any]]:
    """kind -> configuration class, of all that are known when it is called: the union of which a config's `backbone` is one."""
    return {kind: row.config for kind, row in KINDS.items()}


OPEN_UNIONS[BackboneConfig] = backbone_kinds


def keeps_segments(config: BackboneConfig) -> bool:
    """Whether a token sees its own segment alone in training. A decoder that is told so takes the segments (Decoder.forward);
    the other kinds see the whole row."""
    return bool(getattr(config, "segments", False))


def build_backbone(config: BackboneConfig) -> Backbone:
    """The network that a configuration describes."""
    network: Backbone = KINDS[config.kind].network(config)
    return network
