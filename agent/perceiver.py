"""`perceiver`: Perceiver IO (arXiv:2107.14795) and the original Perceiver (2103.03206).

A small array of latents reads inputs of any length by cross-attention, works on itself, and is read out by queries of any
number: the price is linear in inputs and outputs. Pre-norm blocks with biases, feed-forwards as wide as the stream.
What differs from the releases of DeepMind and Hugging Face, none of it in the numbers:
- a cross-attention with one head never projects its inputs (`CrossAttend.folded`), a third of the work of reading a picture,
  or, where there are more queries than inputs, its queries (`CrossAttend.folded_queries`);
- latents and learned queries are projected once, not once per sample;
- attention goes through `scaled_dot_product_attention`, which keeps no matrix of scores;
- just the outputs that are asked for are decoded, and an input is encoded once for all of them.
Where the two releases differ in the numbers a field of the configuration chooses; `hf_exact` and `dm_exact` set them all.

perceiver_inputs.py has what comes in, perceiver_sizes.py the published sizes, perceiver_weights.py reads published weights.

Legend: B batch, M input elements, N latents, Q queries, C channels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .perceiver_inputs import (
    PAD,
    AudioConfig,
    LabelConfig,
    MixtureConfig,
    PatchesConfig,
    ReaderConfig,
    Text,
    TextConfig,
    build_reader,
    fourier_cells,
    fourier_channels,
)

ALIGNED = 16                     # channels: matrix products of other widths are slower
SMALL_SCORES = 1 << 23           # numbers in a batch's matrices of scores: 16 MB in bf16
Gelu = Literal["none", "tanh"]   # exact, as Hugging Face; tanh approximation, as DeepMind


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """The latents, how they read the input, and the layers that work on them."""

    latents: int = 256
    width: int = 512
    blocks: int = 1               # the same layers, run so many times over
    layers: int = 6               # self-attention layers in a block
    heads: int = 8
    cross_attends: int = 1        # input read before each of the first blocks; from the second one on with the same weights
    cross_heads: int = 1
    qk_channels: int | None = None    # of all attention here; None: the input's in the cross-attention, the width in layers
    v_channels: int | None = None     # None: as qk_channels
    cross_shape: Literal["kv", "q"] = "kv"   # what a cross-attention's qk_channels follow where they are not given
    widening: int = 1             # feed-forward width of the layers, in multiples of the width
    cross_widening: int = 1
    query_residual: bool = True
    gelu: Gelu = "none"
    wipe_masked: bool = False     # DeepMind: a query that is masked, or may read nothing, attends to zeros

    def __post_init__(self) -> None:
        for channels in (self.qk_channels or self.width, self.v_channels or self.qk_channels or self.width):
            if channels % self.heads:
                raise ValueError(f"{channels} channels do not split into {self.heads} heads; change heads= or the channels")
        if not 1 <= self.cross_attends <= self.blocks:
            raise ValueError(f"cross_attends={self.cross_attends} must be between 1 and blocks={self.blocks}")


# ---- layers ----------------------------------------------------------------------------------------------------------------

def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Softmax attention: (B, heads, Q, c), (B, heads, M, c) twice -> (B, heads, Q, c).

    torch's kernel keeps no matrix of scores. In training on a CPU three plain steps are taken instead where that matrix is
    small and in bf16 (forward and backward of 64 x 64 scores take a quarter of the time), or where keys and values are raw
    input and not much smaller than it: the kernel works out the gradient of raw input, too (256 latents that read 50,176
    pixels take 0.4 of the time without).
    """
    bf16 = q.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    small = bf16 and q.shape[:3].numel() * k.shape[2] <= SMALL_SCORES
    raw = not k.requires_grad and q.shape[2] <= 2 * k.shape[3]
    if not (torch.is_grad_enabled() and q.device.type == "cpu" and (small or raw)):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    scores = (q * (scale or q.shape[3] ** -0.5)) @ k.mT
    return (scores if bias is None else scores + bias).softmax(dim=-1).to(v.dtype) @ v


class FeedForward(nn.Module):
    """norm, up, GELU, down; the residual is the caller's."""

    def __init__(self, width: int, widening: int, gelu: Gelu) -> None:
        super().__init__()
        self.gelu = gelu
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, widening * width), nn.Linear(widening * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """All but the last matrix."""
        return F.gelu(self.up(self.norm(x)), approximate=self.gelu)

    def aligned(self, x: Tensor) -> Tensor:
        """`hidden`; without gradient with zeros behind its channels, up to a multiple of ALIGNED.

        6,272 rows of 1,026 channels (the published autoencoder's) take 95 ms on two threads of a CPU, of 1,040 channels 75.
        """
        more_in, more_out = -self.up.in_features % ALIGNED, -self.up.out_features % ALIGNED
        if torch.is_grad_enabled() or not (more_in or more_out):
            return self.hidden(x)
        weight, bias = F.pad(self.up.weight, (0, more_in, 0, more_out)), F.pad(self.up.bias, (0, more_out))
        return F.gelu(F.linear(F.pad(self.norm(x), (0, more_in)), weight, bias), approximate=self.gelu)


class SelfAttend(nn.Module):
    """x + attention(norm(x)), then x + feedforward(x)."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        qk = config.qk_channels or config.width
        v = config.v_channels or qk
        self.heads, self.split = config.heads, [qk, qk, v]
        self.norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 2 * qk + v)
        self.out = nn.Linear(v, config.width)
        self.feedforward = FeedForward(config.width, config.widening, config.gelu)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm(x)).split(self.split, dim=-1))
        mixed = attend(q, k, v)                                               # (B, heads, N, C / heads)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.feedforward(x)


class Moved(NamedTuple):
    """Inputs as `CrossAttend.folded_queries` reads them: the same for all queries, so for many chunks computed once."""

    keys: Tensor      # (B, M, query_channels)
    values: Tensor    # (B, M, query_channels and zeros up to a multiple of ALIGNED)
    bias: Tensor      # (B, M)


class CrossAttend(nn.Module):
    """Queries (1 or B, Q, query_channels) read inputs (B, M, input_channels) -> (B, Q, query_channels)."""

    def __init__(self, config: LatentConfig, query_channels: int, input_channels: int, *, heads: int = 1, widening: int = 1,
                 qk_channels: int | None = None, v_channels: int | None = None, residual: bool = False) -> None:
        super().__init__()
        qk = qk_channels or (input_channels if config.cross_shape == "kv" else query_channels)
        v = v_channels or qk
        if qk % heads or v % heads:
            raise ValueError(f"{qk} channels of keys and {v} of values do not split into {heads} heads of a cross-attention; "
                             "change cross_heads= or give qk_channels= and v_channels=")
        self.heads, self.residual, self.wipe_masked = heads, residual, config.wipe_masked
        self.norm_query, self.norm_input = nn.LayerNorm(query_channels), nn.LayerNorm(input_channels)
        self.query = nn.Linear(query_channels, qk)
        self.key, self.value = nn.Linear(input_channels, qk), nn.Linear(input_channels, v)
        self.out = nn.Linear(v, query_channels)
        self.feedforward = FeedForward(query_channels, widening, config.gelu)

    def forward(self, queries: Tensor, inputs: Tensor, mask: Tensor | None = None, query_mask: Tensor | None = None) -> Tensor:
        """
        Args:
            mask: bool (B, M), True where an input may be read. Where a row has none, all are read alike, as Hugging Face's
                does, unless `wipe_masked`.
            query_mask: bool (B, Q), True where the output matters; of effect with `wipe_masked` only.
        """
        x = self.attended(queries, inputs, mask, query_mask)
        return x + self.feedforward(x)

    def read_out(self, queries: Tensor, inputs: Tensor, weight: Tensor, bias: Tensor, padding: Tensor | None = None,
                 moved: Moved | None = None) -> Tensor:
        """The outputs times a matrix: F.linear(self(queries, inputs), weight, bias).

        The same numbers with one matrix less to multiply each output with: the feed-forward's last one moves into `weight`.

        Args:
            padding: (1, n) channels that stand behind those of each query; None: the queries have all of theirs.
            moved: what `move` made of the inputs, where they are read several times.
        """
        x, down = self.attended(queries, inputs, padding=padding, moved=moved), self.feedforward.down
        hidden, behind = self.feedforward.aligned(x), weight @ down.weight
        behind = F.pad(behind, (0, hidden.shape[-1] - behind.shape[-1]))
        return F.linear(x, weight, bias + weight @ down.bias) + F.linear(hidden, behind)

    def attended(self, queries: Tensor, inputs: Tensor, mask: Tensor | None = None, query_mask: Tensor | None = None,
                 padding: Tensor | None = None, moved: Moved | None = None) -> Tensor:
        """All but the feed-forward."""
        folds = self.folds_queries(queries, inputs, masked=mask is not None or query_mask is not None)
        if padding is not None and (self.residual or not folds):
            queries, padding = torch.cat([queries, padding.expand(*queries.shape[:2], -1)], dim=-1), None
        if folds:
            x = self.folded_queries(queries, self.move(inputs) if moved is None else moved, padding)
            return x + queries if self.residual else x
        q = self.query(self.norm_query(queries))
        bias = None
        if mask is not None:
            # a finite number, also once autocast has rounded it to bf16: a row without inputs must not become NaN
            lowest = torch.finfo(inputs.dtype).min / 2
            bias = torch.zeros(mask.shape, dtype=inputs.dtype, device=inputs.device).masked_fill(~mask, lowest)[:, None, None]
        folds = self.heads == 1 and q.shape[1] < inputs.shape[1] and inputs.shape[2] <= min(q.shape[2], self.value.out_features)
        mixed = self.folded(q, inputs, bias) if folds else self.projected(q, inputs, bias)
        if self.wipe_masked and mask is not None:
            mixed = mixed * mask.any(dim=1)[:, None, None]
        if self.wipe_masked and query_mask is not None:
            mixed = mixed * query_mask[..., None]
        x = self.out(mixed)
        return x + queries if self.residual else x

    def projected(self, q: Tensor, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """As written in the papers: (B, Q, v)."""
        normed = self.norm_input(inputs)
        k, v = self.key(normed), self.value(normed)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q.expand(len(inputs), -1, -1), k, v))
        return attend(q, k, v, bias).transpose(1, 2).flatten(2)

    def folded(self, q: Tensor, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """The same numbers for one head without two projections of every input: 50,176 x 261 x 261 twice for a picture.

        With x normed but not yet scaled by g and shifted by b: the keys' matrix moves to the queries,
        q . ((x g + b) Wk + bk) = x . (g (Wk^T q)) + a number that is the same for all inputs, which the softmax takes out;
        and as weights sum to 1, the values' matrix, scale and shift move behind the weighted sum.
        """
        norm = self.norm_input
        bare = F.layer_norm(inputs, norm.normalized_shape, eps=norm.eps)[:, None]                     # (B, 1, M, C)
        moved = ((q @ self.key.weight) * norm.weight).to(bare.dtype).expand(len(inputs), -1, -1)[:, None]   # (B, 1, Q, C)
        mixed = attend(moved, bare, bare, bias, scale=q.shape[2] ** -0.5)[:, 0]
        return self.value(mixed * norm.weight + norm.bias)

    def folds_queries(self, queries: Tensor, inputs: Tensor, masked: bool) -> bool:
        """Whether `folded_queries` is less work; in training its bias would take torch's fast kernel away."""
        return (self.heads == 1 and not masked and not torch.is_grad_enabled() and queries.shape[1] > inputs.shape[1]
                and queries.shape[2] <= min(self.query.out_features, self.value.out_features))

    def move(self, inputs: Tensor) -> Moved:
        """The inputs for `folded_queries`.

        With queries x normed but not yet scaled by g and shifted by b, (Wq (x g + b) + bq) . k is x . (g (Wq^T k)) plus
        (Wq b + bq) . k: the queries' matrix moves to the keys, the shift becomes a bias of each key, and the outputs' matrix
        moves to the values.
        """
        norm, normed = self.norm_query, self.norm_input(inputs)
        k = self.key(normed)
        values = self.value(normed) @ self.out.weight.mT
        return Moved(keys=(k @ self.query.weight) * norm.weight, values=F.pad(values, (0, -values.shape[2] % ALIGNED)),
                     bias=k.shape[2] ** -0.5 * (k @ self.query(norm.bias)))

    def folded_queries(self, queries: Tensor, moved: Moved, padding: Tensor | None = None) -> Tensor:
        """`folded` the other way round, for many queries that read few inputs: 182,528 pixels' flow out of 2,048 latents."""
        norm, (keys, values, bias) = self.norm_query, moved
        if padding is None:
            bare = F.layer_norm(queries, norm.normalized_shape, eps=norm.eps)
        else:
            bare, keys = self.narrowed(queries, keys, padding)
        bare = bare.expand(len(keys), -1, -1)
        keys, values, bias = (part.to(bare.dtype) for part in (keys, values, bias))
        scale = self.query.out_features ** -0.5
        mixed = attend(bare[:, None], keys[:, None], values[:, None], bias[:, None, None], scale)[:, 0]
        return mixed[..., :self.out.out_features] + self.out.bias

    def narrowed(self, queries: Tensor, keys: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """Normed queries and keys of few channels with the same products, for queries that all end in the same padding.

        A normed query [x p] is ([x p] - mean) / deviation, and its product with a key [k l] is
        (x . k + 1 (p . l) - mean sum([k l])) / deviation: that of [x 1 mean] / deviation and [k, p . l, -sum([k l])].
        """
        own, width = queries.shape[2], queries.shape[2] + padding.shape[1]
        wide = torch.promote_types(queries.dtype, torch.float32)
        x, p = queries.to(wide), padding.to(wide)
        mean = (x.sum(dim=-1, keepdim=True) + p.sum()) / width
        square = (x.square().sum(dim=-1, keepdim=True) + p.square().sum()) / width
        bare = torch.cat([x, torch.ones_like(mean), mean], dim=-1) / (square - mean.square() + self.norm_query.eps).sqrt()
        narrow = torch.cat([keys[..., :own], keys[..., own:] @ padding.mT, -keys.sum(dim=-1, keepdim=True)], dim=-1)
        return bare.to(queries.dtype), narrow


class Encoder(nn.Module):
    """Inputs (B, M, channels) -> latents (B, N, width)."""

    def __init__(self, config: LatentConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.latents = nn.Parameter(torch.empty(config.latents, config.width))
        self.cross_attend = self.make_cross_attend(channels)
        self.cross_attend_again = self.make_cross_attend(channels) if config.cross_attends > 1 else None
        self.layers = nn.ModuleList(SelfAttend(config) for _ in range(config.layers))
        nn.init.trunc_normal_(self.latents, std=0.02)

    def make_cross_attend(self, channels: int) -> CrossAttend:
        """One reading of the input."""
        config = self.config
        return CrossAttend(config, config.width, channels, heads=config.cross_heads, widening=config.cross_widening,
                           qk_channels=config.qk_channels, v_channels=config.v_channels, residual=config.query_residual)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: bool (B, M), True where an input may be read; None: all."""
        x = self.cross_attend(self.latents[None], inputs, mask)
        for block in range(self.config.blocks):
            if self.cross_attend_again is not None and 0 < block < self.config.cross_attends:
                x = self.cross_attend_again(x, inputs, mask)
            for layer in self.layers:
                x = layer(x)
        return x


# ---- masked language -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Bytes in, bytes out.

    near: bytes at each side of a place that its query is made of, beside the place itself. 0, as published: the query knows
        the place alone, and a small model does not get beyond guessing the commonest letters.
    """

    latent: LatentConfig = field(default_factory=LatentConfig)
    text: TextConfig = field(default_factory=TextConfig)
    near: int = 0


class NearBytes(nn.Module):
    """The bytes around places of ids (B, M) -> (B, Q, width); there is padding beyond the ends."""

    def __init__(self, near: int, vocab_size: int, width: int) -> None:
        super().__init__()
        self.near = near
        self.table = nn.Embedding(vocab_size, width // 4)
        self.mix = nn.Sequential(nn.Linear((2 * near + 1) * (width // 4), width), nn.GELU(), nn.Linear(width, width))

    def forward(self, ids: Tensor, places: Tensor) -> Tensor:
        """places: int64 (B, Q)."""
        around = places[..., None] + torch.arange(2 * self.near + 1, device=ids.device)           # (B, Q, 2 near + 1)
        seen = F.pad(ids, (self.near, self.near), value=PAD).gather(1, around.flatten(1)).view_as(around)
        return self.mix(self.table(seen).flatten(2))


class MaskedLanguage(nn.Module):
    """Bytes, some of them masked -> scores of the bytes at chosen places."""

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
            nn.init.normal_(self.near.table.weight)      # no norm follows that would make small ones heard

    def forward(self, ids: Tensor, mask: Tensor | None = None, places: Tensor | None = None) -> Tensor:
        """
        Args:
            ids: int64 (B, M), of bytes (perceiver_inputs.encode_bytes).
            mask: bool (B, M), True at bytes that are there; None: all.
            places: int64 (Q,) or (B, Q): where scores are wanted, and nothing else is worked out; None: at 0 ... M - 1.
        Returns:
            (B, Q, vocab_size). The output head is the transposed embedding table.
        """
        query_mask = None
        if places is None:
            places, query_mask = torch.arange(ids.shape[1], device=ids.device), mask
        latents = self.encoder(self.reader(ids), self.reader.elements(mask))
        places = places if places.ndim == 2 else places[None]
        queries = self.queries[places]
        if self.near is not None:
            there = ids if mask is None else ids.masked_fill(~mask, PAD)
            queries = queries + self.near(there, places.expand(len(ids), -1))
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
    """Raw inputs of its reader -> scores (B, labels)."""

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
        """mask: bool (B, M), True at elements (of text: bytes) that are there; None: all."""
        if isinstance(self.reader, Text):
            mask = self.reader.elements(mask)
        latents = self.encoder(self.reader(inputs), mask)
        pooled = latents.mean(dim=1) if self.decoder is None else self.decoder(self.query[None], latents)[:, 0]
        return self.head(pooled)


# ---- optical flow ----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Two frames in, where each pixel of the first one went out."""

    latent: LatentConfig = field(default_factory=LatentConfig)
    size: tuple[int, int] = (368, 496)    # rows, columns trained on; it sets the Fourier frequencies, other sizes run too
    bands: int = 64
    project: int = 64
    # Not in the paper, whose model learns to compare pixels in 480 epochs: what helps one that sees few pairs.
    search: int = 0               # above 0: each pixel is also compared with those so far around it in the second frame
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
            chunk: pixels decoded at a time where no gradient is wanted, which bounds the memory.
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
    """How unlike each pixel's surroundings are to those of the pixels around it in the other frame.

    Args:
        frames: (B, 2, 3, H, W).
        reach: pixels up, down, left and right.
    Returns:
        (B, H * W, (2 * reach + 1) ** 2), row by row: mean absolute difference of 5x5 pixels, for each pixel of mean 0 and
        deviation 1, or less where all are alike.
    """
    height, width = frames.shape[3:]
    around = F.pad(frames[:, 1], (reach,) * 4, mode="replicate")
    shifts = [(row, column) for row in range(2 * reach + 1) for column in range(2 * reach + 1)]
    unlike = torch.stack([(frames[:, 0] - around[..., row:row + height, column:column + width]).abs().mean(dim=1)
                          for row, column in shifts], dim=1)                    # (B, shifts, H, W)
    unlike = F.avg_pool2d(unlike, 5, stride=1, padding=2, count_include_pad=False)
    return ((unlike - unlike.mean(dim=1, keepdim=True)) / (unlike.std(dim=1, keepdim=True) + 0.02)).flatten(2).mT


# ---- video, sound and label ------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Video, its sound and its label through one set of latents."""

    latent: LatentConfig = field(default_factory=LatentConfig)
    frames: int = 16
    size: tuple[int, int] = (224, 224)         # rows, columns of the decoded video
    resolution: tuple[int, int] = (56, 56)     # rows, columns of 4x4 blocks; it sets the Fourier frequencies
    samples_per_frame: int = 1920
    patch: int = 16                            # samples
    labels: int = 700
    label_channels: int = 1024                 # of the label's query
    channels: int = 512                        # decoded, before each modality's own last layer
    label_mask_prob: float = 0.5               # in training: the label must also be guessed

    @property
    def samples(self) -> int:
        """Of a clip's sound."""
        return self.frames * self.samples_per_frame

    @property
    def video_grid(self) -> tuple[int, int, int]:
        """Frames, rows and columns of the decoded video: one query per pixel."""
        return (self.frames, *self.size)

    @property
    def audio_grid(self) -> tuple[int]:
        """Patches of the decoded sound: one query per patch."""
        return (self.samples // self.patch,)


class Autoencoder(nn.Module):
    """{"image": video, "audio": samples, "label": one-hot} -> latents -> any pixels, any samples, the label."""

    VIDEO_BANDS, AUDIO_BANDS = 32, 192
    MARGIN = 2     # learned channels of the widest query

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.video_resolution = (config.frames, *config.resolution)
        self.reader = build_reader(MixtureConfig(
            modalities={"audio": AudioConfig(patch=config.patch, bands=self.AUDIO_BANDS, resolution=config.samples),
                        "image": PatchesConfig(block=(1, 4, 4), bands=self.VIDEO_BANDS, resolution=self.video_resolution),
                        "label": LabelConfig(labels=config.labels)},
            mask_probs={"audio": 0.0, "image": 0.0, "label": config.label_mask_prob}))
        self.encoder = Encoder(config.latent, self.reader.channels)
        widths = {"audio": fourier_channels(1, self.AUDIO_BANDS), "image": fourier_channels(3, self.VIDEO_BANDS),
                  "label": config.label_channels}
        width = max(widths.values()) + self.MARGIN
        self.label_query = nn.Parameter(torch.empty(1, config.label_channels))
        self.padding = nn.ParameterDict({name: torch.empty(1, width - own) for name, own in widths.items()})
        self.decoder = CrossAttend(config.latent, width, config.latent.width)
        self.shared_head = nn.Linear(width, config.channels)
        self.heads = nn.ModuleDict({"audio": nn.Linear(config.channels, config.patch), "image": nn.Linear(config.channels, 3),
                                    "label": nn.Linear(config.channels, config.labels)})
        for vector in (self.label_query, *self.padding.values()):
            nn.init.trunc_normal_(vector, std=0.02)
        initialise(self)

    def forward(self, inputs: Mapping[str, Tensor], points: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        """`encode`, then `decode`."""
        return self.decode(self.encode(inputs), points)

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """
        Args:
            inputs: image (B, T, 3, H, W), audio (B, samples), label (B, labels). At evaluation the label is not looked at,
                zeros do.
        Returns:
            latents (B, N, width): encode once, decode as often as needed.
        """
        return self.encoder(self.reader(inputs))

    def decode(self, latents: Tensor, points: Mapping[str, Tensor | None], moved: Moved | None = None) -> dict[str, Tensor]:
        """
        Args:
            latents: (B, N, width).
            points: what is wanted: image: int64 (n,), flat indices into (frames, rows, columns); audio: int64 (n,), indices
                of patches; label: None. Outputs do not depend on what else is asked for.
            moved: `decoder.move(latents)`, where they are decoded several times.
        Returns:
            Of the asked: image (B, n, 3), audio (B, n * patch), label (B, labels), not normalised.
        """
        made = {name: self.read_out(name, self.queries(name, points[name], latents)[None], latents, moved)
                for name in sorted(points)}
        return {name: part if name == "image" else part.flatten(1) for name, part in made.items()}

    def read_out(self, name: str, queries: Tensor, latents: Tensor, moved: Moved | None) -> Tensor:
        """One modality's outputs (B, n, its channels); of many queries the two last matrices are multiplied first."""
        shared, head = self.shared_head, cast(nn.Linear, self.heads[name])
        if name == "label":
            made: Tensor = head(shared(self.decoder(queries, latents)))
            return made
        return self.decoder.read_out(queries, latents, head.weight @ shared.weight, head.weight @ shared.bias + head.bias,
                                     self.padding[name].to(queries.dtype), moved)

    def queries(self, name: str, cells: Tensor | None, like: Tensor) -> Tensor:
        """(n, width) of the label, else (n, own channels), behind which the modality's padding stands."""
        config = self.config
        if name == "label":
            return torch.cat([self.label_query, self.padding[name]], dim=-1).to(like.dtype)
        if name not in self.padding or cells is None:
            raise ValueError(f"points for {name!r} are {cells}; give indices for image and audio, None for label, no other key")
        grid, bands, resolution = (config.audio_grid, self.AUDIO_BANDS, (config.samples,)) if name == "audio" else (
            config.video_grid, self.VIDEO_BANDS, self.video_resolution)
        return fourier_cells(cells.to(like.device), grid, bands, resolution).to(like.dtype)

    def reconstruct(self, inputs: Mapping[str, Tensor], chunks: int = 128) -> dict[str, Tensor]:
        """A whole clip, encoded once and decoded in chunks: image (B, T, 3, H, W), audio (B, samples), label (B, labels)."""
        latents = self.encode(inputs)
        moved = None if torch.is_grad_enabled() else self.decoder.move(latents)
        made = {name: torch.cat([self.decode(latents, {name: some}, moved)[name] for some in parts], dim=1)
                for name, parts in self.chunks(chunks).items()}
        return {"image": made["image"].unflatten(1, self.config.video_grid).movedim(-1, 2), "audio": made["audio"],
                "label": self.decode(latents, {"label": None})["label"]}

    def chunks(self, count: int) -> dict[str, tuple[Tensor, ...]]:
        """Points of a whole clip: the pixels in `count` parts of about the same number, the few patches of sound in parts of as
        many."""
        pixels = torch.arange(math.prod(self.config.video_grid)).tensor_split(count)
        return {"image": pixels, "audio": torch.arange(self.config.audio_grid[0]).split(max(1, len(pixels[0])))}


# ---- all of them -----------------------------------------------------------------------------------------------------------

TaskConfig = LanguageConfig | ClassifierConfig | FlowConfig | AutoencoderConfig
TaskModel = MaskedLanguage | Classifier | Flow | Autoencoder


def build(config: TaskConfig) -> TaskModel:
    """The model that a configuration describes, with first weights."""
    match config:
        case LanguageConfig():
            return MaskedLanguage(config)
        case ClassifierConfig():
            return Classifier(config)
        case FlowConfig():
            return Flow(config)
        case AutoencoderConfig():
            return Autoencoder(config)


def initialise(model: nn.Module) -> None:
    """Matrices: deviation 1 / sqrt(fan-in), tables 0.02, biases zero; DeepMind's, with its truncation left out."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
