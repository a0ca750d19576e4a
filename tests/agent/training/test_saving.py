"""Checkpoints that ranks write in parts, and that are written while training goes on; real gloo ranks, forked from the test."""

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint import HuggingFaceStorageReader

from calico.agent import checkpoint
from calico.agent.model import Model
from calico.agent.training import shards
from calico.agent.training.ranks import ALONE, Ranks
from calico.agent.training.saving import Saver
from calico.agent.training.trainer import Trainer

from .test_ranks import ADAMW, CONFIG, MUON, batch, new_trainer, on_ranks

FSDP = replace(CONFIG, shard="fsdp", steps=6, save_every=3, log_every=1)


def trainer_of(ranks: Ranks, run: Path, config: Any = FSDP, optimizer: Any = ADAMW) -> Trainer[Model]:
    """A trainer that goes on where the run stopped, as `begin_or_continue` lets it."""
    trainer = new_trainer(ranks, config, optimizer)
    if checkpoint.checkpoints(run):
        trainer.restore(checkpoint.load(run, parts_later=ranks.together))
    return trainer


def losses(ranks: Ranks, run: Path, until: int, config: Any = FSDP, optimizer: Any = ADAMW) -> list[float]:
    """Those of the steps up to `until`, whose last one is saved."""
    found: list[float] = []
    trainer = trainer_of(ranks, run, replace(config, steps=until), optimizer)
    trainer.run(lambda number: batch(number, ranks), run, {"config": {"width": 32}}, {"words.txt": b"cat"},
                on_report=lambda report: found.append(report.loss))
    return found


def digests(run: Path) -> dict[str, str]:
    manifest = json.loads((checkpoint.find(run) / "manifest.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest["files"].items() if name.endswith(".safetensors")}


def assert_same_bits(one: checkpoint.Checkpoint, other: checkpoint.Checkpoint) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    for stem, group in one.tensors.items():
        assert group.keys() == other.tensors[stem].keys()
        assert all(torch.equal(tensor, other.tensors[stem][name]) for name, tensor in group.items()), stem


@pytest.mark.parametrize("optimizer", [ADAMW, pytest.param(MUON, marks=pytest.mark.slow)], ids=["adamw", "muon"])
def test_ranks_write_parts_that_the_same_number_continues_bit_for_bit(optimizer: Any, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    whole = on_ranks(2, lambda ranks: losses(ranks, one, 6, optimizer=optimizer))
    first = on_ranks(2, lambda ranks: losses(ranks, other, 3, optimizer=optimizer))
    second = on_ranks(2, lambda ranks: losses(ranks, other, 6, optimizer=optimizer))
    assert first[0] + second[0] == whole[0] and len(whole[0]) == 6
    assert digests(one).keys() == digests(other).keys() and len(digests(one)) == 2
    saved = checkpoint.load(one)
    assert_same_bits(saved, checkpoint.load(other))
    assert saved.sharded == saved.tensors.keys() == {"model", "optimizer", "training"}
    assert saved.files == {"words.txt": b"cat"} and saved.documents["state"]["step"] == 6
    np.testing.assert_allclose(whole[0], losses(ALONE, tmp_path / "alone", 6, optimizer=optimizer), rtol=1e-5)


@pytest.mark.parametrize("before, after", [(4, 1), (1, 2), *(pytest.param(*numbers, marks=pytest.mark.slow)
                                                             for numbers in [(4, 2), (2, 4), (1, 4)])])
def test_another_number_of_ranks_goes_on(before: int, after: int, tmp_path: Path) -> None:
    """Four ranks have no row of some tensors, so parts may be missing from a file and yet be whole."""
    alone, run = tmp_path / "alone", tmp_path / "run"
    expected = losses(ALONE, alone, 6)

    def started(ranks: Ranks) -> list[float]:
        return losses(ranks, run, 3)

    def continued(ranks: Ranks) -> list[float]:
        return losses(ranks, run, 6)

    begun = [started(ALONE)] if before == 1 else on_ranks(before, started)
    np.testing.assert_allclose(begun[0], expected[:3], rtol=1e-5)
    assert len(digests(run)) == (3 if before == 1 else before)
    found = [continued(ALONE)] if after == 1 else on_ranks(after, continued)
    np.testing.assert_allclose(found[0], expected[3:], rtol=1e-5)


def test_ranks_with_the_whole_model_continue_what_was_written_in_parts(tmp_path: Path) -> None:
    expected = losses(ALONE, tmp_path / "alone", 6)
    on_ranks(2, lambda ranks: losses(ranks, tmp_path / "run", 3))
    found = on_ranks(2, lambda ranks: losses(ranks, tmp_path / "run", 6, replace(FSDP, shard="ddp")))
    np.testing.assert_allclose(found[0], expected[3:], rtol=1e-5)
    assert sorted(digests(tmp_path / "run")) == ["model.safetensors", "optimizer.safetensors", "training.safetensors"]


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks, with checkpoints of the steps 3 and 6."""
    run = tmp_path_factory.mktemp("saving") / "run"
    assert len(on_ranks(2, lambda ranks: losses(ranks, run, 6))[0]) == 6
    return run


def test_pytorch_itself_reads_the_parts(in_parts: Path) -> None:
    folder = checkpoint.find(in_parts)
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    assert {f"{stem}/{name}": tensor.shape for stem, group in checkpoint.load(in_parts).tensors.items()
            for name, tensor in group.items()} == {name: entry.size for name, entry in found.items()}   # type: ignore[union-attr]


def test_an_exported_checkpoint_has_whole_tensors(in_parts: Path, tmp_path: Path) -> None:
    saved, network = checkpoint.load(in_parts), checkpoint.export(in_parts, tmp_path / "network")
    assert sorted(path.name for path in network.glob("*.safetensors")) == ["model.safetensors"]
    found = checkpoint.load(network)
    assert not found.sharded and json.loads((network / "manifest.json").read_text())["format"] == 1
    assert all(torch.equal(tensor, saved.tensors["model"][name]) for name, tensor in found.tensors["model"].items())
    everything = checkpoint.load(checkpoint.export(in_parts, tmp_path / "all", optimizer=True))
    assert_same_bits(everything, saved)


def other_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The manifest as somebody would write it who computes its hash anew."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest["files"])
    (folder / "manifest.json").write_bytes(checkpoint._manifest(manifest["step"], manifest["files"]))


def flipped(second: Path) -> None:
    content = bytearray(second.read_bytes())
    content[-5] ^= 1
    second.write_bytes(content)


def cut(second: Path) -> None:
    """A part with fewer rows, under a manifest that agrees."""
    with safe_open(second, "pt") as file:
        header = file.metadata()
    tensors = load_file(second)
    name = next(name for name, tensor in tensors.items() if tensor.ndim and len(tensor) > 1)
    save_file(tensors | {name: tensors[name][:-1].clone()}, second, header)
    other_manifest(second.parent, lambda files: files.update({second.name: checkpoint.entry(second)}))


def stranger(second: Path) -> None:
    save_file({"model/more": torch.zeros(2)}, second.with_name("more.safetensors"))


@pytest.mark.parametrize("damage, said", [
    (Path.unlink, "shard-00002-model-00001-of-00001.safetensors is missing"),
    (flipped, "shard-00002-model-00001-of-00001.safetensors does not match its SHA-256"),
    (stranger, "more.safetensors does not belong to the checkpoint; remove it"),
], ids=["missing", "flipped", "stranger"])
def test_a_damaged_part_is_refused_by_name(damage: Callable[[Path], None], said: str, in_parts: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(in_parts, tmp_path / "run"))
    damage(checkpoint.find(run) / "shard-00002-model-00001-of-00001.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match=said) as refused:
        checkpoint.load(run)
    assert "The newest good checkpoint beside it is" in str(refused.value)
    assert checkpoint.fall_back(run).name == "step_00000003"


def test_a_model_of_half_its_rows_is_refused(in_parts: Path, tmp_path: Path) -> None:
    """Without the last part, under a manifest that agrees, every tensor looks whole, only smaller; the model tells."""
    run = Path(shutil.copytree(in_parts, tmp_path / "run"))
    second = checkpoint.find(run) / "shard-00002-model-00001-of-00001.safetensors"
    second.unlink()
    other_manifest(second.parent, lambda files: files.pop(second.name))
    with pytest.raises(RuntimeError, match="size mismatch for embedding.table.weight"):
        new_trainer(ALONE, FSDP, ADAMW).restore(checkpoint.load(run))


def test_parts_that_leave_a_gap_are_refused(in_parts: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(in_parts, tmp_path / "run"))
    cut(checkpoint.find(run) / "shard-00001-model-00001-of-00001.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match=r"do not make up the tensor .*a shard is missing or was changed"):
        checkpoint.load(run)


def test_where_one_rank_cannot_write_all_say_so_and_the_last_checkpoint_stays(tmp_path: Path,
                                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    on_ranks(2, lambda ranks: losses(ranks, tmp_path, 3))

    def full(folder: Path, rank: int, tensors: Any) -> list[Path]:
        if rank == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return []

    monkeypatch.setattr(shards, "write", full)

    def failing(ranks: Ranks) -> str:
        with pytest.raises(checkpoint.CheckpointError) as error:
            losses(ranks, tmp_path, 6)
        return str(error.value)

    first, second = on_ranks(2, failing)
    assert first == second == (f"rank 1 cannot write its part of {checkpoint.folder_of(tmp_path, 6)}: [Errno 28] No space left "
                               "on device; older checkpoints are untouched")
    assert checkpoint.load(tmp_path).step == 3 and not list((tmp_path / "checkpoints").glob(".saving*"))


# ---- while training goes on

def latest(run: Path) -> str:
    pointer = run / "checkpoints" / "latest"
    return pointer.read_text() if pointer.exists() else "none"


@pytest.mark.parametrize("ranks_with", [1, 2])
def test_training_goes_on_while_a_checkpoint_is_written(ranks_with: int, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing the checkpoint of step 2 takes until step 5; the one of step 4 waits for it."""
    config = replace(FSDP, steps=7, save_every=2, async_save=True)
    told = tmp_path / "written"
    name = "write" if ranks_with == 2 else "save"
    module: Any = shards if ranks_with == 2 else checkpoint
    real, begun = getattr(module, name), []

    def slow(*given: Any, **more: Any) -> Any:
        begun.append(threading.current_thread().name)
        while not told.exists():
            time.sleep(0.01)
        return real(*given, **more)

    monkeypatch.setattr(module, name, slow)

    def trained(ranks: Ranks) -> list[Any]:
        seen: list[Any] = []

        def report(now: Any) -> None:
            seen.append((now.step, latest(run)))
            if now.step == 3 and ranks.is_first:
                told.touch()

        trainer = trainer_of(ranks, run, config)
        trainer.run(lambda number: batch(number, ranks), run, {}, {}, on_report=report)
        assert all(thread.startswith("checkpoint") for thread in begun) and len(begun) == 4
        return seen

    run = tmp_path / "run"
    seen = trained(ALONE) if ranks_with == 1 else on_ranks(ranks_with, trained)[0]
    assert [tuple(one) for one in seen[:3]] == [(1, "none"), (2, "none"), (3, "none")]
    assert seen[4][1] in ("step_00000002", "step_00000004") and latest(run) == "step_00000007"
    monkeypatch.undo()
    # What is saved is the state of its step, although later steps changed the weights while it was written.
    plain = tmp_path / "plain"
    again = replace(config, async_save=False)

    def plainly(ranks: Ranks) -> None:
        trainer_of(ranks, plain, again).run(lambda number: batch(number, ranks), plain, {}, {})

    plainly(ALONE) if ranks_with == 1 else on_ranks(ranks_with, plainly)
    for step in (6, 7):
        assert_same_bits(*(checkpoint.load(checkpoint.folder_of(one, step)) for one in (run, plain)))


def test_what_fails_while_training_goes_on_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any, **more: Any) -> Path:
        raise checkpoint.CheckpointError("no space left")

    monkeypatch.setattr(checkpoint, "save", full)
    trainer = new_trainer(ALONE, replace(FSDP, steps=1000, save_every=1, async_save=True), ADAMW)
    with pytest.raises(checkpoint.CheckpointError, match="no space left"):
        trainer.run(lambda number: batch(number, ALONE), tmp_path, {}, {})
    assert trainer.step <= 2


def test_what_is_half_written_when_a_rank_dies_is_never_the_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_ranks(2, lambda ranks: losses(ranks, tmp_path, 3))
    real = shards.write

    def dying(folder: Path, rank: int, tensors: Any) -> list[Path]:
        if rank == 1:
            os._exit(7)
        return real(folder, rank, tensors)

    monkeypatch.setattr(shards, "write", dying)

    def interrupted(ranks: Ranks) -> str:
        try:
            losses(ranks, tmp_path, 20, replace(FSDP, async_save=True, save_every=1))
        except ConnectionError as error:
            return str(error)
        return "nothing"

    first, second = on_ranks(2, interrupted)
    assert second == 7 and "another rank has gone" in first
    monkeypatch.undo()
    assert latest(tmp_path) == "step_00000003" and checkpoint.load(tmp_path).step == 3
    assert len(on_ranks(2, lambda ranks: losses(ranks, tmp_path, 6))[0]) == 3
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".saving")]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_parts_on_a_gpu_are_copied_written_and_read_back(tmp_path: Path) -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    dist.init_process_group("cpu:gloo,cuda:nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        given = torch.arange(12.0, device="cuda").view(6, 2)
        sharded = distribute_tensor(given.clone(), init_device_mesh("cuda", (1,)), [Shard(0)])
        kept = Saver(Ranks(), background=True).kept({"model/x": sharded})
        sharded.mul_(0)                                        # training goes on
        (path,) = shards.write(tmp_path, 0, shards.own_part(kept, 0))
        found = shards.read(tmp_path, shards.stored(tmp_path, [path.name]), {"model/x": torch.empty_like(sharded)})["model/x"]
        assert isinstance(found, DTensor) and found.is_cuda and torch.equal(found.to_local(), given)
    finally:
        dist.destroy_process_group()
