"""Checkpoints: what was saved comes back, damage is seen and named, and no crash loses the last good one."""

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from calico.agent import checkpoint
from calico.agent.checkpoint import CheckpointError, checkpoints, find, load, save
from calico.datasets.publish import sha256_now


def content(step: int) -> dict[str, Any]:
    """Arguments of save() that tell the steps apart."""
    weights = {"head.weight": torch.full((4, 3), float(step)), "scale": torch.tensor(0.5, dtype=torch.bfloat16)}
    return {"tensors": {"model": weights, "optimizer": {"head.weight/step": torch.tensor(float(step))}},
            "documents": {"config": {"width": 4, "name": "naïve"}, "state": {"step": step}},
            "files": {"tokenizer.model": bytes(range(256)), "README.md": b"# card\n"}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints of steps 100 and 200."""
    for step in (100, 200):
        save(tmp_path / "run", step, **content(step))
    return tmp_path / "run"


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]), name


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """What an attacker can do: any manifest, with a digest that fits."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    manifest["sha256"] = checkpoint._digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_everything_comes_back(run: Path) -> None:
    saved, loaded = content(200), load(run)
    assert (loaded.path, loaded.step) == (run / "checkpoints" / "step_00000200", 200)
    for stem in ("model", "optimizer"):
        assert_equal(loaded.tensors[stem], saved["tensors"][stem])
    assert loaded.documents == saved["documents"] and loaded.files == saved["files"]
    assert torch.__version__.startswith(loaded.versions["torch"]) and loaded.versions["calico-agent"] != ""   # "+cu130"


@pytest.mark.parametrize("tensor", [torch.zeros(0, 3), torch.tensor(True), torch.arange(6).reshape(2, 3).T,
                                    torch.randn(2, 2, dtype=torch.float64), torch.tensor([float("nan"), float("inf")])])
def test_any_tensor_comes_back_bit_for_bit(tmp_path: Path, tensor: Tensor) -> None:
    save(tmp_path, 0, tensors={"other": {"x": tensor}}, documents={})     # weights, "model", must be finite
    loaded = load(tmp_path).tensors["other"]["x"]
    assert loaded.dtype == tensor.dtype and loaded.shape == tensor.shape
    assert loaded.contiguous().numpy().tobytes() == tensor.contiguous().numpy().tobytes()


def test_an_older_checkpoint_loads_by_its_folder(run: Path) -> None:
    assert load(run / "checkpoints" / "step_00000100").step == 100
    assert load(str(run / "checkpoints")).step == 200


def test_tensors_land_on_the_device_asked_for(run: Path) -> None:
    # meta is the one device beside the CPU that every machine has; the shapes and dtypes travel, the values can not
    weight = load(run, map_location="meta").tensors["model"]["head.weight"]
    assert weight.device.type == "meta" and weight.shape == (4, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_land_on_the_gpu(run: Path) -> None:
    loaded = load(run, map_location="cuda").tensors["model"]
    assert loaded["head.weight"].is_cuda
    assert_equal({name: tensor.cpu() for name, tensor in loaded.items()}, content(200)["tensors"]["model"])


def test_only_reads_the_tensors_asked_for_but_checks_all(run: Path) -> None:
    assert set(load(run, only=("model",)).tensors) == {"model"}
    (run / "checkpoints/step_00000200/optimizer.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="optimizer.safetensors"):
        load(run, only=("model",))


def test_the_newest_are_kept_and_the_rest_deleted(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step, **content(step), keep=2)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step_00000003", "step_00000004"]
    save(tmp_path, 5, **content(5), keep=1)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["latest", "step_00000005"]
    with pytest.raises(ValueError, match="keep=0"):
        save(tmp_path, 6, **content(6), keep=0)


def test_steps_sort_as_numbers(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save(tmp_path, step, **content(0))
    assert [load(folder).step for folder in checkpoints(tmp_path)] == [99_999_999, 100_000_000]


def test_a_run_that_went_back_keeps_its_latest_and_the_later_steps(run: Path) -> None:
    save(run, 50, **content(50), keep=1)
    assert load(run).step == 50
    assert [load(folder).step for folder in checkpoints(run)] == [50, 100, 200]


def test_saving_a_step_again_replaces_it(run: Path) -> None:
    save(run, 200, **content(7))
    assert load(run).documents["state"] == {"step": 7}
    assert sorted(os.listdir(run / "checkpoints")) == ["latest", "step_00000100", "step_00000200"]


# ---- damage


def test_every_flipped_bit_is_seen_and_the_file_named(run: Path) -> None:
    folder, rng = run / "checkpoints/step_00000200", random.Random(0)
    for file in sorted(folder.iterdir()):
        good = file.read_bytes()
        for position in {0, len(good) - 2, *(rng.randrange(len(good)) for _ in range(30))}:
            bad = bytearray(good)
            bad[position] ^= 1 << rng.randrange(8)
            file.write_bytes(bad)
            try:
                load(run)
            except CheckpointError as error:
                assert file.name in str(error) and "\n" not in str(error)
                assert "step_00000100: give that path" in str(error)
            else:   # white space between the manifest's values carries nothing
                assert file.name == "manifest.json" and chr(good[position]).isspace() and chr(bad[position]).isspace()
        file.write_bytes(good)
    assert load(run).step == 200


@pytest.mark.parametrize("damage, says", [
    (Path.unlink, "is missing"),
    (lambda file: file.write_bytes(file.read_bytes()[:-1]), "cut short|not valid JSON|damaged"),
    (lambda file: file.write_bytes(b""), "cut short|not valid JSON"),
])
def test_missing_and_truncated_files_are_named(run: Path, damage: Callable[[Path], None], says: str) -> None:
    for name in sorted(os.listdir(run / "checkpoints/step_00000200")):
        file = run / "checkpoints/step_00000200" / name
        good = file.read_bytes()
        damage(file)
        if name == "manifest.json" and file.exists() and file.stat().st_size:   # the last byte is a line feed
            assert load(run).step == 200
        else:
            with pytest.raises(CheckpointError, match=f"{name}.*({says})"):
                load(run)
        file.write_bytes(good)


def test_without_another_good_checkpoint_the_error_says_so(run: Path) -> None:
    for folder in checkpoints(run):
        (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no other good checkpoint"):
        load(run)


def test_latest_that_names_a_missing_folder_is_an_error_with_a_way_out(run: Path) -> None:
    shutil.rmtree(run / "checkpoints/step_00000200")
    with pytest.raises(CheckpointError, match=r"latest names step_00000200.*missing.*step_00000100: give that path"):
        load(run)


@pytest.mark.parametrize("text", ["", "../../elsewhere", "step_1", "/etc", "step_00000200/../x", "\0", "é" * 200])
def test_latest_can_not_lead_elsewhere(run: Path, text: str) -> None:
    (run / "checkpoints/latest").write_text(text)
    with pytest.raises(CheckpointError, match="latest says .* not the name of a checkpoint"):
        load(run)


def test_unfinished_saves_are_ignored_and_tidied_away(run: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    half = run / "checkpoints" / f".saving_step_00000300_{dead.pid}"
    alive = run / "checkpoints" / f".saving_step_00000300_{os.getppid()}"
    for folder in (half, alive):
        shutil.copytree(run / "checkpoints/step_00000200", folder)
    assert load(run).step == 200 and len(checkpoints(run)) == 2
    save(run, 300, **content(300))
    assert not half.exists() and alive.exists()


def test_a_first_save_killed_before_latest_still_loads(run: Path) -> None:
    (run / "checkpoints/latest").unlink()
    assert load(run).step == 200


@pytest.mark.parametrize("change, says", [
    (lambda m: m.update(format=3), "format 3.*upgrade"),
    (lambda m: m.update(format="x"), "not a checkpoint manifest"),
    (lambda m: m["files"].update({"../../secret": {"bytes": 0, "sha256": ""}}), "changed or damaged"),
    (lambda m: m["files"].update({"x.pkl": {"bytes": 0, "sha256": ""}}), "changed or damaged"),
    (lambda m: m["files"].update({"x": [1]}), "changed or damaged"),
    (lambda m: m.update(step=-1), "changed or damaged"),
    (lambda m: m.pop("versions"), "changed or damaged"),
    (lambda m: m["files"]["model.safetensors"].update(bytes="9"), "changed or damaged"),
])
def test_a_hostile_manifest_is_refused(run: Path, change: Callable[[dict[str, Any]], None], says: str) -> None:
    rewrite_manifest(run / "checkpoints/step_00000200", change)
    with pytest.raises(CheckpointError, match=says):
        load(run)


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "null", "\xff", "x" * 2_000_000], ids=len)
def test_a_manifest_that_is_none_is_refused(run: Path, text: str) -> None:
    (run / "checkpoints/step_00000200/manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="manifest.json"):
        load(run)


# ---- what is not a checkpoint


def test_wrong_paths_say_what_to_give(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="rum does not exist; did you mean .*run"):
        load(tmp_path / "rum")
    with pytest.raises(CheckpointError, match="give the folder of a run"):
        load(tmp_path / "nothing" / "like" / "it")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="is a file; give the folder .*step_00000200$"):
        load(run / "checkpoints/step_00000200/model.safetensors")
    (run / "checkpoints/step_00000200/manifest.json").unlink()
    with pytest.raises(CheckpointError, match="manifest.json is missing"):
        load(run / "checkpoints/step_00000200")


class Canary:
    """Unpickling this leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["a.pt", "pytorch_model.bin", "policy.pkl", "last.ckpt", "__0_0.distcp", ".metadata"])
def test_pickles_are_refused_and_nothing_runs(tmp_path: Path, name: str) -> None:
    canary, folder = tmp_path / "canary", tmp_path / "given"
    folder.mkdir()
    (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    for path in (folder / name, folder):
        with pytest.raises(CheckpointError, match="is a pickle.*never loads"):
            load(path)
    assert not canary.exists()
    pickle.loads((folder / name).read_bytes())
    assert canary.exists()   # the canary itself works


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.model"])
def test_a_pickle_under_another_name_does_not_run(run: Path, tmp_path: Path, name: str) -> None:
    canary, folder = tmp_path / "canary", run / "checkpoints/step_00000200"
    payload = pickle.dumps(Canary(canary))
    (folder / name).write_bytes(payload)
    rewrite_manifest(folder, lambda m: m["files"].update(
        {name: {"bytes": len(payload), "sha256": sha256_now(folder / name)}}))
    if name == "tokenizer.model":
        assert load(run).files[name] == payload   # bytes are bytes
    else:
        with pytest.raises(CheckpointError, match=name):
            load(run)
    assert not canary.exists()


# ---- what can not be saved


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "manifest.json", "x.pkl", "a.json", "a.safetensors"])
def test_odd_file_names_are_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be a file|is among files="):
        save(tmp_path / "run", 1, tensors={}, documents={"config": {}}, files={name: b""})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [{"loss": float("nan")}, {"path": Path("x")}, {"set": {1}}])
def test_what_json_can_not_hold_is_refused_by_name(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match="state.json"):
        save(tmp_path / "run", 1, tensors={}, documents={"state": value})
    assert not (tmp_path / "run").exists()


def test_tied_tensors_are_refused_by_name(tmp_path: Path) -> None:
    table = torch.ones(3, 3)
    with pytest.raises(CheckpointError, match=r"(embed.*head|head.*embed).*share memory"):
        save(tmp_path, 1, tensors={"model": {"embed": table, "head": table}}, documents={})
    assert os.listdir(tmp_path / "checkpoints") == []


def test_too_large_for_the_disk_is_known_before_writing(run: Path) -> None:
    huge = torch.zeros(1).expand(10**16)   # 4e16 bytes that nobody ever touches
    with pytest.raises(CheckpointError, match=r"step_00000300.*No space left.*needs 40,000,000,000,\d{3},\d{3} bytes"):
        save(run, 300, tensors={"model": {"x": huge}}, documents={})
    assert load(run).step == 200 and len(os.listdir(run / "checkpoints")) == 3


def test_a_run_below_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write .*file/run.*choose another folder"):
        save(tmp_path / "file" / "run", 1, **content(1))


# ---- crashes. Children are forked from one process, so that torch is imported once.

CHILD = '''
import os, random, resource, signal, sys, time
import torch
from pathlib import Path
from calico.agent.checkpoint import CheckpointError, checkpoints, load, save

torch.set_num_threads(1)
run = Path(sys.argv[1])

def write(step, size=4):
    weights = {"w": torch.full((size,), float(step))}
    return save(run, step, tensors={"model": weights}, documents={"state": step}, files={"tokenizer.model": b"x" * 99})

def check():
    saved = load(run)
    assert saved.documents["state"] == saved.step, saved
    assert (saved.tensors["model"]["w"] == saved.step).all() and len(saved.files) == 1
    return saved.step

def forked(work):
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    return pid
'''


def run_child(script: str, run: Path) -> str:
    done = subprocess.run([sys.executable, "-c", CHILD + script, str(run)], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_at_every_single_step_of_a_save(tmp_path: Path) -> None:
    """The n-th call that changes the disk is the last one, for every n; new steps and a step saved again."""
    out = run_child('''
def bomb(n):
    left = [n]
    def wrap(call):
        def counted(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        return counted
    for name in ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir"):
        setattr(os, name, wrap(getattr(os, name)))

for step in (10, 20):
    write(step)
for again in (False, True):
    for n in range(200):
        before = check()
        step = before if again else before + 10
        pid = forked(lambda: (bomb(n), write(step)))
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
            break
        assert check() in (before, step), n
        assert all(load(folder).step for folder in checkpoints(run)), n   # nothing half-deleted among them
    print(n)
    assert check() == step and len(checkpoints(run)) == 2, (step, os.listdir(run / "checkpoints"))
    assert sorted(os.listdir(run / "checkpoints")) == ["latest"] + [folder.name for folder in checkpoints(run)]
''', tmp_path / "run")
    assert all(int(points) > 10 for points in out.split()) and len(out.split()) == 2   # so many crash points were tried


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks the system which file a descriptor is")
def test_everything_is_flushed_before_a_rename_relies_on_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What kills can not show and a power cut would: the order of flushes and renames."""
    calls: list[str] = []

    def record(name: str, word: str, path_of: Callable[..., str | Path]) -> None:
        call = getattr(os, name)

        def recorded(*arguments: Any) -> Any:
            calls.append(f"{word} {Path(path_of(*arguments)).name.replace(f'_{os.getpid()}', '')}")
            return call(*arguments)

        monkeypatch.setattr(os, name, recorded)

    record("fsync", "flush", lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}"))
    record("rename", "rename to", lambda source, target: target)
    record("replace", "replace", lambda source, target: target)
    save(run, 300, **content(300))
    files = {"model.safetensors", "optimizer.safetensors", "config.json", "state.json", "tokenizer.model", "README.md"}
    assert set(calls[:6]) == {f"flush {name}" for name in files}
    assert calls[6:] == [
        "flush manifest.json", "flush .saving_step_00000300", "rename to step_00000300", "flush checkpoints",
        "flush .saving_latest", "replace latest", "flush checkpoints", "rename to .deleting_step_00000100"]


def test_killed_at_random_moments(tmp_path: Path) -> None:
    out = run_child('''
random.seed(0)
write(0)
for _ in range(12):
    before = check()
    def loop():
        for step in range(before + 1, 10**6):
            write(step, size=20_000)
    pid = forked(loop)
    while load(run).step == before:   # it is saving now
        pass
    time.sleep(random.random() * 0.03)
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert check() > before
    print(check())
''', tmp_path / "run")
    assert len(out.split()) == 12


def test_a_file_that_can_not_grow_is_one_line_and_the_old_checkpoint_stays(tmp_path: Path) -> None:
    out = run_child('''
write(1)
limit = 50_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write(2, size=100_000)
except CheckpointError as error:
    print(error)
assert check() == 1
assert sorted(os.listdir(run / "checkpoints")) == ["latest", "step_00000001"]
write(3)
assert check() == 3
''', tmp_path / "run")
    assert "step_00000002" in out and "File too large" in out and "it needs 400," in out and out.count("\n") == 1


# ---- the hub, offline


def test_export_leaves_the_optimizer_out_and_loads(run: Path, tmp_path: Path) -> None:
    out = checkpoint.export(run, tmp_path / "public")
    loaded = checkpoint.from_hub(str(out))
    assert set(loaded.tensors) == {"model"} and loaded.step == 200 and loaded.files == content(200)["files"]
    assert_equal(loaded.tensors["model"], content(200)["tensors"]["model"])
    assert set(checkpoint.from_hub(str(checkpoint.export(run, tmp_path / "all", optimizer=True))).tensors) == {
        "model", "optimizer"}
    with pytest.raises(CheckpointError, match="does not exist yet"):
        checkpoint.export(run, out)


def test_files_that_the_hub_adds_do_no_harm_and_damage_is_seen(run: Path, tmp_path: Path) -> None:
    out = checkpoint.export(run, tmp_path / "public")
    (out / ".gitattributes").write_text("*.safetensors filter=lfs")
    assert checkpoint.from_hub(str(out)).step == 200
    (out / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="model.safetensors has 43 bytes"):
        checkpoint.from_hub(str(out))


def test_an_unreachable_hub_is_one_line(run: Path, tmp_path: Path) -> None:
    script = """
import sys
from calico.agent.checkpoint import CheckpointError, from_hub, push_to_hub
calls = (from_hub, "nobody/nothing"), (from_hub, "no such name!"), (push_to_hub, sys.argv[1], "a/b")
for call, *arguments in calls:
    try:
        call(*arguments)
    except CheckpointError as error:
        print(error)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script, str(run)], capture_output=True, text=True, env=environment)
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and all(line.startswith("Hugging Face Hub, ") for line in lines), done.stdout + done.stderr
    assert "nobody/nothing" in lines[0] and "no such name!" in lines[1] and "refused" in lines[2]


def test_find_gives_the_folder_without_reading_it(run: Path) -> None:
    (run / "checkpoints/step_00000200/model.safetensors").unlink()
    assert find(run).name == "step_00000200"
