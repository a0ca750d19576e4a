"""Likelihood: batched, cached scores are those of one uncached pass over context and continuation."""

import pytest
import torch

from calico.agent.backbones import BackboneConfig
from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.likelihood import Likelihood, likelihoods
from calico.agent.model import Model, ModelConfig
from calico.agent.policy import for_acting
from calico.tokenizers.tokens import Tokens

from .conftest import VOCABULARY, batch_of, every_backbone, make_model, stream

PAD = VOCABULARY.pad
# Contexts and continuations from nothing to more than a piece of reading; the model's window of 8 slides in most.
DOCUMENTS: list[tuple[Tokens, list[Tokens]]] = [
    (stream(12, 1), [stream(5, 2), stream(9, 3), stream(1, 4)]),
    (Tokens.empty(), [stream(300, 5), stream(2, 6)]),
    (stream(290, 7), [stream(4, 8)]),
    (stream(3, 9), []),
    (stream(1, 10), [Tokens.empty(), stream(30, 11, patch_share=0)]),
]


def plain(model: Model, context: Tokens, continuation: Tokens) -> Likelihood:
    """No cache, no batch: the whole document in one pass, its softmax spelled out."""
    tokens = batch_of(Tokens.concatenate([context, continuation]))
    with torch.no_grad():
        scores = model.logits(model(tokens)[0].float(), None).log_softmax(dim=-1)
    places = [p for p in range(max(1, len(context)), tokens.ids.shape[1]) if tokens.loss_mask[0, p]]
    return Likelihood(sum(float(scores[p - 1, tokens.ids[0, p]]) for p in places), len(places))


@every_backbone
@pytest.mark.parametrize("rows", [1, 4, 100])
def test_cached_and_batched_is_one_plain_pass(backbone: BackboneConfig, rows: int) -> None:
    model, done = make_model(backbone), list[int]()
    found = likelihoods(model, DOCUMENTS, PAD, rows=rows, on_done=done.append)
    assert sum(done) == len(DOCUMENTS)
    for (context, continuations), scored in zip(DOCUMENTS, found, strict=True):
        expected = [plain(model, context, continuation) for continuation in continuations]
        assert [one.count for one in scored] == [one.count for one in expected]
        assert [one.total for one in scored] == pytest.approx([one.total for one in expected], rel=1e-5, abs=1e-5)


def test_bf16_weights_are_summed_in_fp32(model: Model) -> None:
    """A sum of 300 terms is as close to that of the full-precision model as the rounded weights allow, not as bf16 sums."""
    rounded = for_acting(model, "bf16")
    assert rounded.embedding.table.weight.dtype == torch.bfloat16
    ((exact,),) = likelihoods(model, [(stream(5), [stream(300, 1)])], PAD)
    ((found,),) = likelihoods(rounded, [(stream(5), [stream(300, 1)])], PAD)
    assert found.count == exact.count and found.total == pytest.approx(exact.total, rel=5e-3)
    assert found.total != round(found.total)


def test_the_mean_is_per_target() -> None:
    assert Likelihood(-6.0, 3).mean == -2 and Likelihood(0.0, 0).mean == 0


def test_nothing_to_score(model: Model) -> None:
    assert likelihoods(model, [], PAD) == []


def test_a_document_beyond_a_dense_models_context_is_refused() -> None:
    dense = Model(ModelConfig(backbone=DecoderConfig(width=8, depth=1, heads=1, context=16, window=16)), VOCABULARY).eval()
    assert likelihoods(dense, [(stream(8), [stream(8)])], PAD)[0][0].count > 0
    with pytest.raises(ValueError, match="a document of 17 tokens is longer than the model's context of 16; cut it into parts"):
        likelihoods(dense, [(stream(8), [stream(8)]), (stream(8), [stream(9)])], PAD)
