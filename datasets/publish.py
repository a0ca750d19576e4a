"""Files that appear whole or not at all: written beside their place, flushed to disk, renamed; SHA-256 of files and values.

    with replacing(path) as temporary: ...        one file; an older one stays until the new one is whole
    with whole_folder(folder) as temporary: ...   a new folder
    publish_together({temporary: path, ...}, key) several files of a folder that belong together

A process that dies on the way leaves at most a hidden `.….tmp` file or folder, which no reader looks at; its name says whose
it is, and the next writer beside it removes it.
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

LEFTOVER = re.compile(r"\..*\.([0-9a-f]{8})-(\d+)-(\d*)-[0-9a-f]{8}\.tmp", re.DOTALL)
NEXT = ".next"     # ends the name of a folder of files that wait to be moved to their places
GONE = ".gone"     # ends a name in it: a file that shall not be there

# (path, size, mtime, inode) -> digest: a file is hashed once per process, and again only when it changes.
_digests: dict[tuple[str, int, int, int], str] = {}


def plain_name(name: str) -> str:
    """A name from foreign data as the name of a file or folder: "ALE/Pong-v5" -> "ALE-Pong-v5".

    Raises:
        ValueError: it would be hidden, lead to another folder, or cannot be a name.
    """
    plain = name.replace("/", "-")
    if not plain or plain.startswith(".") or not plain.isprintable() or "\\" in plain or len(plain.encode()) > 200:
        raise ValueError(f"{name[:200]!r} cannot be the name of a folder: give another one, such as CartPole-v1")
    return plain


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` that no other process uses; it says which process it belongs to."""
    owner = f"{_host()}-{os.getpid()}-{started(os.getpid()) or ''}"
    name = path.name.encode(errors="surrogateescape")[:80].decode(errors="ignore")     # the disk counts bytes
    return path.with_name(f".{name}.{owner}-{secrets.token_hex(4)}.tmp")


def _host() -> str:
    """Stands for this machine in names of files: processes of others cannot be seen from here."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


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


# Folders where this process has looked already: a folder of a million results is listed once.
_tidied: set[tuple[int, Path]] = set()


def remove_leftovers(folder: Path) -> None:
    """Remove what processes of this machine that are dead were writing in the folder; looked for once per process."""
    if (key := (os.getpid(), folder)) in _tidied:
        return
    _tidied.add(key)
    with contextlib.suppress(OSError):      # not there yet, or not ours to tidy
        for entry in list(os.scandir(folder)):
            owner = LEFTOVER.fullmatch(entry.name)
            if owner and owner[1] == _host() and not is_alive(int(owner[2]), owner[3] or None):
                remove(Path(entry.path))


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there and may be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block has ended: what it does is done whole."""
    if threading.current_thread() is not threading.main_thread():   # Python delivers signals to the main thread only
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda came_now, _: came.append(came_now))
              for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


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
def replacing(path: Path, flushed: bool = True) -> Iterator[Path]:
    """A name to write a file under; it becomes `path`, in place of an older one, unless the block raises.

    Args:
        flushed: wait for the disk, so that the file outlives a power cut too.
    Raises:
        OSError: it cannot be written, in one line with the path; an older file of that name is unharmed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        temporary = temporary_name(path)
        try:
            yield temporary
            if flushed:
                publish(temporary, path)
            else:
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _of_writing(path, error) from error


def replace_file(path: Path, content: bytes | str, flushed: bool = True) -> None:
    """Give a file these contents; see `replacing`."""
    with replacing(path, flushed) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into; it becomes `folder`, which must not be there, unless the block raises.

    Raises:
        OSError: it cannot be written, or is there already; in one line with the path.
    """
    try:
        if folder.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder.parent)
        temporary = temporary_name(folder)
        temporary.mkdir()
        try:
            yield temporary
            publish_folder(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise _of_writing(folder, error) from error


def _of_writing(path: Path, error: OSError) -> OSError:
    """The error of a block that wrote `path`: one about another file, which was read meanwhile, stays as it is."""
    other = error.filename is not None and not str(error.filename).startswith(str(path.parent))
    return error if other else write_error(path, error)


def publish_folder(temporary: Path, folder: Path) -> None:
    """Give a finished folder its name, which must be free; every file in it is on the disk before."""
    for inner in sorted(temporary.rglob("*")):
        flush(inner)
    flush(temporary)
    os.replace(temporary, folder)
    if os.name == "posix":
        flush(folder.parent)


def publish_together(temporaries: Mapping[Path, Path], key: Path, gone: Iterable[Path] = ()) -> None:
    """Give finished files of one folder their names, all at once.

    They are gathered in a hidden folder, whose renaming to `.<key>.next` is the moment in which the new ones count; then they
    are moved to their places, `key` last. A process that dies before leaves the old ones; after, the new ones, which whoever
    comes next, reader or writer, moves with `finish_publishing`.

    Args:
        temporaries: finished file -> its name, in the same folder.
        key: one of the names.
        gone: names that shall not be there any more.
    """
    finish_publishing(key)
    gathered = temporary_name(key)
    gathered.mkdir()
    try:
        for temporary, path in temporaries.items():
            flush(temporary)
            os.replace(temporary, gathered / path.name)
        for path in gone:
            (gathered / f"{path.name}{GONE}").touch()
        flush(gathered)
        os.rename(gathered, key.with_name(f".{key.name}{NEXT}"))
    finally:
        shutil.rmtree(gathered, ignore_errors=True)
    flush(key.parent)
    finish_publishing(key)


def finish_publishing(path: Path) -> None:
    """Move to their places what a `publish_together` that was killed had gathered; does nothing where nothing was.

    Args:
        path: its key, or a folder: then of all keys in it.
    """
    keys = [path]
    if os.path.isdir(path):      # False, as Path.is_dir is not, for a name that is too long
        keys = [path / name[1 : -len(NEXT)] for name in os.listdir(path) if name.startswith(".") and name.endswith(NEXT)]
    for key in keys:
        _move_gathered(key.with_name(f".{key.name}{NEXT}"), key)


def _move_gathered(gathered: Path, key: Path) -> None:
    if not os.path.isdir(gathered):
        return
    for file in sorted(gathered.iterdir(), key=lambda file: file.name == key.name):
        with contextlib.suppress(FileNotFoundError):      # another process moved it meanwhile
            if file.name.endswith(GONE):
                key.with_name(file.name.removesuffix(GONE)).unlink(missing_ok=True)
            else:
                os.replace(file, key.with_name(file.name))
    shutil.rmtree(gathered, ignore_errors=True)
    flush(key.parent)


WRITING = "could not write"


def write_error(path: Path, error: OSError) -> OSError:
    """The same error in one line, with the path that was to be written."""
    if WRITING in str(error):
        return error
    reason = (error.strerror or str(error) or type(error).__name__).splitlines()[0]
    return OSError(f"{WRITING} {path}: {reason}; nothing of it was kept, files finished earlier are unharmed")


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
