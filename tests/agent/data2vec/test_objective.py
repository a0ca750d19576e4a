"""data2vec's objective: teacher, targets, losses, and that it learns, on tiny encoders."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from calico.agent.data2vec import encoders
from calico.agent.data2vec.collapse import CollapseError, CollapseGuard
from calico.agent.data2vec.encoders import Encoded, Encoder, Features
from calico.agent.data2vec.masks import kept_positions
from calico.agent.data2vec.objective import (
    OBJECTIVES,
    ConvDecoder,
    Data2Vec,
    Data2VecConfig,
    Outcome,
    PredictorConfig,
    average_layers,
    between_fraction,
    momentum,
    normalize,
    regression_loss,
    std_over_rows,
)

SMALL: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "feedforward": 48}


def vision() -> tuple[Encoder, tuple[Tensor, ...]]:
    config = encoders.VisionEncoderConfig(**SMALL, image_size=32, patch_size=8, layer_scale=1.0, absolute_positions=True)
    return encoders.VisionEncoder(config), (torch.randn(2, 3, 32, 32),)


def speech() -> tuple[Encoder, tuple[Tensor, ...]]:
    config = encoders.SpeechEncoderConfig(**SMALL, conv_channels=(8,) * 7, position_layers=2, position_groups=4)
    encoder = encoders.SpeechEncoder(config)
    return encoder, (torch.randn(4, 6400), torch.tensor([6400, 6400, 4000, 1200]))


def text() -> tuple[Encoder, tuple[Tensor, ...]]:
    ids = torch.randint(3, 39, (4, 24))
    ids[2, 15:], ids[3, 4:] = 1, 1
    return encoders.TextEncoder(encoders.TextEncoderConfig(**SMALL, vocab_size=40, max_length=24, mask=39)), (ids,)


MAKERS: dict[str, Callable[[], tuple[Encoder, tuple[Tensor, ...]]]] = {"vision": vision, "speech": speech, "text": text}


def make(name: str, **changes: Any) -> tuple[Data2Vec, tuple[Tensor, ...]]:
    """A tiny objective with the published settings and a batch."""
    torch.manual_seed(0)
    encoder, inputs = MAKERS[name.split("-")[0]]()
    config = OBJECTIVES[name]
    if config.decoder is not None:
        config = replace(config, copies=3, decoder=replace(config.decoder, channels=32, groups=4, depth=2))
    return Data2Vec(encoder, replace(config, top_layers=2, **changes)), inputs


def train(objective: Data2Vec, inputs: tuple[Tensor, ...], steps: int, rate: float, guard: CollapseGuard | None = None,
          teach: bool = True) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        outcome = objective(*inputs)
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        if teach:
            objective.update_teacher()
        if guard is not None:
            guard.check(outcome)
        losses.append(outcome.loss.item())
    return losses


@pytest.mark.parametrize(("name", "step", "tau"), [
    ("vision-v1", 1, 0.9998), ("vision-v1", 10**6, 0.9998),
    ("speech-v1", 0, 0.999), ("speech-v1", 15_000, 0.99945), ("speech-v1", 30_000, 0.9999), ("speech-v1", 10**6, 0.9999),
    ("text-v1", 25_000, 0.999225), ("text-v1", 100_000, 0.9999),
])
def test_the_teachers_momentum_rises_linearly_and_stays(name: str, step: int, tau: float) -> None:
    assert momentum(OBJECTIVES[name], step) == pytest.approx(tau, abs=1e-12)


def test_the_teacher_follows_by_its_momentum_in_float32() -> None:
    objective, inputs = make("vision-v1", tau_start=0.5, tau_end=0.9, tau_steps=4)
    objective.encoder.to(torch.bfloat16)
    old = [p.clone() for p in objective.teacher.parameters()]
    with torch.no_grad():
        for parameter in objective.encoder.parameters():
            parameter.add_(torch.randn_like(parameter))
    objective.update_teacher()
    for before, mine, student in zip(old, objective.teacher.parameters(), objective.encoder.parameters(), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, 0.6 * before + 0.4 * student.float())   # tau(1) = 0.5 + 0.4 / 4


def test_the_teacher_sees_everything_learns_nothing_and_stays_in_eval_mode() -> None:
    objective, (images,) = make("vision-v1")
    objective.train()
    assert objective.encoder.training
    assert not objective.teacher.training
    objective(images).loss.backward()
    assert all(p.grad is None for p in objective.teacher.parameters())
    whole = objective.teacher.encode(objective.teacher.features(images))
    expected = average_layers(whole, objective.config, None, prefix=1)
    torch.testing.assert_close(objective.make_targets(objective.encoder.features(images), images), expected)


def test_only_shared_features_come_from_the_student() -> None:
    for name, shared in (("speech-v1", True), ("text-v1", False)):
        objective, inputs = make(name)
        before = objective.make_targets(objective.encoder.features(*inputs), *inputs)
        with torch.no_grad():
            for parameter in objective.encoder.parameters():
                parameter.add_(torch.randn_like(parameter))
        after = objective.make_targets(objective.encoder.features(*inputs), *inputs)
        assert torch.equal(before, after) != shared
        assert not after.requires_grad


def test_targets_are_the_mean_of_the_normalised_top_layers() -> None:
    states = tuple(torch.randn(2, 5, 4) for _ in range(4))
    fed = tuple(torch.randn(2, 5, 4) for _ in range(3))
    encoded = Encoded(states[-1], states, fed)

    def layer(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()

    config = replace(OBJECTIVES["vision-v1"], top_layers=2)
    by_hand = layer((layer(states[2][:, 1:]) + layer(states[3][:, 1:])) / 2)
    torch.testing.assert_close(average_layers(encoded, config, None, prefix=1), by_hand)
    config = replace(OBJECTIVES["text-v1"], top_layers=2)
    torch.testing.assert_close(average_layers(encoded, config, None), (layer(fed[1]) + layer(fed[2])) / 2)
    config = replace(OBJECTIVES["speech-v1"], top_layers=3)
    by_hand = sum(F.instance_norm(f.transpose(1, 2)).transpose(1, 2) for f in fed) / 3   # type: ignore[assignment]
    torch.testing.assert_close(average_layers(encoded, config, None), by_hand)
    with pytest.raises(ValueError, match="top_layers=4 of an encoder with 3"):
        average_layers(encoded, replace(config, top_layers=4), None)


def test_statistics_over_time_leave_padding_out() -> None:
    x = torch.tensor([[1.0, 3.0, 500.0]])[..., None]
    normed = normalize(x, "instance", torch.tensor([[True, True, False]]))
    torch.testing.assert_close(normed[0, :2, 0], torch.tensor([-1.0, 1.0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "expected"), [
    ("vision-v1", (0.5 * 1**2 / 2 + (3 - 0.5 * 2)) / 2),      # smooth L1: x^2 / (2 beta) below beta, |x| - beta / 2 above
    ("speech-v1", (1 + 9) / math.sqrt(2)),
    ("text-v1", 0.5 * 1 / 4 + 0.5 * 9 / 4),
])
def test_losses_by_hand(name: str, expected: float) -> None:
    loss = regression_loss(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2), OBJECTIVES[name])
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_targets_are_counted_at_masked_positions_that_are_real(name: str) -> None:
    objective, inputs = make(name)
    features = objective.encoder.features(*inputs)
    masked, copies = objective.draw_masks(features, None), objective.config.copies
    torch.manual_seed(1)
    outcome = objective(*inputs)
    assert outcome.targets == int(masked.sum()) > 0
    assert len(masked) == len(features.x) * copies
    assert features.real is None or not (masked & ~features.real.repeat_interleave(copies, 0)).any()
    torch.manual_seed(1)   # the decoder's noise
    again = objective(*inputs, samples=range(len(features.x)))
    torch.testing.assert_close(again.loss, outcome.loss, atol=0, rtol=0)
    objective.update_teacher()
    assert not torch.equal(masked, objective.draw_masks(features, None))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_batch_is_memorised(name: str) -> None:
    objective, inputs = make(name)
    losses = train(objective, inputs, 40, 1e-2, teach=False)    # the same masks and the same teacher each time
    assert losses[-1] < 0.25 * losses[0]


@pytest.mark.parametrize("name", ["vision-v1", "speech-v2"])
def test_a_saved_objective_goes_on_as_if_it_had_not_stopped(name: str) -> None:
    objective, inputs = make(name)
    train(objective, inputs, 3, 1e-3)
    saved, config = objective.state_dict(), objective.config
    torch.manual_seed(7)
    fresh = Data2Vec(MAKERS[name.split("-")[0]]()[0], config)
    fresh.load_state_dict(saved)
    losses = []
    for one in (objective, fresh):
        torch.manual_seed(1)
        losses.append([one(*inputs).loss.item(), one(*inputs).targets, int(one.updates)])
    assert losses[0] == losses[1]
    assert losses[0][2] == 3


@pytest.mark.parametrize("name", OBJECTIVES)
def test_bf16_autocast_changes_little(name: str) -> None:
    objective, inputs = make(name)
    torch.manual_seed(1)
    exact = objective(*inputs).loss
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = objective(*inputs).loss
    rounded.backward()
    assert rounded.item() == pytest.approx(exact.item(), rel=0.05)


def test_a_learning_rate_that_is_absurd_is_stopped_within_200_steps() -> None:
    objective, inputs = make("vision-v1")
    with pytest.raises(CollapseError, match="(targets|predictions) have collapsed.* for 20 steps; lower the learning rate"):
        train(objective, inputs, 200, 10.0, CollapseGuard())


def test_content_is_what_differs_between_samples_at_a_place() -> None:
    torch.manual_seed(0)
    place, content = torch.randn(1, 200, 8), torch.randn(40, 200, 8)
    real = torch.arange(200) < torch.tensor([200] * 20 + [100] * 20)[:, None]
    for given in (None, real):
        assert between_fraction(place.expand(40, -1, -1), given) == pytest.approx(0, abs=1e-6)
        assert between_fraction(content, given) == pytest.approx(1, abs=0.02)
        assert between_fraction(place + content, given) == pytest.approx(0.5, abs=0.03)
    assert between_fraction(content[:1], None) == 1     # one sample tells nothing of this


def test_normalising_over_positions_leaves_content_only() -> None:
    torch.manual_seed(0)
    x = 5 * torch.randn(1, 6, 3) + torch.randn(20, 6, 3)
    normed = normalize(x, "place", None)
    torch.testing.assert_close(normed.mean(0), torch.zeros(6, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.std(0, correction=0), torch.ones(6, 3), atol=1e-3, rtol=0)
    real = torch.arange(6) < torch.tensor([6] * 10 + [2] * 10)[:, None]
    torch.testing.assert_close(normalize(x, "place", real)[:10, 2:], normalize(x[:10], "place", None)[:, 2:])


def test_a_std_is_zero_when_all_rows_are_equal() -> None:
    assert std_over_rows(torch.ones(5, 3)) == 0
    assert std_over_rows(torch.tensor([[0.0, 1.0], [2.0, 1.0]])) == 0.5


@pytest.mark.parametrize(("changes", "message"), [
    ({"tau_start": 0.99, "tau_end": 0.9}, "tau must rise"), ({"top_layers": 0}, "top_layers=0"), ({"beta": -1.0}, "beta=-1.0"),
])
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    config: Data2VecConfig = OBJECTIVES["vision-v1"]
    with pytest.raises(ValueError, match=message):
        replace(config, **changes)


def test_the_student_of_version_2_encodes_kept_positions_only_and_the_teacher_runs_once() -> None:
    objective, (images,) = make("vision-v2")
    seen: list[tuple[int, ...]] = []
    for who in (objective.encoder, objective.teacher):
        who.get_submodule("transformer").register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    objective(images)
    # teacher: 2 pictures, class token and 16 patches; student: 3 copies of each, class token and 3 of 16 patches
    assert seen == [(2, 17, 32), (6, 4, 32)]


@pytest.mark.parametrize("name", ["vision-v2", "speech-v2", "text-v2"])
def test_masked_positions_do_not_leak_into_predictions(name: str) -> None:
    objective, inputs = make(name)
    objective.eval()
    features = objective.encoder.features(*inputs)
    masked = objective.draw_masks(features, None)[::3]                                # the first copy of each
    changed = replace(features, x=torch.where(masked[..., None], 1000.0, features.x))
    kept = kept_positions(masked, features.real)
    one, other = (objective.encoder.encode(f, kept=kept).hidden[:, objective.encoder.prefix:] for f in (features, changed))
    torch.testing.assert_close(one[kept >= 0], other[kept >= 0])


def test_the_decoder_puts_each_vector_in_its_place() -> None:
    torch.manual_seed(0)
    decoder = ConvDecoder(PredictorConfig(axes=2, channels=8, depth=1, kernel=3, groups=1), 8)
    hidden = torch.randn(1, 2, 8, requires_grad=True)
    out = decoder(hidden, torch.tensor([[5, -1]]), (4, 4))
    assert out.shape == (1, 16, 8)
    for place in range(16):
        (gradient,) = torch.autograd.grad(out[0, place].square().sum(), hidden, retain_graph=True)
        row, column = divmod(place, 4)
        assert bool(gradient[0, 0].any()) == (abs(row - 1) <= 1 and abs(column - 1) <= 1)   # place 5 is (1, 1), kernel 3
        assert not gradient[0, 1].any()                                                     # a filler goes nowhere


def test_each_copy_is_compared_with_its_own_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, (images,) = make("vision-v2")
    compared: list[Tensor] = []
    score = objective.score

    def spy(features: Features, targets: Tensor, predictions: Tensor, wanted: Tensor) -> Outcome:
        compared.extend(wanted)
        return score(features, targets, predictions, wanted)

    monkeypatch.setattr(objective, "score", spy)
    objective(images)
    features = objective.encoder.features(images)
    targets, masked = objective.make_targets(features, images), objective.draw_masks(features, None)
    expected = torch.cat([targets[row // 3][masked[row]] for row in range(6)])        # 2 pictures, 3 copies of each in a row
    torch.testing.assert_close(torch.stack(compared), expected)


def test_the_class_token_learns_the_mean_target() -> None:
    objective, (images,) = make("vision-v2", summary_weight=0.0)
    torch.manual_seed(1)
    plain = objective(images).loss
    features = objective.encoder.features(images)
    kept = torch.where(objective.draw_masks(features, None), 99, torch.arange(16)).sort()[0][:, :3]
    token = objective.encoder.encode(features.repeat(3), kept=kept).hidden[:, 0]
    means = objective.make_targets(features, images).mean(1).repeat_interleave(3, 0)
    objective.config = replace(objective.config, summary_weight=0.5)
    torch.manual_seed(1)
    summary = (token - means).square().sum(1).mean() / 32**0.5
    torch.testing.assert_close(objective(images).loss, plain + 0.5 * summary)


@pytest.mark.parametrize(("name", "changes", "message"), [
    ("vision-v1", {"copies": 2}, "copies=2 and summary_weight=0.0 need a decoder"),
    ("vision-v2", {"copies": 0}, "copies=0 must be at least 1"),
    ("text-v2", {"summary_weight": 0.1}, "needs an encoder with a class token"),
    ("text-v2", {"decoder": PredictorConfig(channels=48, groups=48)}, "groups=48 does not divide the encoder's width=32"),
])
def test_settings_of_version_2_that_do_not_fit_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(name, **changes)


def test_a_decoder_for_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel=4 must be odd"):
        PredictorConfig(kernel=4)
    objective, inputs = make("text-v2", decoder=PredictorConfig(axes=2, channels=32, groups=1))
    with pytest.raises(ValueError, match="decoder.axes=2, but the encoder's positions form a grid of 1"):
        objective(*inputs)
