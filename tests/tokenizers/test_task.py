"""The contract of TaskCodec over a list with every kind of space, and its rules one by one."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from calico.tokenizers.continuous import decode_bins, inverse_mu_law
from calico.tokenizers.episode import Episode
from calico.tokenizers.spaces import AnyText, flatten, leaf_spaces, stack_leaves, unflatten
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.tokens import ACTION, NO_POSITION, Kind, Tokens
from calico.tokenizers.vocabulary import Vocabulary, VocabularyConfig

from .conftest import joined

Record = Callable[..., Episode]
BINS = 1024
SMALL = spaces.Discrete(2)


def assert_same(one: Tokens, other: Tokens) -> None:
    for name in Tokens.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        assert np.asarray(getattr(one, name)).dtype == np.asarray(getattr(other, name)).dtype, name


# ---- the contract, over every kind of space


def test_observations_follow_the_record(
    space: spaces.Space[Any], vocabulary: Vocabulary, text: TextTokenizer, record: Record
) -> None:
    codec = TaskCodec(space, SMALL, vocabulary, text)
    tokens = codec.encode_episode(record(codec, 6))
    least, most = codec.tokens_per_step
    for step in range(6):
        at = tokens.timestep == step
        ids, kinds, positions = tokens.ids[at], tokens.kind[at], tokens.position[at]
        assert least <= len(ids) <= most
        observed = len(ids) - 2
        assert codec.observation_tokens[0] <= observed <= codec.observation_tokens[1]
        assert positions.tolist() == [*range(observed), NO_POSITION, ACTION]
        assert ids[observed] == vocabulary.separator and kinds[observed] == Kind.SPECIAL
        groups = [{Kind.TEXT: 0, Kind.PATCH: 1}.get(Kind(kind), 2) for kind in kinds[:observed]]
        assert groups == sorted(groups)  # text, images, numbers
    for token, kind in zip(tokens.ids.tolist(), tokens.kind.tolist(), strict=True):
        start, stop = vocabulary.range_of(Kind(kind))
        assert start <= token < stop
    is_patch = tokens.kind == Kind.PATCH
    assert len(tokens.patches) == len(tokens.channels) == len(tokens.intervals) == is_patch.sum()
    assert not tokens.segment.any()


def test_actions_come_back(space: spaces.Space[Any], vocabulary: Vocabulary, text: TextTokenizer) -> None:
    codec = TaskCodec(SMALL, space, vocabulary, text, max_text_tokens=48)
    actions = [space.sample() for _ in range(8)]
    ids = codec.encode_actions(actions)
    assert ids.dtype == np.int32 and ids.shape == (8, codec.action_length)
    assert codec.action_kinds.shape == (codec.action_length,)
    assert codec.action_mask.shape == (codec.action_length, vocabulary.size)
    assert codec.action_mask[np.arange(codec.action_length), ids].all()
    for i, kind in enumerate(codec.action_kinds):
        start, stop = vocabulary.range_of(Kind(kind))
        legal = np.flatnonzero(codec.action_mask[i]).tolist()
        assert legal and all(start <= token < stop or token == vocabulary.end for token in legal)
    decoded = codec.decode_actions(ids)
    for action, again in zip(actions, decoded, strict=True):
        assert space.contains(again)
        again_leaves = flatten(space, again)
        for name, value in flatten(space, action).items():
            assert_close(leaf_spaces(space)[name], value, again_leaves[name])
    np.testing.assert_array_equal(codec.encode_actions(decoded), ids)


def assert_close(leaf: spaces.Space[Any], value: Any, again: Any) -> None:
    """Equal for what is countable, within half a bin for what is continuous."""
    if (
        not isinstance(leaf, spaces.Box)
        or leaf.dtype == np.bool_
        or (
            leaf.dtype.kind in "iu"
            and all(int(h) - int(w) < 1024 for w, h in zip(leaf.low.flat, leaf.high.flat, strict=True))
        )
    ):
        np.testing.assert_array_equal(value, again)
        return
    low, high = leaf.low.astype(np.float64), leaf.high.astype(np.float64)
    bounded = np.maximum(np.abs(low), np.abs(high)) < 1e18
    with np.errstate(over="ignore", invalid="ignore"):
        half = (high - low) / BINS / 2 + (0.5 if leaf.dtype.kind in "iu" else 0)
    rounding = np.abs(high) * float(np.finfo(leaf.dtype).eps) if leaf.dtype.kind == "f" else 1e-9
    error = np.abs(value.astype(np.float64) - again.astype(np.float64))
    assert (error[bounded] <= (half * (1 + 1e-6) + rounding)[bounded]).all()


def test_every_legal_action_decodes_into_the_space(
    space: spaces.Space[Any], vocabulary: Vocabulary, text: TextTokenizer
) -> None:
    codec = TaskCodec(SMALL, space, vocabulary, text, max_text_tokens=24)
    rng = np.random.default_rng(1)
    ids = np.array([[rng.choice(np.flatnonzero(legal)) for legal in codec.action_mask] for _ in range(20)]).reshape(
        20, -1
    )
    for extreme in (np.argmax(codec.action_mask, 1), vocabulary.size - 1 - np.argmax(codec.action_mask[:, ::-1], 1)):
        ids[-1] = extreme
        for action in codec.decode_actions(ids):
            assert space.contains(action), action


def test_training_and_acting_give_the_same_tokens(
    space: spaces.Space[Any], vocabulary: Vocabulary, text: TextTokenizer
) -> None:
    codec = TaskCodec(space, SMALL, vocabulary, text)
    seen = [space.sample() for _ in range(5)]
    leaves = [flatten(space, value) for value in seen]
    columns = {}
    for name, leaf in leaf_spaces(space).items():
        values = [row[name] for row in leaves]
        columns[name] = (
            np.array(values, dtype=object) if isinstance(values[0], str) else np.stack(values).astype(leaf.dtype)
        )
    episode = Episode(
        task="t",
        seed=0,
        observations=columns,
        actions={"": np.array([1, 0, 1, 1])},
        demonstrated=np.ones(4, np.bool_),
        rewards=np.zeros(4),
        terminated=True,
        truncated=False,
    )
    acted = codec.encode_observations(seen, timesteps=range(5))
    assert len(acted) == 5
    for step in range(5):
        assert_same(codec.encode_episode(episode, step, step, final=True), acted[step])
    whole = codec.encode_episode(episode, final=True)
    action = [codec.encode_episode(episode, step, step + 1)[-1:] for step in range(4)]
    parts = [part for step in range(4) for part in (acted[step], action[step])]
    assert_same(whole, Tokens.concatenate([*parts, acted[4]]))
    assert_same(codec.encode_episode(episode, 1, 3), Tokens.concatenate(parts[2:6]))


def test_json_gives_the_same_tokens(
    space: spaces.Space[Any], vocabulary: Vocabulary, text: TextTokenizer, record: Record
) -> None:
    codec = TaskCodec(space, space, vocabulary, text, observation_text_loss=False, max_text_tokens=50)
    values = json.loads(json.dumps(codec.to_json(), allow_nan=False))
    again = TaskCodec.from_json(values, vocabulary, text)
    episode = record(codec, 4)
    assert_same(again.encode_episode(episode), codec.encode_episode(episode))
    np.testing.assert_array_equal(again.action_mask, codec.action_mask)
    assert again.explain() == codec.explain()
    assert again.to_json() == values
    with pytest.raises(ValueError, match="must have the keys"):
        TaskCodec.from_json({**values, "extra": 1}, vocabulary, text)


def test_explain_adds_up(space: spaces.Space[Any], vocabulary: Vocabulary, text: TextTokenizer) -> None:
    codec = TaskCodec(space, space, vocabulary, text)
    parts = codec.explain()
    at = [name for name, _, _ in parts].index("separator")
    assert sum(tokens for _, _, tokens in parts[:at]) == codec.observation_tokens[1]
    assert sum(tokens for _, _, tokens in parts[at + 1 :]) == codec.action_length
    assert sum(tokens for _, _, tokens in parts) == codec.tokens_per_step[1]


# ---- a whole step, written by hand


def test_a_step_reads_text_images_numbers_separator_action(text: TextTokenizer) -> None:
    vocabulary = Vocabulary()
    space = spaces.Dict(
        {
            "zoom": spaces.Text(20, charset="abcdefghij klmnopqrstuvwxyz"),
            "picture": spaces.Box(0, 255, (16, 32, 3), np.uint8),
            "angle": spaces.Box(-np.inf, np.inf, (2,)),
            "key": spaces.Discrete(5, start=1),
            "alpha": AnyText(),
        }
    )
    actions = spaces.Dict({"push": spaces.Box(-2, 2, (1,)), "grip": spaces.MultiBinary(2)})
    codec = TaskCodec(space, actions, vocabulary, text)
    picture = np.random.default_rng(0).integers(0, 256, (3, 16, 32, 3), dtype=np.uint8)
    episode = Episode(
        task="t",
        seed=0,
        observations={
            "zoom": np.array(["go", "go", "go"], object),
            "picture": picture,
            "key": np.array([1, 5, 3]),
            "angle": np.array([[0, 1e9], [0, 0], [0, 0]], np.float32),
            "alpha": np.array(["red", "", "ball"], object),
        },
        actions={"push": np.array([[2.0], [-2.0]], np.float32), "grip": np.array([[0, 1], [1, 1]], np.int8)},
        demonstrated=np.array([True, False]),
        rewards=np.zeros(2),
        terminated=True,
        truncated=False,
    )
    tokens = codec.encode_episode(episode)
    red, go = text.encode("red").tolist(), text.encode("go").tolist()
    d, c, patch, separator = (
        vocabulary.discrete_start,
        vocabulary.continuous_start,
        vocabulary.patch,
        vocabulary.separator,
    )
    words = len(red + go)
    assert tokens.ids.tolist() == [
        *red,
        *go,
        patch,
        patch,
        c + 512,
        c + 1023,
        d + 0,
        separator,
        d + 0,
        d + 1,
        c + 1023,
        *go,
        patch,
        patch,
        c + 512,
        c + 512,
        d + 4,
        separator,
        d + 1,
        d + 1,
        c + 0,
    ]
    assert tokens.timestep.tolist() == [0] * (words + 9) + [1] * (len(go) + 9)
    assert tokens.position.tolist() == [
        *range(words + 5),
        NO_POSITION,
        ACTION,
        ACTION,
        ACTION,
        *range(len(go) + 5),
        NO_POSITION,
        ACTION,
        ACTION,
        ACTION,
    ]
    assert tokens.loss_mask.tolist() == (
        [True] * words + [False] * 6 + [True] * 3 + [True] * len(go) + [False] * 6 + [False] * 3
    )
    assert tokens.channels.tolist() == [3] * 4
    assert tokens.intervals.tolist() == [[0, 128, 0, 64], [0, 128, 64, 128]] * 2
    np.testing.assert_array_equal(joined(tokens.patches.reshape(2, 2, 4, 16, 16), 16, 32, 3), picture[:2])
    silent = TaskCodec(space, actions, vocabulary, text, observation_text_loss=False).encode_episode(episode)
    assert silent.loss_mask.sum() == 3


def test_a_labelled_step_shows_what_was_done_and_asks_for_the_label() -> None:
    actions = spaces.Dict({"grip": spaces.Discrete(3), "push": spaces.Box(-1, 1, (1,))})
    codec = TaskCodec(SMALL, actions, Vocabulary(), None)
    done = {"grip": np.array([0, 1, 2]), "push": np.zeros((3, 1), np.float32)}
    episode = Episode(task="t", seed=0, observations={"": np.zeros(4, np.int64)}, actions=done,
                      demonstrated=np.array([True, False, True]), rewards=np.zeros(3), terminated=True, truncated=False)
    asked = {"grip": np.array([0, 0, 2]), "push": np.array([[0], [1], [0]], np.float32)}
    plain, labelled = codec.encode_episode(episode), codec.encode_episode(replace(episode, labels=asked))
    assert plain.targets is None
    assert plain.loss_mask.reshape(3, 4).tolist() == [[False, False, d, d] for d in (True, False, True)]
    assert labelled.ids.tolist() == plain.ids.tolist()
    assert labelled.loss_mask.reshape(3, 4).tolist() == [[False, False, True, True]] * 3
    assert labelled.targets.tolist() == codec.encode_episode(replace(episode, actions=asked)).ids.tolist()
    window = codec.encode_episode(replace(episode, labels=asked), 1, 3, final=True)
    assert window.targets.tolist() == [*labelled.targets[4:].tolist(), *window.ids[-2:].tolist()]
    same = codec.encode_episode(replace(episode, labels=done))
    assert same.targets is None and same.loss_mask.sum() == 6      # nothing differs: nothing more to carry
    with pytest.raises(ValueError, match="action 'push' is missing in the episode"):
        codec.encode_episode(replace(episode, labels={"grip": asked["grip"]}))


VECTOR_SPACE = spaces.Dict({
    "arm": spaces.Dict({"joints": spaces.Box(-np.inf, np.inf, (30,), np.float64), "grip": spaces.Discrete(3)}),
    "goal": spaces.Box(-1, 1, (2, 5), np.float32), "nothing": spaces.Box(-1, 1, (0,)), "far": spaces.Box(-5000, 300, (1,)),
    "picture": spaces.Box(0, 255, (16, 16, 3), np.uint8), "words": spaces.Text(9, charset="abc "),
})


def vector_codec(text: TextTokenizer, space: spaces.Space[Any] = VECTOR_SPACE) -> TaskCodec:
    return TaskCodec(space, spaces.Box(-1, 1, (2,)), Vocabulary(VocabularyConfig(text=1024)), text, numbers="vector")


def test_real_numbers_are_read_together_and_come_last(text: TextTokenizer) -> None:
    codec = vector_codec(text)
    assert [(part.name, part.kind, part.tokens) for part in codec.explain()] == [
        ("observation/words", Kind.TEXT, 9), ("observation/picture", Kind.PATCH, 1), ("observation/arm/grip", Kind.DISCRETE, 1),
        ("observation/arm/joints+far+goal", Kind.VECTOR, 2), ("separator", Kind.SPECIAL, 1), ("action", Kind.CONTINUOUS, 2)]
    assert codec.tokens_per_step == (1 + 1 + 1 + 2 + 1 + 2, 9 + 1 + 1 + 2 + 1 + 2)
    value = {"arm": {"joints": np.arange(30.0), "grip": np.int64(2)}, "goal": np.full((2, 5), -0.5, np.float32),
             "nothing": np.zeros(0, np.float32), "far": np.array([-5000], np.float32),
             "picture": np.zeros((16, 16, 3), np.uint8), "words": "a"}
    (tokens,) = codec.encode_observations([value])
    patch, text_tokens, two = codec.vocabulary.patch, len(text.encode("a")), codec.vocabulary.discrete_start + 2
    assert tokens.ids[text_tokens:].tolist() == [patch, two, patch, patch, codec.vocabulary.separator]
    assert tokens.position.tolist() == [*range(text_tokens + 4), NO_POSITION] and not tokens.loss_mask[text_tokens:].any()
    assert tokens.numbers.tolist() == [32, 9] and tokens.vectors.dtype == np.float32
    flat = tokens.vectors.reshape(-1)
    np.testing.assert_allclose(flat[:30], np.log1p(100 * np.arange(30.0)) / np.log(25601), rtol=1e-6)
    assert flat[30] == -1 and (flat[31:41] == np.float32(-np.log1p(50) / np.log(25601))).all() and (flat[41:] == 0).all()


def test_vectors_give_the_values_back(text: TextTokenizer) -> None:
    codec = vector_codec(text)
    assert codec._vector is not None
    codec.observation_space.seed(3)
    rows = stack_leaves([flatten(VECTOR_SPACE, VECTOR_SPACE.sample()) for _ in range(50)])
    again = codec._vector.decode(codec._vector.encode(rows))
    for name in ("arm/joints", "goal", "far"):
        assert again[name].dtype == rows[name].dtype and again[name].shape == rows[name].shape
        np.testing.assert_allclose(again[name], rows[name], rtol=1e-4, atol=1e-3)   # a float32 of the mu-law or the bounds


@pytest.mark.parametrize("start, stop", [(0, 6), (2, 5), (3, 3)])
def test_training_and_acting_give_the_same_vectors(record: Record, text: TextTokenizer, start: int, stop: int) -> None:
    codec = vector_codec(text)
    episode = record(codec, 6)
    whole = codec.encode_episode(episode)
    window = codec.encode_episode(episode, start, stop)
    at = [int((whole.timestep < step).sum()) for step in (start, stop)]
    assert_same(window, whole[at[0]:at[1]])
    for step in range(start, stop):
        seen = {name: values[step] for name, values in episode.observations.items()}
        (acted,) = codec.encode_observations([unflatten(VECTOR_SPACE, seen)], [step])
        trained = codec.encode_episode(episode, step, step + 1)[:len(acted)]
        assert_same(replace(acted, loss_mask=trained.loss_mask), trained)


def test_codecs_with_vectors_say_so_and_older_documents_mean_bins(text: TextTokenizer, record: Record) -> None:
    codec = vector_codec(text)
    values = json.loads(json.dumps(codec.to_json()))
    assert values["numbers"] == "vector"
    again = TaskCodec.from_json(values, codec.vocabulary, text)
    assert_same(again.encode_episode(record(codec, 3)), codec.encode_episode(record(codec, 3)))
    del values["numbers"]                                                # as every codec was written before
    binned = TaskCodec.from_json(values, codec.vocabulary, text)
    assert binned.numbers == "binned" and binned.to_json() == values
    assert binned.tokens_per_step[1] == codec.tokens_per_step[1] - 2 + 41


def test_what_is_wrong_with_a_vector_is_named(text: TextTokenizer) -> None:
    codec = vector_codec(text, spaces.Dict({"a": spaces.Box(-9, 9, (3,)), "b": spaces.Box(-9, 9, (2,))}))
    good = {"a": np.zeros(3, np.float32), "b": np.zeros(2, np.float32)}
    with pytest.raises(ValueError, match="observation 'b': 1 of 2 values are NaN, which no vector can hold; fill or drop"):
        codec.encode_observations([{**good, "b": np.array([0, np.nan], np.float32)}])
    with pytest.raises(ValueError, match=r"observation 'a' must have the shape \(3,\), got \(4,\); .* must be recorded again"):
        codec.encode_observations([{**good, "a": np.zeros(4, np.float32)}])
    with pytest.raises(ValueError, match="numbers='vector' is not the paper's form.*numbers='binned' or layout 'disjoint'"):
        TaskCodec(SMALL, SMALL, Vocabulary(VocabularyConfig(layout="gato")), None, numbers="vector")
    with pytest.raises(ValueError, match="numbers='both' is unknown; choose 'binned' or 'vector'"):
        TaskCodec(SMALL, SMALL, Vocabulary(), None, numbers="both")  # type: ignore[arg-type]
    (infinite,) = codec.encode_observations([{**good, "a": np.array([np.inf, -np.inf, 1e9], np.float32)}])
    assert infinite.vectors[0, :3].tolist() == [1, -1, 1]


def test_every_space_has_the_same_tokens_in_training_and_acting_with_vectors(space: spaces.Space[Any], text: TextTokenizer,
                                                                             record: Record) -> None:
    codec = TaskCodec(space, SMALL, Vocabulary(VocabularyConfig(text=1024)), text, numbers="vector")
    episode = record(codec, 3)
    trained = [codec.encode_episode(episode, i, i + 1)[:-1] for i in range(3)]
    rows = [unflatten(space, {name: values[i] for name, values in episode.observations.items()}) for i in range(3)]
    for step, (acted, seen) in enumerate(zip(codec.encode_observations(rows, range(3)), trained, strict=True)):
        assert_same(acted, seen)
        assert (acted.timestep == step).all() and not (acted.kind == Kind.CONTINUOUS).any()


MISSIONS = spaces.Dict({"mission": spaces.Text(20, charset="abcdef "), "note": spaces.Text(5, min_length=0, charset="xyz"),
                        "key": spaces.Discrete(3), "joints": spaces.Box(-1, 1, (3,))})


def mission_episode(steps: int, change: int | None = None) -> Episode:
    """The mission changes at step `change`; the note never does."""
    missions = np.array(["abc abc"] * (steps + 1), object)
    if change is not None:
        missions[change:] = "fed"
    return Episode(task="t", seed=0, actions={"": np.arange(steps) % 2}, demonstrated=np.ones(steps, bool),
                   rewards=np.zeros(steps),
                   observations={"mission": missions, "note": np.array(["xy"] * (steps + 1), object),
                                 "key": np.arange(steps + 1) % 3, "joints": np.zeros((steps + 1, 3), np.float32)},
                   terminated=True, truncated=False)


def steps_with_text(tokens: Tokens) -> list[int]:
    return sorted(set(tokens.timestep[tokens.kind == Kind.TEXT].tolist()))


def mission_codec(text: TextTokenizer, text_every: int = 4, **more: Any) -> TaskCodec:
    return TaskCodec(MISSIONS, SMALL, Vocabulary(VocabularyConfig(text=1024)), text, text_every=text_every, **more)


def test_text_that_stays_the_same_is_written_every_few_steps(text: TextTokenizer) -> None:
    codec, every_step = mission_codec(text), mission_codec(text, 1)
    assert steps_with_text(codec.encode_episode(mission_episode(10))) == [0, 4, 8]
    assert steps_with_text(codec.encode_episode(mission_episode(10), 5, 9)) == [5, 8]
    assert steps_with_text(codec.encode_episode(mission_episode(10, change=6))) == [0, 4, 6, 8]
    assert steps_with_text(codec.encode_episode(mission_episode(10, change=4), 3)) == [3, 4, 8]
    apart = codec.encode_episode(mission_episode(10), apart=True)
    assert steps_with_text(apart) == list(range(10))
    np.testing.assert_array_equal(apart.ids, every_step.encode_episode(mission_episode(10)).ids)
    assert codec.tokens_per_step == (1 + 3 + 1 + 1, every_step.tokens_per_step[1])
    tokens = codec.encode_episode(mission_episode(10))
    for step in range(10):                                               # all but text has one position, with text and without
        of_step = tokens.timestep == step
        assert tokens.position[of_step & (tokens.kind == Kind.DISCRETE) & (tokens.position >= 0)].tolist() == [3]
        words = tokens.position[of_step & (tokens.kind == Kind.TEXT)].tolist()
        assert words == list(range(4, 4 + len(words)))


@pytest.mark.parametrize("numbers", ["binned", "vector"])
def test_windows_and_acting_write_text_at_the_same_steps(text: TextTokenizer, numbers: Any) -> None:
    codec, episode = mission_codec(text, numbers=numbers), mission_episode(11, change=6)
    for start in range(11):
        window = codec.encode_episode(episode, start)
        cut = {name: values[start:] for name, values in episode.observations.items()}
        part = replace(episode, observations=cut, actions={"": episode.actions[""][start:]},
                       demonstrated=episode.demonstrated[start:], rewards=episode.rewards[start:])
        assert_same(codec.encode_episode(part, first=start), window)
        before, at = None, 0
        for step in range(start, 11):
            seen = unflatten(MISSIONS, {name: values[step] for name, values in episode.observations.items()})
            (acted,) = codec.encode_observations([seen], [step], [before])
            before = codec.observed_texts(seen)
            trained = window[at:at + len(acted)]
            assert_same(replace(acted, loss_mask=trained.loss_mask), trained)
            at += len(acted) + 1
        assert at == len(window)


def test_how_often_text_is_written_stands_in_the_codec(text: TextTokenizer) -> None:
    values = json.loads(json.dumps(mission_codec(text).to_json()))
    assert values["text_every"] == 4 and "text_every" not in mission_codec(text, 1).to_json()
    again = TaskCodec.from_json(values, Vocabulary(VocabularyConfig(text=1024)), text)
    assert_same(again.encode_episode(mission_episode(9)), mission_codec(text).encode_episode(mission_episode(9)))
    with pytest.raises(ValueError, match="text_every=0 is not positive"):
        mission_codec(text, 0)


def test_several_images_keep_their_patches_in_the_order_of_their_tokens() -> None:
    space = spaces.Dict({"b": spaces.Box(0, 255, (16, 32), np.uint8), "a": spaces.Box(0, 255, (16, 16, 4), np.uint8)})
    codec = TaskCodec(space, SMALL, Vocabulary(), None)
    rows = [
        {
            "a": np.full((16, 16, 4), 10 * i, np.uint8),
            "b": np.repeat([[10 * i + 1, 10 * i + 2]], 16, axis=0).repeat(16, 1).astype(np.uint8),
        }
        for i in range(3)
    ]
    encoded = codec.encode_observations(rows)
    for i, tokens in enumerate(encoded):
        assert tokens.patches[:, 0, 0, 0].tolist() == [10 * i, 10 * i + 1, 10 * i + 2]
        assert tokens.channels.tolist() == [4, 1, 1]
        assert tokens.intervals.tolist() == [[0, 128, 0, 128], [0, 128, 0, 64], [0, 128, 64, 128]]


def test_windows_may_be_empty(text: TextTokenizer, record: Record) -> None:
    codec = TaskCodec(
        spaces.Dict({"a": AnyText(), "b": spaces.Box(0, 255, (16, 16, 3), np.uint8)}), SMALL, Vocabulary(), text
    )
    episode = record(codec, 3)
    assert_same(codec.encode_episode(episode, 2, 2), Tokens.empty())
    assert_same(codec.encode_episode(episode, 3), Tokens.empty())
    assert codec.encode_observations([]) == []
    assert codec.encode_actions([]).shape == (0, 1)
    assert codec.decode_actions(np.zeros((0, 1), np.int32)) == []
    for start, stop in ((-1, 2), (2, 1), (0, 4)):
        with pytest.raises(ValueError, match=rf"steps \[{start}, {stop}\) are not inside this episode of 3 steps"):
            codec.encode_episode(episode, start, stop)


def test_an_episode_without_a_leaf_is_named(record: Record) -> None:
    codec = TaskCodec(spaces.Dict({"a": SMALL, "b": SMALL}), SMALL, Vocabulary(), None)
    episode = record(codec, 3)
    with pytest.raises(ValueError, match=r"observation 'b' is missing in the episode, which has \['a'\]"):
        codec.encode_episode(replace(episode, observations={"a": episode.observations["a"]}))
    with pytest.raises(ValueError, match="action has 1 rows in the episode, but step 2 is wanted"):
        codec.encode_episode(replace(episode, actions={"": episode.actions[""][:1]}))


# ---- numbers


@settings(max_examples=150)
@given(
    low=st.floats(-1e4, 1e4),
    width=st.floats(1e-3, 1e5),
    share=st.floats(0, 1),
    kind=st.sampled_from(["float32", "float64"]),
)
def test_bounded_actions_are_right_within_half_a_bin(low: float, width: float, share: float, kind: str) -> None:
    space = spaces.Box(np.array([low], kind), np.array([low + width], kind), dtype=np.dtype(kind).type)
    codec = TaskCodec(SMALL, space, Vocabulary(), None)
    low, high = float(space.low[0]), float(space.high[0])
    value = np.clip(np.array([low + share * (high - low)], kind), space.low, space.high)
    again = codec.decode_actions(codec.encode_actions([value]))[0]
    assert space.contains(again)
    assert again.dtype == space.dtype
    rounding = 2 * np.finfo(kind).eps * max(abs(low), abs(high))
    assert abs(float(again[0]) - float(value[0])) <= (high - low) / BINS / 2 * (1 + 1e-6) + rounding


@pytest.mark.parametrize("bound", [1.0, 0.05, 400.0])
def test_bounds_of_an_action_take_the_end_bins(bound: float) -> None:
    codec = TaskCodec(SMALL, spaces.Box(-bound, bound, (3,)), Vocabulary(), None)
    ids = codec.encode_actions([np.array([-bound, 0, bound], np.float32)])[0] - Vocabulary().continuous_start
    assert ids.tolist() == [0, 512, 1023]
    assert codec.decode_actions(ids[None] + Vocabulary().continuous_start)[0] == pytest.approx(
        np.array([-1023, 1, 1023]) / 1024 * bound, rel=1e-6
    )


def test_unbounded_actions_use_the_mu_law() -> None:
    vocabulary = Vocabulary()
    for space in (
        spaces.Box(-np.inf, np.inf, (3,)),
        spaces.Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (3,)),
    ):
        codec = TaskCodec(SMALL, space, vocabulary, None)
        again = codec.decode_actions(codec.encode_actions([np.array([-40, 0.5, np.inf], np.float32)]))[0]
        assert again == pytest.approx([-40, 0.5, inverse_mu_law(decode_bins(np.array(1023)))], rel=0.0115)


def observe(space: spaces.Space[Any], value: Any) -> list[int]:
    """Bins of one observation."""
    codec = TaskCodec(space, SMALL, Vocabulary(), None)
    return (codec.encode_observations([value])[0].ids[:-1] - Vocabulary().continuous_start).tolist()


def test_observed_numbers_use_the_mu_law_even_where_bounded() -> None:
    value = np.array([0.1, -1, 1], np.float32)
    assert observe(spaces.Box(-1, 1, (3,)), value) == observe(spaces.Box(-np.inf, np.inf, (3,)), value)
    assert observe(spaces.Box(-np.inf, np.inf, (3,)), np.array([-np.inf, np.inf, 0], np.float32)) == [0, 1023, 512]


def test_observed_numbers_with_wide_bounds_are_scaled_to_them() -> None:
    assert observe(spaces.Box(0, 2000, (4,)), np.array([0, 500, 1000, 2000], np.float32)) == [0, 256, 512, 1023]
    assert observe(spaces.Box(0, 4096, (3,), np.int32), np.array([0, 1024, 4096])) == [0, 256, 1023]
    mixed = spaces.Box(np.array([-np.inf, 0]), np.array([np.inf, 2000]), dtype=np.float64)
    assert observe(mixed, np.array([0.0, 1000.0])) == [512, 512]
    assert observe(mixed, np.array([-np.inf, 0.0])) == [0, 0]


@settings(max_examples=100)
@given(value=st.floats(allow_nan=False, width=32))
def test_no_finite_or_infinite_observation_leaves_the_range(value: float) -> None:
    assert 0 <= observe(spaces.Box(-np.inf, np.inf, ()), np.float32(value))[0] < BINS


def test_a_float64_of_a_float32_space_has_the_bin_of_its_float32() -> None:
    edges = inverse_mu_law(np.linspace(-1, 1, BINS + 1)[1:-1])
    value = np.concatenate([edges * (1 - 1e-9), edges * (1 + 1e-9)])  # too close together for float32
    space = spaces.Box(-np.inf, np.inf, value.shape)
    assert observe(space, value) == observe(space, value.astype(np.float32))


def test_unbounded_integers_use_the_mu_law() -> None:
    value = np.array([-3, 0, 200])
    for kind in (np.int32, np.int64):
        assert observe(spaces.Box(-np.inf, np.inf, (3,), kind), value.astype(kind)) == observe(
            spaces.Box(-np.inf, np.inf, (3,), np.float64), value
        )


def test_large_discrete_observations_take_several_tokens() -> None:
    codec = TaskCodec(spaces.Discrete(3_000_000, start=7), SMALL, Vocabulary(), None)
    assert codec.observation_tokens == (3, 3)
    ids = codec.encode_observations([7 + 2 * 1024**2 + 5 * 1024 + 9])[0].ids[:3] - Vocabulary().discrete_start
    assert ids.tolist() == [2, 5, 9]


# ---- what is refused


@pytest.mark.parametrize(
    "space, value, message",
    [
        (spaces.Box(-1, 1, (3,)), np.array([0, np.nan, np.nan]), "2 of 3 values are NaN"),
        (spaces.Box(-999, 999, (2,)), np.array([0, np.nan]), "1 of 2 values are NaN"),
        (spaces.Box(-1, 1, (3,)), np.zeros(4), r"must have the shape \(3,\), got \(4,\)"),
        (spaces.Box(-1, 1, ()), np.zeros(1), r"must have the shape \(\), got \(1,\)"),
        (spaces.Box(-1, 1, (1,)), np.array(["1"]), "must be float32, got <U1"),
        (spaces.Box(-1, 1, (1,)), None, "must have the shape"),
        (spaces.Box(0, 999, (1,)), np.array([1005.0]), r"value 1005.0 at index 0 is outside \[0, 999\]"),
        (spaces.Box(0, 5000, (1,), np.int64), np.array([1.5]), "must be int64, got float64"),
        (spaces.Box(-5, 5, (2,), np.int64), np.array([0, 6]), r"value 6 at index \(0, 1\) is outside \[-5, 6\)"),
        (spaces.Box(0, 255, (16, 16, 3), np.uint8), np.zeros((16, 16, 3)), "must be a uint8 image, got float64"),
        (
            spaces.Box(0, 255, (16, 16, 3), np.uint8),
            np.zeros((16, 17, 3), np.uint8),
            r"must have the shape \(16, 16, 3\)",
        ),
        (spaces.Discrete(3), 3, r"value 3 at index \(0, 0\) is outside \[0, 3\)"),
        (spaces.Discrete(3), 1.0, "must be integers, got float64"),
        (spaces.Discrete(3), "1", "must be integers, got object"),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 3]), r"value 3 at index \(0, 1\)"),
        (spaces.MultiBinary(2), np.array([0, 2]), "value 2"),
        (spaces.Text(5), "a b", r"holds \[' '\], not in the space's charset"),
        (spaces.Text(5, min_length=2), "abcdef", "has 6 characters, not 2 to 5"),
        (spaces.Text(5), 3, "must be a str, got int"),
        (AnyText(), "ab\ud800", r"surrogate U\+D800"),
        (AnyText(), "z" * 70, "has 70 tokens, more than max_text_tokens=64.*raise max_text_tokens"),
    ],
)
@pytest.mark.parametrize("role", ["observation", "action"])
def test_a_value_outside_its_space_is_named(
    space: spaces.Space[Any], value: Any, message: str, role: str, text: TextTokenizer
) -> None:
    inside = spaces.Dict({"key": space, "other": SMALL})
    codec = TaskCodec(inside, inside, Vocabulary(), text)
    encode = codec.encode_observations if role == "observation" else codec.encode_actions
    good = {"key": space.sample(), "other": 0}
    encode([good])
    if role == "action" and space.shape == (16, 16, 3):
        message = r"must be integers|must have the shape"  # pixels as an action are numbers
    with pytest.raises(ValueError, match=f"{role} 'key'.*({message})"):
        encode([{"key": value, "other": 0}])


def test_rounding_just_outside_the_bounds_is_no_error() -> None:
    codec = TaskCodec(SMALL, spaces.Box(-2, 2, (1,)), Vocabulary(), None)
    start = Vocabulary().continuous_start
    assert codec.encode_actions([np.array([2.001]), np.array([-2.001])]).tolist() == [[start + 1023], [start]]
    for value in (2.01, np.inf):
        with pytest.raises(ValueError, match=r"action: value .* is outside \[-2, 2\]"):
            codec.encode_actions([np.array([value])])


def test_a_box_of_one_value_takes_that_value_only() -> None:
    codec = TaskCodec(SMALL, spaces.Box(np.array([2, -1]), np.array([2, 1]), dtype=np.float64), Vocabulary(), None)
    assert codec.decode_actions(codec.encode_actions([np.array([2.0, 1.0])]))[0].tolist() == [2, 1023 / 1024]
    for value in (3.0, np.inf):
        with pytest.raises(ValueError, match=r"value .* at index 0 is outside \[2, 2\]"):
            codec.encode_actions([np.array([value, 1.0])])


def test_an_observation_outside_bounds_that_the_tokens_do_not_use_is_no_error() -> None:
    # LunarLander declares +-2.5 for its height and flies to 195: the mu-law does not need the bounds.
    assert observe(spaces.Box(-2.5, 2.5, (1,)), np.array([195.0])) == observe(
        spaces.Box(-np.inf, np.inf, (1,)), np.array([195.0])
    )


def test_a_tree_that_does_not_fit_is_named() -> None:
    codec = TaskCodec(spaces.Dict({"a": SMALL}), SMALL, Vocabulary(), None)
    with pytest.raises(ValueError, match=r"observation: value '' must have the keys \['a'\], got \['b'\]"):
        codec.encode_observations([{"b": 0}])


def test_what_a_codec_cannot_be_made_of(text: TextTokenizer) -> None:
    vocabulary = Vocabulary(VocabularyConfig(discrete=64))
    with pytest.raises(
        ValueError,
        match=r"action 'move' space Discrete\(65\) needs 65 ids but the vocabulary has 64 for discrete "
        "values; set vocabulary.discrete=65",
    ):
        TaskCodec(SMALL, spaces.Dict({"move": spaces.Discrete(65)}), vocabulary, None)
    with pytest.raises(ValueError, match="needs 99 ids"):
        TaskCodec(SMALL, spaces.MultiDiscrete([3, 99]), vocabulary, None)
    with pytest.raises(ValueError, match="observation 'say' is text but there is no TextTokenizer"):
        TaskCodec(spaces.Dict({"say": spaces.Text(3)}), SMALL, vocabulary, None)
    with pytest.raises(ValueError, match="action space: space '' is Sequence"):
        TaskCodec(SMALL, spaces.Sequence(SMALL), vocabulary, None)
    with pytest.raises(ValueError, match="observation space: space 'a' is Graph"):
        TaskCodec(spaces.Dict({"a": spaces.Graph(SMALL, None)}), SMALL, vocabulary, None)
    with pytest.raises(ValueError, match="an observation of 40000 tokens is too long"):
        TaskCodec(spaces.Box(-1, 1, (40_000,)), SMALL, vocabulary, None)
    with pytest.raises(ValueError, match=f"set vocabulary.text={text.size}"):
        TaskCodec(SMALL, SMALL, Vocabulary(VocabularyConfig(text=100)), text)
    with pytest.raises(ValueError, match="max_text_tokens=0 is not positive"):
        TaskCodec(SMALL, SMALL, vocabulary, None, max_text_tokens=0)


def test_ids_that_mean_nothing_are_refused(vocabulary: Vocabulary, text: TextTokenizer) -> None:
    for space in (spaces.Discrete(3), spaces.Box(-1, 1, (1,)), AnyText()):
        codec = TaskCodec(SMALL, space, vocabulary, text)
        for wrong in (-1, vocabulary.separator, vocabulary.size):
            with pytest.raises(ValueError, match="action: id.*sample within action_mask"):
                codec.decode_actions(np.full((1, codec.action_length), wrong))
        with pytest.raises(ValueError, match=r"must have the shape \(N, "):
            codec.decode_actions(np.zeros((1, codec.action_length + 1), np.int32))


# ---- text as an action


def test_text_actions_fill_their_budget_with_end(text: TextTokenizer, vocabulary: Vocabulary) -> None:
    codec = TaskCodec(SMALL, AnyText(), vocabulary, text, max_text_tokens=10)
    assert codec.action_length == 10
    pieces = text.encode("red ball").tolist()
    ids = codec.encode_actions(["red ball", ""])
    assert ids.tolist() == [pieces + [vocabulary.end] * (10 - len(pieces)), [vocabulary.end] * 10]
    ids[0, len(pieces) + 1] = pieces[0]  # what follows the first end does not count
    assert codec.decode_actions(ids) == ["red ball", ""]


def test_text_actions_are_made_to_fit_their_space(text: TextTokenizer, vocabulary: Vocabulary) -> None:
    space = spaces.Text(4, min_length=3, charset="abc")
    codec = TaskCodec(SMALL, space, vocabulary, text)
    assert codec.action_length == 4  # four ASCII characters are at most four pieces
    rows = ["abcabc", "a-b-c", "b", ""]
    wide = TaskCodec(SMALL, AnyText(), vocabulary, text, max_text_tokens=4)
    ids = [wide.encode_actions([row])[0] if len(text.encode(row)) <= 4 else text.encode(row)[:4] for row in rows]
    decoded = codec.decode_actions(np.stack(ids))
    assert all(space.contains(value) for value in decoded)
    assert decoded[2:] == ["baa", "aaa"]
    legal = {token for token in np.flatnonzero(codec.action_mask[1]).tolist() if token != vocabulary.end}
    assert legal
    assert {character for token in legal for character in text.decode([token])} == set("abc")
    assert codec.action_mask[:, vocabulary.end].tolist() == [False, True, True, True]


# ---- real observations


@settings(max_examples=20)
@given(data=st.data())
def test_nested_spaces_of_any_make_come_back(data: st.DataObject) -> None:
    leaf = st.one_of(
        st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 1024), st.integers(-5, 5)),
        st.builds(spaces.MultiBinary, st.integers(1, 4)),
        st.builds(lambda n: spaces.MultiDiscrete(n), st.lists(st.integers(1, 30), min_size=1, max_size=4)),
    )
    nested = st.recursive(
        leaf,
        lambda inner: (
            st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3).map(spaces.Dict)
            | st.lists(inner, max_size=3).map(spaces.Tuple)
        ),
        max_leaves=8,
    )
    space = data.draw(nested)
    space.seed(0)
    codec = TaskCodec(space, space, Vocabulary(), None)
    actions = [space.sample() for _ in range(3)]
    decoded = codec.decode_actions(codec.encode_actions(actions))
    for action, again in zip(actions, decoded, strict=True):
        assert space.contains(again)
        for name, value in flatten(space, action).items():
            np.testing.assert_array_equal(value, flatten(space, again)[name])


@pytest.mark.parametrize("value", [math.inf, -math.inf, 0.0, -0.0, 1e-45, 3.4e38])
def test_special_floats_have_a_bin(value: float) -> None:
    assert 0 <= observe(spaces.Box(-np.inf, np.inf, (1,), np.float64), np.array([value]))[0] < BINS
