"""Perceiver IO as a backbone: what a place sees, and how places are put side by side. The rest is in test_backbones.py."""

from dataclasses import replace

import pytest
import torch

from calico.agent.backbones.perceiver import Grouped, Perceiver, PerceiverConfig, sample_per_row

CONFIG = PerceiverConfig(width=16, depth=1, heads=2, context=6, latents=3, prefixes=4)


@pytest.fixture
def perceiver() -> Perceiver:
    torch.manual_seed(0)
    return Perceiver(CONFIG).eval()


def test_a_place_sees_exactly_its_context(perceiver: Perceiver) -> None:
    """No layer passes anything on from token to token: the cost of a longer context is one longer reading."""
    x = torch.randn(1, 20, 16)
    for back, is_seen in ((5, True), (6, False)):
        changed = x.clone()
        changed[:, 19 - back] = torch.randn(16)
        assert torch.equal(perceiver(x)[:, 19], perceiver(changed)[:, 19]) != is_seen


def test_the_same_tokens_later_on_give_the_same_state(perceiver: Perceiver) -> None:
    x, filler = torch.randn(1, 6, 16), torch.randn(1, 3000, 16)
    late = perceiver(torch.cat([filler, x], dim=1), (torch.tensor([0]), torch.tensor([3005])))
    torch.testing.assert_close(late[0], perceiver(x)[0, -1], atol=1e-4, rtol=1e-4)


def test_the_order_of_the_tokens_matters(perceiver: Perceiver) -> None:
    x = torch.randn(1, 6, 16)
    swapped = x[:, [0, 2, 1, 3, 4, 5]]
    assert not torch.allclose(perceiver(x)[:, -1], perceiver(swapped)[:, -1], atol=1e-4)


def test_blocks_of_places_change_nothing(perceiver: Perceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 30, 16)
    expected = perceiver(x)
    monkeypatch.setattr("calico.agent.backbones.perceiver.PREFIX_CHUNK", 1000)
    torch.testing.assert_close(perceiver(x), expected, atol=1e-5, rtol=1e-5)


def test_places_stand_in_a_table() -> None:
    """The case of the docstring: row 1 asks for nothing, place 4 of row 2 is asked for twice."""
    groups = Grouped.of(torch.tensor([0, 0, 2, 2, 2]), torch.tensor([3, 5, 0, 4, 4]), torch.tensor([7, 7, 7]))
    assert groups.group.tolist() == [0, 1, 2, 3, 3]
    assert groups.rows.tolist() == [0, 0, 2, 2] and groups.starts.tolist() == [3, 5, 0, 4]
    assert groups.columns.tolist() == [0, 1, 0, 1]
    assert groups.table.tolist() == [[3, 5], [7, 7], [0, 4]]
    many = Grouped.of(torch.zeros(17, dtype=torch.int64), torch.arange(17), torch.tensor([20]))
    assert many.starts.tolist() == [*range(17), 16]             # 18 groups: a shape that recurs


def test_a_row_draws_as_many_targets_as_it_may() -> None:
    """Of nine four, of two both, of none none."""
    targets = torch.tensor([[True] * 9 + [False], [False, True] + [False] * 7 + [True], [False] * 10])
    torch.manual_seed(0)
    drawn = torch.stack([sample_per_row(targets, 4) for _ in range(500)])
    assert torch.equal(drawn.sum(dim=2)[:, 0], torch.full((500,), 4))
    assert torch.equal(drawn[:, 1:], targets[1:].expand(500, -1, -1))
    torch.testing.assert_close(drawn[:, 0, :9].float().mean(dim=0), torch.full((9,), 4 / 9), atol=0.07, rtol=0)


def test_with_a_stride_all_targets_of_some_strides_are_drawn() -> None:
    """Ten positions in strides 0-3, 4-7, 8-9; at most two of them."""
    targets = torch.tensor([[True, False, True, True, True, False, False, False, True, True]])
    torch.manual_seed(0)
    drawn = torch.stack([sample_per_row(targets, 2, 4)[0] for _ in range(200)])
    strides = torch.stack([drawn[:, :4].any(dim=1), drawn[:, 4:8].any(dim=1), drawn[:, 8:].any(dim=1)], dim=1)
    assert torch.equal(strides.sum(dim=1), torch.full((200,), 2)) and strides.any(dim=0).all()
    assert torch.equal(drawn, targets & strides.repeat_interleave(4, dim=1)[:, :10])
    assert torch.equal(sample_per_row(targets, 3, 4), targets)


def test_tokens_of_a_stride_share_latents_and_read_each_other() -> None:
    """Stride 4, context 6: position 10 is answered from the latents of 8, which read 3 ... 8, and from 8, 9 and 10."""
    torch.manual_seed(0)
    perceiver, x, passes = Perceiver(replace(CONFIG, stride=4)).eval(), torch.randn(1, 12, 16), []
    perceiver.layers[0].register_forward_pre_hook(lambda layer, inputs: passes.append(len(inputs[0])))
    state = perceiver(x)[0, 10]
    assert passes == [3]                                        # latents of 0, 4 and 8 serve twelve tokens
    for position in range(12):
        changed = x.clone()
        changed[:, position] = torch.randn(16)
        assert torch.equal(perceiver(changed)[0, 10], state) != (3 <= position <= 10)


@pytest.mark.parametrize("wrong, message", [
    ({"heads": 3}, "width=16 does not split into 3 heads"), ({"latents": 0}, "latents=0 must be at least 1"),
    ({"prefixes": 0}, "prefixes=0 must be at least 1"), ({"stride": 0}, "stride=0 must be at least 1"),
    ({"context": 0}, "context=0 must be at least 1"),
])
def test_sizes_that_do_not_work_are_named(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PerceiverConfig(**{"width": 16, "heads": 2, **wrong})  # type: ignore[arg-type]
