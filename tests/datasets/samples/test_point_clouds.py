"""Point clouds and meshes: read with their normals, and what is none is named."""

import io
from pathlib import Path

import numpy as np
import pytest

from calico.datasets.samples.point_clouds import SAMPLED, CloudStore, decode_cloud

CUBE = b"""OFF
8 6 0
-1 -1 -1
1 -1 -1
1 1 -1
-1 1 -1
-1 -1 1
1 -1 1
1 1 1
-1 1 1
4 0 3 2 1
4 4 5 6 7
4 0 1 5 4
4 2 3 7 6
4 1 2 6 5
4 0 4 7 3
"""
VERTICES = b"""ply
format ascii 1.0
element vertex 3
property float x
property float y
property float z
end_header
0 0 0
1 0 0
0 1 0
"""


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def test_an_array_comes_back() -> None:
    cloud = np.random.default_rng(0).normal(size=(10, 4))
    assert np.array_equal(decode_cloud(npy(cloud), ".npy"), cloud.astype(np.float32))


@pytest.mark.parametrize("wrong, message", [
    (npy(np.zeros((3, 2))), "got float64 \\(3, 2\\)"),
    (npy(np.array([[0, 0, np.nan]])), "1 of 1 points are not finite"),
    (npy(np.zeros((0, 3))), "got float64 \\(0, 3\\)"),
    (npy(np.array(["a"])), "got <U1"),
    (b"junk", "not a readable .npy"),
])
def test_what_is_no_cloud_is_named(wrong: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_cloud(wrong, ".npy")


def test_another_kind_of_file_is_named() -> None:
    with pytest.raises(ValueError, match="a file .txt is no point cloud; .npy, .xyz"):
        decode_cloud(b"", ".txt")


def test_a_mesh_is_sampled_evenly_with_its_normals() -> None:
    pytest.importorskip("trimesh")
    cloud = decode_cloud(CUBE, ".off")
    assert cloud.shape == (SAMPLED, 6) and cloud.dtype == np.float32
    np.testing.assert_allclose((cloud[:, :3] * cloud[:, 3:]).sum(axis=1), 1, atol=1e-6)      # on the face that it points from
    assert all(SAMPLED / 6 * 0.7 < n < SAMPLED / 6 * 1.3 for n in np.unique(cloud[:, 3:], axis=0, return_counts=True)[1])
    assert np.array_equal(cloud, decode_cloud(CUBE, ".off"))
    assert decode_cloud(VERTICES, ".ply").tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("suffix", [".off", ".ply", ".stl", ".obj"])
@pytest.mark.parametrize("data", [b"", b"OFF\n3 1", VERTICES[:80]])
def test_a_broken_mesh_is_named(suffix: str, data: bytes) -> None:
    pytest.importorskip("trimesh")
    with pytest.raises(ValueError, match=f"not a readable {suffix} file"):
        decode_cloud(data, suffix)


def test_a_store_reads_by_the_ending(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.NPY").write_bytes(npy(np.ones((5, 3))))
    assert CloudStore(tmp_path)["a/1.NPY"].shape == (5, 3)


POINTS = np.random.default_rng(3).normal(size=(12, 3)).round(4)


def table(between: str = " ", head: str = "", points: np.ndarray = POINTS) -> str:
    return head + "\n".join(between.join(f"{number:.4f}" for number in point) for point in points)


@pytest.mark.parametrize("content", [
    table(), table("\t"), table(","), table(", "), table(";"), table(head="x y z\n"), table(",", 'X,"Y",z\n'),
    table(head="\ufeff"), table(head="//X Y Z\r\n"), table(head="12\n"), table().replace(".", ","),
    table(";").replace(".", ","),
])
def test_tables_of_points_come_in_the_ways_that_programs_write_them(content: str) -> None:
    """Names above the numbers were refused; of numbers with a comma for a point each became two."""
    np.testing.assert_allclose(decode_cloud(content.encode(), ".xyz"), POINTS, atol=1e-6)


@pytest.mark.parametrize(("content", "message"), [
    ("2\nwater\nO 0 0 0\nH 0 1 0", "its rows have 1 and 4 of them"), ("1 2 3\n1 2", "its rows have 2 and 3 of them"),
    ("a b c\n1 2 3", "could not convert string to float: b'a'"),
])
def test_other_tables_are_named(content: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"not a readable table of numbers.*{message}"):
        decode_cloud(content.encode(), ".xyz")


def test_a_ply_of_points_keeps_its_normals() -> None:
    pytest.importorskip("trimesh", reason="needs the extra points")
    properties = "".join(f"property float {name}\n" for name in ("x", "y", "z", "nx", "ny", "nz"))
    head = f"ply\nformat ascii 1.0\nelement vertex 12\n{properties}"
    both = np.concatenate([POINTS, -POINTS], axis=1)
    np.testing.assert_allclose(decode_cloud(f"{head}end_header\n{table(points=both)}\n".encode(), ".ply"), both, atol=1e-6)


def test_a_small_cloud_with_numbers_before_points_is_turned() -> None:
    """12 points as (3, 12) were 3 points of 12 numbers."""
    out = io.BytesIO()
    np.save(out, POINTS.T)
    np.testing.assert_allclose(decode_cloud(out.getvalue(), ".npy"), POINTS, atol=1e-6)
