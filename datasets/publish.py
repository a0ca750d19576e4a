"""Files that appear whole or not at all: written beside their place, flushed to disk, renamed; SHA-256 of files and values.

A process that dies on the way leaves at most a hidden `.….tmp` file, which no reader looks at.
"""

import contextlib
import hashlib
import json
import os
import platform
import secrets
import shutil
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

# (path, size, mtime, inode) -> digest: a file is hashed once per process, and again only when it changes.
_digests: dict[tuple[str, int, int, int], str] = {}


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` that no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def flush(path: Path) -> None:
    """Wait until the file (or the folder's list of names) is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_flushed(path: Path, content: bytes) -> None:
    """A new file, on the disk when this returns; its name is when its folder is flushed too."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def publish(temporary: Path, path: Path) -> None:
    """Give a finished file its name; an older one of that name is replaced."""
    flush(temporary)
    os.replace(temporary, path)
    if os.name == "posix":   # Windows cannot open a folder
        flush(path.parent)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into; it becomes `folder`, which must not be there, unless the block raises."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(folder)
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_error(path: Path, error: OSError) -> OSError:
    """The same error in one line, with the path that was to be written."""
    reason = (error.strerror or str(error)).splitlines()[0]
    return OSError(f"could not write {path}: {reason}; nothing of it was kept, files finished earlier are unharmed")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits, computed once per process and version of the file."""
    status = path.stat()
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ino)
    if key not in _digests:
        _digests[key] = sha256_now(path)
    return _digests[key]


def sha256_now(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits, every byte of it read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(values: Any) -> str:
    """SHA-256 of plain JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of Python and of those packages that are installed: what made a file."""
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):   # a source tree that was never installed
            found[package] = metadata.version(package)
    return found
