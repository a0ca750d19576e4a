"""What every backbone promises, whatever it is made of; what is special to one stands in its own file."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from calico.agent.backbones import KINDS, Backbone, BackboneConfig, build_backbone
from calico.agent.generate import generate
from calico.agent.loss import target_losses, target_mask, trained_targets
from calico.agent.training.optimizer import OptimizerConfig, build_optimizer
from calico.tokenizers.tokens import NO_POSITION, Kind, Tokens

from .conftest import BACKBONES, VOCABULARY, batch_of, every_backbone, make_model, stream


def assert_close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


def states_of(backbone: BackboneConfig, batch: int = 2, seq: int = 30) -> tuple[Backbone, Tensor]:
    """A backbone in evaluation mode and something to read."""
    torch.manual_seed(0)
    return build_backbone(backbone).eval(), torch.randn(batch, seq, backbone.width)


def test_each_kind_is_tested_here() -> None:
    assert list(dict.fromkeys(config.kind for config in BACKBONES)) == list(KINDS)


@every_backbone
def test_a_state_sees_its_own_token_and_the_one_before_but_none_that_follows(backbone: BackboneConfig) -> None:
    network, x = states_of(backbone)
    before = network(x)
    changed = x.clone()
    changed[:, 20:] = torch.randn(2, 10, backbone.width)
    assert_close(network(changed)[:, :20], before[:, :20])
    for place in (19, 20):
        changed = x.clone()
        changed[:, place] = torch.randn(backbone.width)
        assert (network(changed) - before)[:, 20].abs().max() > 1e-3


@every_backbone
def test_no_gradient_flows_from_a_prediction_to_what_follows_it(backbone: BackboneConfig) -> None:
    """As a training step asks: some of the targets, in training mode."""
    network, _ = states_of(backbone)
    network.train()
    for seed in range(4):
        torch.manual_seed(seed)
        x = torch.randn(2, 30, backbone.width, requires_grad=True)
        rows, places = network.sample_targets(torch.rand(2, 30) < 0.5).nonzero(as_tuple=True)
        where = rows, places
        for number in range(0, len(where[0]), 3):
            (gradient,) = torch.autograd.grad(network(x, where)[number].square().sum(), x)
            row, place = where[0][number], where[1][number]
            assert not gradient[row, place + 1:].any() and not gradient[1 - row].any()
            assert gradient[row, place].any()


@every_backbone
def test_places_asked_for_equal_the_whole_pass(backbone: BackboneConfig) -> None:
    """Also where the last one is asked for again, which pads a training step to a round_up_to_bucket shape."""
    network, x = states_of(backbone, batch=3)
    where = torch.tensor([0, 0, 0, 2, 2, 2]), torch.tensor([0, 7, 29, 11, 12, 12])
    assert_close(network(x, where), network(x)[where])
    assert network(x, (where[0][:0], where[1][:0])).shape == (0, backbone.width)


@every_backbone
@pytest.mark.parametrize("chunk", [1, 5])
def test_ragged_rows_long_past_the_context_equal_one_uncached_pass(backbone: BackboneConfig, chunk: int) -> None:
    """Every row takes its own number of tokens per call; row 1 is reset after a while. All states, and just the last ones."""
    network, x = states_of(backbone, batch=3, seq=45)
    generator = torch.Generator().manual_seed(chunk)
    expected = [network(x[row:row + 1])[0] for row in range(3)]
    expected[1] = torch.cat([expected[1][:20], network(x[1:2, 20:])[0]])
    caches = [network.new_cache(3, chunk), network.new_cache(3, chunk)]
    done = torch.zeros(3, dtype=torch.int64)
    was_reset = False
    while (done < 45).any():
        counts = torch.minimum(torch.randint(0, chunk + 1, (3,), generator=generator), 45 - done)
        if not was_reset:
            counts[1] = min(counts[1], 20 - done[1])
        piece = torch.randn(3, chunk, backbone.width, generator=generator)     # padding holds noise: it must not be seen
        for row in range(3):
            piece[row, : counts[row]] = x[row, done[row] : done[row] + counts[row]]
        states, caches[0] = network.extend(piece, caches[0], counts)
        last, caches[1] = network.extend(piece, caches[1], counts, (torch.arange(3), (counts - 1).clamp(min=0)))
        assert states.shape == piece.shape and last.shape == (3, backbone.width) and last.isfinite().all()
        for row in range(3):
            assert_close(states[row, : counts[row]], expected[row][done[row] : done[row] + counts[row]])
            if counts[row]:
                assert_close(last[row], expected[row][done[row] + counts[row] - 1])
        done += counts
        if done[1] == 20 and not was_reset:
            was_reset, caches = True, [cache.reset(torch.tensor([1])) for cache in caches]
    assert caches[0].lengths.tolist() == [45, 25, 45]


@every_backbone
def test_select_and_assign_move_rows(backbone: BackboneConfig) -> None:
    """A prompt read once can begin every row; rows keep their history when the batch shrinks."""
    network, x = states_of(backbone, batch=1, seq=10)
    expected = network(x)[0]
    _, prompted = network.extend(x[:, :4], network.new_cache(1, 4))
    cache = network.new_cache(3, 4).assign(torch.tensor([0, 2]), prompted)
    assert cache.lengths.tolist() == [4, 0, 4]
    states, cache = network.extend(x[:, 4:8].expand(3, -1, -1), cache)
    for row in (0, 2):
        assert_close(states[row], expected[4:8])
    nothing = torch.zeros(0, dtype=torch.int64)
    states, cache = network.extend(x[:, 8:9], cache.select(torch.tensor([2])), where=(nothing, nothing))
    assert states.shape == (0, backbone.width)                      # read without a question
    states, _ = network.extend(x[:, 9:10], cache)
    assert_close(states[0], expected[9:10])


@every_backbone
def test_training_draws_targets_and_every_target_is_drawn_some_time(backbone: BackboneConfig) -> None:
    model = make_model(backbone)
    tokens = batch_of(stream(16, 1), stream(16, 2))
    targets = target_mask(tokens)
    torch.manual_seed(3)
    drawn = [trained_targets(model, tokens) for _ in range(60)]
    torch.manual_seed(3)
    assert torch.equal(trained_targets(model, tokens), drawn[0])        # a function of torch's seed: runs resume exactly
    assert not any((some & ~targets).any() for some in drawn)
    assert torch.equal(torch.stack(drawn).any(dim=0), targets)


@every_backbone
def test_drawn_losses_are_those_of_the_whole_pass(backbone: BackboneConfig) -> None:
    model = make_model(backbone)
    tokens = batch_of(stream(20, 1), stream(20, 2))
    every, _ = target_losses(model, tokens)
    drawn = trained_targets(model, tokens)
    some, rows = target_losses(model, tokens, drawn)
    assert_close(some, every[drawn[target_mask(tokens)]])
    assert rows.tolist() == drawn.nonzero()[:, 0].tolist()


@every_backbone
def test_one_batch_is_memorised(backbone: BackboneConfig) -> None:
    model = make_model(backbone).train()
    tokens = batch_of(stream(16, 1, patch_share=0), stream(16, 2, patch_share=0))
    optimizer = build_optimizer(model, OptimizerConfig())
    for group in optimizer.param_groups:
        group["lr"] = 5e-3
    torch.manual_seed(0)
    for _ in range(150):
        optimizer.zero_grad()
        losses, _ = target_losses(model, tokens, trained_targets(model, tokens))
        losses.sum().backward()
        optimizer.step()
    with torch.no_grad():
        assert target_losses(model.eval(), tokens)[0].mean() < 0.5       # it began above 5


@every_backbone
@torch.no_grad()
def test_text_is_written_as_by_the_plain_loop(backbone: BackboneConfig) -> None:
    """Ragged prompts, patches in them, many windows long."""
    model, legal = make_model(backbone), np.arange(3, 40)
    prompts = [stream(length, seed) for seed, length in enumerate((1, 12, 30))]
    answers = generate(model, prompts, legal=legal, stop=2, pad=VOCABULARY.pad, max_tokens=12)
    for prompt, answer in zip(prompts, answers, strict=True):
        written: list[int] = []
        for _ in range(12):
            hidden = model(Tokens.stack([prompt], VOCABULARY.pad).to_torch())[0, -1]
            written.append(int(legal[model.logits(hidden).numpy()[legal].argmax()]))
            new = stream(1, patch_share=0)
            new.ids[:], new.position[:], new.kind[:] = written[-1], NO_POSITION, Kind.TEXT
            prompt = Tokens.concatenate([prompt, new])
        assert answer.tolist() == written


@every_backbone
def test_a_shorter_context_needs_no_other_setting(backbone: BackboneConfig) -> None:
    network, x = states_of(replace(backbone, context=4))
    assert network(x).isfinite().all()
    most = 4 + getattr(backbone, "stride", 1) - 1
    assert all(ring.shape[2] <= most for ring in network.new_cache(1, 1).keys) or backbone.kind == "decoder"
