"""Peak memory of a command and its worker processes together.

The kernel's own maxima do not suffice: the figure for ended children counts a child as large as its parent, because it starts
as a copy, and there is no sum over children that run at the same time.
"""

import os
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROCESSES = Path("/proc")


@contextmanager
def watched_memory(every: float = 1.0) -> Iterator[Callable[[], int]]:
    """Yields a function that returns the peak so far, in bytes.

    Sampled `every` so many seconds; without /proc, on systems other than Linux, only this process is counted.
    """
    peak, stop = resident_bytes(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(every):
            peak = max(peak, resident_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: max(peak, own_peak())
    finally:
        stop.set()
        watcher.join()


def resident_bytes() -> int:
    """Resident bytes of this process and all its descendants; shared libraries count in each."""
    parents, sizes = {}, {}
    for process in PROCESSES.glob("[0-9]*"):
        with suppress(OSError):                     # it has ended meanwhile
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            sizes[int(process.name)] = int((process / "statm").read_text().split()[1])
    ours = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(sizes.get(process, 0) for process in ours) * resource.getpagesize()


def own_peak() -> int:
    """Peak resident bytes of this process alone; on Linux without those of its parent before the fork."""
    status = PROCESSES / "self" / "status"
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
