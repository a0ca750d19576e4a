"""The `calico` command: every verb has its file, and what is mistyped is told."""

import importlib.util
import re
import subprocess
import sys

import pytest

from calico.scripts.main import VERBS, main


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for verb, summary in VERBS.items():
        assert f"  {verb}" in out and summary in out
    assert max(map(len, out.splitlines())) <= 100


def test_no_verb_is_an_error_with_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: calico" in capsys.readouterr().err


@pytest.mark.parametrize("typed, meant", [("trian", "train"), ("task", "tasks"), ("rolout", "rollout")])
def test_an_unknown_verb_names_the_nearest(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([typed, "--whatever"]) == 2
    assert f"did you mean `calico {meant}`?" in capsys.readouterr().err


def test_a_far_verb_names_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["xyzzy"]) == 2
    error = capsys.readouterr().err
    assert "did you mean" not in error and "tasks" in error


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("calico 0.")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_file(verb: str) -> None:
    assert importlib.util.find_spec(f"calico.scripts.{verb}") is not None


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_to_paste(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    out = capsys.readouterr().out
    assert left.value.code == 0 and out.startswith(f"usage: calico {verb} ")
    assert re.search(rf"^ *calico {verb}\b", out, re.MULTILINE)


def test_help_loads_nothing_heavy() -> None:
    code = ("import sys; from calico.scripts.main import main; main(['--help']); "
            "print(sorted({'torch', 'gymnasium', 'numpy', 'rich'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(f"{sys.executable} -m calico.scripts.main tasks --family classic | head -1", shell=True,
                          capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
