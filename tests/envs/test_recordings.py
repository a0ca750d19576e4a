"""Replay: a recorded game comes out as it was, in Calico's view; shared recordings come out as their authors say."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calico.envs.experts import episodes_of, make_player, task_for
from calico.envs.recordings import FRAME_CAP, recording
from calico.envs.registry import get_task
from calico.envs.runner import rollout

TASK = get_task("ALE/Freeway-v5")
GAMES = ("Freeway", "Pong", "Breakout", "RoadRunner", "Kangaroo", "Seaquest", "MsPacman", "Qbert", "Frostbite", "SpaceInvaders")


def record(path: Path, noops: tuple[int, ...], whole: int | None = None) -> list[float]:
    """Play Freeway in the bare emulator after so many no-op frames, 160 steps of four frames each; returns the scores.

    Args:
        whole: how many of the episodes are said to have been played to their end (all but the last).
    """
    import ale_py
    from ale_py import roms

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", 77)
    rom = roms.get_rom_path("freeway")
    assert rom is not None
    ale.loadROM(rom)
    buttons = ale.getMinimalActionSet()
    lists, scores = [], []
    for number, idle in enumerate(noops):
        steps = np.random.default_rng(number).choice(3, 160, p=(0.1, 0.8, 0.1))
        actions = [0] * idle + [int(action) for action in steps for _ in range(4)]
        ale.reset_game()
        scores.append(float(sum(ale.act(buttons[action]) for action in actions)))
        lists.append(actions)
    lengths = [len(actions) for actions in lists]
    np.savez(path, actions=np.array(sum(lists, []), np.uint8), episode_start=np.cumsum([0, *lengths[:-1]]),
             episode_length=lengths, episode_terminal=np.arange(len(noops)) < (len(noops) if whole is None else whole))
    return scores


def test_a_replay_scores_what_the_recording_did(tmp_path: Path) -> None:
    """The game is not over after 160 steps, so the episodes are cut there; the no-op frames are not held for four."""
    scores = record(tmp_path / "Freeway.npz", (5, 30, 2))
    spec = f"replay:{tmp_path}"                                   # the folder: the file is named after the game
    task = task_for(TASK, spec)
    assert episodes_of(task, spec) == 3 and task.kwargs["noop_starts"] == (5, 30, 2)
    episodes = {e.seed: e for e in rollout(task, make_player(task, spec), range(3), max_steps=160)}
    assert [episodes[seed].score for seed in range(3)] == scores and max(scores) > 1
    expected = [np.random.default_rng(seed).choice(3, 160, p=(0.1, 0.8, 0.1)) for seed in range(3)]
    for seed in range(3):
        np.testing.assert_array_equal(episodes[seed].actions[""], expected[seed])
        assert episodes[seed].observations[""].shape == (161, 64, 64, 2)


def test_the_recording_decides_the_settings_and_the_seed_only_which_episode(tmp_path: Path) -> None:
    record(tmp_path / "any.npz", (5, 3))
    task = task_for(TASK, f"replay:{tmp_path}/any.npz")
    assert task.view == {"height": 64, "width": 64, "frames": 2, "frame_skip": 4, "repeat_action_probability": 0.0,
                         "noop_max": 0, "max_frames": FRAME_CAP}
    assert task_for(TASK, "expert") is TASK
    with pytest.raises(ValueError, match="a recording is played in its own environment"):
        next(iter(rollout(TASK, make_player(TASK, f"replay:{tmp_path}/any.npz"), [0])))


def test_an_episode_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    record(tmp_path / "Freeway.npz", (5, 3, 1), whole=2)
    task = task_for(TASK, f"replay:{tmp_path}")
    assert episodes_of(TASK, f"replay:{tmp_path}") == 2
    with pytest.raises(ValueError, match="seed 2: there are 2 recorded episodes"):
        next(iter(rollout(task, make_player(task, f"replay:{tmp_path}"), [2])))


def test_actions_that_change_at_any_frame_are_played_frame_by_frame(tmp_path: Path) -> None:
    actions = np.array([0, 0, 0, 1, 1, 2, 2, 2, 0, 1], np.uint8)
    np.savez(tmp_path / "Freeway.npz", actions=actions)
    spec = f"replay:{tmp_path}"
    task = task_for(TASK, spec)
    assert (task.view["frame_skip"], task.view["max_frames"], episodes_of(TASK, spec)) == (1, 10, 1)
    (episode,) = rollout(task, make_player(task, spec), [0])
    assert episode.actions[""].tolist() == actions[3:].tolist()   # the idle start belongs to the environment
    assert episode.truncated and not episode.terminated


def test_a_game_that_outlives_its_recording_is_not_taken_for_it(tmp_path: Path) -> None:
    record(tmp_path / "Freeway.npz", (4,))
    task = task_for(TASK, f"replay:{tmp_path}")
    with pytest.raises(ValueError, match="the recording of episode 0 has ended and the game has not"):
        next(iter(rollout(task, make_player(task, f"replay:{tmp_path}"), [0])))


def test_another_games_actions_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "Pong.npz", actions=np.array([0, 0, 0, 0, 5, 5, 5, 5], np.uint8))
    task = task_for(TASK, f"replay:{tmp_path}/Pong.npz")
    with pytest.raises(ValueError, match="action 5, but ALE/Freeway-v5 has 3"):
        next(iter(rollout(task, make_player(task, f"replay:{tmp_path}/Pong.npz"), [0])))


@pytest.mark.parametrize(("arrays", "says"), [
    ({"moves": np.zeros(4, np.uint8)}, "needs an array `actions`"), ({"actions": np.zeros(4)}, "needs an array `actions`"),
    ({"actions": np.zeros(4, np.uint8), "episode_start": [0, 2], "episode_length": [2], "episode_terminal": [True]},
     "differ in length"),
    ({"actions": np.zeros(4, np.uint8), "episode_start": [0], "episode_length": [9], "episode_terminal": [True]},
     "episode 0 is not within its 4 frames"),
    ({"actions": np.zeros(4, np.uint8), "episode_start": [0], "episode_length": [4], "episode_terminal": [False]},
     "holds no whole episode"),
])
def test_a_file_that_is_no_recording_is_named(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    np.savez(tmp_path / "Freeway.npz", **arrays)
    with pytest.raises(ValueError, match=f"Freeway.npz is no recording: .*{says}"):
        recording(TASK, str(tmp_path))


def test_a_missing_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file .*Freeway.npz"):
        task_for(TASK, f"replay:{tmp_path}")
    with pytest.raises(ValueError, match="recordings are of Atari games, CartPole-v1 is none"):
        task_for(get_task("CartPole-v1"), f"replay:{tmp_path}")


SHARED = Path(os.environ.get("CALICO_SHARED_DATA", "shared/data")) / "experts"


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
def test_every_whole_episode_of_a_shared_recording_comes_out_as_it_was(game: str) -> None:
    folder = SHARED / "atari_rainbow"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set CALICO_SHARED_DATA")
    with np.load(folder / f"{game}.npz") as file:
        whole = file["episode_terminal"] | (file["episode_length"] >= FRAME_CAP)
        expected = file["episode_return"][whole].tolist()
    task, spec = get_task(f"ALE/{game}-v5"), f"replay:{folder}"
    task = task_for(task, spec)
    assert task.view["frame_skip"] == 4
    found = {e.seed: e.score for e in rollout(task, make_player(task, spec), range(len(expected)), num_envs=1, record=False)}
    assert [found[seed] for seed in range(len(expected))] == expected


@pytest.mark.shared
@pytest.mark.parametrize(("game", "score", "skip"), [("PrivateEye", 100_400, 4), ("Pong", 5, 1)])
def test_a_persons_recording_comes_out_as_it_was(game: str, score: float, skip: int) -> None:
    folder = SHARED / "atari_demos"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set CALICO_SHARED_DATA")
    task, spec = get_task(f"ALE/{game}-v5"), f"replay:{folder}"
    task = task_for(task, spec)
    (episode,) = rollout(task, make_player(task, spec), [0], record=False)
    assert (episode.score, task.view["frame_skip"]) == (score, skip)
