"""data2vec's encoders: bidirectional transformers for pictures, speech and text (arXiv:2202.03555, section 3).

    VisionEncoder   BEiT (2106.08254): patches, a class token, pre-norm, relative position bias, scaled residuals
    SpeechEncoder   wav2vec 2.0 (2006.11477) with five small position convolutions: waveform to 50 vectors a second, post-norm
    TextEncoder     RoBERTa (1907.11692): learned positions, post-norm

All three work in two steps, because the objective masks between them: `features` maps inputs to one local vector per position
(patch, speech frame or token), `encode` runs the transformer over them. What differs from the published code: query, key and
value are one matrix, and the key bias that BEiT lacks is zero (a bias of the keys adds one constant to all scores of a query,
which the softmax cancels).

Legend: B batch, T positions, S positions with the class token, K unmasked positions, H heads.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..training.batch_part import ROWS, dropout, rand

RelativePositions = Literal["none", "shared", "per-layer"]
SHORT = 512   # positions up to which attention on a CPU in bf16 is two plain products


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The fields that the three have in common; base size by default."""

    width: int = 768            # divisible by heads
    depth: int = 12             # blocks
    heads: int = 12
    feedforward: int = 3072     # hidden width of the feed-forward
    epsilon: float = 1e-5       # of the layer norms
    dropout: float = 0.0        # of each sublayer's output
    drop_path: float = 0.0      # stochastic depth: probability that a sample skips the last block in training

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width={self.width} is not divisible by heads={self.heads}")
        if not (0 <= self.dropout < 1 and 0 <= self.drop_path < 1):
            raise ValueError(f"dropout={self.dropout} and drop_path={self.drop_path} must be in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class VisionEncoderConfig(TransformerConfig):
    """BEiT as data2vec uses it."""

    epsilon: float = 1e-6
    image_size: int = 224                           # pixels a side; positions are interpolated for other sizes
    patch_size: int = 16
    channels: int = 3
    absolute_positions: bool = False
    relative_positions: RelativePositions = "shared"
    layer_scale: float = 1e-4                       # initial factor of each sublayer's output; 0: none
    final_norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size={self.image_size} is not a multiple of patch_size={self.patch_size}")


@dataclass(frozen=True, kw_only=True)
class SpeechEncoderConfig(TransformerConfig):
    """wav2vec 2.0 as data2vec uses it: 16 kHz in, 50 Hz out."""

    sample_rate: int = 16_000   # of its inputs; nothing in the network depends on it
    conv_channels: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    position_layers: int = 5
    position_kernel: int = 19
    position_groups: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.conv_channels) == len(self.conv_kernels) == len(self.conv_strides) > 0:
            raise ValueError("conv_channels, conv_kernels and conv_strides must be equally long, not "
                             f"{len(self.conv_channels)}, {len(self.conv_kernels)} and {len(self.conv_strides)}")

    def samples(self, vectors: int) -> int:
        """Samples of the shortest input that gives so many vectors; of 1, its receptive field, 400 = 25 ms at 16 kHz."""
        for kernel, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides), strict=True):
            vectors = (vectors - 1) * stride + kernel
        return vectors

    def lengths(self, samples: Tensor) -> Tensor:
        """Number of vectors for int64 (B,) samples."""
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig(TransformerConfig):
    """RoBERTa."""

    vocab_size: int = 50_265
    max_length: int = 512       # tokens
    pad: int = 1                # id of padding
    mask: int = 50_264          # id of [MASK]


@dataclass(frozen=True)
class Features:
    """Local vectors, one per position, before the transformer.

    Attributes:
        x: float (B, T, width), without positions.
        real: bool (B, T), False at padding; None: there is none.
        grid: positions along each axis: (rows, columns) of patches, or (T,).
    """

    x: Tensor
    real: Tensor | None
    grid: tuple[int, ...]

    def repeat(self, copies: int) -> "Features":
        """Each sample `copies` times in a row."""
        real = None if self.real is None else self.real.repeat_interleave(copies, 0)
        return Features(self.x.repeat_interleave(copies, 0), real, self.grid)


@dataclass(frozen=True)
class Encoded:
    """A transformer's output at S positions.

    Attributes:
        hidden: (B, S, width), the output.
        states: depth + 1 tensors (B, S, width): the first block's input, then each block's output.
        feedforwards: depth tensors (B, S, width): each feed-forward's output before it joins the residual stream.
    """

    hidden: Tensor
    states: tuple[Tensor, ...]
    feedforwards: tuple[Tensor, ...]


class Block(nn.Module):
    """Attention and feed-forward, normalised before (BEiT) or after (the others) the residual."""

    def __init__(self, config: TransformerConfig, drop_path: float, layer_scale: float | None) -> None:
        super().__init__()
        self.heads, self.dropout, self.drop_path = config.heads, config.dropout, drop_path
        self.pre_norm = layer_scale is not None
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm_attention = nn.LayerNorm(config.width, eps=config.epsilon)
        self.up = nn.Linear(config.width, config.feedforward)
        self.down = nn.Linear(config.feedforward, config.width)
        self.norm_feedforward = nn.LayerNorm(config.width, eps=config.epsilon)
        self.scales = nn.Parameter(torch.full((2, config.width), layer_scale)) if layer_scale else None

    def forward(self, x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, S, width), scores' bias (1 or B, 1 or H, 1 or S, S) -> output and the feed-forward's own output."""
        if self.pre_norm:
            x = x + self.branch(self.attend(self.norm_attention(x), bias), 0)
            fed = self.feed(self.norm_feedforward(x))
            return x + self.branch(fed, 1), fed
        x = self.norm_attention(x + self.branch(self.attend(x, bias), 0))
        fed = self.feed(x)
        return self.norm_feedforward(x + self.branch(fed, 1)), fed

    def attend(self, x: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        plain = q.is_cpu and q.dtype == torch.bfloat16 and x.shape[1] <= SHORT
        mix = plain_attention if plain else F.scaled_dot_product_attention
        return self.out(mix(q, k, v, None if bias is None else bias.to(q.dtype)).transpose(1, 2).flatten(2))

    def feed(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))

    def branch(self, x: Tensor, sublayer: int) -> Tensor:
        """A sublayer's output as it joins the residual stream."""
        x = dropout(x, self.dropout, self.training)
        if self.scales is not None:
            x = self.scales[sublayer] * x
        if not (self.training and self.drop_path):
            return x
        kept = rand((x.shape[0], 1, 1), x.device, of=ROWS) >= self.drop_path
        return x * kept / (1 - self.drop_path)


class Transformer(nn.Module):
    """The blocks, and for pre-norm a norm at the end."""

    def __init__(self, config: TransformerConfig, layer_scale: float | None = None, final_norm: bool = False) -> None:
        super().__init__()
        self.dropout = config.dropout
        rates = [config.drop_path * i / max(1, config.depth - 1) for i in range(config.depth)]
        self.blocks = cast(Sequence[Block], nn.ModuleList(Block(config, rate, layer_scale) for rate in rates))
        self.norm = nn.LayerNorm(config.width, eps=config.epsilon) if final_norm else nn.Identity()

    def forward(self, x: Tensor, biases: Sequence[Tensor | None]) -> Encoded:
        """biases: one per block, or one for all."""
        states, feedforwards = [x], []
        for block, bias in zip(self.blocks, biases if len(biases) > 1 else [*biases] * len(self.blocks), strict=True):
            x, fed = block(x, bias)
            states.append(x)
            feedforwards.append(fed)
        return Encoded(self.norm(x), tuple(states), tuple(feedforwards))

    def after_norm(self, norm: nn.Module, x: Tensor, real: Tensor | None) -> Encoded:
        """The blocks after a norm and dropout; real: bool (B, S), False at padding; None: there is none."""
        x = dropout(norm(x), self.dropout, self.training)
        return self(x, [None if real is None else padding_bias(real)])


class Encoder(nn.Module):
    """What the objective needs: a network whose layers have one vector per input position.

    Attributes:
        width: of features and of hidden states.
        prefix: extra positions that `encode` puts before the first one (the class token).
        features: inputs (B, ...) to local vectors; raises ValueError where the encoder cannot read them.
    """

    width: int
    prefix = 0
    features: Callable[..., Features]

    def forward(self, *inputs: Tensor) -> Encoded:
        """Inputs of `features` -> output, nothing masked."""
        return self.encode(self.features(*inputs))

    def encode(self, features: Features, masked: Tensor | None = None, kept: Tensor | None = None) -> Encoded:
        """Run the transformer.

        Args:
            masked: bool (B, T), True where the vector is replaced by the mask vector.
            kept: int64 (B, K) instead: indices of the only positions that are encoded, ascending; padded with -1.
        """
        raise NotImplementedError


class VisionEncoder(Encoder):
    """Pictures (B, channels, height, width in pixels) -> (B, 1 + patches, width); the class token comes first."""

    prefix = 1

    def __init__(self, config: VisionEncoderConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        side = config.image_size // config.patch_size
        self.patches = nn.Conv2d(config.channels, config.width, config.patch_size, stride=config.patch_size)
        self.class_token = nn.Parameter(torch.randn(config.width) * 0.02)
        self.mask_token = nn.Parameter(torch.randn(config.width) * 0.02)
        positions = torch.randn(1 + side * side, config.width) * 0.02
        self.positions = nn.Parameter(positions) if config.absolute_positions else None
        tables = {"none": 0, "shared": 1, "per-layer": config.depth}[config.relative_positions]
        # one bias per head and offset (rows, columns), then class to patch, patch to class, class to class
        self.tables = nn.ParameterList(torch.zeros((2 * side - 1) ** 2 + 3, config.heads) for _ in range(tables))
        self.transformer = Transformer(config, config.layer_scale, config.final_norm)
        initialize(self)

    def features(self, images: Tensor) -> Features:
        """See Encoder."""
        config = self.config
        if images.ndim != 4 or images.shape[1] != config.channels or any(s % config.patch_size for s in images.shape[2:]):
            raise ValueError(f"pictures of shape {tuple(images.shape)} do not fit: expected (batch, {config.channels}, height, "
                             f"width) with sides that are multiples of {config.patch_size}; resize or crop them")
        x = self.patches(images)                                       # (B, width, rows, columns)
        return Features(x.flatten(2).transpose(1, 2), None, tuple(x.shape[2:]))

    def encode(self, features: Features, masked: Tensor | None = None, kept: Tensor | None = None) -> Encoded:
        """See Encoder."""
        x, rows, columns = features.x, *features.grid
        if masked is not None:
            x = torch.where(masked[..., None], self.mask_token.to(x.dtype), x)
        first: Tensor = self.class_token
        if self.positions is not None:
            x, first = x + self.patch_positions(rows, columns), first + self.positions[0]
        x, real = select(x, None, kept)
        x = torch.cat([first.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        padding = None if real is None else padding_bias(F.pad(real, (1, 0), value=True))
        biases = [self.relative_bias(table, rows, columns, kept) for table in self.tables]
        return self.transformer(x, [bias if padding is None else bias + padding for bias in biases] or [padding])

    def patch_positions(self, rows: int, columns: int) -> Tensor:
        """(T, width); bicubic for other sizes."""
        assert self.positions is not None
        side = self.config.image_size // self.config.patch_size
        if (rows, columns) == (side, side):
            return self.positions[1:]
        grid = self.positions[1:].T.unflatten(1, (side, side))[None]   # (1, width, side, side)
        return F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)[0].flatten(1).T

    def relative_bias(self, table: Tensor, rows: int, columns: int, kept: Tensor | None) -> Tensor:
        """(1 or B, H, S, S); the table is interpolated bilinearly for other sizes."""
        side = 2 * (self.config.image_size // self.config.patch_size) - 1
        shape = (2 * rows - 1, 2 * columns - 1)
        if shape != (side, side):
            offsets = table[:-3].T.unflatten(1, (side, side))[None]
            offsets = F.interpolate(offsets, size=shape, mode="bilinear")[0].flatten(1).T
            table = torch.cat([offsets, table[-3:]])
        bias = table[relative_index(rows, columns, table.device)].permute(2, 0, 1)[None]   # (1, H, S, S)
        if kept is None:
            return bias
        index = F.pad(kept.clamp(min=0) + 1, (1, 0))                                       # (B, 1 + K), the class token first
        return bias[0][:, index[:, :, None], index[:, None, :]].transpose(0, 1)


class SpeechEncoder(Encoder):
    """Waveforms (B, samples), zero mean and unit variance (see standardize) -> (B, about 50 a second, width).

    As in the published models, padding is no longer zero after the first position convolution. The last vectors of a sound
    therefore depend on the length of its padding: a row differs a little from the same sound encoded alone.
    """

    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        inputs = (1, *config.conv_channels[:-1])
        sizes = zip(inputs, config.conv_channels, config.conv_kernels, config.conv_strides, strict=True)
        self.convs = nn.ModuleList(nn.Conv1d(i, o, k, stride=s, bias=config.conv_bias) for i, o, k, s in sizes)
        self.conv_norms = nn.ModuleList(nn.LayerNorm(o) for o in config.conv_channels)
        self.projection_norm = nn.LayerNorm(config.conv_channels[-1], eps=config.epsilon)
        self.projection = nn.Linear(config.conv_channels[-1], config.width)
        self.mask_token = nn.Parameter(torch.empty(config.width).uniform_())
        self.position_convs = nn.ModuleList(
            nn.Conv1d(config.width, config.width, config.position_kernel, padding=config.position_kernel // 2,
                      groups=config.position_groups) for _ in range(config.position_layers))
        self.norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.transformer = Transformer(config)
        initialize(self)

    def features(self, waveforms: Tensor, lengths: Tensor | None = None) -> Features:
        """lengths: int64 (B,) real samples per row; None: all."""
        shortest, needed = waveforms.shape[-1] if lengths is None else int(lengths.min()), self.config.samples(1)
        if waveforms.ndim != 2 or shortest < needed:
            raise ValueError(f"sounds of shape {tuple(waveforms.shape)}, the shortest of {shortest} samples, do not fit: "
                             f"expected (batch, samples), at least {needed} each; drop or pad shorter ones")
        x = waveforms[:, None]
        for conv, norm in zip(self.convs, self.conv_norms, strict=True):
            x = F.gelu(norm(conv(x).transpose(1, 2)).transpose(1, 2))             # (B, channels, shorter)
        x = self.projection(self.projection_norm(x.transpose(1, 2)))              # (B, T, width)
        index = torch.arange(x.shape[1], device=x.device)
        real = None if lengths is None else index < self.config.lengths(lengths)[:, None]
        return Features(x, real, (x.shape[1],))

    def encode(self, features: Features, masked: Tensor | None = None, kept: Tensor | None = None) -> Encoded:
        """See Encoder. With `kept`, other positions are zero in the position convolutions (2212.07525, section 3)."""
        x, real = features.x, features.real
        if masked is not None:
            x = torch.where(masked[..., None], self.mask_token.to(x.dtype), x)
        if real is not None:
            x = x * real[..., None]
        if kept is not None:
            x = x * ~not_kept(kept, x.shape[1])[..., None]
        return self.transformer.after_norm(self.norm, *select(x + self.convolve_positions(x), real, kept))

    def convolve_positions(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        length = x.shape[1]
        for conv in self.position_convs:
            x = conv(x.transpose(1, 2))[..., :length].transpose(1, 2)             # an even kernel gives one too many
            x = F.gelu(F.layer_norm(x, x.shape[-1:]))
        return x


class TextEncoder(Encoder):
    """Ids (B, T), padded on the right with `pad` -> (B, T, width)."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.table = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.max_length + config.pad + 1, config.width)   # rows up to `pad` are for padding
        self.norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.transformer = Transformer(config)
        initialize(self)
        # 0.02 suits a width of 768; the attention scores of a narrow encoder would be nearly zero
        for module in self.transformer.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features ** -0.5)

    def features(self, ids: Tensor) -> Features:
        """See Encoder."""
        config = self.config
        low, high = (int(n) for n in ids.aminmax())
        if ids.ndim != 2 or ids.shape[1] > config.max_length or low < 0 or high >= config.vocab_size:
            raise ValueError(f"ids of shape {tuple(ids.shape)} from {low} to {high} do not fit: expected (batch, at most "
                             f"{config.max_length}) in [0, {config.vocab_size}); cut the text or check the tokenizer")
        real = ids != config.pad
        return Features(self.table(ids), None if bool(real.all()) else real, (ids.shape[1],))

    def encode(self, features: Features, masked: Tensor | None = None, kept: Tensor | None = None) -> Encoded:
        """See Encoder. A masked position gets the embedding of [MASK]."""
        x, real, pad = features.x, features.real, self.config.pad
        if masked is not None:
            x = torch.where(masked[..., None], self.table.weight[self.config.mask].to(x.dtype), x)
        index = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        if real is not None:
            index = torch.where(real, real.cumsum(1) - 1, -1)                             # padding has a position of its own
        return self.transformer.after_norm(self.norm, *select(x + self.positions(index + pad + 1), real, kept))


def initialize(encoder: nn.Module) -> None:
    """BERT's: matrices N(0, 0.02), biases 0; 1D convolutions as He et al. (1502.01852), so that activations do not vanish."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)


def standardize(waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
    """(B, samples) to zero mean and unit variance per sound, padding to 0: the input format of the speech encoder."""
    real = torch.ones_like(waveforms, dtype=torch.bool)
    if lengths is not None:
        real = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]
    count = real.sum(1, keepdim=True)
    centred = (waveforms - (waveforms * real).sum(1, keepdim=True) / count) * real
    return centred / (centred.square().sum(1, keepdim=True) / count + 1e-7).sqrt()


def relative_index(rows: int, columns: int, device: torch.device) -> Tensor:
    """int64 (S, S): the table's row for each pair of positions, the class token first.

    Patches at (r, c) and (s, d) get the row of their offset, (r - s + rows - 1) * (2 * columns - 1) + c - d + columns - 1.
    """
    r, c = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    r, c = r.flatten(), c.flatten()
    offsets = (r[:, None] - r + rows - 1) * (2 * columns - 1) + (c[:, None] - c + columns - 1)
    extra = (2 * rows - 1) * (2 * columns - 1)
    index = F.pad(offsets, (1, 0, 1, 0))
    index[0, :], index[:, 0], index[0, 0] = extra, extra + 1, extra + 2
    return index


def plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """F.scaled_dot_product_attention as two matrix products: on CPUs its own backward pass in bf16 is several times slower.

    Measured forward and backward, one thread of an AVX-512 bf16 CPU: 15 instead of 107 ms for 512 rows of 13 positions and 3
    heads (a 2.0 student's), 12 instead of 51 for 64 of 65, 4 instead of 10 for 2 of 197 with 6 heads.
    """
    with torch.autocast(q.device.type, enabled=False):    # autocast would compute the softmax in fp32
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return (scores if bias is None else scores + bias).softmax(-1) @ v


def select(x: Tensor, real: Tensor | None, kept: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The kept positions (B, K, width) of x (B, T, width), and which of them are real; None: all."""
    if kept is None:
        return x, real
    chosen = x.gather(1, kept.clamp(min=0)[..., None].expand(-1, -1, x.shape[-1]))
    chosen_real = kept >= 0
    if real is not None:
        chosen_real = chosen_real & real.gather(1, kept.clamp(min=0))
    return chosen, None if bool(chosen_real.all()) else chosen_real


def not_kept(kept: Tensor, length: int) -> Tensor:
    """bool (B, T): True at the positions that are not in kept (B, K)."""
    out = torch.ones(len(kept), length + 1, dtype=torch.bool, device=kept.device)
    return out.scatter(1, torch.where(kept < 0, length, kept), False)[:, :length]   # padding lands in a column that is cut off


def padding_bias(real: Tensor) -> Tensor:
    """bool (B, S) -> (B, 1, 1, S): minus infinity at padding, so that it gets no attention."""
    return torch.zeros(real.shape, device=real.device).masked_fill(~real, -math.inf)[:, None, None]

