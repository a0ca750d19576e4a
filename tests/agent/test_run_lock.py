"""One process per run folder; a dead one's lock is taken over."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from calico.agent.run_lock import is_alive, run_lock, started

HOLD = """
import sys, time
from calico.agent.run_lock import run_lock
with run_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(run: Path) -> subprocess.Popen[str]:
    """Another process that trains in `run`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_the_second_process_is_told_the_pid_of_the_first_and_death_frees_the_lock(tmp_path: Path) -> None:
    run = tmp_path / "run"
    other = hold(run)
    with pytest.raises(ValueError, match=f"run is in use by process {other.pid}: stop it or choose"), run_lock(run):
        pass
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert str(other.pid) in (run / "lock").read_text()   # killed: nobody cleaned up
    with run_lock(run):
        assert json.loads((run / "lock").read_text())["pid"] == os.getpid()
    assert (run / "lock").read_text() == ""


def test_a_normal_end_frees_the_lock_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="boom"), run_lock(tmp_path):
        raise RuntimeError("boom")
    with run_lock(tmp_path):
        pass


def test_a_folder_that_got_nothing_but_the_lock_goes_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="boom"), run_lock(run):
        raise RuntimeError("boom")
    assert not run.exists()
    with run_lock(run):
        (run / "config.json").touch()
    assert (run / "lock").read_text() == ""
    empty = tmp_path / "empty"
    empty.mkdir()
    with run_lock(empty):
        pass
    assert empty.is_dir()   # somebody else made it


def test_the_same_process_can_not_hold_it_twice(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        with pytest.raises(ValueError, match=str(os.getpid())), run_lock(tmp_path):
            pass
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()   # the failed try took nothing away


@pytest.mark.skipif(started(os.getpid()) is None, reason="this system does not tell when a process started")
def test_a_new_process_with_an_old_pid_is_not_the_old_one(tmp_path: Path) -> None:
    me = {"host": os.uname().nodename, "pid": os.getpid(), "started": "1"}
    (tmp_path / "lock").write_text(json.dumps(me))
    with run_lock(tmp_path):
        pass
    assert is_alive(os.getpid()) and is_alive(os.getpid(), started(os.getpid())) and not is_alive(os.getpid(), "1")


def test_a_lock_of_another_machine_stays_and_says_what_to_delete(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": None}))
    with pytest.raises(ValueError, match=r"process 1 on elsewhere.*delete .*lock if that"), run_lock(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"host": "x", "pid": "y", "started": 1}'])
def test_a_half_written_lock_is_nobodys(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock").write_text(text)
    with run_lock(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_folder_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write .*choose a folder"), run_lock(tmp_path / "file" / "run"):
        pass


def test_a_run_deleted_meanwhile_stays_deleted(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with run_lock(run):
        (run / "lock").unlink()
        run.rmdir()
    assert not run.exists()
