"""Readers of samples and importers of episodes meet mutated valid files: the right kind of value, or one line of ValueError.

Those of documents are in test_fuzz.py. HDF5, FFmpeg and trimesh are other people's parsers: here, too, a crash is a failure.
"""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calico.datasets.formats.importing import Foreign
from calico.datasets.formats.jat import read_jat
from calico.datasets.images import ImageStore
from calico.datasets.samples.flow import FlowPairs, decode_flow, write_flo
from calico.datasets.samples.labelled import Labelled, read_clouds, read_pictures, read_sounds, read_texts
from calico.datasets.samples.unlabelled import Unlabelled, read_unlabelled
from calico.datasets.samples.video import Format, read_videos
from calico.tokenizers.episode import Episode

from .test_fuzz import NOISE, PICTURES, VALUES, array, mutated, one_line, sound

RNG = np.random.default_rng(1)
STEPS = 12
OFF = b"OFF\n4 4 6\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"
OBJ = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
PLY = (b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nelement face 1\n"
       b"property list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
STL = b"solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendloop\nendfacet\nendsolid a\n"
NAMES = {"file", "image", "audio", "file_name", "path", "label", "img0", "img1", "flow", "id", "sound", "text"}


def arrays(**values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, **values)      # type: ignore[arg-type]
    return out.getvalue()


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return out.getvalue()


def flow_file(folder: Path) -> bytes:
    write_flo(folder / "valid.flo", RNG.normal(size=(12, 16, 2)).astype(np.float32))
    return (folder / "valid.flo").read_bytes()


def animation() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    frames = [Image.fromarray(np.roll(NOISE, i, axis=0)) for i in range(4)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return out.getvalue()


def video() -> bytes:
    av = pytest.importorskip("av")
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for i in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((16, 16, 3), i * 40, np.uint8))))
        container.mux(stream.encode(None))
    return out.getvalue()


def d4rl(path: Path) -> bytes:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = RNG.normal(size=(STEPS, 3)), RNG.uniform(-1, 1, (STEPS, 2))
        file["rewards"], file["timeouts"] = np.ones(STEPS), np.arange(STEPS) % 5 == 4
        file["terminals"] = np.arange(STEPS) == 7
    return path.read_bytes()


def minari(folder: Path) -> dict[str, bytes]:
    """The files of a data set, by their names in it."""
    pytest.importorskip("minari")
    from calico.datasets.formats.minari import write_minari

    from .formats.test_minari import make_episodes, make_task

    made = write_minari(folder, make_task("numbers"), make_episodes("numbers"))
    return {path.relative_to(made).as_posix(): path.read_bytes() for path in sorted(made.rglob("*")) if path.is_file()}


def jat() -> bytes:
    out = io.BytesIO()
    rows = [{"continuous_observations": RNG.normal(size=(n, 3)).tolist(), "text_observations": ["go"] * n,
             "image_observations": [{"bytes": PICTURES[0], "path": None}] * n,
             "discrete_actions": [1] * n, "rewards": [0.5] * n} for n in (3, 1)]
    pq.write_table(pa.Table.from_pylist(rows), out, write_page_checksum=True)
    return out.getvalue()


@st.composite
def manifests(draw: st.DrawFn, records: list[dict[str, Any]]) -> bytes:
    """A manifest with values replaced, left out or added; perhaps bytes changed, too."""
    changed = [dict(record) for record in records]
    for _ in range(draw(st.integers(0, 3))):
        record = draw(st.sampled_from(changed))
        key = draw(st.sampled_from(sorted(NAMES)))
        if draw(st.booleans()):
            record[key] = draw(VALUES | st.sampled_from(["../a.png", "/etc/hostname", "a\0b", "a/b", ".", "", "x" * 300]))
        else:
            record.pop(key, None)
    data = b"\n".join(json.dumps(record).encode() for record in changed)
    return draw(mutated(data)) if draw(st.booleans()) else data


def labelled(found: Any) -> None:
    """Every sample of what was read can be taken."""
    found = found[0] if isinstance(found, tuple) else found
    assert found is None or isinstance(found, Labelled | Unlabelled)
    if isinstance(found, Labelled):
        assert len(found.labels) == len(found.samples) == len(found.keys) and found.labels.max() < len(found.classes)
    if found is not None:
        assert all(isinstance(found.samples[i], str | np.ndarray) for i in range(len(found.samples)))


def imported(found: Foreign | None) -> None:
    """Every episode that can be read is one."""
    readers = [] if found is None else one_line(lambda: list(found.readers)) or []
    for read in readers:
        episode = one_line(read)
        assert episode is None or isinstance(episode, Episode)


def unlabelled(path: Path, kind: type[ImageStore]) -> None:
    labelled(one_line(lambda: read_unlabelled([path], kind, lambda sample: None, most_skipped=5)))


def fuzz_samples(examples: int, folder: Path, subject: str = "") -> None:
    """`examples` mutations of each kind of file, of those whose name begins with `subject`."""
    quiet = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    for name, data in (("a.png", PICTURES[0]), ("b.png", PICTURES[1]), ("a.wav", sound()), ("a.gif", animation()),
                       ("a.flo", flow_file(folder))):
        (folder / name).write_bytes(data)
    form = Format((16, 16), 5.0, 400)

    def at(name: str, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
        def check(data: bytes) -> None:
            (folder / name).write_bytes(data)
            read(folder / name)
        return check

    def minari_at(case: tuple[str, bytes]) -> None:
        from calico.datasets.formats.minari import read_minari

        for name, data in (valid | dict([case])).items():
            (folder / "minari" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "minari" / name).write_bytes(data)
        imported(one_line(lambda: read_minari(folder / "minari")))

    def d4rl_at(path: Path) -> None:
        from calico.datasets.formats.d4rl import read_d4rl

        imported(one_line(lambda: read_d4rl(path)))

    def pictures(path: Path) -> None:
        labelled(one_line(lambda: read_pictures(path, 32)))

    def flows(path: Path) -> None:
        pairs = one_line(lambda: FlowPairs(path))
        if pairs is not None:
            one_line(lambda: list(pairs))

    def flow(data: bytes) -> None:
        found = one_line(lambda: decode_flow(data))
        assert found is None or (found.dtype == np.float32 and found.shape[2] == 2)

    def videos(path: Path) -> None:
        for made in one_line(lambda: read_videos(path, form)) or []:
            assert made.frames.shape[1:] == (16, 16, 3) and len(made.sound) == len(made.frames) * 400

    valid = minari(folder / "made")
    text_rows: list[dict[str, Any]] = [{"text": "a", "label": "x"}, {"text": "b", "label": 2}]
    picture_rows: list[dict[str, Any]] = [{"file": "a.png", "label": "x"}, {"image": "b.png", "label": "y"}]
    classes = archive({"x/a.png": PICTURES[0], "y/b.png": PICTURES[1]})
    points = array(RNG.normal(size=(40, 3)).astype(np.float32))
    clouds = archive({"x/a.npy": points, "y/a.off": OFF, "y/a.ply": PLY, "y/a.stl": STL, "x/a.obj": OBJ,
                      "x/b.xyz": b"1 2 3\n4 5 6"})
    flow_npz = arrays(flow=RNG.normal(size=(6, 5, 2)), valid=np.ones((6, 5), bool))
    subjects: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], Any]]] = {
        "labelled texts": (manifests(text_rows), at("t.jsonl", lambda path: labelled(one_line(lambda: read_texts(path))))),
        "labelled pictures": (manifests(picture_rows), at("p.jsonl", pictures)),
        "labelled zip": (mutated(classes), at("c.zip", pictures)),
        "labelled arrays": (mutated(arrays(images=NOISE[None].repeat(2, 0), labels=np.arange(2), classes=np.array(["a", "b"]))),
                            at("d.npz", pictures)),
        "labelled sounds": (manifests([{"file": "a.wav", "label": "x"}, {"audio": "a.wav", "label": 1}]),
                            at("s.jsonl", lambda path: labelled(one_line(lambda: read_sounds(path))))),
        "labelled clouds": (mutated(arrays(points=RNG.normal(size=(3, 9, 3)), labels=np.array(["a", "b", "b"]))),
                            at("e.npz", lambda path: labelled(one_line(lambda: read_clouds(path))))),
        "labelled meshes": (mutated(clouds), at("m.zip", lambda path: labelled(one_line(lambda: read_clouds(path))))),
        "unlabelled manifest": (manifests(picture_rows), at("u.jsonl", lambda path: unlabelled(path, ImageStore))),
        "unlabelled zip": (mutated(classes), at("v.zip", lambda path: unlabelled(path, ImageStore))),
        "unlabelled arrays": (mutated(arrays(images=NOISE[None].repeat(2, 0))),
                              at("w.npz", lambda path: unlabelled(path, ImageStore))),
        "flow files": (st.sampled_from([(folder / "a.flo").read_bytes(), flow_npz, PICTURES[0]]).flatmap(mutated), flow),
        "flow manifest": (manifests([{"img0": "a.png", "img1": "b.png", "flow": "a.flo"}]), at("f.jsonl", flows)),
        "video manifest": (manifests([{"file": "a.gif", "label": "x", "sound": "a.wav"}, {"file": "a.gif"}]),
                           at("v.jsonl", videos)),
        "video files": (st.sampled_from([animation(), video()]).flatmap(mutated),
                        at("videos/a.mkv", lambda path: videos(path.parent))),
        "import jat": (mutated(jat()), at("j.parquet", lambda path: imported(one_line(lambda: read_jat(path))))),
        "import d4rl": (mutated(d4rl(folder / "valid.hdf5")), at("k.hdf5", d4rl_at)),
        "import minari": (st.sampled_from(sorted(valid)).flatmap(lambda name: st.tuples(st.just(name), mutated(valid[name]))),
                          minari_at),
    }
    (folder / "videos").mkdir(exist_ok=True)
    for name, (strategy, check) in subjects.items():
        if name.startswith(subject):
            quiet(given(strategy)(check))()


def test_mutated_samples_are_read_or_refused(tmp_path: Path) -> None:
    pytest.importorskip("av")
    fuzz_samples(25, tmp_path)


@pytest.mark.slow
def test_many_mutated_samples_are_read_or_refused(tmp_path: Path) -> None:
    pytest.importorskip("av")
    fuzz_samples(5000, tmp_path)


def test_the_valid_files_are_read(tmp_path: Path) -> None:
    """So that their mutations meet more than the first check."""
    pytest.importorskip("av")
    read = []
    for name, data in minari(tmp_path / "made").items():
        (tmp_path / "minari" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "minari" / name).write_bytes(data)
    from calico.datasets.formats.d4rl import read_d4rl
    from calico.datasets.formats.minari import read_minari

    d4rl(tmp_path / "a.hdf5")
    (tmp_path / "a.parquet").write_bytes(jat())
    for found in (read_minari(tmp_path / "minari"), read_d4rl(tmp_path / "a.hdf5"), read_jat(tmp_path / "a.parquet")):
        read.append(len(list(found.episodes)))
    assert read == [3, 4, 2]
    (tmp_path / "clouds.zip").write_bytes(archive({"x/a.off": OFF, "x/a.ply": PLY, "y/a.stl": STL, "y/a.obj": OBJ}))
    assert len(read_clouds(tmp_path / "clouds.zip")) == 4
    (tmp_path / "a.mkv").write_bytes(video())
    (made,) = read_videos(tmp_path, Format((16, 16), 5.0, 400))
    assert len(made.frames) == 3
