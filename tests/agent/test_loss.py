"""The loss counts targets only, and a model can memorise a batch."""

from dataclasses import replace

import torch

from calico.agent.backbones.decoder import Decoder
from calico.agent.loss import target_losses, target_mask
from calico.agent.model import Model
from calico.agent.training.optimizer import OptimizerConfig, build_optimizer

from .conftest import batch_of, stream


def test_target_mask_equals_one_written_by_hand() -> None:
    tokens = replace(batch_of(stream(5, patch_share=0)), loss_mask=torch.tensor([[True, False, True, True, True]]),
                     segment=torch.tensor([[0, 0, 0, 1, 1]]))
    assert target_mask(tokens).tolist() == [[False, True, False, True, False]]


def test_gathered_loss_equals_the_loss_over_all_logits(model: Model) -> None:
    tokens = batch_of(stream(20, 1), stream(20, 2))
    logits = model.logits(model(tokens))[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.ids[:, 1:].flatten().long(), reduction="none")
    expected = losses[tokens.loss_mask[:, 1:].flatten()]
    actual, rows = target_losses(model, tokens)
    torch.testing.assert_close(actual, expected)
    assert rows.tolist() == sorted(rows.tolist())
    assert rows.bincount().tolist() == tokens.loss_mask[:, 1:].sum(dim=1).tolist()


def test_the_loss_asks_for_the_targets_and_the_network_sees_the_ids(model: Model) -> None:
    """By hand: -log p(target) from the logits over the ids; one row with targets of its own, one without."""
    rows = [stream(12, 1), stream(12, 2)]
    rows[0] = replace(rows[0], targets=(rows[0].ids + 1) % 100)
    tokens = batch_of(*rows)
    log_p = model.logits(model(replace(tokens, targets=None))).log_softmax(-1)
    expected = []
    for row in range(2):
        for place in range(1, 12):
            if rows[row].loss_mask[place]:
                asked = (rows[row].ids[place] + 1) % 100 if row == 0 else rows[row].ids[place]
                expected.append(-log_p[row, place - 1, int(asked)])
    torch.testing.assert_close(target_losses(model, tokens)[0], torch.stack(expected))


def test_wanted_places_equal_the_full_pass(model: Model) -> None:
    """Also under stochastic depth, where a row's last feed-forward may be skipped."""
    tokens = batch_of(stream(20, 1), stream(20, 2))
    where = (torch.tensor([0, 0, 1]), torch.tensor([3, 19, 7]))
    assert isinstance(model.backbone, Decoder)
    model.backbone.config = replace(model.backbone.config, stochastic_depth=0.5)
    model.backbone.train()
    for seed in range(5):
        torch.manual_seed(seed)
        expected = model(tokens)[where]
        torch.manual_seed(seed)
        torch.testing.assert_close(model(tokens, where), expected)


def test_a_target_does_not_see_itself(model: Model) -> None:
    """Changing a target's id changes its loss through the label alone: the state that predicts it stays."""
    tokens = batch_of(stream(10, patch_share=0))
    changed = replace(tokens, ids=tokens.ids.clone())
    changed.ids[0, 6] = (changed.ids[0, 6] + 1) % 100
    assert torch.equal(model(tokens)[0, 5], model(changed)[0, 5])


def test_one_batch_is_memorised(model: Model) -> None:
    tokens = batch_of(stream(16, 1), stream(16, 2))
    optimizer = build_optimizer(model, OptimizerConfig())
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    first = target_losses(model, tokens)[0].mean().item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = target_losses(model, tokens)[0].mean()
        loss.backward()
        optimizer.step()
    assert first > 5
    assert loss.item() < 0.1


def test_a_batch_without_targets_gives_a_zero_loss_and_no_gradient(model: Model) -> None:
    tokens = batch_of(stream(8))
    losses, _ = target_losses(model, replace(tokens, loss_mask=torch.zeros_like(tokens.loss_mask)))
    losses.sum().backward()
    assert losses.numel() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
