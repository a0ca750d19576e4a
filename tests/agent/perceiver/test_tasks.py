"""Perceivers: the shortcuts give the same numbers, outputs do not depend on what else is asked for, masks hide."""

from dataclasses import replace
from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from calico.agent.perceiver.inputs import ImageConfig, MixtureConfig, PointsConfig, TextConfig
from calico.agent.perceiver.layers import CrossAttend, Encoder, LatentConfig, attend
from calico.agent.perceiver.tasks import (
    Autoencoder,
    AutoencoderConfig,
    Classifier,
    ClassifierConfig,
    Flow,
    FlowConfig,
    LanguageConfig,
    MaskedLanguage,
    NearBytes,
    build,
    differences,
    neighbours,
)

LATENT = LatentConfig(latents=5, width=16, blocks=2, layers=2, heads=2)
LANGUAGE = LanguageConfig(latent=LATENT, text=TextConfig(positions=20, width=16))
VIDEO = AutoencoderConfig(latent=LATENT, frames=2, size=(8, 8), resolution=(2, 2), samples_per_frame=16, patch=4, labels=3,
                          label_channels=20, channels=10)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


Kind = TypeVar("Kind", bound=torch.nn.Module)


def shaken(model: Kind) -> Kind:
    """Biases and scales away from 0 and 1."""
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize("masked", [False, True])
def test_the_fold_gives_the_same_outputs_and_gradients(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = shaken(CrossAttend(LATENT, 16, 7)).double()
    mask = torch.rand(3, 30) < 0.5 if masked else None
    queries, inputs = torch.randn(1, 5, 16).double().requires_grad_(), torch.randn(3, 30, 7).double().requires_grad_()
    # no gradient flows into the keys' bias; written out it is rounding's
    leaves = [queries, inputs, *(p for name, p in layer.named_parameters() if name != "key.bias")]

    def outputs_and_gradients() -> list[Tensor]:
        made = layer(queries, inputs, mask)
        return [made, *torch.autograd.grad(made.square().sum(), leaves)]

    projected = layer.projected
    monkeypatch.setattr(layer, "projected", None)      # the fold is the path that is taken
    folded = outputs_and_gradients()
    monkeypatch.setattr(layer, "folded", projected)
    torch.testing.assert_close(folded, outputs_and_gradients())


@torch.no_grad()
def test_queries_are_folded_where_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that differ by row, and read out through another matrix."""
    layer = shaken(CrossAttend(replace(LATENT, width=24), 7, 24)).double()
    inputs, weight, bias = torch.randn(3, 5, 24).double(), torch.randn(2, 7).double(), torch.randn(2).double()
    for rows in (1, 3):
        queries = torch.randn(rows, 30, 7).double()
        folded = layer(queries, inputs), layer.read_out(queries, inputs, weight, bias)
        with monkeypatch.context() as patch:
            patch.setattr(layer, "folds_queries", lambda *_, **__: False)
            plain = layer(queries, inputs)
        assert layer.folds_queries(queries, inputs, masked=False)
        torch.testing.assert_close(folded, (plain, F.linear(plain, weight, bias)))
        kept = layer.read_out(queries, inputs, weight, bias, moved=layer.move(inputs))
        torch.testing.assert_close(kept, folded[1], rtol=0, atol=0)


@torch.no_grad()
def test_what_all_queries_end_in_is_folded_too() -> None:
    for residual in (False, True):
        layer = shaken(CrossAttend(replace(LATENT, width=24), 40, 24, residual=residual)).double()
        inputs, weight, bias = torch.randn(3, 5, 24).double(), torch.randn(2, 40).double(), torch.randn(2).double()
        queries, padding = 3 + torch.randn(1, 30, 9).double(), torch.randn(1, 31).double()
        whole = torch.cat([queries, padding.expand(1, 30, -1)], dim=-1)
        expected = F.linear(layer(whole, inputs), weight, bias)
        assert layer.folds_queries(queries, inputs, masked=False) and not layer.folds_queries(whole, inputs, masked=False)
        torch.testing.assert_close(layer.read_out(queries, inputs, weight, bias, padding), expected)


@pytest.mark.parametrize("learned", [False, True])
def test_plain_attention_is_the_kernels(learned: bool) -> None:
    """Raw input is attended to in plain steps, what is learned by torch's kernel."""
    q, k = torch.randn(2, 1, 5, 8).double().requires_grad_(), torch.randn(2, 1, 30, 8).double().requires_grad_(learned)
    bias = torch.randn(2, 1, 1, 30).double()
    (gradient,) = torch.autograd.grad(attend(q, k, k, bias, 0.3).square().sum(), q)
    with torch.no_grad():
        torch.testing.assert_close(attend(q, k, k, bias, 0.3), F.scaled_dot_product_attention(q, k, k, bias, scale=0.3))
    expected = F.scaled_dot_product_attention(q, k, k, bias, scale=0.3)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.square().sum(), q)[0])


def test_small_scores_in_bf16_are_the_kernels() -> None:
    """Under autocast, forward and backward, as far as eight bits tell."""
    q, k, v = (torch.randn(2, 2, 6, 8, requires_grad=True) for _ in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = attend(q, k, v)
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(made.float(), expected, atol=3e-2, rtol=3e-2)
    for got, wanted in zip(torch.autograd.grad(made.float().square().sum(), (q, k, v)),
                           torch.autograd.grad(expected.square().sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(got, wanted, atol=6e-2, rtol=6e-2)


@pytest.mark.parametrize("near", [0, 3])
def test_asked_places_are_answered_as_if_all_were(near: int) -> None:
    model, ids = shaken(MaskedLanguage(replace(LANGUAGE, near=near))), torch.randint(262, (2, 12))
    whole = model(ids)
    assert whole.shape == (2, 12, 262)
    torch.testing.assert_close(model(ids, positions=torch.tensor([7, 2])), whole[:, [7, 2]])
    by_row = torch.tensor([[1, 3, 5], [0, 2, 4]])
    torch.testing.assert_close(model(ids, positions=by_row), torch.stack([whole[0, by_row[0]], whole[1, by_row[1]]]))


@pytest.mark.parametrize("near", [0, 3])
def test_masked_bytes_are_not_read(near: int) -> None:
    model, ids = shaken(MaskedLanguage(replace(LANGUAGE, near=near))), torch.randint(262, (1, 12))
    mask = torch.arange(12)[None] < 8
    changed = ids.clone()
    changed[:, 8:] = 7
    torch.testing.assert_close(model(ids, mask), model(changed, mask))
    torch.testing.assert_close(model(ids, mask)[:, :8], model(ids[:, :8]))
    assert not torch.allclose(model(ids), model(changed))


def test_near_bytes_are_those_around_each_place() -> None:
    near, ids = NearBytes(2, 262, 16), torch.randint(1, 262, (2, 9))
    places = torch.tensor([[0, 4, 8], [4, 4, 1]])
    made = near(ids, places)
    for row, column, window in ((0, 0, [0, 0, *ids[0, :3]]), (0, 2, [*ids[0, 6:], 0, 0]), (1, 1, ids[1, 2:7].tolist())):
        torch.testing.assert_close(made[row, column], near.mix(near.table(torch.tensor(window)).flatten()))


def test_deepminds_masked_queries_know_nothing_of_the_input() -> None:
    mask = torch.arange(12)[None] < 8
    for wipe in (True, False):
        model = shaken(MaskedLanguage(replace(LANGUAGE, latent=replace(LATENT, wipe_masked=wipe))))
        first, second = (model(torch.randint(262, (1, 12)), mask) for _ in range(2))
        assert torch.allclose(first[:, 8:], second[:, 8:]) == wipe
        assert not torch.allclose(first[:, :8], second[:, :8])


@pytest.mark.parametrize("wipe", [True, False])
def test_a_row_that_may_read_nothing_reads_zeros_or_all_alike(wipe: bool) -> None:
    layer = shaken(CrossAttend(replace(LATENT, wipe_masked=wipe), 16, 7))
    queries, inputs = torch.randn(1, 5, 16), torch.randn(2, 9, 7)
    made = layer(queries, inputs, torch.tensor([[True] * 9, [False] * 9]))
    values = layer.value(layer.norm_input(inputs[1])).mean(dim=0)
    x = layer.out(torch.zeros_like(values) if wipe else values).expand(5, -1)
    torch.testing.assert_close(made[1], x + layer.feedforward(x))
    torch.testing.assert_close(made[:1], layer(queries, inputs[:1]))


@torch.no_grad()
def test_bf16_stays_near_and_finite() -> None:
    """As autocast and as the format of the weights; the second row may read nothing."""
    mask = torch.tensor([[True] * 12, [False] * 12])
    for model in (shaken(MaskedLanguage(LANGUAGE)), shaken(Classifier(ClassifierConfig(latent=LATENT, reader=LANGUAGE.text)))):
        ids = torch.randint(262, (2, 12))
        exact = model(ids, mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(ids, mask)
        for made in (rounded, model.bfloat16()(ids, mask)):
            assert made.dtype == torch.bfloat16
            assert (made - exact).abs().max() < 0.05 * exact.abs().max()


@torch.no_grad()
def test_flow_and_clips_run_in_bf16() -> None:
    flow, frames = shaken(Flow(FlowConfig(latent=LATENT, size=(6, 8)))), torch.randn(1, 2, 3, 6, 8)
    exact = flow(frames)
    assert (flow.bfloat16()(frames.bfloat16()) - exact).abs().max() < 0.1 * exact.abs().max()
    model, inputs = shaken(Autoencoder(VIDEO)), clip()
    whole = model.reconstruct(inputs, chunks=2)
    half = model.bfloat16().reconstruct({name: part.bfloat16() for name, part in inputs.items()}, chunks=2)
    for name, part in half.items():
        assert (part - whole[name]).abs().max() < 0.1 * whole[name].abs().max(), name


def test_a_mixture_of_modalities_is_read_where_its_mask_allows() -> None:
    """Elements stand in the order of the names: six points, then eight bytes, the last three of which are padding."""
    reader = MixtureConfig(modalities={"text": LANGUAGE.text, "points": PointsConfig(bands=2, resolution=4)})
    model = shaken(Classifier(ClassifierConfig(latent=LATENT, reader=reader, labels=4)))
    inputs = {"text": torch.randint(262, (2, 8)), "points": torch.rand(2, 6, 3)}
    mask = torch.arange(14).expand(2, -1) < 11
    changed = inputs | {"text": torch.cat([inputs["text"][:, :5], torch.full((2, 3), 9)], dim=1)}
    torch.testing.assert_close(model(inputs, mask), model(changed, mask))
    assert not torch.allclose(model(inputs), model(changed))


def test_the_original_reads_the_input_again_with_shared_weights() -> None:
    def encoder(cross_attends: int) -> Encoder:
        return Encoder(replace(LATENT, blocks=3, cross_attends=cross_attends), 7)

    count = {n: sum(p.numel() for p in encoder(n).parameters()) for n in (1, 2, 3)}
    assert count[1] < count[2] == count[3]
    model, inputs = shaken(encoder(2)), torch.randn(2, 9, 7)
    x = model.cross_attend(model.latents[None], inputs)
    x = model.layers[1](model.layers[0](x))
    assert model.cross_attend_again is not None
    x = model.cross_attend_again(x, inputs)
    for _ in range(2):
        x = model.layers[1](model.layers[0](x))
    torch.testing.assert_close(model(inputs), x)


@pytest.mark.parametrize("wrong, message", [
    ({"heads": 3}, "16 channels do not split into 3 heads"),
    ({"cross_attends": 3}, "cross_attends=3 must be between 1 and blocks=2"),
])
def test_latents_that_do_not_work_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(LATENT, **wrong)


def test_heads_that_do_not_divide_the_input_are_named() -> None:
    with pytest.raises(ValueError, match="7 channels of keys and 7 of values do not split into 2 heads"):
        CrossAttend(LATENT, 16, 7, heads=2)


@pytest.mark.parametrize("decoder", ["query", "mean"])
def test_points_are_told_apart_after_a_few_steps(decoder: str) -> None:
    config = ClassifierConfig(latent=LATENT, reader=PointsConfig(bands=4, resolution=8), labels=2, decoder=decoder)  # type: ignore[arg-type]
    model = build(config)
    points, labels = torch.rand(32, 20, 3) * 2 - 1, torch.arange(32) % 2
    points[..., 2] *= labels[:, None]                   # flat clouds and full ones
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(points), labels).backward()
        optimizer.step()
    assert (model(points).argmax(dim=1) == labels).float().mean() > 0.9


def test_every_parameter_of_every_model_is_trained() -> None:
    """But for the keys' biases where the fold takes them out, and the mask tokens of what is never masked."""
    clip = {"image": torch.rand(4, 2, 3, 8, 8), "audio": torch.randn(4, 32), "label": torch.eye(3)[[0, 1, 2, 0]]}
    points: dict[str, Tensor | None] = {"image": torch.arange(9), "audio": torch.arange(3), "label": None}
    losses = {
        MaskedLanguage(replace(LANGUAGE, near=2)): lambda model: model(torch.randint(262, (2, 20))).square().sum(),
        Classifier(ClassifierConfig(latent=LATENT, reader=ImageConfig(kind="conv", bands=2))):
            lambda model: model(torch.randn(2, 3, 24, 24)).square().sum(),
        Flow(FlowConfig(latent=LATENT, size=(6, 8))): lambda model: model(torch.randn(2, 2, 3, 6, 8)).square().sum(),
        Autoencoder(VIDEO): lambda model: sum(part.square().sum() for part in model(clip, points).values()),
    }
    for model, loss in losses.items():
        torch.manual_seed(0)      # draws whose label is masked: some are, some are not
        loss(model).backward()
        idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        allowed = {"reader.masks.audio", "reader.masks.image"}
        assert {name for name in idle if not name.endswith("key.bias")} <= allowed, type(model).__name__


def test_neighbours_are_row_then_column_then_colour() -> None:
    frames = torch.randn(1, 2, 3, 4, 5)
    padded = F.pad(frames, (1, 1, 1, 1))
    by_hand = [padded[0, 1, c, 2 + row, 4 + column] for row in range(3) for column in range(3) for c in range(3)]
    assert neighbours(frames)[0, 1, :, 2, 4].tolist() == [float(x) for x in by_hand]


def test_flow_is_the_same_in_chunks_and_for_gathered_neighbours() -> None:
    model, frames = shaken(Flow(FlowConfig(latent=LATENT, size=(6, 8)))), torch.randn(2, 2, 3, 7, 5)
    whole = model(frames)
    assert whole.shape == (2, 7, 5, 2)
    with torch.no_grad():
        torch.testing.assert_close(model(frames, chunk=4), whole)
        torch.testing.assert_close(model(neighbours(frames)), whole)


def test_the_least_difference_is_where_a_pixel_went() -> None:
    """A picture that moves by two pixels to the right and one up; both forms of frames are compared alike."""
    first = torch.randn(1, 3, 20, 24)
    frames = torch.stack([first, first.roll((-1, 2), dims=(2, 3))], dim=1)
    least = differences(frames, reach=3).argmin(dim=-1).view(20, 24)
    assert (least[6:-6, 6:-6] == (3 - 1) * 7 + (3 + 2)).all()
    model = shaken(Flow(FlowConfig(latent=LATENT, size=(6, 8), bands=4, project=5, search=2, query_residual=True)))
    torch.testing.assert_close(model(frames), model(neighbours(frames)))
    assert model.head.in_features == 5 + 2 * 9 + 25


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 3, 3, 8, 8), (1, 2, 4, 8, 8)])
def test_what_is_no_pair_of_pictures_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"optical flow reads \(batch, 2, 3, rows, columns\)"):
        Flow(FlowConfig(latent=LATENT, size=(8, 8)))(torch.zeros(shape))


def clip() -> dict[str, Tensor]:
    return {"image": torch.rand(2, 2, 3, 8, 8), "audio": torch.randn(2, 32), "label": torch.zeros(2, 3)}


def test_a_clip_is_encoded_once_whatever_the_chunks() -> None:
    model, inputs = shaken(Autoencoder(VIDEO)), clip()
    calls: list[int] = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    whole = model.reconstruct(inputs, chunks=1)
    assert {name: tuple(part.shape) for name, part in whole.items()} \
        == {"image": (2, 2, 3, 8, 8), "audio": (2, 32), "label": (2, 3)}
    for chunks in (5, 11):         # eleven is more than there are patches of sound
        for name, part in model.reconstruct(inputs, chunks=chunks).items():
            torch.testing.assert_close(part, whole[name])
    assert len(calls) == 3


def test_patches_of_the_video_are_put_where_they_belong() -> None:
    """A model whose patch n is n everywhere: pixel (t, row, column) shows the number of the patch that it lies in."""
    model = Autoencoder(replace(VIDEO, video_patch=(1, 4, 2), size=(8, 8))).eval()
    assert model.config.video_grid == (2, 2, 4)
    model.decode = lambda latents, points, moved=None: {    # type: ignore[method-assign]
        name: torch.zeros(2, 3) if cells is None else
        cells[None, :, None].expand(2, -1, 24).float() if name == "image" else torch.zeros(2, 4 * len(cells))
        for name, cells in points.items()}
    made = model.reconstruct(clip(), chunks=3)["image"]
    expected = torch.arange(16).view(2, 1, 2, 4).repeat_interleave(4, 2).repeat_interleave(2, 3).expand(2, 2, 3, 8, 8)
    assert made.shape == (2, 2, 3, 8, 8) and (made == expected.float()).all()


def test_a_patch_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"do not split into video_patch=\(1, 3, 3\)"):
        replace(VIDEO, video_patch=(1, 3, 3))


def test_an_output_does_not_depend_on_what_else_is_asked_for() -> None:
    model = shaken(Autoencoder(VIDEO))
    latents = model.encode(clip())
    points: dict[str, Tensor | None] = {"image": torch.tensor([100, 3]), "audio": torch.tensor([7]), "label": None}
    together = model.decode(latents, points)
    for name, cells in points.items():
        assert set(alone := model.decode(latents, {name: cells})) == {name}
        torch.testing.assert_close(alone[name], together[name], rtol=1e-5, atol=1e-4)    # outputs are about 20


def test_the_label_is_looked_at_in_training_alone() -> None:
    model, inputs = shaken(Autoencoder(replace(VIDEO, label_mask_prob=1e-9))), clip()
    given = inputs | {"label": torch.eye(3)[:2]}
    torch.testing.assert_close(model.encode(inputs), model.encode(given))
    model.train()
    assert not torch.allclose(model.encode(inputs), model.encode(given))


def test_answers_to_several_queries_of_the_label_are_averaged() -> None:
    model = shaken(Autoencoder(replace(VIDEO, label_queries=3)))
    latents, label, queries = torch.randn(2, 5, 16), {"label": None}, model.label_query.data
    together = model.decode(latents, label)["label"]
    alone = []
    for number in range(3):
        model.label_query.data = queries[number:number + 1]
        alone.append(model.decode(latents, label)["label"])
    assert together.shape == (2, 3) and not torch.allclose(alone[0], alone[1])
    torch.testing.assert_close(together, torch.stack(alone).mean(dim=0))
    with pytest.raises(ValueError, match="label_queries=0 must be at least 1"):
        replace(VIDEO, label_queries=0)


@pytest.mark.parametrize("points", [{"image": None}, {"sound": torch.arange(2)}])
def test_points_of_no_modality_are_named(points: dict[str, Tensor | None]) -> None:
    with pytest.raises(ValueError, match="give indices for image and audio, None for label"):
        Autoencoder(VIDEO).decode(torch.zeros(1, 5, 16), points)
