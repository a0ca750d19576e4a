"""Checkpoints: folders of safetensors, JSON and a manifest, which a crash cannot break and which run no code when read.

    runs/demo/lock                              who is training here (run_lock.py)
    runs/demo/checkpoints/latest                "step_00000100", replaced atomically
    runs/demo/checkpoints/step_00000100/
        model.safetensors  optimizer.safetensors     tensors (training/optimizer_state.py)
        shard-00001-model-00001-of-00001.safetensors, shard-00002-...   in their place: parts of ranks (training/shards.py)
        config.json  state.json  tasks.json  ...     documents
        tokenizer.model  README.md  ...              other files
        manifest.json                                format, step, versions, size and SHA-256 of each file

safetensors has no checksum, so a flipped bit would load as a weight: every hash is checked before anything is used. A save
writes a hidden folder, flushes every file to the disk, renames the folder to its final name, then updates `latest`, and only
then deletes older checkpoints. Pickles (.pt, .bin, .pkl, ...) are never read.
"""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..datasets.formats import hub
from ..datasets.publish import (
    digest,
    finish_publishing,
    flush,
    publish_together,
    replace_file,
    sha256_now,
    temporary_name,
    versions,
    whole_folder,
    write_flushed,
)
from ..tokenizers.spelling import nearest
from .run_lock import is_alive, run_lock

__all__ = ["JSON", "Checkpoint", "CheckpointError", "checkpoints", "export", "fall_back", "find", "from_hub", "hub_folder",
           "load", "push_to_hub", "run_lock", "save"]

JSON: TypeAlias = dict[str, Any] | list[Any] | str | int | float | bool | None

FORMAT = 2               # raise it when a reader of the old layout would misread the new one
WHOLE = 1                # format of a checkpoint without shards, which the first versions of Calico read too
MANIFEST = "manifest.json"
PICKLES = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".distcp", ".metadata"})
PACKAGES = ("calico-agent", "torch", "numpy", "safetensors", "sentencepiece", "gymnasium")
STEP_FOLDER = re.compile(r"step_(\d{8,})")
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")   # one plain name: no folder, nothing hidden, no `..`
LAYERS = frozenset({"depth", "layers", "position_layers", "blocks"})     # fields of configurations that count modules
BEFORE = "before"        # document of a run that started from another's weights: what went into those, see `spent`
MOST_REPEATED = 64       # modules that may share their weights
WEIGHTS = frozenset({"model", "training"})    # stems of tensors that must be finite
NOT_FINITE = "older checkpoints are untouched. Lower optimizer.learning_rate and continue from the last one"
MAX_MANIFEST_BYTES = 1 << 20   # ours have a few thousand


class CheckpointError(ValueError):
    """A checkpoint cannot be written, found or verified; the message says which file and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """The contents of one folder, with every hash checked.

    Attributes:
        tensors: file stem ("model", "optimizer") -> named tensors of the .safetensors file.
        documents: file stem ("config", "state", "tasks") -> value of the .json file.
        files: name ("tokenizer.model") -> bytes of every other file.
        versions: of the packages that wrote it.
        sharded: stems of what lies in the files of several ranks; in `tensors`, whole, are those that `load` was to read.
    """

    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    documents: dict[str, Any]
    files: dict[str, bytes]
    versions: dict[str, str]
    sharded: frozenset[str] = frozenset()


def save(run: Path | str, step: int, *, tensors: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, JSON],
         files: Mapping[str, bytes] | None = None, keep: int = 2) -> Path:
    """Write `<run>/checkpoints/step_<step>`, make it the latest, delete all but the newest `keep` up to this step.

    Args:
        run: the run's folder; made if missing. One process at a time: hold `run_lock(run)`.
        step: training step, >= 0. Saving a step again replaces it; at every moment one of the two can be loaded.
        tensors: file stem -> names -> tensors, on any device; two names may not share memory.
        keep: at least 1.
    Returns:
        The new folder.
    Raises:
        CheckpointError: the disk is full or not writable, or a file name is not plain. Existing checkpoints are unchanged.
    """
    final, small = folder_of(run, step), _small_files(step, keep, tensors, documents, files or {})
    needed = sum(map(len, small.values())) + sum(tensor.nbytes for group in tensors.values() for tensor in group.values())
    temporary = _temporary(final)
    with _write_errors(final, needed), _removed(temporary):
        _make_temporary(temporary, needed)
        for stem in WEIGHTS & tensors.keys():
            check_finite(f"{final} is not written: {stem}", tensors[stem], NOT_FINITE)
        for stem, group in tensors.items():
            _write_tensors(temporary / f"{stem}.safetensors", group)
        for name, content in small.items():
            write_flushed(temporary / name, content)
        _write_manifest(temporary, step)
        _publish(temporary, final)
    _delete_old(final.parent, final, keep)
    return final


def begin(run: Path, step: int, needed: int) -> Path:
    """A hidden folder for a checkpoint that several ranks write (training/shards.py); the rank that publishes it makes it.

    Args:
        needed: bytes of all ranks.
    Raises:
        CheckpointError: see `save`.
    """
    temporary = _temporary(folder_of(run, step))
    with _write_errors(folder_of(run, step), needed):
        _make_temporary(temporary, needed)
    return temporary


def finish(run: Path, step: int, *, shards: Mapping[str, Mapping[str, Any]], documents: Mapping[str, JSON],
           files: Mapping[str, bytes], keep: int = 2) -> Path:
    """`save`, where the ranks have written the tensors into the folder that `begin` gave.

    Args:
        shards: name -> size and hash of every file that a rank wrote there, see `entry`.
    """
    final, small = folder_of(run, step), _small_files(step, keep, {}, documents, files)
    temporary = _temporary(final)
    with _write_errors(final, sum(map(len, small.values()))), _removed(temporary):
        for name, content in small.items():
            write_flushed(temporary / name, content)
        _write_manifest(temporary, step, shards)
        _publish(temporary, final)
    _delete_old(final.parent, final, keep)
    return final


def discard(run: Path, step: int) -> None:
    """Remove what `begin` made."""
    shutil.rmtree(_temporary(folder_of(run, step)), ignore_errors=True)


def _small_files(step: int, keep: int, stems: Collection[str], documents: Mapping[str, JSON],
                 files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Name -> content of all files but the tensors."""
    if step < 0 or keep < 1:
        raise ValueError(f"step={step}, keep={keep}: a step is at least 0 and at least 1 checkpoint is kept")
    small = {f"{stem}.json": _to_json(stem, value) for stem, value in documents.items()}
    _check_names([*(f"{stem}.safetensors" for stem in stems), *small], list(files))
    return small | dict(files)


def _temporary(final: Path) -> Path:
    return final.parent / f".saving_{final.name}_{os.getpid()}"


def _make_temporary(temporary: Path, needed: int) -> None:
    root = temporary.parent
    root.mkdir(parents=True, exist_ok=True)
    _tidy(root)
    if needed > shutil.disk_usage(root).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    temporary.mkdir()


@contextmanager
def _removed(temporary: Path) -> Iterator[None]:
    """After this block the folder is gone; it has been renamed where all went well."""
    try:
        yield
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _write_errors(final: Path, needed: int) -> Iterator[None]:
    root = final.parent
    try:
        yield
    except (OSError, SafetensorError) as error:
        free = f"{shutil.disk_usage(root).free:,}" if os.path.isdir(root) else "an unknown number"
        raise CheckpointError(f"cannot write {final}: {error}; it needs {needed:,} bytes and {free} are free. "
                              "Free some space or choose another folder; older checkpoints are untouched") from None


def folder_of(run: Path | str, step: int) -> Path:
    """Where the checkpoint of a step stands, or would stand."""
    return Path(run) / "checkpoints" / f"step_{step:08d}"


def _publish(temporary: Path, final: Path) -> None:
    """Rename the finished folder, then update `latest`; each is one atomic rename."""
    root = final.parent
    flush(temporary)
    if final.exists():
        os.rename(final, _replaced(final))   # find() reads this one if the process is killed before the next line
    os.rename(temporary, final)
    flush(root)
    pointer = root / f".saving_latest_{os.getpid()}"
    write_flushed(pointer, final.name.encode())
    os.replace(pointer, root / "latest")
    flush(root)


def _replaced(folder: Path) -> Path:
    return folder.with_name(f".replaced_{folder.name}")


def _delete_old(root: Path, latest: Path, keep: int) -> None:
    """Delete all but the newest `keep` up to `latest`. Later steps, of a run that was resumed from an earlier one, stay."""
    steps = checkpoints(root.parent)
    for folder in steps[:steps.index(latest) + 1][:-keep]:
        os.rename(folder, root / f".deleting_{folder.name}")   # a half-deleted folder must not look like a checkpoint
    _tidy(root)


def _tidy(root: Path) -> None:
    """Remove files that killed processes left; a save in progress in another process is not touched."""
    for folder in root.glob(".replaced_step_*"):
        final = root / folder.name.removeprefix(".replaced_")
        if not final.exists():
            os.rename(folder, final)
    for folder in [*root.glob(".replaced_step_*"), *root.glob(".deleting_step_*")]:
        shutil.rmtree(folder, ignore_errors=True)
    for unfinished in root.glob(".saving_*"):
        pid = unfinished.name.rpartition("_")[2]
        if pid.isdecimal() and (int(pid) == os.getpid() or not is_alive(int(pid))):
            unfinished.unlink() if unfinished.is_file() else shutil.rmtree(unfinished, ignore_errors=True)


def _check_names(made: list[str], given: list[str]) -> None:
    for name in made + given:
        if not _is_plain(name):
            raise CheckpointError(f"{name!r} cannot be a file of a checkpoint: give a plain name, no pickle, not {MANIFEST}")
    for name in given:
        if name.endswith((".json", ".safetensors")):   # load() would give it back elsewhere
            raise CheckpointError(f"{name!r} is among files=: give JSON as documents= and safetensors as tensors=")


def _to_json(stem: str, value: JSON) -> bytes:
    try:
        return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{stem}.json cannot be written: {error}; give plain finite JSON values") from None


def _write_tensors(path: Path, group: Mapping[str, Tensor]) -> None:
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in group.items()}, path)
    except RuntimeError as error:   # safetensors' own text is a paragraph with links
        shared = re.search(r"\[\{.*?\}\]", str(error))
        raise CheckpointError(f"{path.name}: names {shared.group() if shared else error} share memory; "
                              "save a tied tensor under one name") from None
    flush(path)


def _write_manifest(folder: Path, step: int, known: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """known: name -> entry of files whose hash is known already."""
    entries = {path.name: (known or {}).get(path.name) or entry(path) for path in sorted(folder.iterdir()) if path.is_file()}
    if missing := sorted(set(known or {}) - entries.keys()):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder / missing[0]))
    write_flushed(folder / MANIFEST, _manifest(step, entries))


def entry(path: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256_now(path)}


def _manifest(step: int, entries: Mapping[str, Any]) -> bytes:
    written = FORMAT if any(map(_is_shard, entries)) else WHOLE
    manifest: dict[str, Any] = {"format": written, "step": step, "versions": versions(PACKAGES), "files": entries}
    manifest["sha256"] = _digest(manifest)
    return (json.dumps(manifest, indent=2) + "\n").encode()


def _digest(manifest: Mapping[str, Any]) -> str:
    """Hash of the rest of the manifest, to detect a flipped bit in the manifest itself."""
    return digest({key: value for key, value in manifest.items() if key != "sha256"})


def load(path: Path | str, *, map_location: str | torch.device = "cpu", only: Collection[str] | None = None,
         parts_later: bool = False) -> Checkpoint:
    """Read a checkpoint after checking every file against the manifest; tensors that ranks wrote in parts are joined.

    Args:
        path: a run's folder (its latest checkpoint), one checkpoint's folder, or "owner/name[@revision]" of the Hub.
        map_location: device of the tensors.
        only: stems of the tensor files to read, such as ("model",) for acting; None: all. All are checked.
        parts_later: of a checkpoint that ranks wrote in parts the model alone is read; Trainer.restore reads the rest, on each
            rank its part.
    Raises:
        CheckpointError: nothing is there, a file is missing, cut short or changed, or it is a pickle. The message names
            the file, and the newest good checkpoint beside it if there is one; nothing is chosen silently.
    """
    folder = find(path)
    try:
        manifest = _verify(folder)
        saved = Checkpoint(folder, manifest["step"], {}, {}, {}, manifest["versions"])
        for file in map(folder.joinpath, manifest["files"]):
            if file.suffix == ".json":
                saved.documents[file.stem] = _read_json(file)
            elif file.suffix != ".safetensors":
                saved.files[file.name] = file.read_bytes()
            elif _is_shard(file.name):
                continue
            elif only is None or file.stem in only:
                saved.tensors[file.stem] = _read_tensors(file, torch.device(map_location))
        if any(map(_is_shard, manifest["files"])):
            saved = _with_shards(saved, manifest["files"], ("model",) if parts_later else only, torch.device(map_location))
    except CheckpointError as error:
        raise CheckpointError(f"{error}. {_advice(folder)}") from None
    return saved


def _is_shard(name: str) -> bool:
    """Whether a file is one rank's: training/shards.py reads it, which loads more of torch, so only where there are such."""
    return name.startswith("shard-") and name.endswith(".safetensors")


def _with_shards(saved: Checkpoint, files: Collection[str], only: Collection[str] | None, device: torch.device) -> Checkpoint:
    from .training import shards

    try:
        there = shards.stored(saved.path, files)
        chosen = {name: like for name, like in there.items() if only is None or name.partition("/")[0] in only}
        for name, tensor in shards.read(saved.path, there, chosen).items():
            stem, _, key = name.partition("/")
            saved.tensors.setdefault(stem, {})[key] = tensor.to(device)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    for stem in WEIGHTS & saved.tensors.keys():
        check_finite(f"{saved.path}: {stem}", saved.tensors[stem], "its training went wrong")
    return replace(saved, sharded=frozenset(name.partition("/")[0] for name in there))


def read_parts(saved: Checkpoint, like: Callable[[str, str], Tensor | None]) -> dict[str, dict[str, Tensor]]:
    """What a rank needs of a checkpoint that ranks wrote in parts, which `load` has verified: stem -> named tensors.

    Args:
        like: (stem, name) -> a tensor of this rank; where it is sharded (DTensor) only the same part is read. None, or one of
            another shape: the whole tensor is read.
    Raises:
        CheckpointError: weights are not finite, or the files were changed since.
    """
    from .training import shards
    from .training.ranks import local

    files = [path.name for path in saved.path.glob("*.safetensors")]
    found: dict[str, dict[str, Tensor]] = {}
    try:
        there, wanted = shards.stored(saved.path, files), dict[str, Any]()
        for name, stored in there.items():
            own = like(*name.split("/", 1))
            fits = own is not None and own.shape == stored.size
            wanted[name] = torch.empty_like(own.detach(), dtype=stored.properties.dtype) if own is not None and fits else stored
        for name, tensor in shards.read(saved.path, there, wanted).items():
            stem, _, key = name.partition("/")
            found.setdefault(stem, {})[key] = tensor
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    for stem in WEIGHTS & found.keys():
        check_finite(f"{saved.path}: {stem}", {name: local(tensor) for name, tensor in found[stem].items()},
                     "its training went wrong")
    return found


def find(path: Path | str) -> Path:
    """The checkpoint folder of `path`: itself, or the latest of a run. Raises CheckpointError, with the reason, for none."""
    path = here(path)
    if path.is_file():
        raise CheckpointError(_refusal(path))
    if not path.is_dir():
        names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, names)
        raise CheckpointError(f"{path} does not exist" + (f"; did you mean {path.parent / near[0]}?" if near else
                                                          "; give the folder of a run, such as runs/demo"))
    if (path / MANIFEST).exists():
        return path
    root = path if path.name == "checkpoints" else path / "checkpoints"
    if root.is_dir() and (root / "latest").exists():
        return _latest(root)
    if root.is_dir() and checkpoints(root.parent):   # killed after the very first rename, before `latest`
        return checkpoints(root.parent)[-1]
    if (pickles := [other for other in sorted(path.iterdir()) if _is_pickle(other)]) and not root.is_dir():
        raise CheckpointError(_refusal(pickles[0]))
    if STEP_FOLDER.fullmatch(path.name) or (path / "model.safetensors").exists():
        raise CheckpointError(f"{path / MANIFEST} is missing, so nothing in the folder can be checked. {_advice(path)}")
    raise CheckpointError(f"{path} holds no checkpoint (no {MANIFEST}, no checkpoints/latest); give the folder of a "
                          "run that has saved at least once")


def checkpoints(run: Path | str) -> list[Path]:
    """Finished checkpoint folders of a run, oldest step first, not verified."""
    root = Path(run) / "checkpoints"
    steps = {folder: int(match[1]) for folder in root.glob("step_*") if (match := STEP_FOLDER.fullmatch(folder.name))}
    return sorted(steps, key=lambda folder: steps[folder])


def _latest(root: Path) -> Path:
    pointer = root / "latest"
    name = pointer.read_bytes()[:100].decode(errors="replace").strip()
    if not STEP_FOLDER.fullmatch(name):
        raise CheckpointError(f"{pointer} says {name!r}, which is not the name of a checkpoint. {_advice(pointer)}")
    folder = root / name
    for found in (folder, _replaced(folder)):   # the second: killed while this step was being saved again
        if found.is_dir():
            return found
    raise CheckpointError(f"{pointer} names {name}, but {folder} is missing. {_advice(folder)}")


def _verify(folder: Path) -> dict[str, Any]:
    """The manifest, after checking the size and hash of every file in it."""
    path = folder / MANIFEST
    finish_publishing(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes, more than any manifest of ours")
    manifest = _read_json(path)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise CheckpointError(f"{path} is not a checkpoint manifest of Calico")
    if manifest["format"] > FORMAT:
        raise CheckpointError(f"{path} has format {manifest['format']}, this Calico reads up to {FORMAT}; run: "
                              "pip install --upgrade calico-agent")
    if not _is_well_formed(manifest) or manifest["sha256"] != _digest(manifest):
        raise CheckpointError(f"{path} was changed or damaged after it was written")
    for name, entry in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing")
        if file.stat().st_size != entry["bytes"]:
            raise CheckpointError(f"{file} has {file.stat().st_size:,} bytes instead of {entry['bytes']:,}: "
                                  "it was cut short or changed")
        if sha256_now(file) != entry["sha256"]:
            raise CheckpointError(f"{file} does not match its SHA-256 in {MANIFEST}: it was changed or damaged")
    return manifest


def _is_well_formed(manifest: dict[str, Any]) -> bool:
    """Whether it has exactly the fields that _write_manifest writes, with plain file names: anybody can compute a digest."""
    if manifest.keys() != {"format", "step", "versions", "files", "sha256"}:
        return False
    step, versions, entries = manifest["step"], manifest["versions"], manifest["files"]
    return (isinstance(step, int) and step >= 0
            and isinstance(versions, dict) and all(isinstance(text, str) for text in versions.values())
            and isinstance(entries, dict) and all(map(_is_plain, entries)) and all(
                isinstance(entry, dict) and entry.keys() == {"bytes", "sha256"}
                and isinstance(entry["bytes"], int) and isinstance(entry["sha256"], str) for entry in entries.values()))


def _is_plain(name: str) -> bool:
    """Whether it can be the name of a file in a checkpoint."""
    return FILE_NAME.fullmatch(name) is not None and name != MANIFEST and Path(name).suffix not in PICKLES


def _read_tensors(path: Path, device: torch.device) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from None
    if path.stem in WEIGHTS:
        check_finite(str(path), tensors, "its training went wrong")
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def check_finite(where: str, group: Mapping[str, Tensor], advice: str) -> None:
    """Raise CheckpointError unless all weights are finite: a network with NaN plays on, and badly, without a word."""
    for name, tensor in group.items():
        # A sum costs a fraction of a hash; it may overflow where every value is finite.
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise CheckpointError(f"{where}, tensor {name}: {count} of {tensor.numel()} values are not finite: {advice}")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:   # ValueError covers bad UTF-8 too
        raise CheckpointError(f"{path} is not valid JSON ({error}): it was changed or damaged") from None


def _advice(folder: Path) -> str:
    """What to do about a bad checkpoint: the newest good one beside it."""
    for other in reversed(checkpoints(folder.parent.parent) if folder.parent.name == "checkpoints" else []):
        with suppress(CheckpointError, OSError):
            if other.name != folder.name and _verify(other):
                return f"The newest good checkpoint beside it is {other}: give that path"
    return "There is no other good checkpoint beside it: copy it again from where it came, or start a new run"


def check_layers(document: Any, tensors: int) -> None:
    """Raise ValueError where a model's document asks for more layers than the file has tensors: making them takes for ever."""
    if isinstance(document, Mapping):
        for name, value in document.items():
            if name in LAYERS and isinstance(value, int) and value > max(tensors, MOST_REPEATED):
                raise ValueError(f"it asks for {name}={value}, and there are {tensors} tensors")
            check_layers(value, tensors)
    elif isinstance(document, list):
        for value in document:
            check_layers(value, tensors)


def check_shapes(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the tensors are the model's, which is on the device "meta": before memory is taken for it."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        name = min(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ValueError(f"tensor {name} has the shape {found.get(name, 'none')}, the model's is {expected.get(name, 'none')}")


def fall_back(run: Path | str) -> Path:
    """Make the newest good checkpoint of a run its latest; damaged ones that are newer are set aside as `damaged_step_...`.

    Returns:
        its folder. One process at a time: hold `run_lock(run)`.
    Raises:
        CheckpointError: none is good.
    """
    steps = checkpoints(run)
    while steps:
        with suppress(CheckpointError, OSError):
            load(steps[-1])
            break
        steps.pop()
    else:
        raise CheckpointError(f"{run} has no good checkpoint to fall back to; start a new run")
    good, root = steps[-1], steps[-1].parent
    replace_file(root / "latest", good.name)
    for folder in checkpoints(run)[len(steps):]:
        aside = root / f"damaged_{folder.name}"
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(folder, aside)
    return good


def _is_pickle(path: Path) -> bool:
    return path.suffix in PICKLES or path.name in PICKLES


def _refusal(path: Path) -> str:
    if _is_pickle(path):
        return (f"{path} is a pickle, which can run any code when it is read: Calico never loads one. "
                "Give a checkpoint folder (safetensors and JSON)")
    return f"{path} is a file; give the folder of a run or of a checkpoint" + (
        f", such as {path.parent}" if (path.parent / MANIFEST).exists() else "")


def spent(saved: Checkpoint) -> dict[str, float]:
    """Tokens and seconds of training that went into the weights, those of the runs that it started from included."""
    parts = [saved.documents.get(stem, {}) for stem in ("state", BEFORE)]
    return {key: sum(part.get(key, 0) for part in parts) for key in ("tokens", "seconds")}


def pack(saved: Checkpoint, out: Path | str, documents: Mapping[str, JSON]) -> Path:
    """A checkpoint's network alone in the new folder `out`: weights in bf16, its files and these documents."""
    out = Path(out)
    weights = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor
               for name, tensor in saved.tensors["model"].items()}
    with _new_folder(out) as folder:
        _write_tensors(folder / "model.safetensors", weights)
        for name, content in saved.files.items():
            write_flushed(folder / name, content)
        for stem, document in documents.items():
            write_flushed(folder / f"{stem}.json", json.dumps(document, allow_nan=False).encode())
        _write_manifest(folder, saved.step)
    return out


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    try:
        with whole_folder(out) as folder:
            yield folder
    except OSError as error:
        raise CheckpointError(f"{error}; give a folder that does not exist yet") from None


def add(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put more files into a checkpoint's folder, or replace some of its own: all of them, or none if the process dies."""
    manifest = _verify(folder)
    changed: dict[Path, Path] = {}
    for name, content in files.items():
        changed[(temporary := temporary_name(folder / name))] = folder / name
        write_flushed(temporary, content)
        manifest["files"][name] = {"bytes": len(content), "sha256": sha256_now(temporary)}
    changed[(temporary := temporary_name(folder / MANIFEST))] = folder / MANIFEST
    write_flushed(temporary, _manifest(manifest["step"], manifest["files"]))
    publish_together(changed, folder / MANIFEST)


def export(path: Path | str, out: Path | str, *, optimizer: bool = False) -> Path:
    """Copy a checkpoint into the new folder `out` with its own manifest, what ranks wrote in parts joined; optimizer: with the
    optimizer's state."""
    dropped = () if optimizer else ("optimizer", "training")                          # what only a resumed run needs
    checkpoint, out = load(path, only=()), Path(out)
    with _new_folder(out) as folder:
        for name in _verify(checkpoint.path)["files"]:
            if not _is_shard(name) and name not in [f"{stem}.safetensors" for stem in dropped]:
                shutil.copyfile(checkpoint.path / name, folder / name)
        for stem in sorted(checkpoint.sharded - set(dropped)):
            _write_tensors(folder / f"{stem}.safetensors", load(checkpoint.path, only=(stem,)).tensors[stem])
        _write_manifest(folder, checkpoint.step)
    return out


def push_to_hub(path: Path | str, repo_id: str, *, private: bool = False, optimizer: bool = False,
                files: Mapping[str, bytes] | None = None) -> str:
    """Verify a checkpoint and upload it to the Hugging Face Hub, after `hf auth login`; returns its address.

    Args:
        files: more files for its folder, such as README.md.
    """
    with tempfile.TemporaryDirectory() as scratch, _hub_errors():
        folder = export(path, Path(scratch) / "checkpoint", optimizer=optimizer)
        if files:
            add(folder, files)
        return hub.upload(folder, repo_id, kind="model", private=private, message="Calico checkpoint")


def from_hub(repo_id: str, *, revision: str | None = None, map_location: str | torch.device = "cpu",
             only: Collection[str] | None = None) -> Checkpoint:
    """Download a checkpoint and load it, every hash checked; a local folder is loaded, too. Pickles are not downloaded."""
    folder = Path(repo_id) if Path(repo_id).exists() else hub_folder(repo_id, revision)
    return load(folder, map_location=map_location, only=only)


def hub_folder(repo_id: str, revision: str | None = None) -> Path:
    """A repository of the Hub on this disk, downloaded where it is not yet; without its pickles."""
    with _hub_errors():
        return hub.hub_folder(repo_id, revision, without=[f"*{suffix}" for suffix in sorted(PICKLES)])


def here(path: Path | str) -> Path:
    """A path as it is; or a network of the Hub, "owner/name[@revision]", as a folder, where there is nothing of that name."""
    if (name := hub.hub_name(path)) is None:
        return Path(path)
    try:
        return hub_folder(*name)
    except CheckpointError as error:
        raise CheckpointError(f"{path} does not exist here; {error}") from None


@contextmanager
def _hub_errors() -> Iterator[None]:
    try:
        yield
    except hub.HubError as error:
        raise CheckpointError(str(error)) from None
