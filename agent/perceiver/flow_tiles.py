"""Optical flow of pictures of any size: overlapping tiles of the size that a model was trained on, coarse to fine.

As in Perceiver IO's notebook: tiles overlap by at least 20 pixels, the last one ends at the border, and where tiles overlap
each is weighted by the pixel's distance to its edge. What differs: a picture smaller than a tile is padded, and the flow can be
estimated in several passes at different scales, each with the second picture warped by the flow so far (as SPyNet,
arXiv:1611.00850): so a model trained on short motions in small pictures finds long ones in large pictures.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .losses import FLOW_SCALE
from .tasks import Flow

OVERLAP = 20    # pixels


@torch.inference_mode()
@torch.autocast("cpu", enabled=False)    # bf16's eight bits are too few for pixel coordinates
def picture_flow(model: Flow, first: Tensor, second: Tensor, scales: Sequence[float] = (1,)) -> Tensor:
    """Where each pixel of the first picture is in the second.

    Args:
        first, second: (3, H, W) in [-1, 1].
        scales: one pass each; 8: the model gets pictures an eighth as high and wide.
    Returns:
        float32 (H, W, 2), pixels to the right and down.
    Raises:
        ValueError: the pictures are of different sizes, or a scale is below 1.
    """
    if first.shape != second.shape:
        raise ValueError(f"the frames are {first.shape[2]}x{first.shape[1]} and {second.shape[2]}x{second.shape[1]} pixels; "
                         "optical flow needs two of the same size")
    if not scales or min(scales) < 1:
        raise ValueError(f"scales {list(scales)} must be numbers of at least 1, and one at least")
    flow = first.new_zeros(2, *first.shape[1:])
    for scale in scales:
        size = [max(2, round(side / scale)) for side in first.shape[1:]]
        pair = torch.stack([resize(first, size), resize(warped(second, flow), size)])
        found = tiled_flow(model, pair).permute(2, 0, 1)
        growth = found.new_tensor([first.shape[2] / size[1], first.shape[1] / size[0]])
        flow = flow + growth[:, None, None] * resize(found, first.shape[1:])
    return flow.permute(1, 2, 0)


def resize(picture: Tensor, size: Sequence[int]) -> Tensor:
    """(C, H, W) -> (C, *size), antialiased."""
    if tuple(picture.shape[1:]) == tuple(size):
        return picture
    return F.interpolate(picture[None], tuple(size), mode="bilinear", antialias=True)[0]


def warped(picture: Tensor, flow: Tensor) -> Tensor:
    """The picture (C, H, W) sampled where the flow (2, H, W) points; beyond the border, the border's pixels."""
    height, width = picture.shape[1:]
    rows, columns = (axis.to(picture) for axis in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    grid = torch.stack([(columns + flow[0] + 0.5) * 2 / width - 1, (rows + flow[1] + 0.5) * 2 / height - 1], dim=-1)
    return F.grid_sample(picture[None], grid[None], padding_mode="border", align_corners=False)[0]


def tiled_flow(model: Flow, pair: Tensor) -> Tensor:
    """One pass: frames (2, 3, H, W) -> (H, W, 2) in pixels of these frames."""
    height, width = pair.shape[2:]
    tile = model.config.size
    filled = F.pad(pair, (0, max(0, tile[1] - width), 0, max(0, tile[0] - height)), mode="replicate")
    total = pair.new_zeros(*filled.shape[2:], 3)                       # flow times weight, weight
    weight = edge_distance(tile).to(pair)[..., None]
    for top in starts(filled.shape[2], tile[0]):
        for left in starts(filled.shape[3], tile[1]):
            area = slice(top, top + tile[0]), slice(left, left + tile[1])
            found = FLOW_SCALE * model(filled[None, :, :, *area])[0].float()
            total[area] += torch.cat([found * weight, weight], dim=-1)
    return (total[..., :2] / total[..., 2:])[:height, :width]


def starts(length: int, tile: int) -> list[int]:
    """Offsets of the tiles that cover `length` pixels; the last one ends at the border."""
    return [*range(0, length - tile, tile - min(OVERLAP, tile // 2)), length - tile]


def edge_distance(tile: tuple[int, int]) -> Tensor:
    """(rows, columns): 1 at the edge, rising by one per pixel inwards."""
    rows, columns = (torch.minimum(torch.arange(1, side + 1), torch.arange(side, 0, -1)) for side in tile)
    return torch.minimum(rows[:, None], columns)
