"""Named files in a folder or a zip, decoded with limits: what comes from outside may be broken or hostile.

Members of a zip are read as a stream and never extracted; their names are keys, so "../x.png" names a file of the zip and no
path on the disk.
"""

import base64
import hashlib
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

import numpy as np

from .byte_cache import ByteCache
from .publish import file_sha256

MAX_FILE_BYTES = 1 << 26       # one compressed file
INLINE = "data:"               # begins a name that is the file itself, RFC 2397
LOCAL = "file://"              # begins a name that is a path, RFC 8089
WEB = re.compile("(?i)(https?|ftp)://")
MAX_MEMBERS = 1_000_000        # in a zip; its list of members is held in memory


@lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def local_name(name: str) -> str:
    """A name as a path: file:///a/b%20c.png is /a/b c.png.

    Raises:
        ValueError: it lies on the web, where nothing is read from.
    """
    if WEB.match(name):
        raise ValueError(f"{name[:80]} lies on the web; download it and name the file")
    return unquote(name.removeprefix(LOCAL)) if name.startswith(LOCAL) else name


class FileSource(Protocol):
    """Files inside other data: the rows of a table, the samples of a shard."""

    path: Path

    def has_file(self, name: str) -> bool: ...
    def file(self, name: str) -> bytes: ...
    @property
    def fingerprint(self) -> str: ...


def files_below(folder: Path | str, below: str = "") -> Iterator[str]:
    """The files of a folder and the folders below it, as names with "/"; links to folders are not followed.

    A hundred thousand pathlib.Path take as long as a tenth of that many small pictures.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from files_below(entry.path, f"{below}{entry.name}/")
            elif entry.is_file():
                yield below + entry.name


class FileStore:
    """Named files, each decoded to an array; the latest ones are kept decoded.

    Args:
        path: a folder or a .zip file, or what holds the files.
        cache_bytes: memory for decoded files.
    Attributes:
        remarked: what a user should know of files decoded so far, by name.
    Raises:
        ValueError: the path is neither; the zip is broken or has more than MAX_MEMBERS members.
    """

    what = "file"    # what a file is called in errors
    remarked: dict[str, str]
    suffixes: tuple[str, ...] = ()

    def __init__(self, path: str | Path | FileSource, *, cache_bytes: int = 1 << 27) -> None:
        self._source = None if isinstance(path, str | Path) else path
        self.path = Path(path) if isinstance(path, str | Path) else path.path
        self._cache: ByteCache[str, np.ndarray] = ByteCache(cache_bytes, attrgetter("nbytes"))
        self.remarked = {}
        self._zip: zipfile.ZipFile | None = None
        self._process = 0
        self._names: frozenset[str] | None = None
        self._visible: list[str] | None = None        # read once: a folder may hold a hundred thousand
        if self._source is None and self.path.is_file():
            self._names = frozenset(self._open().namelist())
        elif self._source is None and not self.path.is_dir():
            raise ValueError(f"{self.path} is neither a folder nor a .zip file of {self.what}s")

    def decode(self, data: bytes, name: str) -> np.ndarray:
        """The array that a file of this name holds; ValueError says what is wrong with it."""
        raise NotImplementedError

    @property
    def remarks(self) -> Counter[str]:
        """What was remarked, each with how many files it is true of."""
        return Counter(self.remarked.values())

    def names(self) -> Sequence[str]:
        """All files in alphabetical order, hidden ones left out; a folder's with the folders below it."""
        if self._visible is None:
            names = self._names if self._names is not None else files_below(self.path)
            self._visible = sorted(name for name in names if not name.endswith("/")
                                   and not any(part.startswith((".", "__MACOSX")) for part in name.split("/")))
        return self._visible

    def __contains__(self, name: str) -> bool:
        """Whether there is such a file; it may still turn out to be broken."""
        if name.startswith(INLINE):
            return True
        if self._source is not None:
            return self._source.has_file(name)
        return name in self._names if self._names is not None else os.path.isfile(self._file(name))

    def __getitem__(self, name: str) -> np.ndarray:
        """The decoded file, read-only.

        Raises:
            ValueError: missing, unreadable, too large: names the folder or zip and the file.
        """
        return self._cache.get(name, lambda: self._decoded(name))

    def _decoded(self, name: str) -> np.ndarray:
        try:
            values = self.decode(self.read(name), name)
        # RuntimeError: an encrypted member; KeyError: no such member; the others: a damaged one.
        except (OSError, ValueError, KeyError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self.what} {name[:200]!r} in {self.path}: {error or type(error).__name__}") from error
        values.flags.writeable = False       # shared through the cache
        return values

    def fingerprint(self, names: Sequence[str]) -> str:
        """Identifies the files: a zip by its SHA-256, a folder by the names and sizes of the files that are used."""
        if self._source is not None:
            return self._source.fingerprint
        if self._names is not None:
            return file_sha256(self.path)
        sizes = sorted((name, os.stat(self._file(name)).st_size) for name in set(names) if not name.startswith(INLINE))
        return hashlib.sha256(repr(sizes).encode()).hexdigest()

    def read(self, name: str) -> bytes:
        """The file's bytes; errors of the system and of zip files come as they are. A data: URL holds them itself."""
        if name.startswith(INLINE):
            return base64.b64decode(name.partition(",")[2], validate=True)
        if self._source is not None:
            return self._source.file(name)
        zipped = self._names is not None
        with self._open().open(name) if zipped else open(self._file(name), "rb") as stream:
            size = MAX_FILE_BYTES if zipped else os.fstat(stream.fileno()).st_size
            data = stream.read(min(size, MAX_FILE_BYTES) + 1)     # it takes so much memory first
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
        return data

    def _file(self, name: str) -> str:
        folder, last = os.path.split(os.path.join(self.path, local_name(name)))
        file = os.path.join(_real(folder), last)     # to resolve each name takes a tenth of the time that its picture takes
        if last in ("", ".", "..") or os.path.islink(file):
            file = os.path.realpath(file)
        if not file.startswith(os.path.join(_real(str(self.path)), "")):
            raise ValueError(f"{self.what} {name!r} lies outside {self.path}; give names inside the folder")
        return file

    def _open(self) -> zipfile.ZipFile:
        # Forked workers would share the file's position, so each process opens the zip for itself.
        if self._zip is None or self._process != os.getpid():
            try:
                self._zip = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
                raise ValueError(f"{self.path} is not a readable zip file: {error}") from error
            self._process = os.getpid()
            if len(self._zip.filelist) > MAX_MEMBERS:
                raise ValueError(f"{self.path} has {len(self._zip.filelist)} members, the limit is {MAX_MEMBERS}; use a folder")
        return self._zip

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None, "_visible": None}
