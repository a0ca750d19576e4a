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


HEAVY = {"torch", "scipy", "matplotlib", "jinja2", "gymnasium", "pyarrow", "tensorboard"}
RUN = """
import atexit, runpy, sys
atexit.register(lambda: print(sorted({heavy} & set(sys.modules))))
sys.argv[1:] = ["--help"]
runpy.run_module("calico.scripts.{verb}", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("verb", VERBS)
def test_python_m_shows_help_with_an_example_to_paste_and_loads_nothing_heavy(verb: str) -> None:
    done = subprocess.run([sys.executable, "-c", RUN.format(heavy=HEAVY, verb=verb)], capture_output=True, text=True)
    *lines, loaded = done.stdout.splitlines()
    assert done.returncode == 0 and lines[0].startswith(f"usage: calico {verb} "), done.stderr
    assert any(re.match(rf" *calico {verb}\b", line) for line in lines)
    assert loaded == "[]"


@pytest.mark.parametrize("words, says", [
    (["rollout", "runs/demo", "--episodes", "0"], "--episodes 0"),
    (["evaluate", "runs/demo", "--num-envs", "0"], "--num-envs 0 must be at least 1"),
    (["caption", "runs/demo", "a.png", "--samples", "0"], "--samples 0 must be at least 1"),
    (["chat", "runs/demo", "--json"], "--json prints the reply to one --message"),
    (["collect", "--out", "data"], "name at least one task"),
])
def test_wrong_words_are_told_before_anything_heavy_is_loaded(words: list[str], says: str) -> None:
    code = (f"import sys; from calico.scripts.main import main; code = main({words}); "
            f"print(code, sorted({HEAVY} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n" and says in done.stderr


def test_a_film_s_missing_package_is_told_before_anything_heavy_is_loaded() -> None:
    code = ("import sys; sys.modules['av'] = None; from calico.scripts.main import main; "
            f"code = main(['rollout', 'CartPole-v1', '--video', 'films']); print(code, sorted({HEAVY} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n" and 'run: pip install "calico-agent[media]"' in done.stderr


def test_torchrun_runs_a_verb() -> None:
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "1", "-m", "calico.scripts.train", "tiny", "--nonsense"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert "calico train: unrecognized arguments: --nonsense" in done.stderr
    assert done.returncode != 0 and re.search(r"exitcode *: 2\b", done.stderr)


def test_help_loads_nothing_heavy() -> None:
    code = ("import sys; from calico.scripts.main import main; main(['--help']); "
            "print(sorted({'torch', 'gymnasium', 'numpy', 'rich'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(f"{sys.executable} -m calico.scripts.main tasks --family classic | head -1", shell=True,
                          capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
