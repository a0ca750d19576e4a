"""Optical flow: files of it are read as they were written."""

import io
import json
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from calico.datasets.images import encode_file
from calico.datasets.samples.flow import FlowPairs, decode_flow, flow_picture, read_flow, write_flo

FLOW = np.random.default_rng(0).normal(0, 9, (5, 7, 2)).astype(np.float32)


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_flo_files_come_back_and_begin_with_the_magic(tmp_path: Path) -> None:
    write_flo(tmp_path / "a.flo", FLOW)
    assert (tmp_path / "a.flo").read_bytes()[:12] == b"PIEH" + bytes([7, 0, 0, 0, 5, 0, 0, 0])
    np.testing.assert_array_equal(read_flow(tmp_path / "a.flo"), FLOW)


def test_unknown_flow_is_nan() -> None:
    unknown = FLOW.copy()
    unknown[2, 3] = 1.666666752e9      # Middlebury's own
    known = np.ones((5, 7), bool)
    known[0, 1] = False
    found = decode_flow(npz(flow=unknown.astype(np.float64), valid=known))
    assert np.isnan(found[2, 3]).all() and np.isnan(found[0, 1]).all() and np.isfinite(found).sum() == 2 * (35 - 2)
    np.testing.assert_array_equal(decode_flow(npz(flow=FLOW)), FLOW)


def test_kittis_png_has_sixteen_bits() -> None:
    av = pytest.importorskip("av")
    written = np.zeros((4, 6, 3), np.uint16)
    written[..., 0], written[..., 1] = (1 << 15) + 64 * 3 + 1, (1 << 15) - 64 * 20
    written[1:, :, 2] = 1
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 6, 4, "rgb48be", Fraction(1)
    frame = av.VideoFrame.from_ndarray(written, format="rgb48be")
    data = b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])
    found = decode_flow(data)
    assert np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[1:], np.broadcast_to(np.array([3 + 1 / 64, -20], np.float32), (3, 6, 2)))


@pytest.mark.parametrize("data, message", [
    (b"hello", "not a file of flow"),
    (b"PIEH" + bytes([7, 0, 0, 0, 5, 0, 0, 0]) + bytes(9), "cut short: 7 x 5 pixels of flow take 292 bytes, it has 21"),
    (b"PIEH" + bytes([7, 0, 0, 0, 5, 0, 0, 255]), "sides from 1 to"),
    (npz(speed=FLOW), "no .npz file with an array `flow`"),
    (npz(flow=FLOW[..., 0]), r"flow of shape \(5, 7\)"),
    (npz(flow=FLOW)[:90], "no .npz file"),
    (encode_file(np.zeros((4, 4, 3), np.uint8)), "16 bits each were expected"),
])
def test_what_is_no_flow_is_named(data: bytes, message: str) -> None:
    if data.startswith(b"\x89PNG"):
        pytest.importorskip("av")
    with pytest.raises(ValueError, match=message):
        decode_flow(data)


def test_colours_turn_with_the_direction_and_pale_with_the_length() -> None:
    flow = np.array([[[3, 0], [0, 3], [-3, 0], [0, -3], [0, 0], [np.nan, 0], [6, 0]]], np.float32)
    right, down, left, up, still, unknown, far = flow_picture(flow, largest=3)[0].astype(int)
    assert right[0] == 255 and right[2] < 30          # red: where Middlebury's wheel begins
    assert left[1] > 200 and left[2] > 200 and left[0] < 30
    assert down[0] > 200 and down[1] > 200 and up[2] > 200
    assert still.tolist() == [255, 255, 255] and unknown.tolist() == [0, 0, 0]
    assert (abs(far - 0.75 * right) <= 1).all()


# ---- manifests

def write_pairs(folder: Path, as_zip: bool, second: tuple[int, int] = (5, 7)) -> Path:
    files = {"a.png": encode_file(np.zeros((5, 7, 3), np.uint8)), "b.png": encode_file(np.ones((*second, 3), np.uint8)),
             "f.npz": npz(flow=FLOW)}
    manifest = folder / "pairs.jsonl"
    manifest.write_text(json.dumps({"img0": "a.png", "img1": "b.png", "flow": "f.npz", "id": "one"}) + "\n\n")
    if as_zip:
        with zipfile.ZipFile(folder / "pairs.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        for name, data in files.items():
            (folder / name).write_bytes(data)
    return manifest


@pytest.mark.parametrize("as_zip", [False, True])
def test_pairs_lie_beside_their_manifest_or_in_its_zip(tmp_path: Path, as_zip: bool) -> None:
    (pair,) = FlowPairs(write_pairs(tmp_path, as_zip))
    assert pair.name == "one" and pair.first.shape == (5, 7, 3) and pair.second.max() == 1
    np.testing.assert_array_equal(pair.flow, FLOW)


def test_pairs_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different sizes: 7x5, 6x5, 7x5"):
        list(FlowPairs(write_pairs(tmp_path, False, second=(5, 6))))
    (tmp_path / "bad.jsonl").write_text('{"img0": "a.png", "img1": "b.png"}\n')
    with pytest.raises(ValueError, match="line 1: flow missing"):
        FlowPairs(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_bytes('\ufeff{"img0": null, "img1": 3, "flow": "a\u2028b"}'.encode())
    with pytest.raises(ValueError, match="line 1: img0, img1 missing"):
        FlowPairs(tmp_path / "bad.jsonl")
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(ValueError, match="has no lines"):
        FlowPairs(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="cannot be read"):
        FlowPairs(tmp_path / "absent.jsonl")


@pytest.mark.parametrize("place, value", [(4, 160), (8, 99)])
def test_an_archive_of_another_version_or_compression_is_refused(place: int, value: int) -> None:
    """zipfile raises NotImplementedError there. The fields stand in the local header and, two bytes later, in the directory."""
    out = io.BytesIO()
    np.savez(out, flow=np.zeros((2, 3, 2), np.float32))
    data = bytearray(out.getvalue())
    data[place] = data[data.index(b"PK\x01\x02") + 2 + place] = value
    with pytest.raises(ValueError, match="no .npz file with an array `flow`"):
        decode_flow(bytes(data))


@pytest.mark.parametrize("order", ["<f4", ">f4"])
def test_flow_comes_from_pfm(order: str) -> None:
    """FlyingThings3D's files: the bottom row first, a third channel unused, a scale whose sign tells the order of bytes."""
    flow = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    stored = np.dstack([flow, np.zeros((3, 5))])[::-1].astype(order)
    data = f"PF\n5 3\n{-1.0 if order == '<f4' else 1.0}\n".encode() + stored.tobytes()
    np.testing.assert_array_equal(decode_flow(data), flow)
    with pytest.raises(ValueError, match="cut short: 5 x 3 pixels take"):
        decode_flow(data[:-1])
    with pytest.raises(ValueError, match="a .pfm file of 99999 x 99999 pixels; sides from 1 to"):
        decode_flow(b"PF\n99999 99999\n-1\n")
