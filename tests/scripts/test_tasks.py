"""`calico tasks`: what it says of a task is what its environment and its codec say."""

import json
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from calico.envs.registry import FAMILIES, Family, Task, family, get_task, make, tasks
from calico.scripts import tasks as script
from calico.scripts.tasks import any_text, describe, describe_space, main
from calico.tokenizers.spaces import space_from_json
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.vocabulary import Vocabulary


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_every_task_of_a_family_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--family", "classic"]) == 0
    out = capsys.readouterr().out
    for task in tasks("classic"):
        (line,) = [line for line in out.splitlines() if line.split()[:1] == [task.name]]
        assert task.expert is None or task.expert in line
    assert "MIT" in out and "gymnasium" in out


def test_json_holds_spaces_tokens_expert_scores_and_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["CartPole-v1", "BabyAI-GoToLocal-v0", "--json"]) == 0
    cartpole, babyai = json.loads(capsys.readouterr().out)
    assert {"task", "family", "observation", "action", "tokens_per_step", "max_steps", "expert", "random_score", "expert_score",
            "human_score", "extra", "licence"} <= cartpole.keys()
    assert cartpole["task"] == "CartPole-v1" and cartpole["licence"] == "MIT" and cartpole["expert"]
    assert cartpole["max_steps"] == cartpole["expert_score"] == 500 > cartpole["random_score"] > 0
    assert (cartpole["observation"], cartpole["action"], cartpole["tokens_per_step"]) == ("4 real", "1 of 2", [6, 6])
    assert [p["kind"] for p in babyai["parts"]] == ["text", "patch", "discrete", "special", "discrete"]
    assert babyai["tokens_per_step"][0] < babyai["tokens_per_step"][1]   # the mission's length varies


@pytest.mark.parametrize("name", ["CartPole-v1", "ALE/Pong-v5", "LunarLander-v3"])
def test_tokens_per_step_are_the_tokens_of_a_step(name: str) -> None:
    entry = describe(next(task for task in tasks() if task.name == name))
    env = make(name)
    observation, _ = env.reset(seed=0)
    assert space_from_json(entry["observation_space"]) == env.observation_space
    codec = TaskCodec(env.observation_space, env.action_space, Vocabulary(), any_text())
    env.close()
    (tokens,) = codec.encode_observations([observation])
    assert entry["tokens_per_step"] == [len(tokens) + codec.action_length] * 2
    assert sum(part["tokens"] for part in entry["parts"]) == entry["tokens_per_step"][1]


@pytest.mark.parametrize("space, words", [
    (spaces.Box(-1, 1, (3,)), "3 real"),
    (spaces.Box(-1, 1, ()), "1 real"),
    (spaces.Box(0, 9, (2,), np.int64), "2 integers"),
    (spaces.Box(0, 255, (64, 48, 3), np.uint8), "64x48x3 image"),
    (spaces.Discrete(7), "1 of 7"),
    (spaces.MultiDiscrete([3, 5]), "2 of 3/5"),
    (spaces.MultiBinary(4), "4 bits"),
    (spaces.Dict(b=spaces.Text(5), a=spaces.Discrete(2)), "1 of 2 + text"),
    (spaces.Tuple(()), "nothing"),
])
def test_spaces_in_words(space: spaces.Space, words: str) -> None:
    assert describe_space(space) == words


def test_what_was_found_is_kept_until_the_view_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    task = get_task("ALE/Pong-v5")
    assert describe(task)["observation"] == "64x64x2 image"
    monkeypatch.setattr(script, "make", lambda task: pytest.fail("opened again"))
    assert describe(task)["tokens_per_step"] == [18, 18]
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")              # no cache can be written there
    assert describe(task.with_view(frames=3))["observation"] == "64x64x3 image"


def test_a_family_that_is_not_installed_is_listed_with_its_command(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    task = Task(name="Far-v0", family="classic", packages=("no-such-package",))
    absent = Family(title="Far", tasks=(task,), make=family("classic").make, modules=("no_such_module",),
                    extra="far")
    monkeypatch.setattr("calico.envs.registry.family", lambda name: absent)
    monkeypatch.setattr(script, "family", lambda name: absent)
    monkeypatch.setattr(script, "tasks", lambda name: [task])
    assert main(["--family", "classic"]) == 0
    captured = capsys.readouterr()
    assert "Far-v0" in captured.out and "not installed" in captured.out
    assert 'pip install "calico-agent[far]"' in captured.err


@pytest.mark.parametrize("words, message", [
    (["--family", "clasic"], "classic"),
    (["CartPol-v1"], "CartPole-v1"),
    (["--familly", "classic"], "--family"),
])
def test_what_is_mistyped_names_the_nearest(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(words)
    except SystemExit as exit:   # argparse leaves this way
        code = exit.code   # type: ignore[assignment]
    assert code == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_families_are_printed_in_the_registry_s_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["BabyAI-GoToLocal-v0", "CartPole-v1"]) == 0
    out = capsys.readouterr().out
    assert FAMILIES.index("classic") < FAMILIES.index("minigrid")
    assert out.index("CartPole-v1") < out.index("BabyAI-GoToLocal-v0")
