"""Generation: the batched, cached loop writes what one greedy loop over the whole uncached history writes."""

import numpy as np
import pytest
import torch

from calico.agent.backbones import BackboneConfig
from calico.agent.generate import PIECE, begin, generate, read, write
from calico.agent.model import Model
from calico.agent.sampling import SamplingConfig
from calico.tokenizers.tokens import NO_POSITION, Kind, Tokens

from .conftest import VOCABULARY, every_backbone, make_model, stream

LEGAL = np.arange(3, 40)
NEVER = 2                                    # cannot be chosen, so nothing ends early
PROMPTS = [stream(length, seed) for seed, length in enumerate((1, 12, 3, PIECE + 30, PIECE, 40))]
SAMPLED = SamplingConfig(temperature=1.5, top_k=20)


def plain(model: Model, prompt: Tokens, count: int) -> list[int]:
    """No cache, no batch: the whole history goes through the network for each token."""
    written: list[int] = []
    for _ in range(count):
        hidden = model(Tokens.stack([prompt], VOCABULARY.pad).to_torch())[0, -1]
        written.append(int(LEGAL[model.logits(hidden).detach().numpy()[LEGAL].argmax()]))
        new = stream(1, patch_share=0)
        new.ids[:], new.position[:], new.kind[:] = written[-1], NO_POSITION, Kind.TEXT
        prompt = Tokens.concatenate([prompt, new])
    return written


def answers(model: Model, prompts: list[Tokens], stop: int = NEVER, max_tokens: int = 20, **options: object) -> list[list[int]]:
    found = generate(model, prompts, legal=LEGAL, stop=stop, pad=VOCABULARY.pad, max_tokens=max_tokens, **options)  # type: ignore[arg-type]
    return [answer.tolist() for answer in found]


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    """The greedy answer to each prompt; the model of conftest.py, made once."""
    with torch.no_grad():
        return [plain(make_model(), prompt, 20) for prompt in PROMPTS]


def test_ragged_prompts_are_continued_as_one_by_one(model: Model, expected: list[list[int]]) -> None:
    """Prompts from one token to more than a piece of reading, patches in them; the window slides many times."""
    assert answers(model, PROMPTS) == expected
    assert len({tuple(answer) for answer in expected}) > 1   # the prompts matter


@every_backbone
def test_every_backbone_writes_as_it_would_uncached(backbone: BackboneConfig) -> None:
    model = make_model(backbone)
    with torch.no_grad():
        assert answers(model, PROMPTS[1:4], max_tokens=5) == [plain(model, prompt, 5) for prompt in PROMPTS[1:4]]


def test_each_row_stops_by_itself(model: Model, expected: list[list[int]]) -> None:
    stop = expected[1][3]
    cut = [answer[: answer.index(stop)] if stop in answer else answer for answer in expected]
    assert answers(model, PROMPTS, stop) == cut
    assert len(cut[1]) <= 3 and len({len(answer) for answer in cut}) > 1   # while others go on


def test_the_stream_is_the_answer(model: Model, expected: list[list[int]]) -> None:
    stop, seen = expected[1][3], list[list[int]]()
    found = answers(model, PROMPTS, stop, on_tokens=seen.append)
    assert [[step[row] for step in seen if step[row] >= 0] for row in range(len(PROMPTS))] == found
    for row in range(len(PROMPTS)):
        ended = [step[row] < 0 for step in seen]
        assert ended == sorted(ended)   # once over, a row stays over


def test_a_sampled_answer_depends_on_its_seed_and_not_on_the_batch(model: Model) -> None:
    together = answers(model, PROMPTS[:4], sampling=SAMPLED, seeds=[5, 6, 7, 8])
    for prompt, seed, answer in zip(PROMPTS, (5, 6, 7, 8), together, strict=False):
        assert answers(model, [prompt], sampling=SAMPLED, seeds=[seed]) == [answer]
    assert answers(model, PROMPTS[:1], sampling=SAMPLED, seeds=[9]) != together[:1]
    assert all(token in LEGAL for answer in together for token in answer)


def test_several_samples_of_a_prompt_are_those_of_its_seeds(model: Model) -> None:
    """A prompt is read once for all of them; by default sample i of any prompt has seed i."""
    together = answers(model, PROMPTS[1:4], sampling=SAMPLED, samples=3)
    assert len(together) == 9
    for prompt, group in zip(PROMPTS[1:4], (together[0:3], together[3:6], together[6:9]), strict=True):
        assert group == [answers(model, [prompt], sampling=SAMPLED, seeds=[seed])[0] for seed in range(3)]
        assert len({tuple(answer) for answer in group}) == 3


def test_a_text_may_be_read_in_parts_and_continued_twice(model: Model, expected: list[list[int]]) -> None:
    prompt = PROMPTS[3]
    reading = read(model, [prompt[:100]], VOCABULARY.pad, begin(model, 1))
    reading = read(model, [prompt[100:]], VOCABULARY.pad, reading)
    reading = read(model, [prompt[:0]], VOCABULARY.pad, reading)        # nothing more
    for _ in range(2):
        (answer,) = write(model, reading.select([0]), legal=LEGAL, stop=NEVER, max_tokens=20, seeds=[0])
        assert answer.tolist() == expected[3]


def test_no_prompts_and_no_room(model: Model) -> None:
    assert answers(model, []) == []
    assert answers(model, PROMPTS[:2], max_tokens=0) == [[], []]
