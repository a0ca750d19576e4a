"""Likelihoods of texts count every byte once; what can be checked in a reply is."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from calico.agent.agent import Agent
from calico.agent.loss import target_losses
from calico.datasets.documents import Dialogue
from calico.scripts.evaluation.data import EvaluationSet
from calico.scripts.evaluation.suites import Evaluator
from calico.scripts.evaluation.words import answer_in, before_last_reply, evaluate_chat, evaluate_text
from calico.tokenizers.document import text_parts
from calico.tokenizers.tokens import Tokens

from ...conftest import SmallRun

TEXT = "a red ball top left, a blue key right. " * 12


@pytest.fixture
def judge(small_run: SmallRun, tmp_path: Path) -> Evaluator:
    return Evaluator(Agent.load(small_run.run), tmp_path)


def test_a_text_costs_what_training_would_pay_for_it(judge: Evaluator) -> None:
    short = TEXT[:80]
    tokens = judge.encode(text_parts(short))
    with torch.inference_mode():
        losses, _ = target_losses(judge.agent.model.eval(), Tokens.stack([tokens], judge.agent.vocabulary.pad).to_torch())
    expected = float(losses.sum()) + math.log(judge.agent.text.size)          # the first token, which nothing predicts
    figures = evaluate_text(judge, EvaluationSet("t", [short], [], "x")).figures
    assert figures["bits_per_byte"]["model"] == pytest.approx(expected / math.log(2) / len(short), rel=2e-3)
    assert figures["perplexity_per_token"]["model"] == pytest.approx(math.exp(expected / len(tokens)), rel=2e-2)


def test_unigrams_are_counted_in_what_was_trained_on(judge: Evaluator) -> None:
    figures = evaluate_text(judge, EvaluationSet("t", [TEXT], [TEXT], "x")).figures
    ids = judge.agent.text.encode(TEXT)
    counts = np.bincount(ids, minlength=judge.agent.text.size) + 1
    expected = -np.log2(counts / counts.sum())[ids].sum() / len(TEXT)
    assert figures["bits_per_byte"]["unigram"] == pytest.approx(expected)


def talk(*turns: str) -> Dialogue:
    return Dialogue(messages=[{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)])


def test_replies_are_predicted_and_the_last_is_said_anew(judge: Evaluator) -> None:
    dialogues = [talk("what is it?", "a red ball", "is it red?", "yes"), talk("hello", "hello!"), talk("a", "b", "c")]
    figures = evaluate_chat(judge, EvaluationSet("d", dialogues, dialogues[:1], "x")).figures
    replies = ["a red ball", "yes", "hello!", "b"]
    tokens = sum(len(judge.agent.text.encode(text)) + 1 for text in replies)  # the end of each is said, too
    size = sum(map(len, replies))
    assert tokens * math.log(figures["perplexity_per_token"]["model"]) == pytest.approx(
        size * math.log(figures["perplexity_per_byte"]["model"]))
    assert figures["distinct_1"]["people"] == 1 and figures["answers_checked"] == {"model": 1}
    assert figures["answers_right"]["most_frequent"] == 1
    assert before_last_reply(dialogues[2])[-1]["content"] == [{"type": "text", "text": "a"}]


@pytest.mark.parametrize(("text", "answer"), [
    ("She has 5 + 3 = 8 left.\n#### 1,008", "1008"), ("#### -2.5", "-2.5"), ("Yes.", "yes"), ("False", "false"), ("four", "4"),
    ("12", "12"), ("Yes, I like it.", None), ("a red ball", None), ("", None)])
def test_what_can_be_checked(text: str, answer: str | None) -> None:
    assert answer_in(text) == answer
