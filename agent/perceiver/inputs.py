"""Input modules of a Perceiver: bytes, pixels, patches, sound, points, labels and mixtures of them as (B, M, channels).

Perceiver IO (arXiv:2107.14795), appendices; the channel orders are those of DeepMind's release, so that published weights fit.
What differs: Fourier features are cached per shape, learned positions are projected once and not once per sample, and pictures
may be of any size.

Legend: B batch, M input elements, T frames, H height, W width, P samples per patch of sound.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Union, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..mel import mel_filters
from ..training.batch_part import ROWS, BatchNorm2d, rand
from .fourier import fourier, fourier_channels, fourier_grid

PAD, BOS, EOS, MASK, CLS, SEP = range(6)   # ids before the 256 bytes
BYTE_OFFSET = 6


# ---- text as bytes ---------------------------------------------------------------------------------------------------------

def encode_bytes(text: str, cls_sep: bool = True) -> list[int]:
    """UTF-8 bytes + 6; Hugging Face puts them between CLS and SEP, DeepMind does not."""
    ids = [byte + BYTE_OFFSET for byte in text.encode("utf-8")]
    return [CLS, *ids, SEP] if cls_sep else ids


def decode_bytes(ids: Sequence[int]) -> str:
    """Ids back to text; special ids are left out, bytes that are no UTF-8 become the replacement character."""
    return bytes(i - BYTE_OFFSET for i in ids if i >= BYTE_OFFSET).decode("utf-8", errors="replace")


def pad_bytes(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of ids -> ids (B, longest) padded on the right, and a mask of the same shape, False at padding."""
    ids = pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True, padding_value=PAD)
    return ids, torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]


def hashes(ids: Tensor, sizes: Sequence[int], buckets: int) -> list[Tensor]:
    """Hashes of the last `size` ids up to each position, PAD before a text: int64 (B, M) per size, indices into one table."""
    rows, rolling = list[Tensor](), ids
    for behind in range(1, max(sizes)):
        rolling = (rolling * 1_000_003 + F.pad(ids, (behind, 0), value=PAD)[:, :ids.shape[1]]) % (2**31 - 1)
        if behind + 1 in sizes:
            rows.append(rolling % buckets + len(rows) * buckets)
    return rows


# ---- readers ---------------------------------------------------------------------------------------------------------------

def join(values: Tensor, positions: Tensor) -> Tensor:
    """values (B, M, c) beside positions (M, p), the same for every row -> (B, M, c + p)."""
    return torch.cat([values, positions.to(values.dtype).expand(len(values), -1, -1)], dim=-1)


def space_to_depth(frames: Tensor, block: tuple[int, int, int]) -> Tensor:
    """Frames (B, T, C, H, W) -> blocks (B, T/t, H/h, W/w, t * h * w * C), channels last within a block."""
    t, h, w = block
    time, height, width = frames.shape[1], *frames.shape[3:]
    if time % t or height % h or width % w:
        raise ValueError(f"{time} frames of {height}x{width} do not split into blocks of {t} frames of {h}x{w}; "
                         "crop or pad them first")
    split = frames.unflatten(4, (-1, w)).unflatten(3, (-1, h)).unflatten(1, (-1, t))   # (B, T/t, t, C, H/h, h, W/w, w)
    return split.permute(0, 1, 4, 6, 2, 5, 7, 3).flatten(4)


def depth_to_space(blocks: Tensor, block: tuple[int, int, int]) -> Tensor:
    """The inverse: blocks (B, T/t, H/h, W/w, t * h * w * C) -> frames (B, T, C, H, W)."""
    split = blocks.unflatten(4, (*block, -1))                                          # (B, T/t, H/h, W/w, t, h, w, C)
    return split.permute(0, 1, 4, 7, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(1, 2)


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Bytes: an embedding and a learned position, added.

    Not in the paper: with `grams`, embeddings of the hashed n-grams that end at each byte are added, as in the Byte Latent
    Transformer (arXiv:2412.09871), and the mean of each `stride` bytes becomes one element; they let a small model learn words
    from little text.
    """

    vocab_size: int = 262
    positions: int = 2048
    width: int = 768
    grams: tuple[int, ...] = ()    # n-gram lengths in bytes; none, as published
    buckets: int = 8192            # hash table rows per length
    stride: int = 1

    def __post_init__(self) -> None:
        if any(size < 2 for size in self.grams) or self.stride < 1:
            raise ValueError(f"grams={self.grams} must be of at least 2 bytes, and stride={self.stride} at least 1")


class Text(nn.Module):
    """ids int64 (B, M) -> (B, M / stride, width). Raises ValueError where a text is longer than the positions."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config, self.channels = config, config.width
        self.table = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.positions, config.width)
        self.grams = nn.Embedding(len(config.grams) * config.buckets, config.width) if config.grams else None

    def forward(self, ids: Tensor) -> Tensor:
        if ids.shape[1] > self.config.positions:
            raise ValueError(f"a text of {ids.shape[1]} bytes does not fit the model's {self.config.positions} positions; "
                             "cut it")
        x, stride = self.table(ids), self.config.stride
        if self.grams is not None:
            for row in hashes(ids, self.config.grams, self.config.buckets):
                x = x + self.grams(row)
        if stride > 1:
            x = F.avg_pool1d(x.mT, stride, ceil_mode=True).mT
        if self.grams is not None:
            x = F.layer_norm(x, x.shape[2:])      # or positions would weigh more than words at first
        return x + self.positions.weight[:ids.shape[1]:stride]

    def elements(self, mask: Tensor | None) -> Tensor | None:
        """bool (B, M), False at padding -> (B, M / stride), False at elements of padding alone."""
        if mask is None or self.config.stride == 1:
            return mask
        return F.max_pool1d(mask[:, None].float(), self.config.stride, ceil_mode=True)[:, 0] > 0


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """A picture, in one of four ways.

    `pixels`: raw values and Fourier features. `conv1x1`: 1x1 convolution to 256 channels, and learned positions through a
    linear layer. `conv`: 7x7 convolution of stride 2, batch norm, ReLU and 3x3 pooling of stride 2, and Fourier features.
    `stem`, which is not published: three 3x3 convolutions, each with batch norm and ReLU, the first two with 2x2 pooling, and
    Fourier features; a small model with few pictures reaches a better accuracy with it.
    """

    kind: Literal["pixels", "conv1x1", "conv", "stem"] = "pixels"
    size: tuple[int, int] = (224, 224)        # rows, columns; the highest frequency, or the grid of learned positions
    channels: int = 3
    bands: int = 64
    # of `conv`: DeepMind pads as TensorFlow's SAME does, 224 pixels give 56x56 elements; Hugging Face evenly, which gives 55x55
    padding: Literal["even", "same"] = "even"


class Pixels(nn.Module):
    """(B, C, H, W) of any size -> (B, H * W, C + Fourier)."""

    def __init__(self, config: ImageConfig, values: int | None = None) -> None:
        """values: channels of `features`; None: the picture's."""
        super().__init__()
        self.config, self.channels = config, (values or config.channels) + fourier_channels(2, config.bands)

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, values, rows, columns)."""
        return images

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)
        return join(x.flatten(2).mT, fourier_grid(tuple(x.shape[2:]), self.config.bands, self.config.size, x.device))


class LearnedPixels(nn.Module):
    """(B, C, H, W) -> (B, H * W, 512); for another size than the trained one the positions are interpolated."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        width = 256   # as published, for both halves
        self.config, self.channels = config, 2 * width
        self.mix = nn.Linear(config.channels, width)                      # a 1x1 convolution
        self.positions = nn.Parameter(torch.empty(math.prod(config.size), width))
        self.project = nn.Linear(width, width)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        return join(self.mix(images.flatten(2).mT), self.project(self.positions_for(tuple(images.shape[2:]))))

    def positions_for(self, size: tuple[int, ...]) -> Tensor:
        """(H * W, 256)."""
        if size == self.config.size:
            return self.positions
        grid = self.positions.unflatten(0, self.config.size).permute(2, 0, 1)[None]          # (1, 256, rows, columns)
        return F.interpolate(grid, size=size, mode="bicubic", align_corners=False)[0].flatten(1).mT


class Conv(Pixels):
    """(B, C, H, W) of any size -> (B, about H/4 * W/4, 64 + Fourier)."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__(config, 64)
        self.conv = nn.Conv2d(config.channels, 64, 7, stride=2, bias=False)
        self.norm = BatchNorm2d(64)

    def features(self, images: Tensor) -> Tensor:
        same = self.config.padding == "same"
        x = F.relu(self.norm(self.conv(pad_same(images, 7, 2) if same else F.pad(images, (3, 3, 3, 3)))))
        return F.max_pool2d(pad_same(x, 3, 2) if same else x, 3, 2)      # zeros as padding: nothing is below 0 after the ReLU


class Stem(Pixels):
    """(B, C, H, W) of any size -> (B, H/4 * W/4, 128 + Fourier)."""

    WIDTHS = (48, 96, 128)

    def __init__(self, config: ImageConfig) -> None:
        super().__init__(config, self.WIDTHS[-1])
        inputs = (config.channels, *self.WIDTHS)
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in zip(inputs, inputs[1:], strict=False))
        self.norms = nn.ModuleList(BatchNorm2d(width) for width in self.WIDTHS)

    def features(self, images: Tensor) -> Tensor:
        x = images
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm(conv(x)))
            x = F.max_pool2d(x, 2) if number < 2 else x
        return x


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zero padding of (B, C, H, W) as TensorFlow's SAME: ceil(size / stride) outputs; an odd zero goes to the end."""
    pads: list[int] = []
    for size in reversed(x.shape[2:]):
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


@dataclass(frozen=True, kw_only=True)
class PatchesConfig:
    """Blocks of a picture, of a video or of two frames, and Fourier features; `project` > 0: a linear layer first."""

    block: tuple[int, int, int] = (1, 4, 4)          # frames, rows, columns
    channels: int = 3
    bands: int = 32
    resolution: tuple[int, ...] = (16, 56, 56)       # blocks per dimension; two numbers where the block spans all frames
    project: int = 0


class Patches(nn.Module):
    """Frames (B, T, C, H, W), or pictures (B, C, H, W) -> (B, blocks, values + Fourier)."""

    def __init__(self, config: PatchesConfig) -> None:
        super().__init__()
        values = math.prod(config.block) * config.channels
        self.config = config
        self.channels = (config.project or values) + fourier_channels(len(config.resolution), config.bands)
        self.project = nn.Linear(values, config.project) if config.project else nn.Identity()

    def forward(self, frames: Tensor) -> Tensor:
        blocks = space_to_depth(frames if frames.ndim == 5 else frames[:, None], self.config.block)
        grid = tuple(blocks.shape[1:4])
        if len(self.config.resolution) == 2:
            if grid[0] != 1:
                raise ValueError(f"{frames.shape[1]} frames came, this model reads {self.config.block[0]} at a time")
            grid = grid[1:]
        positions = fourier_grid(grid, self.config.bands, self.config.resolution, frames.device)
        return join(self.project(blocks.flatten(1, 3)), positions)


@dataclass(frozen=True, kw_only=True)
class AudioConfig:
    """Raw sound in patches, and Fourier features in one dimension."""

    patch: int = 16               # samples
    bands: int = 192
    resolution: int = 30720       # samples of a whole clip: 16 frames at 25 per second, 48 kHz


class Audio(nn.Module):
    """Samples (B, n) or (B, n, 1) in [-1, 1] -> (B, n / patch, patch + Fourier). Raises ValueError where n is no multiple."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config, self.channels = config, config.patch + fourier_channels(1, config.bands)

    def forward(self, samples: Tensor) -> Tensor:
        samples = samples.flatten(1)
        if samples.shape[1] % self.config.patch:
            raise ValueError(f"{samples.shape[1]} samples of sound do not split into patches of {self.config.patch}; "
                             "cut or pad them")
        patches = samples.unflatten(1, (-1, self.config.patch))
        grid = fourier_grid((patches.shape[1],), self.config.bands, (self.config.resolution,), samples.device)
        return join(patches, grid)


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """Sound as a log-mel spectrogram, the papers' other input for AudioSet."""

    rate: int = 16000             # samples per second
    window: int = 512             # samples of a frame
    hop: int = 160                # samples from frame to frame
    mels: int = 64                # mel bands of a frame
    stack: int = 2                # frames of an element
    bands: int = 16               # of the Fourier features of time
    resolution: int = 50          # elements of a clip


class Mel(nn.Module):
    """Samples (B, n) -> (B, n / hop / stack, stack * mels + Fourier): log energies, mean 0 and std 1 per clip."""

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config, self.channels = config, config.stack * config.mels + fourier_channels(1, config.bands)

    def forward(self, samples: Tensor) -> Tensor:
        config = self.config
        with torch.autocast(samples.device.type, enabled=False):    # squares of 16-bit sound do not fit bf16's eight bits
            window = torch.hann_window(config.window, device=samples.device)
            waves = torch.stft(samples.float(), config.window, config.hop, window=window, return_complex=True)
            energy = waves.abs().square().mT @ mel_filters(config.rate, config.window, config.mels, samples.device)
            loud = F.layer_norm(energy.add(1e-6).log(), energy.shape[1:])                    # (B, frames, mels)
        elements = loud[:, :loud.shape[1] // config.stack * config.stack].unflatten(1, (-1, config.stack)).flatten(2)
        grid = fourier_grid((elements.shape[1],), config.bands, (config.resolution,), samples.device)
        return join(elements, grid)


@dataclass(frozen=True, kw_only=True)
class PointsConfig:
    """A cloud of points: Fourier features of each point's own coordinates, as the original Perceiver on ModelNet40."""

    dims: int = 3
    extra: int = 0                # values after the coordinates that are passed on unchanged, such as the 3 of a normal
    bands: int = 64
    resolution: int = 1120        # cells per dimension, for the highest frequency


class Points(nn.Module):
    """Coordinates (B, M, dims + extra), in [-1, 1] -> (B, M, Fourier + extra)."""

    def __init__(self, config: PointsConfig) -> None:
        super().__init__()
        self.config, self.channels = config, fourier_channels(config.dims, config.bands) + config.extra

    def forward(self, points: Tensor) -> Tensor:
        config = self.config
        features = fourier(points[..., :config.dims], config.bands, [config.resolution] * config.dims)
        return torch.cat([features, points[..., config.dims:]], dim=-1) if config.extra else features


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """One class, as one element."""

    labels: int = 700


class Label(nn.Module):
    """One-hot or soft labels (B, labels) -> (B, 1, labels)."""

    def __init__(self, config: LabelConfig) -> None:
        super().__init__()
        self.channels = config.labels

    def forward(self, label: Tensor) -> Tensor:
        return label[:, None]


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Several modalities in one sequence of elements, in the order of their names.

    Each is padded to a common width, that of the widest plus `margin`, with a learned vector, which also marks the modality.
    """

    modalities: Mapping[str, "SingleConfig"]
    margin: int = 4
    # probability that an element is replaced by its modality's mask token in training. At evaluation a modality with a
    # probability above 0 is what the model predicts, and all of it is masked.
    mask_probs: Mapping[str, float] = field(default_factory=dict)


class Mixture(nn.Module):
    """{name: raw input} -> (B, sum of M, channels). Raises ValueError where the names are not the model's."""

    def __init__(self, config: MixtureConfig) -> None:
        super().__init__()
        self.config = config
        self.readers = nn.ModuleDict({name: build_reader(config.modalities[name]) for name in sorted(config.modalities)})
        widths = {name: cast(int, reader.channels) for name, reader in self.readers.items()}
        self.channels = max(widths.values()) + config.margin
        self.padding = nn.ParameterDict({name: torch.empty(1, self.channels - width) for name, width in widths.items()})
        self.masks = nn.ParameterDict({name: torch.empty(1, self.channels) for name in sorted(config.mask_probs)})
        for vector in (*self.padding.values(), *self.masks.values()):
            nn.init.trunc_normal_(vector, std=0.02)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if set(inputs) != set(self.readers):
            raise ValueError(f"the model reads {', '.join(self.readers)}; {', '.join(sorted(inputs)) or 'nothing'} came")
        parts = {name: reader(inputs[name]) for name, reader in self.readers.items()}
        parts = {name: join(part, self.padding[name].expand(part.shape[1], -1)) for name, part in parts.items()}
        return torch.cat([self.mask(name, part) for name, part in parts.items()], dim=1)

    def mask(self, name: str, x: Tensor) -> Tensor:
        """Replaces some elements (in training) or all of them by the modality's mask token, see MixtureConfig."""
        if not (probability := self.config.mask_probs.get(name, 0.0)):
            return x
        masked = rand(x.shape[:2], x.device, of=ROWS) < (probability if self.training else 1.0)
        return torch.where(masked[..., None], self.masks[name].to(x.dtype), x)


SingleConfig = Union[TextConfig, ImageConfig, PatchesConfig, AudioConfig, MelConfig, PointsConfig, LabelConfig]  # noqa: UP007
ReaderConfig = Union[SingleConfig, MixtureConfig]  # noqa: UP007
Reader = Union[Text, Pixels, LearnedPixels, Conv, Stem, Patches, Audio, Mel, Points, Label, Mixture]  # noqa: UP007


KINDS: dict[type, Callable[[Any], Reader]] = {
    TextConfig: Text, PatchesConfig: Patches, AudioConfig: Audio, MelConfig: Mel, PointsConfig: Points, LabelConfig: Label,
    MixtureConfig: Mixture}
IMAGE_KINDS: dict[str, Callable[[ImageConfig], Reader]] = {
    "pixels": Pixels, "conv1x1": LearnedPixels, "conv": Conv, "stem": Stem}


def build_reader(config: ReaderConfig) -> Reader:
    """The input module of a configuration."""
    return IMAGE_KINDS[config.kind](config) if isinstance(config, ImageConfig) else KINDS[type(config)](config)
