"""Early exit and fewer latents: nothing changes when they are off, and each does what it says when it is on."""

import pytest
import torch
from torch import Tensor

from calico.agent.perceiver.inputs import PatchesConfig, TextConfig
from calico.agent.perceiver.layers import LatentConfig
from calico.agent.perceiver.shortcuts import Shortcuts, Shortened, classify, strongest
from calico.agent.perceiver.tasks import Classifier, ClassifierConfig

LATENT = LatentConfig(latents=12, width=16, layers=4, heads=2)
TEXT = ClassifierConfig(latent=LATENT, reader=TextConfig(width=16, positions=32), labels=3)
AGAIN = ClassifierConfig(latent=LatentConfig(latents=6, width=16, blocks=3, layers=2, heads=2, cross_attends=2), labels=3,
                         reader=PatchesConfig(block=(1, 4, 4), bands=4, resolution=(4, 4)), decoder="mean")


def model_of(config: ClassifierConfig) -> Classifier:
    torch.manual_seed(0)
    model = Classifier(config).eval()
    with torch.no_grad():       # as after training: answers differ between rows and layers
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture
def texts() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randint(6, 262, (8, 32)), torch.arange(32) < torch.tensor([32, 5, 20, 11, 3, 32, 16, 9])[:, None]


@torch.no_grad()
def test_switched_off_nothing_changes(texts: tuple[Tensor, Tensor]) -> None:
    model = model_of(TEXT)
    answer = classify(model, *texts)
    torch.testing.assert_close(answer.logits, model(*texts), rtol=0, atol=0)
    assert answer.depths.tolist() == [4] * 8 and Shortcuts().exact
    pictures, reads_again = torch.randn(2, 3, 16, 16), model_of(AGAIN)
    torch.testing.assert_close(classify(reads_again, pictures).logits, reads_again(pictures), rtol=0, atol=0)


@torch.no_grad()
def test_each_row_leaves_at_the_first_layer_that_is_sure_enough(texts: tuple[Tensor, Tensor]) -> None:
    model = model_of(TEXT)
    x, logits = model.encoder.cross_attend(model.encoder.latents[None], *model.read(*texts)), []
    for _, layer in model.encoder.steps():
        x = layer(x)
        logits.append(model.decode(x))
    by_layer = torch.stack(logits)                                                   # (layers, B, labels)
    sure = by_layer.softmax(dim=2).amax(dim=2)
    threshold = float(sure[:3].flatten().sort().values[11:13].mean())               # between two of them
    wanted = [next((depth for depth in range(3) if sure[depth, row] >= threshold), 3) for row in range(8)]
    assert len(set(wanted)) > 1                                                      # or nothing would be shown
    answer = classify(model, *texts, Shortcuts(early_exit=threshold))
    assert answer.depths.tolist() == [depth + 1 for depth in wanted]
    torch.testing.assert_close(answer.logits, by_layer[wanted, range(8)])


def test_rows_that_stay_read_their_own_input_again() -> None:
    model, pictures = model_of(AGAIN), torch.randn(6, 3, 16, 16)
    first = classify(model, pictures, None, Shortcuts(early_exit=1e-6))                   # all leave at once
    threshold = float(first.logits.softmax(dim=1).amax(dim=1).sort().values[2:4].mean())
    together = classify(model, pictures, None, Shortcuts(early_exit=threshold))
    assert len(set(together.depths.tolist())) > 1
    for row in range(6):
        alone = classify(model, pictures[row:row + 1], None, Shortcuts(early_exit=threshold))
        assert int(alone.depths) == int(together.depths[row])
        torch.testing.assert_close(alone.logits[0], together.logits[row], rtol=1e-4, atol=1e-5)


def test_latents_with_the_most_attention_go_on(texts: tuple[Tensor, Tensor]) -> None:
    model = model_of(TEXT)
    seen: list[tuple[int, ...]] = []
    for _, layer in model.encoder.steps():
        layer.register_forward_pre_hook(lambda layer, inputs: seen.append(tuple(inputs[0].shape)))
    shortened = Shortened(model, Shortcuts(keep_latents=0.25)).eval()
    assert shortened(*texts).shape == (8, 3) and shortened.depths.tolist() == [4] * 8
    assert seen == [(8, 12, 16), (8, 3, 16), (8, 3, 16), (8, 3, 16)]
    latents = torch.arange(5.0)[None, :, None].expand(2, 5, 3)
    kept = strongest(latents, torch.tensor([[0.1, 0.3, 0.2, 0.4, 0.0], [0.5, 0.1, 0.1, 0.1, 0.2]]), 0.4)
    assert kept[..., 0].tolist() == [[1, 3], [0, 4]]
    assert strongest(torch.zeros(1, 30, 2), torch.rand(1, 30), 0.1).shape == (1, 3, 2)


def test_attention_mass_is_that_of_the_softmax() -> None:
    layer, x = next(model_of(TEXT).encoder.steps())[1], torch.randn(2, 12, 16)
    mass = layer.attention_mass(x)
    q, k, v = (part.unflatten(-1, (2, 8)) for part in layer.qkv(layer.norm(x)).split(16, dim=-1))     # (B, N, heads, c)
    by_hand = torch.stack([torch.stack([(q[b, :, h] @ k[b, :, h].T / 8 ** 0.5).softmax(dim=1).mean(dim=0) for h in range(2)])
                           .mean(dim=0) for b in range(2)])
    torch.testing.assert_close(mass, by_hand)
    torch.testing.assert_close(mass.sum(dim=1), torch.ones(2))
    mixed = torch.einsum("bhqk,bkhc->bqhc", torch.einsum("bqhc,bkhc->bhqk", q, k).div(8 ** 0.5).softmax(-1), v).flatten(2)
    after = x + layer.out(mixed)
    torch.testing.assert_close(layer(x), after + layer.feedforward(after))


@pytest.mark.parametrize("name", ["early_exit", "keep_latents"])
@pytest.mark.parametrize("value", [0.0, -1.0, 1.5, float("nan")])
def test_what_is_no_fraction_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value} must be above 0 and at most 1; 1 switches it off"):
        Shortcuts(**{name: value})
