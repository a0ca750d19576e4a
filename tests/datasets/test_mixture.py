"""Batches are a pure function of (seed, step), full, in the right shares, and made of whole timesteps."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from calico.datasets.documents import Caption, Dialogue
from calico.datasets.episodes import EpisodeReader, EpisodeWriter
from calico.datasets.mixture import Batch, Mixture, first_difference, loader, prefetched
from calico.datasets.sources import (
    DocumentSource,
    EpisodeSource,
    PromptConfig,
    Source,
    Targets,
    TextSource,
    data_fingerprint,
    draw_window,
)
from calico.tokenizers.continuous import decode_bins, inverse_mu_law
from calico.tokenizers.episode import Episode
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.tokens import DTYPES, Kind, Tokens
from calico.tokenizers.vocabulary import Vocabulary, VocabularyConfig

SENTENCES = [f"go to the {colour} {kind} and pick it up, then say {n}" for colour in ("red", "green", "blue")
             for kind in ("ball", "box", "key") for n in range(4)]
TEXT = TextTokenizer.train(SENTENCES, 320)
VOCABULARY = Vocabulary(VocabularyConfig(text=TEXT.size))
NO_PROMPT = PromptConfig(probability=0)

STATE = TaskCodec(spaces.Box(-10, 10, (3,), np.float32), spaces.Discrete(4), VOCABULARY, None)              # 5 a step
STATE_ALONE = TaskCodec(STATE.observation_space, STATE.action_space, VOCABULARY, None, memory=False)
FRAMES = TaskCodec(spaces.Box(0, 255, (32, 32, 3), np.uint8), spaces.Discrete(4), VOCABULARY, None)         # 6 a step
MISSIONS = spaces.Text(60, charset="".join(sorted(set("".join(SENTENCES)))))
MISSION = TaskCodec(spaces.Dict(mission=MISSIONS, place=spaces.Discrete(9)), spaces.Discrete(4), VOCABULARY, TEXT)


def state_episode(seed: int, steps: int) -> Episode:
    """The first number is the seed, the second the step: what is in a window can be read from its tokens."""
    rng = np.random.default_rng(seed)
    state = np.zeros((steps + 1, 3), np.float32)
    state[:, 0], state[:, 1] = seed / 100, np.arange(steps + 1) / 100
    return Episode(task="state", seed=seed, observations={"": state}, actions={"": rng.integers(0, 4, steps)},
                   demonstrated=np.ones(steps, bool), rewards=np.ones(steps), terminated=True, truncated=False)


def frame_episode(seed: int, steps: int) -> Episode:
    """Every patch of step t has the one value 3 * (t + 7 * its place)."""
    frames = np.zeros((steps + 1, 2, 16, 2, 16, 3), np.uint8)
    place = np.arange(4).reshape(2, 1, 2, 1, 1)
    frames[:] = 3 * (np.arange(steps + 1).reshape(-1, 1, 1, 1, 1, 1) + 7 * place)
    return Episode(task="frames", seed=seed, observations={"": frames.reshape(-1, 32, 32, 3)},
                   actions={"": np.arange(steps) % 4}, demonstrated=np.ones(steps, bool), rewards=np.ones(steps),
                   terminated=True, truncated=False)


def mission_episode(seed: int, steps: int) -> Episode:
    words = np.array([SENTENCES[seed % len(SENTENCES)]] * (steps + 1) + [None], object)[:-1]
    return Episode(task="mission", seed=seed, observations={"mission": words, "place": np.arange(steps + 1) % 9},
                   actions={"": np.arange(steps) % 4}, demonstrated=np.ones(steps, bool), rewards=np.ones(steps),
                   terminated=True, truncated=False)


def captions(number: int) -> list[Caption]:
    rng = np.random.default_rng(0)
    return [Caption(name=f"{i}.png", image=rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
                    captions=(SENTENCES[i % 9], "a ball")) for i in range(number)]


def dialogues(number: int) -> list[Dialogue]:
    return [Dialogue(messages=[
        {"role": "user", "content": [{"type": "image", "image": "x"}, {"type": "text", "text": "what is it?"}]},
        {"role": "assistant", "content": "a ball"}], images={"x": c.image}) for c in captions(number)]


def make_mixture(seed: int = 0, batch_size: int = 8, context: int = 128, **weights: Any) -> Mixture:
    weights = weights or {"state": 4, "frames": 2, "mission": 1, "captions": 1, "dialogues": 1, "text": 1}
    every: dict[str, Callable[[], Source]] = {
        "state": lambda: EpisodeSource("state", [state_episode(s, 5 + 10 * s) for s in range(12)], STATE),
        "frames": lambda: EpisodeSource("frames", [frame_episode(s, 40) for s in range(3)], FRAMES),
        "mission": lambda: EpisodeSource("mission", [mission_episode(s, 4) for s in range(9)], MISSION),
        "captions": lambda: DocumentSource("captions", captions(7), VOCABULARY, TEXT),
        "dialogues": lambda: DocumentSource("dialogues", dialogues(7), VOCABULARY, TEXT),
        "text": lambda: TextSource("text", [" ".join(SENTENCES), "a short one"], VOCABULARY, TEXT),
    }
    return Mixture([every[name]() for name in weights], weights, vocabulary=VOCABULARY, context=context,
                   batch_size=batch_size, seed=seed)


def same(one: Batch, other: Batch) -> bool:
    return bool((one.source == other.source).all()) and same_tokens(one.tokens, other.tokens)


def same_tokens(one: Tokens, other: Tokens) -> bool:
    pairs = [(np.asarray(getattr(one, name)), np.asarray(getattr(other, name))) for name in DTYPES]
    return all(left.dtype == right.dtype and np.array_equal(left, right) for left, right in pairs)


@pytest.fixture
def prompts_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt and its window are two segments, as before they are joined: so that `pieces` finds both."""
    monkeypatch.setattr(EpisodeSource, "_join_prompt", staticmethod(lambda row, length: row))


def pieces(tokens: Tokens) -> list[Tokens]:
    """The segments of one row."""
    borders = [0, *(np.flatnonzero(np.diff(tokens.segment)) + 1).tolist(), len(tokens)]
    return [tokens[start:stop] for start, stop in itertools.pairwise(borders)]


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    mixture, again = make_mixture(), make_mixture()
    forward = [mixture.batch(step) for step in range(6)]
    assert all(same(again.batch(step), forward[step]) for step in reversed(range(6)))
    assert not same(forward[0], forward[1])
    assert not same(make_mixture(seed=1).batch(0), forward[0])
    part = mixture.batch(3, slice(1, 8, 3))
    assert part.tokens.ids.shape == (3, 128)
    assert (part.tokens.ids == forward[3].tokens.ids[1::3]).all()
    assert (part.source == forward[3].source[1::3]).all()


class Recorder:
    """A source that keeps the first draw of each row."""

    def __init__(self, name: str) -> None:
        self.name, self.drawn = name, list[float]()

    def sample(self, rng: np.random.Generator, length: int) -> Tokens:
        self.drawn.append(float(rng.random()))
        return STATE.encode_episode(state_episode(0, 20))[:length]

    def targets(self, length: int) -> Targets:
        return Targets("draws", 1)

    def describe(self) -> dict[str, Any]:
        return {}


def test_what_a_row_draws_does_not_depend_on_the_source_that_was_drawn_for_it() -> None:
    """With padded seeds the rare source's draws in row 0 all lay below 0.16."""
    rare, common = Recorder("rare"), Recorder("common")
    mixture = Mixture([rare, common], {"rare": 2, "common": 98}, vocabulary=VOCABULARY, context=8, batch_size=8)
    rare.drawn.clear()
    for step in range(3000):
        if mixture.batch(step, slice(0, 1)).source[0] == 0 and len(rare.drawn) == 25:
            break
    assert len(rare.drawn) == 25
    assert np.histogram(rare.drawn, bins=4, range=(0, 1))[0].min() >= 1


def test_no_two_rows_of_any_steps_and_seeds_draw_alike() -> None:
    drawn = list[float]()
    for seed in range(4):
        source = Recorder("only")
        mixture = Mixture([source], vocabulary=VOCABULARY, context=8, batch_size=8, seed=seed)
        source.drawn.clear()
        for step in range(16):
            mixture.batch(step)
        drawn += source.drawn
    assert len(drawn) == len(set(drawn)) == 4 * 16 * 8
    rows = np.array(drawn).reshape(4, 16, 8)
    for axis in range(3):
        one, other = (np.take(rows, index, axis).ravel() for index in (0, 1))
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(one.size)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_do_not_change_the_batches(workers: int) -> None:
    mixture = make_mixture()
    found = list(loader(mixture, 3, 12, workers))
    assert len(found) == 9
    assert all(same(batch, mixture.batch(step)) for step, batch in enumerate(found, 3))


@pytest.mark.parametrize("free", [0, 1 << 40])
def test_pipes_and_shared_memory_carry_the_same(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calico.datasets.mixture.shared_memory_free", lambda: free)
    mixture = make_mixture()
    batches = list(loader(mixture, 0, 4, 1))
    assert all(map(same, batches, map(mixture.batch, range(4))))
    assert batches[0].tokens.targets is None
    assert all(isinstance(getattr(batches[0].tokens, name), np.ndarray) for name in DTYPES if name != "targets")
    largest = make_mixture(frames=1).batch(0).tokens.nbytes
    assert 0.5 * mixture.most_bytes() < largest <= mixture.most_bytes()


def test_workers_read_files_that_the_parent_has_open(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path, {"name": "frames"}, group_bytes=30_000) as writer:
        for seed in range(6):
            writer.append(frame_episode(seed, 40))
    reader = EpisodeReader(tmp_path, cache_bytes=1)
    mixture = Mixture([EpisodeSource("frames", reader, FRAMES)], vocabulary=VOCABULARY, context=128, batch_size=4)
    expected = [mixture.batch(step) for step in range(8)]
    assert all(map(same, loader(mixture, 0, 8, 2), expected))


def test_an_error_in_a_worker_reaches_the_reader() -> None:
    broken = [*captions(3), Caption(name="x", image=np.zeros((4, 4, 9), np.uint8), captions=("a",))]
    with pytest.raises(ValueError, match="images must be uint8"):
        mixture = Mixture([DocumentSource("captions", broken, VOCABULARY, TEXT)], vocabulary=VOCABULARY, context=32,
                          batch_size=4)
        list(loader(mixture, 0, 20, 1))


def test_batches_in_order_for_a_trainer() -> None:
    mixture = make_mixture()
    batch = prefetched(mixture, 5, 8, 1)
    assert same(batch(5), mixture.batch(5))
    with pytest.raises(ValueError, match="step 9 was asked for, the next one is 6"):
        batch(9)
    assert same(batch(7), mixture.batch(7))
    with pytest.raises(ValueError, match="step 8 was asked for"):
        batch(8)


def test_rows_are_full_and_pieces_numbered() -> None:
    mixture = make_mixture(batch_size=16)
    for step in range(10):
        tokens = mixture.batch(step).tokens
        assert tokens.ids.shape == (16, 128)
        assert (tokens.kind == Kind.PAD).mean() < 0.01
        assert (tokens.segment[:, 0] == 0).all()
        assert np.isin(np.diff(tokens.segment, axis=1), [0, 1]).all()
        assert (tokens.kind == Kind.PATCH).sum() == len(tokens.patches) == len(tokens.channels) == len(tokens.intervals)


@pytest.mark.parametrize("name", ["state", "frames", "mission", "captions", "dialogues", "text"])
@pytest.mark.parametrize("context", [71, 128, 1024])
def test_each_source_fills_any_context(name: str, context: int) -> None:
    only: dict[str, Any] = {name: 1.0}
    batch = make_mixture(context=context, **only).batch(0)
    assert (batch.tokens.kind != Kind.PAD).mean() >= 0.99
    assert batch.tokens.loss_mask.any()


def test_shares_follow_the_weights() -> None:
    mixture = make_mixture(batch_size=16, state=5, frames=2.5, captions=0.1, text=0)
    assert mixture.names == ["state", "frames", "captions", "text"]
    counts = np.array([np.bincount(mixture.batch(step).source, minlength=4) for step in range(120)])
    expected = 16 * mixture.shares
    assert (counts >= np.floor(expected)).all()
    assert (counts <= np.ceil(expected)).all()                       # each batch by itself
    assert np.abs(counts.mean(0) - expected).max() < 0.1             # and all together
    first_rows = Counter(int(mixture.batch(step).source[0]) for step in range(120))
    assert len(first_rows) >= 2                                      # a row is not tied to a source


@pytest.mark.usefixtures("prompts_apart")
def test_windows_begin_at_timestep_borders_and_run_on() -> None:
    source = EpisodeSource("state", [state_episode(s, 5 + 10 * s) for s in range(8)], STATE)
    separator, starts = VOCABULARY.separator, []
    for i in range(60):
        row = source.sample(np.random.default_rng(i), 200)
        for piece in pieces(row):
            times = piece.timestep[::5]
            assert (piece.timestep == np.repeat(times, 5)[: len(piece)]).all()
            assert (np.diff(times) == 1).all()
            assert (piece.ids[3::5] == separator).all()
            starts.append(int(times[0]))
            seed = int(round(100 * float(invert(piece.ids[0]))))
            window = STATE.encode_episode(state_episode(seed, 5 + 10 * seed), times[0], times[-1] + 1)
            assert (piece.ids == window.ids[: len(piece)]).all()
            # a piece ends with its episode or with the row
            assert times[-1] == 4 + 10 * seed or piece is pieces(row)[-1] or piece.segment[0] == row.segment[-1] or (
                piece.segment[0] == 0), "only a prompt may stop earlier"
    assert 0 in starts
    assert len(set(starts)) > 10


def invert(token: int) -> float:
    """The value whose bin the token names."""
    return float(inverse_mu_law(decode_bins(np.array(token - VOCABULARY.continuous_start), 1024)))


def test_steps_are_seen_about_equally_often() -> None:
    """Also the first ones, which uniform starts alone would neglect."""
    rng, seen, lengths, steps = np.random.default_rng(0), [np.zeros(40), np.zeros(12)], [40, 12], 10
    for _ in range(20_000):
        index, start = draw_window(rng, np.cumsum(lengths), steps)
        seen[index][start:start + steps] += 1
    late = seen[0][10:].mean()
    assert np.abs(seen[0][10:] / late - 1).max() < 0.1
    assert (seen[0][:10] > 0.9 * late).all()
    assert (seen[0][:10] < 2.1 * late).all()
    assert draw_window(rng, np.array([1]), 1) == (0, 0)


def test_shuffled_steps_stand_alone_and_keep_their_action() -> None:
    """Every step is one of an episode, with the action that was taken in it; neighbours are no neighbours in time."""
    episodes = [state_episode(seed, 40) for seed in range(5)]
    source = EpisodeSource("state", episodes, STATE_ALONE)
    row = source.sample(np.random.default_rng(0), 1000)
    assert len(row) == 1000 and not same_tokens(row, source.sample(np.random.default_rng(1), 1000))
    steps = row.ids.reshape(-1, 5)
    times = row.timestep.reshape(-1, 5)
    assert (times == times[:, :1]).all() and len(set(times[:, 0])) > 30
    assert (np.diff(times[:, 0]) == 1).mean() < 0.1
    whole = {int(seed): STATE.encode_episode(episode).ids.reshape(-1, 5) for seed, episode in enumerate(episodes)}
    for step, time in zip(steps, times[:, 0], strict=True):
        assert any((step == tokens[time]).all() for tokens in whole.values())
    assert row.loss_mask.reshape(-1, 5).tolist() == [[False] * 4 + [True]] * 200
    assert (np.diff(row.segment.reshape(-1, 5), axis=1) == 0).all() and row.segment.tolist() == sorted(row.segment.tolist())
    assert len(set(row.segment.tolist())) > 100                        # few neighbours are the same step twice
    assert source.describe() != EpisodeSource("state", episodes, STATE).describe()


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.usefixtures("prompts_apart")
def test_each_piece_begins_with_its_mission_and_repeats_it(tmp_path: Path, on_disk: bool) -> None:
    """Prompts, windows and their cuts, with episodes in memory and read from files: text at a piece's first step and at each
    step that 5 divides; a prompt fills its room as nearly as whole steps can."""
    codec = TaskCodec(MISSION.observation_space, MISSION.action_space, VOCABULARY, TEXT, text_every=5)
    episodes: Any = [mission_episode(seed, 40) for seed in range(6)]
    if on_disk:
        with EpisodeWriter(tmp_path / "data", {"name": "mission"}, group_bytes=500) as writer:
            for episode in episodes:
                writer.append(episode)
        episodes = EpisodeReader(tmp_path / "data")
    source = EpisodeSource("mission", episodes, codec, prompt=PromptConfig(probability=1, length=50, loss=False))
    for i in range(30):
        row = source.sample(np.random.default_rng(i), 160)
        assert len(row) == 160
        first, *rest = pieces(row)
        assert 50 - 3 - 20 < len(first) <= 50 and not first.loss_mask.any()
        for piece in (first, *rest):
            steps = piece.timestep.tolist()
            texts = sorted(set(piece.timestep[piece.kind == Kind.TEXT].tolist()))
            assert texts == sorted({steps[0], *range(-(-steps[0] // 5) * 5, steps[-1] + 1, 5)})
    alone = TaskCodec(MISSION.observation_space, MISSION.action_space, VOCABULARY, TEXT, text_every=5, memory=False)
    shuffled = EpisodeSource("mission", episodes, alone).sample(np.random.default_rng(0), 160)
    for piece in pieces(shuffled):
        edges = [0, *(np.flatnonzero(np.diff(piece.timestep)) + 1).tolist()]
        assert (piece.kind[edges] == Kind.TEXT).all()


@pytest.mark.parametrize("memory", [True, False])
def test_labels_stay_with_their_steps(memory: bool) -> None:
    """Through windows, prompts, shuffled steps and rows that mix sources with and without labels."""
    labelled = [replace(e, labels={"": (e.actions[""] + 1) % 4}) for e in (state_episode(seed, 40) for seed in range(5))]
    sources = [EpisodeSource("labelled", labelled, STATE if memory else STATE_ALONE),
               EpisodeSource("plain", [state_episode(9, 40), state_episode(8, 40)], STATE)]
    mixture = Mixture(sources, vocabulary=VOCABULARY, context=53, batch_size=8, seed=1)
    batch = mixture.batch(0)
    assert set(batch.source.tolist()) == {0, 1}
    start, tokens = VOCABULARY.discrete_start, batch.tokens
    for source, ids, targets, mask in zip(batch.source, tokens.ids, tokens.labels, tokens.loss_mask, strict=True):
        asked = start + (ids[mask] - start + 1) % 4 if source == 0 else ids[mask]
        assert mask.sum() >= 10 and (targets[mask] == asked).all() and (targets[~mask] == ids[~mask]).all()


def test_patches_belong_to_their_tokens() -> None:
    source = EpisodeSource("frames", [frame_episode(s, 60) for s in range(2)], FRAMES)
    batch = Mixture([source], vocabulary=VOCABULARY, context=100, batch_size=4).batch(0).tokens
    patch = 0
    for row, column in np.ndindex(batch.ids.shape):
        if batch.kind[row, column] == Kind.PATCH:
            value = 3 * (batch.timestep[row, column] + 7 * batch.position[row, column])
            assert (batch.patches[patch, :3] == value).all()
            assert (batch.patches[patch, 3] == 0).all()
            assert batch.channels[patch] == 3
            assert batch.intervals[patch, 0] == 64 * (batch.position[row, column] // 2)
            patch += 1
    assert patch == len(batch.patches) > 200


@pytest.mark.usefixtures("prompts_apart")
def test_a_quarter_begins_with_prompts_and_half_of_these_are_ends() -> None:
    episodes, rows = [state_episode(s, 100) for s in range(50)], 2000
    source = EpisodeSource("state", episodes, STATE, prompt=PromptConfig(loss=False))   # prompts show by their mask
    firsts = [pieces(source.sample(np.random.default_rng(i), 200))[:2] for i in range(rows)]
    prompts = [(first, rest[0]) for first, *rest in firsts if not first.loss_mask.any()]
    assert 0.22 < len(prompts) / rows < 0.28
    assert 0.44 < np.mean([prompt.timestep[-1] == 99 for prompt, _ in prompts]) < 0.58
    assert {len(prompt) for prompt, _ in prompts} == {100}                             # half of the row
    assert all(prompt.ids[0] != window.ids[0] for prompt, window in prompts)            # another episode
    assert len({int(prompt.timestep[0]) for prompt, _ in prompts}) > 50
    only = EpisodeSource("state", [state_episode(0, 100)], STATE, prompt=PromptConfig(probability=1))
    assert len(pieces(only.sample(np.random.default_rng(1), 50))) <= 2   # nobody else to show


@pytest.mark.usefixtures("prompts_apart")
def test_prompts_show_every_other_episode_and_every_piece_of_it_equally_often() -> None:
    source = EpisodeSource("state", [state_episode(s, 60) for s in range(4)], STATE,
                           prompt=PromptConfig(probability=1, ends=0, length=100, loss=False))
    seen, starts = Counter[tuple[int, int]](), Counter[int]()
    for i in range(1200):
        prompt, window = pieces(source.sample(np.random.default_rng(i), 120))[:2]
        shown, other = (round(100 * invert(piece.ids[0])) for piece in (prompt, window))
        seen[other, shown] += 1
        assert len(prompt) == 100
        if shown == 1:
            starts[int(prompt.timestep[0])] += 1
    for other in range(4):
        counts = np.array([seen[other, shown] for shown in range(4) if shown != other])
        assert seen[other, other] == 0 and (np.abs(counts / counts.sum() - 1 / 3) < 0.1).all()
    assert set(starts) == set(range(41)) and max(starts.values()) < 4 * sum(starts.values()) / 41


def test_windows_read_from_a_file_are_those_of_the_episodes_in_memory(tmp_path: Path) -> None:
    episodes = [state_episode(s, 20 + 10 * s) for s in range(4)]
    with EpisodeWriter(tmp_path, {"name": "state"}, group_bytes=200) as writer:
        for episode in episodes:
            writer.append(episode)
    for codec in (STATE, STATE_ALONE):
        memory, file = (EpisodeSource("state", each, codec)
                        for each in (episodes, EpisodeReader(tmp_path)))
        rows = [(memory.sample(np.random.default_rng(i), 100), file.sample(np.random.default_rng(i), 100)) for i in range(40)]
        assert all(same_tokens(one, other) for one, other in rows)
        assert sum(one.timestep[0] > 0 for one, _ in rows) > 20


@pytest.mark.parametrize(("loss", "length", "expected"), [(True, 40, 40), (False, 40, 40), (True, 33, 30),
                                                          (True, 3, 5)])
@pytest.mark.usefixtures("prompts_apart")
def test_prompt_settings(loss: bool, length: int, expected: int) -> None:
    prompt = PromptConfig(probability=1, ends=1, length=length, loss=loss)
    source = EpisodeSource("state", [state_episode(s, 100) for s in range(5)], STATE, prompt=prompt)
    for i in range(20):
        first, second, *_ = pieces(source.sample(np.random.default_rng(i), 100))
        assert len(first) == expected
        assert first.timestep[-1] == 99
        assert first.loss_mask.sum() == (expected // 5 if loss else 0)
        assert second.loss_mask.sum() == len(second) // 5


def test_a_window_sees_its_prompt_and_its_first_token_is_no_target() -> None:
    """Where observed text is a target, too: nothing before the window predicts how it begins."""
    episodes = [mission_episode(seed, 40) for seed in range(4)]
    source = EpisodeSource("mission", episodes, MISSION, prompt=PromptConfig(probability=1, length=50))
    plain = EpisodeSource("mission", episodes, MISSION, prompt=PromptConfig(probability=0))
    for i in range(20):
        row = source.sample(np.random.default_rng(i), 160)
        first = pieces(row)[0]
        borders = [at for at in range(1, len(first)) if first.timestep[at] != first.timestep[at - 1]
                   and first.timestep[at] != first.timestep[at - 1] + 1]
        assert row.segment[0] == 0 and (np.diff(row.segment) >= 0).all() and set(np.diff(row.segment).tolist()) <= {0, 1}
        assert len(first) > 50 and not any(first.loss_mask[at] for at in borders)
        assert pieces(plain.sample(np.random.default_rng(i), 160))[0].loss_mask[0]      # text is


@pytest.mark.parametrize("values", [{"probability": 1.5}, {"ends": -0.1}, {"length": 0}])
def test_wrong_prompt_settings_are_named(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"prompt.{next(iter(values))}="):
        PromptConfig(**values)


def test_a_row_of_documents_reads_as_written() -> None:
    documents = captions(4)
    source = DocumentSource("captions", documents, VOCABULARY, TEXT)
    row = source.sample(np.random.default_rng(0), 300)
    drawn = set()
    for piece in pieces(row)[:-1]:
        assert piece.kind[:4].tolist() == [Kind.PATCH] * 4
        assert piece.ids[4] == VOCABULARY.separator
        assert piece.ids[-1] == VOCABULARY.end
        found = [d for d in documents if (d.image[:16, :16].transpose(2, 0, 1) == piece.patches[0, :3]).all()]
        caption = TEXT.decode(piece.ids[5:-1] - VOCABULARY.text_start)
        assert caption in found[0].captions
        assert piece.loss_mask.tolist() == [False] * 5 + [True] * (len(piece) - 5)
        drawn.add(caption)
    assert "a ball" in drawn
    assert len(drawn) > 1


def test_mirrored_pictures_are_half_of_those_seen() -> None:
    documents = captions(3)
    plain, source = (DocumentSource("captions", documents, VOCABULARY, TEXT, mirror=mirror) for mirror in (False, True))
    known = {d.image[:16, :16].transpose(2, 0, 1).tobytes(): d for d in documents}
    mirrored = {d.image[:16, ::-1][:, :16].transpose(2, 0, 1).tobytes(): d for d in documents}
    seen = [piece for piece in pieces(source.sample(np.random.default_rng(0), 3000))[:-1]]
    flipped = [np.ascontiguousarray(piece.patches[0, :3]).tobytes() in mirrored for piece in seen]
    assert 0.35 < np.mean(flipped) < 0.65
    for piece, is_mirrored in zip(seen, flipped, strict=True):
        document = (mirrored if is_mirrored else known)[np.ascontiguousarray(piece.patches[0, :3]).tobytes()]
        assert TEXT.decode(piece.ids[5:-1] - VOCABULARY.text_start) in document.captions
    assert source.describe() == plain.describe() | {"mirror": True}


def test_cropped_pictures_are_parts_of_the_whole() -> None:
    ramp = np.zeros((32, 64, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(64) * 4, np.arange(32)[:, None] * 8    # the colour tells the place
    source = DocumentSource("captions", [Caption(image=ramp, captions=("here",), name="ramp")], VOCABULARY, TEXT, crop=0.5)
    row = source.sample(np.random.default_rng(0), 3000)
    assert (source.sample(np.random.default_rng(0), 3000).patches == row.patches).all()
    widths, heights, lefts = [], [], []
    for piece in pieces(row)[:-1]:
        assert piece.kind[:8].tolist() == [Kind.PATCH] * 8
        patches = piece.patches.astype(float)
        lefts.append(patches[0, 0].min() / 4)
        widths.append((patches[3, 0].max() - patches[0, 0].min()) / 4)
        heights.append((patches[4:, 1].max() - patches[:4, 1].min()) / 8)
    assert min(widths) > 29 and max(widths) < 64 and np.ptp(widths) > 20 and np.ptp(lefts) > 15
    np.testing.assert_allclose(heights, np.array(widths) / 2, atol=2)   # the proportions stay
    assert source.describe()["crop"] == 0.5


def test_a_dialogue_that_is_longer_than_a_row_is_seen_to_its_end() -> None:
    said = [f"say {n}" for n in range(30)]
    long = Dialogue(messages=[{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)])
    source = DocumentSource("d", [long], VOCABULARY, TEXT)
    rows = [source.sample(np.random.default_rng(seed), 60) for seed in range(60)]
    assert all(row.ids[0] in (VOCABULARY.user, VOCABULARY.assistant) and len(row) == 60 for row in rows)
    assert len({tuple(row.ids) for row in rows}) > 10
    seen = " ".join(TEXT.decode(row.ids[row.kind == Kind.TEXT] - VOCABULARY.text_start) for row in rows)
    assert all(text in seen for text in said)


def test_text_windows_begin_at_words_and_end_with_their_text() -> None:
    long = " ".join(SENTENCES)
    source = TextSource("text", [long, "a short one"], VOCABULARY, TEXT)
    ended = 0
    for i in range(50):
        for piece in pieces(source.sample(np.random.default_rng(i), 64)):
            ids = piece.ids.tolist()
            ends = ids[-1] == VOCABULARY.end
            words = TEXT.decode(np.array(ids[: len(ids) - ends]) - VOCABULARY.text_start)
            text = long if words in long else "a short one"
            assert words in text
            assert text.startswith(words) or words.startswith(" ")
            assert text.endswith(words) or not ends
            ended += ends
            assert piece.loss_mask.all()
    assert ended > 5


def test_state_identifies_the_stream() -> None:
    mixture = make_mixture()
    state = json.loads(json.dumps(mixture.state()))
    make_mixture().check_state(state)
    assert make_mixture().fingerprint() == mixture.fingerprint()
    assert len(json.dumps(state)) < 5000
    for other, message in [
        (make_mixture(seed=3), "seed is 3 but was 0"),
        (make_mixture(context=64), "context is 64 but was 128"),
        (make_mixture(state=1, frames=2, mission=1, captions=1, dialogues=1, text=1),
         "sources.state.weight is 1.0 but was 4.0"),
        (make_mixture(state=4), r'order is \["state"\] but was'),
    ]:
        with pytest.raises(ValueError, match=message):
            other.check_state(state)
        assert other.fingerprint() != mixture.fingerprint()


def test_a_run_of_the_old_order_goes_on_in_it() -> None:
    """The digest was taken from the last version that drew from padded seeds."""
    mixture = make_mixture(seed=5, state=3, frames=1)
    new = digest_of(mixture.batch(7))
    mixture.check_state(mixture.state() | {"format": 1})
    assert digest_of(mixture.batch(7)) == "96bca99cf5bfa7ece581a7a6c2641e399005faa12255163b06d1a620faef3a77" != new
    assert mixture.state()["format"] == 1                     # and its next checkpoint says so
    mixture.check_state(mixture.state() | {"format": 2})
    assert digest_of(mixture.batch(7)) == new
    with pytest.raises(ValueError, match="format is 2 but was 3"):
        mixture.check_state(mixture.state() | {"format": 3})


def digest_of(batch: Batch) -> str:
    return hashlib.sha256(batch.source.tobytes() + batch.tokens.ids.tobytes()).hexdigest()


def test_state_sees_changed_data(tmp_path: Path) -> None:
    def make(path: Path, seed: int, prompt: PromptConfig | None = None) -> Mixture:
        with EpisodeWriter(path, {"name": "state"}) as writer:
            writer.append(state_episode(seed, 10))
            writer.append(state_episode(seed + 1, 10))
        source = EpisodeSource("s", EpisodeReader(path), STATE, prompt=prompt)
        return Mixture([source], vocabulary=VOCABULARY, context=32, batch_size=2)

    state = make(tmp_path / "a", 1).state()
    make(tmp_path / "b", 1).check_state(state)         # the same data elsewhere
    with pytest.raises(ValueError, match=r"sources.s.data is .* but was .*; restore them, or start a new"):
        make(tmp_path / "c", 2).check_state(state)
    with pytest.raises(ValueError, match="sources.s.prompt.probability is 0 but was 0.25"):
        make(tmp_path / "d", 1, NO_PROMPT).check_state(state)


def test_what_cannot_be_mixed_is_named() -> None:
    state = EpisodeSource("state", [state_episode(1, 10)], STATE)
    arguments: dict[str, Any] = {"vocabulary": VOCABULARY, "context": 64, "batch_size": 2}
    wrong: list[tuple[dict[str, float], str]] = [
        ({"state": 1, "stat": 1}, "unknown source 'stat'; there are state"),
        ({"state": -1}, "weight of source 'state' is -1"),
        ({"state": float("nan")}, "weight of source 'state' is nan"),
        ({"state": 0}, r"all weights are zero \(state\)"),
        ({}, "source 'state' has no weight"),
    ]
    for weights, message in wrong:
        with pytest.raises(ValueError, match=message):
            Mixture([state], weights, **arguments)
    with pytest.raises(ValueError, match="has no sources"):
        Mixture([], None, **arguments)
    with pytest.raises(ValueError, match="two sources are called 'state'"):
        Mixture([state, state], None, **arguments)
    with pytest.raises(ValueError, match="'state': a step takes up to 5 tokens, which does not fit the context of 4"):
        Mixture([state], None, **(arguments | {"context": 4}))
    for name, value in [("context", 0), ("batch_size", 0), ("seed", -1)]:
        with pytest.raises(ValueError, match=f"{name}={value} is too small"):
            Mixture([state], None, **(arguments | {name: value}))
    with pytest.raises(ValueError, match="source 'e' is empty: none of its 1 episodes has a step"):
        EpisodeSource("e", [state_episode(1, 0)], STATE)
    with pytest.raises(ValueError, match="source 'e' is empty"):
        EpisodeSource("e", [state_episode(1, 3)], STATE, select=[])
    with pytest.raises(ValueError, match="source 'd' is empty: it has no documents"):
        DocumentSource("d", [], VOCABULARY, TEXT)
    with pytest.raises(ValueError, match="source 't' is empty: none of its 2 texts has a character"):
        TextSource("t", ["", ""], VOCABULARY, TEXT)


def test_empty_episodes_are_never_drawn() -> None:
    source = EpisodeSource("e", [state_episode(0, 0), state_episode(1, 3), state_episode(2, 0)], STATE)
    row = source.sample(np.random.default_rng(0), 60)
    assert {round(100 * invert(piece.ids[0])) for piece in pieces(row)} == {1}


# ---- targets

def noise(seed: int) -> Episode:
    return replace(state_episode(seed, 20), demonstrated=np.zeros(20, bool))


def mute(number: int) -> list[Dialogue]:
    return [Dialogue(messages=[{"role": "user", "content": f"say {n}"}]) for n in range(number)]


def mixture_of(source: Source, context: int = 64) -> Mixture:
    return Mixture([source], vocabulary=VOCABULARY, context=context, batch_size=4)


def documents(items: list[Any]) -> DocumentSource:
    return DocumentSource("d", items, VOCABULARY, TEXT)


def pictures(patches: int) -> list[Caption]:
    return [Caption(name="x", image=np.zeros((16, 16 * patches, 3), np.uint8), captions=("a ball",))]


@pytest.mark.parametrize(("source", "message"), [
    (documents(pictures(64)), r"'d' has nothing to learn: 1 of 1 documents have no target in a row of 64 tokens; "
                              r"what is learnt stands behind 65 tokens or more: raise backbone.context, or lower .*max_side"),
    (documents(mute(30)), "30 of 30 documents have no target in a row of 64 tokens; only texts, captions and what an "),
    (documents(mute(9000)), r"2,000 of 2,000 documents \(of 9,000\) have no target"),
    (EpisodeSource("e", [noise(n) for n in range(3)], STATE), "'e' has nothing to learn: 3 of 3 episodes .*with an expert"),
])
def test_a_source_without_targets_is_refused_at_opening(source: Source, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixture_of(source)
    other = TextSource("t", ["some words"], VOCABULARY, TEXT)
    Mixture([source, other], {source.name: 0, "t": 1}, vocabulary=VOCABULARY, context=64, batch_size=4)   # it takes no part


def test_documents_without_targets_are_counted_and_no_row_is_empty() -> None:
    mixture = mixture_of(documents([*pictures(70), *pictures(70), *mute(2), "a ball"]))
    assert mixture.remarks == [
        "source 'd': 4 of 5 documents have no target in a row of 64 tokens; what is learnt stands behind 71 tokens or more: "
        "raise backbone.context, or lower the source's max_side (pictures) or max_seconds (sounds)"]
    assert all(mixture.batch(step).tokens.loss_mask.any(axis=1).all() for step in range(20))
    assert not mixture_of(documents(pictures(62))).remarks


def test_a_rare_document_with_targets_is_found() -> None:
    mixture = mixture_of(documents([*mute(500), "a ball", *mute(500)]))
    assert mixture.remarks[0].startswith("source 'd': 1,000 of 1,001 documents have no target")


def test_a_reader_tells_which_actions_were_demonstrated(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path, {"name": "state"}, group_bytes=200) as writer:
        for episode in (noise(1), state_episode(2, 30), noise(3)):
            writer.append(episode)
    reader = EpisodeReader(tmp_path)
    assert data_fingerprint(reader) == reader.fingerprint             # nothing is read for it
    assert [reader.demonstrated(n).tolist() for n in range(3)] == [[False] * 20, [True] * 30, [False] * 20]
    mixture = mixture_of(EpisodeSource("e", reader, STATE, prompt=NO_PROMPT))
    assert mixture.remarks[0].startswith("source 'e': 2 of 3 episodes have no target")


def test_prompts_that_fill_every_row_are_refused() -> None:
    filled = PromptConfig(probability=1, length=64, loss=False)
    with pytest.raises(ValueError, match="'e': 100 rows of 60 tokens were drawn for step 0, none has a target; raise"):
        mixture_of(EpisodeSource("e", [state_episode(n, 50) for n in range(3)], STATE, prompt=filled), 60)


class Breaking(list[Caption]):
    """Documents of which some cannot be read."""

    broken: frozenset[int] = frozenset()

    def __getitem__(self, index: Any) -> Any:
        if index in self.broken:
            raise ValueError(f"line {index}: image {index!r} is cut short")
        return super().__getitem__(index)

    fingerprint = "breaking"


def test_a_broken_document_is_passed_over_and_the_stream_goes_on_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = Breaking(captions(40))
    documents.broken = frozenset({17})

    def batches(steps: range) -> list[Tokens]:
        source = DocumentSource("captions", documents, VOCABULARY, TEXT)
        mixture = Mixture([source], vocabulary=VOCABULARY, context=128, batch_size=4, seed=3)
        return [mixture.batch(step).tokens for step in steps]

    with pytest.warns(UserWarning, match="line 17: image 17 is cut short; passed over, 1 so far"):
        whole = batches(range(8))
    with pytest.warns(UserWarning, match="passed over"):
        resumed = batches(range(4, 8))
    assert all(same_tokens(one, other) for one, other in zip(whole[4:], resumed, strict=True))
    documents.broken = frozenset(range(20))
    with pytest.raises(ValueError, match="source 'captions': 3 of 40 documents cannot be read, at most 5% may be passed over; "
                                         "the last"), \
            pytest.warns(UserWarning):
        batches(range(8))


# ---- what identifies data

def test_equal_data_in_memory_have_one_fingerprint_and_others_another() -> None:
    def fresh(word: str) -> Episode:
        words = np.array(["".join([word[:2], word[2:]]) for _ in range(4)] + [None], object)[:-1]     # equal, not the same
        return replace(mission_episode(0, 3), observations={"mission": words, "place": np.arange(4)})

    one, again, other = (data_fingerprint([fresh(word)]) for word in ("go there", "go there", "go where"))
    assert one == again != other
    plain = mission_episode(0, 3)
    changed = [replace(plain, seed=1), replace(plain, rewards=plain.rewards.astype(np.float32)),
               replace(plain, actions={"": plain.actions[""][::-1]}), replace(plain, terminated=False)]
    assert len({data_fingerprint([episode]) for episode in (plain, *changed)}) == 5
    assert data_fingerprint(["a", "b"]) != data_fingerprint(["b", "a"]) != data_fingerprint(["b"])


def test_texts_of_one_character_count() -> None:
    source = TextSource("t", ["", "a"], VOCABULARY, TEXT)
    row = source.sample(np.random.default_rng(0), 20)
    assert TEXT.decode(row.ids[row.kind == Kind.TEXT] - VOCABULARY.text_start).startswith("a")
    assert source.targets(20).total == 1


def test_two_long_values_are_shown_where_they_differ() -> None:
    paths = [{"path": f"data/{name}", "weight": 1.0} for name in ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "Pong")]
    said = first_difference({"sources": paths}, {"sources": [*paths[:2], {**paths[2], "weight": 2.5}, paths[3]]})
    assert said and '"weight": 1.0' in said and '"weight": 2.5' in said and len(said) < 160
    assert first_difference({"a": 1}, {"a": 2}) == "a is 1 but was 2"
    said = first_difference({"a": "x" * 100 + "a"}, {"a": "x" * 100 + "b"})
    assert said and 'xa" but was ...' in said and said.endswith('xb"')
