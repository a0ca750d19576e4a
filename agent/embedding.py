"""Tokens -> vectors: Gato's embedding function (arXiv:2205.06175, section 2.2 and appendix).

Text, discrete, continuous and special tokens are looked up in one table. An image patch goes through a single pre-activation
ResNet block (GroupNorm, GELU) and gets a learned row and a learned column position, drawn uniformly from the patch's interval
in training and taken at the interval's rounded mean at evaluation. Observation tokens get their place inside the timestep,
all action tokens one shared position. What differs from the paper: the patch block works at half resolution (a stride-2
stem), which costs a quarter on a CPU; its width is configurable. A stretch of sound goes through a block of its own
(blocks.py) and gets a learned place in its sound; a vector of real numbers has one, too. Pre-trained encoders can take the
places of the blocks for pictures and sounds (front_end.py).

Which block embeds what travels beside the ids stands in EMBEDDED_BY; for modalities from outside this package in BLOCKS.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tokenizers.tokens import (
    CONTENTS,
    MODALITIES,
    NO_POSITION,
    OUTSIDE,
    POSITION_BINS,
    Kind,
    Tokens,
)
from ..tokenizers.vocabulary import Vocabulary
from .blocks import PatchBlock, SoundBlock, VectorBlock
from .data2vec.encoders import Encoder
from .data2vec.pretrained import encoder_document
from .front_end import FRONT_ENDS, FrontEnd, FrontEndConfig
from .hardware import round_up_to_bucket
from .training.batch_part import is_elsewhere, rand

MOMENTS = 256   # places of a stretch in its sound that are told apart: ten seconds

# Blocks of modalities from outside this package: name of the modality -> function of the stream's width that makes a module,
# which turns Tokens into (n, width), one vector per token of the kind in their order.
BLOCKS: dict[str, Callable[[int], nn.Module]] = {}


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """Tables, and what reads pictures, sounds and words."""

    observation_positions: int = 512   # tokens of one timestep's observation; Gato has about 512
    patch_channels: int = 32           # width of the patch block's convolutions
    sounds: bool = False               # there is a block for sounds; `calico train` sees to it where a source holds some
    # A pre-trained encoder in place of the patch block; not the default, since it plays no better and is slower:
    # docs/results/data2vec.md.
    vision: FrontEndConfig | None = None
    audio: FrontEndConfig | None = None    # one in place of the sound block
    text: FrontEndConfig | None = None     # one whose output is added to the words that are read
    modalities: tuple[str, ...] = ()       # those from outside that there are blocks for, see BLOCKS
    vectors: bool = False                  # there is a block for vectors; `calico train` sees to it where data.numbers=vector

    def __post_init__(self) -> None:
        if self.observation_positions < 1 or self.patch_channels < 1:
            raise ValueError(f"embedding.observation_positions={self.observation_positions} and "
                             f"patch_channels={self.patch_channels} must be positive")
        if missing := set(self.modalities) - BLOCKS.keys():
            raise ValueError(f"embedding.modalities: there is no block for {', '.join(sorted(missing))}; import the module "
                             "that registers it before the config or checkpoint is read")

    @property
    def has_sounds(self) -> bool:
        """Whether sounds can stand in the stream."""
        return self.sounds or self.audio is not None

    @property
    def front_ends(self) -> dict[str, FrontEndConfig]:
        """The encoders that are asked for, by "vision", "audio" and "text"."""
        return {name: wanted for name in FRONT_ENDS if (wanted := getattr(self, name)) is not None}


class Embedding(nn.Module):
    """Tokens (B, S) with tensors -> (B, S, width). `table` is also the output head: logits = hidden @ table.T."""

    def __init__(self, config: EmbeddingConfig, width: int, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config, self.width, self.text_start = config, width, vocabulary.text_start
        self.table = nn.Embedding(vocabulary.size, width)
        self.patch_block = PatchBlock(config.patch_channels, width) if config.vision is None else None
        self.rows, self.columns = nn.Embedding(POSITION_BINS, width), nn.Embedding(POSITION_BINS, width)
        # [none, action, 0, 1, ...]: the first stays zero. In older checkpoints it is not, as it was added to the pictures and
        # sounds of documents; there it still is.
        self.positions = nn.Embedding(config.observation_positions - NO_POSITION, width, padding_idx=0)
        self.sound_block = SoundBlock(width) if config.sounds and config.audio is None else None
        self.moments = nn.Embedding(MOMENTS, width) if config.has_sounds else None
        self.vector_block = VectorBlock(width) if config.vectors else None
        self.front_ends = nn.ModuleDict()
        self.blocks = nn.ModuleDict({name: BLOCKS[name](width) for name in config.modalities})

    def attach(self, encoders: Mapping[str, Encoder]) -> None:
        """Put pre-trained encoders in front of the stream.

        Args:
            encoders: by "vision", "audio" and "text"; those that the config asks for.
        Raises:
            ValueError: one does not fit the stream.
        """
        wanted = self.config.front_ends
        assert encoders.keys() == wanted.keys(), (encoders.keys(), wanted.keys())
        for name, encoder in encoders.items():
            self.front_ends[name] = FRONT_ENDS[name](encoder, wanted[name], self.width)

    def front_end(self, name: str) -> FrontEnd:
        """One of those that are attached."""
        return cast(FrontEnd, self.front_ends[name])   # ModuleDict does not tell type checkers what it holds

    def encoder_documents(self) -> dict[str, Any]:
        """What builds the encoders again, as JSON; see data2vec/pretrained.py."""
        return {name: encoder_document(self.front_end(name).encoder) for name in self.front_ends}

    def forward(self, tokens: Tokens) -> Tensor:
        """Raises ValueError where an observation is longer than the table of local positions."""
        longest = int(tokens.position.max()) + 1 if tokens.position.numel() else 0
        if longest > self.config.observation_positions:
            raise ValueError(f"a timestep has {longest} observation tokens, the model {self.config.observation_positions} "
                             "positions for them; raise embedding.observation_positions or choose a smaller view")
        place = self.positions(tokens.position.long() - NO_POSITION)
        x = self.table(tokens.ids.long()) + place * (tokens.position != NO_POSITION)[..., None]   # (B, S, width)
        for kind, names in CONTENTS.items():
            if len(getattr(tokens, names[0])):
                here = tokens.kind == kind
                x = x.masked_scatter(here[..., None], (self.embed_contents(kind, tokens) + place[here]).to(x.dtype))
            elif is_elsewhere(kind):
                x = x + self.nothing_of(kind)
        return x + self.front_end("text")(tokens, self.text_start) if "text" in self.front_ends else x

    def embed_contents(self, kind: int, tokens: Tokens) -> Tensor:
        """What travels beside the ids of one kind: (n, width), without the place inside the timestep.

        Raises:
            ValueError: the model has no block for it.
        """
        if kind in EMBEDDED_BY:
            return EMBEDDED_BY[kind](self, tokens)
        name = MODALITIES[kind].name
        if name not in self.blocks:
            raise ValueError(f"there is a token of modality {name!r} in the stream, and this model was made without a block "
                             f"for it; train one with embedding.modalities=[{name}]")
        return cast(Tensor, self.blocks[name](tokens))

    def nothing_of(self, kind: int) -> Tensor:
        """0 with a gradient of 0 for each weight that embeds a kind of tokens: in a part of a batch without any, whose other
        parts have some, so that all processes have the same gradients to add up."""
        if kind == Kind.PATCH and self.training:
            rand((0, 2), self.table.weight.device, of=Kind.PATCH)      # the random numbers are used up all the same
        used: dict[int, list[nn.Module | None]] = {Kind.PATCH: [self.patch_block, self.rows, self.columns],
                                                   Kind.AUDIO: [self.sound_block, self.moments],
                                                   Kind.VECTOR: [self.vector_block]}
        modules = used.get(kind, []) if kind in EMBEDDED_BY else [self.blocks[MODALITIES[kind].name]]
        front_end = {Kind.PATCH: "vision", Kind.AUDIO: "audio"}.get(Kind(kind)) if kind in EMBEDDED_BY else None
        modules += [self.front_ends[front_end]] if front_end is not None and front_end in self.front_ends else []
        weights = [weight for module in modules if module is not None for weight in module.parameters() if weight.requires_grad]
        return 0 * torch.stack([weight.sum() for weight in weights]).sum() if weights else torch.zeros(())

    def embed_patches(self, tokens: Tokens) -> Tensor:
        """(n_patches, width): what the patch block or the vision encoder sees, plus row and column positions."""
        starts, stops = tokens.intervals[:, 0::2].long(), tokens.intervals[:, 1::2].long()   # (n, 2): row, column
        if self.training:
            at = starts + (rand(starts.shape, starts.device, of=Kind.PATCH) * (stops - starts)).long()
        else:
            at = (starts + stops - 1) // 2
        return self.encode_patches(tokens) + self.rows(at[:, 0]) + self.columns(at[:, 1])

    def encode_patches(self, tokens: Tokens) -> Tensor:
        """(n_patches, width), without positions."""
        if self.patch_block is None:
            return self.front_end("vision")(tokens)
        count = len(tokens.patches)
        spare = round_up_to_bucket(count) - count                         # blank patches, cut off again
        patches, channels = F.pad(tokens.patches, (0, 0) * 3 + (0, spare)), F.pad(tokens.channels, (0, spare))
        return self.patch_block(patches, channels)[:count]

    def embed_sounds(self, tokens: Tokens) -> Tensor:
        """(n_sounds, width): what the sound block or the audio encoder hears, plus places in the sound.

        Raises:
            ValueError: the model was made without ears.
        """
        if self.moments is None:
            raise ValueError("there is a sound in the stream, and this model was trained without any; train one on a source of "
                             "sounds, or set embedding.sounds=true")
        places = self.moments(tokens.moments.clamp(max=MOMENTS - 1).long())
        if self.sound_block is None:
            return self.front_end("audio")(tokens) + places
        count = len(tokens.sounds)
        sounds = F.pad(tokens.sounds, (0, 0, 0, round_up_to_bucket(count) - count))
        return self.sound_block(sounds)[:count] + places

    def embed_vectors(self, tokens: Tokens) -> Tensor:
        """(n_vectors, width), without positions.

        Raises:
            ValueError: the model was made without a block for vectors.
        """
        if self.vector_block is None:
            raise ValueError("there is a vector of numbers in the stream, and this model was trained without any; encode with "
                             "numbers='binned', or train one with data.numbers=vector")
        count = len(tokens.vectors)
        spare = round_up_to_bucket(count) - count
        return self.vector_block(F.pad(tokens.vectors, (0, 0, 0, spare)), F.pad(tokens.numbers, (0, spare)))[:count]


EMBEDDED_BY: dict[int, Callable[[Embedding, Tokens], Tensor]] = {Kind.PATCH: Embedding.embed_patches,
                                                                 Kind.AUDIO: Embedding.embed_sounds,
                                                                 Kind.VECTOR: Embedding.embed_vectors}


def register_block(name: str, make: Callable[[int], nn.Module]) -> None:
    """Make the block of a modality from outside this package known, see BLOCKS.

    Raises:
        ValueError: the modality is not registered, or is one of this package's.
    """
    if name not in {modality.name for kind, modality in MODALITIES.items() if kind >= OUTSIDE}:
        raise ValueError(f"{name!r} is no modality from outside; call tokens.register_modality first")
    BLOCKS[name] = make
