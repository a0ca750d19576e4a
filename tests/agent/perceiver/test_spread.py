"""The start of an autoencoder: every latent reads a place of its own, pixels and patches find it, and sound is learned."""

from dataclasses import replace

import torch
from torch import Tensor

from calico.agent.perceiver.layers import CrossAttend, LatentConfig
from calico.agent.perceiver.losses import autoencoding_loss, psnr
from calico.agent.perceiver.spread import all_queries, owning_elements, spread
from calico.agent.perceiver.tasks import Autoencoder, AutoencoderConfig
from calico.datasets.samples.moving_shapes import MovingShapes
from calico.datasets.samples.video import Format

LATENT = LatentConfig(latents=16, width=32, layers=1, heads=2)
# 8 patches of sound and 2 x 2 x 2 blocks of video: as many elements as latents
SMALL = AutoencoderConfig(latent=LATENT, frames=4, size=(16, 16), block=(2, 8, 8), video_patch=(2, 4, 4), resolution=(4, 4),
                          samples_per_frame=64, patch=32, labels=12, label_channels=40, channels=32, video_bands=4,
                          audio_bands=4, audio_resolution=8, project=32, query_residual=True)


def weights(model: Autoencoder) -> tuple[Tensor, Tensor]:
    """How much each latent attends to each element (N, M), and each patch of the output to each latent (cells, N)."""
    clip = {"image": torch.rand(1, 4, 3, 16, 16), "audio": 0.2 * torch.randn(1, 256), "label": torch.zeros(1, 12)}
    elements = model.reader(clip)

    def attention(layer: CrossAttend, queries: Tensor, inputs: Tensor) -> Tensor:
        q, k = layer.query(layer.norm_query(queries)), layer.key(layer.norm_input(inputs[0]))
        return (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)

    return (attention(model.encoder.cross_attend, model.encoder.latents, elements),
            attention(model.decoder, all_queries(model), model.encoder(elements)))


@torch.no_grad()
def test_each_latent_has_a_place_of_its_own() -> None:
    torch.manual_seed(0)
    model = Autoencoder(SMALL).eval()
    before = weights(model)
    spread(model)
    reads, finds = weights(model)
    own, owners = torch.arange(16), owning_elements(model)
    cells = torch.arange(len(owners))
    # an even share is 1/17 of the elements and 1/16 of the latents
    assert before[0][own, own].mean() < 0.15 < 0.5 < reads[own, own].mean()
    for part in (slice(0, 8), slice(8, None)):
        assert before[1][cells, owners][part].mean() < 0.15 < 0.3 < finds[cells, owners][part].mean()


def test_a_cell_is_owned_by_the_block_that_it_is_read_in() -> None:
    """A clip that is black but for one pixel: only the element of that pixel changes."""
    model = Autoencoder(SMALL).eval()
    owners = owning_elements(model)
    dark = {"image": torch.zeros(1, 4, 3, 16, 16), "audio": torch.zeros(1, 256), "label": torch.zeros(1, 12)}
    for time, row, column in ((0, 0, 0), (3, 2, 9), (1, 15, 7)):
        lit = {**dark, "image": dark["image"].clone()}
        lit["image"][0, time, :, row, column] = 1
        changed = (model.reader(lit) != model.reader(dark)).any(dim=2)[0].nonzero().flatten().tolist()
        cell = (time // 2 * 4 + row // 4) * 4 + column // 4
        assert changed == [int(owners[8 + cell])]
    loud = {**dark, "audio": torch.eye(256)[None, 70]}
    assert (model.reader(loud) != model.reader(dark)).any(dim=2)[0].nonzero().flatten().tolist() == [int(owners[70 // 32])]


def test_sound_is_learned_in_a_few_steps() -> None:
    """A clip that was not trained on is closer than silence."""
    torch.manual_seed(0)
    model = Autoencoder(SMALL)
    spread(model)
    data = MovingShapes(Format(size=(16, 16), samples_per_frame=64), 4, 32, video_patch=32)
    data.HELD_OUT = 32
    kept = {name: torch.from_numpy(part) for name, part in data.held_out().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(30):
        batch = {name: torch.from_numpy(part) for name, part in data.batch(step, 8, points=32).items()}
        loss, _ = autoencoding_loss(model, batch)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    with torch.no_grad():
        made = model.eval()({**kept, "label": torch.zeros(32, 12)}, {"audio": torch.arange(8)})["audio"]
    gained = float(psnr(made, kept["audio"]) - psnr(torch.zeros_like(made), kept["audio"]))
    assert gained > 2


def test_more_elements_than_latents_are_shared_out() -> None:
    torch.manual_seed(0)
    model = Autoencoder(replace(SMALL, latent=replace(LATENT, latents=5)))
    spread(model)
    assert model.encoder.cross_attend.query.weight.isfinite().all() and model.decoder.key.weight.isfinite().all()
