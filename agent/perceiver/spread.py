"""A start for autoencoders from which little training is enough: at first each latent has a place of its own.

Not in the paper. With random weights every latent reads nearly the mean of all elements, and every query nearly the mean of all
latents. The mean of a waveform's pieces is silence, so nothing leads away from it: for hundreds of steps the sound stays at
zero. Here the elements of sound and video are dealt out among the latents, and the matrices of the latents' queries and of the
decoder's keys are solved for so that a latent reads its own element, and pixels and samples find the latent that reads theirs.
All of it is trained on as ever.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import SelfAttend
from .tasks import Autoencoder

SHARP = 6.0     # of the attention, in units of the queries' own length
SMALL = 0.1     # factor of what the layers add, and of the heads: latents are passed on nearly as they are, outputs are near 0
NOISE = 8       # clips


@torch.no_grad()
def spread(model: Autoencoder) -> None:
    """Give each latent of a new model on the CPU its place. Draws from torch's generator."""
    shrink(model)
    give_places(model)
    lead_to_places(model)


def shrink(model: Autoencoder) -> None:
    """What the layers add, and the outputs."""
    layers = [cast(SelfAttend, layer) for layer in model.encoder.layers]
    last = [*(layer.out for layer in layers), *(layer.feedforward.down for layer in layers),
            model.encoder.cross_attend.feedforward.down, model.decoder.feedforward.down]
    for linear in (*last, *(cast(nn.Linear, model.heads[name]) for name in ("image", "audio"))):
        linear.weight.mul_(SMALL)


def give_places(model: Autoencoder) -> None:
    """Latent n attends to the n-th of as many elements as there are latents, evenly spaced among all."""
    config, layer = model.config, model.encoder.cross_attend
    # at first the keys are of positions alone
    layer.key.weight[:, :max(config.patch, config.project or 3 * math.prod(config.block))] = 0
    clip = {"image": torch.zeros(1, config.frames, 3, *config.size), "audio": torch.zeros(1, config.samples),
            "label": torch.zeros(1, config.labels)}
    elements = model.reader(clip)[0, :-1]                                             # (M, channels), without the label
    chosen = torch.linspace(0, len(elements) - 1, config.latent.latents).round().long()
    # Of size 1 in place of 0.02, so that a latent is still itself beside what it reads, and a linear function of the places, so
    # that a matrix finds places in them where there are more latents than channels, too.
    places, width = layer.norm_input(elements[chosen]), config.latent.width
    model.encoder.latents.copy_(F.layer_norm(places @ torch.randn(places.shape[1], width), (width,)))
    keys = layer.key(layer.norm_input(elements[chosen]))                              # (N, channels of queries and keys)
    solve(layer.query.weight, layer.norm_query(model.encoder.latents), SHARP * keys)


def lead_to_places(model: Autoencoder) -> None:
    """The queries of a patch of sound or of a pixel attend to the latent whose place is next to it."""
    config, layer, count = model.config, model.decoder, model.config.latent.latents
    queries = layer.query(layer.norm_query(all_queries(model)))                       # (cells, channels)
    owners = owning_elements(model)
    latent = (owners * (count - 1) / owners.max()).round().long()                     # (cells,)
    means = F.normalize(torch.zeros(count, queries.shape[1]).index_add(0, latent, queries))
    # clips of noise, so that the keys depend little on what is seen and heard
    clips = {"image": torch.rand(NOISE, config.frames, 3, *config.size), "audio": torch.rand(NOISE, config.samples) - 0.5,
             "label": torch.zeros(NOISE, config.labels)}
    latents = layer.norm_input(model.encode(clips))                                   # (NOISE, N, width)
    keys = SHARP * queries.norm(dim=1).mean() * means
    solve(layer.key.weight, latents.flatten(0, 1), keys.repeat(NOISE, 1))


def solve(weight: Tensor, inputs: Tensor, outputs: Tensor) -> None:
    """Set a linear layer's weight so that inputs (N, i) give outputs (N, o), as well as small weights can: ridge regression."""
    more = inputs.shape[1]
    found = torch.linalg.lstsq(torch.cat([inputs, torch.eye(more)]), torch.cat([outputs, torch.zeros(more, outputs.shape[1])]))
    weight.copy_(found.solution.mT)


def all_queries(model: Autoencoder) -> Tensor:
    """Those of all patches of sound, then of all of the video: (cells, width)."""
    cells = {"audio": torch.arange(model.config.audio_grid[0]), "image": torch.arange(math.prod(model.config.video_grid))}
    queries = {name: model.queries(name, some, model.encoder.latents) for name, some in cells.items()}
    return torch.cat([torch.cat([part, model.padding[name].expand(len(part), -1)], dim=1) for name, part in queries.items()])


def owning_elements(model: Autoencoder) -> Tensor:
    """Which element a patch of sound, or a patch of the video, is read in: int64 (cells,), in the order of `all_queries`."""
    config = model.config
    blocks = [whole // part for whole, part in zip((config.frames, *config.size), config.block, strict=True)]
    grid = torch.arange(math.prod(blocks)).view(blocks)
    for dim, (whole, part) in enumerate(zip(config.video_grid, blocks, strict=True)):
        grid = grid.repeat_interleave(whole // part, dim)
    patches = config.audio_grid[0]
    return torch.cat([torch.arange(patches), patches + grid.flatten()])
