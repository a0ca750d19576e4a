"""What a reader may take of the memory: sizes that a file declares are checked before memory is taken for them.

A file of some kilobytes can declare arrays of terabytes, or repeat one value a billion times. The limit is 2 GB for one thing
that is read (an array, a row group, a document, a space), or what the environment variable CALICO_READ_LIMIT_GB says.
"""

import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

VARIABLE = "CALICO_READ_LIMIT_GB"
DEFAULT = 2.0


def limit() -> int:
    """Bytes that one thing may take.

    Raises:
        ValueError: the variable is no positive number.
    """
    text = os.environ.get(VARIABLE, str(DEFAULT))
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 < gigabytes < math.inf:
        raise ValueError(f"{VARIABLE}={text} is no positive number of gigabytes")
    return int(gigabytes * 1e9)


def check_bytes(needed: float, what: str) -> None:
    """Raise ValueError where `what` would take more memory than the limit."""
    if needed > (most := limit()):
        raise ValueError(f"{what} would take {needed / 1e9:,.1f} GB of memory, the limit is {most / 1e9:g} GB; if you trust "
                         f"its source, raise {VARIABLE}")


def check_shape(shape: Sequence[int], dtype: Any, what: str) -> None:
    """The same for an array of this shape."""
    if any(side < 0 for side in shape):
        raise ValueError(f"{what} has the shape {tuple(shape)}, which no array has")
    check_bytes(math.prod(map(int, shape)) * np.dtype(dtype).itemsize, what)


def check_npz(file: Path | str | IO[bytes], what: str = "its arrays") -> None:
    """The same for all arrays of a .npz file together, by their headers. What is no such file is left to who reads it."""
    if not zipfile.is_zipfile(file):
        return
    total = 0
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.filename.endswith(".npy"):
                with archive.open(member) as stream:
                    total += _declared(stream)
    if hasattr(file, "seek"):
        file.seek(0)
    check_bytes(total, what)


def check_npy(stream: IO[bytes], what: str = "its array") -> None:
    """The same for a .npy file."""
    total = _declared(stream)
    stream.seek(0)
    check_bytes(total, what)


def _declared(stream: IO[bytes]) -> int:
    """Bytes of the array whose header begins here."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return math.prod(shape) * dtype.itemsize


def json_bytes(data: bytes) -> int:
    """About how much memory a JSON document takes when it is parsed, rather more than less: by the signs it is made of."""
    objects, lists, texts = data.count(b"{"), data.count(b"["), data.count(b'"') // 2
    return len(data) + 240 * objects + 80 * lists + 60 * texts + 32 * data.count(b",")
