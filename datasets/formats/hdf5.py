"""HDF5 files of strangers: what a file may say of other files, and of its own size.

The format lets a file name others whose bytes become its arrays: links to other files, external storage, virtual data sets.
Such a file from a stranger copies whatever you may read into your episodes, so they are refused.
"""

import math
from typing import Any

from ...tokenizers.budget import check_bytes


def import_h5py() -> Any:
    """The package. Raises ImportError with what to install where it is missing."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError('reading HDF5 needs h5py; run: pip install "calico-agent[data]"') from error
    return h5py


def check_inside(group: Any) -> int:
    """Look at everything in a file or group.

    Returns:
        bytes that its arrays take.
    Raises:
        ValueError: something in it lies in another file.
    """
    h5py = import_h5py()
    total, seen, waiting = 0, set[Any](), [group]
    while waiting:
        current = waiting.pop()
        for name in current:
            link = current.get(name, getlink=True)
            where = f"{current.name.rstrip('/')}/{name}"
            if isinstance(link, h5py.ExternalLink):
                raise ValueError(f"{where} is a link to another file, {link.filename!r}, which is not followed; copy the data "
                                 "into one file")
            found = current.get(name) if isinstance(link, h5py.HardLink) else None     # soft links lead to what is seen anyway
            if isinstance(found, h5py.Dataset):
                if found.external or found.is_virtual:
                    raise ValueError(f"the data of {where} lie in another file, which is not read; copy them into one file")
                total += math.prod(found.shape or ()) * found.dtype.itemsize
            elif isinstance(found, h5py.Group) and (key := h5py.h5o.get_info(found.id).addr) not in seen:
                seen.add(key)
                waiting.append(found)
    return total


def check_episodes(file: Any) -> None:
    """For a file with a group per episode: everything is inside, and no episode is larger than the limit.

    Raises:
        ValueError: else.
    """
    check_inside(file)
    for name in file:
        if hasattr(file[name], "keys"):
            check_bytes(check_inside(file[name]), f"group {name}")
