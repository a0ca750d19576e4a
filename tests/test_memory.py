"""Proof that every kind of document can be learnt: one batch of captions, questions, dialogue and text is learnt by heart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calico.agent.agent import Agent
from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.embedding import EmbeddingConfig
from calico.agent.model import ModelConfig
from calico.agent.training.agent_loss import agent_loss
from calico.agent.training.optimizer import OptimizerConfig
from calico.agent.training.trainer import Trainer, TrainingConfig
from calico.datasets.documents import Caption, Dialogue
from calico.datasets.mixture import Mixture
from calico.datasets.sources import DocumentSource, Source
from calico.scripts.evaluation.data import EvaluationSet
from calico.scripts.evaluation.pictures import evaluate_captions, evaluate_questions
from calico.scripts.evaluation.suites import Evaluator
from calico.scripts.evaluation.words import evaluate_chat, evaluate_text
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.vocabulary import Vocabulary, VocabularyConfig

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
SEEN = ("a red ball on grass", "two dogs run", "a man in a boat", "snow")
ANSWERS = (("yes", "no", "a cat", "3"), ("no", "3", "yes", "a cat"))       # neither question nor picture tells alone


def question(picture: int, asked: int) -> Dialogue:
    content = [{"type": "image", "image": "it"}, {"type": "text", "text": ("what is it?", "and behind?")[asked]}]
    return Dialogue(messages=[{"role": "user", "content": content},
                              {"role": "assistant", "content": ANSWERS[asked][picture]}], images={"it": PICTURES[picture]})


DOCUMENTS: dict[str, Sequence[Any]] = {
    "captions": [Caption(name=str(n), image=image, captions=(text,)) for n, (image, text) in enumerate(zip(PICTURES, SEEN,
                                                                                                       strict=True))],
    "vqa": [question(picture, asked) for picture in range(4) for asked in range(2)],
    "chat": [Dialogue(messages=[{"role": "user", "content": f"hello {name}"}, {"role": "assistant", "content": f"hi, {reply}"},
                                {"role": "user", "content": "bye"}, {"role": "assistant", "content": reply * 2}])
             for name, reply in (("tom", "jerry"), ("ernie", "bert"), ("jack", "jill"))],
    "text": ["It was the best of times, it was the worst of times, it was the age of wisdom."],
}


def test_one_batch_of_each_kind_is_learnt_by_heart(tmp_path: Path) -> None:
    text = TextTokenizer.train([*SEEN, "yes no a cat 3 what is it? and behind?", *DOCUMENTS["text"],
                                "hello tom ernie jack hi, jerry bert jill bye"], 320)
    vocabulary = Vocabulary(VocabularyConfig(text=text.size, discrete=4, continuous=4))
    sources: list[Source] = [DocumentSource(kind, documents, vocabulary, text) for kind, documents in DOCUMENTS.items()]
    mixture = Mixture(sources, vocabulary=vocabulary, context=64, batch_size=8)
    config = ModelConfig(embedding=EmbeddingConfig(patch_channels=4),
                         backbone=DecoderConfig(width=64, depth=2, heads=2, context=64, window=64))
    agent = Agent.build(config, vocabulary, text, {})
    trainer = Trainer(agent.model, agent_loss(mixture.names), OptimizerConfig(learning_rate=8e-3, warmup_steps=10),
                      TrainingConfig(steps=180))
    for step in range(180):
        sums, _ = trainer.train_step([mixture.batch(step)])
    losses = {name: sums.numbers[f"loss/{name}"].value for name in mixture.names}
    assert max(losses.values()) < 0.5, losses

    agent.model.eval()
    judge = Evaluator(agent, tmp_path)
    sets = {kind: EvaluationSet("it", documents, [], kind) for kind, documents in DOCUMENTS.items()}
    said = evaluate_captions(judge, sets["captions"])
    assert sorted(example.caption for example in said.examples) == sorted(SEEN)
    assert all(example.caption == example.truth for example in said.examples) and said.figures["rouge_l"]["blanked"] < 0.6
    assert evaluate_questions(judge, sets["vqa"]).figures["accuracy"]["model"] == 1
    assert evaluate_questions(judge, sets["vqa"]).figures["accuracy"]["blanked"] <= 0.5
    chat = evaluate_chat(judge, sets["chat"]).figures
    assert chat["perplexity_per_token"]["model"] < 1.5 and chat["distinct_1"]["model"] == chat["distinct_1"]["people"]
    assert evaluate_text(judge, sets["text"]).figures["bits_per_byte"]["model"] < 1
