"""The backbone: causality, the window, and that cached passes equal uncached ones for ever."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calico.agent.backbones import cache as cache_module
from calico.agent.backbones.cache import Cache, biased_attention
from calico.agent.backbones.decoder import Decoder, DecoderConfig

CONFIG = DecoderConfig(width=32, depth=2, heads=2, context=16, window=6)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(CONFIG).eval()


def test_a_later_token_does_not_change_earlier_states(decoder: Decoder) -> None:
    x = torch.randn(1, 12, 32)
    changed = x.clone()
    changed[0, 7] = torch.randn(32)   # a constant would vanish in the norm
    torch.testing.assert_close(decoder(x)[:, :7], decoder(changed)[:, :7])
    assert not torch.allclose(decoder(x)[:, 7], decoder(changed)[:, 7])


def test_what_is_visible_ends_at_depth_times_window(decoder: Decoder) -> None:
    """Two layers with window 6 see 2 * 5 + 1 = 11 tokens: a change 10 tokens back reaches the state, 11 back does not."""
    x = torch.randn(1, 20, 32)
    for back, reaches in ((10, True), (11, False)):
        changed = x.clone()
        changed[0, 19 - back] = torch.randn(32)
        assert torch.equal(decoder(x)[0, 19], decoder(changed)[0, 19]) is not reaches


def test_a_segment_is_read_as_if_it_stood_alone(decoder: Decoder) -> None:
    """Rotary positions are relative: where in a row a segment begins does not matter."""
    x = torch.randn(2, 14, 32)
    segment = torch.tensor([[0] * 3 + [1] * 5 + [2] * 6, [4] * 14])
    states = decoder(x, None, segment)
    for start, stop in ((0, 3), (3, 8), (8, 14)):
        torch.testing.assert_close(states[:1, start:stop], decoder(x[:1, start:stop]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(states[1:], decoder(x[1:]), atol=1e-5, rtol=1e-5)


def test_biased_attention_equals_torch() -> None:
    q, k, v = torch.randn(2, 2, 3, 16), torch.randn(2, 2, 9, 16), torch.randn(2, 2, 9, 16)
    bias = torch.zeros(2, 1, 3, 9).masked_fill_(torch.rand(2, 1, 3, 9) < 0.3, -torch.inf)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    torch.testing.assert_close(biased_attention(q, k, v, bias), expected)


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("slots", [9, 8])
def test_one_query_against_a_large_cache_equals_torch(rows: int, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring of 9 slots that is full, or in which 8 are filled and so are not contiguous."""
    monkeypatch.setattr(cache_module, "LARGE_CACHE", 1)
    monkeypatch.setattr(cache_module, "WIDE_HEAD", 16)
    monkeypatch.setattr(cache_module, "has_amx", lambda: False)
    calls, one_query = [], cache_module.one_query

    def counted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        calls.append(len(q))
        return one_query(q, k, v, bias)

    monkeypatch.setattr(cache_module, "one_query", counted)
    q, (k, v) = torch.randn(rows, 2, 1, 16), (torch.randn(rows, 2, 9, 16)[:, :, :slots] for _ in range(2))
    bias = torch.zeros(rows, 1, 1, slots).masked_fill_(torch.rand(rows, 1, 1, slots) < 0.3, -torch.inf)
    bias[..., 0] = 0
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    torch.testing.assert_close(biased_attention(q, k, v, bias), expected)
    assert len(calls) == (slots == 9)
    rounded = biased_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), bias.bfloat16())
    torch.testing.assert_close(rounded.float(), expected, atol=0.05, rtol=0.05)
    assert len(calls) == (slots == 9)                        # fp32 only
    monkeypatch.setattr(cache_module, "WIDE_HEAD", 17)
    torch.testing.assert_close(biased_attention(q, k, v, bias), expected)
    assert len(calls) == (slots == 9)                        # a narrower head


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), chunk=st.integers(1, 9))
def test_ragged_rows_past_the_window_equal_one_uncached_pass(seed: int, chunk: int) -> None:
    """Every row takes its own number of tokens per call, several windows long; each state equals the full pass."""
    torch.manual_seed(0)
    decoder = Decoder(CONFIG).eval()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 40, 32, generator=generator)
    expected = decoder(x)
    cache, done = decoder.new_cache(3, chunk), torch.zeros(3, dtype=torch.int64)
    while (done < 40).any():
        counts = torch.minimum(torch.randint(0, chunk + 1, (3,), generator=generator), 40 - done)
        piece = torch.randn(3, chunk, 32, generator=generator)    # padding holds noise: it must not be seen
        for row in range(3):
            piece[row, : counts[row]] = x[row, done[row] : done[row] + counts[row]]
        states, cache = decoder.extend(piece, cache, counts)
        for row in range(3):
            torch.testing.assert_close(states[row, : counts[row]], expected[row, done[row] : done[row] + counts[row]],
                                       atol=1e-5, rtol=1e-5)
        done += counts
    assert cache.lengths.tolist() == [40, 40, 40]


def test_rows_reset_at_different_times(decoder: Decoder) -> None:
    x = torch.randn(2, 30, 32)
    cache = decoder.new_cache(2, 3)
    for start in range(0, 18, 3):
        if start == 9:
            cache = cache.reset(torch.tensor([1]))
        states, cache = decoder.extend(x[:, start : start + 3], cache)
    torch.testing.assert_close(states[0], decoder(x[:1, :18])[0, -3:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(states[1], decoder(x[1:, 9:18])[0, -3:], atol=1e-5, rtol=1e-5)


def test_select_and_assign_move_rows(decoder: Decoder) -> None:
    """A prompt read once can begin every row; rows keep their history when the batch shrinks."""
    x = torch.randn(1, 10, 32)
    _, prompted = decoder.extend(x[:, :4], decoder.new_cache(1, 4))
    cache = decoder.new_cache(3, 4).assign(torch.tensor([0, 2]), prompted)
    assert cache.lengths.tolist() == [4, 0, 4]
    states, cache = decoder.extend(x[:, 4:8].expand(3, -1, -1), cache)
    expected = decoder(x)[0, 4:8]
    torch.testing.assert_close(states[0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(states[2], expected, atol=1e-5, rtol=1e-5)
    states, cache = decoder.extend(x[:, 8:10], cache.select(torch.tensor([2])))
    torch.testing.assert_close(states[0], decoder(x)[0, 8:10], atol=1e-5, rtol=1e-5)
    assert isinstance(cache, Cache)


def test_positions_far_along_still_equal_the_start() -> None:
    """Rotary attention sees differences only: the same tokens after 3,000 others of silence give the same states."""
    torch.manual_seed(0)
    decoder = Decoder(CONFIG).eval()
    x, filler = torch.randn(1, 30, 32), torch.randn(1, 3000, 32)
    late = decoder(torch.cat([filler, x], dim=1))[0, -1]
    torch.testing.assert_close(late, decoder(x)[0, -1], atol=1e-4, rtol=1e-4)


def test_stochastic_depth_only_in_training_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(width=32, depth=1, heads=1, context=8, stochastic_depth=0.5))
    keeps = torch.stack([decoder.draw_keeps(torch.zeros(64, 1, 32))[0] for _ in range(50)])
    assert set(keeps.unique().tolist()) == {0.0, 2.0}
    assert abs(keeps.mean().item() - 1) < 0.1
    x = torch.randn(1, 8, 32)
    assert torch.equal(decoder.eval()(x), decoder(x))


@pytest.mark.parametrize("wrong, message", [
    ({"width": 30, "heads": 4}, "width=30 does not split into 4 heads"),
    ({"context": 1}, "context=1"),
    ({"stochastic_depth": 1.0}, "stochastic_depth=1.0 is outside"),
])
def test_wrong_configs(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecoderConfig(**wrong)  # type: ignore[arg-type]
