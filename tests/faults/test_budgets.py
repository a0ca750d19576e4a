"""Files that declare more than they hold, or that reach for other files: refused before memory is taken for them."""

import io
import json
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calico.agent.checkpoint import check_layers, check_shapes
from calico.datasets.formats.row_groups import read_group
from calico.datasets.records import JsonDocument
from calico.datasets.samples.labelled import load_arrays
from calico.datasets.samples.point_clouds import decode_cloud
from calico.datasets.samples.video import inside
from calico.datasets.texts import TextReader
from calico.envs.networks import read_npz
from calico.tokenizers import budget
from calico.tokenizers.spaces import space_from_json

h5py = pytest.importorskip("h5py")
TOO_MUCH = "of memory, the limit is .* GB; if you trust its source, raise CALICO_READ_LIMIT_GB"


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(budget.VARIABLE, "0.001")      # a megabyte


def npy_header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue()


def npz(path: Path, shape: tuple[int, ...]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", npy_header(shape) + b"\0" * 99)
    return path


@pytest.mark.parametrize("read", [read_npz, load_arrays])
def test_arrays_that_an_npz_declares_are_counted_before_they_are_read(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    with pytest.raises(ValueError, match=TOO_MUCH):
        read(npz(tmp_path / "a.npz", (1 << 20, 1 << 20)))
    np.savez(tmp_path / "b.npz", images=np.arange(3))
    assert read(tmp_path / "b.npz")["images"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00v\x00{'descr': ", npy_header((3,)), b"x" * 99])
@pytest.mark.parametrize("read", [read_npz, load_arrays])
def test_what_is_no_npz_is_one_line(tmp_path: Path, content: bytes, read: Callable[[Path], Any]) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz (cannot be read as npz|is not a readable \.npz)"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_zip_of_another_compression_that_is_damaged_is_one_line(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.writestr("a.npy", npy_header((40,)) + b"\0" * 160)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[45:60] = b"\xff" * 15
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.npz cannot be read as npz"):
        read_npz(tmp_path / "a.npz")


def test_a_cloud_that_declares_a_trillion_points() -> None:
    with pytest.raises(ValueError, match=TOO_MUCH):
        decode_cloud(npy_header((1 << 40, 3)) + b"\0" * 99, ".npy")


def test_the_limit_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(400_000))
    monkeypatch.setenv(budget.VARIABLE, "0.001")
    with pytest.raises(ValueError, match="would take 0.0 GB of memory, the limit is 0.001 GB"):
        read_npz(tmp_path / "a.npz")
    monkeypatch.setenv(budget.VARIABLE, "0.004")
    assert read_npz(tmp_path / "a.npz")["a"].shape == (400_000,)
    for wrong in ("much", "-1", "nan", "inf", "0"):
        monkeypatch.setenv(budget.VARIABLE, wrong)
        with pytest.raises(ValueError, match=f"CALICO_READ_LIMIT_GB={wrong} is no positive number of gigabytes"):
            budget.limit()


@pytest.mark.parametrize("space", [
    {"type": "Box", "low": 0, "high": 255, "shape": [40000, 40000], "dtype": "uint8"},
    {"type": "Box", "low": 0.0, "high": 1.0, "shape": [1 << 40], "dtype": "float32"},
    {"type": "Box", "low": 0.0, "high": 1.0, "shape": [-1], "dtype": "float32"},
    {"type": "MultiBinary", "n": [1 << 20, 1 << 20]}])
def test_a_space_is_as_large_as_it_may(space: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"describes no space.*({TOO_MUCH}|which no array has)"):
        space_from_json(space)


def test_a_json_document_is_counted_before_it_is_parsed(tmp_path: Path, small_limit: None) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" + "{}," * 20_000 + "{}]")
    with pytest.raises(ValueError, match=f"a.json, parsed, would take .*{TOO_MUCH}"):
        JsonDocument(path, lambda value: None)
    path.write_text("[" + "{}," * 200 + "{}]")
    assert len(JsonDocument(path, lambda value: None)) == 201


@pytest.mark.parametrize("text", ["[" + "{}," * 9999 + "{}]", "[" + "[]," * 9999 + "[]]", json.dumps(["ab"] * 9999),
                                  json.dumps([{"a": 1, "b": [1, 2]}] * 5000), json.dumps(list(range(1000, 30_000)))])
def test_the_estimate_of_a_json_document_is_not_too_low(text: str) -> None:
    import tracemalloc

    tracemalloc.start()
    value = json.loads(text)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert value and taken < 1.1 * budget.json_bytes(text.encode())


def repeated(path: Path, rows: int, size: int) -> Path:
    """A column of one long text again and again: a few kilobytes on the disk."""
    table = pa.table({"text": pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * size]))})
    pq.write_table(table, path, compression="zstd", row_group_size=rows)
    return path


def test_repeated_text_is_counted_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = repeated(tmp_path / "a.parquet", 5000, 10_000)
    assert path.stat().st_size < 10_000
    monkeypatch.setenv(budget.VARIABLE, "0.01")
    with pytest.raises(ValueError, match=f"a.parquet, row group 0: .*{TOO_MUCH}"):
        TextReader(path)
    monkeypatch.setenv(budget.VARIABLE, "1")
    assert len(TextReader(path)) == 5000


@pytest.mark.parametrize("rows", [0, 1, 3, 1000])
def test_row_groups_read_with_a_limit_hold_the_same(tmp_path: Path, rows: int) -> None:
    table = pa.table({"text": [f"text {n % 7}" for n in range(rows)], "n": list(range(rows)),
                      "list": [[{"a": "b"}] * (n % 3) for n in range(rows)]},
                     schema=pa.schema([("text", pa.string()), ("n", pa.int64()),
                                       ("list", pa.list_(pa.struct([("a", pa.string())])))]))
    pq.write_table(table, tmp_path / "a.parquet")
    with pq.ParquetFile(tmp_path / "a.parquet") as file:
        groups = range(file.metadata.num_row_groups)
        assert [read_group(file, number) for number in groups] == [table] * len(groups) and (not rows or len(groups) == 1)
        if groups:
            assert read_group(file, 0, ["n"]).column_names == ["n"]


def test_a_list_that_repeats_one_number_is_refused_before_it_is_read(tmp_path: Path, small_limit: None, refused: Any) -> None:
    values = pa.array(np.zeros(5_000_000, np.float32))
    column = pa.ListArray.from_arrays([0, 5_000_000], values)
    table = pa.table({"continuous_observations": column, "continuous_actions": column, "rewards": column})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    said = refused("import", "jat", tmp_path / "a.parquet", "--out", tmp_path)
    assert "row group 0 would take" in said and "CALICO_READ_LIMIT_GB" in said


# ---- HDF5

def d4rl(path: Path, **changes: Any) -> Path:
    arrays = {"observations": np.zeros((6, 4), np.float32), "actions": np.zeros((6, 2), np.float32), "rewards": np.ones(6),
              "terminals": np.arange(6) == 5, "timeouts": np.zeros(6, bool)} | changes
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            if callable(values):
                values(file, name)
            else:
                file[name] = values
    return path


def external_storage(file: Any, name: str) -> None:
    file.create_dataset(name, (6, 4), "u1", external=[("/etc/hostname", 0, 24)])


def external_link(file: Any, name: str) -> None:
    file[name] = h5py.ExternalLink("/etc/other.h5", "/secret")


def virtual(file: Any, name: str) -> None:
    layout = h5py.VirtualLayout((6, 4), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (6, 4))
    file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("reach", [external_storage, external_link, virtual])
@pytest.mark.parametrize("name", ["observations", "unused"])
def test_hdf5_does_not_reach_other_files(tmp_path: Path, refused: Any, reach: Callable[..., None], name: str) -> None:
    path = d4rl(tmp_path / "a.hdf5", **{name: reach})
    said = refused("import", "d4rl", path, "--out", tmp_path / "out")
    assert f"/{name}" in said and "another file" in said and not (tmp_path / "out").exists()


@pytest.mark.parametrize("reach", [external_storage, external_link, virtual])
def test_minari_does_not_reach_other_files(tmp_path: Path, refused: Any, reach: Callable[..., None]) -> None:
    pytest.importorskip("minari")
    data = tmp_path / "set" / "data"
    data.mkdir(parents=True)
    (data / "metadata.json").write_text(json.dumps({"observation_space": "{}", "action_space": "{}", "total_episodes": 1}))
    with h5py.File(data / "main_data.hdf5", "w") as file:
        reach(file.create_group("episode_0"), "observations")
    assert "another file" in refused("import", "minari", tmp_path / "set", "--out", tmp_path / "out")


def test_rows_that_are_only_claimed_take_no_memory(tmp_path: Path, refused: Any) -> None:
    def claimed(file: Any, name: str) -> None:
        shape = (3_000_000_000, 4)[:2 if name in ("observations", "actions") else 1]
        file.create_dataset(name, shape, "f4", chunks=(1024, 4)[:len(shape)])

    path = d4rl(tmp_path / "a.hdf5", **dict.fromkeys(("observations", "actions", "rewards", "terminals", "timeouts"), claimed))
    assert path.stat().st_size < 10_000
    assert "would take 12.0 GB of memory" in refused("import", "d4rl", path, "--out", tmp_path / "out")


@pytest.mark.parametrize("marks, says", [
    (np.array([0, 0, np.nan, 0, 0, 1]), "holds nan; it marks ends"), (np.array([b"no"] * 6), "has dtype |S2; it marks ends"),
    (np.array([0, 2, 0, 0, 0, 1]), "holds 2; it marks ends")])
def test_ends_of_episodes_are_marked_by_true_and_false(tmp_path: Path, refused: Any, marks: np.ndarray, says: str) -> None:
    assert says in refused("import", "d4rl", d4rl(tmp_path / "a.hdf5", terminals=marks), "--out", tmp_path / "out")


# ---- videos, models

def test_a_manifest_names_videos_inside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out.mp4").touch()
    (tmp_path / "in" / "link.mp4").symlink_to(tmp_path / "out.mp4")
    for name in ("../out.mp4", str(tmp_path / "out.mp4"), "link.mp4"):
        with pytest.raises(ValueError, match="lies outside of"):
            inside(tmp_path / "in", name)
    assert inside(tmp_path / "in", "a/b.mp4") == tmp_path / "in" / "a" / "b.mp4"


def test_a_video_that_ends_early_or_is_too_large_is_said(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    from calico.datasets.samples import video
    from calico.scripts.common.film import encode_mp4

    path = tmp_path / "a.mkv"
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(np.random.default_rng(number).integers(256, size=(64, 64, 3), dtype=np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    form = video.Format((16, 16), 10.0, 10)
    assert not [note for note in video.read_video(path, form).notes if "cut short" in note]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert [note for note in video.read_video(path, form).notes if "its header says 6.0 s: was it cut short?" in note]
    encode_mp4([np.zeros((64, 64, 3), np.uint8)] * 3, tmp_path / "b.mp4", 5)
    with pytest.MonkeyPatch.context() as monkey:
        monkey.setattr(video, "MAX_PIXELS", 1000)
        with pytest.raises(ValueError, match="its pictures have 64 x 64 pixels, the limit is 1000"):
            video.read_video(tmp_path / "b.mp4", form)


def test_a_model_is_as_deep_and_as_wide_as_its_file() -> None:
    import torch

    with pytest.raises(ValueError, match="it asks for depth=200000, and there are 30 tensors"):
        check_layers({"backbone": {"kind": "decoder", "depth": 200_000}}, 30)
    check_layers({"backbone": {"depth": 8, "width": 10**6}, "more": [{"layers": 3}]}, 30)
    with torch.device("meta"):
        model = torch.nn.Linear(10**6, 10**6)
    with pytest.raises(ValueError, match=r"tensor bias has the shape \(3,\), the model's is \(1000000,\)"):
        check_shapes(model, {"weight": torch.zeros(3, 3), "bias": torch.zeros(3)})


def test_hostile_files_end_within_a_gigabyte(tmp_path: Path) -> None:
    """For real: a process that may take one gigabyte more than it has at its start."""
    hostile = [npz(tmp_path / "a.npz", (1 << 30,)), repeated(tmp_path / "text.parquet", 100_000, 30_000),
               tmp_path / "deep.json", tmp_path / "wide.json"]
    hostile[2].write_text("[" * 100_000)
    hostile[3].write_text("[" + "{}," * 10_000_000 + "{}]")
    script = ("import resource, sys; from calico.scripts.main import main; from calico.datasets.open_data import open_data\n"
              "import calico.datasets.samples.labelled as labelled; from pathlib import Path\n"
              "for path in map(Path, sys.argv[1:]):\n"
              "    try: labelled.load_arrays(path) if path.suffix == '.npz' else open_data(path); print('read')\n"
              "    except ValueError as error: print('refused')\n"
              "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)")
    done = subprocess.run([sys.executable, "-c", script, *map(str, hostile)], capture_output=True, text=True, timeout=300,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
    *answers, most = done.stdout.split()
    assert answers == ["refused"] * 4, (answers, done.stderr[-2000:])
    assert int(most) < 2_500_000, f"{most} kB"
    assert struct.calcsize("P") == 8
