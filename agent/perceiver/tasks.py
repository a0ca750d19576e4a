"""The networks of Perceiver IO's tasks (arXiv:2107.14795): masked language, classification, optical flow, autoencoding.

Each has an input module (`reader`, inputs.py), the latents of layers.py, and queries of its own. Only the outputs that are
asked for are decoded, from one encoding of the input. sizes.py has the published sizes, hugging_face.py loads their weights.

Legend: B batch, M input elements, N latents, Q queries, C channels.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fourier import fourier_cells, fourier_channels
from .inputs import (
    PAD,
    AudioConfig,
    LabelConfig,
    MixtureConfig,
    PatchesConfig,
    ReaderConfig,
    Text,
    TextConfig,
    build_reader,
    depth_to_space,
)
from .layers import CrossAttend, Encoder, FoldedInputs, LatentConfig

# ---- masked language -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Bytes in, bytes out.

    near: bytes at each side of a position that are part of its query. 0, as published: the query is the position alone, from
        which a small model learns no more than the most frequent letters.
    """

    latent: LatentConfig = field(default_factory=LatentConfig)
    text: TextConfig = field(default_factory=TextConfig)
    near: int = 0


class NearBytes(nn.Module):
    """The bytes around some positions of ids (B, M) -> (B, Q, width); PAD beyond the ends."""

    def __init__(self, near: int, vocab_size: int, width: int) -> None:
        super().__init__()
        self.near = near
        self.table = nn.Embedding(vocab_size, width // 4)
        self.mix = nn.Sequential(nn.Linear((2 * near + 1) * (width // 4), width), nn.GELU(), nn.Linear(width, width))

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """positions: int64 (B, Q)."""
        around = positions[..., None] + torch.arange(2 * self.near + 1, device=ids.device)        # (B, Q, 2 near + 1)
        near = F.pad(ids, (self.near, self.near), value=PAD).gather(1, around.flatten(1)).view_as(around)
        return self.mix(self.table(near).flatten(2))


class MaskedLanguage(nn.Module):
    """Bytes, some of them masked -> logits of the bytes at chosen positions."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        width = config.text.width
        self.reader = Text(config.text)
        self.encoder = Encoder(config.latent, width)
        self.queries = nn.Parameter(torch.empty(config.text.positions, width))
        self.near = NearBytes(config.near, config.text.vocab_size, width) if config.near else None
        self.decoder = CrossAttend(config.latent, width, config.latent.width, heads=8, qk_channels=256, v_channels=width,
                                   residual=bool(config.near))
        self.bias = nn.Parameter(torch.zeros(config.text.vocab_size))
        nn.init.trunc_normal_(self.queries, std=0.02)
        initialise(self)
        if self.near is not None:
            nn.init.normal_(self.near.table.weight)      # std 1: no norm follows that would scale small ones up

    def forward(self, ids: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """
        Args:
            ids: int64 (B, M), of bytes (inputs.encode_bytes).
            mask: bool (B, M), False at padding; None: there is none.
            positions: int64 (Q,) or (B, Q): where logits are computed; None: at 0 ... M - 1.
        Returns:
            (B, Q, vocab_size). The output head is the transposed embedding table.
        """
        query_mask = mask if positions is None else None
        positions = torch.arange(ids.shape[1], device=ids.device) if positions is None else positions
        latents = self.encoder(self.reader(ids), self.reader.elements(mask))
        positions = positions if positions.ndim == 2 else positions[None]
        queries = self.queries[positions]
        if self.near is not None:
            padded = ids if mask is None else ids.masked_fill(~mask, PAD)
            queries = queries + self.near(padded, positions.expand(len(ids), -1))
        decoded = self.decoder(queries, latents, query_mask=query_mask)
        return F.linear(decoded, self.reader.table.weight, self.bias)


# ---- classification --------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Anything in, one of `labels` classes out."""

    latent: LatentConfig = field(default_factory=LatentConfig)
    reader: ReaderConfig = field(default_factory=TextConfig)
    labels: int = 2
    decoder: Literal["query", "mean"] = "query"   # Perceiver IO: one learned query; the original: the mean of the latents
    query_residual: bool = True                   # of the query


class Classifier(nn.Module):
    """Raw inputs of its reader -> logits (B, labels)."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        width = config.latent.width
        self.reader = build_reader(config.reader)
        self.encoder = Encoder(config.latent, self.reader.channels)
        self.decoder: CrossAttend | None = None
        if config.decoder == "query":
            self.query = nn.Parameter(torch.empty(1, width))
            self.decoder = CrossAttend(config.latent, width, width, residual=config.query_residual)
            nn.init.trunc_normal_(self.query, std=0.02)
        self.head = nn.Linear(width, config.labels)
        initialise(self)

    def forward(self, inputs: Tensor | Mapping[str, Tensor], mask: Tensor | None = None) -> Tensor:
        """mask: bool (B, M), False at padding elements (of text: bytes); None: there is none."""
        return self.decode(self.encoder(*self.read(inputs, mask)))

    def read(self, inputs: Tensor | Mapping[str, Tensor], mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The elements (B, M, channels) that the latents attend to, and a mask of them, False at padding."""
        return self.reader(inputs), self.reader.elements(mask) if isinstance(self.reader, Text) else mask

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, N, width) -> logits (B, labels)."""
        pooled = latents.mean(dim=1) if self.decoder is None else self.decoder(self.query[None], latents)[:, 0]
        return self.head(pooled)


# ---- optical flow ----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Two frames in; out: where each pixel of the first one is in the second."""

    latent: LatentConfig = field(default_factory=LatentConfig)
    size: tuple[int, int] = (368, 496)    # rows, columns in training, for the Fourier frequencies; other sizes work too
    bands: int = 64
    project: int = 64
    # Not in the paper, whose model learns to compare pixels in 480 epochs; it helps a model that is trained on few pairs.
    search: int = 0               # above 0: each pixel is compared with those within this distance in the second frame, too
    query_residual: bool = False  # of the queries


class Flow(nn.Module):
    """Frames (B, 2, 3, H, W) in [-1, 1] -> flow (B, H, W, 2); pixels to the right and down are 20 times that."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        # a frame's 3 colours in the 3x3 pixels around each pixel make 27 channels, and two frames one element
        self.reader = build_reader(PatchesConfig(block=(2, 1, 1), channels=27, bands=config.bands, resolution=config.size,
                                                 project=config.project))
        channels = self.reader.channels + ((2 * config.search + 1) ** 2 if config.search else 0)
        self.encoder = Encoder(config.latent, channels)
        self.decoder = CrossAttend(config.latent, channels, config.latent.width, residual=config.query_residual)
        self.head = nn.Linear(channels, 2)
        initialise(self)

    def forward(self, frames: Tensor, chunk: int = 1 << 14) -> Tensor:
        """
        Args:
            frames: (B, 2, 3, H, W), or (B, 2, 27, H, W) with neighbours already gathered (see `neighbours`).
            chunk: pixels decoded at a time without gradient, which bounds the memory.
        """
        if frames.ndim != 5 or frames.shape[1] != 2 or frames.shape[2] not in (3, 27):
            raise ValueError(f"frames of shape {tuple(frames.shape)} came; optical flow reads (batch, 2, 3, rows, columns)")
        inputs = self.reader(neighbours(frames) if frames.shape[2] == 3 else frames)
        if self.config.search:
            centres = frames if frames.shape[2] == 3 else frames[:, :, 12:15]
            inputs = torch.cat([inputs, differences(centres, self.config.search).to(inputs.dtype)], dim=-1)
        latents = self.encoder(inputs)
        size, moved = (inputs.shape[1], None) if torch.is_grad_enabled() else (chunk, self.decoder.move(latents))
        flow = torch.cat([self.decoder.read_out(queries, latents, self.head.weight, self.head.bias, moved=moved)
                          for queries in inputs.split(size, dim=1)], dim=1)
        return (flow / 100).unflatten(1, tuple(frames.shape[3:]))


def neighbours(frames: Tensor) -> Tensor:
    """(B, 2, 3, H, W) -> (B, 2, 27, H, W): row, column, colour of the 3x3 pixels around each; zeros outside."""
    size = frames.shape[3:]
    columns = F.unfold(frames.flatten(0, 1), 3, padding=1)                     # (B * 2, colour * 9, H * W)
    return columns.unflatten(1, (-1, 9)).transpose(1, 2).flatten(1, 2).unflatten(0, frames.shape[:2]).unflatten(-1, size)


def differences(frames: Tensor, reach: int) -> Tensor:
    """How much the surroundings of each pixel differ from those of the pixels around it in the other frame.

    Frames (B, 2, 3, H, W), `reach` pixels up, down, left and right -> (B, H * W, (2 * reach + 1) ** 2), row by row: mean
    absolute difference of 5x5 pixels, with mean 0 and std 1 for each pixel, or less where all are alike.
    """
    height, width = frames.shape[3:]
    around = F.pad(frames[:, 1], (reach,) * 4, mode="replicate")
    shifts = [(row, column) for row in range(2 * reach + 1) for column in range(2 * reach + 1)]
    difference = torch.stack([(frames[:, 0] - around[..., row:row + height, column:column + width]).abs().mean(dim=1)
                              for row, column in shifts], dim=1)                # (B, shifts, H, W)
    difference = F.avg_pool2d(difference, 5, stride=1, padding=2, count_include_pad=False)
    mean, std = difference.mean(dim=1, keepdim=True), difference.std(dim=1, keepdim=True)
    return ((difference - mean) / (std + 0.02)).flatten(2).mT


# ---- video, sound and label ------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Video, its sound and its label through one set of latents."""

    latent: LatentConfig = field(default_factory=LatentConfig)
    frames: int = 16
    size: tuple[int, int] = (224, 224)         # rows, columns of the decoded video
    resolution: tuple[int, int] = (56, 56)     # rows, columns of 4x4 blocks: twice the positions' highest frequencies
    samples_per_frame: int = 1920
    patch: int = 16                            # samples
    labels: int = 700
    label_channels: int = 1024                 # of the label's query
    channels: int = 512                        # decoded, before each modality's own last layer
    label_mask_prob: float = 0.5               # probability in training that the label is masked and must be predicted
    video_bands: int = 32                      # of the Fourier features, of what is read and of the queries
    audio_bands: int = 192
    # As published by default; other values help a small model that is trained for minutes, see sizes.py.
    block: tuple[int, int, int] = (1, 4, 4)         # frames, rows, columns of the video that are read as one element
    project: int = 0                                # channels of a linear layer that reads a block; 0: its pixels are read
    video_patch: tuple[int, int, int] = (1, 1, 1)   # frames, rows, columns that one query decodes
    audio_resolution: int = 0                       # of the sound: twice its positions' highest frequency; 0: its samples
    decoder_widening: int = 1                       # width of the decoder's feed-forward, in multiples of its own
    query_residual: bool = False                    # of the decoder's queries
    label_queries: int = 1                          # whose answers are averaged: with one head each attends to little

    def __post_init__(self) -> None:
        if self.label_queries < 1:
            raise ValueError(f"label_queries={self.label_queries} must be at least 1")
        if any(whole % part for whole, part in zip((self.frames, *self.size), self.video_patch, strict=True)):
            raise ValueError(f"{self.frames} frames of size={self.size} do not split into video_patch={self.video_patch}; "
                             "change one of them")

    @property
    def samples(self) -> int:
        """Of a clip's sound."""
        return self.frames * self.samples_per_frame

    @property
    def video_grid(self) -> tuple[int, int, int]:
        """The decoded video's patches, by time, row and column: one query each."""
        times, rows, columns = (whole // part for whole, part in zip((self.frames, *self.size), self.video_patch, strict=True))
        return times, rows, columns

    @property
    def audio_grid(self) -> tuple[int]:
        """Patches of the decoded sound: one query per patch."""
        return (self.samples // self.patch,)


class Autoencoder(nn.Module):
    """{"image": video, "audio": samples, "label": one-hot} -> latents -> any pixels, any samples, the label."""

    MARGIN = 2     # learned channels of the widest query

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.video_resolution = (config.frames, *config.resolution)
        self.audio_resolution = (config.audio_resolution or config.samples,)
        self.reader = build_reader(MixtureConfig(
            modalities={"audio": AudioConfig(patch=config.patch, bands=config.audio_bands, resolution=self.audio_resolution[0]),
                        "image": PatchesConfig(block=config.block, bands=config.video_bands, project=config.project,
                                               resolution=self.video_resolution),
                        "label": LabelConfig(labels=config.labels)},
            mask_probs={"audio": 0.0, "image": 0.0, "label": config.label_mask_prob}))
        self.encoder = Encoder(config.latent, self.reader.channels)
        widths = {"audio": fourier_channels(1, config.audio_bands), "image": fourier_channels(3, config.video_bands),
                  "label": config.label_channels}
        width = max(widths.values()) + self.MARGIN
        self.label_query = nn.Parameter(torch.empty(config.label_queries, config.label_channels))
        self.padding = nn.ParameterDict({name: torch.empty(1, width - own) for name, own in widths.items()})
        self.decoder = CrossAttend(config.latent, width, config.latent.width, widening=config.decoder_widening,
                                   residual=config.query_residual)
        self.shared_head = nn.Linear(width, config.channels)
        self.heads = nn.ModuleDict({"audio": nn.Linear(config.channels, config.patch),
                                    "image": nn.Linear(config.channels, 3 * math.prod(config.video_patch)),
                                    "label": nn.Linear(config.channels, config.labels)})
        for vector in (self.label_query, *self.padding.values()):
            nn.init.trunc_normal_(vector, std=0.02)
        initialise(self)

    def forward(self, inputs: Mapping[str, Tensor], points: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        """`encode`, then `decode`."""
        return self.decode(self.encode(inputs), points)

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """image (B, T, 3, H, W), audio (B, samples), label (B, labels), masked at evaluation -> latents (B, N, width)."""
        return self.encoder(self.reader(inputs))

    def decode(self, latents: Tensor, points: Mapping[str, Tensor | None],
               moved: FoldedInputs | None = None) -> dict[str, Tensor]:
        """
        Args:
            latents: (B, N, width).
            points: what is decoded: image: int64 (n,), flat indices into `video_grid`; audio: int64 (n,), indices of patches;
                label: None. Each output is independent of the others.
            moved: `decoder.move(latents)`, where they are decoded several times.
        Returns:
            image (B, n, 3 per pixel of a patch, in the order of `space_to_depth`), audio (B, n * patch), label (B, labels),
            logits: those of `points`.
        """
        made = {name: self.read_out(name, self.queries(name, points[name], latents)[None], latents, moved)
                for name in sorted(points)}
        return {name: part if name == "image" else part.flatten(1) for name, part in made.items()}

    def read_out(self, name: str, queries: Tensor, latents: Tensor, moved: FoldedInputs | None) -> Tensor:
        """One modality's outputs (B, n, its channels); for many queries the last two matrices become one."""
        shared, head = self.shared_head, cast(nn.Linear, self.heads[name])
        if name == "label":
            made: Tensor = head(shared(self.decoder(queries, latents))).mean(dim=1, keepdim=True)
            return made
        return self.decoder.read_out(queries, latents, head.weight @ shared.weight, head.weight @ shared.bias + head.bias,
                                     self.padding[name].to(queries.dtype), moved)

    def queries(self, name: str, cells: Tensor | None, like: Tensor) -> Tensor:
        """(label_queries, width) for the label, else (n, own channels), which the modality's padding follows."""
        config = self.config
        if name == "label":
            padding = self.padding[name].expand(len(self.label_query), -1)
            return torch.cat([self.label_query, padding], dim=-1).to(like.dtype)
        if name not in self.padding or cells is None:
            raise ValueError(f"points for {name!r} are {cells}; give indices for image and audio, None for label, no other key")
        grid, bands, resolution = (config.audio_grid, config.audio_bands, self.audio_resolution) if name == "audio" else (
            config.video_grid, config.video_bands, self.video_resolution)
        return fourier_cells(cells.to(like.device), grid, bands, resolution).to(like.dtype)

    def reconstruct(self, inputs: Mapping[str, Tensor], chunks: int = 128) -> dict[str, Tensor]:
        """A whole clip, encoded once and decoded in chunks: image (B, T, 3, H, W), audio (B, samples), label (B, labels)."""
        latents = self.encode(inputs)
        moved = None if torch.is_grad_enabled() else self.decoder.move(latents)
        made = {name: torch.cat([self.decode(latents, {name: some}, moved)[name] for some in parts], dim=1)
                for name, parts in self.chunks(chunks).items()}
        image = depth_to_space(made["image"].unflatten(1, self.config.video_grid), self.config.video_patch)
        return {"image": image, "audio": made["audio"],
                "label": self.decode(latents, {"label": None})["label"]}

    def chunks(self, count: int) -> dict[str, tuple[Tensor, ...]]:
        """Points of a whole clip: the video's in `count` parts of about equal size, patches of sound in parts of that size."""
        cells = math.prod(self.config.video_grid)
        pixels = torch.arange(cells).tensor_split(min(count, cells))
        return {"image": pixels, "audio": torch.arange(self.config.audio_grid[0]).split(max(1, len(pixels[0])))}


# ---- all of them -----------------------------------------------------------------------------------------------------------

TaskConfig = LanguageConfig | ClassifierConfig | FlowConfig | AutoencoderConfig
TaskModel = MaskedLanguage | Classifier | Flow | Autoencoder
MODELS: dict[type, Callable[[Any], TaskModel]] = {
    LanguageConfig: MaskedLanguage, ClassifierConfig: Classifier, FlowConfig: Flow, AutoencoderConfig: Autoencoder}


def build(config: TaskConfig) -> TaskModel:
    """The model that a configuration describes, with initial weights."""
    return MODELS[type(config)](config)


def initialise(model: nn.Module) -> None:
    """Matrices: std 1 / sqrt(fan-in), tables 0.02, biases zero; DeepMind's without its truncation."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
