"""Perceiver AR: no token sees a later one, caches change nothing even after they have slid, prefixes are read."""

import pytest
import torch
from torch import Tensor

from calico.agent.backbones.perceiver_ar import PerceiverAR, PerceiverARConfig, suffix_attention

CONFIG = PerceiverARConfig(width=16, depth=2, heads=2, context=10, window=4)


@pytest.fixture
def model() -> PerceiverAR:
    torch.manual_seed(0)
    return PerceiverAR(CONFIG).eval()


def stream(batch: int = 2, seq: int = 24) -> Tensor:
    return torch.randn(batch, seq, 16, generator=torch.Generator().manual_seed(1))


def test_a_later_token_does_not_change_earlier_states(model: PerceiverAR) -> None:
    x = stream()
    changed = x.clone()
    changed[:, 9] += torch.randn(16)     # not a constant, which a norm would take out
    before, after = model(x), model(changed)
    torch.testing.assert_close(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9], after[:, 9])


def test_latents_read_the_prefix_as_far_as_the_context_goes(model: PerceiverAR) -> None:
    """One latent alone: it sees its own context and nothing through other latents."""
    x = stream()
    for back, is_seen in ((9, True), (10, False)):
        changed = x.clone()
        changed[:, 23 - back] += torch.randn(16)
        assert torch.allclose(model.last(x, 1), model.last(changed, 1)) != is_seen


def test_a_layer_sees_a_window_of_latents(model: PerceiverAR) -> None:
    """More latents in front change nothing beyond the reach of two layers with a window of four."""
    x = stream()
    torch.testing.assert_close(model.last(x, 7)[:, -1], model(x)[:, -1])
    assert not torch.allclose(model.last(x, 6)[:, -1], model(x)[:, -1])


def test_acting_equals_one_pass_long_after_the_rings_have_slid(model: PerceiverAR) -> None:
    x, cache = stream(), model.new_cache(2, chunk=3)
    made = []
    for start, stop in ((0, 3), (3, 4), (4, 6), *((i, i + 3) for i in range(6, 24, 3))):
        hidden, cache = model.extend(x[:, start:stop], cache)
        made.append(hidden)
    torch.testing.assert_close(torch.cat(made, dim=1), model(x), rtol=1e-4, atol=1e-5)
    assert cache.lengths.tolist() == [24, 24]


def test_rows_of_a_cache_go_their_own_ways(model: PerceiverAR) -> None:
    """Row 0 is reset after five tokens; row 1 goes on with two tokens of three, the last being padding."""
    x, cache = stream(), model.new_cache(2, chunk=5)
    _, cache = model.extend(x[:, :5], cache)
    cache = cache.reset(torch.tensor([0]))
    new = torch.stack([x[0, 10:13], torch.cat([x[1, 5:7], torch.full((1, 16), 99.0)])])
    _, cache = model.extend(new, cache, torch.tensor([3, 2]))
    hidden, cache = model.extend(torch.stack([x[0, 13:14], x[1, 7:8]]), cache)
    torch.testing.assert_close(hidden[0, 0], model(x[:1, 10:14])[0, -1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hidden[1, 0], model(x[1:, :8])[0, -1], rtol=1e-4, atol=1e-5)
    assert cache.lengths.tolist() == [4, 8]


def test_queries_in_blocks_equal_one_masked_attention() -> None:
    q, k, v = torch.randn(1, 2, 150, 4), torch.randn(1, 2, 320, 4), torch.randn(1, 2, 320, 4)
    reach = torch.arange(170, 320)[:, None] - torch.arange(320)
    scores = (q @ k.mT / 2).masked_fill((reach < 0) | (reach >= 200), -torch.inf)
    torch.testing.assert_close(suffix_attention(q, k, v, 200), scores.softmax(dim=-1) @ v)


def test_training_windows_cover_every_place(model: PerceiverAR) -> None:
    """Nine places, windows of four: of ten equally likely ends three give the first window and three the last."""
    torch.manual_seed(0)
    drawn = torch.stack([model.sample_targets(torch.ones(2, 9, dtype=torch.bool)) for _ in range(4000)])
    assert torch.equal(drawn[:, 0], drawn[:, 1]) and (drawn.sum(dim=2) == 4).all()
    expected = torch.tensor([3, 4, 5, 6, 4, 6, 5, 4, 3]) / 10
    torch.testing.assert_close(drawn[:, 0].float().mean(dim=0), expected, atol=0.03, rtol=0)
    assert model.sample_targets(torch.ones(2, 3, dtype=torch.bool)).all()      # shorter than a window: all of it


def test_in_training_only_a_window_goes_through_the_layers(model: PerceiverAR) -> None:
    x, where = stream(), (torch.tensor([0, 1, 1]), torch.tensor([14, 12, 15]))
    torch.testing.assert_close(model.train()(x, where), model.last(x[:, :16], 4)[where[0], where[1] - 12])
    assert not torch.allclose(model(x, where), model.eval()(x, where))      # whose first latents see latents before them


def test_it_learns_to_copy_from_the_prefix() -> None:
    """The target of the last token stands before the window, where no layer but the cross-attention reaches."""
    torch.manual_seed(0)
    model = PerceiverAR(PerceiverARConfig(width=16, depth=1, heads=1, context=8, window=2))
    head = torch.nn.Linear(16, 4)
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=1e-2)
    table = torch.randn(4, 16)
    for _ in range(120):
        first = torch.randint(4, (32,))
        x = torch.cat([2 * table[first][:, None], 0.1 * torch.randn(32, 7, 16)], dim=1)
        loss = torch.nn.functional.cross_entropy(head(model.last(x, 2)[:, -1]), first)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7        # chance is 1.39


@pytest.mark.parametrize("wrong, message", [
    ({"heads": 3}, "width=16 does not split into 3 heads"),
    ({"window": 0}, "window=0 must be at least 1"),
])
def test_sizes_that_do_not_work_are_named(wrong: dict[str, int], message: str) -> None:
    sizes = {"width": 16, "heads": 2, "context": 10, "window": 4} | wrong
    with pytest.raises(ValueError, match=message):
        PerceiverARConfig(**sizes)  # type: ignore[arg-type]
