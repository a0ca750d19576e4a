"""Pre-trained encoders as front ends of the stream: their outputs for pictures, sounds and words are the agent's inputs.

    embedding:
      vision: {encoder: runs/pictures}                    # in place of the patch block
      audio: {encoder: runs/speech, freeze: false}        # in place of the sound block; trained along
      text: {encoder: runs/reviews}                       # added to the embeddings of words that are read, not of targets

An encoder attends among all patches of one image, segments of one sound or words of one text. Where it has several positions
per token of the stream, their vectors are concatenated and projected to the stream's width. Pictures and sounds of equal shape
are encoded together and nothing is padded, so a token's vector does not depend on the rest of the batch. Frozen encoders cost
no gradient; their weights are saved in the agent's checkpoints, too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tokenizers.text import TextTokenizer
from ..tokenizers.tokens import ACTION, PATCH_SIZE, SOUND_RATE, SOUND_SAMPLES, Kind, Tokens
from .data2vec.batches import OFFSET
from .data2vec.encoders import Encoder, SpeechEncoder, TextEncoder, VisionEncoder, standardize
from .data2vec.hugging_face import Modality
from .data2vec.pretrained import load_pretrained
from .hardware import round_up_to_bucket

ENCODERS: dict[str, Modality] = {"vision": "vision", "audio": "speech", "text": "text"}   # field -> the encoder's modality


@dataclass(frozen=True, kw_only=True)
class FrontEndConfig:
    """A pre-trained encoder for one kind of input."""

    encoder: str          # a run of `calico pretrain` or a Hugging Face Data2Vec folder; read when a run begins
    freeze: bool = True   # only the projection is trained


def load_encoders(wanted: Mapping[str, FrontEndConfig], text: TextTokenizer) -> dict[str, Encoder]:
    """The encoders of a new run with the tokenizer `text`, by "vision", "audio" and "text". Raises ValueError where there is no
    such encoder, or it has another modality or another tokenizer."""
    encoders = {}
    for name, config in wanted.items():
        found = load_pretrained(config.encoder, ENCODERS[name])
        if name == "text" and (found.text is None or found.text.to_bytes() != text.to_bytes()):
            raise ValueError(f"embedding.text: {config.encoder} was pre-trained with other text pieces than this run's; leave "
                             "data.tokenizer empty, and the run takes over those of an encoder that has some")
        encoders[name] = found.encoder
    return encoders


class FrontEnd(nn.Module):
    """An encoder and the projection of its output into the stream."""

    def __init__(self, encoder: Encoder, config: FrontEndConfig, positions: int, width: int) -> None:
        """positions: of the encoder per token of the stream."""
        super().__init__()
        self.frozen, self.positions = config.freeze, positions
        self.encoder = encoder.requires_grad_(not config.freeze)
        self.project = nn.Linear(positions * encoder.width, width)
        nn.init.normal_(self.project.weight, std=self.project.in_features**-0.5)
        nn.init.zeros_(self.project.bias)

    def train(self, mode: bool = True) -> "FrontEnd":
        """A frozen encoder has no dropout in training either."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def encode(self, inputs: Tensor) -> Tensor:
        """Hidden states (B, T, width of the encoder) at its own positions."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.encoder.encode(self.encoder.features(inputs)).hidden[:, self.encoder.prefix:]


class VisionFrontEnd(FrontEnd):
    """Image patches (n, MAX_CHANNELS, 16, 16) of a stream -> (n, width).

    An encoder of fewer channels gets an image's last ones (of stacked frames the newest), one of more the last one repeated.
    """

    def __init__(self, encoder: VisionEncoder, config: FrontEndConfig, width: int) -> None:
        side, left = divmod(PATCH_SIZE, encoder.config.patch_size)
        if left or not side:
            raise ValueError(f"embedding.vision: {config.encoder} has patches of {encoder.config.patch_size} pixels, which do "
                             f"not divide the stream's {PATCH_SIZE}; choose an encoder with patches of 2, 4, 8 or 16")
        super().__init__(encoder, config, side**2, width)
        self.side, self.channels = side, encoder.config.channels

    def forward(self, tokens: Tokens) -> Tensor:
        top, left = tokens.intervals[:, 0] == 0, tokens.intervals[:, 2] == 0
        begins = beginnings(tokens, Kind.PATCH, top & left)
        image = begins.cumsum(0) - 1                                                     # number of each patch's image
        columns = torch.bincount(image[top], minlength=int(image[-1]) + 1).clamp(min=1)  # 0: the first row was cut away
        return in_groups(begins, lambda index, columns: self.pictures(tokens, index, columns), columns)

    def pictures(self, tokens: Tokens, index: Tensor, columns: int) -> Tensor:
        """Patches int64 (B, n) of B images with so many columns -> (B, n, width)."""
        rows = -(-index.shape[1] // columns)
        patches = tokens.patches[index]                                                  # (B, n, MAX_CHANNELS, 16, 16)
        patches = F.pad(patches, (0, 0) * 3 + (0, rows * columns - index.shape[1]))      # an image that is cut off
        x = patches.unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5).flatten(2, 3).flatten(3)
        real = tokens.channels[index[:, 0]].long()[:, None]                              # (B, 1)
        wanted = (real - self.channels).clamp(min=0) + torch.arange(self.channels, device=x.device).minimum(real - 1)
        x = x.gather(1, wanted[:, :, None, None].expand(-1, -1, *x.shape[2:]))           # (B, channels, height, width)
        x = self.encode(x.to(self.project.weight.dtype) / 127.5 - 1)                     # (B, T, width of the encoder)
        x = x.unflatten(1, (rows, self.side, columns, self.side)).transpose(2, 3)   # (B, rows, columns, side, side, ...)
        return self.project(x.flatten(3).flatten(1, 2)[:, :index.shape[1]])


class AudioFrontEnd(FrontEnd):
    """Sound segments (n, SOUND_SAMPLES) of a stream -> (n, width)."""

    def __init__(self, encoder: SpeechEncoder, config: FrontEndConfig, width: int) -> None:
        stride = encoder.config.samples(2) - encoder.config.samples(1)
        samples, left = divmod(SOUND_SAMPLES * encoder.config.sample_rate, SOUND_RATE)
        if left or samples % stride:
            raise ValueError(f"embedding.audio: {config.encoder} makes a vector of {stride} samples at "
                             f"{encoder.config.sample_rate} Hz, which does not divide a token's "
                             f"{1000 * SOUND_SAMPLES // SOUND_RATE} ms; choose an encoder with a vector every 10, 20 or 40 ms")
        super().__init__(encoder, config, samples // stride, width)
        self.samples, self.needed = samples, encoder.config.samples

    def forward(self, tokens: Tokens) -> Tensor:
        begins = beginnings(tokens, Kind.AUDIO, tokens.moments == 0)
        return in_groups(begins, lambda index, _: self.waveforms(tokens.sounds[index]))

    def waveforms(self, segments: Tensor) -> Tensor:
        """int16 (B, n, SOUND_SAMPLES) of B sounds -> (B, n, width)."""
        count = segments.shape[1]
        x = segments.flatten(1).float()
        if self.samples != SOUND_SAMPLES:
            x = F.interpolate(x[:, None, None], (1, count * self.samples), mode="bicubic", antialias=True)[:, 0, 0]
        x = standardize(x)
        x = F.pad(x, (0, self.needed(count * self.positions) - x.shape[1]))              # the last vector's receptive field
        x = self.encode(x.to(self.project.weight.dtype))
        return self.project(x.unflatten(1, (count, self.positions)).flatten(2))


class TextFrontEnd(FrontEnd):
    """Words that the agent reads -> what is added to their embeddings, (B, S, width).

    Targets are left out: the encoder attends in both directions, and their vectors would contain the tokens to predict.
    """

    def __init__(self, encoder: TextEncoder, config: FrontEndConfig, width: int) -> None:
        super().__init__(encoder, config, 1, width)
        self.longest = encoder.config.max_length

    def forward(self, tokens: Tokens, text_start: int) -> Tensor:
        """Raises ValueError where words of an observation are targets."""
        is_text = (tokens.kind == Kind.TEXT) & (tokens.position != ACTION)
        if bool((is_text & tokens.loss_mask & (tokens.position >= 0)).any()):
            raise ValueError("embedding.text reads the words of observations, which are targets in this run; set "
                             "data.observation_text_loss=false")
        read = (is_text & ~tokens.loss_mask).flatten()
        added = torch.zeros(len(read), self.project.out_features, device=read.device, dtype=self.project.weight.dtype)
        index = read.nonzero()[:, 0]
        if not len(index):
            return added.unflatten(0, tokens.ids.shape)
        begins = torch.ones_like(index, dtype=torch.bool)                               # of a run: after a gap, or in a new row
        begins[1:] = (index.diff() > 1) | (index[1:] % tokens.ids.shape[-1] == 0)
        number = torch.arange(len(index), device=index.device)
        begins = (number - torch.where(begins, number, 0).cummax(0).values) % self.longest == 0     # long texts are split
        ids = tokens.ids.flatten()[index] - text_start + OFFSET
        found = in_groups(begins, lambda some, _: self.words(ids[some].long()))
        return added.index_put((index,), found.to(added.dtype)).unflatten(0, tokens.ids.shape)

    def words(self, ids: Tensor) -> Tensor:
        """int64 (B, n) -> (B, n, width); a mission that is repeated in every observation is encoded once."""
        unique, which = ids.unique(dim=0, return_inverse=True)
        return self.project(self.encode(unique))[which]


FRONT_ENDS: dict[str, type[Any]] = {"vision": VisionFrontEnd, "audio": AudioFrontEnd, "text": TextFrontEnd}


def beginnings(tokens: Tokens, kind: Kind, first: Tensor) -> Tensor:
    """bool (n,): True where a run of patches or segments of a kind begins: at the first of a picture or a sound, and at the
    first in each row of the batch, which may begin inside a picture or sound."""
    row = (tokens.kind == kind).nonzero()[:, 0]
    return first | F.pad(row.diff() != 0, (1, 0), value=True)


def in_groups(begins: Tensor, embed: Callable[[Tensor, int], Tensor], keys: Tensor | None = None) -> Tensor:
    """Give runs of equal length and key to `embed` together, and put its outputs back into order, (n, width).

    Args:
        begins: bool (n,), True where a run begins.
        embed: (indices int64 (B, length), key) -> (B, length, width).
        keys: integers (runs,); None: 0 for all.
    """
    begins = begins.clone()
    begins[0] = True
    starts = begins.nonzero()[:, 0]
    lengths = F.pad(starts, (0, 1), value=len(begins)).diff()
    keys = torch.zeros_like(lengths) if keys is None else keys
    pieces, indices = [], []
    for length, key in torch.stack([lengths, keys], 1).unique(dim=0).tolist():
        first = starts[(lengths == length) & (keys == key)]
        index = first[:, None] + torch.arange(length, device=first.device)               # (B, length)
        spare = round_up_to_bucket(len(index)) - len(index)
        made = embed(torch.cat([index, index[:1].expand(spare, -1)]), key)[:len(index)]  # see round_up_to_bucket
        pieces.append(made.flatten(0, 1))
        indices.append(index.flatten())
    return torch.cat(pieces)[torch.cat(indices).argsort()]
