"""Which files' SHA-256 this computer has computed before: hashing 20 GB takes longer than opening a thousand files.

A digest is believed while the file has the size, the inode and the times of change, in nanoseconds, that it had when it was
read. A program can set the time of the last writing back, but not that of the last change (ctime), so every change through the
file system is seen. A disk that loses bits is not: this is for files whose contents have checksums of their own, as pages of
Parquet files do.

Digests are kept in SQLite, in $XDG_CACHE_HOME/calico or ~/.cache/calico; where that cannot be written, files are hashed again.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from ..publish import file_sha256

SMALLEST = 1 << 19      # bytes: smaller files are hashed in the time that looking them up takes
SETTLED = 2.0           # seconds: a file that was changed since may change again without another time of change
UNKEPT = (sqlite3.Error, OSError, RuntimeError)      # RuntimeError: a user without a home folder
WAIT = 1.0              # seconds for another process that writes


def verified_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits: computed now, or before, if the file has not changed since."""
    before = path.stat()
    if before.st_size < SMALLEST:
        return file_sha256(path)
    name, state = str(path.resolve()), state_of(before)
    with contextlib.suppress(*UNKEPT), store() as kept:
        row = kept.execute("SELECT state, sha256 FROM digests WHERE path = ?", (name,)).fetchone()
        if row is not None and row[0] == state:
            return str(row[1])
    found = file_sha256(path)
    if state_of(path.stat()) == state and time.time() - before.st_ctime > SETTLED:
        with contextlib.suppress(*UNKEPT), store() as kept:
            kept.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", (name, state, found))
    return found


def state_of(status: os.stat_result) -> str:
    """What changes when a file does."""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_dev} {status.st_ino}"


@contextlib.contextmanager
def store() -> Iterator[sqlite3.Connection]:
    """The digests that are kept; a damaged file of them is removed, and the next one begins anew."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "calico"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "digests.sqlite"
    kept = sqlite3.connect(path, timeout=WAIT)
    try:
        kept.execute("PRAGMA synchronous = OFF")       # what is lost is computed again
        kept.execute("CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, state TEXT, sha256 TEXT)")
        with kept:
            yield kept
    except sqlite3.DatabaseError as error:
        if "malformed" in str(error) or "not a database" in str(error):
            path.unlink(missing_ok=True)
        raise
    finally:
        kept.close()
