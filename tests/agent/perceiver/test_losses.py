"""The losses of flow and of autoencoding: numbers worked out by hand, and gradients that can be used."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from calico.agent.perceiver.layers import LatentConfig
from calico.agent.perceiver.losses import autoencoding_loss, end_point_error, flow_loss, psnr
from calico.agent.perceiver.tasks import Autoencoder, AutoencoderConfig, Flow, FlowConfig

LATENT = LatentConfig(latents=4, width=8, layers=1, heads=2)
VIDEO = AutoencoderConfig(latent=LATENT, frames=2, size=(8, 8), resolution=(2, 2), samples_per_frame=16, patch=4, labels=3,
                          label_channels=20, channels=10)


def test_unknown_flow_does_not_count() -> None:
    truth = torch.zeros(1, 2, 2, 2)
    truth[0, 0, 0], truth[0, 1, 1] = torch.tensor([3.0, 4.0]), torch.nan
    made = torch.zeros_like(truth).requires_grad_()
    error = end_point_error(made, truth)
    assert math.isclose(error.item(), 5 / 3, rel_tol=1e-3)
    error.backward()
    assert made.grad is not None and made.grad.isfinite().all() and not made.grad[0, 1, 1].any()


def test_an_output_of_one_is_twenty_pixels() -> None:
    class Constant(Flow):
        def forward(self, frames: Tensor, chunk: int = 0) -> Tensor:
            return torch.full((1, 2, 3, 2), 0.1)

    loss, numbers = flow_loss(Constant(FlowConfig(latent=LATENT, size=(2, 3), bands=2)),
                              {"frames": torch.zeros(1, 2, 3, 2, 3), "flow": torch.full((1, 2, 3, 2), 2.0)})
    assert loss.value < 1e-3 and loss.count == 6 and math.isclose(numbers["zero_flow"].value, math.sqrt(8), rel_tol=1e-4)


def test_autoencoding_is_weighed_as_published() -> None:
    """An autoencoder of known answers: 0.5 too bright, 0.25 too loud, all labels alike."""
    torch.manual_seed(0)
    batch = {"image": torch.rand(2, 2, 3, 8, 8), "audio": torch.rand(2, 32), "label": torch.tensor([0, 2]),
             "pixels": torch.tensor([5, 70]), "patches": torch.tensor([3])}

    class Known(Autoencoder):
        def decode(self, latents: Tensor, points: object, moved: object = None) -> dict[str, Tensor]:
            image = torch.stack([batch["image"][:, 0, :, 0, 5], batch["image"][:, 1, :, 0, 6]], dim=1)
            return {"image": image + 0.5, "audio": batch["audio"][:, 12:16] - 0.25, "label": torch.zeros(2, 3)}

    loss, parts = autoencoding_loss(Known(VIDEO), batch)
    assert math.isclose(parts["image"].value, 0.5, rel_tol=1e-5) and math.isclose(parts["audio"].value, 0.25, rel_tol=1e-5)
    assert math.isclose(parts["label"].value, math.log(3), rel_tol=1e-5)
    assert math.isclose(loss.value, 0.03 * 0.5 + 0.25 + 1e-4 * math.log(3), rel_tol=1e-5)
    loss, _ = autoencoding_loss(Known(VIDEO), batch, {"image": 2.0, "audio": 0.0, "label": 1.0})
    assert math.isclose(loss.value, 2 * 0.5 + math.log(3), rel_tol=1e-5)


def test_a_clip_is_learned() -> None:
    torch.manual_seed(0)
    model = Autoencoder(replace(VIDEO, latent=replace(LATENT, width=32)))
    batch = {"image": torch.rand(1, 2, 3, 8, 8).round(), "audio": torch.zeros(1, 32), "label": torch.tensor([1]),
             "pixels": torch.arange(128), "patches": torch.arange(8)}
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss, _ = autoencoding_loss(model, batch)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.value)
    assert losses[-1] < 0.5 * losses[0]


def test_decibels() -> None:
    assert math.isclose(psnr(torch.full((4,), 0.1), torch.zeros(4)), 20, rel_tol=1e-5)
