"""Attention rollout: a hand computation, what it adds up to, and that acting is the same with it and without."""

import math
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from calico.agent.backbones.decoder import Decoder, DecoderConfig
from calico.agent.backbones.perceiver import PerceiverConfig
from calico.agent.backbones.rollout import attention_rollout, attention_weights
from calico.agent.model import Model
from calico.agent.policy import AgentPolicy, looked_at, patch_attention, shows_attention
from calico.agent.sampling import SamplingConfig
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.tokens import ACTION, Tokens

from ..conftest import VOCABULARY, batch_of, make_model, stream

# Pictures of 2 x 3 and 1 x 1 patches between numbers; the window of 8 tokens cuts into a step of 11.
SEEN = gym.spaces.Dict(ahead=gym.spaces.Box(0, 255, (32, 40, 3), np.uint8), below=gym.spaces.Box(0, 255, (16, 16, 3), np.uint8),
                       joints=gym.spaces.Box(-1, 1, (2,)))
CODEC = TaskCodec(SEEN, gym.spaces.MultiDiscrete([3, 4]), VOCABULARY, None)
DENSE = DecoderConfig(width=32, depth=2, heads=2, context=32, window=32)


def observations(count: int) -> list[Any]:
    SEEN.seed(0)
    return [SEEN.sample() for _ in range(count)]


def weights_of(model: Model, tokens: Tokens) -> list[torch.Tensor]:
    assert isinstance(model.backbone, Decoder)
    segment = tokens.segment if model.backbone.config.segments else None
    return attention_weights(model.backbone, model.embedding(tokens), segment)


def by_hand(model: Any, tokens: Tokens) -> np.ndarray:
    """Rollout (S, S) of one sequence in loops over heads, queries and keys; the states are the network's own."""
    decoder, length = model.backbone, tokens.ids.shape[1]
    rotation, x = decoder.rotations(torch.arange(length)), model.embedding(tokens)
    rolled = np.eye(length)
    for block in decoder.blocks:
        query, key, _ = (part[0].double().numpy() for part in block.attention.project(block.norm_attention(x), rotation))
        heads, _, size = query.shape
        mixed = np.zeros((length, length))
        for head in range(heads):
            for q in range(length):
                first = max(0, q - decoder.config.attention_window + 1)
                scores = [math.exp(float(query[head, q] @ key[head, k]) / math.sqrt(size)) for k in range(first, q + 1)]
                for k, score in zip(range(first, q + 1), scores, strict=True):
                    mixed[q, k] += score / sum(scores) / heads
        rolled = (0.5 * mixed + 0.5 * np.eye(length)) @ rolled
        x = block(x, rotation)
    return rolled


@torch.no_grad()
@pytest.mark.parametrize("window", [3, 12])
def test_rollout_equals_a_hand_computation(window: int) -> None:
    model = make_model(DecoderConfig(width=32, depth=3, heads=2, context=16, window=window))
    tokens = batch_of(stream(12))
    found = attention_rollout(weights_of(model, tokens))[0].numpy()
    np.testing.assert_allclose(found, by_hand(model, tokens), atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    distance = np.arange(12)[:, None] - np.arange(12)
    reach = model.backbone.config.reach     # type: ignore[attr-defined]
    assert (found[(distance < 0) | (distance >= reach)] == 0).all() and (found[(distance >= 0) & (distance < reach)] > 0).all()


@torch.no_grad()
def test_the_weights_are_those_that_the_network_mixes_with() -> None:
    """Mixing the values with them gives the layer's own output, across segments, too."""
    model = make_model(DecoderConfig(width=32, depth=2, heads=2, context=16, window=5, segments=True))
    tokens = batch_of(stream(12))
    tokens = replace(tokens, segment=torch.tensor([[0] * 7 + [1] * 5], dtype=torch.int32))
    weights, decoder = weights_of(model, tokens), model.backbone
    assert isinstance(decoder, Decoder)
    assert (weights[0][:, :, 7:, :7] == 0).all()
    block, x = decoder.blocks[0], model.embedding(tokens)
    rotation = decoder.rotations(torch.arange(12))
    normed = block.norm_attention(x)
    _, _, value = block.attention.project(normed, rotation)
    expected = block.attention(normed, rotation, tokens.segment)
    found = block.attention.out((weights[0] @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_what_comes_later_changes_nothing_before() -> None:
    model, tokens = make_model(), batch_of(stream(12))
    ids = tokens.ids.clone()
    ids[0, 9] = (ids[0, 9] + 1) % 200
    one, other = (attention_rollout(weights_of(model, given))[0] for given in (tokens, replace(tokens, ids=ids)))
    assert torch.equal(one[:9], other[:9]) and not torch.equal(one[9:], other[9:])


@pytest.mark.parametrize("backbone", [None, DENSE], ids=["window", "whole context"])
def test_the_policy_says_where_it_looked_and_acts_the_same(backbone: DecoderConfig | None) -> None:
    """At each step the map is that of one pass over the whole episode, or over what the network still sees of it."""
    model = make_model() if backbone is None else make_model(backbone)
    plain, watched = (AgentPolicy(model, CODEC, SamplingConfig(temperature=0.7, seed=5), precision="fp32") for _ in range(2))
    watched.keeps_history = True
    for policy in (plain, watched):
        policy.reset(0, seed=1)
    whole: list[Tokens] = []
    for step, observation in enumerate(observations(6)):
        (action,) = plain.act([observation], [0])
        np.testing.assert_array_equal(action, watched.act([observation], [0])[0])
        assert backbone is not None or not plain.rows[0].history           # off: nothing is kept
        found = looked_at(watched)
        assert {name: grid.shape for name, grid in found.items()} == {"ahead": (2, 3), "below": (1, 1)}
        shares = np.concatenate([grid.reshape(-1) for grid in found.values()])
        assert (shares >= 0).all() and 0 < shares.sum() <= 1 + 1e-6
        seen = CODEC.encode_observations([observation], [step])[0]
        acted = Tokens.of(CODEC.encode_actions([action])[0], CODEC.action_kinds, -1, timestep=step)
        whole.append(Tokens.concatenate([seen, acted]))
        kept = whole if backbone is None else whole[-len(watched.rows[0].history):]
        np.testing.assert_allclose(shares, patch_attention(watched.model, Tokens.concatenate(kept)), atol=1e-5)
    assert len(watched.rows[0].history) < 6


@torch.no_grad()
def test_the_map_of_one_action_token_is_its_row_of_the_rollout() -> None:
    codec = TaskCodec(gym.spaces.Box(0, 255, (32, 32, 3), np.uint8), gym.spaces.Discrete(3), VOCABULARY, None)
    model = make_model()
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    seen = codec.encode_observations([picture])[0]                     # four patches and a separator
    tokens = Tokens.concatenate([seen, Tokens.of(codec.encode_actions([1])[0], codec.action_kinds, -1)])
    rolled = by_hand(model, batch_of(tokens))
    np.testing.assert_allclose(patch_attention(model, tokens), rolled[4, :4], atol=1e-5)


def test_steps_without_memory_are_looked_at_alone() -> None:
    codec = TaskCodec(SEEN, gym.spaces.Discrete(3), VOCABULARY, None, memory=False)
    policy = AgentPolicy(make_model(), codec, precision="fp32")
    policy.keeps_history = True
    policy.reset(0, seed=0)
    for observation in observations(3):
        policy.act([observation], [0])
        assert len(policy.rows[0].history) == 1 and looked_at(policy)["ahead"].shape == (2, 3)


def test_tasks_without_pictures_networks_without_a_decoder_and_policies_that_kept_nothing() -> None:
    numbers = TaskCodec(gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2), VOCABULARY, None)
    policy = AgentPolicy(make_model(), numbers, precision="fp32")
    policy.reset(0, seed=0)
    policy.act([np.zeros(3, np.float32)], [0])
    with pytest.raises(ValueError, match="row 0 has not acted with keeps_history yet"):
        looked_at(policy)
    policy.keeps_history = True
    policy.act([np.zeros(3, np.float32)], [0])
    assert looked_at(policy) == {}
    codec = TaskCodec(SEEN, gym.spaces.Discrete(3), VOCABULARY, None)
    acted = Tokens.concatenate([*codec.encode_observations(observations(1)),
                                Tokens.of(codec.encode_actions([1])[0], codec.action_kinds, ACTION)])
    perceiver = make_model(PerceiverConfig(width=32, depth=2, heads=2, context=8, latents=3, prefixes=4))
    assert not shows_attention(perceiver) and shows_attention(policy.model)
    with pytest.raises(ValueError, match="attention is shown for the backbone decoder, not perceiver"):
        patch_attention(perceiver, acted)
