"""The peak counts this process and what it has started, at the same time."""

import subprocess
import sys
from pathlib import Path

import pytest

from calico.scripts.common import memory

HOLD = "held = b'x' * {bytes}; print('there', flush=True); input()"
needs_proc = pytest.mark.skipif(not memory.PROCESSES.exists(), reason="Linux only")


@needs_proc
def test_two_children_count_together_and_stay_in_the_peak() -> None:
    before, size = memory.resident_bytes(), 60_000_000
    with memory.watched_memory(every=0.01) as peak:
        children = [subprocess.Popen([sys.executable, "-c", HOLD.format(bytes=size)], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE) for _ in range(2)]
        for child in children:
            assert child.stdout is not None and child.stdout.readline() == b"there\n"
        together = memory.resident_bytes()
        assert 2 * size < together - before < 2 * size + 100_000_000
        for child in children:
            child.communicate(b"\n")
        assert memory.resident_bytes() < together - size
    assert peak() >= memory.own_peak() > 10_000_000


def test_without_proc_this_process_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "PROCESSES", tmp_path / "nothing")
    with memory.watched_memory() as peak:
        assert peak() == memory.own_peak()
