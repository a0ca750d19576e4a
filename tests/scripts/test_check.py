"""`calico check`: all of it is read, what is wrong is named, whatever the number of processes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from calico.datasets.documents import CaptionReader, DialogueReader
from calico.datasets.samples.flow import write_flo
from calico.datasets.sounds import encode_wav
from calico.datasets.sources import document_parts
from calico.scripts.common.settings import RunSettings
from calico.scripts.evaluation import checking
from calico.scripts.main import main
from calico.tokenizers.document import encode_document
from calico.tokenizers.vocabulary import Vocabulary, VocabularyConfig

from ..conftest import SmallRun
from ..datasets.samples.test_video import write_video

Refused = Callable[..., str]


def pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(256, size=(20, 40, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """Twelve captioned pictures, one of them cut short, one doubled, one animated."""
    paths = pictures(tmp_path / "images", 12)
    paths[3].write_bytes(paths[3].read_bytes()[:100])
    paths[5].write_bytes(paths[4].read_bytes())
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(paths[7], save_all=True, append_images=frames[1:])
    lines = [{"image": path.name, "caption": "the same words", "label": ("even", "odd")[i % 2]} for i, path in enumerate(paths)]
    manifest = tmp_path / "captions.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    return manifest


def checked(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> Any:
    capsys.readouterr()
    assert main(["check", *map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("workers", [1, 2])
def test_broken_doubled_and_remarked_pictures_are_told(captions: Path, workers: int,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = checked(capsys, captions, "--workers", workers, code=1)
    assert found["format"] == "captioned pictures, because its first record has 'image' and 'caption'"
    assert (found["count"], found["duplicates"], found["wrong"], found["without_target"]) == (12, 1, True, 0)
    (why,) = found["broken"]
    assert "captions.jsonl, line 4: image '3.png' in" in why
    assert found["classes"] == {"even": 6, "odd": 5} and found["truncated"] == 0
    assert found["remarks"] == {"holds several pictures, the first one is used": 1}
    assert main(["check", str(captions)]) == 1
    said = capsys.readouterr().out
    assert "broken: 1\n" in said and "image '3.png'" in said and "duplicates: 1" in said and "classes: even 6, odd 5" in said


def test_only_some_broken_ones_are_named_unless_json_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in pictures(tmp_path / "set" / "a", 15) + pictures(tmp_path / "set" / "b", 3):
        path.write_bytes(path.read_bytes()[:60] if "/a/" in str(path) else path.read_bytes())
    assert main(["check", str(tmp_path / "set")]) == 1
    said = capsys.readouterr().out
    assert "broken: 15, the first 10:" in said and said.count("image 'a/") == 10
    (found,) = checked(capsys, tmp_path / "set", code=1)
    assert len(found["broken"]) == 15 and found["classes"] == {"b": 3} and found["items"] == "pictures"


def test_lengths_and_targets_are_those_of_the_rows(captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counted without making tokens, they equal what encode_document makes."""
    (tmp_path / "images" / "a.wav").write_bytes(encode_wav(np.sin(np.arange(3000) / 9).astype(np.float32), 16000))
    talk = tmp_path / "talk.jsonl"
    talk.write_text("\n".join(json.dumps({"messages": [
        {"role": "user", "content": [{"type": "image", "image": "0.png"}, {"type": "audio", "audio": "a.wav"},
                                     {"type": "text", "text": "what is it? " * times}]},
        {"role": "assistant", "content": "noise " * times}]}) for times in (1, 3, 40, 400)))
    for reader, path in ((CaptionReader(captions), captions), (DialogueReader(talk, tmp_path / "images"), talk)):
        text, vocabulary = checking.learnt_text(reader), Vocabulary(VocabularyConfig())
        documents = [reader[i] for i in range(len(reader)) if path == talk or i != 3]
        rows = [encode_document(document_parts(document), vocabulary, text) for document in documents]
        for document, row in zip(documents, rows, strict=True):
            assert sum(checking.part_lengths(document_parts(document), text)) == len(row)
        (found,) = checked(capsys, path, "--context", 100, "--images", tmp_path / "images", code=int(path == captions))
        lengths = sorted(map(len, rows))
        assert found["lengths"] == [lengths[0], float(np.median(lengths)), lengths[-1]]
        assert found["truncated"] == pytest.approx(np.mean([length > 100 for length in lengths]))
        seen, targets = (sum(f(row[:100]) for row in rows) for f in (len, lambda row: int(row.loss_mask.sum())))
        assert found["targets_per_row"] == pytest.approx(100 * targets / seen)


def test_nothing_to_learn_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "monologue.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "is anybody there?"}]}\n' * 3)
    (found,) = checked(capsys, path, code=1)
    assert found["without_target"] == 3 and found["duplicates"] == 2 and "so nothing can be learnt" in found["faults"][0]


def test_episodes_texts_and_sounds(small_run: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.jsonl").write_text("\n".join(
        json.dumps({"text": f"sentence {i % 4}", "label": i % 2}) for i in range(6)))
    for name, loud in (("high", 0.1), ("low", 0.9)):
        (tmp_path / "sounds" / name).mkdir(parents=True)
        (tmp_path / "sounds" / name / "a.wav").write_bytes(encode_wav(np.full(1600, loud), 16000))
    np.savez(tmp_path / "clouds.npz", points=np.ones((3, 9, 3), np.float32), labels=["a", "a", "b"])
    episodes, texts, sounds, clouds = checked(capsys, small_run.data / "CartPole-v1", tmp_path / "texts.jsonl",
                                              tmp_path / "sounds", tmp_path / "clouds.npz")
    assert (episodes["format"], episodes["items"], episodes["count"], episodes["unit"]) == (
        "episodes of CartPole-v1", "episodes", 4, "steps")
    assert episodes["targets_per_row"] > 0 and episodes["without_target"] == 0
    assert (texts["count"], texts["duplicates"], texts["classes"]) == (6, 2, {"0": 3, "1": 3})
    assert texts["targets_per_row"] == 512
    assert sounds["classes"] == {"high": 1, "low": 1} and sounds["lengths"] == [1600, 1600.0, 1600]
    assert clouds["classes"] == {"a": 2, "b": 1} and clouds["duplicates"] == 2


def test_damaged_data_are_wrong_and_no_data_are_wrong_input(small_run: SmallRun, tmp_path: Path, refused: Refused,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lines.jsonl").write_text('{"image": "a.png", "caption": "b"}\n{"image"\n')
    (found,) = checked(capsys, tmp_path / "lines.jsonl", code=1)
    assert "line 2" in found["faults"][0]
    assert "does not exist" in refused("check", tmp_path / "nothing")
    (tmp_path / "a.xyz3").write_bytes(b"1")
    assert "a .xyz3 file by itself, no data set" in refused("check", tmp_path / "a.xyz3")
    (tmp_path / "empty").mkdir()
    assert "holds no episodes" in refused("check", tmp_path / "empty")
    assert "give at least 1" in refused("check", tmp_path, "--workers", "0")


def test_the_default_row_is_that_of_a_config() -> None:
    assert RunSettings().backbone.context == checking.CONTEXT


def test_it_runs_as_a_module_without_torch(captions: Path) -> None:
    code = ("import sys\nfrom calico.scripts.check import main\ncode = main(sys.argv[1:])\n"
            "assert 'torch' not in sys.modules\nsys.exit(code)")
    for command in (["-m", "calico.scripts.check"], ["-c", code]):
        done = subprocess.run([sys.executable, *command, str(captions), "--workers", "2"], capture_output=True, text=True)
        assert done.returncode == 1 and "broken: 1" in done.stdout, done.stderr


def test_pairs_with_flow_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, other = pictures(tmp_path / "images", 3)
    Image.new("RGB", (8, 8)).save(other)
    flow = np.ones((20, 40, 2), np.float32)
    write_flo(tmp_path / "images" / "a.flo", flow)
    write_flo(tmp_path / "images" / "unknown.flo", flow * 1e10)
    (tmp_path / "images" / "cut.flo").write_bytes((tmp_path / "images" / "a.flo").read_bytes()[:50])
    named = [(second, "a.flo"), (second, "a.flo"), (other, "a.flo"),
             (second, "unknown.flo"), (second, "cut.flo"), (second, "no.flo")]
    manifest = tmp_path / "images" / "pairs.jsonl"
    manifest.write_text("\n".join(json.dumps({"img0": first.name, "img1": to.name, "flow": name}) for to, name in named))
    (found,) = checked(capsys, manifest, code=1)
    assert (found["items"], found["count"], found["duplicates"], found["lengths"]) == ("pairs", 6, 1, [40, 40, 40])
    for why, word in zip(found["broken"], ("different sizes: 40x20, 8x8, 40x20", "unknown everywhere", "cut short", "no.flo"),
                         strict=True):
        assert word in why
    manifest.write_text(json.dumps({"img0": first.name, "img1": second.name, "flow": "a.flo"}) + '\n{"img0": "x"}\n')
    (found,) = checked(capsys, manifest, code=1)
    assert "pairs.jsonl, line 2: flow, img1 missing" in found["faults"][0]


def test_folders_and_manifests_of_videos_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    folder = tmp_path / "videos"
    for label, grey in (("dark", 40), ("light", 200)):
        (folder / label).mkdir(parents=True)
        write_video(folder / label / "a.mp4", [grey] * 10, fps=25)
    (folder / "light" / "a.wav").write_bytes(encode_wav(np.zeros(3200), 8000))
    (folder / "light" / "cut.mp4").write_bytes((folder / "light" / "a.mp4").read_bytes()[:300])
    (found,) = checked(capsys, folder, code=1)
    assert (found["items"], found["count"], found["classes"]) == ("videos", 3, {"dark": 1, "light": 1})
    assert found["lengths"] == [10, 10, 10]
    assert len(found["broken"]) == 1 and "cut.mp4: not a readable video" in found["broken"][0]
    assert found["remarks"] == {"has no sound: silence takes its place": 1, "its sound is a.wav": 1}
    manifest = tmp_path / "videos.jsonl"
    lines = [{"file": f"videos/{name}/a.mp4", "label": "grey"} for name in ("dark", "dark", "light")]
    manifest.write_text("\n".join(map(json.dumps, lines)))
    (found,) = checked(capsys, manifest)
    assert (found["count"], found["duplicates"], found["classes"]) == (3, 1, {"grey": 3})
    manifest.write_text(json.dumps({"file": "../videos.mp4"}))
    (found,) = checked(capsys, manifest, code=1)
    assert "'../videos.mp4' lies outside of" in found["broken"][0]


def test_classes_of_parquet_and_of_an_imagefolder_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = pictures(tmp_path / "p", 4)
    (tmp_path / "p" / "metadata.csv").write_text("file_name,label\n0.png,cat\n1.png,dog\n2.png,cat\n3.png,dog\n")
    (told,) = checked(capsys, tmp_path / "p")
    assert (told["items"], told["count"], told["classes"]) == ("pictures", 4, {"cat": 2, "dog": 2})
    rows = {"image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths], "label": ["cat", "dog", "dog", "dog"]}
    (tmp_path / "q").mkdir()
    pq.write_table(pa.table(rows), tmp_path / "q" / "train.parquet")
    (told,) = checked(capsys, tmp_path / "q" / "train.parquet")
    assert (told["items"], told["count"], told["classes"]) == ("pictures", 4, {"cat": 1, "dog": 3})
