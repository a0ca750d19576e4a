"""Long commands are killed at random moments, again and again, until they end by themselves: nothing is lost or doubled, what
is there can be read at every moment, and the end is that of a command that nobody killed.

CALICO_KILLS says how many times each command is killed; without it 20 times, as `make test-all` does.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from calico.scripts.main import main

from ..conftest import SmallRun
from .crashes import run_tries

KILLS = int(os.environ.get("CALICO_KILLS", "20"))
BEFORE = '''
import json, random, time
from calico.scripts.main import main
words, kills = json.loads(os.environ["WORDS"]), int(os.environ["KILLS"])
random.seed(0)

def run(out):
    return main([word.replace("{out}", str(out)) for word in words])
'''
# `contents(out)`: what a folder holds, to be compared; it raises where something cannot be read. `whole_part(found, expected)`:
# whether a killed command may have left this.
AFTER = '''
assert not run(here / "warm")               # in this process: what is forked from it has everything imported
expected = contents(here / "warm")
began = time.monotonic()
assert not run(here / "again") and contents(here / "again") == expected
longest = time.monotonic() - began
killed = finished = 0
while killed < kills:
    out = here / f"out{finished}"
    pid = os.fork()
    if not pid:
        try:
            os._exit(run(out))
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(99)
    end, ended = time.monotonic() + random.uniform(0, 1.2 * longest), (0, 0)
    while time.monotonic() < end and not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        time.sleep(0.002)
    if not ended[0]:
        os.kill(pid, signal.SIGKILL)
        ended = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(ended[1])
    assert code in (0, -signal.SIGKILL), code
    found = contents(out)
    if code == 0:
        assert found == expected, "another end"
        finished += 1
        shutil.rmtree(out)
    else:
        killed += 1
        assert whole_part(found, expected), "lost or doubled"
print(json.dumps({"killed": killed, "finished": finished, "seconds": longest}))
'''
PART = '''
def whole_part(found, expected):
    return len(set(map(repr, found))) == len(found) and set(map(repr, found)) <= set(map(repr, expected))
'''
EPISODES = PART + '''
from calico.datasets.episodes import EpisodeReader
def contents(out):
    folders = [each.parent for each in out.glob("*/part-*.parquet")] + [each for each in out.glob("*.parquet")]
    return sorted((episode.seed, episode.actions[""].tobytes(), episode.rewards.tobytes())
                  for folder in set(folders) for episode in EpisodeReader(folder))
'''
SCENES = PART + '''
from calico.datasets.documents import CaptionReader, DialogueReader
def contents(out):
    found = []
    if (out / "minigrid-captions" / "captions.jsonl").exists():
        found += [(each.name, each.image.tobytes(), each.captions) for each in CaptionReader(out / "minigrid-captions")]
    if (out / "minigrid-dialogues" / "dialogues.jsonl").exists():
        found += [(each.messages, [*each.images]) for each in DialogueReader(out / "minigrid-dialogues")]
    return found
'''
TRAINING = '''
from calico.agent import checkpoint
def contents(out):
    if not checkpoint.checkpoints(out):
        return {}
    saved = checkpoint.load(out)
    return {f"{stem}/{name}": tensor.float().numpy().tobytes()
            for stem, group in saved.tensors.items() for name, tensor in group.items()} | {"step": saved.step}
def whole_part(found, expected):
    return not found or found["step"] < expected["step"] or found == expected
'''
FILES = '''
def contents(out):
    files = [file.relative_to(out) for file in out.rglob("*") if file.is_file()]      # hidden: not whole yet
    return sorted((str(file), (out / file).stat().st_size) for file in files if not any(part[0] == "." for part in file.parts))
def whole_part(found, expected):
    return found in ([], expected)
'''


def tried(script: str, words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORDS", json.dumps(words))
    monkeypatch.setenv("KILLS", str(KILLS))
    found = json.loads(run_tries(BEFORE + script + AFTER, folder, timeout=60 + 20 * KILLS).splitlines()[-1])
    assert found["killed"] == KILLS, found
    print(found)


@pytest.mark.slow
def test_collect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried(EPISODES, ["collect", "CartPole-v1", "--episodes", "30", "--workers", "0", "--out", "{out}"], tmp_path, monkeypatch)


@pytest.mark.slow
def test_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried(SCENES, ["collect", "--scenes", "minigrid", "--episodes", "60", "--out", "{out}"], tmp_path, monkeypatch)


@pytest.mark.slow
def test_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    rows = 3000
    with h5py.File(tmp_path / "poles.hdf5", "w") as file:
        file["observations"], file["actions"] = np.arange(4.0 * rows).reshape(rows, 4), np.arange(rows) % 2
        file["rewards"], file["timeouts"] = np.arange(rows), np.zeros(rows, bool)
        file["terminals"] = np.arange(rows) % 10 == 9
    tried(EPISODES, ["import", "d4rl", str(tmp_path / "poles.hdf5"), "--out", "{out}"], tmp_path, monkeypatch)


@pytest.mark.slow
def test_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("h5py")
    assert main(["collect", "CartPole-v1", "--episodes", "20", "--workers", "0", "--out", str(tmp_path / "data")]) == 0
    tried(FILES, ["export", "minari", str(tmp_path / "data" / "CartPole-v1"), "--out", "{out}"], tmp_path, monkeypatch)


@pytest.mark.slow
def test_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_run: SmallRun) -> None:
    sources = f"data.sources=[{{path: {small_run.data / 'CartPole-v1'}}}]"
    tried(TRAINING, ["train", str(small_run.config), sources, "out={out}", "training.steps=20", "training.save_every=2",
                     "training.precision=fp32", "training.ema=0.9", "data.workers=0"], tmp_path, monkeypatch)
