"""A Hugging Face checkpoint's folder: config.json beside model.safetensors, or beside shards and their index.

Pickles (pytorch_model.bin) are never loaded. Errors name the missing or damaged file.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from . import checkpoint

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def is_hugging_face(folder: Path) -> bool:
    """Whether this is a Hugging Face folder and not one of our runs or checkpoints."""
    return (folder / CONFIG).is_file() and not (folder / "checkpoints").exists() and not (folder / checkpoint.MANIFEST).exists()


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The contents of config.json, and all tensors by name, in the dtype of the file. Raises ValueError where a file is
    missing, damaged or a pickle."""
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} has no {CONFIG}; give the folder of a Hugging Face checkpoint")
    return read_object(folder / CONFIG), _read_tensors(folder)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError where it holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:    # of JSON or of its encoding
        raise ValueError(f"{path} is no JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, an object was expected; download it again")
    return value


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():    # transformers looks in this order, too
        return _read_file(folder / WEIGHTS)
    shard_of = read_object(folder / INDEX).get("weight_map")    # the name of each tensor -> the name of its shard
    if not isinstance(shard_of, dict) or not shard_of:
        raise ValueError(f"{folder / INDEX} has no weight_map from tensors to files; download it again")
    for name in shard_of.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{folder / INDEX} names {name!r}, a file beside it was expected; download it again")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(shard_of.values())):
        tensors |= _read_file(folder / name)
    if lost := sorted(shard_of.keys() - tensors.keys()):
        raise ValueError(f"{len(lost)} of the {len(shard_of)} tensors in {folder / INDEX} are in no shard: "
                         f"{', '.join(lost[:3])}; download the folder again")
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        pickles = sorted(file.name for file in path.parent.glob("*.bin"))
        raise ValueError(f"{path} is missing; " + (
            f"{pickles[0]} is a pickle, which is never loaded: save the model again as safetensors, with transformers' "
            "from_pretrained(...).save_pretrained(...)" if pickles else "download it again"))
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read ({error}); download it again") from None
