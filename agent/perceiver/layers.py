"""The layers of Perceiver IO (arXiv:2107.14795) and the original Perceiver (2103.03206).

A small array of latents cross-attends to inputs of any length, then to itself, and queries of any number cross-attend to it:
the cost is linear in inputs and outputs. Pre-norm blocks with biases, feed-forwards as wide as the stream.
What differs from the releases of DeepMind and Hugging Face without changing the outputs:
- a cross-attention with one head never projects its inputs (`CrossAttend.folded`), which saves a third of the work for a
  picture, or, where there are more queries than inputs, its queries (`CrossAttend.folded_queries`);
- latents and learned queries are projected once, not once per sample;
- attention goes through `scaled_dot_product_attention`, which stores no matrix of scores.
Where the outputs of the two releases differ, a field of the configuration chooses.

Legend: B batch, M input elements, N latents, Q queries, C channels.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALIGNED = 16                     # channels: matrix products of other widths are slower
SMALL_SCORES = 1 << 23           # numbers in a batch's matrices of scores: 16 MB in bf16
Gelu = Literal["none", "tanh"]   # exact, as Hugging Face; tanh approximation, as DeepMind


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """The latents, their cross-attention to the input, and their self-attention layers."""

    latents: int = 256
    width: int = 512
    blocks: int = 1               # how often the layers are applied, with shared weights
    layers: int = 6               # self-attention layers in a block
    heads: int = 8
    cross_attends: int = 1        # before each of the first blocks; shared weights from the second one on
    cross_heads: int = 1
    qk_channels: int | None = None    # of all attention here; None: the input's in the cross-attention, the width in layers
    v_channels: int | None = None     # None: as qk_channels
    cross_shape: Literal["kv", "q"] = "kv"   # whose width a cross-attention's qk_channels take where they are None
    widening: int = 1             # feed-forward width of the layers, in multiples of the width
    cross_widening: int = 1
    query_residual: bool = True
    gelu: Gelu = "none"
    wipe_masked: bool = False     # DeepMind: the output of a masked query, or of one without inputs, is zero

    def __post_init__(self) -> None:
        for channels in (self.qk_channels or self.width, self.v_channels or self.qk_channels or self.width):
            if channels % self.heads:
                raise ValueError(f"{channels} channels do not split into {self.heads} heads; change heads= or the channels")
        if not 1 <= self.cross_attends <= self.blocks:
            raise ValueError(f"cross_attends={self.cross_attends} must be between 1 and blocks={self.blocks}")


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Softmax attention: (B, heads, Q, c), (B, heads, M, c) twice -> (B, heads, Q, c).

    torch's kernel stores no matrix of scores. In training on a CPU plain matrix products replace it where that matrix is small
    and in bf16 (forward and backward of 64 x 64 scores take a quarter of the time), or where keys and values are raw inputs,
    whose gradient the kernel would compute, too (256 latents that attend to 50,176 pixels: 0.4 of the time).
    """
    bf16 = q.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    small = bf16 and q.shape[:3].numel() * k.shape[2] <= SMALL_SCORES
    raw = not k.requires_grad and q.shape[2] <= 2 * k.shape[3]
    if not (torch.is_grad_enabled() and q.device.type == "cpu" and (small or raw)):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    scores = (q * (scale or q.shape[3] ** -0.5)) @ k.mT
    return (scores if bias is None else scores + bias).softmax(dim=-1).to(v.dtype) @ v


class FeedForward(nn.Module):
    """norm, up, GELU, down; the caller adds the residual."""

    def __init__(self, width: int, widening: int, gelu: Gelu) -> None:
        super().__init__()
        self.gelu = gelu
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, widening * width), nn.Linear(widening * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """The activations before the last matrix."""
        return F.gelu(self.up(self.norm(x)), approximate=self.gelu)

    def aligned(self, x: Tensor) -> Tensor:
        """`hidden`; without gradient zero-padded to a multiple of ALIGNED channels.

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
        mixed = attend(*self.projected(x))                                    # (B, heads, N, C / heads)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.feedforward(x)

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of (B, N, C): each (B, heads, N, C / heads)."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm(x)).split(self.split, dim=-1))
        return q, k, v

    def attention_mass(self, x: Tensor) -> Tensor:
        """How much of all latents' attention each latent of (B, N, C) receives here: (B, N), rows sum to 1."""
        q, k, _ = self.projected(x)
        return ((q * q.shape[3] ** -0.5) @ k.mT).softmax(dim=-1).mean(dim=(1, 2))


class FoldedInputs(NamedTuple):
    """The inputs as `CrossAttend.folded_queries` needs them: the same for all queries, so computed once for many chunks."""

    keys: Tensor      # (B, M, query_channels)
    values: Tensor    # (B, M, query_channels), zero-padded to a multiple of ALIGNED
    bias: Tensor      # (B, M)


class CrossAttend(nn.Module):
    """Queries (1 or B, Q, query_channels) attend to inputs (B, M, input_channels) -> (B, Q, query_channels)."""

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
            mask: bool (B, M), True at inputs that are attended to. Without any in a row, all are attended to equally, as in
                Hugging Face's model, unless `wipe_masked`.
            query_mask: bool (B, Q), False where the output is zeroed; only with `wipe_masked`.
        """
        x = self.attended(queries, inputs, mask, query_mask)
        return x + self.feedforward(x)

    def read_out(self, queries: Tensor, inputs: Tensor, weight: Tensor, bias: Tensor, padding: Tensor | None = None,
                 moved: FoldedInputs | None = None) -> Tensor:
        """F.linear(self(queries, inputs), weight, bias), with the last matrix of the feed-forward multiplied into `weight`.

        Args:
            padding: (1, n) channels that are appended to each query; None: none.
            moved: the result of `move(inputs)`, where there are several calls with the same inputs.
        """
        x, down = self.attended(queries, inputs, padding=padding, moved=moved), self.feedforward.down
        hidden, behind = self.feedforward.aligned(x), weight @ down.weight
        behind = F.pad(behind, (0, hidden.shape[-1] - behind.shape[-1]))
        return F.linear(x, weight, bias + weight @ down.bias) + F.linear(hidden, behind)

    def attended(self, queries: Tensor, inputs: Tensor, mask: Tensor | None = None, query_mask: Tensor | None = None,
                 padding: Tensor | None = None, moved: FoldedInputs | None = None) -> Tensor:
        """The attention and its residual, without the feed-forward."""
        folds = self.folds_queries(queries, inputs, masked=mask is not None or query_mask is not None)
        if padding is not None and (self.residual or not folds):
            queries, padding = torch.cat([queries, padding.expand(*queries.shape[:2], -1)], dim=-1), None
        if folds:
            x = self.folded_queries(queries, self.move(inputs) if moved is None else moved, padding)
            return x + queries if self.residual else x
        q = self.query(self.norm_query(queries))
        bias = None
        if mask is not None:
            # still finite when autocast rounds it to bf16, or a row without inputs would become NaN
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
        """Attention as written in the papers: (B, Q, v)."""
        normed = self.norm_input(inputs)
        k, v = self.key(normed), self.value(normed)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q.expand(len(inputs), -1, -1), k, v))
        return attend(q, k, v, bias).transpose(1, 2).flatten(2)

    def folded(self, q: Tensor, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """`projected` for one head, without projecting the inputs (for a picture 50,176 x 261 x 261 products, twice).

        With x normed but not yet scaled by g and shifted by b, the key matrix is applied to the queries instead:
        q . ((x g + b) Wk + bk) = x . (g (Wk^T q)) + a number that is the same for all inputs, which the softmax cancels.
        As the attention weights sum to 1, the value matrix, scale and shift are applied after the weighted sum.
        """
        norm = self.norm_input
        bare = F.layer_norm(inputs, norm.normalized_shape, eps=norm.eps)[:, None]                     # (B, 1, M, C)
        moved = ((q @ self.key.weight) * norm.weight).to(bare.dtype).expand(len(inputs), -1, -1)[:, None]   # (B, 1, Q, C)
        mixed = attend(moved, bare, bare, bias, scale=q.shape[2] ** -0.5)[:, 0]
        return self.value(mixed * norm.weight + norm.bias)

    def folds_queries(self, queries: Tensor, inputs: Tensor, masked: bool) -> bool:
        """Whether `folded_queries` is less work; in training its bias would rule out torch's fast kernel."""
        return (self.heads == 1 and not masked and not torch.is_grad_enabled() and queries.shape[1] > inputs.shape[1]
                and queries.shape[2] <= min(self.query.out_features, self.value.out_features))

    def move(self, inputs: Tensor) -> FoldedInputs:
        """The inputs for `folded_queries`.

        With queries x normed but not yet scaled by g and shifted by b, (Wq (x g + b) + bq) . k is x . (g (Wq^T k)) plus
        (Wq b + bq) . k: the query matrix is applied to the keys, the shift becomes a bias of each key, and the output matrix is
        applied to the values.
        """
        norm, normed = self.norm_query, self.norm_input(inputs)
        k = self.key(normed)
        values = self.value(normed) @ self.out.weight.mT
        return FoldedInputs(keys=(k @ self.query.weight) * norm.weight, values=F.pad(values, (0, -values.shape[2] % ALIGNED)),
                            bias=k.shape[2] ** -0.5 * (k @ self.query(norm.bias)))

    def folded_queries(self, queries: Tensor, moved: FoldedInputs, padding: Tensor | None = None) -> Tensor:
        """`folded` with queries and inputs exchanged, for many queries and few inputs, as 182,528 pixels and 2,048 latents."""
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
        """Normed queries and keys with fewer channels and the same products, where all queries end in the same padding.

        A normed query [x p] is ([x p] - mean) / std, and its product with a key [k l] is
        (x . k + 1 (p . l) - mean sum([k l])) / std: that of [x 1 mean] / std and [k, p . l, -sum([k l])].
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
        cross_attend = functools.partial(CrossAttend, config, config.width, channels, heads=config.cross_heads,
                                         widening=config.cross_widening, qk_channels=config.qk_channels,
                                         v_channels=config.v_channels, residual=config.query_residual)
        self.cross_attend = cross_attend()
        self.cross_attend_again = cross_attend() if config.cross_attends > 1 else None
        self.layers = nn.ModuleList(SelfAttend(config) for _ in range(config.layers))
        nn.init.trunc_normal_(self.latents, std=0.02)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: bool (B, M), True at inputs that are attended to; None: all."""
        x = self.cross_attend(self.latents[None], inputs, mask)
        for again, layer in self.steps():
            x = layer(x if again is None else again(x, inputs, mask))
        return x

    def steps(self) -> Iterator[tuple[CrossAttend | None, SelfAttend]]:
        """What follows the first cross-attention, in order: each application of a layer, with the cross-attention before it."""
        for block in range(self.config.blocks):
            again = self.cross_attend_again if 0 < block < self.config.cross_attends else None
            for number, layer in enumerate(self.layers):
                yield again if number == 0 else None, cast(SelfAttend, layer)
