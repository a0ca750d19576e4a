"""Tensors that several ranks keep in one folder: one safetensors file a rank, with its part of every sharded tensor.

torch.distributed.checkpoint writes and reads them in its Hugging Face format (safetensors whose header says where each part
belongs), so `HuggingFaceStorageReader(folder)` of PyTorch reads the folder as well. Here no rank waits for another one: which
file a rank writes follows from its number, and each reads what it needs. Its names are `<stem>/<tensor>`: model/head.weight.

    on each rank:   write(folder, rank, own_part({"model/head.weight": ...}, rank))
    later, on any:  there = stored(folder, files)
                    read(folder, there, there)                                       # whole
                    read(folder, there, {"model/head.weight": empty DTensor})        # a part
"""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata
from torch.distributed.tensor import DTensor

from ...datasets.publish import flush
from .ranks import local

# It says so whenever it is told that no rank waits for another one, on each rank and at each save.
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)


class _Writer(HuggingFaceStorageWriter):
    """Writes the file of one rank. PyTorch's own numbers the files in the order in which ranks answer it."""

    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__(str(folder), save_distributed=True)
        self.number = rank + 1      # `rank` is what PyTorch calls the rank of those who write together, here one

    def prepare_global_plan(self, plans: list[Any]) -> list[Any]:
        return [replace(plan, storage_data={"shard_index": self.number}) for plan in plans]


def own_part(tensors: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """What a rank writes: its part of each sharded tensor, where it has any; the first one also what every rank has whole."""
    return {name: tensor.detach() for name, tensor in tensors.items()
            if (local(tensor).numel() if isinstance(tensor, DTensor) else rank == 0)}


def nbytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the parts that this process has."""
    return sum(local(tensor).nbytes for tensor in tensors.values())


def write(folder: Path, rank: int, tensors: Mapping[str, Tensor]) -> list[Path]:
    """The rank's file in the folder, flushed to the disk; no file where the rank has nothing.

    Raises:
        OSError: it cannot be written.
    """
    if not tensors:
        return []
    try:
        dcp.save(dict(tensors), storage_writer=_Writer(folder, rank), no_dist=True)
    except dcp.api.CheckpointException as error:
        reason = _reason(error)
        raise (reason if isinstance(reason, OSError) else OSError(repr(reason))) from None
    (written,) = folder.glob(f"shard-{rank + 1:05d}-*")
    flush(written)
    return [written]


def stored(folder: Path, files: Collection[str]) -> dict[str, TensorStorageMetadata]:
    """Name -> shape, dtype and parts of every tensor in these files of a folder.

    Raises:
        ValueError: the folder has other shards than these, a file is no safetensors, or the parts are not exactly the tensor:
            one is missing, or two overlap.
    """
    if strangers := sorted(path.name for path in folder.glob("*.safetensors") if path.name not in files):
        raise ValueError(f"{folder / strangers[0]} does not belong to the checkpoint; remove it")
    try:
        found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"the shards in {folder} cannot be read: {error!r}") from None
    for name, entry in found.items():
        assert isinstance(entry, TensorStorageMetadata)
        _check_whole(folder, name, entry.chunks)
    return dict(found)    # type: ignore[arg-type]


def _check_whole(folder: Path, name: str, parts: list[ChunkStorageMetadata]) -> None:
    """Raise ValueError unless the parts follow one another along the first dimension, as ranks cut tensors. Otherwise memory
    would stay as it was found, or a header of a few bytes would ask for more memory than there is."""
    at = 0
    for part in sorted(parts, key=lambda part: tuple(part.offsets)):
        offsets, sizes = tuple(part.offsets), tuple(part.sizes)
        empty = not prod(sizes) and len(parts) > 1
        if (offsets[:1] or (0,)) != (at,) or any(offsets[1:]) or sizes[1:] != tuple(parts[0].sizes)[1:] or empty:
            raise ValueError(f"the shards in {folder} do not make up the tensor {name}: after row {at} comes the part at "
                             f"{list(offsets)} of shape {list(sizes)}, so a shard is missing or was changed")
        at += sizes[0] if sizes else 1


def read(folder: Path, there: Mapping[str, TensorStorageMetadata],
         wanted: Mapping[str, Tensor | TensorStorageMetadata]) -> dict[str, Tensor]:
    """The wanted tensors of a folder whose files have been verified.

    Args:
        there: what `stored` gave for it.
        wanted: name -> a tensor of that shape and dtype, sharded (DTensor) where only this rank's part is wanted; or an entry
            of `stored`: all of it. Given tensors are filled.
    Raises:
        ValueError: a tensor is not there, or has another shape, or cannot be read.
    """
    tensors: dict[str, Any] = {}
    for name, like in wanted.items():
        tensors[name] = like if isinstance(like, Tensor) else torch.empty(like.size, dtype=like.properties.dtype)
        if name not in there:
            raise ValueError(f"the shards in {folder} have no tensor {name}")
        if tensors[name].shape != there[name].size:
            raise ValueError(f"tensor {name} in {folder} has shape {tuple(there[name].size)} instead of "
                             f"{tuple(tensors[name].shape)}")
    try:
        dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except dcp.api.CheckpointException as error:
        raise ValueError(f"the shards in {folder} cannot be read: {_reason(error)!r}") from None
    return tensors


def _reason(error: dcp.api.CheckpointException) -> BaseException:
    """What went wrong in this process; the exception itself, no subclass of Exception, is a page of tracebacks."""
    return next(fault for fault, _ in error.failures.values())
