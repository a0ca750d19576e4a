"""Made pairs really move as their flow says."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from calico.datasets.images import ImageStore
from calico.scripts.perceiver_tasks.moving_pictures import MotionConfig, MovingPictures, squares, textures

CONFIG = MotionConfig(size=(32, 40), reach=6, noise=0)


def test_pairs_are_a_function_of_seed_and_step() -> None:
    bank = textures(8, 32)
    made = MovingPictures(bank, CONFIG, seed=3).batch(5, 2)
    again, other = MovingPictures(bank, CONFIG, seed=3).batch(5, 2), MovingPictures(bank, CONFIG, seed=3).batch(6, 2)
    assert {name: tuple(t.shape) for name, t in made.items()} == {"frames": (4, 2, 3, 32, 40), "flow": (4, 32, 40, 2)}
    for name, tensor in made.items():
        assert torch.equal(tensor, again[name]) and not torch.equal(tensor, other[name])
    torch.testing.assert_close(made["frames"][2:], made["frames"][:2].flip(1))        # reversed


def test_pictures_move_as_their_flow_says() -> None:
    """Drawn back by the flow the second picture is the first one, but where something came before something."""
    made = MovingPictures(textures(8, 64), CONFIG).batch(0, 6)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(40.0), indexing="ij")
    places = torch.stack([columns, rows], dim=-1) + made["flow"]
    inside = ((places >= 1) & (places <= places.new_tensor([38, 30]))).all(dim=-1)
    places = (places + 0.5) * 2 / places.new_tensor([40, 32]) - 1
    back = F.grid_sample(made["frames"][:, 1], places, mode="bicubic", align_corners=False)
    wrong = (back - made["frames"][:, 0]).abs().mean(dim=1)
    still = (made["frames"][:, 1] - made["frames"][:, 0]).abs().mean(dim=1)
    moving = inside & (made["flow"].norm(dim=-1) > 1)
    assert moving.sum() > 500
    assert wrong[moving].median() < 0.4 * still[moving].median()
    assert 1 < made["flow"].norm(dim=-1).max() < 15


def test_there_and_back_is_no_motion() -> None:
    """Of the background alone: the flow of the reversed pair, taken where the first flow leads, undoes it."""
    made = MovingPictures(textures(4, 32), MotionConfig(size=(24, 24), shapes=0, reach=2)).batch(1, 8)["flow"]
    forth, back = made[:8].permute(0, 3, 1, 2), made[8:].permute(0, 3, 1, 2)
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    places = ((torch.stack([columns, rows], dim=-1) + made[:8] + 0.5) * 2 / 24) - 1
    undone = (forth + F.grid_sample(back, places, padding_mode="border", align_corners=False))[..., 4:-4, 4:-4]
    assert forth.abs().mean() > 0.1 and undone.abs().max() < 1e-3


def test_pictures_become_squares(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 60, 3), 200, np.uint8)).save(tmp_path / "wide.png")
    made = squares(ImageStore(tmp_path, max_side=None), ["wide.png"], side=8)
    assert made.dtype == torch.uint8 and made.shape == (1, 3, 8, 8) and (made == 200).all()


def test_motion_that_makes_no_sense_is_named() -> None:
    with pytest.raises(ValueError, match="at least 2x2 pixels"):
        MotionConfig(size=(1, 9))
