"""Agent: a run folder alone gives back the same network, the same words and the same codecs, or says what is wrong."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from calico.agent import checkpoint
from calico.agent.agent import Agent
from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.checkpoint import CheckpointError
from calico.agent.embedding import EmbeddingConfig
from calico.agent.model import ModelConfig
from calico.agent.sampling import SamplingConfig
from calico.agent.talk import TextGenerator
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.text import TextTokenizer

from .conftest import VOCABULARY, batch_of, stream

TEXT = TextTokenizer.train(["a red ball on the left", "go to the blue key"], 300)
SPACES: tuple[gym.Space[Any], gym.Space[Any]] = (
    gym.spaces.Dict(mission=gym.spaces.Text(20, charset="abc "), state=gym.spaces.Box(-9, 9, (3,))), gym.spaces.Discrete(4))
CODEC = TaskCodec(*SPACES, vocabulary=VOCABULARY, text=TEXT, observation_text_loss=False, max_text_tokens=25)
TASKS = {"Fetch-v1": {"codec": CODEC.to_json(), "data": {"expert": "dog"}}}
SHAPE = ModelConfig(embedding=EmbeddingConfig(observation_positions=48, patch_channels=4),
                    backbone=DecoderConfig(width=32, depth=2, heads=2, context=32))
PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent.build(SHAPE, VOCABULARY, TEXT, TASKS, seed=3)


def save(agent: Agent, run: Path, step: int = 7, **documents: Any) -> Path:
    """As the trainer does it."""
    checkpoint.save(run, step, tensors={"model": agent.model.state_dict()}, files=agent.files(),
                    documents={**agent.documents(), "state": {"step": step, "tokens": 1234}, **documents})
    return run


def test_what_was_saved_computes_and_says_the_same(agent: Agent, tmp_path: Path) -> None:
    again = Agent.load(save(agent, tmp_path))
    tokens = batch_of(stream(24, 1), stream(24, 2))
    with torch.no_grad():
        logits = [a.model.logits(a.model.eval()(tokens)) for a in (agent, again)]
    assert torch.equal(*logits)
    one, two = TextGenerator(agent, max_tokens=12), TextGenerator(again, max_tokens=12)
    assert one.captions([PICTURE, PICTURE[:16]]) == two.captions([PICTURE, PICTURE[:16]])
    assert one.answers([PICTURE, None], ["what?", "who?"]) == two.answers([PICTURE, None], ["what?", "who?"])
    assert any(one.captions([PICTURE]))   # not just silence that is equal
    assert again.text.to_bytes() == TEXT.to_bytes() and again.vocabulary.to_json() == VOCABULARY.to_json()
    assert again.tasks == TASKS and (again.about["step"], again.about["tokens"]) == (7, 1234)


def test_a_checkpoint_that_was_continued_tells_its_own_step(agent: Agent, tmp_path: Path) -> None:
    first = Agent.load(save(agent, tmp_path))
    assert Agent.load(save(first, tmp_path, 9)).about["step"] == 9
    assert Agent.load(tmp_path / "checkpoints" / "step_00000007").about["step"] == 7


def test_the_codec_comes_back_with_its_settings(agent: Agent, tmp_path: Path) -> None:
    codec = Agent.load(save(agent, tmp_path)).codec("Fetch-v1")
    assert (codec.observation_space, codec.action_space) == SPACES
    assert (codec.observation_text_loss, codec.max_text_tokens) == (False, 25)
    SPACES[0].seed(0)
    seen = [SPACES[0].sample() for _ in range(4)]
    for ours, theirs in zip(CODEC.encode_observations(seen), codec.encode_observations(seen), strict=True):
        np.testing.assert_array_equal(ours.ids, theirs.ids)


def test_its_policy_acts_legally_and_the_same_after_loading(agent: Agent, tmp_path: Path) -> None:
    SPACES[0].seed(0)
    seen = [SPACES[0].sample() for _ in range(12)]
    played = []
    for player in (agent, Agent.load(save(agent, tmp_path))):
        policy = player.policy("Fetch-v1", SamplingConfig(temperature=1))
        policy.reset(0, seed=5)
        played.append([policy.act([observation], [0])[0] for observation in seen])
    assert played[0] == played[1] and all(action in SPACES[1] for action in played[0]) and len(set(played[0])) > 1


def test_a_task_without_a_spec_is_named_with_what_is_near(agent: Agent) -> None:
    with pytest.raises(ValueError, match="this checkpoint has no spec for the task 'Fecth-v1'; did you mean Fetch-v1?"):
        agent.codec("Fecth-v1")
    with pytest.raises(ValueError, match="no spec for the task 'Pong'; nearest of its [0-9]+: Fetch-v1"):
        agent.policy("Pong")
    with pytest.raises(ValueError, match="no spec for the task 'Pong'; it knows none"):
        replace(agent, tasks={}).codec("Pong")


def test_a_checkpoint_of_something_else_is_named(agent: Agent, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "other", 1, tensors={"model": agent.model.state_dict()}, documents={"config": {}})
    with pytest.raises(CheckpointError, match=r"other/checkpoints/step_00000001 holds no agent .*KeyError\('model'\)"):
        Agent.load(tmp_path / "other")
    newer = agent.documents()["model"] | {"backbone": {**agent.documents()["model"]["backbone"], "experts": 8}}
    with pytest.raises(CheckpointError, match="holds no agent .*experts.* written by calico-agent"):
        Agent.load(save(agent, tmp_path / "newer", model=newer))
    wider = agent.documents()["model"] | {"backbone": {**agent.documents()["model"]["backbone"], "width": 64}}
    with pytest.raises(CheckpointError, match="holds no agent .*has the shape"):
        Agent.load(save(agent, tmp_path / "wider", model=wider))


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(agent: Agent, tmp_path: Path, device: str) -> None:
    for attempt in (lambda: Agent.load(save(agent, tmp_path), device),
                    lambda: Agent.build(SHAPE, VOCABULARY, TEXT, {}, device=device)):
        with pytest.raises(ValueError, match=f"device '{device}' cannot be used here .*; there is cpu") as caught:
            attempt()
        assert "\n" not in str(caught.value)
