"""Flow of whole pictures: tiles cover everything, one tile is the model itself, passes add up."""

import pytest
import torch
from torch import Tensor

from calico.agent.perceiver.flow_tiles import edge_distance, picture_flow, resize, starts, tiled_flow, warped
from calico.agent.perceiver.layers import LatentConfig
from calico.agent.perceiver.losses import FLOW_SCALE
from calico.agent.perceiver.tasks import Flow, FlowConfig

SIZE = (12, 16)


@pytest.fixture
def model() -> Flow:
    torch.manual_seed(0)
    return Flow(FlowConfig(latent=LatentConfig(latents=4, width=8, layers=1, heads=2), size=SIZE, bands=2, project=4)).eval()


class Still(Flow):
    """Sees the same motion everywhere."""

    def forward(self, frames: Tensor, chunk: int = 0) -> Tensor:
        return torch.tensor([2.0, -1.0]).expand(len(frames), *frames.shape[3:], 2) / FLOW_SCALE


@pytest.mark.parametrize("length, tile, expected", [(368, 368, [0]), (436, 368, [0, 68]), (1024, 496, [0, 476, 528]),
                                                    (30, 12, [0, 6, 12, 18])])
def test_tiles_overlap_and_end_at_the_border(length: int, tile: int, expected: list[int]) -> None:
    """The notebook's own case is 436 x 1024 pixels."""
    assert starts(length, tile) == expected


def test_a_tile_counts_by_the_distance_to_its_edge() -> None:
    assert edge_distance((3, 5)).tolist() == [[1, 1, 1, 1, 1], [1, 2, 2, 2, 1], [1, 1, 1, 1, 1]]


@torch.no_grad()
def test_one_tile_is_the_models_own_flow(model: Flow) -> None:
    pair = torch.rand(2, 3, *SIZE) * 2 - 1
    torch.testing.assert_close(tiled_flow(model, pair), FLOW_SCALE * model(pair[None])[0])
    torch.testing.assert_close(picture_flow(model, pair[0], pair[1]), FLOW_SCALE * model(pair[None])[0])


@torch.no_grad()
def test_overlapping_tiles_are_weighed(model: Flow) -> None:
    """Two tiles side by side, worked out by hand at one row."""
    pair = torch.rand(2, 3, 12, 24) * 2 - 1
    left, right = (FLOW_SCALE * model(pair[None, ..., at:at + 16])[0] for at in (0, 8))
    made = tiled_flow(model, pair)
    torch.testing.assert_close(made[:, :8], left[:, :8])
    torch.testing.assert_close(made[:, 16:], right[:, 8:])
    weights = torch.tensor([6.0, 3.0])            # column 10 at row 6: 6 and 3 pixels from the nearest edges
    torch.testing.assert_close(made[6, 10], (weights[0] * left[6, 10] + weights[1] * right[6, 2]) / 9)


@pytest.mark.parametrize("size", [(5, 40), (30, 9), (33, 41), (12, 16)])
@pytest.mark.parametrize("scales", [(1,), (2, 1), (3.5, 2)])
def test_any_size_and_passes_add_up(size: tuple[int, int], scales: tuple[float, ...]) -> None:
    """Each pass finds two pixels to the right at its own scale."""
    model = Still(FlowConfig(latent=LatentConfig(latents=4, width=8, layers=1, heads=2), size=SIZE, bands=2))
    made = picture_flow(model, torch.rand(3, *size), torch.rand(3, *size), scales)
    seen = [[max(2, round(side / scale)) for side in size] for scale in scales]
    expected = torch.tensor([sum(2 * size[1] / columns for _, columns in seen), -sum(size[0] / rows for rows, _ in seen)])
    torch.testing.assert_close(made, expected.expand(*size, 2))


def test_a_picture_is_warped_back_along_its_motion() -> None:
    first = torch.rand(3, 10, 12)
    second = first.roll((1, 2), dims=(1, 2))        # down by one, right by two
    flow = torch.tensor([2.0, 1.0])[:, None, None].expand(2, 10, 12)
    torch.testing.assert_close(warped(second, flow)[:, :8, :9], first[:, :8, :9])
    assert resize(first, (10, 12)) is first


def test_pictures_of_different_sizes_are_named(model: Flow) -> None:
    with pytest.raises(ValueError, match="the frames are 16x12 and 15x12 pixels; optical flow needs two of the same size"):
        picture_flow(model, torch.zeros(3, 12, 16), torch.zeros(3, 12, 15))
    with pytest.raises(ValueError, match="scales"):
        picture_flow(model, torch.zeros(3, 12, 16), torch.zeros(3, 12, 16), [0.5])
