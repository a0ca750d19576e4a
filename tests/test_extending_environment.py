"""docs/extending.md, "Your own environment": from a class to a trained, filmed agent, and no file of the package touched."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import calico
from calico.datasets.episodes import EpisodeReader
from calico.envs import registry, scores
from calico.envs.contract import check
from calico.envs.experts import make_player
from calico.envs.families import own
from calico.envs.registry import Family, Task, get_task, make
from calico.scripts.main import main

from .counting import forget

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
CORRIDOR = PAGE.read_text(encoding="utf-8").partition("```python\n# corridor.py")[2].partition("```")[0]
FAMILY = CORRIDOR + '''

from calico.envs.registry import Family, Task

def paint(task, render):
    return Corridor(length=task.kwargs["length"], render_mode="rgb_array" if render else None)

FAMILY = Family(title="Corridors", make=paint, experts={"walk": lambda env, seed: expert(env, seed)},
                tasks=(Task(name="Short-v0", family="corridors", kwargs={"length": 5}, episode_limit=20, expert="walk"),
                       Task(name="Long-v0", family="corridors", kwargs={"length": 15}, episode_limit=60)),
                scores={"Short-v0": {"random": 0.25, "expert": 1.0}})
'''
CONFIG = """
vocabulary: {text: 300, discrete: 16, continuous: 16}
backbone: {width: 32, depth: 1, heads: 2, context: 64}
optimizer: {learning_rate: 1e-2, warmup_steps: 10}
training: {steps: 120}
data: {batch_size: 16}
"""
Module = Callable[[str, str], str]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Module]:
    """Write a module into the current folder, as a user does; gives its name back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    for name in set(sys.modules) - before:
        if (tmp_path / f"{name}.py").exists():
            del sys.modules[name]
    for key in [key for key, spec in gym.registry.items() if "corridor" in str(spec.entry_point).lower()]:
        del gym.registry[key]
    own.family_at.cache_clear()
    forget()


def test_from_a_class_to_a_filmed_agent(module: Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module("corridor", CORRIDOR)
    (tmp_path / "small.yaml").write_text(CONFIG)
    assert main(["check", "corridor:Corridor-v0", "--policy", "corridor:expert"]) == 0
    said = capsys.readouterr().out
    assert "keeps the contract" in said and "corridor:expert: return 1," in said and "tokens per step: 4" in said
    assert main(["collect", "corridor:Corridor-v0", "--policy", "corridor:expert", "--episodes", "30", "--out", "data"]) == 0
    data = tmp_path / "data" / "corridor-Corridor-v0"
    assert EpisodeReader(data).task["policy"] == "corridor:expert" and all(EpisodeReader(data).scores == 1)
    assert main(["train", "small.yaml", "data.sources=[{path: data/corridor-Corridor-v0}]", "out=run"]) == 0
    assert main(["rollout", "run", "corridor:Corridor-v0", "--episodes", "10", "--gif", "films", "--temperature", "0",
                 "--json"]) == 0
    (played,) = json.loads(capsys.readouterr().out)
    assert played["score"] >= 0.9 and (tmp_path / "films" / "corridor-Corridor-v0.gif").stat().st_size > 100
    agent = calico.load("run")
    env = agent.make("corridor:Corridor-v0")
    assert env.action_space.contains(agent.policy("corridor:Corridor-v0").predict(env.reset(seed=0)[0])[0])
    for words in (["tasks", "corridor:Corridor-v0"], ["inspect", "corridor:Corridor-v0", "--random"],
                  ["score", "corridor:Corridor-v0", "--episodes", "3", "--workers", "0"],
                  ["collect", "corridor:Corridor-v0", "--policy", "run", "--label", "corridor:expert", "--out", "more"]):
        assert main(words) == 0, capsys.readouterr().err


def test_a_module_s_family_says_more(module: Module, capsys: pytest.CaptureFixture[str]) -> None:
    module("corridors", FAMILY)
    task = get_task("corridors:Short-v0")
    assert (task.family, task.expert, task.episode_limit) == ("corridors:FAMILY", "walk", 20)
    assert scores.reference(task.name).normalise(1.0) == 100
    assert main(["check", task.name]) == 0
    assert "expert: return 1," in capsys.readouterr().out
    assert main(["collect", task.name, "--episodes", "3", "--keep", "80", "--workers", "1", "--out", "data"]) == 0
    assert main(["tasks", "--family", "corridors:FAMILY"]) == 0
    out = capsys.readouterr().out
    assert "corridors:Short-v0" in out and "corridors:Long-v0" in out and "Corridors" in out
    with pytest.raises(ValueError, match="corridors:Long-v0 has no scripted expert; in its family these have one: corrid"):
        make_player(get_task("corridors:Long-v0"), "expert")


def test_any_gymnasium_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = get_task("FrozenLake-v1")
    assert (task.family, task.episode_limit, task.licence) == ("own", 100, "MIT")
    words = ["FrozenLake-v1", "--policy", "random", "--episodes", "2", "--workers", "0"]
    assert main(["collect", *words, "--out", str(tmp_path)]) == 0
    assert EpisodeReader(tmp_path / "FrozenLake-v1").task["environment"]["family"] == "own"
    assert main(["check", "FrozenLake-v1"]) == 0
    assert "1 of 16" in capsys.readouterr().out
    assert main(["collect", "FrozenLake-v1", "--out", str(tmp_path)]) == 2
    assert "FrozenLake-v1 has no expert that Calico knows; give one of your own" in capsys.readouterr().err


def test_pictures_are_shrunk_in_the_compact_view() -> None:
    class Screen(gym.Env[Any, Any]):
        screen = gym.spaces.Box(0, 255, (210, 160, 3), np.uint8)
        observation_space = gym.spaces.Dict(screen=screen, lives=gym.spaces.Discrete(4))
        action_space = gym.spaces.Discrete(2)

        def reset(self, **_: Any) -> Any:
            return {"screen": np.full((210, 160, 3), 80, np.uint8), "lives": 3}, {}

    gym.register("Screen-v0", lambda **_: Screen())
    try:
        env = make(get_task("Screen-v0").compact())
        observation, _ = env.reset(seed=0)
        assert observation["screen"].shape == (64, 49, 3) and (observation["screen"] == 80).all()
        assert env.observation_space.contains(observation)
        assert make("Screen-v0").observation_space["screen"].shape == (210, 160, 3)   # type: ignore[index]
    finally:
        del gym.registry["Screen-v0"]


@pytest.mark.parametrize("words, says", [
    ("collect nowhere:Env-v0", "there is no module 'nowhere', neither installed nor in"),
    ("collect broken:Env-v0", "the module 'broken' cannot be imported: ZeroDivisionError"),
    ("collect corridor:Coridor-v0", "the module 'corridor' registers no 'Coridor-v0'; nearest: Corridor-v0"),
    ("collect corridor:Corridor-v0", "corridor:Corridor-v0 has no expert that Calico knows"),
    ("collect corridor:Corridor-v0 --policy corridor:exprt", "has no 'exprt'; nearest: expert"),
    ("collect corridor:Corridor-v0 --policy corridor:LENGTH", "corridor:LENGTH is a int; expected a function"),
    ("collect corridor:Corridor-v0 --policy corridor:Corridor", "corridor:Corridor is a class; expected a function"),
    ("collect corridor:Corridor-v0 --policy corridor:near --workers 0", r"near\(env, seed\) gave a bool; expected a function"),
    ("collect corridor:Corridor-v0 --policy corridr:expert", "unknown policy 'corridr:expert'.*there is no module 'corridr'"),
    ("collect FrozenLak-v1", "unknown task 'FrozenLak-v1'"),
    ("score corridor:Corridor-v0 --write", "corridor:Corridor-v0 is none of Calico's own tasks.*scores"),
])
def test_what_is_misspelt_is_one_line(module: Module, words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    module("corridor", CORRIDOR.replace("class Corridor", "LENGTH = 9\nnear = lambda env, seed: True\n\n\nclass Corridor"))
    module("broken", "1 / 0")
    assert main([*words.split(), *(["--out", "data"] if words.startswith("collect") else [])]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert re.search(says, err), err


# ---- the contract


class Sound(gym.Env[Any, Any]):
    """Counts up; the tests break it, one method each."""

    observation_space: gym.Space[Any] = gym.spaces.Box(0, 100, (1,))
    action_space: gym.Space[Any] = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = int(self.np_random.integers(5))
        return np.array([self.count], np.float32), {}

    def step(self, action: int) -> Any:
        self.count += 1
        return np.array([self.count], np.float32), 1.0, self.count >= 10, False, {}


class Dice(Sound):
    def step(self, action: int) -> Any:
        return np.random.rand(1).astype(np.float32), 1.0, False, True, {}


class Shared(Sound):
    total = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        Shared.total = 0
        return super().reset(seed=seed)

    def step(self, action: int) -> Any:
        Shared.total += 1
        return np.array([Shared.total], np.float32), 1.0, Shared.total >= 10, False, {}


class Outside(Sound):
    def step(self, action: int) -> Any:
        return np.array([self.count, 2], np.float32), 1.0, True, False, {}


class Infinite(Sound):
    def step(self, action: int) -> Any:
        return np.array([1], np.float32), float("nan"), True, False, {}


class Flags(Sound):
    def step(self, action: int) -> Any:
        return np.array([1], np.float32), 1.0, None, False, {}


class Crash(Sound):
    def step(self, action: int) -> Any:
        raise KeyError("lost")


class Old(Sound):
    def reset(self, **_: Any) -> Any:
        return np.zeros(1, np.float32)


class Graph(Sound):
    observation_space = gym.spaces.Graph(gym.spaces.Discrete(2), None)


class Unmade(Sound):
    def __init__(self) -> None:
        raise OSError("no screen")


class Constant(Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.count = 0
        return np.array([0], np.float32), {}


def checked(kind: type[gym.Env[Any, Any]], **settings: Any) -> Any:
    gym.register("Broken-v0", lambda **_: kind(), **settings)
    try:
        return check(get_task("Broken-v0"), elsewhere=False)
    finally:
        del gym.registry["Broken-v0"]


@pytest.mark.parametrize("kind, says", [
    (Dice, "seed 0 with the same actions goes otherwise a second time, from step 1 on"),
    (Shared, "goes otherwise beside another environment in the same process"),
    (Outside, r"step 1: the observation has shape \(2,\), expected \(1,\)"), (Infinite, "the reward of step 1 is nan"),
    (Flags, "terminated=None"), (Crash, "it raises KeyError: 'lost'"), (Old, "unpack|expected"),
    (Graph, "its spaces have no tokens"), (Unmade, "it cannot be made: OSError: no screen"),
])
def test_what_breaks_the_contract(kind: type[gym.Env[Any, Any]], says: str) -> None:
    (fault,) = checked(kind).faults
    assert re.search(says, fault), fault


def test_what_keeps_the_contract_and_should_be_known() -> None:
    found = checked(Sound)
    assert found.faults == [] and found.returns["random"] == pytest.approx(found.lengths["random"])
    assert any("cannot be filmed" in remark for remark in found.remarks)
    assert any("nothing in it is random" in remark for remark in checked(Constant).remarks)


# ---- entry points


def test_a_package_brings_a_family(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given = Family(title="Counters", make=lambda task, render: gym.wrappers.TimeLimit(Sound(), 20),
                   tasks=(Task(name="Counter-v0", family="?", expert="up"), Task(name="CartPole-v1", family="?")),
                   experts={"up": lambda env, seed: lambda observation: 1}, scores={"Counter-v0": {"random": 0, "expert": 9}})
    points = [SimpleNamespace(name="counters", value="counters:FAMILY", load=lambda: given),
              SimpleNamespace(name="bad", value="bad:FAMILY", load=lambda: 1 / 0),
              SimpleNamespace(name="classic", value="mine:FAMILY", load=lambda: given)]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points if group == "calico.families" else [])
    registry.brought.cache_clear()
    forget()
    try:
        with pytest.warns(UserWarning) as warned:
            task = get_task("Counter-v0")
        assert sorted(str(one.message).partition(" is left")[0] for one in warned) == [
            "the family 'bad' (bad:FAMILY)", "the family 'classic' (mine:FAMILY)",
            "the family 'counters' brings CartPole-v1, which Calico has itself and keeps"]
        assert task.family == "counters" and task in registry.tasks() and get_task("CartPole-v1").family == "classic"
        assert scores.reference("Counter-v0").expert == 9
        assert main(["tasks"]) == 0
        out, err = capsys.readouterr()
        assert "Counter-v0" in out and "Counters" in out and "673 tasks" in err
        assert main(["check", "Counter-v0", "--json"]) == 1      # it cannot be made in another process: it is not installed
        (found,) = json.loads(capsys.readouterr().out)
        assert found["returns"].keys() == {"random", "expert"} and "another process" in found["faults"][0]
    finally:
        registry.brought.cache_clear()
        forget()
