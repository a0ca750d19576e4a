"""data2vec (arXiv:2202.03555): predict an EMA teacher's representation of the masked part of the input.

The student encodes a masked input and predicts, at the masked positions, the teacher's representation of the whole input: the
mean of its top K layers, each normalised. The teacher's weights are an exponential moving average (EMA) of the student's. One
objective serves pictures, speech, text and any other Encoder (encoders.py): only the settings in OBJECTIVES differ.

    objective = Data2Vec(encoder, OBJECTIVES["vision-v1"])
    outcome = objective(images, samples=indices)
    outcome.loss.backward(); optimizer.step()
    objective.update_teacher()
    guard.check(outcome)

What differs from the published code: statistics over time leave padding out; text is masked with [MASK] in spans only, as
the released text model was (the paper's 80/10/10 gives 82.7 on GLUE, spans 82.9); targets can be normalised over the batch at
each position, which small encoders need (docs/results/data2vec.md).

Version 2.0 (arXiv:2212.07525) is the same with `decoder` set: each sample gets `copies` masks for one pass of the teacher, the
student encodes only the unmasked positions, and a small convolutional decoder predicts the masked ones.

Legend: B batch, T positions (patches, speech frames or tokens), K unmasked positions of a row, n masked positions of a batch.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config_json import at_least
from ..training.batch_part import added_up, randn_like, rows_here
from .encoders import Encoded, Encoder, Features
from .masks import BlockMask, ExactBlockMask, Mask, RandomMask, SpanMask, draw_masks, kept_positions

Norm = Literal["none", "layer", "instance", "place"]
NOISE = 0.01   # std of the decoder's input at masked positions


@dataclass(frozen=True, kw_only=True)
class PredictorConfig:
    """Version 2.0's convolutions over the positions."""

    axes: Literal[1, 2] = 1         # of the grid: 1 for speech and text, 2 for pictures
    channels: int = 384
    depth: int = 4
    kernel: int = 7                 # odd
    groups: int = 16
    residual: bool = True           # where widths agree
    head_layers: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0 or self.depth < 1 or self.channels % self.groups:
            raise ValueError(f"decoder: kernel={self.kernel} must be odd, depth={self.depth} at least 1 and channels="
                             f"{self.channels} divisible by groups={self.groups}")


@dataclass(frozen=True, kw_only=True)
class Data2VecConfig:
    """The settings in which the modalities differ."""

    mask: Mask
    top_layers: int                                 # the teacher's layers that are averaged, from the top
    targets: Literal["block", "feedforward"]        # a block's output, or its feed-forward's before the residual
    layer_norm: Norm                                # of each layer
    mean_norm: Norm = "none"                        # of their mean
    beta: float = 0.0                               # smooth L1 loss: squared below, linear above; 0: squared error
    loss_scale: Literal["mean", "root", "sum"]      # the sum over the width is divided by the width, by its root, or by 1
    tau_start: float                                # decay of the teacher's EMA at the start,
    tau_end: float                                  # from tau_steps on;
    tau_steps: int                                  # linear in between
    shares_features: bool = False                   # the teacher uses the student's local features
    head_layers: Literal[1, 2] = 1                  # without a decoder
    decoder: PredictorConfig | None = None            # version 2.0
    copies: int = 1                                 # masks per sample and pass of the teacher, with a decoder
    summary_weight: float = 0.0                     # loss of the class token's prediction of the mean target, with a decoder
    seed: int = 0                                   # of the masks

    def __post_init__(self) -> None:
        if not 0 <= self.tau_start <= self.tau_end <= 1 or self.tau_steps < 1:
            raise ValueError(f"tau must rise within [0, 1] in at least one step, not from {self.tau_start} to {self.tau_end} "
                             f"in {self.tau_steps}")
        if self.decoder is None and (self.copies != 1 or self.summary_weight):
            raise ValueError(f"copies={self.copies} and summary_weight={self.summary_weight} need a decoder (version 2.0)")
        at_least(self, copies=1, top_layers=1, beta=0)


# The published settings of the base models. Short runs need fewer tau_steps. For pictures under version 2.0 absolute
# positions are the fast ones: relative ones need a table per mask.
OBJECTIVES: dict[str, Data2VecConfig] = {
    "vision-v1": Data2VecConfig(
        mask=BlockMask(), top_layers=6, targets="block", layer_norm="layer", mean_norm="layer", beta=2.0, loss_scale="mean",
        tau_start=0.9998, tau_end=0.9998, tau_steps=1),
    "speech-v1": Data2VecConfig(
        mask=SpanMask(share=0.65, span=10), top_layers=8, targets="feedforward", layer_norm="instance", loss_scale="root",
        tau_start=0.999, tau_end=0.9999, tau_steps=30_000, shares_features=True),
    "text-v1": Data2VecConfig(
        mask=SpanMask(share=0.35, span=4), top_layers=10, targets="feedforward", layer_norm="layer", beta=4.0, loss_scale="sum",
        tau_start=0.999, tau_end=0.9999, tau_steps=100_000, head_layers=2),
    "vision-v2": Data2VecConfig(
        mask=ExactBlockMask(share=0.8, block=3, adjust=0.07), copies=16, decoder=PredictorConfig(
            axes=2, channels=768, depth=6, kernel=3), summary_weight=0.01,
        top_layers=10, targets="feedforward", layer_norm="instance", mean_norm="layer", loss_scale="root",
        tau_start=0.9998, tau_end=0.99999, tau_steps=100_000),
    "speech-v2": Data2VecConfig(
        mask=ExactBlockMask(share=0.5, block=5, adjust=0.05, inverse=False), copies=8, decoder=PredictorConfig(),
        top_layers=8, targets="feedforward", layer_norm="instance", loss_scale="root",
        tau_start=0.999, tau_end=0.99999, tau_steps=75_000, shares_features=True),
    "text-v2": Data2VecConfig(
        mask=RandomMask(share=0.48), copies=8, decoder=PredictorConfig(
            channels=768, depth=5, kernel=9, groups=1, residual=False, head_layers=2),
        top_layers=12, targets="feedforward", layer_norm="instance", loss_scale="sum",
        tau_start=0.9999, tau_end=0.99999, tau_steps=100_000, shares_features=True),
}


@dataclass(frozen=True)
class Outcome:
    """One pass of the objective.

    Attributes:
        loss: scalar with gradient, per target.
        targets: how many positions were predicted.
        target_deviation, prediction_deviation: std over positions, mean over the width.
        feature_deviation: the same of the local features, divided by their root mean square.
        content_share: fraction of the targets' variance that is between samples, see between_fraction.
        tau: decay of the teacher's EMA at its next update.
    """

    loss: Tensor
    targets: int
    target_deviation: float
    prediction_deviation: float
    feature_deviation: float
    content_share: float
    tau: float


class ConvDecoder(nn.Module):
    """Predicts the masked positions: convolutions, each with a norm without parameters and GELU, then a head. Raises ValueError
    where the axes or the groups do not fit the encoder."""

    def __init__(self, config: PredictorConfig, width: int) -> None:
        super().__init__()
        self.config = config
        conv = {1: nn.Conv1d, 2: nn.Conv2d}[config.axes]
        widths = [width] + [config.channels] * config.depth
        if width % config.groups:
            raise ValueError(f"decoder.groups={config.groups} does not divide the encoder's width={width}")
        self.convs = nn.ModuleList(conv(i, o, config.kernel, padding=config.kernel // 2, groups=config.groups)
                                   for i, o in zip(widths, widths[1:], strict=False))
        self.head = make_head(config.channels, width, config.head_layers)

    def forward(self, hidden: Tensor, kept: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Student's hidden states (n, K, width) at kept int64 (n, K) -> predictions (n, T, width) for the whole grid."""
        if len(grid) != self.config.axes:
            raise ValueError(f"decoder.axes={self.config.axes}, but the encoder's positions form a grid of {len(grid)}; "
                             "set them alike")
        length = math.prod(grid)
        full = randn_like(hidden.new_empty(len(hidden), length + 1, hidden.shape[-1])) * NOISE
        index = torch.where(kept < 0, length, kept)[..., None].expand_as(hidden)   # padding goes to a row that is cut off
        x = full.scatter(1, index, hidden)[:, :length].transpose(1, 2).unflatten(2, grid)
        for conv in self.convs:
            out = conv(x).movedim(1, -1)
            out = F.gelu(F.layer_norm(out, out.shape[-1:])).movedim(-1, 1)
            x = x + out if self.config.residual and x.shape == out.shape else out
        return self.head(x.flatten(2).transpose(1, 2))


def make_head(inputs: int, width: int, layers: int) -> nn.Module:
    """One linear layer, or two with GELU and twice the inputs between."""
    if layers == 1:
        return nn.Linear(inputs, width)
    return nn.Sequential(nn.Linear(inputs, 2 * inputs), nn.GELU(), nn.Linear(2 * inputs, width))


class Data2Vec(nn.Module):
    """The student (`encoder`) with its head or decoder, and the teacher."""

    def __init__(self, encoder: Encoder, config: Data2VecConfig) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        if config.summary_weight and encoder.prefix != 1:
            raise ValueError(f"summary_weight={config.summary_weight} needs an encoder with a class token; set it to 0")
        width = encoder.width
        self.head = make_head(width, width, config.head_layers) if config.decoder is None else None
        self.decoder = None if config.decoder is None else ConvDecoder(config.decoder, width)
        self.teacher = copy.deepcopy(encoder).float().requires_grad_(False).eval()
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))   # of the teacher, so far
        self.updates: Tensor

    def train(self, mode: bool = True) -> "Data2Vec":
        """The teacher stays in eval mode, so that its targets are deterministic."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, *inputs: Any, samples: Sequence[int] | None = None) -> Outcome:
        """Predict the teacher's output at the masked positions.

        Args:
            inputs: what the encoder's `features` takes, (B, ...).
            samples: index of each sample in the data set, a part of the seed of its masks; None: 0, 1, ...
        """
        features = self.encoder.features(*inputs)
        targets = self.make_targets(features, *inputs)                                # (B, T, width)
        masked = self.draw_masks(features, samples)                                   # (B * copies, T)
        if self.head is not None:
            hidden = self.encoder.encode(features, masked).hidden[:, self.encoder.prefix:]
            return self.score(features, targets, self.head(hidden[masked]), targets[masked])
        return self.predict_copies(features, targets, masked)

    def predict_copies(self, features: Features, targets: Tensor, masked: Tensor) -> Outcome:
        """Version 2.0: several masks per sample, one pass of the teacher."""
        assert self.decoder is not None
        copies, prefix = self.config.copies, self.encoder.prefix
        repeated = features.repeat(copies)
        kept = kept_positions(masked, repeated.real)                                  # (B * copies, K)
        hidden = self.encoder.encode(repeated, kept=kept).hidden
        predictions = self.decoder(hidden[:, prefix:], kept, features.grid)           # (B * copies, T, width)
        rows, columns = masked.nonzero(as_tuple=True)
        outcome = self.score(features, targets, predictions[rows, columns], targets[rows // copies, columns])
        if not self.config.summary_weight:
            return outcome
        means = targets.mean(1).repeat_interleave(copies, 0)
        summary = regression_loss(hidden[:, 0], means, self.config)
        return replace(outcome, loss=outcome.loss + self.config.summary_weight * summary)

    def draw_masks(self, features: Features, samples: Sequence[int] | None) -> Tensor:
        """bool (B * copies, T) of this step."""
        samples, key = range(len(features.x)) if samples is None else samples, (self.config.seed, int(self.updates))
        drawn = draw_masks(self.config.mask, features.grid, features.real, samples, key, self.config.copies)
        return drawn.to(features.x.device)

    @torch.no_grad()
    def make_targets(self, features: Features, *inputs: Any) -> Tensor:
        """float32 (B, T, width) from the teacher's encoding of the whole input; features: the student's."""
        if self.config.shares_features:
            features = Features(features.x.detach().float(), features.real, features.grid)
        else:
            features = self.teacher.features(*inputs)
        encoded = self.teacher.encode(features)
        return average_layers(encoded, self.config, features.real, self.teacher.prefix)

    def score(self, features: Features, targets: Tensor, predictions: Tensor, wanted: Tensor) -> Outcome:
        """targets: all (B, T, width); predictions and wanted targets: at masked positions (n, width)."""
        loss = regression_loss(predictions, wanted, self.config)
        local = features.x.detach().flatten(0, 1) if features.real is None else features.x.detach()[features.real]
        squares = local.float().square()
        total, count = added_up(torch.stack([squares.sum(), squares.new_tensor(float(squares.numel()))]))
        scale = (total / count).sqrt().clamp(min=1e-12)
        return Outcome(loss, len(wanted), std_over_rows(wanted), std_over_rows(predictions), std_over_rows(local / scale),
                       between_fraction(targets, features.real), momentum(self.config, int(self.updates) + 1))

    @torch.no_grad()
    def update_teacher(self) -> None:
        """After each optimiser step: teacher <- tau * teacher + (1 - tau) * student, in float32."""
        self.updates += 1
        tau = momentum(self.config, int(self.updates))
        for teacher, student in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
            teacher.lerp_(student.float(), 1 - tau)
        for buffer, source in zip(self.teacher.buffers(), self.encoder.buffers(), strict=True):
            buffer.copy_(source)


def momentum(config: Data2VecConfig, step: int) -> float:
    """tau of the teacher's update `step` (1-based): linear from tau_start to tau_end, then constant."""
    return config.tau_end - (config.tau_end - config.tau_start) * max(0.0, 1 - step / config.tau_steps)


def average_layers(encoded: Encoded, config: Data2VecConfig, real: Tensor | None, prefix: int = 0) -> Tensor:
    """Mean of the top K layers, each normalised: float32 (B, T, width). Raises ValueError where there are fewer than K.

    real: bool (B, T), False at padding; prefix: positions in front that are not input, such as a class token.
    """
    layers = encoded.states[1:] if config.targets == "block" else encoded.feedforwards
    if len(layers) < config.top_layers:
        raise ValueError(f"top_layers={config.top_layers} of an encoder with {len(layers)}; lower it")
    top = [normalize(layer[:, prefix:].float(), config.layer_norm, real) for layer in layers[-config.top_layers:]]
    return normalize(torch.stack(top).mean(0), config.mean_norm, real)


def normalize(x: Tensor, norm: Norm, real: Tensor | None) -> Tensor:
    """(B, T, width) to zero mean and unit variance.

    Over the width ("layer"), over a sample's positions ("instance"), or over the batch's samples at each position ("place";
    not in the papers: it removes what depends on the position alone).
    """
    if norm == "none":
        return x
    if norm == "layer":
        return F.layer_norm(x, x.shape[-1:])
    def total(values: Tensor) -> Tensor:
        """Over a sample's positions, or over the samples of the batch, those of other processes as well."""
        return values.sum(1, keepdim=True) if norm == "instance" else added_up(values.sum(0, keepdim=True))

    weight = x.new_ones(x.shape[:2]) if real is None else real.to(x.dtype)
    weight = (weight / total(weight).clamp(min=1))[..., None]                         # (B, T, 1), sums to 1
    centred = x - total(x * weight)
    return centred * (total(centred.square() * weight) + 1e-5).rsqrt()


def regression_loss(predictions: Tensor, targets: Tensor, config: Data2VecConfig) -> Tensor:
    """Mean over n of the loss of predictions (n, width), summed over the width and scaled; scalar."""
    width, predictions = predictions.shape[-1], predictions.float()
    mean = F.smooth_l1_loss(predictions, targets, beta=config.beta) if config.beta else F.mse_loss(predictions, targets)
    return mean * width / {"mean": width, "root": math.sqrt(width), "sum": 1}[config.loss_scale]


@torch.no_grad()
def std_over_rows(x: Tensor) -> float:
    """Std over the rows of x (n, width), mean over the width; 0 where all rows are equal. Rows of other processes count."""
    if rows_here() is not None:
        count = added_up(x.new_tensor(float(len(x)), dtype=torch.float32))
        centred = x.float() - added_up(x.float().sum(0)) / count
        return float((added_up(centred.square().sum(0)) / count).sqrt().mean())
    shifted = x.float() - x[0]    # exactly zero where rows are equal; torch's own std takes several times as long
    return float((shifted.square().mean(0) - shifted.mean(0).square()).clamp(min=0).sqrt().mean())


@torch.no_grad()
def between_fraction(targets: Tensor, real: Tensor | None) -> float:
    """Fraction of the variance of targets (B, T, width) that is between samples at the same position.

    Near 1 where targets depend on the sample's content, 0 where they depend on the position alone: then the student predicts
    them without the input, the loss falls and the variance stays. This happens to small encoders with a fast teacher.

    real: bool (B, T), False at padding; None: there is none.
    """
    weight = targets.new_ones(targets.shape[:2]) if real is None else real.to(targets.dtype)
    count = added_up(weight.sum(0))
    weight, targets, count = weight[:, count > 1, None], targets[:, count > 1], count[count > 1, None]
    if not len(count):
        return 1.0
    means = added_up((targets * weight).sum(0)) / count                               # (T, width), of each position
    overall = (means * count).sum(0) / count.sum()
    total = added_up(((targets - overall).square() * weight).sum())
    between = added_up((((targets - means).square() * weight).sum(0) * count / (count - 1)).sum())
    return min(1.0, float(between / total.clamp(min=1e-12)))
