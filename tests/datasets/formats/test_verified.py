"""Digests of large files are kept between processes, and never believed of a file that has changed."""

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico.datasets import publish
from calico.datasets.formats import verified
from calico.datasets.formats.verified import verified_sha256


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The files that were really hashed; each call is as in a new process, and files of 4 bytes are large."""
    found: list[Path] = []

    def counted(path: Path) -> str:
        found.append(path)
        return publish.sha256_now(path)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(verified, "SMALLEST", 4)
    monkeypatch.setattr(verified, "SETTLED", -1.0)
    monkeypatch.setattr(verified, "file_sha256", counted)
    yield found


def large(tmp_path: Path, content: bytes = b"many bytes") -> Path:
    path = tmp_path / "part.parquet"
    path.write_bytes(content)
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_hashed_once(tmp_path: Path, hashed: list[Path]) -> None:
    path = large(tmp_path)
    assert [verified_sha256(path) for _ in range(3)] == [sha256(b"many bytes")] * 3 and hashed == [path]


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path, hashed: list[Path]) -> None:
    path = large(tmp_path)
    verified_sha256(path)
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"M")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_size == before.st_size
    assert verified_sha256(path) == sha256(b"Many bytes") and len(hashed) == 2


def test_another_file_of_that_name_is_hashed(tmp_path: Path, hashed: list[Path]) -> None:
    path = large(tmp_path)
    verified_sha256(path)
    other = tmp_path / "other"
    other.write_bytes(b"other data")
    os.replace(other, path)
    assert verified_sha256(path) == sha256(b"other data") and len(hashed) == 2


def test_small_files_and_fresh_ones_are_not_kept(tmp_path: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was changed a moment ago may change again within the clock's resolution."""
    monkeypatch.setattr(verified, "SETTLED", 60.0)
    path = large(tmp_path)
    assert verified_sha256(path) == verified_sha256(path) and len(hashed) == 2
    monkeypatch.setattr(verified, "SETTLED", -1.0)
    monkeypatch.setattr(verified, "SMALLEST", 1000)
    assert verified_sha256(path) == verified_sha256(path) and len(hashed) == 4
    assert not (tmp_path / "cache").exists() or not kept(tmp_path)


def test_what_cannot_be_kept_is_hashed_again(tmp_path: Path, hashed: list[Path]) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    path = large(tmp_path)
    assert verified_sha256(path) == verified_sha256(path) == sha256(b"many bytes") and len(hashed) == 2


def test_a_damaged_store_begins_anew(tmp_path: Path, hashed: list[Path]) -> None:
    path = large(tmp_path)
    verified_sha256(path)
    (tmp_path / "cache" / "calico" / "digests.sqlite").write_bytes(b"no database" * 1000)
    assert [verified_sha256(path) for _ in range(3)] == [sha256(b"many bytes")] * 3 and len(hashed) == 2
    assert kept(tmp_path) == [(str(path), sha256(b"many bytes"))]


def kept(tmp_path: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(tmp_path / "cache" / "calico" / "digests.sqlite") as store:
        return store.execute("SELECT path, sha256 FROM digests").fetchall()
