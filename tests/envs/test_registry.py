"""Task lookups and their messages; what the families list is what their packages register."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from calico.envs.experts import make_expert
from calico.envs.registry import FAMILIES, MissingPackage, family, get_task, make, tasks


def play(env: gym.Env, seed: int, steps: int) -> list[Any]:
    """(observation, reward, terminated, truncated) of random actions that depend on the seed alone."""
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    trace: list[Any] = [(observation, 0.0, False, False)]
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        trace.append((observation, reward, terminated, truncated))
        if terminated or truncated:
            break
    return trace


def test_terminated_and_truncated_stay_apart() -> None:
    pole = play(make("CartPole-v1"), seed=0, steps=500)
    assert pole[-1][2:] == (True, False)                           # the pole fell: the task's own end
    pendulum = play(make("Pendulum-v1"), seed=0, steps=500)
    assert len(pendulum) == 201 and pendulum[-1][2:] == (False, True)   # Gymnasium's limit of 200 steps
    cut = play(make(get_task("ALE/Freeway-v5").with_view(max_frames=60, noop_max=0)), seed=0, steps=500)
    assert len(cut) == 16 and cut[-1][2:] == (False, True)
    room = play(make("MiniGrid-Empty-5x5-v0"), seed=0, steps=500)
    assert room[-1][2] != room[-1][3]


def test_every_task_is_known_once_and_says_what_it_is() -> None:
    everything = tasks()
    assert len({task.name for task in everything}) == len(everything)
    assert len(tasks("atari")) == 104 and {task.family for task in everything} == set(FAMILIES)
    for task in everything:
        assert task.licence and task.packages
        assert task.expert is None or task.expert in family(task.family).experts
        assert get_task(task.name).to_json()["versions"] == task.versions()


def test_atari_names_are_those_of_ale_py() -> None:
    import ale_py

    gym.register_envs(ale_py)
    registered = {spec.id: spec.kwargs["game"] for spec in gym.registry.values() if spec.id.startswith("ALE/")}
    assert {task.name: task.kwargs["game"] for task in tasks("atari")} == registered


def test_minigrid_names_are_registered() -> None:
    import minigrid

    gym.register_envs(minigrid)
    registered = {name for name in gym.registry if name.startswith(("MiniGrid-", "BabyAI-")) and "-WFC-" not in name}
    assert {task.name for task in tasks("minigrid")} == registered


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown task 'Cartpole-v1'; nearest: CartPole-v1"):
        get_task("Cartpole-v1")
    with pytest.raises(ValueError, match=r"nearest: .*ALE/Breakout-v5"):
        make("ALE/Brakeout-v5")
    with pytest.raises(ValueError, match="unknown family 'classics'; nearest: classic"):
        tasks("classics")


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)   # what Python does for a package that cannot be imported
    with pytest.raises(MissingPackage, match=r'ALE/Pong-v5 needs the package \'ale_py\'.*pip install calico-agent'):
        make("ALE/Pong-v5")
    assert get_task("ALE/Pong-v5").name == "ALE/Pong-v5"           # it is still listed


def test_view_settings_change_what_is_seen() -> None:
    task = get_task("ALE/Breakout-v5").with_view(frames=4, height=80)
    assert task.to_json()["view"]["frames"] == 4
    assert make(task).observation_space.shape == (80, 64, 4)
    with pytest.raises(ValueError, match="ALE/Breakout-v5 has no view setting 'frame'; nearest: frames"):
        task.with_view(frame=2)
    with pytest.raises(ValueError, match="frames=5"):
        make(task.with_view(frames=5))


def test_a_task_without_expert_says_which_have_one() -> None:
    with pytest.raises(ValueError, match="BipedalWalkerHardcore-v3 has no scripted expert; .*LunarLander-v3"):
        make_expert("BipedalWalkerHardcore-v3")


def test_frames_are_drawn_without_a_word_from_sdl(tmp_path: Path) -> None:
    code = ("from calico.envs.registry import make\n"
            "env = make('LunarLander-v3', render=True)\nenv.reset(seed=0)\nprint(env.render().shape)\nenv.close()")
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("SDL_", "XDG_", "DISPLAY"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=bare, cwd=tmp_path)
    assert done.stdout == "(400, 600, 3)\n" and "XDG" not in done.stderr and "ALSA" not in done.stderr, done.stderr
