"""WebDataset shards (Aizman et al., arXiv:2001.01858): .tar files whose members with one key are one sample.

    000123.jpg    the picture: .jpg, .jpeg, .png, .webp or another of images.SUFFIXES
    000123.txt    its caption
    000123.json   further keys, the caption or question among them if there is no .txt

Hidden members are passed over: macOS's tar writes a ._000123.jpg beside each. Members are read where they lie in the file
and never extracted; a name is a key and no path on the disk. Opening a shard reads its headers and captions, no pictures.
Links, devices and sparse members are refused.
"""

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from .file_store import MAX_FILE_BYTES, MAX_MEMBERS
from .images import SUFFIXES
from .publish import file_sha256
from .records import MAX_LINE_BYTES, Check, check_record, named, parse

FIRST = ("jpg", "jpeg", "png", "webp")           # of several pictures in a sample
PICTURES = (*FIRST, *sorted({suffix[1:] for suffix in SUFFIXES} - set(FIRST)))
BLOCK = 512   # of the tar format

Span: TypeAlias = tuple[int, int]   # first byte, number of bytes


@dataclass(frozen=True, slots=True)
class Sample:
    """Where the members of one sample lie in its shard."""

    shard: Path
    key: str
    members: dict[str, Span]   # extension -> span

    @property
    def picture(self) -> str | None:
        """The extension of its picture."""
        return next((extension for extension in PICTURES if extension in self.members), None)


def shards_of(path: Path) -> list[Path]:
    """The file itself, or the .tar files of a folder."""
    return sorted(path.glob("*.tar")) if path.is_dir() else [path]


class ShardRecords(Sequence[dict[str, Any]]):
    """One record per sample: the keys of its .json, `caption` from its .txt, and `image`, "shard.tar/key.jpg".

    Args:
        path: a .tar file, or a folder of them.
        check: called with each record; raises ValueError with what is wrong.
    Raises:
        ValueError: a damaged shard, a member that is no plain file, a record refused by `check`: names shard and sample.
    """

    def __init__(self, path: str | Path, check: Check) -> None:
        self.path = Path(path)
        self.samples = [sample for shard in shards_of(self.path) for sample in read_index(shard)]
        self._pictures = {image_name(sample): sample for sample in self.samples if sample.picture}
        for index in range(len(self)):
            with named(self.location(index)):
                check_record(self._record(self.samples[index]), check)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        with named(self.location(index)):
            return self._record(self.samples[index])

    def _record(self, sample: Sample) -> dict[str, Any]:
        value = parse(read_span(sample, "json", MAX_LINE_BYTES)) if "json" in sample.members else {}
        if not isinstance(value, dict):
            raise ValueError(f"the .json must hold an object {{...}}, got {type(value).__name__}")
        if "txt" in sample.members:
            value = {key: inner for key, inner in value.items() if key != "captions"}
            value["caption"] = decode(read_span(sample, "txt", MAX_LINE_BYTES))
        return {**value, "image": image_name(sample)} if sample.picture else value

    def location(self, index: int) -> str:
        return f"{self.samples[index].shard}, sample {self.samples[index].key}"

    def has_file(self, name: str) -> bool:
        """Whether a sample's picture has this name."""
        return name in self._pictures

    def file(self, name: str) -> bytes:
        """The picture of this name."""
        sample = self._pictures[name]
        return read_span(sample, str(sample.picture), MAX_FILE_BYTES)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("".join(map(file_sha256, shards_of(self.path))).encode()).hexdigest()


def image_name(sample: Sample) -> str:
    """The same key may stand in several shards."""
    return f"{sample.shard.name}/{sample.key}.{sample.picture}"


def read_span(sample: Sample, extension: str, limit: int) -> bytes:
    start, size = sample.members[extension]
    if size > limit:
        raise ValueError(f".{extension} of {size} bytes, the limit is {limit}")
    with open(sample.shard, "rb") as file:
        file.seek(start)
        return file.read(size)


def decode(data: bytes) -> str:
    """UTF-8 text without the line end that editors add."""
    try:
        return data.decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"the .txt is not UTF-8: byte {error.start} is {data[error.start]:#04x}") from error


def read_index(shard: Path) -> list[Sample]:
    """The samples of a shard, in their order."""
    samples: dict[str, Sample] = {}
    for number, member in enumerate(plain_members(shard)):
        if number >= MAX_MEMBERS:
            raise ValueError(f"{shard} has more than {MAX_MEMBERS} members; split it into several shards")
        folder, _, name = member.name.rpartition("/")
        if name.startswith("."):
            continue
        stem, _, extension = name.partition(".")         # a key ends at the first dot, as in WebDataset
        key = f"{folder}/{stem}" if folder else stem
        spans = samples.setdefault(key, Sample(shard, key, {})).members
        if extension.lower() in spans:
            raise ValueError(f"{shard}, sample {key}: two members are called .{extension.lower()}")
        spans[extension.lower()] = member.offset_data, member.size
    return list(samples.values())


def plain_members(shard: Path) -> Iterator[tarfile.TarInfo]:
    """The files in a tar, headers only.

    Raises:
        ValueError: not a tar, a damaged or compressed one; a member that is neither a plain file nor a folder.
    """
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise ValueError(f"{shard}: member {member.name!r} is not a plain file")
                yield member
            with open(shard, "rb") as file:              # tarfile takes a damaged header for the end
                file.seek(archive.offset)
                if any(file.read(BLOCK)):
                    raise ValueError(f"{shard} is damaged: what stands at byte {archive.offset} is no header of a member")
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{shard} is not a readable .tar file ({error}); unpack a compressed one first") from error
