"""Films: scores and speed stand in the picture, MP4 and GIF hold what was shown, and rows keep to one clock."""

import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image, ImageSequence

from calico.agent.agent import Agent
from calico.envs.registry import Task, make
from calico.envs.runner import EnvironmentFault, rollout
from calico.scripts.common import film
from calico.scripts.common.film import (
    GOLD,
    MAX_FILM_FRAMES,
    MAX_FILM_SIDE,
    REEL_SIDE,
    STRIP,
    WHITE,
    EpisodeFilm,
    Film,
    FilmGrid,
    SpeedMeter,
    encode_gif,
    encode_mp4,
    film_episodes,
    fit,
    reel_gif,
    side_by_side,
    thin,
)

from ...conftest import SmallRun


def plain_take(length: int, colour: int, height: int = 50, width: int = 81) -> EpisodeFilm:
    """An episode of `length` steps, a reward of 1 each, all in one grey."""
    return EpisodeFilm([np.full((height, width, 3), colour, np.uint8)] * (length + 1), np.arange(length + 1.0))


def holds(part: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """Whether a pixel is of about this colour: thin strokes are blended with their ground."""
    return bool((np.abs(part.astype(int) - colour) < 70).all(-1).any())


# ---- reels -----------------------------------------------------------------------------------------------------------

def test_rows_stand_side_by_side_with_their_scores() -> None:
    reel = FilmGrid("Test-v0", [plain_take(4, 100), plain_take(2, 150), plain_take(4, 200)], [None, 1.0, 2.0, 3.0, 4.0], 10)
    sheets = list(reel.sheets())
    assert len(sheets) == len(reel) == 5
    assert {sheet.shape for sheet in sheets} == {(104 + STRIP, 166, 3)}       # 2 x 50 and 2 x 81, each with a gap of 4
    for sheet in sheets:
        assert [int(sheet[place][0]) for place in ((45, 60), (45, 140), (100, 60))] == [100, 150, 200]
    tiles = [sheet[:50, 85:] for sheet in sheets]                             # of the second episode, which ends at step 2
    assert [holds(tile, WHITE) for tile in tiles] == [True, True, False, False, False]
    assert [holds(tile, GOLD) for tile in tiles] == [False, False, True, True, True]
    assert not np.array_equal(tiles[0], tiles[1]) and not np.array_equal(tiles[1], tiles[2])   # 0, 1, 2
    np.testing.assert_array_equal(tiles[2], tiles[4])


def test_the_strip_tells_the_speed_once_it_is_known() -> None:
    sheets = list(FilmGrid("Test-v0", [plain_take(2, 0, 40, 300)], [None, 123.0, 4567.0], 10).sheets())
    right = [sheet[-STRIP:, 200:] for sheet in sheets]
    assert [holds(part, WHITE) for part in right] == [False, True, True] and not np.array_equal(right[1], right[2])


def test_a_long_name_leaves_room_for_the_speed() -> None:
    short, long = (next(iter(FilmGrid(name, [plain_take(1, 0)], [1234.0, 0.0], 10).sheets())) for name in ("A", "A" * 99))
    np.testing.assert_array_equal(short[-STRIP:, -64:], long[-STRIP:, -64:])


def test_frames_are_made_to_fit() -> None:
    checks = np.array([[0, 255], [255, 0]], np.uint8).repeat(3).reshape(2, 2, 3)
    large = fit(checks, 7)
    assert large.shape == (6, 6, 3) and set(np.unique(large)) == {0, 255} and (large[:3, :3] == checks[0, 0]).all()
    assert fit(np.zeros((400, 600, 3), np.uint8), 240).shape == (160, 240, 3)
    assert fit(np.zeros((2, 999, 3), np.uint8), 100).shape == (1, 100, 3)


class Left:
    """Pushes the cart to the left; reads ten tokens a row and step."""

    tokens_read = 0

    def reset(self, row: int, seed: int, env: gym.Env | None = None) -> None:
        pass

    def act(self, observations: Sequence[Any], rows: Sequence[int]) -> list[Any]:
        self.tokens_read += 10 * len(rows)
        return [np.int64(0) for _ in rows]


def test_episodes_are_filmed_together() -> None:
    seeds = [7, 3, 5]
    reel = film_episodes("CartPole-v1", Left(), seeds)   # type: ignore[arg-type]
    played = {e.seed: e for e in rollout("CartPole-v1", Left(), seeds, record=False)}
    assert reel.task == "CartPole-v1" and reel.fps == 30                      # CartPole's own 50, slowed down
    for seed, take in zip(seeds, reel.takes, strict=True):
        assert len(take.frames) == len(played[seed]) + 1 and take.scores.tolist() == [*range(len(played[seed]) + 1)]
        assert max(take.frames[0].shape) == REEL_SIDE // 2 and not np.array_equal(take.frames[0], take.frames[-1])
    assert reel.rates[0] is None and all(rate and rate > 0 for rate in reel.rates[1:]) and len(reel.rates) == len(reel)


def test_an_episode_that_fails_is_left_out() -> None:
    class Faulty(gym.Wrapper):
        def step(self, action: Any) -> Any:
            if self.np_random_seed in self.broken:   # type: ignore[attr-defined]
                raise OSError("the game is gone")
            return self.env.step(action)

    def faulty(*seeds: int) -> Any:
        def make_faulty(task: Task, render: bool) -> gym.Env:
            env = Faulty(make(task, render))
            env.broken = seeds   # type: ignore[attr-defined]
            return env
        return make_faulty

    assert len(film_episodes("CartPole-v1", Left(), [0, 1], make=faulty(0)).takes) == 1   # type: ignore[arg-type]
    with pytest.raises(EnvironmentFault, match="CartPole-v1, seed 0, step 1: step raised OSError: the game is gone"):
        film_episodes("CartPole-v1", Left(), [0, 1], make=faulty(0, 1))   # type: ignore[arg-type]


def test_the_meter_counts_tokens_over_time_in_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 100.0, 103.0])       # the hundred seconds between the steps belong to the environments
    monkeypatch.setattr(film, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    meter = SpeedMeter(Left())   # type: ignore[arg-type]
    assert meter.tokens_per_second is None
    meter.act([None] * 3, range(3))
    assert meter.tokens_per_second == 15
    meter.act([None], [0])
    assert meter.tokens_per_second == 8


def test_a_policy_counts_the_tokens_that_it_reads(small_run: SmallRun) -> None:
    agent = Agent.load(small_run.run)
    policy = agent.policy("CartPole-v1")
    lengths = [len(e) for e in rollout("CartPole-v1", policy, range(3), record=False)]
    least, most = agent.codec("CartPole-v1").tokens_per_step
    assert least == most and policy.tokens_read == sum(lengths) * (most - 1)     # without memory no action is read


# ---- MP4 -------------------------------------------------------------------------------------------------------------

def test_an_mp4_holds_the_frames(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    shades = [np.full((64, 48, 3), 40 * number, np.uint8) for number in range(6)]
    encode_mp4(iter(shades), tmp_path / "a.mp4", fps=12.4, hold=0.5)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 12)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 6 + 6 and frames[0].shape == (64, 48, 3)
    for shade, frame in zip([*shades, *shades[-1:] * 6], frames, strict=True):
        assert np.abs(frame.astype(int) - shade).mean() < 4
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_film_that_fails_leaves_no_file(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with pytest.raises(ValueError):
        encode_mp4([np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)], tmp_path / "a.mp4", fps=10)
    assert not list(tmp_path.iterdir())


# ---- GIF -------------------------------------------------------------------------------------------------------------

def decode_gif(data: bytes) -> tuple[np.ndarray, list[int]]:
    """Frames uint8 (time, height, width, 3) and durations in milliseconds."""
    gif = Image.open(io.BytesIO(data))
    frames = [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]
    return np.stack([f for f, _ in frames]), [d for _, d in frames]


def test_a_long_reel_keeps_its_speed_as_a_gif() -> None:
    length = 2 * MAX_FILM_FRAMES + 3
    frames = [np.full((4, 4, 3), step % 256, np.uint8) for step in range(length + 1)]
    reel = FilmGrid("Test-v0", [EpisodeFilm(frames, np.arange(length + 1.0))], [1.0] * (length + 1), 30)
    decoded, durations = decode_gif(reel_gif(reel))
    assert len(decoded) <= MAX_FILM_FRAMES + 1 and sum(durations) - 1000 == pytest.approx(1000 * length / 30, rel=0.02)
    np.testing.assert_allclose(decoded[-1].astype(int), list(reel.sheets())[-1], atol=8)      # 256 colours at most


def test_few_colours_come_back_exactly() -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (200, 3), dtype=np.uint8)
    frames = colours[rng.integers(0, 200, (5, 12, 9))]   # (5, 12, 9, 3)
    decoded, durations = decode_gif(encode_gif(frames, fps=10, hold=0.5))
    np.testing.assert_array_equal(decoded, frames)
    assert durations == [100, 100, 100, 100, 600]


def test_many_colours_stay_close() -> None:
    x = np.linspace(0, 255, 64).astype(np.uint8)
    picture = np.stack(np.broadcast_arrays(x[:, None], x[None], np.uint8(128)), -1)   # 4,096 colours
    decoded, _ = decode_gif(encode_gif(np.stack([picture, picture[::-1]]), fps=20))
    assert np.abs(decoded[0].astype(int) - picture).mean() < 8


@pytest.mark.parametrize("shape, dtype", [((3, 4, 4), np.uint8), ((0, 4, 4, 3), np.uint8), ((1, 4, 4, 3), np.float32)])
def test_wrong_frames_are_named(shape: tuple[int, ...], dtype: type) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        encode_gif(np.zeros(shape, dtype))


@pytest.mark.parametrize("fps", [0, -1, 60])
def test_wrong_speed_is_named(fps: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        encode_gif(np.zeros((1, 4, 4, 3), np.uint8), fps=fps)


def test_long_and_large_films_are_thinned() -> None:
    frames = np.zeros((MAX_FILM_FRAMES + 51, 2, MAX_FILM_SIDE + 2, 3), np.uint8)
    frames[-1] = 255
    small = thin(frames)
    assert small.shape == (MAX_FILM_FRAMES, 1, (MAX_FILM_SIDE + 2) // 2, 3)
    assert small[-1].min() == 255   # the end of the episode stays


def test_films_of_several_tasks_share_a_grid() -> None:
    films = [Film(task="Test-v0", frames=np.full((length, 20, 10 * length, 3), 50 * length, np.uint8), score=0.0)
             for length in (1, 2, 3)]
    sheet = side_by_side(films, columns=2, side=32, frames=4)
    assert sheet.shape == (4, 64, 64, 3)
    assert [int(sheet[3, y, x, 0]) for y, x in ((16, 16), (16, 48), (48, 16), (48, 48))] == [50, 100, 150, 255]
