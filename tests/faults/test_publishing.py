"""Whatever moment a writer dies in, there is the old or the new, never neither and never half of one."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from calico.agent.training import trainer
from calico.datasets import publish
from calico.scripts.main import main

from .crashes import run_tries
from .table import FAULTS
from .test_training import batch, new_trainer

DOCUMENTS = '''
import numpy as np
from calico.datasets.document_writers import CaptionWriter, DialogueWriter
from calico.datasets.documents import CaptionReader, DialogueReader

def pictures(value):
    with CaptionWriter(here) as writer:
        for number in range(value):
            writer.append(np.full((16, 16, 3), value, np.uint8), f"it is {value}")

def held():
    reader = CaptionReader(here)
    (caption,) = {text for document in reader for text in document.captions}
    value = int(caption.split()[-1])
    assert len(reader) == value and all((document.image == value).all() for document in reader)
    return value
'''
EPISODES = '''
import numpy as np
from calico.datasets.episodes import EpisodeReader, EpisodeWriter
from calico.tokenizers.episode import Episode

def episode(seed):
    return Episode(task="t", seed=seed, observations={"": np.zeros((4, 2), np.float32)}, actions={"": np.zeros(3, np.int64)},
                   demonstrated=np.ones(3, bool), rewards=np.ones(3), terminated=True, truncated=False)

def episodes(value, path=here / "e.parquet"):
    with EpisodeWriter(path, {"name": "t"}) as writer:
        for _ in range(3):
            writer.append(episode(value))
'''


def test_a_pair_of_manifest_and_zip_is_replaced_whole(tmp_path: Path) -> None:
    calls = run_tries(DOCUMENTS + '''
pictures(2)
def check(n, ended):
    found = held()
    assert found in ((5,) if ended else (2, 5)), (n, found)
    print(found)
def before():
    if held() == 5:
        pictures(2)
killed_everywhere(lambda: pictures(5), check, before)
assert sorted(os.listdir(here)) == ["captions.jsonl", "captions.zip"], os.listdir(here)
''', tmp_path)
    assert len(calls.split()) > 15 and {*calls.split()} == {"2", "5"}


def test_a_data_set_with_pictures_becomes_one_without(tmp_path: Path) -> None:
    run_tries(DOCUMENTS + '''
talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
shown = [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}, {"role": "assistant", "content": "1"}]
def write(pictured):
    with DialogueWriter(here) as writer:
        if pictured:
            writer.append(shown, {"a.png": np.ones((16, 16, 3), np.uint8)})
        else:
            writer.append(talk)
def check(n, ended):
    (found,) = DialogueReader(here)
    assert bool(found.images) == (found.messages[0]["content"] != "hi"), n
    assert not (ended and found.images)
killed_everywhere(lambda: write(False), check, lambda: write(True))
assert os.listdir(here) == ["dialogues.jsonl"], os.listdir(here)
''', tmp_path)


def test_one_file_of_episodes_is_replaced_whole(tmp_path: Path) -> None:
    calls = run_tries(EPISODES + '''
episodes(1)
def check(n, ended):
    (seed,) = set(EpisodeReader(here / "e.parquet").seeds.tolist())
    assert seed in ((2,) if ended else (1, 2)), (n, seed)
    print(seed)
killed_everywhere(lambda: episodes(2), check, lambda: episodes(1))
assert sorted(os.listdir(here)) == ["_e.json", "e.parquet"], os.listdir(here)
''', tmp_path)
    assert {*calls.split()} == {"1", "2"}


def test_a_part_is_added_whole_or_not_at_all(tmp_path: Path) -> None:
    run_tries(EPISODES + '''
import warnings
warnings.simplefilter("ignore")
episodes(0, here / "d")
def check(n, ended):
    seeds = EpisodeReader(here / "d").seeds.tolist()
    assert seeds[:3] == [0] * 3 and set(seeds[3:]) <= {1} and len(seeds) % 3 == 0, seeds
killed_everywhere(lambda: episodes(1, here / "d"), check)
assert not [name for name in os.listdir(here / "d") if name.startswith(".")], os.listdir(here / "d")
''', tmp_path)


def test_a_file_and_a_folder_appear_whole(tmp_path: Path) -> None:
    run_tries('''
from calico.datasets.publish import replace_file, whole_folder
def work():
    replace_file(here / "report.html", "new" * 1000)
    with whole_folder(here / "set") as temporary:
        (temporary / "a").write_text("a")
        (temporary / "b").write_text("b")
def check(n, ended):
    assert (here / "report.html").read_text() in ("old", "new" * 1000)
    if (here / "set").exists():
        assert sorted(os.listdir(here / "set")) == ["a", "b"]
def before():
    shutil.rmtree(here / "set", ignore_errors=True)
    (here / "report.html").write_text("old")
killed_everywhere(work, check, before)
assert sorted(os.listdir(here)) == ["report.html", "set"], os.listdir(here)
''', tmp_path)


def test_what_dead_writers_left_goes_and_what_living_ones_write_stays(tmp_path: Path) -> None:
    script = "import sys; from calico.datasets.publish import *; from pathlib import Path\n" \
             "name = temporary_name(Path(sys.argv[1])); name.write_text('x'); print(name.name, flush=True); sys.stdin.read()"
    writers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "a.txt")], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True) for _ in range(2)]
    names = [writer.stdout.readline().strip() for writer in writers if writer.stdout]
    (tmp_path / ".mine.tmp").write_text("no name of ours")
    writers[0].send_signal(signal.SIGKILL)
    writers[0].communicate()
    try:
        publish.replace_file(tmp_path / "a.txt", "new")
        assert {file.name for file in tmp_path.iterdir()} == {names[1], ".mine.tmp", "a.txt"}
    finally:
        writers[1].communicate("")


def test_a_full_disk_is_one_line_with_the_path_and_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("old")
    with pytest.raises(OSError, match="could not write .*report.json: No space left on device; nothing of it was kept"), \
            publish.replacing(tmp_path / "report.json") as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_an_error_in_reading_another_file_is_no_error_of_writing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="/nowhere"), publish.replacing(tmp_path / "copy"):
        open("/nowhere")   # noqa: SIM115


def test_a_name_as_long_as_the_disk_allows_has_a_temporary_one(tmp_path: Path) -> None:
    for name in ("x" * 255, "é" * 127, "\U0001f408" * 63):
        publish.replace_file(tmp_path / name, "long")
        publish.finish_publishing(tmp_path / name)         # is asked of every file that is opened
    assert sorted(map(len, os.listdir(tmp_path))) == [63, 127, 255]


def test_an_interrupt_waits_for_the_end_of_the_block(tmp_path: Path) -> None:
    done = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)      # jobs in the background begin with it ignored
    try:
        with pytest.raises(KeyboardInterrupt), publish.uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append(True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done


# What writes files by itself, and why: into a name or folder that the publisher gave it, at the end of a file, or for this
# process alone.
WRITERS = {
    "agent/checkpoint.py": "folders of its own with a manifest, see the top of that file",
    "agent/run_lock.py": "the text of a lock", "datasets/publish.py": "the publisher",
    "datasets/document_writers.py": "temporary names", "datasets/episodes.py": "temporary names",
    "datasets/formats/lerobot.py": "whole_folder", "datasets/formats/minari.py": "whole_folder",
    "datasets/records.py": "unpacked files that go with the process", "datasets/sounds.py": "bytes in memory",
    "envs/networks.py": "replacing", "envs/sb3.py": "bytes in memory", "scripts/evaluation/report.py": "bytes in memory",
    "scripts/tasks.py": "envs/interfaces.py, which has the publisher do it",
    "scripts/common/local_ranks.py": "a pipe", "scripts/benchmarks/memory.py": "/proc",
    "scripts/common/collecting.py": "a line at the end of left-out.jsonl",
    "scripts/training/classification.py": "replacing", "scripts/training/experts.py": "replacing",
    "scripts/training/improving.py": "a table that is made anew", "tokenizers/text.py": "for its caller",
}
WRITING = re.compile(r"\.(write_text|write_bytes|savefig|touch)\(|os\.(replace|rename|link)\(|\.rename\(|savez|write_table\(|"
                     r"ParquetWriter\(|open\([^)\n]*[\"'][wax]b?[\"']")


def test_files_are_written_by_the_publisher_alone() -> None:
    root = Path(__file__).parents[2]
    found = set()
    for folder in ("agent", "datasets", "envs", "scripts", "tokenizers"):
        for path in (root / folder).rglob("*.py"):
            code = "\n".join(line.partition("  #")[0] for line in path.read_text(encoding="utf-8").splitlines())
            if WRITING.search(code) and "def write_table" not in code:
                found.add(path.relative_to(root).as_posix())
    assert found <= WRITERS.keys(), f"{sorted(found - WRITERS.keys())}: write with datasets/publish.py"


def test_an_export_on_a_full_disk_is_one_line(tmp_path: Path, refused: Callable[..., str],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 itself would end the process with a segmentation fault."""
    pytest.importorskip("minari")
    assert main(["collect", "CartPole-v1", "--episodes", "1", "--workers", "0", "--out", str(tmp_path)]) == 0
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 0))
    said = refused("export", "minari", tmp_path / "CartPole-v1", "--out", tmp_path / "sets")
    assert f"could not write {tmp_path}/sets/CartPole-v1/expert-v0: No space left on device; nothing of it was kept" in said
    assert not [path for path in (tmp_path / "sets").rglob("*") if path.is_file()]


def test_tensorboard_on_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer, "log", full)
    with pytest.raises(OSError, match=f"could not write {tmp_path}/tensorboard: No space left on device"):
        new_trainer(log_every=1).run(batch, tmp_path, {}, {})


def test_the_help_says_what_bit_for_bit_needs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "with the same number of threads" in " ".join(capsys.readouterr().out.split())


def test_drawing_makes_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that look for a desktop print "XDG_RUNTIME_DIR is invalid" where it is not set."""
    script = ("from calico.envs.registry import make; env = make('CartPole-v1', True); env.reset(seed=0); "
              "print(env.render().shape)")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("(") and done.stderr == "", done.stderr


def test_every_fault_of_the_table_has_its_tests() -> None:
    for test in {test for tests in FAULTS.values() for test in tests}:
        file, _, name = test.partition("::")
        assert not name or f"def {name}(" in (Path(__file__).parents[2] / file).read_text(encoding="utf-8"), test
