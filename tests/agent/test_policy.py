"""Acting: what the cached, batched policy does equals the plain loop over whole histories, whatever the rows do."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from calico.agent.backbones import BackboneConfig
from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.model import Model
from calico.agent.policy import AgentPolicy, PlayedTask, chunk_of
from calico.agent.sampling import SamplingConfig, choose
from calico.tokenizers.episode import Episode
from calico.tokenizers.spaces import flatten, stack_leaves
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.tokens import ACTION, Kind, Tokens

from .conftest import BACKBONES, VOCABULARY, make_model, stream

TEXT = TextTokenizer.train(["go to the red ball", "pick up a blue key"], 300)
SPACES: dict[str, tuple[gym.Space[Any], gym.Space[Any]]] = {
    "one action token": (gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(5)),
    "three, mixed": (gym.spaces.Box(-np.inf, np.inf, (2,), np.float64),
                     gym.spaces.Dict(grip=gym.spaces.Discrete(2), move=gym.spaces.Box(-3, 3, (2,)))),
    "ragged text and an image": (gym.spaces.Dict(image=gym.spaces.Box(0, 255, (16, 20, 3), np.uint8),
                                                 mission=gym.spaces.Text(40, charset="abcdefghijklmnopqrstuvwxyz ")),
                                 gym.spaces.Discrete(7)),
    "vectors, text and an image": (gym.spaces.Dict(image=gym.spaces.Box(0, 255, (16, 16, 3), np.uint8),
                                                   joints=gym.spaces.Box(-np.inf, np.inf, (40,)),
                                                   mission=gym.spaces.Text(9, charset="abcdefgh "), key=gym.spaces.Discrete(3)),
                                   gym.spaces.Box(-1, 1, (2,))),
    "text now and then": (gym.spaces.Dict(joints=gym.spaces.Box(-1, 1, (3,)), key=gym.spaces.Discrete(3),
                                          mission=gym.spaces.Text(9, charset="abcdefgh ")), gym.spaces.Discrete(4)),
}


def make_codec(name: str) -> TaskCodec:
    observation, action = SPACES[name]
    return TaskCodec(observation, action, VOCABULARY, TEXT, numbers="vector" if name.startswith("vectors") else "binned",
                     text_every=3 if name == "text now and then" else 1)


def observations_of(codec: TaskCodec, count: int, seed: int) -> list[Any]:
    """Random ones; where text is not written at every step it changes once."""
    codec.observation_space.seed(seed)
    found = [codec.observation_space.sample() for _ in range(count)]
    if codec.text_every > 1:
        found = [{**seen, "mission": found[5 * (i // 5)]["mission"]} for i, seen in enumerate(found)]
    return found


class PlainLoop:
    """One row, no cache: the whole history goes through the network for each action token."""

    def __init__(self, model: Model, codec: TaskCodec, prompt: Tokens | None = None) -> None:
        self.model, self.codec = model, codec
        self.history = Tokens.empty() if prompt is None else prompt
        self.steps = 0
        self.texts: tuple[str, ...] | None = None

    def logits(self, observation: Any) -> list[np.ndarray]:
        """Greedy logits over the legal ids of each action token."""
        encoded = self.codec.encode_observations([observation], [self.steps], [self.texts])
        self.steps, self.texts = self.steps + 1, self.codec.observed_texts(observation)
        self.history = Tokens.concatenate([self.history, *encoded])
        found = []
        for mask in self.codec.action_mask:
            hidden = self.model(Tokens.stack([self.history], VOCABULARY.pad).to_torch())[0, -1]
            logits = self.model.logits(hidden).detach().numpy()[mask]
            found.append(logits)
            action = stream(1, patch_share=0)
            action.ids[:], action.position[:] = np.flatnonzero(mask)[logits.argmax()], ACTION
            action.kind[:] = Kind.DISCRETE
            self.history = Tokens.concatenate([self.history, action])
        return found


class Watched(AgentPolicy):
    """The real policy, keeping the logits that it chose from."""

    def act(self, observations: Any, rows: Any) -> list[Any]:
        self.seen: list[np.ndarray] = []
        return super().act(observations, rows)

    def read(self, tokens: Tokens, counts: np.ndarray) -> torch.Tensor:
        hidden = super().read(tokens, counts)
        self.seen.append((hidden.float() @ self.heads[len(self.seen)].T).numpy())
        return hidden


DECODER, *OTHERS = BACKBONES
CASES = [(DECODER, name, prompted) for name in SPACES for prompted in (False, True)]
CASES += [(backbone, name, True) for backbone in OTHERS for name in list(SPACES)[1:]]


@pytest.mark.parametrize("backbone, name, prompted", CASES)
@torch.no_grad()
def test_cached_logits_equal_uncached_logits(backbone: BackboneConfig, name: str, prompted: bool) -> None:
    """Row 1 restarts at step 4, row 2 waits at step 3 and leaves at step 6; the window slides many times."""
    model, codec = make_model(backbone, vectors=name.startswith("vectors")), make_codec(name)
    prompt = stream(11, 5) if prompted else None
    policy = Watched(model, codec, SamplingConfig(temperature=0), prompt=prompt, precision="fp32")
    plain = {row: PlainLoop(model, codec, prompt) for row in range(3)}
    for row in range(3):
        policy.reset(row, seed=row)
    for step, observations in enumerate(zip(*(observations_of(codec, 9, seed) for seed in range(3)), strict=True)):
        if step == 4:
            policy.reset(1, seed=100)
            plain[1] = PlainLoop(model, codec, prompt)
        rows = [row for row in range(3) if not (row == 2 and (step == 3 or step >= 6))]
        policy.act([observations[row] for row in rows], rows)
        for row in rows:
            for place, expected in enumerate(plain[row].logits(observations[row])):
                np.testing.assert_allclose(policy.seen[place][policy.placed.index(row)], expected, atol=2e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_rows_of_several_tasks_act_in_one_batch_as_each_does_alone(backbone: BackboneConfig) -> None:
    """Each row plays a task of its own; one to all of them act, some leave and come again, and nobody loses his place."""
    model, codecs = make_model(backbone), [make_codec(name) for name in SPACES if not name.startswith("vectors")]
    draws = SamplingConfig(temperature=0.7, seed=3)
    together = AgentPolicy(model, codecs[0], precision="fp32", chunk=max(map(chunk_of, codecs)), keep=True)
    alone = [AgentPolicy(model, codec, draws, precision="fp32") for codec in codecs]
    observations = [observations_of(codec, 12, seed) for seed, codec in enumerate(codecs)]

    def reset(row: int) -> None:
        together.reset(row, seed=row, task=PlayedTask.of(together.model, codecs[row]), sampling=draws)
        alone[row].reset(0, seed=row)

    for row in range(4):
        reset(row)
    for step, rows in enumerate([[0, 1, 2, 3], [2], [3, 0], [1, 2, 3], [0], [0, 2], [2, 1], [3], [0, 3, 1, 2], [1], [2, 0]]):
        if step == 5:
            together.leave(2)
            reset(2)
        found = together.act([observations[row][step] for row in rows], rows)
        for row, action in zip(rows, found, strict=True):
            expected = alone[row].act([observations[row][step]], [0])[0]
            np.testing.assert_equal(action, expected, f"step {step}, row {row}")
    for row in range(4):
        together.leave(row)
    reset(0)
    together.act([observations[0][0]], [0])
    assert together.placed == [0] and len(together.cache.lengths) == 1


def dense_model(context: int) -> Model:
    """Every layer sees the whole context: nothing longer may be read."""
    return make_model(DecoderConfig(width=32, depth=2, heads=2, context=context, window=context))


@torch.no_grad()
@pytest.mark.parametrize("context, lengths", [
    (16, [5, 10, 15, *[10, 15] * 4, 10]),
    (32, [5, 10, 15, 20, 25, 30, 20, 25, 30, 20, 25, 30]),      # three steps are kept, and the next one with two of those
])
def test_without_a_window_half_the_context_is_read_again(context: int, lengths: list[int]) -> None:
    """Window = context, 5 tokens a step: logits equal an uncached pass over the steps that are still seen."""
    dense = dense_model(context)
    codec = make_codec("one action token")
    policy = Watched(dense, codec, SamplingConfig(temperature=0), precision="fp32")
    plain = PlainLoop(dense, codec)
    policy.reset(0, seed=0)
    seen = []
    for observation in observations_of(codec, 12, 0):
        policy.act([observation], [0])
        seen.append(int(policy.cache.lengths[0]) + 1)                    # with the action token that is still to be read
        plain.history = plain.history[max(0, len(plain.history) + 5 - seen[-1]):]
        np.testing.assert_allclose(policy.seen[0][0], plain.logits(observation)[0], atol=2e-5)
    assert seen == lengths and max(seen) <= context


@torch.no_grad()
def test_steps_that_are_read_again_are_kept_for_the_next_time() -> None:
    """Missions far shorter than they may be: before nearly each step half the context is read again."""
    missions = gym.spaces.Text(60, charset="abcdefghijklmnopqrstuvwxyz ")
    dense, codec = dense_model(80), TaskCodec(missions, gym.spaces.Discrete(5), VOCABULARY, TEXT, max_text_tokens=40)
    policy, plain = Watched(dense, codec, SamplingConfig(temperature=0), precision="fp32"), PlainLoop(dense, codec)
    policy.reset(0, seed=0)
    steps: list[Tokens] = []                                             # those that are seen
    for number in range(12):
        if sum(map(len, steps)) - 1 + codec.observation_tokens[1] + 3 > 80:   # last action, observation, separator, action
            while sum(map(len, steps)) > 40:
                steps.pop(0)
        plain.history = Tokens.concatenate(steps)
        mission = "go to the red ball"[number:]
        policy.act([mission], [0])
        np.testing.assert_allclose(policy.seen[0][0], plain.logits(mission)[0], atol=2e-5)
        steps.append(plain.history[sum(map(len, steps)):])
        assert int(policy.cache.lengths[0]) + 1 == sum(map(len, steps))


@torch.no_grad()
def test_a_prompt_that_fills_the_context_is_seen_or_refused() -> None:
    """5 tokens a step in a context of 32: behind 26 tokens there is room for a step, behind 27 there is none."""
    dense, codec = dense_model(32), make_codec("one action token")
    prompt = stream(26, 5)
    policy = Watched(dense, codec, SamplingConfig(temperature=0), prompt=prompt, precision="fp32")
    plain = PlainLoop(dense, codec, prompt)
    policy.reset(0, seed=0)
    (observation,) = observations_of(codec, 1, 0)
    policy.act([observation], [0])
    np.testing.assert_allclose(policy.seen[0][0], plain.logits(observation)[0], atol=2e-5)
    with pytest.raises(ValueError, match="27 tokens leaves no room for a step in this model's context of 32; give at most 26"):
        AgentPolicy(dense, codec, prompt=stream(27, 5), precision="fp32")
    windowed = AgentPolicy(make_model(), codec, prompt=stream(27, 5), precision="fp32")      # reads any length
    assert windowed.prompted is not None and windowed.prompted.lengths.tolist() == [27]


@torch.no_grad()
@pytest.mark.parametrize("name", ["one action token", "text now and then"])
def test_a_row_that_waits_keeps_its_history_when_another_joins(model: Model, name: str) -> None:
    codec = make_codec(name)
    policy = Watched(model, codec, SamplingConfig(temperature=0), precision="fp32")
    plain = {row: PlainLoop(model, codec) for row in range(4)}
    for row in range(4):
        policy.reset(row, seed=row)
    observations = [observations_of(codec, 5, seed) for seed in range(4)]
    for step, rows in enumerate(([0, 1, 2], [2, 0, 1], [3, 1, 0], [1, 2, 3], [3, 2, 1, 0])):     # row 2 waits while row 3 joins
        policy.act([observations[row][step] for row in rows], rows)
        for row in rows:
            expected = plain[row].logits(observations[row][step])[0]
            np.testing.assert_allclose(policy.seen[0][policy.placed.index(row)], expected, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("context", [32, 20])
def test_what_is_read_again_begins_with_its_text(context: int) -> None:
    """Window = context: logits equal an uncached pass over the newest steps that fit half of it, encoded as training would.
    In 20 tokens a step with its text fills more than half, so now and then nothing is kept."""
    dense = make_model(DecoderConfig(width=32, depth=2, heads=2, context=context, window=context))
    codec = make_codec("text now and then")
    codec = TaskCodec.from_json(codec.to_json() | {"max_text_tokens": 9}, VOCABULARY, TEXT)
    policy = Watched(dense, codec, SamplingConfig(temperature=0), precision="fp32")
    policy.reset(0, seed=0)
    seen, done, start, cut = [], list[int](), 0, 0
    for step, observation in enumerate(observations_of(codec, 40, 3)):
        before = int(policy.cache.lengths[0]) if step else 0
        done += [int(action) for action in policy.act([observation], [0])]
        seen.append(observation)
        if before + codec.observation_tokens[1] + 3 > context:           # what is kept fits half
            cut += 1
            while start < step and len(codec.encode_episode(episode_of(seen, done), start, step)) > context // 2:
                start += 1
        tokens = codec.encode_episode(episode_of(seen, done), start, step + 1)[:-1]
        hidden = dense(Tokens.stack([tokens], VOCABULARY.pad).to_torch())[0, -1]
        np.testing.assert_allclose(policy.seen[0][0], dense.logits(hidden).numpy()[codec.action_mask[0]], atol=2e-5)
    assert cut > 3


def episode_of(observations: list[Any], actions: list[int]) -> Episode:
    steps, space = len(actions), SPACES["text now and then"][0]
    return Episode(task="t", seed=0, observations=stack_leaves([flatten(space, seen) for seen in observations]),
                   actions={"": np.array(actions)}, demonstrated=np.ones(steps, bool), rewards=np.zeros(steps),
                   terminated=False, truncated=False)


def test_actions_are_legal_and_seeds_reproduce(model: Model) -> None:
    """Sampled actions lie in their space; an episode's actions depend on its seed, not on the rows beside it."""
    codec = make_codec("three, mixed")
    observations = observations_of(codec, 6, 0)

    def play(rows: list[int], seeds: list[int]) -> list[list[Any]]:
        policy = AgentPolicy(model, codec, SamplingConfig(temperature=1.5, top_k=20), precision="fp32")
        for row, seed in zip(rows, seeds, strict=True):
            policy.reset(row, seed)
        return [policy.act([observation] * len(rows), rows) for observation in observations]

    together, alone = play([0, 1, 2], [7, 8, 9]), play([0], [8])
    for step in range(6):
        assert all(codec.action_space.contains(action) for action in together[step])
        np.testing.assert_array_equal(together[step][1]["move"], alone[step][0]["move"])
        assert together[step][1]["grip"] == alone[step][0]["grip"]
    assert any(not np.array_equal(step[0]["move"], step[1]["move"]) for step in together)


def test_a_row_that_was_never_reset_is_told(model: Model) -> None:
    codec = make_codec("one action token")
    with pytest.raises(ValueError, match=r"row 0 acts before it was reset; call reset\(row, seed\)"):
        AgentPolicy(model, codec, precision="fp32").act(observations_of(codec, 1, 0), [0])


def test_a_row_that_lost_its_place_is_not_played_without_its_history(model: Model) -> None:
    codec = make_codec("one action token")
    policy = AgentPolicy(model, codec, precision="fp32")
    (observation,) = observations_of(codec, 1, 0)
    for row in range(2):
        policy.reset(row, row)
    policy.act([observation] * 2, [0, 1])
    policy.act([observation], [0])
    with pytest.raises(ValueError, match="row 1 lost its place.*reset it first"):
        policy.act([observation] * 2, [0, 1])
    policy.reset(1, 5)
    assert len(policy.act([observation] * 2, [0, 1])) == 2


def test_nan_observation_names_the_key(model: Model) -> None:
    space = gym.spaces.Dict(angle=gym.spaces.Box(-1, 1, (2,)), speed=gym.spaces.Box(-1, 1, (1,)))
    policy = AgentPolicy(model, TaskCodec(space, gym.spaces.Discrete(2), VOCABULARY, None), precision="fp32")
    policy.reset(0, 0)
    broken = {"angle": np.zeros(2, np.float32), "speed": np.array([np.nan], np.float32)}
    with pytest.raises(ValueError, match="speed.*NaN"):
        policy.act([broken], [0])


def test_choose_greedy_top_k_and_shares() -> None:
    logits = np.log(np.array([[0.1, 0.2, 0.7]]))
    generator = [np.random.default_rng(0)]
    assert choose(logits, SamplingConfig(temperature=0), generator).tolist() == [2]
    drawn = np.array([choose(logits, SamplingConfig(), generator)[0] for _ in range(4000)])
    np.testing.assert_allclose(np.bincount(drawn) / 4000, [0.1, 0.2, 0.7], atol=0.03)
    best = {int(choose(logits, SamplingConfig(top_k=2), generator)[0]) for _ in range(200)}
    assert best == {1, 2}
    with pytest.raises(ValueError, match="temperature=-1"):
        SamplingConfig(temperature=-1)


def test_without_memory_each_step_is_read_as_a_sequence_of_its_own() -> None:
    """The same actions as a policy that meets each observation as the first of an episode, whatever was played before."""
    observation, action = SPACES["three, mixed"]
    alone = TaskCodec(observation, action, VOCABULARY, TEXT, numbers="vector", title="go to", memory=False)
    model = make_model(vectors=True)
    greedy = SamplingConfig(temperature=0)
    policy, rows = AgentPolicy(model, alone, greedy, precision="fp32"), range(3)
    seen = [[observation for observation in observations_of(alone, 6, seed)] for seed in rows]
    for row in rows:
        policy.reset(row, row)
    for step in range(6):
        now = [seen[row][step] for row in rows]
        acted = policy.act(now, list(rows))
        fresh = AgentPolicy(model, alone, greedy, precision="fp32")
        for row in rows:
            fresh.reset(row, row)
        for one, other in zip(acted, fresh.act(now, list(rows)), strict=True):
            assert one["grip"] == other["grip"] and np.array_equal(one["move"], other["move"])
    with pytest.raises(ValueError, match="without memory"):
        AgentPolicy(model, alone, prompt=stream(4))
