"""`calico tasks`: what it says of a task is what its environment and its codec say."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from calico.envs import interfaces, registry, task_table
from calico.envs.interfaces import any_text, describe_space, write_table
from calico.envs.registry import FAMILIES, Family, Task, family, get_task, make, tasks
from calico.scripts.tasks import describe, main
from calico.tokenizers.spaces import space_from_json
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.vocabulary import Vocabulary


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
    assert (cartpole["compact_tokens_per_step"], babyai["compact_tokens_per_step"]) == ([3, 3], [4, 68])


@pytest.mark.parametrize("name", ["CartPole-v1", "ALE/Pong-v5", "LunarLander-v3"])
def test_tokens_per_step_are_the_tokens_of_a_step(name: str) -> None:
    entry = describe(name)
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


def test_the_table_is_written_from_the_environments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(task_table, "TABLE", tmp_path / "tasks.json")
    two = [get_task("CartPole-v1"), get_task("Acrobot-v1"), get_task("CartPole-v0")]
    monkeypatch.setattr(interfaces, "FAMILIES", ("classic",))
    monkeypatch.setattr(interfaces, "family", lambda name: Family(title="Two", tasks=tuple(two), make=family("classic").make))
    shipped = {task.name: task_table.rows()[task.name] for task in two}
    try:
        write_table()
        assert task_table.rows() == shipped and len(task_table.table()["interfaces"]) == 2
        assert task_table.table()["families"]["classic"]["title"] == "Two"
    finally:
        monkeypatch.undo()
        task_table.table.cache_clear()
        task_table.rows.cache_clear()


def test_a_family_that_is_not_installed_is_one_line_with_its_command(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(task_table, "missing_module", lambda family: "mujoco" if family == "robotics" else None)
    assert main(["--family", "robotics"]) == 0
    captured = capsys.readouterr()
    assert "FetchReach-v4" in captured.out and captured.out.splitlines()[1] == "not installed"
    (line,) = [line for line in captured.err.splitlines() if "mujoco" in line]
    assert 'pip install "calico-agent[robotics]"' in line
    assert main(["FetchReach-v4", "CartPole-v1", "--json"]) == 0
    robot, pole = json.loads(capsys.readouterr().out)
    assert robot["missing"] == line and robot["tokens_per_step"] and "missing" not in pole


def test_missing_modules_are_found_without_importing_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    families = {"classic": {"modules": ["gymnasium.no_such_part"]}, "atari": {"modules": ["json", "no_such_package.part"]}}
    monkeypatch.setattr(task_table, "table", lambda: {"families": families})
    assert task_table.missing_module.__wrapped__("classic") is None
    assert task_table.missing_module.__wrapped__("atari") == "no_such_package.part"


def test_a_task_that_is_not_in_the_table_yet_is_told(monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(registry._by_name(), "New-v0", Task(name="New-v0", family="classic"))
    assert main(["New-v0"]) == 2
    assert "python -m calico.scripts.tasks --write" in capsys.readouterr().err


def test_the_list_loads_neither_environments_nor_torch() -> None:
    code = ("import sys; from calico.scripts.main import main; main(['tasks', '--json']); "
            "print(sorted({'torch', 'gymnasium', 'numpy', 'scipy', 'ale_py', 'envpool'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


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
