"""Beam search: wide enough it finds the likeliest of all texts; one beam is greedy; the batch does not matter."""

import itertools

import numpy as np
import pytest
import torch

from calico.agent.backbones import BackboneConfig
from calico.agent.backbones.cache import Cache
from calico.agent.beam import beam_search, reorder
from calico.agent.generate import generate, text_tokens
from calico.agent.likelihood import likelihoods
from calico.agent.model import Model
from calico.tokenizers.tokens import Tokens

from .conftest import VOCABULARY, every_backbone, make_model, stream

LEGAL, STOP = np.array([5, 6, 7, 9]), 7
PROMPTS = [stream(length, seed) for seed, length in enumerate((1, 12, 300))]


def search(model: Model, prompts: list[Tokens], beams: int, max_tokens: int = 4) -> list[list[tuple[list[int], float]]]:
    found = beam_search(model, prompts, legal=LEGAL, stop=STOP, pad=VOCABULARY.pad, max_tokens=max_tokens, beams=beams)
    return [[(ids.tolist(), score) for ids, score in group] for group in found]


def every_text(model: Model, prompt: Tokens, max_tokens: int) -> list[tuple[list[int], float]]:
    """All texts that end within max_tokens by mean log-likelihood among the legal ids, by one plain pass each."""
    others = [int(token) for token in LEGAL if token != STOP]
    texts = [list(words) for n in range(max_tokens) for words in itertools.product(others, repeat=n)]
    scored = []
    for words in texts:
        ids = [*words, STOP]
        tokens = Tokens.concatenate([prompt, text_tokens(np.array(ids))])
        with torch.no_grad():
            hidden = model(Tokens.stack([tokens], VOCABULARY.pad).to_torch())[0, -len(ids) - 1 : -1]
        steps = model.logits(hidden, torch.from_numpy(LEGAL)).log_softmax(-1).detach().numpy()
        scored.append((words, float(np.mean([steps[i, list(LEGAL).index(t)] for i, t in enumerate(ids)]))))
    return sorted(scored, key=lambda text: -text[1])


def sharpened(model: Model) -> Model:
    """A model of random weights finds all texts about equally likely; a sharper one does not."""
    with torch.no_grad():
        model.embedding.table.weight.mul_(20)
    return model


@every_backbone
def test_a_wide_search_finds_the_best_of_all(backbone: BackboneConfig) -> None:
    model = sharpened(make_model(backbone))
    found = search(model, PROMPTS, beams=9, max_tokens=3)
    assert [len(group) for group in found] == [9, 9, 9]                   # of 13 that there are
    for prompt, group in zip(PROMPTS, found, strict=True):
        expected = every_text(model, prompt, 3)[:5]
        assert [words for words, _ in group[:5]] == [words for words, _ in expected]
        assert [score for _, score in group[:5]] == pytest.approx([score for _, score in expected], abs=1e-4)


def test_every_slot_in_use_is_reordered() -> None:
    """Rows of different length; slots that no row has reached may hold anything."""
    keys, values = torch.randn(4, 2, 7, 3), torch.randn(4, 2, 7, 3)
    lengths, rows = torch.tensor([3, 5, 2, 5]), torch.tensor([1, 1, 0, 3])
    moved = reorder(Cache((keys.clone(),), (values.clone(),), lengths), rows)
    assert moved.lengths.tolist() == [5, 5, 3, 5]
    for found, before in ((moved.keys[0], keys), (moved.values[0], values)):
        for row, (source, length) in enumerate(zip(rows.tolist(), moved.lengths.tolist(), strict=True)):
            assert torch.equal(found[row, :, :length], before[source, :, :length])


def test_one_beam_is_greedy_until_it_ends(model: Model) -> None:
    sharpened(model)
    greedy = generate(model, PROMPTS, legal=LEGAL, stop=STOP, pad=VOCABULARY.pad, max_tokens=6)
    for group, plain in zip(search(model, PROMPTS, 1, max_tokens=6), greedy, strict=True):
        (words, _), = group
        assert words == plain.tolist()[: len(words)]


def test_a_prompt_does_not_depend_on_the_others(model: Model) -> None:
    sharpened(model)
    together = search(model, PROMPTS, beams=3, max_tokens=8)
    for prompt, group in zip(PROMPTS, together, strict=True):
        (alone,) = search(model, [prompt], beams=3, max_tokens=8)
        assert [words for words, _ in alone] == [words for words, _ in group]


def test_texts_that_do_not_end_are_returned_as_they_are(model: Model) -> None:
    with torch.no_grad():
        model.embedding.table.weight[STOP] = 0
        model.embedding.table.weight[LEGAL[LEGAL != STOP]] *= 1000
    (found,) = search(model, PROMPTS[1:2], beams=1, max_tokens=5)
    assert len(found) == 1 and len(found[0][0]) in (0, 1, 2, 3, 4, 5)
    assert found[0][1] <= 0


def test_scores_are_those_of_the_likelihoods(model: Model) -> None:
    """With every id legal, a text's score is its likelihood per token."""
    legal = np.arange(VOCABULARY.size)
    ((best, *_),) = beam_search(model, PROMPTS[1:2], legal=legal, stop=STOP, pad=VOCABULARY.pad, max_tokens=3, beams=4)
    ended = np.append(best[0], STOP) if len(best[0]) < 3 else best[0]
    ((scored,),) = likelihoods(model, [(PROMPTS[1], [text_tokens(ended)])], VOCABULARY.pad)
    assert scored.mean == pytest.approx(best[1], abs=1e-4)


def test_no_prompts_and_no_beams(model: Model) -> None:
    assert search(model, [], 3) == []
    with pytest.raises(ValueError, match="beams=0 must be at least 1"):
        search(model, PROMPTS, 0)
