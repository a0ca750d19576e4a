"""What every command shares, tried as a user meets it: streams, exit codes, one-line errors."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calico.agent.checkpoint import CheckpointError
from calico.scripts.common import console
from calico.scripts.common.console import make_parser, print_json, print_table, printable, progress, run_command, wrote

DOC = """`calico thing NAME [key=value ...]`: does a thing.

    calico thing demo lr=3     # ten seconds

It always works: 100 % of the time.
"""


def parser() -> console.Parser:
    made = make_parser("thing", DOC)
    made.add_argument("config")
    made.add_argument("overrides", nargs="*", metavar="key=value")
    made.add_argument("--episodes", type=int, default=1)
    made.add_argument("--json", action="store_true")
    return made


def test_help_opens_with_the_summary_and_closes_with_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parser().parse_args(["--help"])
    out = capsys.readouterr().out
    assert exit_.value.code == 0 and out.startswith("usage: calico thing ")
    parts = ["does a thing", "  --episodes", "    calico thing demo lr=3 ", "100 %"]
    assert sorted(parts, key=out.index) == parts


@pytest.mark.parametrize("words", ["demo lr=3 seed=1 --episodes 5", "demo --episodes 5 lr=3 seed=1",
                                   "--episodes 5 demo lr=3 seed=1", "demo lr=3 --episodes=5 seed=1"])
def test_options_may_stand_anywhere(words: str) -> None:
    found = parser().parse_args(words.split())
    assert (found.config, found.overrides, found.episodes, found.json) == ("demo", ["lr=3", "seed=1"], 5, False)


@pytest.mark.parametrize("words, names", [("", []), ("--json", []), ("a --json b", ["a", "b"])])
def test_words_that_may_be_absent(words: str, names: list[str]) -> None:
    made = make_parser("tasks", "Tasks.")
    made.add_argument("names", nargs="*")
    made.add_argument("--json", action="store_true")
    assert made.parse_args(words.split()).names == names


@pytest.mark.parametrize("words, says", [
    ("demo --episods 3", "unrecognized arguments: --episods 3; did you mean --episodes?"),
    ("demo --epis 3", "unrecognized arguments: --epis"),   # abbreviations are mistakes
    ("demo --zzz", "unrecognized arguments: --zzz (see"),
    ("demo --episodes many", "argument --episodes: invalid int value: 'many'"),
    ("", "the following arguments are required: config"),
])
def test_a_wrong_word_is_one_line_and_exit_code_2(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parser().parse_args(words.split())
    out, err = capsys.readouterr()
    assert exit_.value.code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith("calico thing: ") and says in err and "(see calico thing --help)" in err


# ---- run_command


def raising(error: BaseException) -> Callable[..., int]:
    @run_command
    def main(argv: list[str] | None = None) -> int:
        raise error
    return main


@pytest.mark.parametrize("error, says", [
    (ValueError("width=3 is\n  not divisible"), "width=3 is not divisible"),
    (CheckpointError("model.safetensors is missing"), "model.safetensors is missing"),
    (FileNotFoundError(2, "No such file or directory", "data/x"), "No such file or directory: data/x"),
    (OSError("disk on fire"), "disk on fire"),
    (FloatingPointError("the loss of step 3 is not finite"), "the loss of step 3 is not finite"),
    (ImportError('run pip install "calico-agent[mujoco]"'), 'run pip install "calico-agent[mujoco]"'),
    (ValueError(), "ValueError"),
])
def test_what_users_cause_is_one_line(error: Exception, says: str, capsys: pytest.CaptureFixture[str],
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CALICO_DEBUG", raising=False)
    assert raising(error)([]) == 2
    assert capsys.readouterr() == ("", f"calico test_console: {says}\n")


def test_debug_shows_the_traceback_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALICO_DEBUG", "1")
    assert raising(ValueError("bad width"))([]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and err.endswith("calico test_console: bad width\n")


@pytest.mark.parametrize("error", [ImportError("No module named 'calico.agnet'"), RuntimeError("x"), TypeError("x")])
def test_our_own_mistakes_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        raising(error)([])


def test_ctrl_c_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(KeyboardInterrupt())([]) == 130
    assert capsys.readouterr().err == "calico test_console: stopped\n"


@pytest.mark.parametrize("returned, code", [(None, 0), (0, 0), (3, 3)])
def test_the_exit_code_is_what_main_returns(returned: int | None, code: int) -> None:
    assert run_command(lambda argv=None: returned)(["x"]) == code


SCRIPT = """
import sys, time
from calico.scripts.common import console

@console.run_command
def main(argv=None):
    {body}

if __name__ == "__main__":
    sys.exit(main())
"""


def start(tmp_path: Path, body: str, **options: Any) -> subprocess.Popen[str]:
    """The body as a command of its own, named sample.py."""
    path = tmp_path / "sample.py"
    path.write_text(SCRIPT.format(body=body.replace("\n", "\n    ")))
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    environment = {name: value for name, value in os.environ.items() if name not in ("CALICO_DEBUG", "FORCE_COLOR")}
    return subprocess.Popen([sys.executable, str(path)], env=environment | {"TERM": "xterm"}, **options)


def test_ctrl_c_from_outside(tmp_path: Path) -> None:
    # Where the tests themselves run in the background of a shell, Ctrl-C is ignored, and children inherit that.
    process = start(tmp_path, "print('ready', flush=True)\ntime.sleep(60)",
                    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err) == (130, "calico sample: stopped\n")


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    process = start(tmp_path, "for i in range(100_000): print('line', i)")
    assert process.stdout and process.stderr and process.stdout.readline() == "line 0\n"
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 0


# ---- progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_every_few_seconds_and_a_last_one() -> None:
    clock, stream = Clock(), io.StringIO()
    with progress("train", total=1000, unit="steps", every=5, stream=stream, clock=clock) as bar:
        for _ in range(1000):
            clock.now += 0.125
            bar.advance(note="loss 1.5")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 125 // 5 + 1
    assert lines[0] == "train: 40 of 1,000 steps (4 %), 8/s, 2 min left, loss 1.5"
    assert lines[-1] == "train: 1,000 of 1,000 steps (100 %) in 2 min, 8/s, loss 1.5"


def test_a_short_loop_is_one_line() -> None:
    clock, stream = Clock(), io.StringIO()
    with progress("collect", unit="episodes", stream=stream, clock=clock) as bar:
        for i in range(3):
            clock.now += 0.5
            bar.update(i + 1)
    assert stream.getvalue() == "collect: 3 episodes in 1.5 s, 2/s\n"


def test_a_total_that_is_found_out_on_the_way_is_the_one_shown() -> None:
    """Where a clock ends the run, how many steps it will have is known only from its pace."""
    clock, stream = Clock(), io.StringIO()
    with progress("train", total=1000, unit="steps", every=5, stream=stream, clock=clock) as bar:
        clock.now = 5
        bar.update(50, total=200)
        clock.now = 10
        bar.update(100)
    assert stream.getvalue().splitlines()[0] == "train: 50 of 200 steps (25 %), 10/s, 15 s left"
    assert stream.getvalue().splitlines()[-1] == "train: 100 of 200 steps (50 %) in 10 s, 10/s"


def test_a_resumed_loop_has_an_honest_rate() -> None:
    clock, stream = Clock(), io.StringIO()
    with progress("train", total=120, start=100, stream=stream, clock=clock) as bar:
        clock.now = 10
        bar.update(120)
    assert stream.getvalue().splitlines()[-1] == "train: 120 of 120 (100 %) in 10 s, 2/s"


def test_items_pass_through_and_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(console.with_progress("read", "sounds")(iter("abc"))) == ["a", "b", "c"]
    assert "read: 3 of 3 sounds (100 %)" in capsys.readouterr().err


def test_a_failed_block_does_not_claim_an_end() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError, match="boom"), progress("train", stream=stream):
        raise ValueError("boom")
    assert stream.getvalue() == ""


def test_on_a_terminal_the_bar_is_on_stderr_and_stdout_stays_clean(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    body = ("with console.progress('train', total=3, unit='steps') as bar:\n"
            "    for _ in range(3):\n"
            "        print('result')\n"
            "        bar.advance(note='[red]x[/red]')\n"
            "console.wrote('sample.py')")
    process = start(tmp_path, body, stderr=theirs, cwd=tmp_path)
    os.close(theirs)
    assert process.stdout and process.stdout.read() == "result\n" * 3
    assert process.wait() == 0
    drawn = b""
    while chunk := read_or_end(ours):
        drawn += chunk
    os.close(ours)
    assert b"3/3" in drawn and b"steps" in drawn and b"\x1b[" in drawn   # a bar that redraws itself
    assert b"[red]x[/red]" in drawn and b"result" not in drawn
    assert b"wrote sample.py" in drawn


def read_or_end(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:   # Linux: the other side of the terminal is closed
        return b""


# ---- output


def test_a_table_shows_cells_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["task", "score", "episodes"], [["[bold]Pong[/bold]", 1 / 3, 10], ["a\x1b[31m\nb", None, np.int64(200)],
                                                [":smile:", np.float32(1e6), 3]], title="Scores")
    out, err = capsys.readouterr()
    assert err == "" and "\x1b" not in out
    rows = [line.replace("│", " ").split() for line in out.splitlines()]
    assert rows[0] == ["Scores"]
    assert [row for row in rows if len(row) == 3 and row[0] != "task"][-3:] == [
        ["[bold]Pong[/bold]", "0.3333", "10"], [r"a\x1b[31m\nb", "-", "200"], [":smile:", "1e+06", "3"]]
    ends = [line.rstrip(" │") for line in out.splitlines() if line.startswith("│")]
    assert len(set(map(len, ends))) == 1   # numbers stand at the right


def test_a_wide_table_is_not_wrapped_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["caption"], [["word " * 100]])
    assert "word " * 99 in capsys.readouterr().out


def test_an_empty_table_has_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["task"], [])
    assert "task" in capsys.readouterr().out


@dataclass
class Score:
    task: str
    values: np.ndarray
    at: Path


def test_json_is_strict_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"score": Score("Pöng", np.array([1.0, np.nan]), Path("runs/x")), 3: (np.float32(0.5), torch.tensor(2)),
                "inf": float("inf"), "flag": np.bool_(True), "none": None})
    out, err = capsys.readouterr()
    assert err == "" and "Pöng" in out
    assert json.loads(out, parse_constant=pytest.fail) == {
        "score": {"task": "Pöng", "values": [1.0, None], "at": "runs/x"}, "3": [0.5, 2], "inf": None, "flag": True,
        "none": None}


def test_printable_spells_control_characters_out() -> None:
    assert printable("a\x1b]0;title\x07b\r\n\t\u202ec é✓") == r"a\x1b]0;title\x07b\r\n\t\u202ec é✓"
    assert printable("two\nlines\x1b", keep="\n") == "two\nlines\\x1b"


def test_wrote_counts_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "deep").mkdir(parents=True)
    (tmp_path / "run" / "a").write_bytes(b"x" * 1500)
    (tmp_path / "run" / "deep" / "b").write_bytes(b"x" * 2_000_000)
    wrote(tmp_path / "run", tmp_path / "run" / "a")
    assert capsys.readouterr() == (
        "", f"wrote {tmp_path}/run (2 files, 2 MB)\nwrote {tmp_path}/run/a (1.5 kB)\n")
    with pytest.raises(FileNotFoundError):   # nothing is claimed that is not there
        wrote(tmp_path / "nothing")


@pytest.mark.parametrize("size, text", [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (999_600, "1 MB"),
                                        (2.5e9, "2.5 GB"), (5e12, "5,000 GB")])
def test_sizes_in_words(size: float, text: str) -> None:
    assert console._bytes(size) == text
