"""Replay of recorded Atari play: `replay:FILE`, a list of actions, one per raw frame of the console.

A recording is played again in the emulator that it was made in, so it needs no trained network: the same actions lead to the
same screens. It fixes what is otherwise drawn by the seed: no sticky actions, and episode i begins with the recording's own
number of no-op frames, so that its actions, held for four frames each, fall into Calico's steps. Recordings whose actions
change at any frame (a person's) are played with frame skip 1.

File: npz with `actions` uint8 (frames,), indices of the game's minimal action set, and for several episodes `episode_start`
and `episode_length` int (episodes,) and `episode_terminal` bool (episodes,). The last episode is left out where its recording
was cut short.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from .networks import read_npz
from .registry import Controller, Start, Task

HOLD = 4              # raw frames that an agent holds each action
LONGEST_NOOPS = 30    # raw frames of doing nothing that agents are started with
FRAME_CAP = 108_000   # where the emulators of the recordings cut an episode


@dataclass(frozen=True)
class Recording:
    """The whole episodes of one file.

    Attributes:
        episodes: uint8 (frames,) each.
        hold: raw frames per step, 4 or 1.
        max_frames: where the environment cuts an episode.
    """

    path: Path
    episodes: tuple[np.ndarray, ...]
    hold: int
    max_frames: int

    @property
    def noop_starts(self) -> tuple[int, ...]:
        """No-op frames at the start of each episode: as many as an environment may have made, in step with the actions."""
        return tuple(_noops(actions, self.hold) or 0 for actions in self.episodes)


def recording(task: Task, where: str) -> Recording:
    """Find and read a task's recording; `where` is its file, or a folder that holds "Pong.npz" for "ALE/Pong-v5".

    Raises:
        ValueError: no recording, or the task is not one of Atari's.
    """
    if task.family != "atari":
        raise ValueError(f"replay:{where}: recordings are of Atari games, {task.name} is none")
    path = Path(where)
    path = path / f"{task.name.removeprefix('ALE/').removesuffix('-v5')}.npz" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"replay:{where}: there is no file {path}")
    return _read(path)


def recorded_task(task: Task, where: str) -> Task:
    """The task with the settings of its recording; episode i is that of seed i."""
    found = recording(task, where)
    settings = {"frame_skip": found.hold, "repeat_action_probability": 0.0, "noop_max": 0, "max_frames": found.max_frames}
    return replace(task.with_view(**settings), kwargs={**task.kwargs, "noop_starts": found.noop_starts},
                   episode_limit=found.max_frames // found.hold)


def replay(task: Task, where: str) -> Start:
    """A controller that plays the recorded episode of the seed; the environment must be of `recorded_task`."""
    found = recording(task, where)

    def start(env: gym.Env, seed: int) -> Controller:
        world: Any = env.unwrapped
        if world.noop_starts != found.noop_starts:
            raise ValueError(f"{task.name}: a recording is played in its own environment; see experts.task_for")
        actions = found.episodes[seed]
        if actions.max() >= world.action_space.n:
            raise ValueError(f"{found.path}: action {actions.max()}, but {task.name} has {world.action_space.n}; "
                             "is it another game's recording?")
        steps = iter(actions[found.noop_starts[seed] :: found.hold])

        def act(observation: Any) -> int:
            for action in steps:
                return int(action)
            raise ValueError(f"{found.path}: the recording of episode {seed} has ended and the game has not; is it another "
                             "game's, or of another version of the emulator?")

        return act

    return start


@cache
def _read(path: Path) -> Recording:
    def complain(what: str) -> ValueError:
        return ValueError(f"{path} is no recording: {what}")

    arrays = read_npz(path)
    actions = arrays.get("actions")
    if actions is None or actions.ndim != 1 or actions.dtype.kind not in "iu" or not len(actions):
        raise complain("it needs an array `actions` of whole numbers, one per frame")
    if "episode_start" not in arrays:
        episodes, max_frames = [actions], len(actions)
    else:
        bounds = [arrays.get(f"episode_{key}", np.empty(0)) for key in ("start", "length", "terminal")]
        if len({len(array) for array in bounds}) > 1:
            raise complain("episode_start, episode_length and episode_terminal differ in length")
        episodes, max_frames = [], FRAME_CAP
        for start, length, terminal in zip(*bounds, strict=True):
            if terminal or length >= FRAME_CAP:
                episodes.append(actions[start : start + length])
                if len(episodes[-1]) != length or not length:
                    raise complain(f"episode {len(episodes) - 1} is not within its {len(actions)} frames")
    if not episodes:
        raise complain("it holds no whole episode")
    hold = HOLD if all(_noops(episode, HOLD) is not None for episode in episodes) else 1
    return Recording(path, tuple(episodes), hold, max_frames)


def _noops(actions: np.ndarray, hold: int) -> int | None:
    """No-op frames after which all actions are held for `hold` frames; None where they are not."""
    changes = np.flatnonzero(actions[1:] != actions[:-1]) + 1
    phases = set((changes % hold).tolist()) or {0}
    idle = int(np.argmax(actions != 0)) if actions.any() else len(actions)
    if len(phases) > 1 or (phase := phases.pop()) > idle:
        return None
    return phase + (min(idle, LONGEST_NOOPS) - phase) // hold * hold
