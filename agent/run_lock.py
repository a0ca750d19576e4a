"""One process per folder that grows: `<run>/lock` says who trains there, `<data>/.lock` who collects or imports.

The lock is the text in the file: host, pid and the process's start time, because containers use the same pid again and
again. One whose process is dead is taken over. The kernel's own lock (flock) is held only while that text is read and
written: held longer, it would live on in forked data workers after the trainer's death.
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

from ..datasets.publish import is_alive, started

__all__ = ["Share", "is_alive", "run_lock", "started"]


@dataclass(frozen=True)
class Share:
    """One process's part of work that several do side by side in one folder: they differ in rank and agree in the rest."""

    rank: int
    size: int
    work: str     # what is divided: two commands that would do the same episodes must not agree


@contextmanager
def run_lock(run: Path | str, name: str = "lock", share: Share | None = None) -> Iterator[None]:
    """Hold `<run>/lock`, so that no second process works in the same folder.

    A folder that was made for the lock and holds nothing else at the end is removed: a refused command leaves no trace.

    Args:
        name: of the file; a hidden one is removed at the end.
        share: processes with other ranks of the same work may come in as well.
    Raises:
        ValueError: another process holds it (the message has its pid), or the folder cannot be written.
    """
    path, made = Path(run) / name, not Path(run).exists()
    mine: Holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid())}
    if share is not None:
        mine["share"] = [share.rank, share.size, share.work]
    with _exclusive(path) as file:
        others = [holder for holder in _read_holders(file.read()) if _is_there(holder)]
        for holder in others:
            if _work_together(holder, mine):
                continue
            if holder["host"] != mine["host"]:
                raise ValueError(f"{run} is in use by process {holder['pid']} on {holder['host']}: stop it, choose another "
                                 f"folder, or delete {path} if that machine is gone")
            raise ValueError(f"{run} is in use by process {holder['pid']}: stop it or choose another folder")
        _write_holders(file, [*others, mine])
    try:
        yield
    finally:
        if path.exists():   # else the run was deleted meanwhile, and stays so
            with _exclusive(path) as file:
                before = _read_holders(file.read())
                left = [holder for holder in before if holder != mine]
                if left != before:
                    _write_holders(file, left)
                    alone = made and list(path.parent.iterdir()) == [path]
                    if not left and (alone or name.startswith(".")):
                        path.unlink()
                    if not left and alone:
                        path.parent.rmdir()


Holder: TypeAlias = dict[str, Any]     # host, pid, started, and perhaps share


def _is_there(holder: Holder) -> bool:
    """Whether the process still runs; of another machine's that is not known."""
    return holder["host"] != socket.gethostname() or is_alive(holder["pid"], holder["started"])


def _work_together(one: Holder, other: Holder) -> bool:
    first, second = one.get("share"), other.get("share")
    return bool(first and second and first[1:] == second[1:] and first[0] != second[0])


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


def _write_holders(file: IO[str], holders: list[Holder]) -> None:
    file.truncate(0)
    file.write("\n".join(map(json.dumps, holders)))
    file.flush()


def _read_holders(text: str) -> list[Holder]:
    """Who holds the lock, one in a line; a half-written line has a writer that is gone."""
    holders: list[Holder] = []
    for line in text.splitlines():
        with suppress(ValueError, TypeError, KeyError):
            holder = json.loads(line)
            about = {"share": list(holder["share"])} if "share" in holder else {}
            holders.append({"host": str(holder["host"]), "pid": int(holder["pid"]), "started": holder["started"], **about})
    return holders
