"""One process per run folder: `<run>/lock` says who trains there.

The lock is the text in the file: host, pid and the process's start time, because containers use the same pid again and
again. One whose process is dead is taken over. The kernel's own lock (flock) is held only while that text is read and
written: held longer, it would live on in forked data workers after the trainer's death.
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def run_lock(run: Path | str) -> Iterator[None]:
    """Hold `<run>/lock`, so that no second process trains into the same folder.

    A folder that was made for the lock and holds nothing else at the end is removed: a refused command leaves no trace.

    Raises:
        ValueError: another process holds it (the message has its pid), or the folder cannot be written.
    """
    path, made = Path(run) / "lock", not Path(run).exists()
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid())}
    with _exclusive(path) as file:
        holder = _read_holder(file.read())
        if holder and holder["host"] != mine["host"]:
            raise ValueError(f"{run} is in use by process {holder['pid']} on {holder['host']}: stop it, choose another "
                             f"folder, or delete {path} if that machine is gone")
        if holder and is_alive(holder["pid"], holder["started"]):
            raise ValueError(f"{run} is in use by process {holder['pid']}: stop it or choose another folder")
        _rewrite(file, json.dumps(mine))
    try:
        yield
    finally:
        if path.exists():   # else the run was deleted meanwhile, and stays so
            with _exclusive(path) as file:
                if _read_holder(file.read()) == mine:
                    _rewrite(file, "")
                    if made and list(path.parent.iterdir()) == [path]:
                        path.unlink()
                        path.parent.rmdir()


@contextmanager
def _exclusive(path: Path) -> Iterator[IO[str]]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}; choose a folder that you may write to") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not _is_at(file, path):   # removed while this process waited
            with _exclusive(path) as again:
                yield again
            return
        file.seek(0)
        yield file


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _rewrite(file: IO[str], text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()


def _read_holder(text: str) -> dict[str, Any] | None:
    """Who wrote the lock; None for an empty or half-written one, whose writer is gone."""
    try:
        holder = json.loads(text)
        return {"host": str(holder["host"]), "pid": int(holder["pid"]), "started": holder["started"]}
    except (ValueError, TypeError, KeyError):
        return None


def is_alive(pid: int, start: str | None = None) -> bool:
    """Whether a process of this pid runs on this machine; with `start`, whether it is still the same process."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:   # alive, and somebody else's
        pass
    return start is None or started(pid) in (None, start)


def started(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, where the system tells it (Linux); None elsewhere."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]   # field 22 of proc(5)
    except (OSError, IndexError):
        return None
